"""Stands before every page: who is signed in, whether the key still lives, and what it may do."""

from flask import Blueprint, Response, g, redirect, request, session, url_for
from flask.typing import ResponseReturnValue

from app.access import Scope
from app.api.authentication import SAFE_METHODS
from app.api.rate_check import check_rate
from app.console.context import desk, token_in_cookie
from app.domain.errors import ErrorCode, RefusedError

OPEN = frozenset({"console.static", "console.sign_in", "console.enter", "console.leave"})
"""Endpoints that need nobody to be signed in."""

POLLED = "X-Poll"
"""The header that our script sends: it follows no redirect to the sign-in page."""

ADMINISTERED = "/webhooks"
"""Pages whose buttons need the scope `admin`."""


def register_guard(blueprint: Blueprint) -> None:
    """Put the checks before the blueprint's views, in the order in which they are named."""
    blueprint.before_request(_check_form)
    blueprint.before_request(_check_key)
    blueprint.before_request(check_rate)


def _check_form() -> None:
    """Refuse a form that none of our pages sent."""
    desk().csrf.protect()


def _check_key() -> ResponseReturnValue | None:
    if request.endpoint in OPEN:
        return None
    # What our script asks for by itself keeps nobody signed in.
    found = desk().sessions.holder(token_in_cookie(), is_seen=POLLED not in request.headers)
    if found is None:
        return _to_sign_in()
    g.caller = found
    needed = _needed_scope()
    if not found.may(needed):
        detail = f"This needs a key with the scope '{needed}'; '{found.name}' has {', '.join(found.scopes) or 'none'}."
        raise RefusedError(ErrorCode.FORBIDDEN, detail)
    return None


def _needed_scope() -> Scope:
    if request.method in SAFE_METHODS:
        return Scope.READ
    # As in the API: a webhook is told every number from then on.
    return Scope.ADMIN if request.path.startswith(ADMINISTERED) else Scope.WRITE


def _to_sign_in() -> ResponseReturnValue:
    session.clear()
    if POLLED in request.headers:
        return Response("", 401)
    wanted = request.full_path.rstrip("?") if request.method in SAFE_METHODS else None
    return redirect(url_for("console.sign_in", next=None if wanted == "/" else wanted), 303)
