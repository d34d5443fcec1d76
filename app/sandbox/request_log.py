"""What the providers' side of the sandbox was asked: requests in order of arrival, and connections opened."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from socket import socket
from typing import Any
from weakref import WeakSet

from app.sandbox.exchange import LIVEKIT, TWILIO, Exchange

KEPT_REQUESTS = 200_000
"""Requests remembered: a soak of 10,000 operations with its retries; some 200 MB at most."""


@dataclass(slots=True)
class Entry:
    """One request; `status` stays None while it is open and when the connection was dropped."""

    seq: int
    at: float
    exchange: Exchange
    status: int | None = None
    fault: str | None = None


class RequestLog:
    """The newest requests. `read_body` turns a request into its fields, only when somebody looks."""

    def __init__(self, read_body: Callable[[Exchange], dict[str, Any]]) -> None:
        self._read_body = read_body
        self._entries: deque[Entry] = deque(maxlen=KEPT_REQUESTS)
        self._last_seq = 0
        self._opened = {TWILIO: 0, LIVEKIT: 0}
        self._sockets: dict[str, WeakSet[socket]] = {TWILIO: WeakSet(), LIVEKIT: WeakSet()}
        self._lock = threading.Lock()

    def arrive(self, exchange: Exchange) -> Entry:
        """Note a request; the caller fills in how it ended."""
        with self._lock:
            self._last_seq += 1
            entry = Entry(self._last_seq, time.time(), exchange)
            self._entries.append(entry)
            sockets = self._sockets[exchange.provider]
            if exchange.socket is not None and exchange.socket not in sockets:
                sockets.add(exchange.socket)
                self._opened[exchange.provider] += 1
        return entry

    def since(self, seq: int) -> dict[str, Any]:
        """Return the requests after `seq`, the number to go on from, and the connections opened since the clear."""
        with self._lock:
            first = self._entries[0].seq if self._entries else self._last_seq + 1
            entries = list(islice(self._entries, max(0, seq + 1 - first), None))
            answer: dict[str, Any] = {"next": self._last_seq, "connectionsOpened": dict(self._opened)}
        answer["requests"] = [self._shown(entry) for entry in entries]
        return answer

    def clear(self) -> None:
        """Forget the requests and start the count of connections afresh; `seq` goes on."""
        with self._lock:
            self._entries.clear()
            self._opened = dict.fromkeys(self._opened, 0)

    def _shown(self, entry: Entry) -> dict[str, Any]:
        exchange = entry.exchange
        path = f"{exchange.path}?{exchange.query}" if exchange.query else exchange.path
        return {
            "seq": entry.seq,
            "at": datetime.fromtimestamp(entry.at, UTC).isoformat(),
            "provider": exchange.provider,
            "operation": exchange.operation,
            "method": exchange.method,
            "path": path,
            "status": entry.status,
            "fault": entry.fault,
            "body": self._read_body(exchange),
            "connection": exchange.connection,
        }
