"""Signing in with an API key and signing out: the session cookie, and the checks before every page."""

import hashlib
import hmac
from datetime import UTC, datetime
from urllib.parse import urlsplit

from flask import Blueprint, Flask, Request, Response, current_app, flash, g, redirect, request, session, url_for
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface, SessionMixin
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from app.access import ABSOLUTE_LIMIT, Caller, Scope
from app.console.pages import POLL_HEADER, TOKEN_KEY, anonymous_origin, console_services, origin, page, token_in_cookie
from app.db.visibility import see
from app.domain.errors import ErrorCode, RefusedError
from app.settings import Settings
from app.web.authentication import OPERATORS_ONLY, SAFE_METHODS, check_rate
from app.web.context import client_address, web_services

COOKIE = "trunkline_console"

HOST_COOKIE = f"__Host-{COOKIE}"
"""Its name over https: browsers accept this prefix only over TLS, for this host and for every path."""

EXPIRES_KEY = "until"
"""Key, in the cookie, of the time at which the session ends, in seconds since 1970."""

SECRET_PURPOSE = b"trunkline console cookie v1"
"""Makes the derived secret valid only for this purpose."""


class _CookieSessions(SecureCookieSessionInterface):
    """Names the cookie and marks it Secure depending on https, which gunicorn learns from the proxy.

    A request without the cookie, such as every API request, gets an empty session without building a signer.
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
        """Return whether this request came over https; `app` is Flask's own parameter."""
        del app
        return request.is_secure

    def get_expiration_time(self, app: Flask, session: SessionMixin) -> datetime | None:
        """Return the time at which the session ends; None if nobody is signed in."""
        del app
        return datetime.fromtimestamp(session[EXPIRES_KEY], UTC) if EXPIRES_KEY in session else None


def cookie_secret(settings: Settings) -> bytes:
    """Derive the secret that signs the cookie: HMAC-SHA256 under the LiveKit secret and the database's password.

    Every web process of an installation has both, so each accepts the others' cookies, and no browser sees them. Two
    are used because either may be weak: the sandbox's LiveKit secret is public, but ./run.py generates its database
    password; a database that trusts its network has no password, but then the LiveKit secret is a real one. Changing
    either signs everybody out.
    """
    password = urlsplit(settings.database_url).password or ""
    secret = settings.livekit_api_secret.get_secret_value()
    return hmac.digest(f"{len(secret)}:{secret}{password}".encode(), SECRET_PURPOSE, hashlib.sha256)


def configure_cookies(app: Flask, settings: Settings) -> None:
    """Configure Flask's session, which only the console uses."""
    app.secret_key = cookie_secret(settings)
    app.session_interface = _CookieSessions()
    app.permanent_session_lifetime = ABSOLUTE_LIMIT
    app.config |= {
        "SESSION_COOKIE_HTTPONLY": True,
        # Not Strict: a link from a chat or an email should open the page and not the sign-in form.
        "SESSION_COOKIE_SAMESITE": "Lax",
        # The cookie is sent only when it changes: its row says how long the session is valid.
        "SESSION_REFRESH_EACH_REQUEST": False,
    }


PUBLIC_ENDPOINTS = frozenset({"console.static", "console.sign_in", "console.submit_sign_in", "console.sign_out"})
"""Endpoints that do not require signing in."""

ADMINISTERED = ("/webhooks", "/workspaces", "/carrier-accounts", "/voice-projects")
"""Actions below these paths need the scope `admin`; as in the API."""

CONFIDENTIAL = ("/keys", "/activity")
"""Pages below these paths need it too."""

OPERATED = ("/trunks", "/workspaces", "/system")
"""Pages below these paths are the installation's, and for operators only."""


def register_guard(blueprint: Blueprint) -> None:
    """Run the checks before the blueprint's views, in this order."""
    blueprint.before_request(_check_form)
    blueprint.before_request(_check_key)
    blueprint.before_request(check_rate)


def _check_form() -> None:
    """Refuse a form without a valid CSRF token."""
    console_services().csrf.protect()


def _check_key() -> ResponseReturnValue | None:
    if request.endpoint in PUBLIC_ENDPOINTS:
        return None
    # Polling does not count as use: it must not keep a session alive.
    found = console_services().sessions.holder(token_in_cookie(), is_seen=POLL_HEADER not in request.headers)
    if found is None:
        return _to_sign_in()
    g.caller = found
    see(found.workspace_id)
    needed = _needed_scope()
    if not found.may(needed):
        detail = (
            f"This requires a key with the scope '{needed}'; '{found.name}' has {', '.join(found.scopes) or 'none'}."
        )
        raise RefusedError(ErrorCode.FORBIDDEN, detail)
    if not found.is_operator and request.path.startswith(OPERATED):
        raise RefusedError(ErrorCode.FORBIDDEN, OPERATORS_ONLY)
    return None


def _needed_scope() -> Scope:
    if request.path.startswith(CONFIDENTIAL):
        return Scope.ADMIN
    if request.method in SAFE_METHODS:
        return Scope.READ
    return Scope.ADMIN if request.path.startswith(ADMINISTERED) else Scope.WRITE


def _to_sign_in() -> ResponseReturnValue:
    session.clear()
    if POLL_HEADER in request.headers:
        return Response("", 401)
    wanted = request.full_path.rstrip("?")
    if request.method not in SAFE_METHODS:
        flash("You were signed out before that: nothing was changed.")
        wanted = _page_of_form()
    return redirect(url_for("console.sign_in", next=None if wanted == "/" else wanted), 303)


def _page_of_form() -> str:
    """Return the path of the page that a form was sent from; `/` where there is no such page, as after a refusal."""
    try:
        sent_from = urlsplit(request.referrer or "")
        path = local_path(sent_from.path)
        current_app.url_map.bind("").match(path, "GET")
    except (HTTPException, ValueError):
        return "/"
    return f"{path}?{sent_from.query}" if sent_from.query else path


COUNTED_CHARACTERS = 12
"""First characters of a wrong key by which attempts from all addresses are counted: `tl_` and nine of 43."""


def register_sign_in(blueprint: Blueprint) -> None:
    """Register sign-in and sign-out."""
    blueprint.get("/sign-in", endpoint="sign_in")(sign_in_form)
    blueprint.post("/sign-in", endpoint="submit_sign_in")(submit_sign_in)
    blueprint.post("/sign-out", endpoint="sign_out")(sign_out)


def sign_in_form() -> ResponseReturnValue:
    """Show the form."""
    return page("sign_in.html", wanted=local_path(request.args.get("next", "")))


def submit_sign_in() -> ResponseReturnValue:
    """Start a session and redirect to the requested page."""
    try:
        g.caller = _signing_in()
    except RefusedError as refusal:
        if refusal.code is not ErrorCode.RATE_LIMITED:
            console_services().sessions.record_refusal(anonymous_origin(), refusal.code)
        raise
    see(g.caller.workspace_id)
    token, until = console_services().sessions.start(origin(), instead_of=token_in_cookie())
    # Clear everything, the CSRF token too: nothing from before sign-in stays valid.
    session.clear()
    session.permanent = True
    session[TOKEN_KEY], session[EXPIRES_KEY] = token, until.timestamp()
    return redirect(local_path(request.form.get("next", "")), 303)


def sign_out() -> ResponseReturnValue:
    """End the session in the database too, so that copies of the cookie are invalid."""
    token = token_in_cookie()
    g.caller = console_services().sessions.holder(token, is_seen=False)
    if token is not None and g.caller is not None:
        see(g.caller.workspace_id)
        console_services().sessions.end(token, origin())
    session.clear()
    return redirect(url_for("console.sign_in"), 303)


def local_path(text: str) -> str:
    """Return `text` if it is a path of this site, else `/`: prevents redirects to other sites."""
    is_path = text.startswith("/") and not text.startswith("//") and text.isprintable() and "\\" not in text
    return text if is_path else "/"


def _signing_in() -> Caller:
    """Return who has the key or the link of the form; `RefusedError` if it is wrong, or after too many wrong ones.

    Only wrong ones are counted and refused, so that nobody can lock out the holder of a valid key.
    """
    key, link, keys = request.form.get("key", "").strip(), request.form.get("link", ""), web_services().keys
    found = keys.use_link(link) if link else keys.authenticate(key)
    if found is None:
        detail = "This link was used before, or has expired." if link else "This key is unknown or was revoked."
        raise _too_many_attempts(link or key) or RefusedError(ErrorCode.UNAUTHENTICATED, detail)
    if not found.may(Scope.READ):
        raise RefusedError(ErrorCode.FORBIDDEN, f"The key '{found.name}' has no scope.")
    return found


def _too_many_attempts(key: str) -> RefusedError | None:
    """Count a wrong key by its address and by its first characters; return the 429 beyond the limit of either."""
    # A mistyped key is almost a key: store only a hash.
    beginning = hashlib.sha256(key[:COUNTED_CHARACTERS].encode()).hexdigest()
    counted = (f"sign-in from {client_address(request)}", f"sign-in with {beginning}")
    found = [left for who in counted if (left := console_services().sign_in_limit.take(who)) is not None]
    waits = [left.more_in_s for left in found if not left.may_pass]
    if not waits:
        return None
    detail = f"Too many wrong keys: try again in {max(waits)} s. A valid key is always accepted."
    return RefusedError(ErrorCode.RATE_LIMITED, detail, retry_after_s=max(waits))
