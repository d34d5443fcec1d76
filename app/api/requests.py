"""What every request and answer has: an id, one line in the log, and headers that keep a browser careful."""

import re
import time
import uuid

import structlog
from flask import Flask, Response, g, request

log = structlog.stdlib.get_logger()

HEADER = "X-Request-ID"

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")

CONTENT_POLICY = "default-src 'none'; frame-ancestors 'none'"
"""For answers that are data: a browser that shows one runs nothing and loads nothing."""


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


def _finish(response: Response) -> Response:
    headers = response.headers
    headers[HEADER] = g.request_id
    headers["X-Content-Type-Options"] = "nosniff"
    headers["X-Frame-Options"] = "DENY"
    headers["Referrer-Policy"] = "no-referrer"
    headers.setdefault("Content-Security-Policy", CONTENT_POLICY)
    headers.setdefault("Cache-Control", "no-store")
    who = getattr(g, "caller", None)
    log.info(
        "request",
        method=request.method,
        path=request.path,
        status=response.status_code,
        took_ms=round((time.perf_counter() - g.started) * 1000, 1),
        caller=who.name if who else None,
    )
    return response
