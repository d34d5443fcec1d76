"""The embedded stores and the rules of a local start."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
import redis

from app.localstack.environment import Given, child_environment, write_stack_env
from app.localstack.errors import StackError
from app.localstack.postgres import PostgresServer
from app.localstack.private_files import kept_password
from app.localstack.processes import ServerProcess, free_port, is_running, poll_until, port_is_free
from app.localstack.stack import locked
from app.localstack.supervision import WORTH_A_LOOK
from app.localstack.valkey import ValkeyServer
from tests.support.servers import running_postgres, running_valkey, server_folder

SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)"]
WAIT_S = 20


def test_committed_rows_survive_a_sigkill_of_postgresql_on_the_same_port() -> None:
    with running_postgres() as server:
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute("CREATE TABLE kept (n int)")
            connection.execute("INSERT INTO kept SELECT generate_series(1, 1000)")
        before = server.address
        server.kill()
        assert port_is_free(int(before.rpartition(":")[2]))
        server.start()
        assert server.address == before
        with psycopg.connect(server.dsn()) as connection:
            assert connection.execute("SELECT count(*) FROM kept").fetchone() == (1000,)


def test_postgresql_starts_beside_the_remains_of_a_run_that_was_killed(postgres_server: PostgresServer) -> None:
    with server_folder() as folder:
        first = PostgresServer(folder, throwaway=True)
        first.start()
        orphan = first.pid
        second = PostgresServer(folder, throwaway=True)
        second.start()
        try:
            assert not is_running(orphan) or orphan == second.pid
            second.stop()
            # The pid file of a crash, with a number that now belongs to another process of the same user.
            (folder / "postgres" / "postmaster.pid").write_text(f"{postgres_server.pid}\n")
            second.start()
            assert second.has_database("postgres")
        finally:
            second.stop()
            first.stop()


def test_a_data_directory_of_another_major_version_is_named_and_left_alone() -> None:
    with running_postgres() as server:
        server.stop()
        version = next(server.process._pid_file.parent.glob("postgres/PG_VERSION"))
        version.write_text("12\n")
        with pytest.raises(StackError, match="was made by PostgreSQL 12"):
            server.start()


def test_a_template_gives_each_database_its_own_rows(postgres_server: PostgresServer) -> None:
    postgres_server.create_database("pattern")
    with psycopg.connect(postgres_server.dsn("pattern"), autocommit=True) as connection:
        connection.execute("CREATE TABLE seen (n int)")
    postgres_server.create_database("copy", "pattern")
    with psycopg.connect(postgres_server.dsn("copy"), autocommit=True) as connection:
        connection.execute("INSERT INTO seen VALUES (1)")
    with psycopg.connect(postgres_server.dsn("pattern")) as connection:
        assert connection.execute("SELECT count(*) FROM seen").fetchone() == (0,)
    postgres_server.drop_database("copy")
    assert not postgres_server.has_database("copy")
    postgres_server.drop_database("pattern")


def test_postgresql_does_not_run_as_root(postgres_server: PostgresServer) -> None:
    assert Path(f"/proc/{postgres_server.pid}").stat().st_uid != 0


def test_queued_messages_survive_a_sigkill_of_a_durable_valkey_within_a_second() -> None:
    with running_valkey(durable=True) as server:
        with redis.Redis.from_url(server.url) as client:
            client.rpush("queue", *range(100))
            client.waitaof(1, 0, 5000)
        server.kill()
        server.start()
        with redis.Redis.from_url(server.url) as client:
            assert client.llen("queue") == 100


def test_a_paused_valkey_answers_nobody_until_it_is_resumed() -> None:
    with running_valkey() as server, redis.Redis.from_url(server.url, socket_timeout=0.2, retry=None) as client:
        assert client.ping()
        server.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        server.resume()
        assert client.ping()


def test_valkey_refuses_whoever_has_no_password(valkey_server: ValkeyServer) -> None:
    with redis.Redis.from_url(f"redis://{valkey_server.address}/0") as client, pytest.raises(redis.AuthenticationError):
        client.ping()


def test_no_password_stands_on_a_command_line(postgres_server: PostgresServer, valkey_server: ValkeyServer) -> None:
    passwords = [
        server.process._pid_file.with_suffix(".password").read_text().strip()
        for server in (postgres_server, valkey_server)
    ]
    lines = [Path(f"/proc/{server.pid}/cmdline").read_text() for server in (postgres_server, valkey_server)]
    assert all(len(password) == 32 for password in passwords)
    assert not any(password in line for password in passwords for line in lines)


def test_a_server_ends_when_the_process_that_started_it_is_killed(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from app.localstack.processes import ServerProcess;"
        "s = ServerProcess('x', Path(sys.argv[1]) / 'pid', Path(sys.argv[1]) / 'log');"
        "s.start([sys.executable, '-c', 'import time; time.sleep(600)'], os.environ);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path], check=False)  # noqa: S603 - ours
    pid = int((tmp_path / "pid").read_text())
    assert poll_until(lambda: not is_running(pid), WAIT_S)


def test_an_orphan_is_ended_only_when_it_is_what_the_pid_file_means(tmp_path: Path) -> None:
    stranger = subprocess.Popen(SLEEPER)  # noqa: S603 - ours
    try:
        server = ServerProcess("x", tmp_path / "pid", tmp_path / "log")
        (tmp_path / "pid").write_text(f"{stranger.pid}\n")
        assert not server.end_orphan("no such marker")
        assert is_running(stranger.pid)
        (tmp_path / "pid").write_text(f"{stranger.pid}\n")
        assert server.end_orphan("time.sleep(600)")
        assert not is_running(stranger.pid)
    finally:
        stranger.kill()
        stranger.wait()


def test_a_server_that_ends_at_once_is_reported_with_its_last_words(tmp_path: Path) -> None:
    server = ServerProcess("the thing", tmp_path / "pid", tmp_path / "log")
    server.start([sys.executable, "-c", "raise SystemExit('no licence')"], os.environ)
    with pytest.raises(StackError, match=r"(?s)the thing ended at once.*no licence"):
        server.wait_until(lambda: False, WAIT_S)


def test_two_runs_do_not_share_a_data_directory(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(StackError, match=f"process {os.getpid()}"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_a_password_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    first = kept_password(tmp_path / "password")
    assert kept_password(tmp_path / "password") == first
    assert stat.S_IMODE((tmp_path / "password").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, True),
        ({"TWILIO_ACCOUNT_SID": "", "LIVEKIT_API_KEY": ""}, True),
        ({"TWILIO_ACCOUNT_SID": "AC1", "LIVEKIT_API_KEY": "k"}, False),
    ],
)
def test_the_sandbox_stands_in_for_both_providers_or_for_none(values: dict[str, str], expected: bool) -> None:
    assert Given(values, Path()).uses_sandbox is expected


@pytest.mark.parametrize(
    ("present", "missing"), [("TWILIO_ACCOUNT_SID", "LIVEKIT_API_KEY"), ("LIVEKIT_API_KEY", "TWILIO_ACCOUNT_SID")]
)
def test_one_provider_without_the_other_is_refused_by_name(present: str, missing: str) -> None:
    with pytest.raises(StackError, match=f"{missing} is missing"):
        _ = Given({present: "x"}, Path()).uses_sandbox


@pytest.mark.parametrize("text", ["http", "0", "65536", "-1", "8080 "])
def test_an_impossible_port_is_refused(text: str) -> None:
    with pytest.raises(StackError, match="PORT must be a port number"):
        Given({"PORT": text}, Path()).port("PORT", 8080)


def test_the_file_for_a_second_terminal_holds_nothing_that_the_user_set(tmp_path: Path) -> None:
    given = Given({"TWILIO_AUTH_TOKEN": "theirs"}, tmp_path)
    made = {"DATABASE_URL": "postgresql+psycopg://app:x@127.0.0.1:1/trunkline"}
    environ = child_environment(given, made)
    write_stack_env(tmp_path / "stack.env", made)
    assert environ["TWILIO_AUTH_TOKEN"] == "theirs"
    assert environ["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    assert "theirs" not in (tmp_path / "stack.env").read_text()
    assert stat.S_IMODE((tmp_path / "stack.env").stat().st_mode) == 0o600


def test_a_preferred_port_is_taken_only_when_it_is_free() -> None:
    port = free_port()
    assert free_port(port) == port
    with running_valkey() as server:
        taken = int(server.address.rpartition(":")[2])
        assert free_port(taken) != taken


@pytest.mark.parametrize(
    ("line", "worth"),
    [
        ("[2026-11-23 09:00:00,000: WARNING/MainProcess] gone", True),
        ('{"event": "step_failed", "level": "error"}', True),
        ("2026-11-23 [warning  ] step_retried", True),
        ("[2026-11-23 09:00:00,000: INFO/MainProcess] no error here", False),
        ('{"event": "step_done", "level": "info", "errors": 0}', False),
    ],
)
def test_only_lines_that_matter_reach_the_terminal(line: str, worth: bool) -> None:
    assert bool(WORTH_A_LOOK.search(line)) is worth


def test_valkey_comes_back_with_its_password_and_port(own_valkey: ValkeyServer) -> None:
    with redis.Redis.from_url(own_valkey.url) as client:
        client.set("kept", "1")
        own_valkey.restart()
        assert client.get("kept") == b"1"


def test_a_second_valkey_takes_over_from_an_orphan_of_the_first() -> None:
    with server_folder() as folder:
        first, second = ValkeyServer(folder), ValkeyServer(folder)
        first.start()
        second.start()
        try:
            assert not first.process.is_alive
            with redis.Redis.from_url(second.url) as client:
                assert client.ping()
        finally:
            second.stop()
            first.stop()
