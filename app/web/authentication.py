"""Checks the bearer key of every request under /api/: its scope, and the rate limit of writing calls."""

from flask import Flask, g, request

from app.access import Scope
from app.domain.errors import ErrorCode, RefusedError
from app.web.context import web_services
from app.web.problems import HttpRefusedError

PROTECTED = "/api/"
ADMINISTERED = "/api/webhooks"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def register_authentication(app: Flask) -> None:
    """Check the key before every request; an unknown path under /api/ needs one too."""
    app.before_request(_check_protected)


def _check_protected() -> None:
    if request.path.startswith(PROTECTED):
        check_key()


def _needed_scope() -> Scope:
    if request.method in SAFE_METHODS:
        return Scope.READ
    # A webhook receives every number from then on, and makes us send requests to its URL.
    return Scope.ADMIN if request.path.startswith(ADMINISTERED) else Scope.WRITE


def check_key() -> None:
    """Raise the 401 or 403 unless the request has a key whose scope covers its method."""
    scheme, _, text = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not text.strip():
        raise _no_key("Send the API key as 'Authorization: Bearer KEY'.", 'Bearer realm="trunkline"')
    found = web_services().keys.authenticate(text.strip())
    if found is None:
        raise _no_key("The API key is unknown or was revoked.", 'Bearer realm="trunkline", error="invalid_token"')
    g.caller = found
    needed = _needed_scope()
    if not found.may(needed):
        detail = f"This call needs the scope '{needed}'; the key has {', '.join(found.scopes) or 'none'}."
        raise RefusedError(ErrorCode.FORBIDDEN, detail)


def _no_key(detail: str, challenge: str) -> RefusedError:
    return HttpRefusedError(ErrorCode.UNAUTHENTICATED, detail, {"WWW-Authenticate": challenge})


def register_rate_limit(app: Flask) -> None:
    """Check the rate limit after the key, so that requests without a key count for nobody."""
    app.before_request(check_rate)


def check_rate() -> None:
    """Raise the 429 for a writing request beyond its key's rate limit."""
    limit, who = web_services().rate_limit, g.get("caller")
    if limit is None or who is None or request.method in SAFE_METHODS:
        return
    retry_after_s = limit.retry_after_s(str(who.key_id))
    if retry_after_s is not None:
        raise _too_fast(retry_after_s)


def charge_items(count: int) -> None:
    """Count a bulk as one call per item (its own request is counted already); raise the 429 as `check_rate` does."""
    limit, who = web_services().rate_limit, g.get("caller")
    retry_after_s = limit.charge(str(who.key_id), count - 1) if limit and who else None
    if retry_after_s is not None:
        raise _too_fast(retry_after_s)


def _too_fast(retry_after_s: int) -> RefusedError:
    detail = f"This key writes too fast: come back in {retry_after_s} s."
    return RefusedError(ErrorCode.RATE_LIMITED, detail, retry_after_s=retry_after_s)
