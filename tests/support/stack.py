"""Trunkline's own processes for tests: web, worker and sweeper as the Procfile starts them, to be killed at will."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import delete, update

from app.access import KeyService, Scope
from app.db.engine import Sessions, make_engine, make_sessions
from app.db.models import Agent, Trunk
from app.dev.localstack.processes import JsonClient, ServerProcess, free_port
from app.settings import Settings
from app.wiring import Wiring, build
from tests.support.forked import ForkedProcess
from tests.support.sandbox import Sandbox
from tests.support.servers import server_folder

START_S = 60.0
"""Seconds until a process is given up: 2 as a rule, several times that where two cores start four of them."""

TIMEOUT_S = 60.0
"""Seconds that anything awaited may take: recovery is promised within a minute."""

PAUSE_SHARE = 0.05
"""Share of the time waited so far until the next look: what takes long anyway is not asked for fifty times a second."""

SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 0.1
"""Bounds of that, seconds: some tests wait for what lasts a moment only."""

THREADS = 64
"""Threads of the web server and of the worker: one for each case of a matrix when the worker is killed."""

PROCESSES = ("web", "worker", "sweeper")

T = TypeVar("T")


def eventually(read: Callable[[], T], what: str | Callable[[], str], within_s: float = TIMEOUT_S) -> T:
    """Return what `read` returns as soon as it is true; fail the test with `what` when it never is."""
    began = time.monotonic()
    while not (seen := read()):
        waited_s = time.monotonic() - began
        if waited_s > within_s:
            raise AssertionError(f"not within {within_s:g} s: {what() if callable(what) else what}")
        time.sleep(min(max(waited_s * PAUSE_SHARE, SHORTEST_PAUSE_S), LONGEST_PAUSE_S))
    return seen


class Api:
    """A client of the HTTP API with a key that may write; responses are (status, body)."""

    def __init__(self, base_url: str, key: str) -> None:
        self.base_url, self.key = base_url, key
        # Above the 60 s of the longest `Prefer: wait`.
        self._client = JsonClient(base_url, {"Authorization": f"Bearer {key}"}, timeout_s=90)

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Send a request."""
        return self._client.call(method, path, body)

    def agent(self, name: str, **more: Any) -> str:
        """Create an agent; return its id."""
        status, body = self.call("POST", "/api/agents", {"name": name, **more})
        assert status == 201, body
        return str(body["id"])

    def post_number(self, agent_id: str, number: str, *, takeover: bool = False) -> tuple[int, Any]:
        """Request a number, and return the response."""
        body = {"phoneNumber": number, "takeover": takeover}
        return self.call("POST", f"/api/agents/{agent_id}/provision-phone", body)

    def provision(self, agent_id: str, number: str, *, takeover: bool = False) -> str:
        """Request a number; return the operation's id."""
        status, body = self.post_number(agent_id, number, takeover=takeover)
        assert status == 202, body
        return str(body["operationId"])

    def deprovision(self, agent_id: str, path: str | None = None) -> str:
        """Request the number's removal, an adopted path's by `keep` or `remove`; return the operation's id."""
        query = f"?path={path}" if path else ""
        status, body = self.call("DELETE", f"/api/agents/{agent_id}/deprovision-phone{query}")
        assert status == 202, body
        return str(body["operationId"])

    def retry(self, operation_id: str) -> None:
        """Retry an operation by hand."""
        status, body = self.call("POST", f"/api/operations/{operation_id}/retry")
        assert status == 202, body

    def phone(self, agent_id: str) -> dict[str, Any]:
        """Return phone-status."""
        status, body = self.call("GET", f"/api/agents/{agent_id}/phone-status")
        assert status == 200, body
        return dict(body)


@dataclass(frozen=True)
class Timings:
    """The settings that decide how long a test waits, seconds; the lease is 3 x, the quiet period 1.2 x the timeout."""

    provider_timeout: float = 1
    budget: float = 900


def web_command(port: int, threads: int) -> list[str]:
    """Return the command of a web server with one process."""
    return [
        *(sys.executable, "-m", "gunicorn", "app:create_app()", "--config", "python:app.web.server"),
        *("--bind", f"127.0.0.1:{port}", "--workers", "1", "--threads", str(threads)),
        *("--timeout", "75", "--no-control-socket"),
    ]


def worker_command(name: str, queues: str, threads: int, log_level: str = "INFO") -> list[str]:
    """Return the command of a worker for these queues, separated by commas."""
    return [
        *(sys.executable, "-m", "celery", "-A", "tasks", "worker", "-Q", queues, "-P", "threads", "-c", str(threads)),
        *("--without-gossip", "--without-mingle", "-l", log_level, "-n", f"{name}@%h"),
    ]


SWEEPER_COMMAND = [sys.executable, "-m", "flask", "--app", "app", "sweep"]


class NoPublisher:
    """Takes every message and sends none: for services in this process that must not reach a stack's workers."""

    def publish(self, _plan: object) -> bool:
        return False

    def publish_audit(self, _audit_id: object) -> bool:
        return False

    def publish_call(self, _call_id: object) -> bool:
        return False

    def publish_retirement(self, _trunk_id: object) -> bool:
        return False

    def publish_adoptions(self, _bulk_id: object) -> bool:
        return False

    def publish_webhooks(self, _endpoint_id: object) -> bool:
        return False


@contextmanager
def services_of(environ: Mapping[str, str], **parts: Any) -> Iterator[Wiring]:
    """Yield the application's services in this process, over the settings that a stack's processes have.

    They publish nothing unless `publisher=None` asks for the application's own publisher.
    """
    values: dict[str, Any] = {name.lower(): value for name, value in environ.items()}
    known = {name: value for name, value in values.items() if name in Settings.model_fields}
    wiring = build(Settings(_env_file=None, **known), **{"publisher": NoPublisher(), **parts})
    try:
        yield wiring
    finally:
        wiring.close()


class Stack:
    """Web, worker and sweeper on one database, one broker and one sandbox; each can be killed and started alone."""

    def __init__(
        self,
        folder: Path,
        database_url: str,
        redis_url: str,
        sandbox: Sandbox,
        timings: Timings,
        process: type[ServerProcess],
    ) -> None:
        self.database_url = database_url
        self._port = free_port()
        self._folder = folder
        self.environ = {
            **os.environ,
            **sandbox.settings(),
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "DATA_DIR": str(folder),
            # The 429s of some tests must not slow the others down: the rate limiter has tests of its own.
            "TWILIO_RATE": "off",
            "LIVEKIT_RATE": "off",
            "PROVIDER_TIMEOUT_S": str(timings.provider_timeout),
            "OPERATION_BUDGET_S": str(timings.budget),
        }
        self.web, self.worker, self.sweeper = (
            process(name, folder / f"{name}.pid", folder / f"{name}.log") for name in PROCESSES
        )
        self._engine = make_engine(database_url)
        self.sessions: Sessions = make_sessions(self._engine)
        _, key = KeyService(self.sessions).create("tests", [Scope.WRITE])
        self.api = Api(f"http://127.0.0.1:{self._port}", key)

    def start(self) -> None:
        """Start all three, side by side, and return when all are ready."""
        self._launch_web()
        self._launch_worker()
        self._launch_sweeper()
        self._await_web()
        self._await_line(self.worker, " ready.")
        self._await_line(self.sweeper, "sweeper_started")

    def start_web(self) -> None:
        """Start the web server and return when it answers."""
        self._launch_web()
        self._await_web()

    def start_worker(self) -> None:
        """Start a worker for every queue and return when it takes messages."""
        self._launch_worker()
        self._await_line(self.worker, " ready.")

    def start_sweeper(self) -> None:
        """Start a sweeper and return when it sweeps."""
        self._launch_sweeper()
        self._await_line(self.sweeper, "sweeper_started")

    def empty_pool(self) -> None:
        """Forget every shared trunk: the sandbox was emptied, and they are in it no more."""
        with self.sessions.begin() as session:
            session.execute(update(Agent).values(trunk_id=None))
            session.execute(delete(Trunk))

    def stop(self) -> None:
        """Kill what runs, since there is nothing to lose, and close the test's own connections."""
        for process in (self.web, self.worker, self.sweeper):
            process.kill()
        self._engine.dispose()

    def log(self, name: str) -> str:
        """Return the whole log of a process since its last start."""
        return (self._folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def log_tails(self, lines: int = 25) -> str:
        """Return the last lines of every process, for a test that failed."""
        processes = (self.web, self.worker, self.sweeper)
        return "\n".join(f"{each.name}:\n{each.log_tail(lines)}" for each in processes)

    def _launch_web(self) -> None:
        self.web.start(web_command(self._port, THREADS), self.environ)

    def _launch_worker(self) -> None:
        command = worker_command("tests", "ops,rollback,provision,bulk", THREADS)
        self.worker.start(command, self.environ)

    def _launch_sweeper(self) -> None:
        self.sweeper.start(SWEEPER_COMMAND, self.environ)

    def _await_web(self) -> None:
        client = JsonClient(self.api.base_url)
        self.web.wait_until(lambda: client.answers("/healthz"), START_S)

    def _await_line(self, process: ServerProcess, text: str) -> None:
        process.wait_until(lambda: text in self.log(process.name), START_S)


@contextmanager
def running_stack(
    database_url: str,
    redis_url: str,
    sandbox: Sandbox,
    timings: Timings | None = None,
    *,
    start: bool = True,
    process: type[ServerProcess] = ForkedProcess,
) -> Iterator[Stack]:
    """Yield a stack, with everything started unless the test wants to do that itself.

    A broker of its own for each: a worker of another stack would take its messages, and find no rows for them.
    """
    with server_folder() as folder:
        stack = Stack(folder, database_url, redis_url, sandbox, timings or Timings(), process)
        try:
            if start:
                stack.start()
            yield stack
        finally:
            stack.stop()


executed_stack = partial(running_stack, process=ServerProcess)
"""The same, executed as the Procfile's processes are: for tests of what these do at their start, or leave behind."""
