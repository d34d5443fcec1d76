"""One request to the sandbox and its response, independent of WSGI, and the log of all requests."""

import json
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from socket import socket
from typing import Any
from urllib.parse import parse_qsl, unquote_plus
from weakref import WeakSet

TWILIO = "twilio"
LIVEKIT = "livekit"
SIP = "sip"
"""What a fault takes for the provider of a SIP message."""


@dataclass(slots=True, frozen=True)
class HiddenObjects:
    """Objects that a response leaves out: those written at `since` or later, on the monotonic clock."""

    since: float
    written_at: Mapping[str, float]
    """When each object was last written; one that is missing here is old."""

    @property
    def is_everything(self) -> bool:
        """Whether every object is left out."""
        return self.since == -math.inf


@dataclass(slots=True)
class Exchange:
    """A request, read to its end, and the route that it matched."""

    method: str
    path: str
    query: str
    body: bytes
    host: str
    authorization: str | None
    content_type: str
    connection: str
    socket: socket | None
    provider: str = ""
    operation: str = ""
    owner: str = ""
    """The Twilio account (sid) whose credential the request carries, whether it is right or not, or the LiveKit project
    (name) of its URL."""
    arguments: Mapping[str, str] = field(default_factory=dict)
    hidden: HiddenObjects | None = None

    @property
    def verb(self) -> str:
        """What the operation does: the first word of its name."""
        return self.operation.partition(".")[2].partition("_")[0]

    @property
    def parent(self) -> str | None:
        """The trunk beneath which something is created or attached."""
        return self.arguments.get("trunk") if self.verb in {"create", "attach"} else None

    def hides(self, object_id: str) -> bool:
        """Say whether a fault leaves this object out of the response."""
        hidden = self.hidden
        return hidden is not None and hidden.written_at.get(object_id, -math.inf) >= hidden.since

    def form(self) -> dict[str, str]:
        """Return the form fields; the last value of a repeated name wins, an empty value is kept."""
        return dict(parse_qsl(self.body.decode("utf-8", "replace"), keep_blank_values=True))

    def parameters(self) -> dict[str, str]:
        """Return the query parameters."""
        return dict(parse_qsl(self.query, keep_blank_values=True))

    def contains(self, text: str) -> bool:
        """Say whether the path, query or body holds the text, plain or percent-encoded."""
        whole = f"{self.path}?{self.query}\n{self.body.decode('utf-8', 'replace')}"
        return text in whole or text in unquote_plus(whole)


@dataclass(slots=True, frozen=True)
class Response:
    """An HTTP response; `None` in its place means that the connection is dropped."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


def json_response(status: int, content: Any, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """Return plain data as a JSON response."""
    return Response(status, json.dumps(content, separators=(",", ":")).encode(), headers=headers)


KEPT_REQUESTS = 200_000
"""Requests kept: those of a soak of 10,000 operations with its retries; some 200 MB at most."""


@dataclass(slots=True)
class LoggedRequest:
    """One request; `status` stays None while it is open and when the connection was dropped."""

    seq: int
    at: float
    exchange: Exchange
    status: int | None = None
    fault: str | None = None


class RequestLog:
    """The newest requests. `read_body` decodes a request's fields, only when the log is read."""

    def __init__(self, read_body: Callable[[Exchange], dict[str, Any]]) -> None:
        self._read_body = read_body
        self._entries: deque[LoggedRequest] = deque(maxlen=KEPT_REQUESTS)
        self._counts: Counter[str] = Counter()
        self._last_seq = 0
        self._opened = {TWILIO: 0, LIVEKIT: 0}
        self._sockets: dict[str, WeakSet[socket]] = {TWILIO: WeakSet(), LIVEKIT: WeakSet()}
        self._lock = threading.Lock()

    def arrive(self, exchange: Exchange) -> LoggedRequest:
        """Record a request; the caller sets its status later."""
        with self._lock:
            self._last_seq += 1
            entry = LoggedRequest(self._last_seq, time.time(), exchange)
            self._entries.append(entry)
            self._counts[exchange.operation] += 1
            sockets = self._sockets[exchange.provider]
            if exchange.socket is not None and exchange.socket not in sockets:
                sockets.add(exchange.socket)
                self._opened[exchange.provider] += 1
        return entry

    def since(self, seq: int) -> dict[str, Any]:
        """Return the requests after `seq`, the last number, and the connections opened since `clear`."""
        with self._lock:
            first = self._entries[0].seq if self._entries else self._last_seq + 1
            entries = list(islice(self._entries, max(0, seq + 1 - first), None))
            response: dict[str, Any] = {"next": self._last_seq, "connectionsOpened": dict(self._opened)}
        response["requests"] = [self._shown(entry) for entry in entries]
        return response

    def counts(self) -> dict[str, int]:
        """Return how many requests of each operation came since `clear`, those included that are no longer kept."""
        with self._lock:
            return dict(sorted(self._counts.items()))

    def clear(self) -> None:
        """Delete the requests and restart the counts; `seq` continues."""
        with self._lock:
            self._entries.clear()
            self._counts.clear()
            self._opened = dict.fromkeys(self._opened, 0)

    def _shown(self, entry: LoggedRequest) -> dict[str, Any]:
        exchange = entry.exchange
        path = f"{exchange.path}?{exchange.query}" if exchange.query else exchange.path
        return {
            "seq": entry.seq,
            "at": datetime.fromtimestamp(entry.at, UTC).isoformat(),
            "provider": exchange.provider,
            "operation": exchange.operation,
            "owner": exchange.owner,
            "method": exchange.method,
            "path": path,
            "status": entry.status,
            "fault": entry.fault,
            "body": self._read_body(exchange),
            "connection": exchange.connection,
        }
