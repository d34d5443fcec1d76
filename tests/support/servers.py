"""Real PostgreSQL and Valkey for tests: one of each per xdist worker, and further ones that a test may kill.

`PostgresServer` and `ValkeyServer` are those of ./run.py: start, stop, kill, restart, pause, resume; `.pid`, `.url`.
Start them from the main thread: what a short-lived thread starts is not ended when the tests are killed.
"""

import fcntl
import functools
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import redis
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, event

from app.db.engine import Sessions
from app.dev.localstack.servers import PostgresServer, ValkeyServer, running_server

ROOT = Path(__file__).resolve().parents[2]
"""The project."""

TEMPLATE = "template_migrated"
"""The database that every test's own is a copy of."""

_numbers = itertools.count(1)


MEMORY = Path("/dev/shm")  # noqa: S108 - each folder in it is mkdtemp's
"""A file system in memory: a new database is 300 files, which cost 0.25 s of CPU on ext4 and 0.015 s here."""

FOLDER = "trunkline-test-"
"""What the name of a folder of servers begins with."""

MEMORY_FREE = 4 << 30
"""Bytes that must be free in memory: many times what two xdist workers have there at once."""

BEING_MADE_S = 60.0
"""Age below which a folder is no leftover yet, though nobody holds it."""


@contextmanager
def server_folder(*, on_disk: bool = False) -> Iterator[Path]:
    """Yield a folder that PostgreSQL's user can enter; pytest's tmp_path is 0700 and, under root, root's.

    It is in memory where there is room, unless a disk is what is measured.
    """
    folder = Path(tempfile.mkdtemp(prefix=FOLDER, dir=None if on_disk else _memory()))
    holder = hold(folder)
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(holder)


@functools.cache
def _memory() -> Path | None:
    """Return the file system in memory, rid of what killed tests have left there, if it has room enough."""
    with suppress(OSError):
        for folder in MEMORY.glob(f"{FOLDER}*"):
            remove_if_left(folder)
        room = os.statvfs(MEMORY)
        if room.f_bavail * room.f_frsize >= MEMORY_FREE and os.access(MEMORY, os.W_OK):
            return MEMORY
    return None


def remove_if_left(folder: Path) -> None:
    """Remove a folder that no process holds any more; that of another user stays."""
    # Another worker may remove it at the same time.
    with suppress(OSError):
        if time.time() - folder.stat().st_mtime > BEING_MADE_S:
            holder = hold(folder)
            shutil.rmtree(folder, ignore_errors=True)
            os.close(holder)


def hold(folder: Path) -> int:
    """Lock a folder as in use until the file descriptor that this returns is closed; BlockingIOError: it is held."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def running_postgres(*, on_disk: bool = False) -> Iterator[PostgresServer]:
    """Yield a new PostgreSQL that forgets everything at the end; 0.4 s."""
    with server_folder(on_disk=on_disk) as folder, running_server(PostgresServer(folder, throwaway=True)) as server:
        yield server


@contextmanager
def running_valkey(*, durable: bool = False) -> Iterator[ValkeyServer]:
    """Yield a new Valkey; with `durable`, what it holds survives `kill`, as in ./run.py."""
    with server_folder() as folder, running_server(ValkeyServer(folder, throwaway=not durable)) as server:
        yield server


def migrate(database_url: str, revision: str = "head") -> None:
    """Bring a database to `revision`, with the migrations of the project."""
    config = Config(toml_file=ROOT / "pyproject.toml")
    config.attributes["url"] = database_url
    command.upgrade(config, revision)


@contextmanager
def nested_loops_only(sessions: Sessions) -> Iterator[None]:
    """Have PostgreSQL join by nested loops meanwhile, as statistics of tiny tables lead it to."""
    engine = sessions.kw["bind"]
    event.listen(engine, "begin", _without_hash_and_merge)
    try:
        yield
    finally:
        event.remove(engine, "begin", _without_hash_and_merge)


def _without_hash_and_merge(connection: Connection) -> None:
    for way in ("hashjoin", "mergejoin", "hashagg", "sort", "material"):
        connection.exec_driver_sql(f"SET LOCAL enable_{way} = off")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The PostgreSQL that the tests of one xdist worker share; do not stop it."""
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def template_database(postgres_server: PostgresServer) -> str:
    """The name of a migrated database that nobody is connected to."""
    postgres_server.create_database(TEMPLATE)
    migrate(postgres_server.url(TEMPLATE))
    return TEMPLATE


@pytest.fixture
def database_url(postgres_server: PostgresServer, template_database: str) -> Iterator[str]:
    """The URL of a migrated, empty database of this test's own."""
    name = f"test_{next(_numbers)}"
    postgres_server.create_database(name, template_database)
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


@pytest.fixture
def empty_database_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a database of this test's own without any table."""
    name = f"test_{next(_numbers)}"
    postgres_server.create_database(name)
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    """The Valkey that the tests of one xdist worker share; do not stop it."""
    with running_valkey() as server:
        yield server


@pytest.fixture
def redis_url(valkey_server: ValkeyServer) -> str:
    """The URL of an empty Valkey."""
    with redis.Redis.from_url(valkey_server.url) as client:
        client.flushall()
    return valkey_server.url


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL of this test's own, to be killed and restarted; its migrated database is `.url()`."""
    with running_postgres() as server:
        server.create_database("trunkline")
        migrate(server.url())
        yield server


@pytest.fixture
def own_valkey() -> Iterator[ValkeyServer]:
    """A Valkey of this test's own, to be killed, frozen and restarted; it keeps what it has, as in ./run.py."""
    with running_valkey(durable=True) as server:
        yield server
