"""The throw-away stack of a soak: own stores, sandbox and processes; each can be killed and started alone."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import redis

from app.access import KeyService, Scope
from app.dev import sandbox
from app.dev.localstack.machine import StackError
from app.dev.localstack.processes import JsonClient, ServerProcess, free_port
from app.dev.localstack.stores import PostgresServer, ValkeyServer
from app.settings import Settings
from app.wiring import Wiring, build

PROVIDER_TIMEOUT_S = 1.5
"""Seconds until a provider call is given up: leases of 4.5 s, so that what a kill leaves is soon taken up."""

BUDGET_S = 90
"""Seconds of retries until an operation is rolled back: short, so that some operations come to that as well."""

TRUNK_LIMIT = 100_000
"""Trunks that the sandbox allows: the cap of 100 would turn the soak into a test of error 21244."""

START_S = 90.0
"""Seconds until a process is given up: 2 as a rule, several times that where six boot on two busy cores."""

CONTROL_S = 60.0
"""Seconds that a control call to the sandbox may take: the request log of a whole soak is long."""

WORKER = ("celery", "-A", "tasks", "worker", "-P", "threads", "--without-gossip", "--without-mingle", "-l", "WARNING")
SWEEPER = ("flask", "--app", "app", "sweep")

DATABASE = "soak"


class SoakStack:
    """What runs, by name: `web`, two workers, a worker for clean-up, two sweepers; and the servers under them."""

    def __init__(self, folder: Path) -> None:
        self.postgres = PostgresServer(folder, throwaway=True)
        self.valkey = ValkeyServer(folder)
        self._port, self._sandbox_port = free_port(), free_port()
        self._folder = folder
        self._sandbox = ServerProcess("the sandbox", folder / "sandbox.pid", folder / "sandbox.log")
        self.control = JsonClient(f"http://127.0.0.1:{self._sandbox_port}", timeout_s=CONTROL_S)
        gunicorn = ("gunicorn", "app:create_app()", "--config", "python:app.web.server", "--workers", "1")
        options = ("--bind", f"127.0.0.1:{self._port}", "--threads", "48", "--timeout", "75", "--no-control-socket")
        self._commands: dict[str, tuple[str, ...]] = {
            "web": (*gunicorn, *options),
            "worker-1": (*WORKER, "-Q", "provision,bulk", "-c", "16", "-n", "worker-1@%h"),
            "worker-2": (*WORKER, "-Q", "rollback,provision,bulk", "-c", "16", "-n", "worker-2@%h"),
            "cleanup": (*WORKER, "-Q", "ops,rollback", "-c", "8", "-n", "cleanup@%h"),
            "sweeper-1": SWEEPER,
            "sweeper-2": SWEEPER,
        }
        self.processes = {
            name: ServerProcess(name, folder / f"{name}.pid", folder / f"{name}.log") for name in self._commands
        }
        self.api_url = f"http://127.0.0.1:{self._port}"
        self.environ: dict[str, str] = {}
        self.key = ""

    def start(self) -> None:
        """Start the stores and the sandbox, migrate, then start every process; return when the API answers."""
        self.postgres.start()
        self.postgres.create_database(DATABASE)
        self.valkey.start()
        port = str(self._sandbox_port)
        self._sandbox.start([sys.executable, "-m", "app.dev.sandbox", "--port", port], os.environ)
        self._sandbox.wait_until(lambda: self.control.answers("/sandbox/health"), START_S)
        self.order("PUT", "/sandbox/switches", {"trunkLimit": TRUNK_LIMIT})
        self.environ = {**os.environ, **self._settings()}
        migration = [sys.executable, "-m", "alembic", "upgrade", "head"]
        done = subprocess.run(migration, env=self.environ, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise StackError(f"the schema could not be made:\n{done.stderr}")
        with self.wiring() as wiring:
            _, self.key = KeyService(wiring.sessions).create("soak", [Scope.ADMIN])
        for name in self.processes:
            self.launch(name)
        self.await_web()

    def launch(self, name: str) -> None:
        """Start one process, and return before it is ready."""
        self.processes[name].start([sys.executable, "-m", *self._commands[name]], self.environ)

    def await_web(self) -> None:
        """Return when the API answers."""
        client = JsonClient(self.api_url)
        self.processes["web"].wait_until(lambda: client.answers("/healthz"), START_S)

    def flush_broker(self) -> None:
        """Have the broker forget every message."""
        with redis.Redis.from_url(self.valkey.url, socket_timeout=2) as client, contextlib.suppress(redis.RedisError):
            client.flushall()

    def order(self, method: str, path: str, body: object = None) -> Any:
        """Call the sandbox's control API."""
        status, answer = self.control.call(method, path, body)
        if status >= 300:
            raise StackError(f"{method} {path}: {status} {answer}")
        return answer

    @contextlib.contextmanager
    def wiring(self) -> Iterator[Wiring]:
        """Yield the application's own services over this stack, as the command line has them."""
        names = {name.lower(): value for name, value in self._settings().items()}
        wiring = build(Settings(_env_file=None, **names))  # type: ignore[call-arg,arg-type]  # parsed by pydantic
        try:
            yield wiring
        finally:
            wiring.close()

    def stop(self) -> None:
        """End everything; by force, except the stores: a PostgreSQL that is killed leaves shared memory behind."""
        for process in (*self.processes.values(), self._sandbox):
            process.kill()
        self.valkey.stop()
        self.postgres.stop()

    def _settings(self) -> Mapping[str, str]:
        url = f"http://127.0.0.1:{self._sandbox_port}"
        return {
            "TWILIO_ACCOUNT_SID": sandbox.ACCOUNT_SID,
            "TWILIO_AUTH_TOKEN": sandbox.AUTH_TOKEN,
            "TWILIO_BASE_URL": url,
            "LIVEKIT_URL": url,
            "LIVEKIT_API_KEY": sandbox.LIVEKIT_API_KEY,
            "LIVEKIT_API_SECRET": sandbox.LIVEKIT_API_SECRET,
            "LIVEKIT_SIP_URI": f"sip:{sandbox.SIP_HOST};transport=tcp",
            "DATABASE_URL": self.postgres.url(DATABASE),
            "REDIS_URL": self.valkey.url,
            "DATA_DIR": str(self._folder),
            "INSTANCE_NAME": "soak",
            "PROVIDER_TIMEOUT_S": str(PROVIDER_TIMEOUT_S),
            "OPERATION_BUDGET_S": str(BUDGET_S),
            "ORPHAN_GRACE_S": "0",
        }


@contextlib.contextmanager
def soak_stack() -> Iterator[SoakStack]:
    """Yield a started stack in a temporary folder; nothing of it is left afterwards."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="trunkline-soak-"))
    # PostgreSQL runs as another user where we are root.
    folder.chmod(0o755)
    stack = SoakStack(folder)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()
        shutil.rmtree(folder, ignore_errors=True)
