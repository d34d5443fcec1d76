"""A small receiver of webhooks on loopback: verifies signatures, keeps what came, and may hand it on to another."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue
from threading import Thread
from typing import Any

import urllib3
from standardwebhooks import Webhook, WebhookVerificationError
from urllib3 import exceptions

from app.cli.output import command_error

ADDRESS = "127.0.0.1"

MAX_BODY_BYTES = 1 << 20
"""Bytes of a message that are read: the largest, a drift of many numbers, has some 100 KiB."""

FORWARD_S = 10.0
"""Seconds for the answer of who gets messages next: the sender gives up after 15."""

READ_S = 10.0
"""Seconds without a byte from who sends: then the connection is closed."""

SIGNED = ("webhook-id", "webhook-timestamp", "webhook-signature", "content-type")
"""Headers that are handed on."""


@dataclass(frozen=True, slots=True)
class Message:
    """One request: its `webhook-id` and its JSON, None where the signature is wrong; and what was answered."""

    id: str
    body: Mapping[str, Any] | None
    status: int
    note: str = ""
    """What became of handing it on."""


class Receiver:
    """Messages that came; `secret` is set once the endpoint is registered, and before nothing verifies."""

    def __init__(self, forward: str | None) -> None:
        self.secret = ""
        self.messages: SimpleQueue[Message] = SimpleQueue()
        self._forward = forward
        self._pool = urllib3.PoolManager()

    def take(self, headers: Mapping[str, str], body: bytes) -> int:
        """Verify and keep one message; return the status to answer with."""
        known = {name: headers.get(name, "") for name in SIGNED}
        message = self._verified(known, body)
        if message is None:
            self.messages.put(Message(known["webhook-id"], None, HTTPStatus.UNAUTHORIZED))
            return HTTPStatus.UNAUTHORIZED
        status, note = self._hand_on(known, body) if self._forward else (int(HTTPStatus.NO_CONTENT), "")
        self.messages.put(Message(known["webhook-id"], message, status, note))
        return status

    def _verified(self, headers: Mapping[str, str], body: bytes) -> dict[str, Any] | None:
        """Return the JSON of a message whose signature is ours; None for any other."""
        if not self.secret:
            return None
        try:
            Webhook(self.secret).verify(body, dict(headers))
            return dict(json.loads(body))
        except (WebhookVerificationError, ValueError):
            return None

    def _hand_on(self, headers: Mapping[str, str], body: bytes) -> tuple[int, str]:
        """Send the message on as it came; return the status, 502 where there was no answer."""
        try:
            answer = self._pool.request(
                "POST", str(self._forward), body=body, headers=headers, retries=False, timeout=FORWARD_S
            )
        except exceptions.HTTPError as error:
            return HTTPStatus.BAD_GATEWAY, f"{self._forward} cannot be reached: {type(error).__name__}"
        return answer.status, f"{self._forward} answered {answer.status}"


@contextmanager
def receiving(receiver: Receiver, port: int) -> Iterator[int]:
    """Take messages at a port of loopback, 0 for a free one; yield the port; `CommandError` where it is taken."""

    class Handler(BaseHTTPRequestHandler):
        timeout = READ_S

        def do_POST(self) -> None:
            size = self.headers.get("Content-Length", "")
            is_read = size.isascii() and size.isdigit() and int(size) <= MAX_BODY_BYTES
            lower = {name.lower(): value for name, value in self.headers.items()}
            status = receiver.take(lower, self.rfile.read(int(size))) if is_read else HTTPStatus.BAD_REQUEST
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Write nothing: what came is printed by the command."""

    try:
        server = ThreadingHTTPServer((ADDRESS, port), Handler)
    except OSError as error:
        raise command_error(f"Port {port} cannot be listened on: {error.strerror}.") from error
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
