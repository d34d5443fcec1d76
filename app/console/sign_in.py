"""Signing in with an API key, and out again."""

import hashlib

from flask import Blueprint, g, request, session, url_for
from flask.typing import ResponseReturnValue
from werkzeug.utils import redirect

from app.access import Caller, Scope
from app.api.context import client_address, door
from app.console.context import TOKEN, desk, origin, stranger, token_in_cookie
from app.console.cookies import UNTIL
from app.console.pages import page
from app.domain.errors import ErrorCode, RefusedError

COUNTED_CHARACTERS = 12
"""Characters of a wrong key by which tries are counted, from wherever they come: `tl_` and nine of 43."""


def register_sign_in(blueprint: Blueprint) -> None:
    """Add the pages that need nobody to be signed in."""
    blueprint.get("/sign-in", endpoint="sign_in")(form)
    blueprint.post("/sign-in", endpoint="enter")(enter)
    blueprint.post("/sign-out", endpoint="leave")(leave)


def form() -> ResponseReturnValue:
    """Show the form."""
    return page("sign_in.html", wanted=own_path(request.args.get("next", "")))


def enter() -> ResponseReturnValue:
    """Let a person in, and take them to the page that they wanted."""
    try:
        g.caller = _holder_of(request.form.get("key", "").strip())
    except RefusedError as refusal:
        if refusal.code is not ErrorCode.RATE_LIMITED:
            desk().sessions.refuse(stranger(), refusal.code)
        raise
    token, until = desk().sessions.start(origin(), instead_of=token_in_cookie())
    # All of it goes, the forms' token too: what was known of the browser before is worth nothing after.
    session.clear()
    session.permanent = True
    session[TOKEN], session[UNTIL] = token, until.timestamp()
    return redirect(own_path(request.form.get("next", "")), 303)


def leave() -> ResponseReturnValue:
    """End the session, in the rows too: whoever has a copy of the cookie is out as well."""
    token = token_in_cookie()
    g.caller = desk().sessions.holder(token, is_seen=False)
    if token is not None and g.caller is not None:
        desk().sessions.end(token, origin())
    session.clear()
    return redirect(url_for("console.sign_in"), 303)


def own_path(text: str) -> str:
    """Return `text` where it is a path of this site, else `/`: a link must not lead a person elsewhere."""
    is_path = text.startswith("/") and not text.startswith("//") and text.isprintable() and "\\" not in text
    return text if is_path else "/"


def _holder_of(key: str) -> Caller:
    """Return who holds this key; `RefusedError` for one that sees nothing, for a wrong one, or for too many of those.

    Only wrong keys are counted and refused: whoever tries keys must lock nobody out who has one.
    """
    found = door().keys.authenticate(key)
    if found is None:
        wrong = RefusedError(ErrorCode.UNAUTHENTICATED, "This key is unknown or was revoked.")
        raise _too_many_tries(key) or wrong
    if not found.may(Scope.READ):
        raise RefusedError(ErrorCode.FORBIDDEN, f"The key '{found.name}' has no scope: it sees nothing.")
    return found


def _too_many_tries(key: str) -> RefusedError | None:
    """Count a wrong key, by where it came from and by how it begins; return the 429 beyond the limit of either."""
    # What a person typed wrongly is nearly a key: it goes nowhere but as a hash.
    beginning = hashlib.sha256(key[:COUNTED_CHARACTERS].encode()).hexdigest()
    counted = (f"sign-in from {client_address(request)}", f"sign-in with {beginning}")
    waits = [wait for who in counted if (wait := desk().sign_in_limit.retry_after_s(who)) is not None]
    if not waits:
        return None
    detail = f"Too many wrong keys: come back in {max(waits)} s. A right key always opens."
    return RefusedError(ErrorCode.RATE_LIMITED, detail, retry_after_s=max(waits))
