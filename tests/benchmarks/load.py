"""The load generator: one process, one loop, raw keep-alive sockets, requests made beforehand.

Run apart from the caller (`python -m tests.benchmarks.load PLAN`), so that its cost shows as its own: some 20 us of CPU
per request, a hundredth of what a Flask view takes. The result says how much of a core it used.
"""

import contextlib
import json
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from itertools import cycle
from pathlib import Path
from typing import Any

READ_BYTES = 65536

SILENCE_S = 30.0
"""Seconds without any response after which a server is given up."""

BODILESS = {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}


@dataclass(frozen=True)
class Plan:
    """What to send: `requests` are (method, path, body); without `is_repeated` each is sent once."""

    port: int
    connections: int
    seconds: float
    headers: Mapping[str, str]
    requests: Sequence[tuple[str, str, str]]
    is_repeated: bool = False


@dataclass(frozen=True)
class Load:
    """The responses; latencies in milliseconds, in order of arrival."""

    seconds: float
    cpu_s: float
    statuses: Mapping[str, int]
    latencies_ms: Sequence[float]

    @property
    def per_s(self) -> float:
        """Responses per second."""
        return len(self.latencies_ms) / self.seconds

    @property
    def core_share(self) -> float:
        """How much of one core the generator used."""
        return self.cpu_s / self.seconds


class Connection:
    """One kept-alive connection with at most one request on it."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=SILENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._port = port
        self._buffer = b""
        self.sent_at = 0.0

    def send(self, request: bytes) -> None:
        """Send a whole request."""
        self.sent_at = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> int | None:
        """Read what has arrived; return the status once the response is complete."""
        chunk = self.socket.recv(READ_BYTES)
        if not chunk:
            raise ConnectionError("the server closed the connection within an answer")
        self._buffer += chunk
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return None
        status = int(head[9:12])
        if status not in BODILESS and len(rest) < _length(head):
            return None
        self._buffer = b""
        return status


def _length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise ValueError(f"no Content-Length in {head!r}")


def drive(plan: Plan) -> Load:
    """Keep every connection busy until the time is up or the requests are sent; in this process."""
    encoded = [_encoded(plan, *request) for request in plan.requests]
    waiting = cycle(encoded) if plan.is_repeated else iter(encoded)
    statuses: Counter[str] = Counter()
    latencies: list[float] = []
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as opened:
        cpu, started = time.process_time(), time.perf_counter()
        for _, request in zip(range(plan.connections), waiting, strict=False):
            connection = Connection(plan.port)
            opened.callback(connection.socket.close)
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.send(request)
        while selector.get_map():
            for connection, status in _answers(selector):
                now = time.perf_counter()
                latencies.append((now - connection.sent_at) * 1000)
                statuses[str(status)] += 1
                following = next(waiting, None) if now - started < plan.seconds else None
                if following is None:
                    selector.unregister(connection.socket)
                else:
                    connection.send(following)
        return Load(time.perf_counter() - started, time.process_time() - cpu, dict(statuses), latencies)


def _answers(selector: selectors.BaseSelector) -> Iterator[tuple[Connection, int]]:
    """Yield the connections whose response is complete, with its status."""
    ready = selector.select(SILENCE_S)
    if not ready:
        raise TimeoutError(f"no answer for {SILENCE_S:g} s")
    for key, _ in ready:
        status = key.data.receive()
        if status is not None:
            yield key.data, status


def _encoded(plan: Plan, method: str, path: str, body: str) -> bytes:
    headers = {"Host": f"127.0.0.1:{plan.port}", **plan.headers}
    if body:
        headers |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n{body}".encode()


def run(plan: Plan) -> Load:
    """Drive the plan from a process of its own."""
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(asdict(plan), file)
        file.flush()
        command = [sys.executable, "-m", "tests.benchmarks.load", file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ourselves
    if done.returncode:
        raise RuntimeError(f"the load generator failed: {done.stderr}")
    return Load(**json.loads(done.stdout))


def main() -> None:
    """Read the plan, drive it, write the result."""
    values: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    sys.stdout.write(json.dumps(asdict(drive(Plan(**values)))))


if __name__ == "__main__":
    main()
