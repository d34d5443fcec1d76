"""A webhook receiver as a customer writes one: the library of Standard Webhooks verifies the signatures."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from standardwebhooks import Webhook

from tests.support.scripted_server import Answer, ScriptedServer

RECEIVED = Answer(204)
LOOPBACK = "127.0.0.0/8"


@dataclass(frozen=True)
class Message:
    """One request that verified."""

    id: str
    type: str
    data: dict[str, Any]


@dataclass
class Receiver:
    """A server on loopback, and the webhook's secret."""

    server: ScriptedServer
    secret: str = ""

    @property
    def url(self) -> str:
        return f"{self.server.url}/hook?from=trunkline"

    def messages(self) -> list[Message]:
        """Return what arrived, verified; raise where a signature is wrong."""
        found = []
        for seen in list(self.server.seen):
            body = Webhook(self.secret).verify(seen.body, seen.headers)
            headers = {name.lower(): value for name, value in seen.headers.items()}
            found.append(Message(headers["webhook-id"], body["type"], body["data"]))
        return found


@contextmanager
def receiver(port: int = 0, secret: str = "") -> Iterator[Receiver]:
    """Yield a receiver that accepts everything, at `port` or at a free one."""
    server = ScriptedServer(port)
    server.default = RECEIVED
    try:
        yield Receiver(server, secret)
    finally:
        server.close()
