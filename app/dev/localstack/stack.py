"""The local stack: the user's settings, and the servers of one data directory for as long as a block runs."""

import contextlib
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import redis
from dotenv import dotenv_values

from app.dev import sandbox
from app.dev.localstack.host import (
    StackError,
    describe_error,
    load_or_make_password,
    read_private,
    write_private,
)
from app.dev.localstack.processes import poll_until, port_is_free
from app.dev.localstack.servers import PostgresServer, SandboxServer, ValkeyServer, running_server, sandbox_settings
from app.dev.localstack.terminal import Terminal
from app.sealing import new_key
from app.setting_values import redis_url
from app.settings import Settings, SettingsError, load_settings

PORT = 8080
"""Where the API listens unless PORT says otherwise."""

FLOWER_PORT = 5555
"""Where Flower listens unless FLOWER_PORT says otherwise: its own default."""


@dataclass(frozen=True)
class UserSettings:
    """The user's settings: `.env` under the environment."""

    values: Mapping[str, str]
    root: Path

    @property
    def data_dir(self) -> Path:
        """Where everything that survives a restart lies; relative to the project, not to the working directory."""
        return self.root / (self.values.get("DATA_DIR") or ".data")

    @property
    def embeds_postgres(self) -> bool:
        """Whether we start PostgreSQL."""
        return not self.values.get("DATABASE_URL")

    @property
    def embeds_valkey(self) -> bool:
        """Whether we start Valkey."""
        return not self.values.get("REDIS_URL")

    @property
    def uses_sandbox(self) -> bool:
        """Whether the sandbox stands in for both providers; StackError where only one of them is set."""
        names = ("TWILIO_ACCOUNT_SID", "LIVEKIT_API_KEY")
        missing = [name for name in names if not self.values.get(name)]
        if len(missing) == 1:
            (other,) = set(names) - set(missing)
            raise StackError(f"{missing[0]} is missing ({other} is set): set both, or neither for the sandbox")
        return bool(missing)

    def port(self, name: str, default: int) -> int:
        """Return the port that the user set in the variable `name`, else `default`."""
        text = self.values.get(name) or str(default)
        if not text.isdigit() or not 0 < int(text) < 2**16:
            raise StackError(f"{name} must be a port number, not {text!r}")
        return int(text)


def read_user_settings(root: Path) -> UserSettings:
    """Read what the user has set, before the application's settings are complete."""
    try:
        in_file = {name: value for name, value in dotenv_values(root / ".env").items() if value is not None}
    except OSError as error:
        raise StackError(f"{root / '.env'} cannot be read: {error.strerror}") from error
    except UnicodeError as error:
        raise StackError(f"{root / '.env'} is not UTF-8: save it as that") from error
    return UserSettings(values={**in_file, **os.environ}, root=root)


def child_environment(given: UserSettings, made: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the processes: the user's settings, then ours; this Python's tools first in PATH."""
    values = {**given.values, **made}
    values["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), values.get("PATH", os.defpath)])
    values["PYTHONUNBUFFERED"] = "1"
    # Their output goes into logs, whatever the user's terminal can show.
    values["PYTHONIOENCODING"] = "utf-8:backslashreplace"
    return values


def write_stack_env(path: Path, made: Mapping[str, str]) -> None:
    """Write the settings that we made for commands in a second terminal; none of the user's, which may be secrets."""
    lines = ["# Written by ./run.py while it runs; read by the flask command. Removed at its end."]
    lines += [f"{name}='{_escaped(value)}'" for name, value in made.items()]
    write_private(path, "\n".join(lines) + "\n")


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")


PORT_WAIT_S = 10.0
"""Seconds for the processes of a killed run to shut down and free its ports."""

LOCAL_DEFAULTS = {"INSTANCE_NAME": "dev", "LOG_FORMAT": "console"}
"""Settings whose defaults are meant for production."""

USER_STORE_S = 5
"""Seconds for a store of the user's to answer."""

DATABASE = "trunkline"
"""The database within the embedded PostgreSQL."""


@dataclass(frozen=True)
class Stack:
    """What runs, and how to reach it."""

    data_dir: Path
    environ: Mapping[str, str]
    sandbox_url: str | None
    port: int
    flower_port: int

    @property
    def api_url(self) -> str:
        """Where the web process listens."""
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def running_stack(given: UserSettings, terminal: Terminal) -> Iterator[Stack]:
    """Start the servers that the user has not set, migrate, and stop all of them when the block ends."""
    uses_sandbox = given.uses_sandbox
    data_dir = given.data_dir
    with contextlib.ExitStack() as running:
        running.enter_context(locked_data_dir(data_dir))
        port, flower_port = (_usable_port(given, *each) for each in (("PORT", PORT), ("FLOWER_PORT", FLOWER_PORT)))
        if port == flower_port:
            raise StackError(f"PORT and FLOWER_PORT are both {port}: choose another for one of them")
        made = {"PORT": str(port), "FLOWER_PORT": str(flower_port), "DATA_DIR": str(data_dir)}
        made |= _flower_login(given, data_dir)
        made |= _credential_key(given, data_dir)
        made |= _postgres(given, data_dir, terminal, running)
        made |= _valkey(given, data_dir, terminal, running)
        providers = _sandbox(data_dir, given, terminal, running) if uses_sandbox else {}
        made |= providers
        made |= {name: value for name, value in LOCAL_DEFAULTS.items() if not given.values.get(name)}
        environ = child_environment(given, made)
        _check_settings(environ)
        _migrate(environ, terminal)
        write_stack_env(data_dir / "stack.env", made)
        running.callback((data_dir / "stack.env").unlink, missing_ok=True)
        yield Stack(data_dir, environ, providers.get("TWILIO_BASE_URL"), port, flower_port)


@contextlib.contextmanager
def locked_data_dir(data_dir: Path) -> Iterator[None]:
    """Hold the data directory for one run; StackError names the process that has it. A SIGKILL releases it too."""
    try:
        # Others may enter (PostgreSQL runs as another user when we are root), not list it.
        if not data_dir.exists():
            data_dir.mkdir(parents=True)
            data_dir.chmod(0o711)
        (data_dir / "logs").mkdir(mode=0o700, exist_ok=True)
        file = (data_dir / "lock").open("a+", encoding="utf-8")
    except PermissionError as error:
        raise StackError(f"{data_dir} belongs to another user: set DATA_DIR, or run as that user") from error
    except OSError as error:
        raise StackError(
            f"{data_dir} cannot hold our data ({describe_error(error)}): set DATA_DIR to a folder"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise StackError(
                f"./run.py already runs here (process {owner}): stop it, or set DATA_DIR and PORT"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _usable_port(given: UserSettings, name: str, default: int) -> int:
    port = given.port(name, default)
    # stack.env outlives its run only when that run was killed: its processes may still be shutting down.
    killed_before = (given.data_dir / "stack.env").exists()
    if not poll_until(lambda: port_is_free(port), PORT_WAIT_S if killed_before else 0):
        raise StackError(f"port {port} is taken by another program: choose another, as in {name}={port + 1} ./run.py")
    return port


def _flower_login(given: UserSettings, data_dir: Path) -> dict[str, str]:
    if given.values.get("FLOWER_BASIC_AUTH"):
        return {}
    return {"FLOWER_BASIC_AUTH": f"flower:{load_or_make_password(data_dir / 'flower.password')}"}


def _credential_key(given: UserSettings, data_dir: Path) -> dict[str, str]:
    if given.values.get("CREDENTIAL_KEYS"):
        return {}
    file = data_dir / "credential.key"
    key = read_private(file)
    if key is None:
        key = new_key()
        write_private(file, key)
    return {"CREDENTIAL_KEYS": key}


def _postgres(given: UserSettings, data_dir: Path, terminal: Terminal, running: contextlib.ExitStack) -> dict[str, str]:
    if not given.embeds_postgres:
        url = given.values["DATABASE_URL"]
        try:
            psycopg.connect(url.replace("postgresql+psycopg://", "postgresql://"), connect_timeout=USER_STORE_S).close()
        except psycopg.Error as error:
            raise StackError(f"DATABASE_URL: {' '.join(str(error).split())}") from error
        terminal.line("PostgreSQL", _without_password(url), "yours")
        return {}
    server = PostgresServer(data_dir, log_file=data_dir / "logs" / "postgres.log")
    first_time = not (data_dir / "postgres.password").exists()
    with terminal.progress("PostgreSQL", "making its data directory" if first_time else "starting") as report:
        running.enter_context(running_server(server))
        if not server.has_database(DATABASE):
            server.create_database(DATABASE)
        report(server.address)
    return {"DATABASE_URL": server.url(DATABASE)}


def _valkey(given: UserSettings, data_dir: Path, terminal: Terminal, running: contextlib.ExitStack) -> dict[str, str]:
    if not given.embeds_valkey:
        url = given.values["REDIS_URL"]
        try:
            url = redis_url(url.strip())
            with redis.Redis.from_url(url, socket_connect_timeout=USER_STORE_S, socket_timeout=USER_STORE_S) as client:
                client.ping()
        except (redis.RedisError, ValueError) as error:
            raise StackError(f"REDIS_URL: {error}") from error
        terminal.line("Redis", _without_password(url), "yours")
        return {}
    server = ValkeyServer(data_dir, log_file=data_dir / "logs" / "valkey.log")
    with terminal.progress("Valkey", "starting") as report:
        running.enter_context(running_server(server))
        report(server.address)
    return {"REDIS_URL": server.url}


SANDBOX_OPTIONS = ("--seed-demo", "--livekit-server", "openSource", "--sip-source", "54.172.60.0")
"""A server of one's own, as its SIP URI says. Test calls come from this machine; they are taken for Twilio's, so that
they get through trunks that let in Twilio alone, as those of real calls are."""


def _sandbox(data_dir: Path, given: UserSettings, terminal: Terminal, running: contextlib.ExitStack) -> dict[str, str]:
    """Start the stand-in for both providers and return the settings that lead to it."""
    log_file = data_dir / "logs" / "sandbox.log"
    # The origination URLs that were made name it: a port that had to be another one stays that.
    sip_file = data_dir / "sip.port"
    sip_port = int(read_private(sip_file) or sandbox.SIP_PORT)
    server = SandboxServer(
        data_dir, log_file=log_file, port=sandbox.PORT, sip_port=sip_port, journal=True, options=SANDBOX_OPTIONS
    )
    write_private(sip_file, str(server.sip_port))
    with terminal.progress("Sandbox", "starting") as report:
        running.enter_context(running_server(server))
        report(f"{server.url}, SIP on {server.sip_uri.split(';')[0]}")
    # A webhook receiver that is tried out listens on the same machine.
    networks = given.values.get("WEBHOOK_ALLOWED_NETWORKS") or "127.0.0.0/8,::1/128"
    return sandbox_settings(server.url, server.sip_uri) | {"WEBHOOK_ALLOWED_NETWORKS": networks}


def _check_settings(environ: Mapping[str, str]) -> None:
    """Raise StackError for malformed settings before a process fails because of them."""
    known = {name: environ[name.upper()] for name in Settings.model_fields if name.upper() in environ}
    try:
        load_settings(**known)
    except SettingsError as error:
        problems = "".join(f"\n    {problem}" for problem in error.problems)
        raise StackError(f"the settings (environment and .env) are not right:{problems}") from error


def _migrate(environ: Mapping[str, str], terminal: Terminal) -> None:
    with terminal.progress("Schema", "migrating") as report:
        command = [sys.executable, "-m", "alembic", "upgrade", "head"]
        done = subprocess.run(  # noqa: S603 - our own command
            command, env=environ, capture_output=True, encoding="utf-8", errors="replace", check=False
        )
        if done.returncode:
            tail = "\n".join(f"    {line}" for line in (done.stderr or done.stdout).splitlines()[-8:])
            raise StackError(f"the database schema could not be brought up to date:\n{tail}")
        report("up to date")


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname or '?'}:{parts.port or 'default port'}{parts.path}"
