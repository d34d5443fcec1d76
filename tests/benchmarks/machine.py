"""What the figures were measured on."""

import importlib.metadata
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import psycopg

from tests.benchmarks.processes import TICKS_PER_S, cpu_s
from tests.benchmarks.stack import BenchStack

PACKAGES = ("celery", "kombu", "gunicorn", "flask", "sqlalchemy", "psycopg", "dbos")

DURABILITY = ("fsync", "synchronous_commit", "full_page_writes", "wal_sync_method")
"""PostgreSQL's settings that decide what a commit costs; all at their defaults here, so that a commit is on disk."""

COMMITS = 40
"""Commits of one row whose median is shown: every step needs two of them."""


def facts(stack: BenchStack) -> dict[str, Any]:
    """Return the machine, the versions and what a commit costs here and now."""
    with psycopg.connect(stack.postgres.dsn(), autocommit=True) as connection:
        settings = {name: _one(connection, f"SHOW {name}") for name in DURABILITY}
        version = _one(connection, "SHOW server_version")
        commit_ms = _commit_ms(connection)
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "load average": " ".join(f"{value:.1f}" for value in os.getloadavg()),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES),
        "PostgreSQL": f"{version}; " + ", ".join(f"{name}={value}" for name, value in settings.items()),
        "commit of one row": f"{commit_ms:.1f} ms (median of {COMMITS}, one connection)",
        "broker": "Valkey, append-only file, fsync every second",
        "sandbox": "one process of its own on the same cores",
    }


class Others:
    """How much of the machine others use while a run goes on: figures from a busy machine say less."""

    def __init__(self) -> None:
        self._started, self._busy, self._own = time.monotonic(), _busy_s(), cpu_s([os.getpid()])

    def cores(self) -> float:
        """Return the cores that others have kept busy since, on average; what of ours has ended counts as ours."""
        passed = time.monotonic() - self._started
        return max(0.0, (_busy_s() - self._busy - (cpu_s([os.getpid()]) - self._own)) / passed)


def _busy_s() -> float:
    """Return the CPU seconds that the whole machine has spent since its start, all but idle and waiting (proc(5))."""
    user, nice, system, _idle, _iowait, irq, softirq, *_ = (
        int(value) for value in Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0].split()[1:]
    )
    return (user + nice + system + irq + softirq) / TICKS_PER_S


def _one(connection: psycopg.Connection[Any], query: str) -> str:
    row = connection.execute(query).fetchone()
    return str(row[0]) if row else ""


def _commit_ms(connection: psycopg.Connection[Any]) -> float:
    connection.execute("CREATE TABLE IF NOT EXISTS commit_cost (n int)")
    took = []
    for n in range(COMMITS):
        started = time.perf_counter()
        connection.execute("INSERT INTO commit_cost VALUES (%s)", [n])
        took.append((time.perf_counter() - started) * 1000)
    return statistics.median(took)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
