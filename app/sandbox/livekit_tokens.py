"""Who may call LiveKit: the bearer token, and LiveKit's own words when it does not fit."""

from typing import Any

import jwt

from app.sandbox.exchange import Answer
from app.sandbox.state import Credentials

LEEWAY_S = 60
"""Seconds by which the clocks of client and server may differ (livekit/protocol auth/verifier.go)."""

BEARER = "Bearer "
INVALID = "invalid authorization token"
UNKNOWN_KEY = "invalid API key"


class TokenError(Exception):
    """The token is refused before the request is looked at: 401 with a text body."""

    def answer(self) -> Answer:
        """Return LiveKit's text/plain answer."""
        return Answer(401, str(self).encode(), "text/plain; charset=utf-8")


def grants(authorization: str | None, credentials: Credentials) -> dict[str, Any]:
    """Return the claims of a request; no header at all means no claims, and is refused later."""
    if authorization is None:
        return {}
    if not authorization.startswith(BEARER):
        raise TokenError("invalid authorization header. Must start with Bearer ")
    token = authorization.removeprefix(BEARER)
    try:
        claims = _verified(token, credentials.livekit_api_secret)
    except jwt.InvalidTokenError as error:
        raise _diagnosed(token, error, credentials.livekit_api_key) from None
    if claims.get("iss") != credentials.livekit_api_key:
        raise TokenError(UNKNOWN_KEY)
    return claims


def _verified(token: str, secret: str) -> dict[str, Any]:
    options: Any = {"require": ["exp"], "verify_aud": False}
    claims: dict[str, Any] = jwt.decode(token, secret, algorithms=["HS256"], leeway=LEEWAY_S, options=options)
    return claims


def _diagnosed(token: str, error: jwt.InvalidTokenError, api_key: str) -> TokenError:
    """Say what is wrong in LiveKit's order: unreadable, then a foreign key, then signature and times."""
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except jwt.InvalidTokenError:
        return TokenError(INVALID)
    if claims.get("iss") != api_key:
        return TokenError(UNKNOWN_KEY)
    reasons = {
        jwt.ExpiredSignatureError: "token has invalid claims: token is expired",
        jwt.ImmatureSignatureError: "token has invalid claims: token is not valid yet",
        jwt.MissingRequiredClaimError: "token has invalid claims: token is missing required claim: exp",
    }
    return TokenError(f"{INVALID}: {reasons.get(type(error), 'token signature is invalid: signature is invalid')}")


def is_sip_admin(claims: dict[str, Any]) -> bool:
    """Tell whether the claims allow the management of trunks and rules."""
    sip = claims.get("sip")
    return isinstance(sip, dict) and sip.get("admin") is True
