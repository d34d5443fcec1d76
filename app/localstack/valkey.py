"""A Valkey of our own: append-only file, a password, a loopback port."""

from pathlib import Path

import redis

from app.localstack.binaries import find_valkey
from app.localstack.private_files import kept_password, write_private
from app.localstack.processes import ServerProcess, free_port

START_S = 60.0
"""Seconds until a start is given up: 50 ms as a rule, more where a long append-only file is read back."""

PROBE_S = 1.0
"""Seconds that one probe of a starting server may take."""

PERSISTENT = ("appendonly yes", "appendfsync everysec")
"""A killed server has lost none of 100 queued tasks with these; a power cut costs at most the last second."""


class ValkeyServer:
    """One server under `folder`; the port and the password stay through a restart."""

    def __init__(self, folder: Path, *, log_file: Path | None = None, throwaway: bool = False) -> None:
        self._folder = folder.resolve()
        self._throwaway = throwaway
        self._port = free_port()
        self._password = ""
        self._config = self._folder / "valkey.conf"
        self.process = ServerProcess("Valkey", self._folder / "valkey.pid", log_file or self._folder / "valkey.log")

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self.process.pid

    @property
    def address(self) -> str:
        """`127.0.0.1:PORT`."""
        return f"127.0.0.1:{self._port}"

    @property
    def url(self) -> str:
        """The one form that Celery, Flower and redis-py all take."""
        return f"redis://:{self._password}@{self.address}/0"

    def start(self) -> None:
        """Start the server and return when it answers; a killed one comes back with what it had."""
        data = self._folder / "valkey"
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._password = kept_password(self._folder / "valkey.password")
        self.process.end_orphan(str(self._config))
        write_private(self._config, self._settings(data))
        self.process.start([find_valkey(), self._config], {"PATH": "/usr/bin:/bin"})
        self.process.wait_until(self._answers, START_S)

    def stop(self) -> None:
        """Shut down cleanly."""
        self.process.stop()

    def kill(self) -> None:
        """SIGKILL the server."""
        self.process.kill()

    def restart(self) -> None:
        """Stop and start on the same port."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the server: connections stay open, nothing answers."""
        self.process.pause()

    def resume(self) -> None:
        """Undo `pause`."""
        self.process.resume()

    def _settings(self, data: Path) -> str:
        """Return the settings; in a file, since a command line is everybody's to read."""
        lines = [
            "bind 127.0.0.1",
            f"port {self._port}",
            f"requirepass {self._password}",
            f'dir "{_escaped(data)}"',
            'save ""',
            # Losing a message for lack of memory must be an error at the publisher, not a silent eviction.
            "maxmemory-policy noeviction",
            # The command line names the settings file, by which a later run recognises what an earlier one left.
            "set-proc-title no",
            *(["appendonly no"] if self._throwaway else PERSISTENT),
        ]
        return "\n".join(lines) + "\n"

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url, socket_timeout=PROBE_S, socket_connect_timeout=PROBE_S) as client:
                return bool(client.ping())
        except (redis.ConnectionError, redis.TimeoutError):
            return False


def _escaped(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace('"', '\\"')
