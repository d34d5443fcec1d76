"""Local server processes: started, called over HTTP, ended with the command that started them, or found again later."""

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from app.dev.localstack.host import Account, StackError

POLL_S = 0.02
"""Seconds between two checks of something that is starting or ending: a start takes 50 ms at best."""

STOP_S = 20.0
"""Seconds for a clean shutdown; a PostgreSQL with a busy checkpoint was seen to take 3."""

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal the kernel sends to a process when its parent dies."""

_prctl = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform == "linux" else None


def die_with_parent(signum: signal.Signals) -> Callable[[], None] | None:
    """Return a `preexec_fn` after which the child gets `signum` when we die, even by SIGKILL; None where unsupported.

    Linux ties this to the *thread* that forks, so only servers that the main thread starts have it.
    """
    if _prctl is None or threading.current_thread() is not threading.main_thread():
        return None
    prctl = _prctl
    return lambda: prctl(PR_SET_PDEATHSIG, int(signum))


TCP = (socket.SOCK_STREAM,)


def free_port(preferred: int | None = None, kinds: Sequence[int] = TCP) -> int:
    """Return `preferred` when nothing listens there, else any free port of 127.0.0.1; `kinds` are those of sockets."""
    if preferred is not None and port_is_free(preferred, kinds):
        return preferred
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port_is_free(port, kinds):
            return port


def port_is_free(port: int, kinds: Sequence[int] = TCP) -> bool:
    """Say whether a server could listen on this port of 127.0.0.1 now, with sockets of all these kinds."""
    for kind in kinds:
        with socket.socket(type=kind) as probe:
            if kind == socket.SOCK_STREAM:
                # As servers do: a port in TIME_WAIT counts as free.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True


def poll_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Check `condition` until it holds; False when it does not within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def is_running(pid: int) -> bool:
    """Say whether the process exists and is not a zombie."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        if Path("/proc/self/stat").exists():
            return stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
        os.kill(pid, 0)
    except (ProcessLookupError, FileNotFoundError):
        return False
    except PermissionError:
        return True
    return True


def family(pid: int) -> list[int]:
    """Return `pid` and its direct children, which in PostgreSQL are leaders of their own sessions."""
    with contextlib.suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8")
        return [pid, *map(int, children.split())]
    return [pid]


def command_line(pid: int) -> str:
    """Return the command line of a process, or "" when there is none."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace").replace("\0", " ")
    except OSError:
        # S603, S607: not Linux; `ps` is in the base system of every other Unix.
        ps = ["ps", "-o", "command=", "-p", str(pid)]
        return subprocess.run(ps, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S603


class Launched(Protocol):
    """A process that was started, as `subprocess.Popen` has it."""

    pid: int

    def poll(self) -> int | None:
        """Return the exit code; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended; `subprocess.TimeoutExpired` after so many seconds."""

    def send_signal(self, sig: int) -> None:
        """Send it a signal; does nothing where it has ended."""


class ServerProcess:
    """One server process in a session of its own; its pid is on disk, so that the next run finds it."""

    def __init__(self, name: str, pid_file: Path, log_file: Path, stop_signal: signal.Signals = signal.SIGTERM) -> None:
        self.name = name
        self._pid_file = pid_file
        self._log_file = log_file
        self._stop_signal = stop_signal
        self._popen: Launched | None = None

    @property
    def pid(self) -> int:
        """The process id; StackError when the server is not started."""
        if self._popen is None:
            raise StackError(f"{self.name} is not running")
        return self._popen.pid

    @property
    def is_alive(self) -> bool:
        """Whether the process runs; a paused one counts as running."""
        return self._popen is not None and self._popen.poll() is None

    def start(self, command: Sequence[str | Path], environ: Mapping[str, str], account: Account | None = None) -> None:
        """Start the server, its output to the log file (the previous log kept beside it as `.1`)."""
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self._log_file.replace(self._log_file.with_name(self._log_file.name + ".1"))
        self._popen = self._launch([os.fspath(part) for part in command], environ, account)
        self._pid_file.write_text(f"{self._popen.pid}\n", encoding="utf-8")

    def _launch(self, command: Sequence[str], environ: Mapping[str, str], account: Account | None) -> Launched:
        with self._log_file.open("wb") as log:
            return subprocess.Popen(  # noqa: S603 - our own command
                command,
                env=dict(environ),
                cwd="/" if account else None,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent(self._stop_signal),  # noqa: PLW1509 - one system call, no Python state
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
            )

    def wait_until(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Wait for `ready`; StackError with the log's last lines when the server ends or does not get ready."""
        if poll_until(lambda: not self.is_alive or ready(), timeout_s) and self.is_alive:
            return
        ended = "does not answer" if self.is_alive else "ended at once"
        self.kill()
        raise StackError(f"{self.name} {ended}; {self._log_file}:\n{self.log_tail()}")

    def log_tail(self, lines: int = 8) -> str:
        """Return the last lines of the log, indented."""
        with contextlib.suppress(OSError):
            text = self._log_file.read_text(encoding="utf-8", errors="replace")
            return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])
        return "    (no log)"

    def stop(self) -> None:
        """Shut the server down cleanly, by force after STOP_S; does nothing when it is stopped."""
        if self._popen is not None and self._popen.poll() is None:
            self.resume()
            self._popen.send_signal(self._stop_signal)
            try:
                self._popen.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.kill()
        self._popen = None
        self._pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """SIGKILL the server and its children, as a power cut would, and wait until all are gone."""
        if self._popen is None:
            return
        members = self._signal_family(signal.SIGKILL)
        self._popen.wait()
        poll_until(lambda: not any(map(is_running, members)), STOP_S)
        self._popen = None
        self._pid_file.unlink(missing_ok=True)

    def pause(self) -> None:
        """SIGSTOP the server and its children: connections stay open and nothing answers."""
        self._signal_family(signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `pause`."""
        self._signal_family(signal.SIGCONT)

    def stop_orphan(self, marker: str) -> bool:
        """End a server that an earlier run left, if `marker` is in its command line; True when there was one."""
        try:
            pid = int(self._pid_file.read_text(encoding="utf-8").split()[0])
        except (OSError, ValueError, IndexError):
            return False
        found = is_running(pid) and marker in command_line(pid)
        if found:
            for signum in (self._stop_signal, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signum)
                if poll_until(lambda: not is_running(pid), STOP_S):
                    break
        self._pid_file.unlink(missing_ok=True)
        return found

    def _signal_family(self, signum: signal.Signals) -> list[int]:
        members = family(self.pid) if self.is_alive else []
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signum)
        return members


CALL_S = 10.0
"""Seconds until a call to a server on this machine is given up."""

# The user's proxy is for other hosts.
_opener = build_opener(ProxyHandler({}))


class JsonClient:
    """Calls one server on this machine."""

    def __init__(self, base_url: str, headers: Mapping[str, str] | None = None, timeout_s: float = CALL_S) -> None:
        self.base_url = base_url
        self._headers = {"Content-Type": "application/json", **(headers or {})}
        self._timeout_s = timeout_s

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Return the status and the decoded body (None when empty); OSError when nobody answers."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(self.base_url + path, data=data, headers=self._headers, method=method)  # noqa: S310
        try:
            with _opener.open(request, timeout=self._timeout_s) as answer:
                return answer.status, _decoded(answer.read())
        except HTTPError as refusal:
            with refusal:
                return refusal.code, _decoded(refusal.read())

    def get(self, path: str) -> Any:
        """Return the decoded body of a GET; OSError on any status but 200."""
        status, body = self.call("GET", path)
        if status != HTTPStatus.OK:
            raise OSError(f"GET {self.base_url}{path}: {status} {body}")
        return body

    def answers(self, path: str) -> bool:
        """Say whether a GET returns 200 now."""
        try:
            return self.call("GET", path)[0] == HTTPStatus.OK
        except OSError:
            return False


def _decoded(body: bytes) -> Any:
    """Decode JSON; another body is returned as text."""
    text = body.decode("utf-8", "replace")
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text
