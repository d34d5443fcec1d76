"""How long one number takes on an idle stack, beside its critical path and beside a straight script."""

import time
from collections.abc import Callable
from typing import Any

import psycopg

from app.dev.localstack.host import StackError
from tests.benchmarks.bench import LATENCIES, NO_LATENCY, Bench, Latency, median, percentile
from tests.benchmarks.critical_path import Path, path_of
from tests.benchmarks.installation import ApiClient, Installation, running
from tests.benchmarks.report import Bar, Findings, Row
from tests.benchmarks.rows import add_agents
from tests.benchmarks.straight import Saga

PROVISIONED = "PROVISIONED"

POLL_S = 0.002
"""Seconds between two reads of the agent's row, by primary key: what the benchmark itself may add."""

PATIENCE_S = 60.0
"""Seconds until a number is given up."""

IDLE_BAR_MS = 60
"""Milliseconds that a number may take where the providers take none."""


def measure(bench: Bench) -> Findings:
    """Provision numbers one at a time: ours, the script's, and a client's that waits, in turn."""
    found = Findings()
    with running(bench.stack, "one") as installation, installation.wiring() as wiring:
        saga = Saga.of(wiring)
        bench.stack.sandbox.latency(0, 0)
        Provisioner(bench, installation, 4).run()
        for latency in LATENCIES:
            bench.say("one", latency.name)
            bench.stack.sandbox.latency(latency.twilio_ms, latency.livekit_ms)
            found.rows += _side_by_side(bench, installation, saga, latency)
        bench.stack.sandbox.latency(0, 0)
    return found


class Provisioner:
    """Provisions numbers through an installation, one after the other, and times each."""

    def __init__(self, bench: Bench, installation: Installation, count: int) -> None:
        self._client, self._installation = ApiClient(installation), installation
        self.posts_ms: list[float] = []
        """How long each POST of `time_one` took to be answered."""
        with installation.connect() as connection:
            agents = add_agents(connection, count)
        self._left = list(zip(agents, bench.owned_numbers(count), strict=True))

    def time_one(self) -> float:
        """Return the milliseconds from the POST to the moment when the row says PROVISIONED."""
        agent, number = self._left.pop()
        with self._installation.connect() as connection:
            status_of(connection, agent)
            started = time.perf_counter()
            self._client.provision(agent, number)
            self.posts_ms.append((time.perf_counter() - started) * 1000)
            _await(connection, agent)
        return (time.perf_counter() - started) * 1000

    def time_waiting(self) -> float:
        """Return the milliseconds from the POST to its answer where the client sends `Prefer: wait`."""
        agent, number = self._left.pop()
        started = time.perf_counter()
        if self._client.provision(agent, number, wait_s=int(PATIENCE_S)) != 200:
            raise StackError("a number was not provisioned in time")
        return (time.perf_counter() - started) * 1000

    def run(self) -> list[float]:
        """Time all that are left."""
        return [self.time_one() for _ in range(len(self._left))]


def status_of(connection: psycopg.Connection[Any], agent: str) -> str:
    """Read the agent's status."""
    row = connection.execute("SELECT phone_provisioning_status FROM agents WHERE id = %s", [agent]).fetchone()
    return str(row[0]) if row else ""


def _await(connection: psycopg.Connection[Any], agent: str) -> None:
    deadline = time.perf_counter() + PATIENCE_S
    while (status := status_of(connection, agent)) != PROVISIONED:
        if status == "FAILED" or time.perf_counter() > deadline:
            raise StackError(f"agent {agent} is {status}")
        time.sleep(POLL_S)


def _side_by_side(bench: Bench, installation: Installation, saga: Saga, latency: Latency) -> list[Row]:
    count = bench.scale.single_numbers
    own = Provisioner(bench, installation, 2 * count)
    others = bench.owned_numbers(count)
    took: dict[str, list[float]] = {"ours": [], "script": [], "waiting": []}
    path: Path | None = None
    opened = 0
    for number in others:
        bench.stack.sandbox.forget_requests()
        took["ours"].append(own.time_one())
        opened += sum(bench.stack.sandbox.connections_opened().values())
        path = path_of(bench.stack.sandbox.requests(), 1, latency)
        took["script"].append(timed(lambda number=number: saga.provision(number)))  # type: ignore[misc]  # called at once
        took["waiting"].append(own.time_waiting())
    rows = _rows(latency, took, path.critical_ms if path else 0)
    connections = Row(f"connections opened, {count} single numbers {latency.name}", opened, "")
    return [*rows, connections]


def timed(call: Callable[[], object]) -> float:
    """Return the milliseconds that a call takes."""
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000


def _rows(latency: Latency, took: dict[str, list[float]], critical_ms: float) -> list[Row]:
    ours, script, name = median(took["ours"]), median(took["script"]), f"one number {latency.name}"
    p90 = percentile(took["ours"], 0.9)
    spread = f"p90 {p90:.0f} ms, n = {len(took['ours'])}" if p90 else ""
    waiting = Row(f"{name}: answer to Prefer: wait", median(took["waiting"]), "ms", "row", ours)
    if latency is NO_LATENCY:
        bar = Bar("<=", IDLE_BAR_MS, "figure")
        return [Row(f"{name}: to PROVISIONED", ours, "ms", "straight script", script, bar, spread), waiting]
    return [
        Row(f"{name}: to PROVISIONED", ours, "ms", "critical path", critical_ms, Bar("<=", 1.1), spread),
        Row(f"{name}: to PROVISIONED", ours, "ms", "straight script", script, Bar("<=", 1.0)),
        waiting,
    ]
