"""The servers under a benchmark: PostgreSQL with its durable defaults, Valkey, and the sandbox in its own process."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.dev import sandbox
from app.dev.localstack.machine import StackError
from app.dev.localstack.processes import JsonClient, ServerProcess, free_port
from app.dev.localstack.stores import PostgresServer, ValkeyServer

TRUNK_LIMIT = 10_000_000
"""Trunks that the sandbox allows: the account's cap of 100 is not what is measured."""

START_S = 90.0
"""Seconds until a process is given up: 2 as a rule, several times that where others use the cores."""

CONTROL_S = 120.0
"""Seconds that a control call to the sandbox may take: the request log of a long run is long."""

NUMBERS_PER_CALL = 2_000
"""Numbers put into the sandbox by one control call: well under its limit for a body."""

TEMPLATE = "template_migrated"
"""The migrated database that every installation's own is a copy of."""


class BenchStack:
    """The servers that all installations of a run share."""

    def __init__(self, folder: Path, *, is_durable: bool) -> None:
        self.folder = folder
        self.postgres = PostgresServer(folder, throwaway=not is_durable)
        self.valkey = ValkeyServer(folder)
        self._port = free_port()
        self.sandbox = ServerProcess("the sandbox", folder / "sandbox.pid", folder / "sandbox.log")
        self.sandbox_url = f"http://127.0.0.1:{self._port}"
        self._control = JsonClient(self.sandbox_url, timeout_s=CONTROL_S)
        self._installations = 0

    def start(self) -> None:
        """Start the servers and make the migrated template; return when all answer."""
        self.postgres.start()
        self.valkey.start()
        self.sandbox.start([sys.executable, "-m", "app.dev.sandbox", "--port", str(self._port)], os.environ)
        self.sandbox.wait_until(lambda: self._control.answers("/sandbox/health"), START_S)
        self.order("PUT", "/sandbox/switches", {"trunkLimit": TRUNK_LIMIT})
        self.postgres.create_database(TEMPLATE)
        environ = {**os.environ, **self.settings(TEMPLATE, 0, "template")}
        migration = [sys.executable, "-m", "alembic", "upgrade", "head"]
        done = subprocess.run(migration, env=environ, capture_output=True, text=True, check=False)  # noqa: S603 - ours
        if done.returncode:
            raise StackError(f"the schema could not be made:\n{done.stderr}")

    def stop(self) -> None:
        """End everything."""
        self.sandbox.kill()
        self.valkey.stop()
        self.postgres.stop()

    def new_database(self, name: str) -> int:
        """Make a migrated database; return the number of the Valkey database that goes with it."""
        self.postgres.create_database(name, TEMPLATE)
        self._installations += 1
        # Valkey has 16; a later installation may have an earlier one's, which is gone by then.
        return self._installations % 16

    def settings(self, database: str, broker: int, instance: str) -> dict[str, str]:
        """Return the environment of one installation's processes."""
        return {
            "TWILIO_ACCOUNT_SID": sandbox.ACCOUNT_SID,
            "TWILIO_AUTH_TOKEN": sandbox.AUTH_TOKEN,
            "TWILIO_BASE_URL": self.sandbox_url,
            "LIVEKIT_URL": self.sandbox_url,
            "LIVEKIT_API_KEY": sandbox.LIVEKIT_API_KEY,
            "LIVEKIT_API_SECRET": sandbox.LIVEKIT_API_SECRET,
            "LIVEKIT_SIP_URI": f"sip:{sandbox.SIP_HOST};transport=tcp",
            "DATABASE_URL": self.postgres.url(database),
            "REDIS_URL": self.valkey.url.removesuffix("/0") + f"/{broker}",
            "DATA_DIR": str(self.folder),
            "INSTANCE_NAME": instance,
            "RATE_LIMIT": "off",
        }

    def order(self, method: str, path: str, body: object = None) -> Any:
        """Call the sandbox's control API."""
        status, answer = self._control.call(method, path, body)
        if status >= 300:
            raise StackError(f"{method} {path}: {status} {answer}")
        return answer

    def latency(self, twilio_ms: float, livekit_ms: float) -> None:
        """Set how long the providers take for an answer, milliseconds."""
        self.order("PUT", "/sandbox/latency", {"twilioMs": twilio_ms, "livekitMs": livekit_ms})

    def own_numbers(self, numbers: list[str]) -> None:
        """Have the Twilio account own these numbers."""
        for start in range(0, len(numbers), NUMBERS_PER_CALL):
            chunk = numbers[start : start + NUMBERS_PER_CALL]
            self.order("POST", "/sandbox/numbers", {"numbers": [{"phoneNumber": number} for number in chunk]})

    def forget_requests(self) -> None:
        """Empty the sandbox's request log and start its count of connections afresh."""
        self.order("DELETE", "/sandbox/requests")

    def requests(self) -> list[dict[str, Any]]:
        """Return what the providers were asked since `forget_requests`, oldest first."""
        return list(self.order("GET", "/sandbox/requests?since=0")["requests"])

    def connections_opened(self) -> dict[str, int]:
        """Return how many connections each provider has seen since `forget_requests`."""
        return dict(self.order("GET", "/sandbox/requests?since=0")["connectionsOpened"])


@contextlib.contextmanager
def bench_stack(*, is_durable: bool = True) -> Iterator[BenchStack]:
    """Yield started servers in a temporary folder; nothing of it is left afterwards.

    Without `is_durable` no commit waits for the disk: for a test of the benchmarks, never for a figure.
    """
    folder = Path(tempfile.mkdtemp(prefix="trunkline-bench-"))
    # PostgreSQL runs as another user where we are root.
    folder.chmod(0o755)
    stack = BenchStack(folder, is_durable=is_durable)
    try:
        stack.start()
        yield stack
    finally:
        stack.stop()
        shutil.rmtree(folder, ignore_errors=True)
