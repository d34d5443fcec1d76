"""The sandbox as one WSGI application: each request passes rate limits, faults and latency, then the provider."""

import errno
import select
import time
from collections.abc import Iterable
from http import HTTPStatus
from pathlib import Path
from socket import MSG_DONTWAIT, MSG_PEEK, SHUT_RDWR, socket
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from app.dev.sandbox import faults, livekit, magic_numbers, twilio
from app.dev.sandbox.control import Control
from app.dev.sandbox.exchange import LIVEKIT, TWILIO, Exchange, LoggedRequest, RequestLog, Response, json_response
from app.dev.sandbox.faults import ERROR_500, HTML_503, TOO_MANY, BurstSlot, FaultHit
from app.dev.sandbox.livekit_wire import STATUS
from app.dev.sandbox.sip_calls import SipCalls
from app.dev.sandbox.sip_listener import SipListener
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


def rate_limit_response(provider: str, retry_after_s: float | None = None) -> Response:
    """Return a 429, with Retry-After when it is given."""
    headers = () if retry_after_s is None else (("Retry-After", f"{retry_after_s:g}"),)
    if provider == TWILIO:
        return TwilioError(429, 20429, "Too Many Requests").response(headers)
    return json_response(429, {"code": "resource_exhausted", "msg": "too many requests"}, headers)


def fault_response(provider: str, hit: FaultHit) -> Response:
    """Return the response of a fault that applies nothing."""
    spec = hit.fault.spec
    if hit.kind == TOO_MANY:
        return rate_limit_response(provider, spec.get("retryAfterS"))
    if hit.kind == HTML_503:
        return Response(503, HTML, "text/html; charset=utf-8")
    if hit.kind == ERROR_500:
        if provider == TWILIO:
            return TwilioError(500, 20500, "An internal server error has occurred").response()
        return json_response(500, {"code": "internal", "msg": "internal error"})
    return _rejection(provider, spec)


def _rejection(provider: str, spec: dict[str, Any]) -> Response:
    message = str(spec.get("message") or "Rejected by the sandbox")
    if provider == TWILIO:
        return TwilioError(int(spec.get("status") or 400), spec.get("code", 20001), message).response()
    code = str(spec.get("code") or "invalid_argument")
    return json_response(int(spec.get("status") or STATUS.get(code, 400)), {"code": code, "msg": message})


def malformed_response(provider: str, response: Response) -> Response:
    """Replace the body of a successful response by a malformed one; an error stays as it is."""
    if response.status >= HTTP_ERROR_FROM:
        return response
    status = 200 if response.status == HTTP_NO_CONTENT else response.status
    body = NOT_JSON if provider == TWILIO else NOT_PROTOBUF
    return Response(status, body, response.content_type)


DISCONNECT_POLL_S = 0.1
"""Seconds between two checks whether the client of a hung request is still connected."""

BLOCKING = faults.REFUSALS | {faults.HANG, faults.SLOW, faults.HOLD_BEFORE}
"""Kinds that wait before anything is applied: in a burst the next request does not wait for them."""


class Provider(Protocol):
    """One side of the sandbox."""

    def owner(self, exchange: Exchange) -> str:
        """Return whose a request is: a Twilio account's sid or a LiveKit project's name."""
        ...

    def response(self, exchange: Exchange) -> Response:
        """Apply a request and return the response."""
        ...


class Pipeline:
    """Serves both providers' sides; the response `None` means: close the connection without one."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._providers: dict[str, Provider] = {
            TWILIO: twilio.Twilio(sandbox),
            LIVEKIT: livekit.LiveKit(sandbox),
        }

    def serve(self, exchange: Exchange) -> Response | None:
        """Serve a request that matched a route of one of the providers.

        A paused provider has not read it yet: rate limits and other faults apply when the pause is over. The request
        is applied then, whether its client still waits or not, unless the sandbox was reset in between.
        """
        exchange.owner = self._providers[exchange.provider].owner(exchange)
        entry, generation = self._sandbox.requests.arrive(exchange), self._sandbox.generation
        slot = self._sandbox.faults.wait_while_paused(exchange)
        if slot:
            entry.fault = faults.PAUSE
        limit = self._sandbox.concurrency_limits[exchange.provider]
        try:
            if not limit.acquire():
                response: Response | None = rate_limit_response(exchange.provider)
            else:
                try:
                    response = self._serve_within_rate(exchange, entry, generation, slot)
                finally:
                    limit.release()
        finally:
            if slot:
                slot.release_next()
        entry.status = response.status if response else None
        exchange.socket = None
        return response

    def _serve_within_rate(
        self, exchange: Exchange, entry: LoggedRequest, generation: int, slot: BurstSlot | None
    ) -> Response | None:
        own_limit = self._sandbox.owner_rate_limits.get(exchange.owner)
        if not self._sandbox.rate_limits[exchange.provider].take() or (own_limit and not own_limit.take()):
            return rate_limit_response(exchange.provider)
        hit = self._sandbox.faults.match(exchange)
        if hit is None:
            return self._apply(exchange, generation, slot)
        entry.fault = hit.kind
        exchange.hidden = hit.hidden(self._sandbox.store.written_at)
        if slot and hit.kind in BLOCKING:
            slot.release_next()
        return self._serve_fault(exchange, hit, generation, slot)

    def _serve_fault(
        self, exchange: Exchange, hit: FaultHit, generation: int, slot: BurstSlot | None
    ) -> Response | None:
        if hit.kind in faults.REFUSALS:
            time.sleep(self._sandbox.latency.seconds(exchange.provider))
            return fault_response(exchange.provider, hit)
        if hit.kind == faults.DROP_BEFORE:
            return None
        if hit.kind == faults.HANG:
            self._hang(exchange.socket, hit)
            return None
        if hit.kind == faults.SLOW:
            self._sandbox.faults.wait(hit.fault, hit.seconds)
        elif hit.kind == faults.HOLD_BEFORE:
            self._sandbox.faults.wait(hit.fault)
        response = self._apply(exchange, generation, slot)
        if hit.kind == faults.HOLD_AFTER:
            self._sandbox.faults.wait(hit.fault)
        if hit.kind == faults.APPLY_THEN_DROP or response is None:
            return None
        return malformed_response(exchange.provider, response) if hit.kind == faults.MALFORMED else response

    def _apply(self, exchange: Exchange, generation: int, slot: BurstSlot | None) -> Response | None:
        """Apply a request; half of the latency passes before, unless the request belongs to a burst."""
        pause_s = self._sandbox.latency.seconds(exchange.provider) / 2
        if pause_s and not slot:
            time.sleep(pause_s)
        with self._sandbox.store.transaction():
            if generation != self._sandbox.generation:
                return None
            response = self._providers[exchange.provider].response(exchange)
            if exchange.operation in magic_numbers.FOLLOWED and response.status < HTTP_ERROR_FROM:
                magic_numbers.follow(self._sandbox, exchange)
        if slot:
            slot.release_next()
        if pause_s:
            time.sleep(pause_s)
        return response

    def _hang(self, client: socket | None, hit: FaultHit) -> None:
        """Send nothing until the time is up, the fault is deleted or the client has disconnected."""
        ends_at = time.monotonic() + hit.seconds
        event = self._sandbox.faults.add_waiting(hit.fault)
        while time.monotonic() < ends_at and not event.wait(DISCONNECT_POLL_S) and not _is_disconnected(client):
            pass
        self._sandbox.faults.remove_waiting(hit.fault, event)


def _is_disconnected(client: socket | None) -> bool:
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
    """WSGI callable; `sandbox` is for tests in the same process."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self._pipeline = Pipeline(sandbox)
        self._sip_calls = SipCalls(sandbox)
        self._control = Control(sandbox, self._sip_calls)
        self._listener: SipListener | None = None

    def listen(self, port: int) -> None:
        """Answer SIP on this port of loopback until `close`; 0 takes a free one."""
        self._listener = SipListener(self.sandbox, self._sip_calls, port)
        self._listener.start()

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer one request, or drop its connection."""
        exchange = _read(environ)
        response = self._respond(exchange, environ) if exchange else Response(413, b"body too large", "text/plain")
        if response is None:
            _drop_connection(environ.get("gunicorn.socket"))
        headers = [("Content-Type", response.content_type), ("Content-Length", str(len(response.body)))]
        start_response(STATUS_LINES.get(response.status, f"{response.status} Sandbox"), [*headers, *response.headers])
        return [response.body]

    def _respond(self, exchange: Exchange, environ: "WSGIEnvironment") -> Response | None:
        if exchange.path.startswith(CONTROL_PREFIX):
            return self._control.response(exchange, str(environ.get("REMOTE_ADDR", "")))
        if livekit.match_route(exchange) or twilio.match_route(exchange):
            return self._pipeline.serve(exchange)
        return json_response(404, {"message": "The sandbox serves Twilio, LiveKit and /sandbox/", "status": 404})

    def close(self) -> None:
        """Release every held request, stop answering SIP and close the journal."""
        self.sandbox.faults.clear()
        if self._listener:
            self._listener.stop()
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
            # Its client died while it was sending: no server accepts half a request.
            _drop_connection(environ.get("gunicorn.socket"))
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


def _drop_connection(client: socket | None) -> NoReturn:
    """Close the client's connection, and raise the error that gunicorn treats as a disconnected client."""
    if client is not None:
        try:
            client.shutdown(SHUT_RDWR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise
    raise BrokenPipeError(errno.EPIPE, "connection dropped on purpose")
