"""How the processes of the Procfile live and die together."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from honcho.printer import Message
from rich.console import Console

from app.dev.localstack.processes import is_running, poll_until
from app.dev.localstack.supervision import LogFiles, Supervisor
from app.dev.localstack.terminal import Terminal

WAIT_S = 20

RUNNER = """
import os, sys
from pathlib import Path
from app.dev.localstack.host import StackError
from app.dev.localstack.supervision import LogFiles, run_procfile
from app.dev.localstack.terminal import Terminal
folder = Path(sys.argv[1])
logs = LogFiles(folder, Terminal(), verbose=False)
exec(sys.argv[3])
try:
    run_procfile(folder / "Procfile", os.environ, logs, lambda stopping: eval(sys.argv[2]))
except StackError as error:
    sys.exit(f"StackError: {error}")
finally:
    logs.close()
"""

SLEEPER = f"""exec '{sys.executable}' -c "import os, time; print(os.getpid(), flush=True); time.sleep(600)\""""


@contextmanager
def supervised(
    folder: Path, procfile: str, companion: str = "None", setup: str = ""
) -> Iterator[subprocess.Popen[str]]:
    (folder / "Procfile").write_text(procfile)
    command = [sys.executable, "-c", RUNNER, folder, companion, setup]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:  # noqa: S603
        try:
            yield running
        finally:
            running.kill()


def pid_in_log(folder: Path, name: str) -> int:
    log = folder / f"{name}.log"
    assert poll_until(lambda: log.exists() and log.read_text().endswith("\n"), WAIT_S)
    return int(log.read_text().split()[0])


def test_a_process_that_dies_is_named_with_its_last_lines_and_ends_the_others(tmp_path: Path) -> None:
    dying = f"""exec '{sys.executable}' -c "import sys, time; print('out of luck'); time.sleep(0.5); sys.exit(3)\""""
    with supervised(tmp_path, f"steady: {SLEEPER}\ndying: {dying}\n") as running:
        steady = pid_in_log(tmp_path, "steady")
        _, output = running.communicate(timeout=WAIT_S)
    assert running.returncode == 1
    assert "StackError: dying ended with exit code 3" in output
    assert "out of luck" in output
    assert "steady" not in output
    assert not is_running(steady)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_every_process_and_is_no_failure(tmp_path: Path, signum: signal.Signals) -> None:
    with supervised(tmp_path, f"one: {SLEEPER}\ntwo: {SLEEPER}\n") as running:
        pids = [pid_in_log(tmp_path, name) for name in ("one", "two")]
        running.send_signal(signum)
        _, output = running.communicate(timeout=WAIT_S)
    assert (running.returncode, output) == (0, "")
    assert not any(map(is_running, pids))


def test_no_process_outlives_a_supervisor_that_was_killed(tmp_path: Path) -> None:
    with supervised(tmp_path, f"one: {SLEEPER}\ntwo: {SLEEPER}\n") as running:
        pids = [pid_in_log(tmp_path, name) for name in ("one", "two")]
        os.kill(running.pid, signal.SIGKILL)
        assert poll_until(lambda: not any(map(is_running, pids)), WAIT_S)


def test_the_terminal_shows_a_warning_and_the_log_file_everything(tmp_path: Path) -> None:
    script = "print('a calm line'); print('WARNING the number is gone'); import time; time.sleep(0.2)"
    with supervised(tmp_path, f"talker: exec '{sys.executable}' -c \"{script}\"\n") as running:
        shown, _ = running.communicate(timeout=WAIT_S)
    assert shown.strip() == "talker | WARNING the number is gone"
    assert (tmp_path / "talker.log").read_text() == "a calm line\nWARNING the number is gone\n"


def test_whatever_fails_beside_the_processes_ends_them_with_a_sentence(tmp_path: Path) -> None:
    with supervised(tmp_path, f"one: {SLEEPER}\n", "int('x')") as running:
        _, output = running.communicate(timeout=WAIT_S)
    assert running.returncode == 1
    assert output == "StackError: the start failed: invalid literal for int() with base 10: 'x' (ValueError)\n"
    assert not any(map(is_running, [pid_in_log(tmp_path, "one")] if (tmp_path / "one.log").exists() else []))


def test_whatever_fails_in_the_loop_ends_every_process(tmp_path: Path) -> None:
    breaking = "write = logs.write; logs.write = lambda message: write(message) or 1 / (message.name != 'one')"
    with supervised(tmp_path, f"one: {SLEEPER}\n", setup=breaking) as running:
        _, output = running.communicate(timeout=WAIT_S)
    assert "ZeroDivisionError" in output
    assert not is_running(pid_in_log(tmp_path, "one"))


def test_a_signal_before_every_process_id_is_known_waits_until_it_is() -> None:
    supervisor = Supervisor(_logs(Path()), lambda: None)
    supervisor.add_process("one", "true")
    supervisor._processes["one"]["process"] = Alive()

    supervisor.terminate()
    assert not supervisor._all_started()
    assert not supervisor.stopping.is_set()

    supervisor._processes["one"] |= {"pid": 1, "returncode": 0}
    assert supervisor._all_started()
    assert supervisor.stopping.is_set()


class Alive:
    """A relay that runs."""

    def is_alive(self) -> bool:
        return True


def _logs(folder: Path) -> LogFiles:
    return LogFiles(folder, Terminal(Console(file=io.StringIO())), verbose=False)


def test_a_log_that_cannot_be_written_is_reported_once_and_continues_when_it_can(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    logs = _logs(folder)
    lines = [Message(type="line", data=f"{number}\n", time=None, name="web", colour=None) for number in range(4)]
    for line in lines[:2]:
        logs.write(line)
    folder.mkdir()
    for line in lines[2:]:
        logs.write(line)
    logs.close()

    assert (folder / "web.log").read_text() == "2\n3\n"
    assert isinstance(logs._terminal.console.file, io.StringIO)
    assert logs._terminal.console.file.getvalue().count("the logs cannot be written") == 1


def test_a_full_disk_loses_log_lines_and_ends_no_process(tmp_path: Path) -> None:
    logs = _logs(tmp_path)
    logs._files["web"] = Path("/dev/full").open("w")  # noqa: SIM115 - the log's own business from here
    for text in ("lost", "kept"):
        logs.write(Message(type="line", data=f"{text}\n", time=None, name="web", colour=None))
    logs.close()

    assert (tmp_path / "web.log").read_text() == "kept\n"
