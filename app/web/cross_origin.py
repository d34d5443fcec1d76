"""Lets pages of other origins call the API (CORS): none but those that `CORS_ORIGINS` names, and never with cookies.

Few lines of our own: a library would answer what browsers ask in advance only after the check of the key, which such a
request never has.
"""

from collections.abc import Collection
from functools import partial

from flask import Flask, Response, request

from app.domain.workspaces import WORKSPACE_HEADER

OPEN_PATHS = ("/api/", "/openapi.json")
"""What pages of other origins may call; the console they may not."""

METHODS = "GET, POST, PATCH, DELETE"

SENT = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-Match",
    "If-None-Match",
    "Prefer",
    WORKSPACE_HEADER,
    "X-Request-ID",
    "traceparent",
)
"""Headers that a page may send: those that the API reads."""

EXPOSED = (
    "Deprecation",
    "ETag",
    "Idempotency-Replayed",
    "Link",
    "Location",
    "Preference-Applied",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "Sunset",
    "WWW-Authenticate",
    "X-Request-ID",
)
"""Headers that a page may read, beside those that it always may."""

PREFLIGHT_AGE_S = 600
"""Seconds for which a browser need not ask again: how long a change of the setting takes at most."""


def register_cross_origin(app: Flask, origins: Collection[str]) -> None:
    """Answer browsers that ask for a page of one of these origins; before the check of the key, which comes later."""
    if origins:
        app.before_request(partial(_answer_preflight, origins))
        app.after_request(partial(_allow, origins))


def _answer_preflight(origins: Collection[str]) -> Response | None:
    """Answer what a browser asks before it sends a page's request; what others ask with OPTIONS goes on."""
    is_asked = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
    if not is_asked or not request.path.startswith(OPEN_PATHS) or request.headers.get("Origin") not in origins:
        return None
    headers = {
        "Access-Control-Allow-Methods": METHODS,
        "Access-Control-Allow-Headers": ", ".join(SENT),
        "Access-Control-Max-Age": str(PREFLIGHT_AGE_S),
    }
    return Response("", 204, headers, mimetype="text/plain")


def _allow(origins: Collection[str], response: Response) -> Response:
    if request.path.startswith(OPEN_PATHS):
        # A cache must not give one origin what another was answered.
        response.vary.add("Origin")
        if (origin := request.headers.get("Origin")) in origins:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Access-Control-Expose-Headers"] = ", ".join(EXPOSED)
    return response
