"""The sandbox as one WSGI application: each request meets the rate limit, faults, latency, then the provider."""

import errno
import select
import time
from collections.abc import Iterable
from http import HTTPStatus
from pathlib import Path
from socket import MSG_DONTWAIT, MSG_PEEK, SHUT_RDWR, socket
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from app.dev.sandbox import faults, livekit, twilio
from app.dev.sandbox.control import Control
from app.dev.sandbox.exchange import LIVEKIT, TWILIO, Answer, Entry, Exchange, RequestLog, json_answer
from app.dev.sandbox.faults import ERROR_500, HTML_503, TOO_MANY, Strike, Turn
from app.dev.sandbox.livekit_wire import STATUS
from app.dev.sandbox.state import Credentials, Sandbox
from app.dev.sandbox.store import Store
from app.dev.sandbox.twilio_wire import TwilioError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


HTML = b"<html><head><title>503 Service Unavailable</title></head><body><h1>Service Unavailable</h1></body></html>"

NOT_JSON = b'{"sid": "'
NOT_PROTOBUF = b"\xff\xff\xff\xff\xff\xff"
"""Starts a field tag that never ends, so no protobuf reader accepts it."""

HTTP_NO_CONTENT = 204
HTTP_ERROR_FROM = 400


def too_many(provider: str, retry_after_s: float | None = None) -> Answer:
    """Return a 429, with Retry-After when it is given."""
    headers = () if retry_after_s is None else (("Retry-After", f"{retry_after_s:g}"),)
    if provider == TWILIO:
        return TwilioError(429, 20429, "Too Many Requests").answer(headers)
    return json_answer(429, {"code": "resource_exhausted", "msg": "too many requests"}, headers)


def failure(provider: str, strike: Strike) -> Answer:
    """Return the answer of a fault that applies nothing."""
    order = strike.fault.order
    if strike.kind == TOO_MANY:
        return too_many(provider, order.get("retryAfterS"))
    if strike.kind == HTML_503:
        return Answer(503, HTML, "text/html; charset=utf-8")
    if strike.kind == ERROR_500:
        if provider == TWILIO:
            return TwilioError(500, 20500, "An internal server error has occurred").answer()
        return json_answer(500, {"code": "internal", "msg": "internal error"})
    return _rejection(provider, order)


def _rejection(provider: str, order: dict[str, Any]) -> Answer:
    message = str(order.get("message") or "Rejected by the sandbox")
    if provider == TWILIO:
        return TwilioError(int(order.get("status") or 400), order.get("code", 20001), message).answer()
    code = str(order.get("code") or "invalid_argument")
    return json_answer(int(order.get("status") or STATUS.get(code, 400)), {"code": code, "msg": message})


def malformed(provider: str, answer: Answer) -> Answer:
    """Break the body of an answer that tells of success; a refusal stays as it is."""
    if answer.status >= HTTP_ERROR_FROM:
        return answer
    status = 200 if answer.status == HTTP_NO_CONTENT else answer.status
    body = NOT_JSON if provider == TWILIO else NOT_PROTOBUF
    return Answer(status, body, answer.content_type)


GONE_POLL_S = 0.1
"""Seconds between two looks whether the client of a hung request is still there."""

BLOCKING = faults.REFUSALS | {faults.HANG, faults.SLOW, faults.HOLD_BEFORE}
"""Kinds that take their time before anything is done: in a burst the next request does not wait for them."""


class Provider(Protocol):
    """One side of the sandbox."""

    def answer(self, exchange: Exchange) -> Answer:
        """Apply and answer a request."""
        ...


class Pipeline:
    """Serves both providers' sides; `None` as an answer means: close the connection without a word."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._providers: dict[str, Provider] = {
            TWILIO: twilio.Twilio(sandbox),
            LIVEKIT: livekit.LiveKit(sandbox),
        }

    def serve(self, exchange: Exchange) -> Answer | None:
        """Serve a request that one of the providers recognised.

        A paused provider has not read it yet: rate limits and other faults meet it when the pause is over. It is
        carried out then, whether its client still waits or not; only a reset in between lets it drop.
        """
        entry, generation = self._sandbox.requests.arrive(exchange), self._sandbox.generation
        turn = self._sandbox.faults.stand_still(exchange)
        if turn:
            entry.fault = faults.PAUSE
        seats = self._sandbox.seats[exchange.provider]
        try:
            if not seats.take():
                answer: Answer | None = too_many(exchange.provider)
            else:
                try:
                    answer = self._admitted(exchange, entry, generation, turn)
                finally:
                    seats.leave()
        finally:
            if turn:
                turn.pass_on()
        entry.status = answer.status if answer else None
        exchange.socket = None
        return answer

    def _admitted(self, exchange: Exchange, entry: Entry, generation: int, turn: Turn | None) -> Answer | None:
        if not self._sandbox.buckets[exchange.provider].take():
            return too_many(exchange.provider)
        strike = self._sandbox.faults.strike(exchange)
        if strike is None:
            return self._apply(exchange, generation, turn)
        entry.fault = strike.kind
        exchange.hidden = strike.hidden(self._sandbox.store.written_at)
        if turn and strike.kind in BLOCKING:
            turn.pass_on()
        return self._struck(exchange, strike, generation, turn)

    def _struck(self, exchange: Exchange, strike: Strike, generation: int, turn: Turn | None) -> Answer | None:
        if strike.kind in faults.REFUSALS:
            time.sleep(self._sandbox.latency.seconds(exchange.provider))
            return failure(exchange.provider, strike)
        if strike.kind == faults.DROP_BEFORE:
            return None
        if strike.kind == faults.HANG:
            self._hang(exchange.socket, strike)
            return None
        if strike.kind == faults.SLOW:
            self._sandbox.faults.wait(strike.fault, strike.seconds)
        elif strike.kind == faults.HOLD_BEFORE:
            self._sandbox.faults.wait(strike.fault)
        answer = self._apply(exchange, generation, turn)
        if strike.kind == faults.HOLD_AFTER:
            self._sandbox.faults.wait(strike.fault)
        if strike.kind == faults.APPLY_THEN_DROP or answer is None:
            return None
        return malformed(exchange.provider, answer) if strike.kind == faults.MALFORMED else answer

    def _apply(self, exchange: Exchange, generation: int, turn: Turn | None) -> Answer | None:
        """Carry a request out; half of the latency passes before, unless the request lands with a burst."""
        pause_s = self._sandbox.latency.seconds(exchange.provider) / 2
        if pause_s and not turn:
            time.sleep(pause_s)
        with self._sandbox.store.transaction():
            if generation != self._sandbox.generation:
                return None
            answer = self._providers[exchange.provider].answer(exchange)
        if turn:
            turn.pass_on()
        if pause_s:
            time.sleep(pause_s)
        return answer

    def _hang(self, client: socket | None, strike: Strike) -> None:
        """Stay silent until the time is up, the fault is withdrawn or the client is gone."""
        ends_at = time.monotonic() + strike.seconds
        event = self._sandbox.faults.enter(strike.fault)
        while time.monotonic() < ends_at and not event.wait(GONE_POLL_S) and not _is_gone(client):
            pass
        self._sandbox.faults.leave(strike.fault, event)


def _is_gone(client: socket | None) -> bool:
    if client is None:
        return False
    try:
        readable, _, _ = select.select([client], [], [], 0)
        return bool(readable) and client.recv(1, MSG_PEEK | MSG_DONTWAIT) == b""
    except (OSError, ValueError):
        return True


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
