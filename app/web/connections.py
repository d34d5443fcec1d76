"""One client connection of the web server: its input and output buffers, and its deadline.

Finds the end of a request while it arrives; gunicorn parses it.
"""

import re
import socket
import time
from collections import deque
from contextlib import suppress
from enum import Enum, auto
from typing import Any

from gunicorn.http.body import ChunkedReader
from gunicorn.http.errors import LimitRequestHeaders
from gunicorn.http.message import Request
from gunicorn.http.unreader import Unreader

MAX_HEAD_BYTES = 64 * 1024
"""Bytes of a request line with its header fields; browsers and proxies stay below 16 KiB."""

MAX_BUFFERED_BODY_BYTES = 5 * 1024 * 1024
"""Bytes of a body that are read: the API takes at most 4 MiB, and chunks add their own sizes."""

LARGE_BYTES = 64 * 1024
"""Bytes from which a body counts as large: nearly every request is far smaller."""

SEND_BYTES = 16 * 1024
"""Bytes of a response to collect before sending: gunicorn writes the head and the body separately."""

_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})(?:[ \t]*;[^\r]*)?")


class BodyTooLongError(Exception):
    """A chunked body is longer than any that the application accepts."""


class ChunkedBodyEnd:
    """Finds the end of a chunked body while it arrives; gunicorn reports what is wrong with it."""

    def __init__(self) -> None:
        self._at = 0
        self._in_trailers = False
        self.is_malformed = False
        """Whether the body has no valid end."""

    def length(self, body: bytearray) -> int | None:
        """Return the length of the body once it is known; of a malformed one, all that has arrived."""
        while not (self._in_trailers or self.is_malformed):
            if self._at > MAX_BUFFERED_BODY_BYTES or self._at > len(body):
                return None
            if self._at and body[self._at - 2 : self._at] != b"\r\n":
                self.is_malformed = True
                break
            end = body.find(b"\r\n", self._at)
            if end < 0:
                self.is_malformed = len(body) - self._at > MAX_HEAD_BYTES
                return len(body) if self.is_malformed else None
            self._read_size(body[self._at : end], end + 2)
        return len(body) if self.is_malformed else self._trailers_end(body)

    @property
    def is_too_long(self) -> bool:
        """Whether the announced length exceeds the limit."""
        return self._at > MAX_BUFFERED_BODY_BYTES

    def _read_size(self, line: bytearray, data_at: int) -> None:
        match = _CHUNK_SIZE.fullmatch(line)
        size = int(match[1], 16) if match else 0
        self.is_malformed = match is None
        self._in_trailers = not size
        self._at = data_at + (size + 2 if size else 0)

    def _trailers_end(self, body: bytearray) -> int | None:
        if body[self._at : self._at + 2] == b"\r\n":
            return self._at + 2
        end = body.find(b"\r\n\r\n", self._at)
        if end >= 0:
            return end + 4
        self.is_malformed = _has_bare_line_feed(body[self._at :]) or len(body) - self._at > MAX_HEAD_BYTES
        return len(body) if self.is_malformed else None


class ReceivedRequest(Unreader):  # type: ignore[misc]  # gunicorn ships no types
    """The source that gunicorn parses a request from: the bytes received, then the end of the stream."""

    def __init__(self, head: bytes) -> None:
        super().__init__()
        self.parts = deque([head])

    def chunk(self, _size_hint: int | None = None) -> bytes:
        """Return the next piece; empty at the end."""
        return self.parts.popleft() if self.parts else b""


class SendBuffer:
    """The socket that gunicorn writes to: never blocks, and keeps what the client has not received yet."""

    def __init__(self, raw: socket.socket) -> None:
        self._raw = raw
        self.unsent = bytearray()

    def sendall(self, data: bytes) -> None:
        """Buffer the data, and send once `SEND_BYTES` are there; `OSError` if the client is gone."""
        self.unsent += data
        if len(self.unsent) >= SEND_BYTES:
            self.flush()

    def flush(self) -> bool:
        """Send what the client takes without blocking; say whether the buffer is empty."""
        with suppress(BlockingIOError):
            while self.unsent:
                del self.unsent[: self._raw.send(self.unsent)]
        return not self.unsent

    def gettimeout(self) -> float:
        """Return 0: this socket never blocks."""
        return 0.0

    def shutdown(self, _how: int) -> None:
        """Do nothing: the event loop closes the socket when the thread has finished."""

    settimeout = setblocking = shutdown

    def recv(self, _size: int) -> bytes:
        """Return the end of the stream."""
        return b""

    def close(self) -> None:
        """Do nothing: the event loop closes the socket."""


class State(Enum):
    """What the event loop does with a connection; nothing while a thread handles its request."""

    IDLE = auto()
    """Waits for a request."""
    READING = auto()
    SENDING = auto()
    CLOSING = auto()
    """The last response is sent; waits for the client to close."""


class Connection:
    """One client: what it has sent, what it has not received yet, and its deadline."""

    def __init__(self, raw: socket.socket, client: Any, server: Any) -> None:
        self.raw, self.client, self.server = raw, client, server
        self.sock = SendBuffer(raw)
        self.received = bytearray()
        self.state = State.IDLE
        self.keep = False
        """Whether another request may follow."""
        self.since = 0.0
        """Monotonic time of its last activity."""
        self._until = 0.0
        self._silence_s = 0.0
        self._requests = 0
        self._request: Any = None
        self._received = ReceivedRequest(b"")
        self._length = 0
        self._chunks: ChunkedBodyEnd | None = None

    @property
    def deadline(self) -> float:
        """Monotonic time at which the client times out."""
        return min(self._until, self.since + self._silence_s)

    @property
    def has_head(self) -> bool:
        """Whether a request's head is parsed and its body is being read."""
        return self._request is not None

    @property
    def is_large(self) -> bool:
        """Whether a large body is being read."""
        return self.has_head and max(self._length, len(self.received)) > LARGE_BYTES

    def enter(self, state: State, limit_s: float, silence_s: float | None = None) -> None:
        """Enter a state with a time limit, and a limit for the time without a byte."""
        self.state = state
        self.since = time.monotonic()
        self._until = self.since + limit_s
        self._silence_s = silence_s or limit_s

    def note_progress(self) -> None:
        """Restart the limit for the time without a byte: one was received or sent."""
        self.since = time.monotonic()

    def take(self, cfg: Any, *, at_end: bool = False) -> Any:
        """Return the next request once it is complete; `at_end` with what was received, as nothing more will come.

        Raises `BodyTooLongError`, and what gunicorn raises for an invalid head.
        """
        if not self.has_head and not self._parse_head(cfg):
            return None
        length = self._chunks.length(self.received) if self._chunks else self._length
        if self._chunks and self._chunks.is_too_long:
            raise BodyTooLongError
        if at_end or (self._chunks and self._chunks.is_malformed):
            # It is unknown where the next request would begin.
            self._request.force_close()
            length = len(self.received)
        if length is None or len(self.received) < length:
            return None
        self._received.parts.append(bytes(self.received[:length]))
        del self.received[:length]
        request, self._request = self._request, None
        return request

    def _parse_head(self, cfg: Any) -> bool:
        end = self.received.find(b"\r\n\r\n") + 4
        if end < 4:  # noqa: PLR2004 - not found
            end = len(self.received)
            if end <= MAX_HEAD_BYTES and not _has_bare_line_feed(self.received):
                return False
        if end > MAX_HEAD_BYTES:
            raise LimitRequestHeaders(f"more than {MAX_HEAD_BYTES} bytes")
        self._requests += 1
        self._received = ReceivedRequest(bytes(self.received[:end]))
        del self.received[:end]
        request = Request(cfg, self._received, self.client, self._requests)
        self._chunks = ChunkedBodyEnd() if isinstance(request.body.reader, ChunkedReader) else None
        self._length = 0 if self._chunks else request.body.reader.length
        if self._length > MAX_BUFFERED_BODY_BYTES:
            # The application refuses it for its length; none of it is read.
            self._length = 0
            request.force_close()
        elif request._expected_100_continue:  # noqa: SLF001 - gunicorn has no other name for it
            self.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.sock.flush()
        request._expected_100_continue = False  # noqa: SLF001
        self._request = request
        return True


def _has_bare_line_feed(data: bytearray) -> bool:
    """Say whether a line ends without a carriage return: gunicorn refuses it, and would not find its end."""
    return data.count(b"\n") != data.count(b"\r\n")
