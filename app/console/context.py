"""What the console's views reach for: its own services, and who is asking."""

import uuid
from dataclasses import dataclass

from flask import current_app, g, session
from flask_wtf import CSRFProtect

from app.access import Caller
from app.api.context import caller
from app.api.rates import RateLimit
from app.console.reads import ConsoleReader
from app.provisioning.transitions import Origin

DESK = "trunkline.console"

KEY_ID = "key"
"""Name of the key's id in the cookie."""


@dataclass(frozen=True)
class Desk:
    """The services that only the console has."""

    reader: ConsoleReader
    csrf: CSRFProtect
    sign_in_limit: RateLimit


def desk() -> Desk:
    """Return the console's own services."""
    found: Desk = current_app.extensions[DESK]
    return found


def origin() -> Origin:
    """Return what an operation remembers of the person who pressed the button."""
    return Origin(requested_by=requested_by(), request_id=g.request_id)


def requested_by() -> str:
    """Return who pressed the button: the key's name, and that it was here."""
    return f"{caller().name} (console)"


def visitor() -> Caller | None:
    """Return who is signed in, if anybody."""
    found: Caller | None = g.get("caller")
    return found


def key_in_cookie() -> uuid.UUID | None:
    """Return the id of the key that this browser signed in with."""
    try:
        return uuid.UUID(session.get(KEY_ID, ""))
    except ValueError:
        return None
