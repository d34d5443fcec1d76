"""Runs the lines of the Procfile through honcho until one of them ends or the user stops them."""

import contextlib
import functools
import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import honcho.manager
from honcho.environ import parse_procfile
from honcho.process import Popen, Process

from app.dev.localstack.host import StackError, describe_error
from app.dev.localstack.processes import die_with_parent
from app.dev.localstack.terminal import Terminal

SHUTDOWN_S = 30
"""Seconds until a process that was asked to stop is killed: a warm shutdown lets a provider call (20) finish."""

TAIL_LINES = 12
"""Lines of a failed process's log that are shown."""

NOTABLE_LINE = re.compile(
    r"\b(WARNING|ERROR|CRITICAL)\b|\[(warning|error|critical)\s*\]|\"level\": ?\"(warning|error|critical)\""
)
"""A log line that is shown at the terminal: a warning or an error of Python's, structlog's or JSON."""

honcho.manager.KILL_WAIT = SHUTDOWN_S


class DependentProcess(Process):  # type: ignore[misc]  # honcho carries no types
    """A process that ends when the command that runs the stack is killed."""

    def run(self, events: Any = None, ignore_signals: bool = False) -> None:
        """Start the child and relay its output; runs in a process of its own."""
        # SIGKILL, not SIGTERM: a worker whose broker ended first waits for it for ever instead of shutting down, and a
        # kill at any moment loses nothing.
        preexec = die_with_parent(signal.SIGKILL)
        if preexec:
            preexec()
        self._child_ctor = functools.partial(Popen, preexec_fn=preexec)
        super().run(events, ignore_signals)


class LogFiles:
    """Honcho's printer: writes every line to the process's own log, and notable lines (or all) to the terminal."""

    def __init__(self, folder: Path, terminal: Terminal, *, verbose: bool) -> None:
        self.width = 0
        self._folder = folder
        self._terminal = terminal
        self._verbose = verbose
        self._files: dict[str, TextIO] = {}
        self._begun: set[str] = set()
        self._is_dropping = False

    def write(self, message: Any) -> None:
        """Write one message of honcho's; its own have the name `system`."""
        data = message.data.decode("utf-8", "replace") if isinstance(message.data, bytes) else message.data
        for line in data.splitlines():
            self._append(message.name, line)
            if self._verbose or (message.name != "system" and NOTABLE_LINE.search(line)):
                self._terminal.plain(f"{message.name:<{self.width}} | {line}")

    def tail(self, name: str) -> str:
        """Return the last lines that the process wrote, indented."""
        try:
            lines = (self._folder / f"{name}.log").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError as error:
            return f"    (no log: {describe_error(error)})"
        return "\n".join(f"    {line}" for line in lines[-TAIL_LINES:])

    def close(self) -> None:
        """Close every log."""
        for file in self._files.values():
            # What a full disk has not stored by now is lost.
            with contextlib.suppress(OSError):
                file.close()

    def _append(self, name: str, line: str) -> None:
        """Write a line to the log; while that fails (a full disk) the line is dropped, which is reported once."""
        try:
            file = self._file(name)
            file.write(line + "\n")
            file.flush()
        except OSError as error:
            if broken := self._files.pop(name, None):
                with contextlib.suppress(OSError):
                    broken.close()
            if not self._is_dropping:
                self._terminal.error_line(f"the logs cannot be written: {describe_error(error)}")
            self._is_dropping = True
        else:
            self._is_dropping = False

    def _file(self, name: str) -> TextIO:
        if name not in self._files:
            path = self._folder / f"{name}.log"
            is_ours = name in self._begun
            if path.exists() and not is_ours:
                path.replace(path.with_name(f"{name}.log.1"))
            self._files[name] = path.open("a" if is_ours else "w", encoding="utf-8")
            self._begun.add(name)
        return self._files[name]


class Supervisor(honcho.manager.Manager):  # type: ignore[misc]  # honcho carries no types
    """Runs all processes, and `companion` beside them in a thread; records which process ended first."""

    def __init__(self, logs: LogFiles, companion: Callable[[], None]) -> None:
        super().__init__(logs)
        self._process_ctor = DependentProcess
        self._companion = threading.Thread(target=self._run_companion, args=(companion,), daemon=True)
        self.ended: dict[str, int] = {}
        self.failure: StackError | None = None
        self.stopping = threading.Event()
        self._stop_requested_early = False

    def terminate(self) -> None:
        """Ask every process to stop; those that had ended before ended by themselves."""
        if not self._has_all_pids():
            # Honcho does not have every process id yet, and would fail on the first missing one.
            self._stop_requested_early = True
            return
        if not self.stopping.is_set():
            self.ended = {name: each["returncode"] for name, each in self._processes.items() if "returncode" in each}
            self.stopping.set()
        super().terminate()

    def kill_all(self) -> None:
        """Kill every process, when the loop that supervises them has failed."""
        self.stopping.set()
        for each in self._processes.values():
            # The process is killed with its parent, the relay.
            if relay := each.get("process"):
                relay.kill()
                relay.join()

    def join_companion(self) -> None:
        """Wait for the companion to end, so that it restores the terminal."""
        self._companion.join(timeout=2)

    def _start(self) -> None:
        super()._start()
        # After the forks: a fork must not copy a thread that holds a lock.
        self._companion.start()

    def _has_all_pids(self) -> bool:
        return all("pid" in each for each in self._processes.values())

    def _all_started(self) -> bool:
        """Say whether every process has started; honcho calls this after each message, and ten times a second."""
        if self._has_all_pids():
            if self._stop_requested_early:
                self._stop_requested_early = False
                self.terminate()
            return True
        lost = [name for name, each in self._processes.items() if "pid" not in each and not each["process"].is_alive()]
        if lost and self.events.empty():
            raise StackError(f"{', '.join(lost)} could not be started: out of memory or processes?")
        return False

    def _run_companion(self, companion: Callable[[], None]) -> None:
        try:
            companion()
        except Exception as error:  # noqa: BLE001 - whatever it is, the start would never end without the companion
            self.failure = (
                error
                if isinstance(error, StackError)
                else StackError(f"the start failed: {describe_error(error)} ({type(error).__name__})")
            )
            os.kill(os.getpid(), signal.SIGTERM)


def run_procfile(
    procfile: Path,
    environ: Mapping[str, str],
    logs: LogFiles,
    companion: Callable[[threading.Event], None],
) -> None:
    """Run every line until a signal ends them; StackError when a process or the companion failed."""
    if multiprocessing.get_start_method(allow_none=True) is None and "fork" in multiprocessing.get_all_start_methods():
        # A process dies with the parent that forks it, which must be this process and not a fork server.
        multiprocessing.set_start_method("fork")
    supervisor = Supervisor(logs, lambda: companion(supervisor.stopping))
    for name, command in parse_procfile(procfile.read_text(encoding="utf-8")).processes.items():
        supervisor.add_process(name, command, env=dict(environ), cwd=str(procfile.parent))
    try:
        supervisor.loop()
    except BaseException:
        supervisor.kill_all()
        raise
    supervisor.join_companion()
    if supervisor.failure:
        raise supervisor.failure
    if supervisor.ended:
        endings = (
            f"{name} {_ending(code)}; its last lines:\n{logs.tail(name)}" for name, code in supervisor.ended.items()
        )
        raise StackError("\n".join(endings))


def _ending(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
