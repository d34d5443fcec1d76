"""The console's cookie: signed, and holding the token of a session, never a key."""

import hashlib
import hmac
from datetime import UTC, datetime
from urllib.parse import urlsplit

from flask import Flask, Request, request
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface, SessionMixin

from app.access import ABSOLUTE_LIMIT
from app.settings import Settings

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
