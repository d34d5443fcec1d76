"""A whole Trunkline for one soak: servers of its own, two workers and two sweepers, so that each can be killed."""

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import redis

from app.access import KeyService, Scope
from app.dev.localstack.processes import JsonClient, ServerProcess, free_port
from app.dev.localstack.servers import PostgresServer, ValkeyServer, running_server, sandbox_settings
from app.wiring import Wiring
from tests.support.sandbox import ControlledSandbox
from tests.support.servers import migrate, server_folder
from tests.support.stack import SWEEPER_COMMAND, services_of, web_command, worker_command

PROVIDER_TIMEOUT_S = 1.5
"""Seconds until a provider call is given up: leases of 4.5 s, so that what a kill leaves is soon taken up."""

BUDGET_S = 90
"""Seconds of retries until an operation is rolled back: short, so that some operations come to that as well."""

TRUNK_LIMIT = 100_000
"""Trunks that the sandbox allows: the limit of 100 would turn the soak into a test of error 21244."""

MAX_NUMBERS = 3
"""Numbers on a shared trunk: so few that trunks fill up, are added, and run empty, all the time."""

INSTANCE = "soak"

START_S = 90.0
"""Seconds until a process is given up: 2 as a rule, several times that where six start on two busy cores."""

DATABASE = "soak"


class SoakStack:
    """What runs, by name: `web`, two workers, a worker for clean-up, two sweepers; and the servers under them."""

    def __init__(
        self,
        folder: Path,
        postgres: PostgresServer,
        valkey: ValkeyServer,
        sandbox_server: ControlledSandbox,
        process: type[ServerProcess],
    ) -> None:
        self.postgres, self.valkey, self.sandbox = postgres, valkey, sandbox_server.control
        port = free_port()
        self._commands = {
            "web": web_command(port, 48),
            "worker-1": worker_command("worker-1", "provision,bulk", 16, "WARNING"),
            "worker-2": worker_command("worker-2", "rollback,provision,bulk", 16, "WARNING"),
            "cleanup": worker_command("cleanup", "ops,rollback", 8, "WARNING"),
            "sweeper-1": SWEEPER_COMMAND,
            "sweeper-2": SWEEPER_COMMAND,
        }
        self.processes = {
            name: process(name, folder / f"{name}.pid", folder / f"{name}.log") for name in self._commands
        }
        self.api_url = f"http://127.0.0.1:{port}"
        self._settings = {
            **sandbox_settings(sandbox_server.url),
            "DATABASE_URL": postgres.url(DATABASE),
            "REDIS_URL": valkey.url,
            "DATA_DIR": str(folder),
            "INSTANCE_NAME": INSTANCE,
            "TRUNK_MAX_NUMBERS": str(MAX_NUMBERS),
            "PROVIDER_TIMEOUT_S": str(PROVIDER_TIMEOUT_S),
            "OPERATION_BUDGET_S": str(BUDGET_S),
            "ORPHAN_GRACE_S": "0",
        }
        self.key = ""

    @property
    def dsn(self) -> str:
        """The URL of the database for psycopg."""
        return self.postgres.dsn(DATABASE)

    def start(self) -> None:
        """Make the schema and a key, then start every process; return when the API answers."""
        self.sandbox.switch(trunkLimit=TRUNK_LIMIT)
        self.postgres.create_database(DATABASE)
        migrate(self.postgres.url(DATABASE))
        with self.wiring() as wiring:
            _, self.key = KeyService(wiring.sessions).create("soak", [Scope.ADMIN])
        for name in self.processes:
            self.launch(name)
        self.await_web()

    def launch(self, name: str) -> None:
        """Start one process, and return before it is ready."""
        self.processes[name].start(self._commands[name], {**os.environ, **self._settings})

    def await_web(self) -> None:
        """Return when the API answers."""
        client = JsonClient(self.api_url)
        self.processes["web"].wait_until(lambda: client.answers("/healthz"), START_S)

    def flush_broker(self) -> None:
        """Have the broker forget every message."""
        with redis.Redis.from_url(self.valkey.url, socket_timeout=2) as client, contextlib.suppress(redis.RedisError):
            client.flushall()

    def wiring(self) -> AbstractContextManager[Wiring]:
        """Yield the application's own services over this stack, as the command line has them."""
        return services_of(self._settings, publisher=None)

    def stop(self) -> None:
        """End every process by force."""
        for process in self.processes.values():
            process.kill()


@contextlib.contextmanager
def soak_stack(process: type[ServerProcess]) -> Iterator[SoakStack]:
    """Yield a started stack in a temporary folder, which is removed afterwards."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with (
        server_folder(on_disk=True) as folder,
        running_server(PostgresServer(folder, throwaway=True)) as postgres,
        running_server(ValkeyServer(folder)) as valkey,
        running_server(ControlledSandbox(folder)) as sandbox_server,
    ):
        stack = SoakStack(folder, postgres, valkey, sandbox_server, process)
        try:
            stack.start()
            yield stack
        finally:
            stack.stop()
