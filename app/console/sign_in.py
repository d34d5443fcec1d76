"""Signing in with an API key and out again: the signed cookie, and the check that stands before every page."""

import hashlib
import hmac
from datetime import UTC, datetime
from urllib.parse import urlsplit

from flask import Blueprint, Flask, Request, Response, g, redirect, request, session, url_for
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface, SessionMixin
from flask.typing import ResponseReturnValue

from app.access import ABSOLUTE_LIMIT, Caller, Scope
from app.console.pages import TOKEN, desk, origin, page, stranger, token_in_cookie
from app.domain.errors import ErrorCode, RefusedError
from app.settings import Settings
from app.web.authentication import SAFE_METHODS, check_rate
from app.web.context import client_address, web_services

COOKIE = "trunkline_console"

HOST_COOKIE = f"__Host-{COOKIE}"
"""Its name over https: browsers take one of that name only from this very host, over TLS, for every path."""

UNTIL = "until"
"""Name, in the cookie, of the moment at which its session ends for good, in seconds since 1970."""

PURPOSE = b"trunkline console cookie v1"
"""What the derived secret is for, so that it is worth nothing elsewhere."""


class _CookieSessions(SecureCookieSessionInterface):
    """Names the cookie and marks it Secure by whether the browser came by https, as gunicorn hears it from the proxy.

    A request without the cookie, as every one of the API, gets an empty session: Flask would make a signer first.
    """

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        """Read the session; `app` and `request` are Flask's own parameters."""
        is_there = self.get_cookie_name(app) in request.cookies
        return super().open_session(app, request) if is_there else self.session_class()

    def get_cookie_name(self, app: Flask) -> str:
        """Return the name for this request's scheme; `app` is Flask's own parameter."""
        del app
        return HOST_COOKIE if request.is_secure else COOKIE

    def get_cookie_secure(self, app: Flask) -> bool:
        """Return whether this request came by https; `app` is Flask's own parameter."""
        del app
        return request.is_secure

    def get_expiration_time(self, app: Flask, session: SessionMixin) -> datetime | None:
        """Return when the session ends for good, however often the cookie is sent; None while nobody is signed in."""
        del app
        return datetime.fromtimestamp(session[UNTIL], UTC) if UNTIL in session else None


def cookie_secret(settings: Settings) -> bytes:
    """Derive the secret that signs the cookie: HMAC-SHA256 under the LiveKit secret and the database's password.

    Both are secrets that every web process of an installation shares, so that a cookie of one counts at all, and that
    no browser ever sees. Each covers for the other: the sandbox's LiveKit secret is known to everybody, but ./run.py
    makes up a password for its database; a database that trusts its network has no password, but then the LiveKit
    secret is a real one. Changing either signs everybody out.
    """
    password = urlsplit(settings.database_url).password or ""
    secret = settings.livekit_api_secret.get_secret_value()
    return hmac.digest(f"{len(secret)}:{secret}{password}".encode(), PURPOSE, hashlib.sha256)


def configure_cookies(app: Flask, settings: Settings) -> None:
    """Set the application's one session up; the API has no use for it."""
    app.secret_key = cookie_secret(settings)
    app.session_interface = _CookieSessions()
    app.permanent_session_lifetime = ABSOLUTE_LIMIT
    app.config |= {
        "SESSION_COOKIE_HTTPONLY": True,
        # Not Strict: a link to a page, from a chat or a mail, is to show the page and not the sign-in form.
        "SESSION_COOKIE_SAMESITE": "Lax",
        # It is sent again only when it changes: how long it is worth anything stands in its row.
        "SESSION_REFRESH_EACH_REQUEST": False,
    }


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
        detail = (
            f"This requires a key with the scope '{needed}'; '{found.name}' has {', '.join(found.scopes) or 'none'}."
        )
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
            desk().sessions.record_refusal(stranger(), refusal.code)
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
    found = web_services().keys.authenticate(key)
    if found is None:
        wrong = RefusedError(ErrorCode.UNAUTHENTICATED, "This key is unknown or was revoked.")
        raise _too_many_tries(key) or wrong
    if not found.may(Scope.READ):
        raise RefusedError(ErrorCode.FORBIDDEN, f"The key '{found.name}' has no scope.")
    return found


def _too_many_tries(key: str) -> RefusedError | None:
    """Count a wrong key, by where it came from and by how it begins; return the 429 beyond the limit of either."""
    # What a person typed wrongly is nearly a key: it goes nowhere but as a hash.
    beginning = hashlib.sha256(key[:COUNTED_CHARACTERS].encode()).hexdigest()
    counted = (f"sign-in from {client_address(request)}", f"sign-in with {beginning}")
    waits = [wait for who in counted if (wait := desk().sign_in_limit.retry_after_s(who)) is not None]
    if not waits:
        return None
    detail = f"Too many wrong keys: try again in {max(waits)} s. A valid key is always accepted."
    return RefusedError(ErrorCode.RATE_LIMITED, detail, retry_after_s=max(waits))
