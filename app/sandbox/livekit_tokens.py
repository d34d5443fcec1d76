"""Who may call LiveKit: the bearer token, and LiveKit's own words when it does not fit."""

from typing import Any

import jwt

from app.sandbox.exchange import Answer, Exchange
from app.sandbox.state import Credentials

LEEWAY_S = 60
"""Seconds by which the clocks of client and server may differ (livekit/protocol auth/verifier.go)."""

BEARER = "Bearer "
INVALID = "invalid authorization token"
UNKNOWN_KEY = "invalid API key"

TIMES = ("exp", "iat", "nbf")
GRANTS = ("sip", "video")
SIP_GRANTS = ("admin", "call")
"""Claims that LiveKit reads; one of another type makes the whole token unreadable."""


class TokenError(Exception):
    """The token is refused before the request is looked at: 401 with a text body."""

    def answer(self) -> Answer:
        """Return LiveKit's text/plain answer."""
        return Answer(401, str(self).encode(), "text/plain; charset=utf-8")


def grants(exchange: Exchange, credentials: Credentials) -> dict[str, Any]:
    """Return the claims of a request; no token at all, or an empty one, means no claims, and is refused later."""
    if not exchange.authorization:
        token = exchange.parameters().get("access_token", "")
    elif not exchange.authorization.startswith(BEARER):
        raise TokenError("invalid authorization header. Must start with Bearer ")
    else:
        token = exchange.authorization.removeprefix(BEARER)
    if not token:
        return {}
    try:
        claims = _verified(token, credentials.livekit_api_secret)
    except jwt.InvalidTokenError as error:
        raise _diagnosed(token, error, credentials.livekit_api_key) from None
    if claims.get("iss") != credentials.livekit_api_key:
        raise TokenError(UNKNOWN_KEY)
    _check_types(claims)
    return claims


def _verified(token: str, secret: str) -> dict[str, Any]:
    options: Any = {"verify_aud": False, "verify_iat": False, "verify_sub": False, "verify_jti": False}
    claims: dict[str, Any] = jwt.decode(token, secret, algorithms=["HS256"], leeway=LEEWAY_S, options=options)
    return claims


def _diagnosed(token: str, error: jwt.InvalidTokenError, api_key: str) -> TokenError:
    """Say what is wrong in LiveKit's order: unreadable, then a foreign key, then signature and times."""
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except jwt.InvalidTokenError:
        return TokenError(INVALID)
    if any(isinstance(claims.get(name), str | bool | list | dict) for name in TIMES):
        return TokenError(INVALID)
    if claims.get("iss") != api_key:
        return TokenError(UNKNOWN_KEY)
    reasons = {
        jwt.ExpiredSignatureError: "token has invalid claims: token is expired",
        jwt.ImmatureSignatureError: "token has invalid claims: token is not valid yet",
    }
    return TokenError(f"{INVALID}: {reasons.get(type(error), 'token signature is invalid: signature is invalid')}")


def _check_types(claims: dict[str, Any]) -> None:
    """Raise the 401 of a token whose grants cannot be read."""
    wrong = [name for name in GRANTS if not isinstance(claims.get(name), dict | None)]
    sip = claims.get("sip")
    if isinstance(sip, dict):
        wrong += [f"sip.{name}" for name in SIP_GRANTS if not isinstance(sip.get(name), bool | None)]
    if wrong:
        raise TokenError(f"{INVALID}: token is malformed: could not JSON decode claim: {wrong[0]}")


def is_sip_admin(claims: dict[str, Any]) -> bool:
    """Tell whether the claims allow the management of trunks and rules."""
    sip = claims.get("sip")
    return isinstance(sip, dict) and sip.get("admin") is True
