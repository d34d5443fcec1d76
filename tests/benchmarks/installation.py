"""Trunkline's own processes as the Procfile starts them, on a database and a broker of their own."""

import contextlib
import http.client
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import psycopg
import redis
from honcho.environ import parse_procfile

from app.access import KeyService, Scope
from app.dev.localstack.host import StackError
from app.dev.localstack.processes import JsonClient, ServerProcess, free_port
from app.trunks.pool import profile_hash
from app.wiring import Wiring, profile_of
from tests.benchmarks.stack import START_S, BenchStack
from tests.support.stack import services_of

ROOT = Path(__file__).resolve().parents[2]

APPLICATION = '"app:create_app()"'
BARE = '"tests.benchmarks.bare:create_app()"'
"""What gunicorn serves in place of the application, on the same command line."""

ALL = ("web", "worker", "cleanup", "sweeper")
"""The lines of the Procfile that connect a number; Flower is not needed."""

BULK = (*ALL, "bulk")
"""The same with the line for bulks."""

CALL_S = 90.0
"""Seconds for one response: above the longest `Prefer: wait`."""


class Installation:
    """One Trunkline; its processes are started, paused and ended by the name of their line in the Procfile."""

    def __init__(self, stack: BenchStack, name: str, concurrency: int | None = None, workers: int = 1) -> None:
        self.stack, self.name = stack, name
        broker = stack.new_database(name)
        self.port = free_port()
        self._settings = stack.settings(name, broker, name.replace("_", "-"))
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        self.environ = {**os.environ, **self._settings, "PORT": str(self.port), "PATH": path}
        self.lines = procfile_lines(concurrency, workers)
        self.processes: dict[str, ServerProcess] = {}
        with self.wiring() as wiring:
            _, self.key = KeyService(wiring.sessions).create("bench", [Scope.ADMIN])

    def start(self, names: Sequence[str], probe: Path | None = None) -> None:
        """Start the lines (`worker` stands for all of them) side by side; return when all are ready.

        With `probe`, the workers load the probe, which writes to that file.
        """
        wanted = [line for line in self.lines if line.partition(".")[0] in names]
        for line in wanted:
            command, environ = self.lines[line], self.environ
            if probe and line.startswith("worker"):
                command, environ = f"{command} -I tests.benchmarks.probe", {**environ, "BENCH_PROBE": str(probe)}
            self._launch(line, command, environ)
        for line in wanted:
            if line.startswith("web"):
                self._await_web(self.processes[line], self.port)
            else:
                mark = "sweeper_started" if line == "sweeper" else " ready."
                self.processes[line].wait_until(lambda line=line, mark=mark: mark in self.log(line), START_S)  # type: ignore[misc]  # bound at once

    def start_bare(self) -> int:
        """Start the bare view on the web line; return its port."""
        port = free_port()
        command = self.lines["web"].replace(APPLICATION, BARE)
        if BARE not in command:
            raise StackError(f"the Procfile's web line does not name {APPLICATION}")
        self._launch("bare", command, {**self.environ, "PORT": str(port)})
        self._await_web(self.processes["bare"], port)
        return port

    def workers(self) -> list[ServerProcess]:
        """Return the workers that provision."""
        return [process for line, process in self.processes.items() if line.startswith("worker")]

    def stop(self) -> None:
        """Kill every process, since there is nothing to lose."""
        for process in self.processes.values():
            process.kill()

    def log(self, line: str) -> str:
        """Return the log of a process."""
        return (self.stack.folder / f"{self.name}-{line}.log").read_text(encoding="utf-8", errors="replace")

    def connect(self) -> psycopg.Connection[Any]:
        """Open a connection to the database of this installation, autocommitting."""
        return psycopg.connect(self.stack.postgres.dsn(self.name), autocommit=True)

    def flush_broker(self) -> None:
        """Have the broker forget every message."""
        with redis.Redis.from_url(self._settings["REDIS_URL"]) as client:
            client.flushdb()

    @property
    def profile_hash(self) -> str:
        """What its shared trunks are found by."""
        with self.wiring() as wiring:
            return profile_hash(profile_of(wiring.settings))

    def wiring(self) -> AbstractContextManager[Wiring]:
        """Yield the application's own services over this installation, publishing nothing."""
        return services_of(self._settings)

    def _launch(self, line: str, command: str, environ: dict[str, str]) -> None:
        stem = self.stack.folder / f"{self.name}-{line}"
        process = ServerProcess(line, stem.with_suffix(".pid"), Path(f"{stem}.log"))
        process.start(["/bin/sh", "-c", f"cd '{ROOT}' && {command}"], environ)
        self.processes[line] = process

    def _await_web(self, process: ServerProcess, port: int) -> None:
        client = JsonClient(f"http://127.0.0.1:{port}")
        process.wait_until(lambda: client.answers("/healthz"), START_S)


class ApiClient:
    """One kept-alive connection to an installation's API."""

    def __init__(self, installation: Installation) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", installation.port, timeout=CALL_S)
        self._headers = {"Authorization": f"Bearer {installation.key}", "Content-Type": "application/json"}

    def get(self, path: str) -> Any:
        """Get JSON; raise where the status is not 200."""
        self._connection.request("GET", path, headers=self._headers)
        answer = self._connection.getresponse()
        body = json.loads(answer.read())
        if answer.status != HTTPStatus.OK:
            raise StackError(f"GET {path}: {answer.status} {body}")
        return body

    def post(self, path: str, body: object, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        """Post JSON; return the status and the decoded body."""
        self._connection.request("POST", path, json.dumps(body), {**self._headers, **(headers or {})})
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())

    def provision(self, agent_id: str, number: str, *, wait_s: int = 0) -> int:
        """Request a number; return the status, or raise where it is neither 200 nor 202."""
        prefer = {"Prefer": f"wait={wait_s}"} if wait_s else {}
        status, body = self.post(f"/api/agents/{agent_id}/provision-phone", {"phoneNumber": number}, prefer)
        if status not in {200, 202}:
            raise StackError(f"provision-phone: {status} {body}")
        return status


def procfile_lines(concurrency: int | None, workers: int) -> dict[str, str]:
    """Return the Procfile's lines; `worker` as often as asked for, `concurrency` shared out between them."""
    text = (ROOT / "Procfile").read_text(encoding="utf-8")
    lines = {name: line for name, line in parse_procfile(text).processes.items() if name in BULK}
    worker = lines.pop("worker")
    for place in range(workers):
        own = worker.replace("provision@", f"provision{place}@")
        if concurrency:
            own = re.sub(r"(-c|--concurrency)[ =]\d+", f"-c {concurrency // workers}", own)
        lines[f"worker.{place}"] = own
    return lines


@contextlib.contextmanager
def running(
    stack: BenchStack,
    name: str,
    lines: Sequence[str] = ALL,
    *,
    concurrency: int | None = None,
    workers: int = 1,
    probe: Path | None = None,
) -> Iterator[Installation]:
    """Yield an installation with these lines started; all of it ends with the block."""
    installation = Installation(stack, name, concurrency, workers)
    try:
        installation.start(lines, probe)
        yield installation
    finally:
        installation.stop()
