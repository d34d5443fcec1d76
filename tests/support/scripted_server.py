"""A local HTTP server that answers what a test has written down: for failures that a well-kept stand-in cannot have."""

import socket
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NO_CONTENT = 204


@dataclass
class Answer:
    status: int = 200
    body: bytes = b"{}"
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Seen:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    connection: int


class Drop:
    """Read the request, then close the connection without an answer."""


class Hang:
    """Read the request and never answer."""


class DropMidway:
    """Promise a body, send half of it, close."""


class Trickle:
    """Send one byte of the body at a time, each well within a read timeout."""

    PAUSE_S = 0.05


@dataclass
class Raw:
    """Send these bytes, then close; or, where it drips, one byte after another before that."""

    data: bytes
    drips: bool = False


Script = Answer | Drop | Hang | DropMidway | Trickle | Raw


class ScriptedServer:
    def __init__(self, port: int = 0) -> None:
        self.script: deque[Script] = deque()
        self.default: Script | None = None
        self.seen: list[Seen] = []
        self.connections = 0
        self.over = threading.Event()
        self._lock = threading.Lock()
        self._server = _Server(self, port)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()

    def answer(self, *answers: Script) -> None:
        self.script.extend(answers)

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def next(self, seen: Seen) -> Script:
        with self._lock:
            self.seen.append(seen)
            if self.script:
                return self.script.popleft()
        return self.default or Answer(500, b"nothing was scripted", "text/plain")

    def opened(self) -> int:
        with self._lock:
            self.connections += 1
            return self.connections


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def setup(self) -> None:
        super().setup()
        self.connection_number = self.server.script.opened()
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        script = self.server.script
        answer = script.next(Seen(self.command, self.path, dict(self.headers), body, self.connection_number))
        if isinstance(answer, Answer):
            self.reply(answer)
            return
        self.close_connection = True
        if isinstance(answer, Hang):
            script.over.wait()
        elif isinstance(answer, Raw):
            self.wfile.write(answer.data)
            self.drip(b"x" if answer.drips else b"")
        elif isinstance(answer, DropMidway | Trickle):
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/protobuf\r\nContent-Length: 99\r\n\r\n{")
            self.drip(b" " if isinstance(answer, Trickle) else b"")

    def drip(self, byte: bytes) -> None:
        while byte and not self.server.script.over.wait(Trickle.PAUSE_S):
            try:
                self.wfile.write(byte)
            except OSError:
                return

    do_GET = do_POST = do_DELETE = serve  # noqa: N815

    def reply(self, answer: Answer) -> None:
        self.send_response(answer.status)
        headers = {"Content-Type": answer.content_type, "Content-Length": str(len(answer.body)), **answer.headers}
        for name, value in headers.items():
            if answer.status != NO_CONTENT or not name.startswith("Content"):
                self.send_header(name, value)
        self.end_headers()
        if answer.status != NO_CONTENT:
            self.wfile.write(answer.body)

    def log_message(self, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, script: ScriptedServer, port: int) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.script = script

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of clients that hang up: that is what the tests make them do."""


@contextmanager
def scripted_server() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    try:
        yield server
    finally:
        server.close()


def refusing_url() -> str:
    """An address where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"
