"""What every request and answer has: an id, one line in the log, and headers that keep a browser careful."""

import re
import time
import uuid
from contextlib import ExitStack

import structlog
from flask import Flask, Response, g, request

from app.api.context import client_address, wiring
from app.api.problems import FIRST_SERVER_ERROR
from app.telemetry.catalogue import HTTP_REFUSED, REFUSED_STATUSES
from app.telemetry.tracing import SpanKind, checked_traceparent

log = structlog.stdlib.get_logger()

HEADER = "X-Request-ID"

TRACE_HEADER = "traceparent"
"""W3C Trace Context: a client that traces sees our work in its own trace."""

TRACED = frozenset({"POST", "PUT", "PATCH", "DELETE"})
"""Requests that change something; a poll every second would bury them."""

UNMATCHED = "unmatched"
"""The route of a request that no call of ours answers."""

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")

DATA_POLICY = "default-src 'none'; frame-ancestors 'none'"
"""For answers that are data: a browser that shows one runs nothing and loads nothing."""

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""For pages: scripts, styles and forms of our own host, in files; nothing inline, nothing from elsewhere."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not "no-referrer": a form's protection against forgery looks at the referrer when it comes over TLS.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""What every answer carries."""

TLS_ONLY = "max-age=31536000"
"""Seconds, a year: for so long a browser that came over TLS comes over nothing else."""


def register_requests(app: Flask) -> None:
    """Put the hooks before and after every request."""
    app.before_request(_begin)
    app.after_request(_finish)


def _begin() -> None:
    given = request.headers.get(HEADER, "")
    g.request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
    g.started = time.perf_counter()
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=g.request_id)
    _begin_span()


def _finish(response: Response) -> Response:
    headers = response.headers
    headers[HEADER] = g.request_id
    headers.update(HEADERS)
    headers.setdefault("Content-Security-Policy", PAGE_POLICY if response.mimetype == "text/html" else DATA_POLICY)
    headers.setdefault("Cache-Control", "no-store")
    if request.is_secure:
        headers["Strict-Transport-Security"] = TLS_ONLY
    who = getattr(g, "caller", None)
    log.info(
        "request",
        method=request.method,
        route=route(),
        status=response.status_code,
        took_ms=round((time.perf_counter() - g.started) * 1000, 1),
        caller=who.name if who else None,
        address=client_address(request),
    )
    if response.status_code in REFUSED_STATUSES:
        wiring().telemetry.tally.count(HTTP_REFUSED, str(response.status_code))
    _end_span(response)
    return response


def route() -> str:
    """Return the template of the request's path: what a path itself says may be a number."""
    return request.url_rule.rule if request.url_rule else UNMATCHED


def _begin_span() -> None:
    tracing = wiring().telemetry.tracing
    g.spans = ExitStack()
    if not tracing.is_on or request.method not in TRACED:
        return
    span = tracing.span(
        f"{request.method} {route()}",
        SpanKind.SERVER,
        parent=checked_traceparent(request.headers.get(TRACE_HEADER)),
        attributes={
            "http.request.method": request.method,
            "http.route": route(),
            "url.scheme": request.scheme,
            "trunkline.request.id": g.request_id,
        },
    )
    g.span = g.spans.enter_context(span)


def _end_span(response: Response) -> None:
    with g.spans:
        if "span" in g:
            g.span.note(http__response__status_code=response.status_code)
            # A client's mistake is no failure of ours, in OpenTelemetry's conventions too.
            if response.status_code >= FIRST_SERVER_ERROR:
                g.span.fail(str(response.status_code))
