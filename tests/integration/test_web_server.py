"""gunicorn as the Procfile starts it, with clients that send half a request."""

import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from app.localstack.processes import ServerProcess, free_port
from tests.support.servers import ROOT

THREADS = 2

PATIENCE_S = 30.0
"""Seconds for a start or an answer: under 1 as a rule."""

CONFIG = """\
from app import web_server
from app.web_server import on_starting, when_ready
web_server.READ_TIMEOUT_S = 0.3
"""
"""The project's own hooks with a limit that a test can wait for."""

HALVES = (b"GET / HTT", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")


def _ask(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return client.recv(12)


def _answers(port: int) -> bool:
    try:
        return _ask(port) == b"HTTP/1.1 200"
    except OSError:
        return False


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """A gunicorn of two threads whose application reads the whole body."""
    (tmp_path / "settings.py").write_text(CONFIG)
    (tmp_path / "reading.py").write_text(
        "def app(environ, start):\n    environ['wsgi.input'].read()\n    start('200 OK', [])\n    return [b'']\n"
    )
    port = free_port()
    options = [
        "--bind",
        f"127.0.0.1:{port}",
        "--chdir",
        str(tmp_path),
        "--threads",
        str(THREADS),
        "--no-control-socket",
    ]
    server = ServerProcess("gunicorn", tmp_path / "pid", tmp_path / "log")
    command = [sys.executable, "-m", "gunicorn", "reading:app", "-c", str(tmp_path / "settings.py"), "-k", "gthread"]
    server.start([*command, *options], {**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        server.wait_until(lambda: _answers(port), PATIENCE_S)
        yield port
    finally:
        server.stop()


@pytest.mark.parametrize("half", HALVES, ids=["half a head", "half a body"])
def test_clients_that_send_half_a_request_do_not_keep_others_out(port: int, tmp_path: Path, half: bytes) -> None:
    with ExitStack() as stack:
        for _ in range(THREADS):
            stack.enter_context(socket.create_connection(("127.0.0.1", port))).sendall(half)

        assert _ask(port) == b"HTTP/1.1 200"
    log = (tmp_path / "log").read_text()
    assert "A client was silent within a request and was cut off." in log
    assert "Traceback" not in log


def test_the_procfile_uses_these_settings() -> None:
    (web,) = [line for line in (ROOT / "Procfile").read_text().splitlines() if line.startswith("web:")]
    words = shlex.split(web)

    assert words[words.index("--config") + 1] == "python:app.web_server"
