"""The sandbox as one WSGI application: Twilio, LiveKit and the control API behind one port."""

import errno
from collections.abc import Iterable
from http import HTTPStatus
from pathlib import Path
from socket import SHUT_RDWR, socket
from typing import TYPE_CHECKING, NoReturn

from app.sandbox import livekit, twilio
from app.sandbox.control import Control
from app.sandbox.exchange import Answer, Exchange, json_answer
from app.sandbox.pipeline import Pipeline
from app.sandbox.request_log import RequestLog
from app.sandbox.state import Credentials, Sandbox
from app.sandbox.store import Store

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

CONTROL_PREFIX = "/sandbox/"

MAX_BODY_BYTES = 10 * 1024 * 1024
"""Bytes; LiveKit's own limit (livekit config.go:567)."""

STATUS_LINES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}


class SandboxApp:
    """WSGI callable; `sandbox` is what tests in the same process look into."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self._pipeline = Pipeline(sandbox)
        self._control = Control(sandbox)

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer one request, or drop its connection."""
        exchange = _read(environ)
        answer = self._answer(exchange, environ) if exchange else Answer(413, b"body too large", "text/plain")
        if answer is None:
            _drop(environ.get("gunicorn.socket"))
        headers = [("Content-Type", answer.content_type), ("Content-Length", str(len(answer.body)))]
        start_response(STATUS_LINES.get(answer.status, f"{answer.status} Sandbox"), [*headers, *answer.headers])
        return [answer.body]

    def _answer(self, exchange: Exchange, environ: "WSGIEnvironment") -> Answer | None:
        if exchange.path.startswith(CONTROL_PREFIX):
            return self._control.answer(exchange, str(environ.get("REMOTE_ADDR", "")))
        if livekit.recognise(exchange) or twilio.recognise(exchange):
            return self._pipeline.serve(exchange)
        return json_answer(404, {"message": "The sandbox serves Twilio, LiveKit and /sandbox/", "status": 404})

    def close(self) -> None:
        """Let every held request go and close the journal."""
        self.sandbox.faults.clear()
        self.sandbox.store.close()


def create_sandbox(credentials: Credentials | None = None, state: Path | None = None) -> SandboxApp:
    """Build the sandbox; `state` is the journal's file, without it nothing outlives the process."""
    requests = RequestLog(livekit.read_body)
    return SandboxApp(Sandbox(credentials or Credentials(), Store(state), requests))


def _read(environ: "WSGIEnvironment") -> Exchange | None:
    length = environ.get("CONTENT_LENGTH")
    body = b""
    if length:
        if int(length) > MAX_BODY_BYTES:
            return None
        body = environ["wsgi.input"].read(int(length))
        if len(body) < int(length):
            # Its client died while it was sending: no server takes half a request for a whole one.
            _drop(environ.get("gunicorn.socket"))
    elif environ.get("HTTP_TRANSFER_ENCODING"):
        body = environ["wsgi.input"].read(MAX_BODY_BYTES)
    return Exchange(
        method=environ["REQUEST_METHOD"],
        path=environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace"),
        query=environ.get("QUERY_STRING", ""),
        body=body,
        host=environ.get("HTTP_HOST", ""),
        authorization=environ.get("HTTP_AUTHORIZATION"),
        content_type=environ.get("CONTENT_TYPE") or "",
        connection=f"{environ.get('REMOTE_ADDR', '')}:{environ.get('REMOTE_PORT', '')}",
        socket=environ.get("gunicorn.socket"),
    )


def _drop(client: socket | None) -> NoReturn:
    """Close the connection under the client, and leave by the error that gunicorn takes for a client gone away."""
    if client is not None:
        try:
            client.shutdown(SHUT_RDWR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise
    raise BrokenPipeError(errno.EPIPE, "connection dropped on purpose")
