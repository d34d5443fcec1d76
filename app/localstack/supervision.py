"""Runs the lines of the Procfile through honcho until one of them dies or a person stops them."""

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

from app.localstack.errors import StackError
from app.localstack.processes import die_with_parent
from app.localstack.terminal import Terminal

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

    def write(self, message: Any) -> None:
        """Take one message of honcho's, its own remarks (`system`) included."""
        data = message.data.decode("utf-8", "replace") if isinstance(message.data, bytes) else message.data
        for line in data.splitlines():
            file = self._file(message.name)
            file.write(line + "\n")
            file.flush()
            if self._verbose or (message.name != "system" and WORTH_A_LOOK.search(line)):
                self._terminal.plain(f"{message.name:<{self.width}} | {line}")

    def tail(self, name: str) -> str:
        """Return the last lines that the process wrote, indented."""
        lines = (self._folder / f"{name}.log").read_text(encoding="utf-8").splitlines()
        return "\n".join(f"    {line}" for line in lines[-TAIL_LINES:])

    def close(self) -> None:
        """Close every log."""
        for file in self._files.values():
            file.close()

    def _file(self, name: str) -> TextIO:
        if name not in self._files:
            path = self._folder / f"{name}.log"
            if path.exists():
                path.replace(path.with_name(f"{name}.log.1"))
            self._files[name] = path.open("w", encoding="utf-8")
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

    def terminate(self) -> None:
        """Ask every process to stop; whoever had stopped before this did so by itself."""
        if not self.stopping.is_set():
            self.died = {name: each["returncode"] for name, each in self._processes.items() if "returncode" in each}
            self.stopping.set()
        super().terminate()

    def join_companion(self) -> None:
        """Wait for the companion to notice the end, so that it leaves the terminal as it found it."""
        self._companion.join(timeout=2)

    def _start(self) -> None:
        super()._start()
        # After the forks: a thread of ours must not be copied into them with a lock in its hand.
        self._companion.start()

    def _accompany(self, companion: Callable[[], None]) -> None:
        try:
            companion()
        except StackError as error:
            self.failure = error
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
    supervisor.loop()
    supervisor.join_companion()
    if supervisor.failure:
        raise supervisor.failure
    if supervisor.died:
        told = (f"{name} {_ending(code)}; its last lines:\n{logs.tail(name)}" for name, code in supervisor.died.items())
        raise StackError("\n".join(told))


def _ending(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
