"""Runs the lines of the Procfile through honcho until one of them dies or a person stops them."""

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

from app.dev.localstack.machine import StackError, sentence_of
from app.dev.localstack.processes import die_with_parent
from app.dev.localstack.terminal import Terminal

SHUTDOWN_S = 30
"""Seconds until a process that was asked to stop is killed: a warm shutdown lets a provider call (20) finish."""

TAIL_LINES = 12
"""Lines of a dead process's log that are shown."""

WORTH_A_LOOK = re.compile(
    r"\b(WARNING|ERROR|CRITICAL)\b|\[(warning|error|critical)\s*\]|\"level\": ?\"(warning|error|critical)\""
)
"""A log line that a person at the terminal should see: Python's, structlog's or JSON's way to say so."""

honcho.manager.KILL_WAIT = SHUTDOWN_S


class LeashedProcess(Process):  # type: ignore[misc]  # honcho carries no types
    """A process that ends when the command that runs the stack dies without a word."""

    def run(self, events: Any = None, ignore_signals: bool = False) -> None:
        """Start the child and relay its output; runs in a process of its own."""
        # SIGKILL, not SIGTERM: a worker whose broker went first waits for it for ever instead of shutting down, and a
        # process killed at any moment is what the rows are made for.
        leash = die_with_parent(signal.SIGKILL)
        if leash:
            leash()
        self._child_ctor = functools.partial(Popen, preexec_fn=leash)
        super().run(events, ignore_signals)


class LogFiles:
    """Honcho's printer: every line goes to the process's own log, and to the terminal when it matters (or always)."""

    def __init__(self, folder: Path, terminal: Terminal, *, verbose: bool) -> None:
        self.width = 0
        self._folder = folder
        self._terminal = terminal
        self._verbose = verbose
        self._files: dict[str, TextIO] = {}
        self._begun: set[str] = set()
        self._is_losing = False

    def write(self, message: Any) -> None:
        """Take one message of honcho's, its own remarks (`system`) included."""
        data = message.data.decode("utf-8", "replace") if isinstance(message.data, bytes) else message.data
        for line in data.splitlines():
            self._keep(message.name, line)
            if self._verbose or (message.name != "system" and WORTH_A_LOOK.search(line)):
                self._terminal.plain(f"{message.name:<{self.width}} | {line}")

    def tail(self, name: str) -> str:
        """Return the last lines that the process wrote, indented."""
        try:
            lines = (self._folder / f"{name}.log").read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError as error:
            return f"    (no log: {sentence_of(error)})"
        return "\n".join(f"    {line}" for line in lines[-TAIL_LINES:])

    def close(self) -> None:
        """Close every log."""
        for file in self._files.values():
            # What a full disk has not taken by now it will not take.
            with contextlib.suppress(OSError):
                file.close()

    def _keep(self, name: str, line: str) -> None:
        """Write a line to the log; while that fails (a full disk) the line is dropped, and a person is told once."""
        try:
            file = self._file(name)
            file.write(line + "\n")
            file.flush()
        except OSError as error:
            if broken := self._files.pop(name, None):
                with contextlib.suppress(OSError):
                    broken.close()
            if not self._is_losing:
                self._terminal.problem(f"the logs cannot be written, and are not until they can: {sentence_of(error)}")
            self._is_losing = True
        else:
            self._is_losing = False

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
    """Runs all processes, and `companion` beside them in a thread; remembers who died first."""

    def __init__(self, logs: LogFiles, companion: Callable[[], None]) -> None:
        super().__init__(logs)
        self._process_ctor = LeashedProcess
        self._companion = threading.Thread(target=self._accompany, args=(companion,), daemon=True)
        self.died: dict[str, int] = {}
        self.failure: StackError | None = None
        self.stopping = threading.Event()
        self._is_asked_early = False

    def terminate(self) -> None:
        """Ask every process to stop; whoever had stopped before this did so by itself."""
        if not self._all_known():
            # Honcho has not heard every process id yet, and would fail on the first that it lacks.
            self._is_asked_early = True
            return
        if not self.stopping.is_set():
            self.died = {name: each["returncode"] for name, each in self._processes.items() if "returncode" in each}
            self.stopping.set()
        super().terminate()

    def abandon(self) -> None:
        """End every process at once, where the loop that watches them has failed."""
        self.stopping.set()
        for each in self._processes.values():
            # The relay's end is the process's end: it is on a leash.
            if relay := each.get("process"):
                relay.kill()
                relay.join()

    def join_companion(self) -> None:
        """Wait for the companion to notice the end, so that it leaves the terminal as it found it."""
        self._companion.join(timeout=2)

    def _start(self) -> None:
        super()._start()
        # After the forks: a thread of ours must not be copied into them with a lock in its hand.
        self._companion.start()

    def _all_known(self) -> bool:
        return all("pid" in each for each in self._processes.values())

    def _all_started(self) -> bool:
        """Say whether honcho knows of every process; it asks after each message, and ten times a second."""
        if self._all_known():
            if self._is_asked_early:
                self._is_asked_early = False
                self.terminate()
            return True
        lost = [name for name, each in self._processes.items() if "pid" not in each and not each["process"].is_alive()]
        if lost and self.events.empty():
            raise StackError(f"{', '.join(lost)} could not be started: out of memory or processes?")
        return False

    def _accompany(self, companion: Callable[[], None]) -> None:
        try:
            companion()
        except Exception as error:  # noqa: BLE001 - whatever it is, without the companion the start never ends
            self.failure = (
                error
                if isinstance(error, StackError)
                else StackError(f"the start failed: {sentence_of(error)} ({type(error).__name__})")
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
        # The leash is tied to the forking parent, which must be us and not a fork server.
        multiprocessing.set_start_method("fork")
    supervisor = Supervisor(logs, lambda: companion(supervisor.stopping))
    for name, command in parse_procfile(procfile.read_text(encoding="utf-8")).processes.items():
        supervisor.add_process(name, command, env=dict(environ), cwd=str(procfile.parent))
    try:
        supervisor.loop()
    except BaseException:
        supervisor.abandon()
        raise
    supervisor.join_companion()
    if supervisor.failure:
        raise supervisor.failure
    if supervisor.died:
        told = (f"{name} {_ending(code)}; its last lines:\n{logs.tail(name)}" for name, code in supervisor.died.items())
        raise StackError("\n".join(told))


def _ending(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
