"""PostgreSQL behind a real PgBouncer that shares connections by transaction; skipped where it is not installed."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import urlsplit

import psycopg
import pytest
from sqlalchemy import text

from app import create_app
from app.access import KeyService, Scope
from app.accounts.checks import CheckOutcome, CheckStatus
from app.cli.doctor_checks import STORE_CHECKS
from app.db.engine import Statements, make_engine, make_sessions
from app.dev.localstack.processes import free_port, poll_until
from app.saga.rows import Rows
from app.web.readiness import newest_migration
from app.wiring import build
from tests.integration import test_rows
from tests.support.api import PingOnlyProvider, RecordingPublisher, make_settings
from tests.support.saga import wire
from tests.support.sandbox_app import SandboxApp
from tests.support.servers import PostgresServer, migrate, server_folder

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")

START_S = 10.0
"""Seconds until PgBouncer is given up: a tenth of one as a rule."""

SERVER_CONNECTIONS = 2
"""Fewer than clients: each transaction is on whichever is free."""


@contextmanager
def running_pooler(server: PostgresServer, **more: str) -> Iterator[str]:
    """Yield `host:port` of a PgBouncer in transaction mode before every database of the server."""
    at = urlsplit(server.url())
    with server_folder() as folder:
        port = free_port()
        (folder / "users").write_text(f'"{at.username}" "{at.password}"\n')
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": str(port),
            "unix_socket_dir": "",
            "auth_type": "plain",
            "auth_file": str(folder / "users"),
            "pool_mode": "transaction",
            "default_pool_size": str(SERVER_CONNECTIONS),
            # It does not run as root.
            **({"user": "nobody"} if os.getuid() == 0 else {}),
            **more,
        }
        lines = [f"[databases]\n* = host={at.hostname} port={at.port}\n[pgbouncer]"]
        lines += [f"{name} = {value}" for name, value in settings.items()]
        config = folder / "pgbouncer.ini"
        config.write_text("\n".join(lines) + "\n")
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen([str(PGBOUNCER), str(config)], stdout=log, stderr=log)  # noqa: S603
        try:
            assert poll_until(lambda: _answers(server, f"127.0.0.1:{port}"), START_S), (folder / "log").read_text()
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(START_S)


def _answers(server: PostgresServer, address: str) -> bool:
    try:
        psycopg.connect(server.dsn().replace(server.address, address), connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


@pytest.fixture(scope="module")
def pooler(postgres_server: PostgresServer) -> Iterator[str]:
    with running_pooler(postgres_server) as address:
        yield address


@pytest.fixture
def database_url(
    database_url: str, postgres_server: PostgresServer, pooler: str, monkeypatch: pytest.MonkeyPatch
) -> str:
    """This test's own database as the pooler shows it, with the setting that goes with one."""
    monkeypatch.setenv("DATABASE_POOLER", "true")
    return database_url.replace(postgres_server.address, pooler)


def test_a_number_is_connected_and_requests_are_taken_from_many_threads(live: SandboxApp) -> None:
    app = create_app(live.wiring)
    headers = {"Authorization": f"Bearer {KeyService(live.wiring.sessions).create('tests', [Scope.WRITE])[1]}"}

    def post(number: int) -> int:
        return app.test_client().post("/api/agents", json={"name": f"agent {number}"}, headers=headers).status_code

    # More of the same statement than psycopg runs before it prepares it, and more threads than sessions.
    with ThreadPoolExecutor(4 * SERVER_CONNECTIONS) as threads:
        statuses = list(threads.map(post, range(40)))

    assert statuses == [201] * 40
    assert live.rings() == "front-desk"


def test_every_transaction_has_its_limit_and_its_clock_in_utc(
    database_url: str, postgres_server: PostgresServer
) -> None:
    name = database_url.rpartition("/")[2]
    with psycopg.connect(postgres_server.dsn(), autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} SET timezone = 'America/Toronto'")
    wiring = build(
        make_settings(database_url).model_copy(update={"database_pooler": True}), publisher=RecordingPublisher()
    )
    asked = "SELECT current_setting('statement_timeout') AS timeout, current_setting('timezone') AS zone"

    with wiring.sessions() as session:
        in_session = session.execute(text(asked)).one()
    alone = Statements(wiring.sessions).one(asked, {})
    first_of_two = Statements(wiring.sessions).run([(asked, {}), (asked, {})])

    wiring.close()
    assert {tuple(row) for row in (in_session, alone, first_of_two) if row is not None} == {("15s", "UTC")}


def test_migrations_run_through_a_pooler(empty_database_url: str, postgres_server: PostgresServer, pooler: str) -> None:
    url = empty_database_url.replace(postgres_server.address, pooler)

    migrate(url)

    engine = make_engine(url, pooler=True)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == newest_migration()
    engine.dispose()


def _checked(url: str, *, pooler: bool) -> CheckOutcome:
    settings = make_settings(url).model_copy(update={"database_pooler": pooler})
    nobody = PingOnlyProvider()
    wiring = build(settings, publisher=RecordingPublisher(), carrier=nobody, platform=nobody)  # type: ignore[arg-type]
    (check,) = [check for check in STORE_CHECKS if check.name == "database"]
    try:
        return check.run(wiring)
    finally:
        wiring.close()


def test_no_change_of_many_threads_is_lost(database_url: str, plain_logs: None) -> None:
    engine = make_engine(database_url, pooler=True)
    saga = wire(make_sessions(engine))
    changed = test_rows.count_up(saga.provision(), [Rows(saga.sessions) for _ in range(test_rows.THREADS)])
    test_rows.assert_counted(changed, saga.sessions)
    engine.dispose()


def test_the_doctor_finds_a_pooler_that_refuses_our_options(database_url: str) -> None:
    found = _checked(database_url, pooler=False)

    assert (found.status, "a connection pooler refused" in found.detail) == (CheckStatus.FAILED, True)
    assert "DATABASE_POOLER=true" in found.fix
    told = _checked(database_url, pooler=True)
    assert (told.status, told.detail.endswith("responds through a pooler")) == (CheckStatus.OK, True)


def test_the_doctor_finds_a_pooler_that_ignores_our_options(
    database_url: str, pooler: str, postgres_server: PostgresServer
) -> None:
    with running_pooler(postgres_server, ignore_startup_parameters="options,extra_float_digits") as address:
        url = database_url.replace(pooler, address)

        found = _checked(url, pooler=False)

    assert (found.status, found.detail) == (CheckStatus.FAILED, "the connection goes through a pooler")
    assert "DATABASE_POOLER=true" in found.fix


def test_postgresql_itself_is_no_pooler(postgres_server: PostgresServer, template_database: str) -> None:
    assert template_database
    found = _checked(postgres_server.url("postgres"), pooler=False)

    assert (found.status, "pooler" in found.detail) == (CheckStatus.OK, False)
