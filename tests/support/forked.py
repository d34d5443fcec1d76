"""Processes of Python that begin as copies of one that has imported everything: a start takes 0.1 s of CPU, not 1.3.

They are processes of their own, with their own memory, sockets and signals; only the imports are not done again.
`python -m tests.support.forked` is the one that is copied. It ends with its standard input, and the copies with it.
"""

import atexit
import gc
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from app.dev.localstack.host import Account
from app.dev.localstack.processes import Launched, ServerProcess, die_with_parent

ROOT = Path(__file__).resolve().parents[2]
"""The project."""

IMPORTED = (
    "gunicorn.app.wsgiapp",
    "gunicorn.workers.gthread",
    "celery.bin.celery",
    "celery.apps.worker",
    "celery.concurrency.thread",
    "celery.worker.consumer",
    "kombu.transport.redis",
    "flask.cli",
    "app.api.application",
    "app.console.application",
    "app.web.server",
    "app.cli.upkeep",
    "app.providers.livekit",
    "app.providers.twilio",
    "app.saga.batch",
    "app.sweeper",
    "tasks.publisher",
    "tasks.steps",
    "tasks.upkeep",
    "tasks.webhooks",
)
"""What web, worker and sweeper import at their start. Nothing of it reads the environment or starts a thread."""


class ForkedProcess(ServerProcess):
    """A server whose command is `python -m MODULE ARGUMENTS...`, begun as a copy."""

    def _launch(self, command: Sequence[str], environ: Mapping[str, str], account: Account | None) -> Launched:
        assert (command[:2], account) == ([sys.executable, "-m"], None)
        self._log_file.write_bytes(b"")
        order = {"argv": command[2:], "environ": dict(environ), "log": str(self._log_file)}
        return Copy(_template().fork(order | {"signal": int(self._stop_signal)}))


class Copy:
    """A process that is no child of ours, as `subprocess.Popen` has its own; its exit code is not known."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        try:
            self._file: int | None = os.pidfd_open(pid)
        except ProcessLookupError:
            self._file = None  # it has ended already

    def poll(self) -> int | None:
        return None if self._file is not None and not self._has_ended(0) else 0

    def wait(self, timeout: float | None = None) -> int:
        if self._file is not None and not self._has_ended(timeout):
            raise subprocess.TimeoutExpired([], timeout or 0)
        return 0

    def send_signal(self, sig: int) -> None:
        if self.poll() is None and self._file is not None:
            signal.pidfd_send_signal(self._file, sig)

    def _has_ended(self, timeout: float | None) -> bool:
        assert self._file is not None
        has_ended = bool(select.select([self._file], [], [], timeout)[0])
        if has_ended:
            os.close(self._file)
            self._file = None
        return has_ended


class Template:
    """The process that is copied."""

    def __init__(self) -> None:
        self._ordering = threading.Lock()
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            preexec_fn=die_with_parent(signal.SIGKILL),  # noqa: PLW1509 - one system call, no Python state
        )

    def fork(self, order: Mapping[str, Any]) -> int:
        """Begin a copy; return its process id."""
        reading, writing = self._process.stdout, self._process.stdin
        assert reading is not None
        assert writing is not None
        with self._ordering:
            writing.write(json.dumps(order).encode() + b"\n")
            writing.flush()
            return int(reading.readline())

    def close(self) -> None:
        """End it, and every copy that is left."""
        self._process.communicate()


@cache
def _template() -> Template:
    template = Template()
    atexit.register(template.close)
    return template


def main() -> None:
    """Import everything, then become a copy for each order: a line of JSON, answered by the process id."""
    for module in IMPORTED:
        import_module(module)
    assert threading.active_count() == 1
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, _reap)
    for line in iter(sys.stdin.buffer.readline, b""):
        pid = os.fork()
        if not pid:
            _become(json.loads(line))
            return
        os.write(1, f"{pid}\n".encode())


def _reap(*_: object) -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def _become(order: Mapping[str, Any]) -> None:
    """Be what an order asks for, as if it had been executed."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    end_with_parent = die_with_parent(signal.Signals(order["signal"]))
    if end_with_parent is not None:
        end_with_parent()
    nothing, log = os.open(os.devnull, os.O_RDONLY), os.open(order["log"], os.O_WRONLY)
    for number, file in ((0, nothing), (1, log), (2, log)):
        os.dup2(file, number)
    os.close(nothing)
    os.close(log)
    os.environ.clear()
    os.environ.update(order["environ"])
    module, *arguments = order["argv"]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
