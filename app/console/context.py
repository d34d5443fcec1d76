"""What the console's views reach for: its own services, and who is asking."""

from dataclasses import dataclass, replace

from flask import current_app, g, request, session
from flask_wtf import CSRFProtect

from app.access import Caller, ConsoleSessions
from app.api.context import caller, client_address
from app.api.context import origin as request_origin
from app.api.rates import RateLimit
from app.console.reads import ConsoleReader
from app.domain.activity import Channel, Origin

DESK = "trunkline.console"

TOKEN = "token"  # noqa: S105  # a name
"""Name of the session's token in the cookie."""


@dataclass(frozen=True)
class Desk:
    """The services that only the console has."""

    reader: ConsoleReader
    csrf: CSRFProtect
    sessions: ConsoleSessions
    sign_in_limit: RateLimit


def desk() -> Desk:
    """Return the console's own services."""
    found: Desk = current_app.extensions[DESK]
    return found


def origin() -> Origin:
    """Return what is remembered of the person who pressed the button: their key's name, and that it was here."""
    return replace(request_origin(), requested_by=f"{caller().name} (console)", channel=Channel.CONSOLE)


def visitor() -> Caller | None:
    """Return who is signed in, if anybody."""
    found: Caller | None = g.get("caller")
    return found


def stranger() -> Origin:
    """Return what is remembered of somebody who is not signed in."""
    return Origin(request_id=g.request_id, channel=Channel.CONSOLE, address=client_address(request))


def token_in_cookie() -> str | None:
    """Return the token of the session that this browser began by signing in."""
    found = session.get(TOKEN)
    return found if isinstance(found, str) else None
