"""The command line for shells of tests: each command is a copy of one process that has imported what commands import.

A start takes 0.1 s, not 1.5. `TOOL` is what lies in the shell's PATH as `trunkline`: it hands its arguments, folder,
environment and standard streams to that process, and ends with the exit code that it is told.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from app.cli.commands import COMMANDS
from app.dev.localstack.processes import die_with_parent, poll_until
from tests.support.forked import IMPORTED, ROOT

START_S = 60.0
"""Seconds until it is given up: 2 as a rule."""

LARGEST = 1 << 20
"""Bytes of an order: arguments and environment."""

TOOL = """\
#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as typed:
    typed.connect({path!r})
    order = {{"argv": sys.argv[1:], "cwd": os.getcwd(), "environ": dict(os.environ)}}
    socket.send_fds(typed, [json.dumps(order).encode()], [0, 1, 2])
    sys.exit(int(typed.recv(16) or 70))
"""


@contextmanager
def typed_commands(folder: Path) -> Iterator[str]:
    """Yield the text of a tool `trunkline` for shells, while the process behind it runs."""
    path = folder / "typed"
    command = [sys.executable, "-m", __name__, str(path)]
    end = die_with_parent(signal.SIGKILL)
    with subprocess.Popen(command, cwd=ROOT, preexec_fn=end) as process:  # noqa: S603, PLW1509 - our own command; one system call
        try:
            assert poll_until(path.exists, START_S)
            yield TOOL.format(python=sys.executable, path=str(path))
        finally:
            process.kill()


def main(path: str) -> None:
    """Import everything, then become a copy for each order."""
    for module in (*IMPORTED, "app.cli.__main__"):
        import_module(module)
    for command in COMMANDS:
        command.load()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"{path}.new")
        listener.listen()
        Path(f"{path}.new").rename(path)
        while True:
            caller, _ = listener.accept()
            if not os.fork():
                listener.close()
                _answer(caller)
            caller.close()


def _answer(caller: socket.socket) -> None:
    message, streams, _, _ = socket.recv_fds(caller, LARGEST, 3)
    order: dict[str, Any] = json.loads(message)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    end_with_parent = die_with_parent(signal.SIGKILL)
    if end_with_parent is not None:
        end_with_parent()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["environ"])
    # The streams that were opened at the start know what they were then: a file, a pipe.
    sys.stdin, sys.stdout, sys.stderr = (open(number, mode, encoding="utf-8") for number, mode in enumerate("rww"))  # noqa: PTH123, SIM115
    sys.argv = ["trunkline", *order["argv"]]
    code: object = 0
    try:
        import_module("app.cli.__main__").main()
    except SystemExit as end:
        code = end.code
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    caller.send(str(code if isinstance(code, int) else int(code is not None)).encode())
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
