"""The embedded stores and the rules of a local start."""

import contextlib
import io
import json
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from dotenv import dotenv_values
from psycopg import sql
from rich.console import Console

from app.cli.doctor_checks import PROCESS_CHECKS
from app.dev.localstack import demo
from app.dev.localstack.host import StackError, load_or_make_password
from app.dev.localstack.processes import JsonClient, ServerProcess, free_port, is_running, poll_until, port_is_free
from app.dev.localstack.servers import SIP_SOCKETS, PostgresServer, ValkeyServer
from app.dev.localstack.stack import (
    Stack,
    UserSettings,
    _check_settings,
    _sandbox,
    child_environment,
    locked_data_dir,
    read_user_settings,
    running_stack,
    write_stack_env,
)
from app.dev.localstack.supervision import NOTABLE_LINE
from app.dev.localstack.terminal import ERRORS, Terminal
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
    with server_folder() as folder:
        (folder / "postgres").mkdir()
        (folder / "postgres" / "PG_VERSION").write_text("12\n")
        with pytest.raises(StackError, match="was made by PostgreSQL 12"):
            PostgresServer(folder, throwaway=True).start()
        assert [file.name for file in (folder / "postgres").iterdir()] == ["PG_VERSION"]


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


def test_a_paused_valkey_does_not_answer_until_it_is_resumed() -> None:
    with running_valkey() as server, redis.Redis.from_url(server.url, socket_timeout=0.2, retry=None) as client:
        assert client.ping()
        server.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        server.resume()
        assert client.ping()


def test_valkey_refuses_clients_without_the_password(valkey_server: ValkeyServer) -> None:
    with redis.Redis.from_url(f"redis://{valkey_server.address}/0") as client, pytest.raises(redis.AuthenticationError):
        client.ping()


def test_no_password_is_on_a_command_line(postgres_server: PostgresServer, valkey_server: ValkeyServer) -> None:
    passwords = [
        server.process._pid_file.with_suffix(".password").read_text().strip()
        for server in (postgres_server, valkey_server)
    ]
    lines = [Path(f"/proc/{server.pid}/cmdline").read_text() for server in (postgres_server, valkey_server)]
    assert all(len(password) == 32 for password in passwords)
    assert not any(password in line for password in passwords for line in lines)


def test_a_server_ends_when_the_process_that_started_it_is_killed(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from app.dev.localstack.processes import ServerProcess;"
        "s = ServerProcess('x', Path(sys.argv[1]) / 'pid', Path(sys.argv[1]) / 'log');"
        "s.start([sys.executable, '-c', 'import time; time.sleep(600)'], os.environ);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path], check=False)  # noqa: S603 - ours
    pid = int((tmp_path / "pid").read_text())
    assert poll_until(lambda: not is_running(pid), WAIT_S)


def test_an_orphan_is_ended_only_when_its_command_line_matches(tmp_path: Path) -> None:
    other = subprocess.Popen(SLEEPER)  # noqa: S603 - ours
    try:
        server = ServerProcess("x", tmp_path / "pid", tmp_path / "log")
        (tmp_path / "pid").write_text(f"{other.pid}\n")
        assert not server.stop_orphan("no such marker")
        assert is_running(other.pid)
        (tmp_path / "pid").write_text(f"{other.pid}\n")
        assert server.stop_orphan("time.sleep(600)")
        assert not is_running(other.pid)
    finally:
        other.kill()
        other.wait()


def test_a_server_that_ends_at_once_is_reported_with_its_last_log_lines(tmp_path: Path) -> None:
    server = ServerProcess("the thing", tmp_path / "pid", tmp_path / "log")
    server.start([sys.executable, "-c", "raise SystemExit('no licence')"], os.environ)
    with pytest.raises(StackError, match=r"(?s)the thing ended at once.*no licence"):
        server.wait_until(lambda: False, WAIT_S)


def test_two_runs_do_not_share_a_data_directory(tmp_path: Path) -> None:
    with (
        locked_data_dir(tmp_path),
        pytest.raises(StackError, match=f"process {os.getpid()}"),
        locked_data_dir(tmp_path),
    ):
        pass
    with locked_data_dir(tmp_path):
        pass


def test_a_password_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    first = load_or_make_password(tmp_path / "password")
    assert load_or_make_password(tmp_path / "password") == first
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
    assert UserSettings(values, Path()).uses_sandbox is expected


@pytest.mark.parametrize(
    ("present", "missing"), [("TWILIO_ACCOUNT_SID", "LIVEKIT_API_KEY"), ("LIVEKIT_API_KEY", "TWILIO_ACCOUNT_SID")]
)
def test_one_provider_without_the_other_is_refused_by_name(present: str, missing: str) -> None:
    with pytest.raises(StackError, match=f"{missing} is missing"):
        _ = UserSettings({present: "x"}, Path()).uses_sandbox


@pytest.mark.parametrize("text", ["http", "0", "65536", "-1", "8080 "])
def test_an_impossible_port_is_refused(text: str) -> None:
    with pytest.raises(StackError, match="PORT must be a port number"):
        UserSettings({"PORT": text}, Path()).port("PORT", 8080)


def test_the_file_for_a_second_terminal_has_none_of_the_users_settings(tmp_path: Path) -> None:
    given = UserSettings({"TWILIO_AUTH_TOKEN": "theirs"}, tmp_path)
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


def test_a_port_of_two_kinds_is_taken_only_when_both_are_free() -> None:
    port = free_port(None, SIP_SOCKETS)
    with socket.socket(type=socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", port))
        assert free_port(port) == port
        assert free_port(port, SIP_SOCKETS) != port
    assert free_port(port, SIP_SOCKETS) == port


def test_the_sandbox_keeps_the_sip_port_that_it_once_took(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    given, quiet = UserSettings({}, tmp_path), Terminal(Console(file=io.StringIO(), width=400))
    taken = free_port(None, SIP_SOCKETS)
    (tmp_path / "sip.port").write_text(f"{taken}\n")
    seen = []
    for is_in_use in (False, True, False):
        with contextlib.ExitStack() as running:
            if is_in_use:
                running.enter_context(socket.socket(type=socket.SOCK_DGRAM)).bind(("127.0.0.1", taken))
            settings = _sandbox(tmp_path, given, quiet, running)
            shown = JsonClient(settings["TWILIO_BASE_URL"]).get("/sandbox/sip")
            assert settings["LIVEKIT_SIP_URI"] == shown["uri"]
            assert (shown["source"], shown["tcp"], shown["udp"]) == ("54.172.60.0", True, True)
            seen.append(shown["address"])
    assert seen[0] == f"127.0.0.1:{taken}"
    assert seen[1] == seen[2] != seen[0]


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
def test_only_notable_lines_are_shown_at_the_terminal(line: str, worth: bool) -> None:
    assert bool(NOTABLE_LINE.search(line)) is worth


def test_valkey_restarts_with_its_password_and_port(own_valkey: ValkeyServer) -> None:
    with redis.Redis.from_url(own_valkey.url) as client:
        client.set("kept", "1")
        own_valkey.restart()
        assert client.get("kept") == b"1"


def test_a_second_valkey_ends_an_orphan_of_the_first() -> None:
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


def test_no_phone_number_is_in_postgresqls_log(postgres_server: PostgresServer, empty_database_url: str) -> None:
    number, url = "+15145550042", empty_database_url.replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE phones (number text UNIQUE CHECK (number <> ''))")
        connection.execute("SET log_statement = 'all'")
        connection.execute("INSERT INTO phones VALUES (%s)", [number])
        for statement in (
            "INSERT INTO phones VALUES (%s)",
            "INSERT INTO phones VALUES (%s || repeat('x', 1 / 0))",
            "SELECT * FROM nowhere WHERE number = %s",
        ):
            with pytest.raises(psycopg.Error):
                connection.execute(statement, [number])
    with psycopg.connect(url, autocommit=True) as person, pytest.raises(psycopg.Error):
        person.execute(sql.SQL("INSERT INTO phones VALUES ({})").format(number))
    log = postgres_server.process._log_file.read_text(errors="replace")
    assert "duplicate key" in log
    assert number not in log


def test_an_unusable_data_directory_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StackError, match=r"cannot hold our data \(Not a directory"), locked_data_dir(place):
            pass


def test_a_dotenv_file_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes("NAME=caf\u00e9".encode("latin-1"))
    with pytest.raises(StackError, match="is not UTF-8"):
        read_user_settings(tmp_path)


def test_one_port_for_two_servers_is_refused(tmp_path: Path) -> None:
    port = str(free_port())
    given = UserSettings({"PORT": port, "FLOWER_PORT": port, "DATA_DIR": str(tmp_path / "data")}, tmp_path)
    with pytest.raises(StackError, match=f"PORT and FLOWER_PORT are both {port}"), running_stack(given, _silent()):
        pass


def test_malformed_settings_are_reported_before_a_process_fails_because_of_them() -> None:
    environ = {"DATABASE_URL": "postgresql://x@127.0.0.1/x", "OPERATION_BUDGET_S": "soon"}
    with pytest.raises(StackError, match=r"(?s)settings .* are not right:.*\n    OPERATION_BUDGET_S: "):
        _check_settings(environ)


@pytest.mark.parametrize("value", ["/home/o'brien/it", "C:\\folder", '/tr\u00e4nk line/"x"', "'"])
def test_the_file_for_a_second_terminal_is_read_back_unchanged(tmp_path: Path, value: str) -> None:
    write_stack_env(tmp_path / "stack.env", {"DATA_DIR": value, "PORT": "1"})

    assert dotenv_values(tmp_path / "stack.env") == {"DATA_DIR": value, "PORT": "1"}


def test_valkey_runs_in_a_folder_of_any_name(tmp_path: Path) -> None:
    server = ValkeyServer(tmp_path / "o'brien's \"tr\u00e4nk\" line %s", throwaway=True)
    try:
        server.start()
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()
    finally:
        server.stop()


def test_children_write_what_their_logs_can_hold() -> None:
    environ = child_environment(UserSettings({"PYTHONIOENCODING": "ascii"}, Path()), {})
    done = subprocess.run(
        [sys.executable, "-c", r"print('\u2713 \ud800')"], env=environ, capture_output=True, check=True
    )

    assert done.stdout.decode() == "\u2713 \\ud800\n"


@pytest.mark.parametrize(("encoding", "shown"), [("iso-8859-1", "+ x caf\u00e9 ?"), ("ascii", "+ x caf? ?")])
def test_symbols_are_replaced_where_the_terminal_lacks_them(encoding: str, shown: str) -> None:
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding, errors=ERRORS, write_through=True)
    Terminal(Console(file=out)).plain("\u2713 \u2717 caf\u00e9 \u6f22")

    assert raw.getvalue().decode(encoding) == f"{shown}\n"


LOSER = """
import os, signal, sys
from app.dev.localstack.terminal import Terminal, robust_output
sys.stdout = robust_output(lambda error: sys.stderr.write(error.strerror + "!"))
terminal = Terminal()
for _ in range(3):
    terminal.plain("x")
sys.stderr.write("end")
"""


def test_an_output_that_nobody_reads_fails_no_print_and_is_reported_once() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(  # noqa: S603 - ours
            [sys.executable, "-c", LOSER], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )

    assert (done.returncode, done.stderr) == (0, "No space left on device!end")


class Answers(JsonClient):
    """A server that answers every call with one status and body, or not at all."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__("http://127.0.0.1:1")
        self.answer = status, body

    def call(self, *_: object) -> tuple[int, Any]:
        if self.answer[0] == 0:
            raise ConnectionRefusedError(111, "Connection refused")
        return self.answer


def _checks(**verdicts: bool) -> dict[str, Any]:
    return {"checks": [{"name": name, "ok": ok, "detail": None if ok else "gone"} for name, ok in verdicts.items()]}


@pytest.mark.parametrize(
    ("status", "body", "missing"),
    [
        (200, _checks(database=True, migrations=True), ""),
        (200, _checks(database=True, twilio=False), ""),
        (503, _checks(database=True, broker=True, twilio=False, livekit=False), ""),
        (503, _checks(database=False, broker=True, twilio=False), "database: gone"),
        (200, _checks(database=True, broker=False), "broker: gone"),
        (502, "Bad Gateway", "/readyz answers 502"),
        (0, None, "Connection refused"),
    ],
)
def test_a_start_waits_for_the_api_and_not_for_the_providers(status: int, body: Any, missing: str) -> None:
    assert demo._missing(Answers(status, body)) == missing


def _silent() -> Terminal:
    return Terminal(Console(file=io.StringIO(), width=400))


def _shown(output: str) -> tuple[bool, str]:
    terminal = _silent()
    doctor = subprocess.Popen(  # noqa: S603 - ours
        [sys.executable, "-c", f"print({output!r})"], stdout=subprocess.PIPE, encoding="utf-8"
    )
    with doctor:
        is_well = demo._show_findings(doctor, terminal, threading.Event())
    assert isinstance(terminal.console.file, io.StringIO)
    return is_well, terminal.console.file.getvalue()


def test_a_wrong_credential_is_reported_as_doctor_does_and_the_start_goes_on() -> None:
    checks = [
        {"name": "settings", "verdict": "ok", "detail": "fine", "mend": ""},
        {"name": "Twilio", "verdict": "failed", "detail": "Twilio refused ping: HTTP 401.", "mend": "Copy it again."},
        {"name": "trunks", "verdict": "skipped", "detail": "not checked", "mend": ""},
        {"name": "workers", "verdict": "failed", "detail": "nobody works", "mend": "Start one."},
    ]
    is_well, shown = _shown(json.dumps({"checks": checks}))

    assert not is_well
    assert "Twilio refused ping: HTTP 401." in shown
    assert "\u2192 Copy it again." in shown
    assert not [each for each in ("fine", "not checked", "nobody works") if each in shown]


def test_warnings_of_providers_do_not_make_a_start_fail() -> None:
    warning = {"name": "trunks", "verdict": "warning", "detail": "5 are free", "mend": "Ask for more."}

    is_well, shown = _shown('{"checks": []}')
    assert is_well
    assert shown.startswith("  Providers    let us in")
    is_well, shown = _shown(json.dumps({"checks": [warning]}))
    assert is_well
    assert "5 are free" in shown


def test_a_doctor_that_crashes_counts_as_a_failure() -> None:
    is_well, shown = _shown("Traceback")

    assert not is_well
    assert "trunkline doctor" in shown


def test_the_sandbox_needs_no_doctor(tmp_path: Path) -> None:
    stack = Stack(tmp_path, {}, "http://127.0.0.1:1", 1, 2)
    with demo.provider_check(stack, _silent(), threading.Event()) as is_well:
        assert is_well()


def test_checks_that_depend_on_starting_processes_are_left_out() -> None:
    assert {check.name for check in PROCESS_CHECKS} == demo.STARTING


def test_a_private_file_that_cannot_be_written_leaves_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "password").mkdir()
    with contextlib.suppress(OSError):
        load_or_make_password(tmp_path / "password")
    with pytest.raises(OSError, match="directory"):
        write_stack_env(tmp_path / "password", {})
    assert [path.name for path in tmp_path.iterdir()] == ["password"]
