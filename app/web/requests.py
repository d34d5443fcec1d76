"""Hooks around every request: valid ids and parameters, a request id, a log line, a span, security headers."""

import re
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial

import structlog
from flask import Flask, Response, g, request

from app.domain.errors import (
    RefusedError,
    account_not_found,
    agent_not_found,
    audit_not_found,
    bulk_not_found,
    key_not_found,
    operation_not_found,
    test_call_not_found,
    trunk_not_found,
    validation_failed,
    webhook_delivery_not_found,
    webhook_not_found,
    workspace_not_found,
)
from app.domain.texts import excerpt, read_uuid
from app.domain.workspaces import AccountKind
from app.observability.counters import HTTP_REFUSED, HTTP_SECONDS, REFUSED_STATUSES
from app.observability.tracing import SpanKind, checked_traceparent
from app.views.fields import repeated_parameters
from app.views.operation_schemas import DRY_RUN
from app.web.authentication import SAFE_METHODS
from app.web.bodies import body_limit, refuse_malformed_body, too_large
from app.web.context import client_address, wiring
from app.web.problems import FIRST_SERVER_ERROR

log = structlog.stdlib.get_logger()

_MISSING: Mapping[str, Callable[[object], RefusedError]] = {
    "agent_id": agent_not_found,
    "operation_id": operation_not_found,
    "call_id": test_call_not_found,
    "audit_id": audit_not_found,
    "bulk_id": bulk_not_found,
    "webhook_id": webhook_not_found,
    "delivery_id": webhook_delivery_not_found,
    "trunk_id": trunk_not_found,
    "workspace_id": workspace_not_found,
    "key_id": key_not_found,
    "account_id": partial(account_not_found, AccountKind.CARRIER.label),
    "project_id": partial(account_not_found, AccountKind.VOICE.label),
}

KNOWN_PARAMETERS = {
    **dict.fromkeys(("phones.provision_phone", "phones.adopt_phone", "trunks.consolidate"), frozenset({DRY_RUN})),
    "phones.deprovision_phone": frozenset({"path"}),
    "webhooks.ping_webhook": frozenset({"event"}),
    "provisionings.start_bulk": frozenset({"kind", DRY_RUN}),
    "declarations.apply_declaration": frozenset({"prune", DRY_RUN}),
}
"""Endpoint of a writing call -> the query parameters that it takes; all others take none."""


def register_paths(app: Flask) -> None:
    """Check body, ids and parameters before every view; after the key, so that nobody learns anything without one."""
    app.before_request(_refuse_body)
    app.before_request(_read_ids)
    app.before_request(_refuse_unknown_parameters)


def _refuse_body() -> None:
    """Refuse a body that is malformed or announced as too large, even on a call that would not read it."""
    refuse_malformed_body(request)
    limit = body_limit(request)
    request.max_content_length = request.max_form_memory_size = limit + 1
    if (request.content_length or 0) > limit:
        raise too_large(limit)


def _read_ids() -> None:
    """Parse the ids in the path; a malformed one is a 404, since no row has it."""
    arguments = request.view_args or {}
    for name, text in arguments.items():
        if (missing := _MISSING.get(name)) is not None:
            found = read_uuid(text)
            if found is None:
                raise missing(excerpt(text))
            arguments[name] = found


def _refuse_unknown_parameters() -> None:
    """Refuse unknown query parameters of writing calls: a misspelt `dryRun` must not provision for real."""
    # Where no route matches, the response is the router's 404 or 405.
    if request.routing_exception is not None or request.method in SAFE_METHODS:
        return
    known = KNOWN_PARAMETERS.get(request.endpoint or "", frozenset())
    wrong = {name: ["Unknown parameter."] for name in request.args if name not in known}
    wrong |= repeated_parameters(request.args, known)
    if wrong:
        raise validation_failed(wrong)


HEADER = "X-Request-ID"

TRACE_HEADER = "traceparent"
"""W3C Trace Context: a client that traces sees our spans in its own trace."""

TRACED = frozenset({"POST", "PUT", "PATCH", "DELETE"})
"""Methods that change something; polls would outnumber them by far."""

METHODS = TRACED | SAFE_METHODS
OTHER_METHOD = "other"
"""What metrics call a method that no route of ours has."""

UNMATCHED = "unmatched"
"""The route of a request that matches none."""

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")

DATA_POLICY = "default-src 'none'; frame-ancestors 'none'"
"""For responses that are data: a browser that displays one runs and loads nothing."""

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""For pages: scripts, styles and forms from our own host, in files; nothing inline, nothing from elsewhere."""

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # Not "no-referrer": over TLS the CSRF check of a form compares the referrer.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""The headers of every response."""

STRICT_TRANSPORT_SECURITY = "max-age=31536000"
"""A year, in seconds: how long a browser that has come over TLS uses nothing else."""


def register_requests(app: Flask) -> None:
    """Add the hooks that run before and after every request."""
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
        headers["Strict-Transport-Security"] = STRICT_TRANSPORT_SECURITY
    took_s = time.perf_counter() - g.started
    caller = getattr(g, "caller", None)
    log.info(
        "request",
        method=request.method,
        route=route(),
        status=response.status_code,
        took_ms=round(took_s * 1000, 1),
        caller=caller.name if caller else None,
        address=client_address(request),
    )
    _count(response.status_code, took_s)
    _end_span(response)
    return response


def _count(status: int, took_s: float) -> None:
    """Count a response in labels of closed sets: a client may send any method, and any path."""
    counters = wiring().telemetry.counters
    method = request.method if request.method in METHODS else OTHER_METHOD
    counters.observe(HTTP_SECONDS, method, route(), f"{status // 100}xx", seconds=took_s)
    if status in REFUSED_STATUSES:
        counters.count(HTTP_REFUSED, str(status))


def route() -> str:
    """Return the route's template: a path itself may contain a phone number."""
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
            # OpenTelemetry's conventions: a 4xx is not an error of the server.
            if response.status_code >= FIRST_SERVER_ERROR:
                g.span.fail(str(response.status_code))
