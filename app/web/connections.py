"""One client of the web server: what it sent so far, what it has not taken yet, and until when it has time.

Where a request ends is found while it arrives; parsing it is gunicorn's.
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

MAX_BODY_BYTES = 5 * 1024 * 1024
"""Bytes of a body that are read: the largest that the API takes is 4 MiB, and chunks have their own lengths besides."""

LARGE_BYTES = 64 * 1024
"""Bytes from which a body is large: nearly every request is far below."""

SEND_BYTES = 16 * 1024
"""Bytes of a response that are sent before it is complete: gunicorn writes its head and its body one by one."""

_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})(?:[ \t]*;[^\r]*)?")


class BodyTooLongError(Exception):
    """A chunked body is longer than any that the application takes."""


class ChunkedEnd:
    """Finds the end of a chunked body while it arrives; what is wrong with it is gunicorn's to say."""

    def __init__(self) -> None:
        self._at = 0
        self._in_trailers = False
        self.is_broken = False
        """Whether there is no end to be found."""

    def length(self, body: bytearray) -> int | None:
        """Return how many bytes the body has, once that is known; of a broken one, all."""
        while not (self._in_trailers or self.is_broken):
            if self._at > MAX_BODY_BYTES or self._at > len(body):
                return None
            if self._at and body[self._at - 2 : self._at] != b"\r\n":
                self.is_broken = True
                break
            end = body.find(b"\r\n", self._at)
            if end < 0:
                self.is_broken = len(body) - self._at > MAX_HEAD_BYTES
                return len(body) if self.is_broken else None
            self._read_size(body[self._at : end], end + 2)
        return len(body) if self.is_broken else self._trailers_end(body)

    @property
    def is_too_long(self) -> bool:
        """Whether more is announced than is read."""
        return self._at > MAX_BODY_BYTES

    def _read_size(self, line: bytearray, data_at: int) -> None:
        match = _CHUNK_SIZE.fullmatch(line)
        size = int(match[1], 16) if match else 0
        self.is_broken = match is None
        self._in_trailers = not size
        self._at = data_at + (size + 2 if size else 0)

    def _trailers_end(self, body: bytearray) -> int | None:
        if body[self._at : self._at + 2] == b"\r\n":
            return self._at + 2
        end = body.find(b"\r\n\r\n", self._at)
        if end >= 0:
            return end + 4
        self.is_broken = _has_bare_line_feed(body[self._at :]) or len(body) - self._at > MAX_HEAD_BYTES
        return len(body) if self.is_broken else None


class Arrived(Unreader):  # type: ignore[misc]  # gunicorn ships no types
    """What gunicorn parses a request from: the bytes that have come, and then the end."""

    def __init__(self, head: bytes) -> None:
        super().__init__()
        self.parts = deque([head])

    def chunk(self, _size_hint: int | None = None) -> bytes:
        """Return the next piece; empty at the end."""
        return self.parts.popleft() if self.parts else b""


class Outbox:
    """The socket as gunicorn writes to it: takes everything at once, and keeps what the client has not taken yet."""

    def __init__(self, raw: socket.socket) -> None:
        self._raw = raw
        self.owed = bytearray()

    def sendall(self, data: bytes) -> None:
        """Keep the data, and send when it is worth a packet; `OSError` where the client is gone."""
        self.owed += data
        if len(self.owed) >= SEND_BYTES:
            self.flush()

    def flush(self) -> bool:
        """Send what the client takes now; say whether nothing is left."""
        with suppress(BlockingIOError):
            while self.owed:
                del self.owed[: self._raw.send(self.owed)]
        return not self.owed

    def gettimeout(self) -> float:
        """Say that this socket never blocks."""
        return 0.0

    def shutdown(self, _how: int) -> None:
        """Leave the closing to the event loop, which does it when the thread comes back."""

    settimeout = setblocking = shutdown

    def recv(self, _size: int) -> bytes:
        """Say that nothing more comes."""
        return b""

    def close(self) -> None:
        """Leave the closing to the event loop."""


class State(Enum):
    """What the event loop does with a connection; while a thread has it, nothing."""

    IDLE = auto()
    """Waits for the next request, or for the first."""
    READING = auto()
    SENDING = auto()
    CLOSING = auto()
    """The last response is sent; waits for the client to close."""


class Connection:
    """One client: what it sent, what it is owed, and until when something must happen."""

    def __init__(self, raw: socket.socket, client: Any, server: Any) -> None:
        self.raw, self.client, self.server = raw, client, server
        self.sock = Outbox(raw)
        self.inbox = bytearray()
        self.state = State.IDLE
        self.keep = False
        """Whether another request may follow."""
        self.since = 0.0
        """The monotonic clock at which it last did something."""
        self._until = 0.0
        self._silence_s = 0.0
        self._requests = 0
        self._request: Any = None
        self._arrived = Arrived(b"")
        self._length = 0
        self._chunks: ChunkedEnd | None = None

    @property
    def deadline(self) -> float:
        """The monotonic clock at which the client is given up."""
        return min(self._until, self.since + self._silence_s)

    @property
    def has_head(self) -> bool:
        """Whether the body of a request is being read."""
        return self._request is not None

    @property
    def is_large(self) -> bool:
        """Whether a large body is being read."""
        return self.has_head and max(self._length, len(self.inbox)) > LARGE_BYTES

    def enter(self, state: State, limit_s: float, silence_s: float | None = None) -> None:
        """Begin something that may take so long, and be silent for so long."""
        self.state = state
        self.since = time.monotonic()
        self._until = self.since + limit_s
        self._silence_s = silence_s or limit_s

    def note_progress(self) -> None:
        """Begin the time of silence anew: a byte came or went."""
        self.since = time.monotonic()

    def take(self, cfg: Any, *, at_end: bool = False) -> Any:
        """Return the next request once all of it is here; `at_end` with what is here, as nothing more comes.

        Raises `BodyTooLongError`, and what gunicorn raises for a head that is wrong.
        """
        if not self.has_head and not self._parse_head(cfg):
            return None
        length = self._chunks.length(self.inbox) if self._chunks else self._length
        if self._chunks and self._chunks.is_too_long:
            raise BodyTooLongError
        if at_end or (self._chunks and self._chunks.is_broken):
            # Where the next request would begin is not known.
            self._request.force_close()
            length = len(self.inbox)
        if length is None or len(self.inbox) < length:
            return None
        self._arrived.parts.append(bytes(self.inbox[:length]))
        del self.inbox[:length]
        request, self._request = self._request, None
        return request

    def _parse_head(self, cfg: Any) -> bool:
        end = self.inbox.find(b"\r\n\r\n") + 4
        if end < 4:  # noqa: PLR2004 - not found
            end = len(self.inbox)
            if end <= MAX_HEAD_BYTES and not _has_bare_line_feed(self.inbox):
                return False
        if end > MAX_HEAD_BYTES:
            raise LimitRequestHeaders(f"more than {MAX_HEAD_BYTES} bytes")
        self._requests += 1
        self._arrived = Arrived(bytes(self.inbox[:end]))
        del self.inbox[:end]
        request = Request(cfg, self._arrived, self.client, self._requests)
        self._chunks = ChunkedEnd() if isinstance(request.body.reader, ChunkedReader) else None
        self._length = 0 if self._chunks else request.body.reader.length
        if self._length > MAX_BODY_BYTES:
            # The application refuses it by its length; none of it is read.
            self._length = 0
            request.force_close()
        elif request._expected_100_continue:  # noqa: SLF001 - gunicorn has no other name for it
            self.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.sock.flush()
        request._expected_100_continue = False  # noqa: SLF001
        self._request = request
        return True


def _has_bare_line_feed(data: bytearray) -> bool:
    """Say whether a line ends as HTTP's do not: gunicorn refuses it, and would not find its end."""
    return data.count(b"\n") != data.count(b"\r\n")
