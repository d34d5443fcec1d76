"""The console's cookie: signed, short-lived, and holding the id of a key, never the key."""

import hashlib
import hmac
from datetime import timedelta
from urllib.parse import urlsplit

from flask import Flask, Request, request
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface

from app.settings import Settings

COOKIE = "trunkline_console"

LIFETIME = timedelta(hours=12)
"""How long a browser stays signed in after its last request: a working day and no more."""

PURPOSE = b"trunkline console cookie v1"
"""What the derived secret is for, so that it is worth nothing elsewhere."""


class _CookieSessions(SecureCookieSessionInterface):
    """Marks the cookie Secure where the browser came by https, as gunicorn hears it from the proxy in front.

    A request without the cookie, as every one of the API, gets an empty session: Flask would make a signer first.
    """

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        """Read the session; `app` and `request` are Flask's own parameters."""
        return super().open_session(app, request) if COOKIE in request.cookies else self.session_class()

    def get_cookie_secure(self, app: Flask) -> bool:
        """Return whether this request came by https; `app` is Flask's own parameter."""
        del app
        return request.is_secure


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
    app.permanent_session_lifetime = LIFETIME
    app.config |= {"SESSION_COOKIE_NAME": COOKIE, "SESSION_COOKIE_HTTPONLY": True, "SESSION_COOKIE_SAMESITE": "Lax"}
