"""One request to the sandbox and the answer to it, free of WSGI."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from socket import socket
from typing import Any
from urllib.parse import parse_qsl, unquote_plus

TWILIO = "twilio"
LIVEKIT = "livekit"


@dataclass(slots=True, frozen=True)
class Hidden:
    """Objects that an answer passes over: those written at `since` or later, on the monotonic clock."""

    since: float
    written_at: Mapping[str, float]
    """When each object was last written; one that is missing here is old."""

    @property
    def is_everything(self) -> bool:
        """Tell whether nothing at all is shown."""
        return self.since == -math.inf


@dataclass(slots=True)
class Exchange:
    """A request, read to its end, and what routing made of it."""

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
    arguments: Mapping[str, str] = field(default_factory=dict)
    hidden: Hidden | None = None

    @property
    def verb(self) -> str:
        """What the operation does: the first word of its name."""
        return self.operation.partition(".")[2].partition("_")[0]

    def hides(self, object_id: str) -> bool:
        """Tell whether a fault keeps this object out of the answer."""
        hidden = self.hidden
        return hidden is not None and hidden.written_at.get(object_id, -math.inf) >= hidden.since

    def form(self) -> dict[str, str]:
        """Return the form fields; the last value of a repeated name wins, an empty value is kept."""
        return dict(parse_qsl(self.body.decode("utf-8", "replace"), keep_blank_values=True))

    def parameters(self) -> dict[str, str]:
        """Return the query parameters."""
        return dict(parse_qsl(self.query, keep_blank_values=True))

    def contains(self, text: str) -> bool:
        """Tell whether the path, query or body holds the text, plain or percent-encoded."""
        whole = f"{self.path}?{self.query}\n{self.body.decode('utf-8', 'replace')}"
        return text in whole or text in unquote_plus(whole)


@dataclass(slots=True, frozen=True)
class Answer:
    """What goes back: `None` in its place means that the connection is dropped."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


def json_answer(status: int, content: Any, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    """Pack plain data into an answer."""
    return Answer(status, json.dumps(content, separators=(",", ":")).encode(), headers=headers)
