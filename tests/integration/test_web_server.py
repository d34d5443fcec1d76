"""gunicorn as the Procfile starts it: clients that are slow on purpose, and requests that do not keep to HTTP."""

import json
import os
import resource
import shlex
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from app.dev.localstack.processes import ServerProcess, free_port
from app.web.connections import LARGE_BYTES, MAX_BUFFERED_BODY_BYTES, MAX_HEAD_BYTES
from app.web.worker import MAX_LARGE
from tests.support.forked import ForkedProcess
from tests.support.servers import ROOT

THREADS = 2

PATIENCE_S = 30.0
"""Seconds for a start or a response: under 1 as a rule."""

PROMPT_S = 2.0
"""Seconds within which a client is served whatever others do: a hundredth of it as a rule."""

APPLICATION = """\
import json, structlog, tempfile
from ipaddress import ip_network
from types import SimpleNamespace

from app.observability import logs
from app.web.context import WIRING

logs.configure("json")


def app(environ, start):
    structlog.contextvars.bind_contextvars(request_id="of-an-earlier-one")
    if environ["PATH_INFO"] == "/large":
        body = b"x" * 6_000_000
    else:
        try:
            text = environ["wsgi.input"].read().decode()
        except Exception as error:
            text = type(error).__name__
        told = [environ["PATH_INFO"], environ["SCRIPT_NAME"], len(text), text[:40], environ["wsgi.url_scheme"]]
        body = json.dumps(told[: 5 if environ["PATH_INFO"] == "/scheme" else 4]).encode()
    start("200 OK", [("Content-Length", str(len(body)))])
    return environ["wsgi.file_wrapper"](tempfile_with(body)) if environ["PATH_INFO"] == "/file" else [body]


app.extensions = {WIRING: SimpleNamespace(settings=SimpleNamespace(trusted_networks=[ip_network("127.0.0.8/29")]))}


def tempfile_with(body):
    file = tempfile.TemporaryFile()
    file.write(body)
    file.seek(0)
    return file
"""
"""Says what it was asked; reads the whole body."""

SHORT = "from app.web import worker\nworker.SILENCE_S, worker.TICK_S = 0.3, 0.05\n"
"""Limits that a test can wait for."""


@contextmanager
def _serving(
    folder: Path, settings: str = "", process: type[ServerProcess] = ForkedProcess
) -> Iterator[tuple[int, ServerProcess]]:
    (folder / "settings.py").write_text(f"{settings}from app.web.server import *\n")
    (folder / "telling.py").write_text(APPLICATION)
    port = free_port()
    server = process("gunicorn", folder / "pid", folder / "log")
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "telling:app",
        "-c",
        str(folder / "settings.py"),
        "--chdir",
        str(folder),
    ]
    command += ["--bind", f"127.0.0.1:{port}", "--threads", str(THREADS), "--keep-alive", "75", "--no-control-socket"]
    server.start(command, {**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        server.wait_until(lambda: _is_served(port), PATIENCE_S)
        yield port, server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("web")


@pytest.fixture(scope="module")
def port(folder: Path) -> Iterator[int]:
    """A server with two threads, executed as the Procfile's is."""
    with _serving(folder, process=ServerProcess) as (port, _):
        yield port


def _connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)


def _say(port: int, *pieces: bytes, is_over: bool = False) -> bytes:
    """Send the pieces one by one and return all that comes until the server closes."""
    with _connect(port) as client:
        for piece in pieces:
            client.sendall(piece)
            # Nagle is off at the server's side only: what is sent together would come together.
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if is_over:
            client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65536), b""))


def _request(start: str, *fields: str) -> bytes:
    return "\r\n".join([f"{start} HTTP/1.1", "Host: x", "Connection: close", *fields, "", ""]).encode()


def test_a_file_is_sent_whole(port: int) -> None:
    head, _, body = _say(port, _request("GET /file")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert json.loads(body)[0] == "/file"


def _told(response: bytes) -> list[object]:
    """Return what the application was asked: path, SCRIPT_NAME, length of the body, its text."""
    head, _, body = response.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), response
    found: list[object] = json.loads(body)
    return found


def _is_served(port: int) -> bool:
    try:
        return _say(port, _request("GET /")).startswith(b"HTTP/1.1 200")
    except OSError:
        return False


def _never_reads(client: socket.socket) -> None:
    client.settimeout(0.05)
    with suppress(TimeoutError):
        client.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n" * 10)


def _is_silent(_client: socket.socket) -> None:
    pass


def _sends_half_a_head(client: socket.socket) -> None:
    client.sendall(b"GET / HTT")


def _sends_half_a_body(client: socket.socket) -> None:
    client.sendall(_request("POST /", "Content-Length: 10") + b"abc")


def _does_not_close(client: socket.socket) -> None:
    client.sendall(_request("GET /"))


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Let this process open as many connections as a test needs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("descriptors")
@pytest.mark.parametrize(
    ("be_slow", "count"),
    [
        (_never_reads, 40),
        (_is_silent, 1200),
        (_sends_half_a_head, 40),
        (_sends_half_a_body, 40),
        (_does_not_close, 40),
    ],
)
def test_clients_that_are_slow_on_purpose_keep_nobody_out(
    port: int, be_slow: Callable[[socket.socket], None], count: int
) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(_connect(port)) for _ in range(count)]
        for client in clients:
            be_slow(client)
        for _ in range(3):
            began = time.monotonic()
            assert _is_served(port)
            assert time.monotonic() - began < PROMPT_S
            # A byte now and then is no help to them either.
            for client in clients:
                with suppress(OSError):
                    client.send(b"a")


def test_whoever_is_silent_too_long_is_cut_off(tmp_path: Path) -> None:
    with _serving(tmp_path, SHORT) as (port, _), ExitStack() as stack:
        half_head, half_body, no_reader, idle = (stack.enter_context(_connect(port)) for _ in range(4))
        _sends_half_a_head(half_head)
        half_body.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
        _never_reads(no_reader)
        idle.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")

        assert half_head.recv(100) == b""
        response = b"".join(iter(lambda: half_body.recv(65536), b""))
        assert _told(response) == ["/", "", 3, "abc"]
        assert b"Connection: close" in response
        no_reader.settimeout(PATIENCE_S)
        with pytest.raises(ConnectionError):
            no_reader.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 1_000_000)
        # Between two requests there is more time.
        idle.recv(65536)
        idle.sendall(_request("GET /again"))
        assert b'["/again", "", 0, ""]' in b"".join(iter(lambda: idle.recv(65536), b""))
    log = (tmp_path / "log").read_text()
    assert "A client was silent within a request and was cut off." in log
    assert "Traceback" not in log


CHUNKED = _request("POST /", "Transfer-Encoding: chunked")


@pytest.mark.parametrize(
    ("pieces", "length"),
    [
        ([_request("POST /", "Content-Length: 5"), b"ab", b"cde"], 5),
        ([_request("POST /", "Content-Length: 0")], 0),
        ([_request("POST /")], 0),
        ([_request("POST /", "Content-Length: 4000000"), b"a" * 4_000_000], 4_000_000),
        ([CHUNKED, b"3\r\na", b"bc\r\n0\r\n", b"\r\n"], 3),
        ([CHUNKED, b"3;name=value\r\nabc\r", b"\n02\r\nde\r\n0\r\nDigest: x\r\n", b"\r\n"], 5),
        ([CHUNKED, b"0\r\n\r\n"], 0),
        ([CHUNKED, b"3d0900\r\n" + b"a" * 4_000_000 + b"\r\n0\r\n\r\n"], 4_000_000),
        ([b"\r\n" + _request("GET /")[:20], _request("GET /")[20:]], 0),
        ([*(bytes([byte]) for byte in _request("POST /", "Content-Length: 1")), b"a"], 1),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_request_arrives_whole_in_whatever_pieces_it_comes(port: int, pieces: list[bytes], length: int) -> None:
    assert _told(_say(port, *pieces))[2] == length


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"zz\r\nabc\r\n0\r\n\r\n", "InvalidChunkSize"),
        (b"-3\r\nabc\r\n0\r\n\r\n", "InvalidChunkSize"),
        (b"0x3\r\nabc\r\n0\r\n\r\n", "InvalidChunkSize"),
        (b"\r\nabc\r\n0\r\n\r\n", "InvalidChunkSize"),
        (b"3\r\nabcd\r\n0\r\n\r\n", "ChunkMissingTerminator"),
        (b"3;\0\r\nabc\r\n0\r\n\r\n", "InvalidChunkExtension"),
        (b"3\r\nabc\r\n0\r\nno trailer\r\n\r\n", "InvalidHeader"),
        (b"3\r\nabc\r\n0\r\nA: b\n\n", "InvalidHeader"),
        (b"fffffffffffffffffffff\r\nabc\r\n0\r\n\r\n", "NoMoreData"),
    ],
)
def test_a_broken_body_reaches_the_application_at_once_and_nothing_follows_it(
    port: int, body: bytes, error: str
) -> None:
    request = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + body
    began = time.monotonic()

    response = _say(port, request + _request("GET /smuggled"))

    assert _told(response)[3] == error
    assert response.count(b"HTTP/1.1") == 1
    assert time.monotonic() - began < PROMPT_S


@pytest.mark.parametrize(
    ("request_text", "is_over", "status"),
    [
        (b"GET / HTTP/1.1\n\n", False, 400),
        (b"\r\n\r\n" + _request("GET /"), False, 400),
        (_request("POST /", "Content-Length: 3", "Transfer-Encoding: chunked"), False, 400),
        (_request("POST /", "Content-Length: -3"), False, 400),
        (_request("POST /", "Content-Length: 3", "Content-Length: 3"), False, 400),
        (_request("POST /", "Transfer-Encoding: klingon"), False, 501),
        (_request("POST /", "Expect: klingon"), False, 417),
        (_request("GET /" + "a" * 5000), False, 414),
        (_request("GET /", "A: " + "b" * 9000), False, 431),
        (_request("GET /", *(f"A{n}: {'b' * 8000}" for n in range(10))), False, 431),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * (MAX_HEAD_BYTES + 1), False, 431),
        (CHUNKED + b"%x\r\nabc" % (MAX_BUFFERED_BODY_BYTES + 1), False, 413),
        (CHUNKED + b"8000\r\n" + b"a" * 0x8000, True, 200),
        (_request("POST /", "Content-Length: 9000000") + b"abc", False, 200),
        (_request("POST /", "Content-Length: 10") + b"abc", True, 200),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_what_is_no_whole_request_has_its_status(
    port: int, folder: Path, request_text: bytes, is_over: bool, status: int
) -> None:
    assert _say(port, request_text, is_over=is_over).startswith(b"HTTP/1.1 %d" % status)
    assert "Traceback" not in (folder / "log").read_text()


def test_a_client_that_waits_to_be_asked_for_its_body_is_asked_once(port: int) -> None:
    with _connect(port) as client:
        client.sendall(_request("POST /", "Content-Length: 3", "Expect: 100-continue"))
        assert client.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"abc")

        assert _told(b"".join(iter(lambda: client.recv(65536), b"")))[2] == 3


def test_requests_in_one_packet_are_answered_in_their_order(port: int) -> None:
    requests = b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(20))

    response = _say(port, requests + _request("GET /last"))

    places = [response.index(b'["/%d"' % number) for number in range(20)]
    assert places == sorted(places)
    assert response.endswith(b'["/last", "", 0, ""]')


def test_large_bodies_that_never_end_leave_room_for_the_others(port: int) -> None:
    begun = _request("POST /", f"Content-Length: {LARGE_BYTES * 2}") + b"a"
    with ExitStack() as stack:
        for _ in range(MAX_LARGE):
            stack.enter_context(_connect(port)).sendall(begun)

        assert _say(port, begun).startswith(b"HTTP/1.1 503")
        assert _is_served(port)


@pytest.mark.parametrize("name", ["SCRIPT_NAME", "PATH_INFO", "Script-Name", "X-Script-Name", "X-Forwarded-Prefix"])
@pytest.mark.parametrize("value", ["/yyy", "/zzz", "//evil.example"])
def test_no_header_says_where_the_application_begins(port: int, name: str, value: str) -> None:
    assert _told(_say(port, _request("GET /zzz", f"{name}: {value}")))[:2] == ["/zzz", ""]


def test_lines_about_no_request_carry_no_request_s_id(port: int, folder: Path) -> None:
    for _ in range(THREADS * 2):
        assert _is_served(port)
        _say(port, b"GET / HTTP/1.1\n\n")

    lines = [line for line in (folder / "log").read_text().splitlines() if "Invalid request" in line]
    assert lines
    assert not [line for line in lines if "of-an-earlier-one" in line]


def test_a_server_that_stops_ends_what_is_under_way(tmp_path: Path) -> None:
    with _serving(tmp_path) as (port, server), _connect(port) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        client.recv(65536)
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nab")
        time.sleep(0.1)
        os.kill(server.pid, signal.SIGTERM)
        time.sleep(0.1)
        client.sendall(b"c")

        response = b"".join(iter(lambda: client.recv(65536), b""))
    assert _told(response)[2] == 3
    assert b"Connection: close" in response


@pytest.mark.parametrize(
    ("proxy", "scheme"), [("127.0.0.1", "https"), ("127.0.0.2", "http"), ("127.0.0.9", "https"), ("127.0.0.16", "http")]
)
def test_tls_is_believed_of_a_proxy_on_this_machine_and_of_a_trusted_one(port: int, proxy: str, scheme: str) -> None:
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S, (proxy, 0)) as client:
        client.sendall(_request("GET /scheme", "X-Forwarded-Proto: https"))
        response = b"".join(iter(lambda: client.recv(65536), b""))

    assert _told(response)[-1] == scheme


def test_the_procfile_uses_these_settings() -> None:
    (web,) = [line for line in (ROOT / "Procfile").read_text().splitlines() if line.startswith("web:")]
    words = shlex.split(web)

    assert words[words.index("--config") + 1] == "python:app.web.server"
    assert "--worker-class" not in words
