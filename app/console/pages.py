"""Renders a page with what every page has: navigation, who is signed in, and what was just done."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Response, current_app, flash, g, redirect, render_template, request, session, url_for
from flask.typing import ResponseReturnValue
from flask_wtf import CSRFProtect

from app.access import Caller, ConsoleSessions, Scope
from app.console import presentation
from app.console.reads import ConsoleReader
from app.domain.events import Channel, Origin
from app.setting_values import is_loopback
from app.settings import Settings
from app.web.context import caller, client_address, wiring
from app.web.context import origin as request_origin
from app.web.limits import RateLimit

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


@dataclass(frozen=True, slots=True)
class Place:
    """One entry of the navigation; it is current on every endpoint that begins with `marks`."""

    words: str
    endpoint: str
    marks: tuple[str, ...]


NAVIGATION: Sequence[Place] = (
    Place(
        "Numbers",
        "console.numbers",
        ("console.numbers", "console.create_agent", "console.agent", "console.provision", "console.plan"),
    ),
    Place("Operations", "console.operations", ("console.operation",)),
    Place(
        "Bulk",
        "console.bulks",
        ("console.bulk", "console.create_bulk", "console.check_bulk", "console.cancel_bulk", "console.resume_bulk"),
    ),
    Place("Audit", "console.audit", ("console.audit", "console.start_audit")),
    Place("Webhooks", "console.webhooks", ("console.webhook", "console.create_webhook", "console.rotate_webhook")),
)
"""What the head of every page offers, in its order; a new page adds its line."""


def page(template: str, status: int = 200, **values: Any) -> Response:
    """Render a whole page."""
    return Response(fragment(template, **values), status, mimetype="text/html")


def fragment(template: str, **values: Any) -> str:
    """Render a template with what every page and every polled part knows."""
    who = visitor()
    return render_template(
        template,
        who=who,
        may_write=who is not None and who.may(Scope.WRITE),
        may_admin=who is not None and who.may(Scope.ADMIN),
        navigation=NAVIGATION,
        endpoint=request.endpoint or "",
        flower_url=flower_url(wiring().settings),
        now=datetime.now(UTC),
        **values,
    )


def polled(template: str, etag: str, **values: Any) -> Response:
    """Render the part of a page that our script asks for again and again; 304 while `etag` stays."""
    who = visitor()
    may = "".join(scope.value[0] for scope in Scope if who and who.may(scope))
    tag = f"{etag}-{may}"
    is_known = request.if_none_match.contains_weak(tag)
    response = Response("", 304) if is_known else page(template, **values)
    response.set_etag(tag, weak=True)
    return response


def done(message: str, endpoint: str, **values: Any) -> ResponseReturnValue:
    """Go on to a page and say there what was done: reloading it does nothing twice."""
    flash(message)
    return redirect(url_for(endpoint, **values), 303)


def flower_url(settings: Settings) -> str | None:
    """Return where the browser that asks finds Flower; None where it would not reach it."""
    if settings.flower_url:
        return settings.flower_url
    host = urlsplit(request.host_url).hostname
    if is_loopback(settings.flower_address) and not is_loopback(host):
        return None
    return f"http://{host}:{settings.flower_port}/"


def register_words(blueprint: Blueprint) -> None:
    """Make our words known to the templates."""
    for name in ("badge", "plain", "step_words", "kind_words", "ago", "took", "figure"):
        blueprint.app_template_filter(name)(getattr(presentation, name))
