"""Signing in with an API key, and out again."""

from flask import Blueprint, request, session, url_for
from flask.typing import ResponseReturnValue
from werkzeug.utils import redirect

from app.access import Caller, Scope
from app.api.context import door
from app.console.context import KEY_ID, desk
from app.console.pages import page
from app.domain.errors import ErrorCode, RefusedError


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
    holder = _holder_of(request.form.get("key", "").strip())
    session.clear()
    session.permanent = True
    session[KEY_ID] = str(holder.key_id)
    return redirect(own_path(request.form.get("next", "")), 303)


def leave() -> ResponseReturnValue:
    """Forget who was signed in."""
    session.clear()
    return redirect(url_for("console.sign_in"), 303)


def own_path(text: str) -> str:
    """Return `text` where it is a path of this site, else `/`: a link must not lead a person elsewhere."""
    is_path = text.startswith("/") and not text.startswith("//") and text.isprintable() and "\\" not in text
    return text if is_path else "/"


def _holder_of(key: str) -> Caller:
    """Return who holds this key; `RefusedError` for a wrong one, for one that sees nothing, or for too many tries."""
    retry_after_s = desk().sign_in_limit.retry_after_s(f"sign-in {request.remote_addr}")
    if retry_after_s is not None:
        raise RefusedError(ErrorCode.RATE_LIMITED, f"Too many tries: come back in {retry_after_s} s.")
    found = door().keys.authenticate(key)
    if found is None:
        raise RefusedError(ErrorCode.UNAUTHENTICATED, "This key is unknown or was revoked.")
    if not found.may(Scope.READ):
        raise RefusedError(ErrorCode.FORBIDDEN, f"The key '{found.name}' has no scope: it sees nothing.")
    return found
