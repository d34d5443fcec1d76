"""The servers under a benchmark: PostgreSQL with its durable defaults, Valkey, and the sandbox in its own process."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from app.dev.localstack.servers import PostgresServer, ValkeyServer, running_server, sandbox_settings
from tests.support.sandbox import ControlledSandbox
from tests.support.servers import TEMPLATE, migrate, server_folder

TRUNK_LIMIT = 10_000_000
"""Trunks that the sandbox allows: the account's limit of 100 is not what is measured."""

START_S = 90.0
"""Seconds until a process of ours is given up: 2 as a rule, several times that where others use the cores."""

DATABASES = 16
"""Databases of one Valkey, its default."""


class BenchStack:
    """The servers that all installations of a run share."""

    def __init__(
        self, folder: Path, postgres: PostgresServer, valkey: ValkeyServer, sandbox_server: ControlledSandbox
    ) -> None:
        self.folder = folder
        self.postgres, self.valkey, self.sandbox_server = postgres, valkey, sandbox_server
        self.sandbox = sandbox_server.control
        self._installations = 0
        self.sandbox.switch(trunkLimit=TRUNK_LIMIT)
        postgres.create_database(TEMPLATE)
        migrate(postgres.url(TEMPLATE))

    def new_database(self, name: str) -> int:
        """Make a migrated database; return the number of the Valkey database that goes with it."""
        self.postgres.create_database(name, TEMPLATE)
        self._installations += 1
        # A later installation may have an earlier one's, which has ended by then.
        return self._installations % DATABASES

    def settings(self, database: str, broker: int, instance: str) -> dict[str, str]:
        """Return the environment of one installation's processes."""
        return {
            **sandbox_settings(self.sandbox_server.url),
            "DATABASE_URL": self.postgres.url(database),
            "REDIS_URL": self.valkey.url.removesuffix("/0") + f"/{broker}",
            "DATA_DIR": str(self.folder),
            "INSTANCE_NAME": instance,
            "RATE_LIMIT": "off",
        }


@contextlib.contextmanager
def bench_stack(*, is_durable: bool = True) -> Iterator[BenchStack]:
    """Yield started servers in a temporary folder, which is removed afterwards.

    Without `is_durable` no commit waits for the disk: for a test of the benchmarks, never for a figure.
    """
    with (
        server_folder(on_disk=is_durable) as folder,
        running_server(PostgresServer(folder, throwaway=not is_durable)) as postgres,
        running_server(ValkeyServer(folder)) as valkey,
        running_server(ControlledSandbox(folder)) as sandbox_server,
    ):
        yield BenchStack(folder, postgres, valkey, sandbox_server)
