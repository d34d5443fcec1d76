"""Checks the bearer key of every request under /api/: its workspace, its scope, and the rate limit of writing calls.

A request sees no workspace's rows until its key has been checked, and then those of the key's.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask import Flask, Response, g, request

from app.access import Caller, Scope
from app.db.visibility import NOBODY, see, seeing
from app.domain.errors import ErrorCode, RefusedError
from app.domain.events import Channel
from app.domain.workspaces import WORKSPACE_HEADER
from app.web.context import web_services
from app.web.limits import Allowance
from app.web.problems import HttpRefusedError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

PROTECTED = "/api/"
ADMINISTERED = ("/api/webhooks", "/api/workspaces", "/api/carrier-accounts", "/api/voice-projects")
"""Writing calls below these paths need the scope `admin`.

A webhook receives every number of its workspace from then on, and makes us send requests to its URL.
"""

CONFIDENTIAL = ("/api/keys", "/api/activity")
"""Every call below these paths needs it: who else may call, and from where people do."""

OPERATED = ("/api/trunks", "/metrics")
"""What is below these paths is the installation's, and for operators only."""

OPERATED_WRITES = "/api/workspaces"
"""Writing calls below this path are for operators only."""

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def register_authentication(app: Flask) -> None:
    """Check the key before every request; an unknown path under /api/ needs one too."""
    app.wsgi_app = see_nobody(app.wsgi_app)  # type: ignore[assignment, method-assign]  # Flask's way
    app.before_request(_check_protected)


def see_nobody(application: "WSGIApplication") -> "WSGIApplication":
    """Have every request begin without sight of any workspace's rows, and end as the thread began."""

    def respond(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        with seeing(NOBODY):
            return application(environ, start_response)

    return respond


def _check_protected() -> None:
    if request.path.startswith(PROTECTED):
        check_key()


def needed_scope(method: str, path: str) -> Scope:
    """Return the scope that a call needs."""
    if path.startswith(CONFIDENTIAL):
        return Scope.ADMIN
    if method in SAFE_METHODS:
        return Scope.READ
    return Scope.ADMIN if path.startswith(ADMINISTERED) else Scope.WRITE


def is_operated(method: str, path: str) -> bool:
    """Say whether a call is for operators of the installation only."""
    is_write = method not in SAFE_METHODS
    return path.startswith(OPERATED) or (is_write and path.startswith(OPERATED_WRITES))


LOCAL_OPERATOR = "trunkline.local_operator"
"""Key in the WSGI environ of a `LocalOperator`; what comes in over HTTP becomes names like HTTP_X, and texts."""


@dataclass(frozen=True, slots=True)
class LocalOperator:
    """Who runs a command on the installation itself: needs no key, since the settings open everything already."""

    command: str
    """As it is recorded, `trunkline audit`."""


def check_key() -> None:
    """Raise the 401, 403 or 404 unless the request has a key for its workspace, whose scope covers its method."""
    local = request.environ.get(LOCAL_OPERATOR)
    if isinstance(local, LocalOperator):
        found = Caller(None, local.command, (Scope.ADMIN.value,), channel=Channel.COMMAND_LINE)
    else:
        found = _key_holder()
    slug = request.headers.get(WORKSPACE_HEADER)
    admit(web_services().keys.in_workspace(found, slug) if slug is not None else found)


def _key_holder() -> Caller:
    """Return who the request's key belongs to; raise the 401."""
    scheme, _, text = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not text.strip():
        raise _no_key("Send the API key as 'Authorization: Bearer KEY'.", 'Bearer realm="trunkline"')
    found = web_services().keys.authenticate(text.strip())
    if found is None:
        raise _no_key("The API key is unknown or was revoked.", 'Bearer realm="trunkline", error="invalid_token"')
    return found


def admit(found: Caller) -> None:
    """Let the request go on as this caller's, and see what that sees; 403 for what the caller may not do."""
    g.caller = found
    see(found.workspace_id)
    needed = needed_scope(request.method, request.path)
    if not found.may(needed):
        detail = f"This call needs the scope '{needed}'; the key has {', '.join(found.scopes) or 'none'}."
        raise RefusedError(ErrorCode.FORBIDDEN, detail)
    if not found.is_operator and is_operated(request.method, request.path):
        raise RefusedError(ErrorCode.FORBIDDEN, OPERATORS_ONLY)


OPERATORS_ONLY = "This is for operators of the installation: the key belongs to a workspace."


def _no_key(detail: str, challenge: str) -> RefusedError:
    return HttpRefusedError(ErrorCode.UNAUTHENTICATED, detail, {"WWW-Authenticate": challenge})


POLICY = "writes"
"""The name of the rate limit in its headers."""


def register_rate_limit(app: Flask) -> None:
    """Check the rate limit after the key, so that requests without a key count for nobody."""
    app.before_request(check_rate)
    app.after_request(_tell_rate)


def check_rate() -> None:
    """Raise the 429 for a writing request beyond its key's rate limit."""
    limit, who = web_services().rate_limit, g.get("caller")
    if limit is None or who is None or who.key_id is None or request.method in SAFE_METHODS:
        return
    _check(limit.take(str(who.key_id)))


def charge_items(count: int) -> None:
    """Count a bulk as one call per item (its own request is counted already); raise the 429 as `check_rate` does."""
    limit, who = web_services().rate_limit, g.get("caller")
    if limit is not None and who is not None and who.key_id is not None:
        _check(limit.charge(str(who.key_id), count - 1))


def _check(left: Allowance | None) -> None:
    if left is None:
        return
    g.allowance = left
    if not left.may_pass:
        detail = f"This key writes too fast: come back in {left.more_in_s} s."
        raise RefusedError(ErrorCode.RATE_LIMITED, detail, retry_after_s=left.more_in_s)


def _tell_rate(response: Response) -> Response:
    """Say what is left, as draft-ietf-httpapi-ratelimit-headers-10 has it, where the request was counted."""
    limit, left = web_services().rate_limit, g.get("allowance")
    if limit is not None and left is not None:
        calls, span_s = limit.policy
        response.headers["RateLimit-Policy"] = f'"{POLICY}";q={calls};w={span_s}'
        response.headers["RateLimit"] = f'"{POLICY}";r={left.calls};t={left.more_in_s}'
    return response
