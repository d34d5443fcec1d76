"""The benchmarks' load generator against a server of known behaviour."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.benchmarks.load import Plan, drive, run


class Handler(BaseHTTPRequestHandler):
    """Answers a POST with 202 and its body, a GET with 304 where the request has If-None-Match."""

    protocol_version = "HTTP/1.1"
    seen: "list[tuple[str, str]]"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(202, body)

    def do_GET(self) -> None:
        self._answer(304 if self.headers["If-None-Match"] else 200, b"{}")

    def _answer(self, status: int, body: bytes) -> None:
        self.server.seen.append((self.path, self.headers["Authorization"] or ""))  # type: ignore[attr-defined]  # ours
        self.send_response(status)
        if status != 304:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status != 304:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.seen = []  # type: ignore[attr-defined]  # ours
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_every_request_is_sent_once_and_every_response_is_timed(server: ThreadingHTTPServer) -> None:
    posts = [("POST", f"/{number}", json.dumps({"number": number})) for number in range(50)]
    result = run(Plan(server.server_port, 4, 30, {"Authorization": "Bearer x"}, posts))
    assert result.statuses == {"202": 50}
    assert len(result.latencies_ms) == 50
    assert min(result.latencies_ms) > 0
    assert sorted(server.seen) == sorted((f"/{number}", "Bearer x") for number in range(50))  # type: ignore[attr-defined]  # ours


def test_repeated_requests_go_on_until_the_time_is_up(server: ThreadingHTTPServer) -> None:
    result = drive(Plan(server.server_port, 2, 0.3, {"If-None-Match": '"x"'}, [("GET", "/", "")], is_repeated=True))
    assert set(result.statuses) == {"304"}
    assert len(result.latencies_ms) > 4
    assert result.per_s == pytest.approx(len(result.latencies_ms) / result.seconds)
    assert 0.3 <= result.seconds < 5


def test_a_server_that_closes_within_a_response_fails_the_run() -> None:
    class Liar(Handler):
        def _answer(self, status: int, body: bytes) -> None:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort")
            self.close_connection = True

    with ThreadingHTTPServer(("127.0.0.1", 0), Liar) as server:
        thread = threading.Thread(target=server.handle_request, daemon=True)
        thread.start()
        with pytest.raises(ConnectionError, match="within an answer"):
            drive(Plan(server.server_port, 1, 1, {}, [("GET", "/", "")]))
        thread.join()
