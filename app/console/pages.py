"""What all pages share: rendering, navigation, the signed-in caller, and redirects with a message."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

from flask import Blueprint, Response, current_app, flash, g, redirect, render_template, request, session, url_for
from flask.typing import ResponseReturnValue
from flask_wtf import CSRFProtect

from app.access import Caller, ConsoleSessions, Scope
from app.console import presentation
from app.console.provider_links import ProviderPage, provider_page
from app.console.reader import ConsoleReader
from app.domain.events import Channel, Origin
from app.domain.workspaces import AccountKind
from app.setting_values import is_loopback
from app.settings import Settings
from app.web.context import caller, client_address, wiring
from app.web.context import origin as request_origin
from app.web.limits import RateLimit

CONSOLE_SERVICES = "trunkline.console"

POLL_HEADER = "X-Poll"
"""The header of the script's requests: it gets only what it refreshes, and 401 instead of the sign-in page."""

_FORM_TOKEN = re.compile(r'name="csrf_token" value="[^"]*"')
"""Differs in every response, and so is no change of a page."""

TOKEN_KEY = "token"  # noqa: S105  # a name
"""Key of the session token in the cookie."""


@dataclass(frozen=True)
class ConsoleServices:
    """The services that only the console uses."""

    reader: ConsoleReader
    csrf: CSRFProtect
    sessions: ConsoleSessions
    sign_in_limit: RateLimit


def console_services() -> ConsoleServices:
    """Return the console's own services."""
    found: ConsoleServices = current_app.extensions[CONSOLE_SERVICES]
    return found


def origin() -> Origin:
    """Return the origin recorded for an action: the key's name, and the console as the channel."""
    return replace(request_origin(), requested_by=f"{caller().name} (console)", channel=Channel.CONSOLE)


def signed_in_caller() -> Caller | None:
    """Return the signed-in caller, or None."""
    found: Caller | None = g.get("caller")
    return found


def anonymous_origin() -> Origin:
    """Return the origin of a request that is not signed in."""
    return Origin(request_id=g.request_id, channel=Channel.CONSOLE, address=client_address(request))


def token_in_cookie() -> str | None:
    """Return the session token in this browser's cookie, or None."""
    found = session.get(TOKEN_KEY)
    return found if isinstance(found, str) else None


@dataclass(frozen=True, slots=True)
class NavigationItem:
    """One link of the navigation; it is current on endpoints that start with one of `endpoint_prefixes`."""

    label: str
    endpoint: str
    endpoint_prefixes: tuple[str, ...]
    is_operators: bool = False
    """Whether only operators see it."""
    needs: Scope = Scope.READ


NAVIGATION: Sequence[NavigationItem] = (
    NavigationItem("Overview", "console.overview", ("console.overview", "console.codes")),
    NavigationItem(
        "Numbers",
        "console.numbers",
        (
            "console.numbers",
            *(f"console.{verb}_agent" for verb in ("create", "change", "delete")),
            "console.agent",
            "console.provision",
            "console.plan",
            "console.adopt_plan",
            "console.adopt",
        ),
    ),
    NavigationItem("Operations", "console.operations", ("console.operation",)),
    NavigationItem(
        "Bulk",
        "console.bulks",
        ("console.bulk", "console.create_bulk", "console.check_bulk", "console.cancel_bulk", "console.resume_bulk"),
    ),
    NavigationItem(
        "Trunks",
        "console.trunks",
        ("console.trunk", "console.consolidation", "console.consolidate"),
        is_operators=True,
    ),
    NavigationItem("Audit", "console.audit", ("console.audit", "console.start_audit")),
    NavigationItem(
        "Webhooks",
        "console.webhooks",
        (
            "console.webhook",
            *(f"console.{verb}_webhook" for verb in ("create", "change", "rotate")),
        ),
    ),
    NavigationItem(
        "Accounts",
        "console.accounts",
        (
            "console.accounts",
            *(
                f"console.{verb}{kind}"
                for kind in AccountKind
                for verb in ("", "create_", "check_", "rotate_", "delete_")
            ),
        ),
    ),
    NavigationItem(
        "Workspaces",
        "console.workspaces",
        ("console.workspace", "console.create_workspace", "console.change_workspace", "console.delete_workspace"),
        is_operators=True,
    ),
    NavigationItem(
        "Keys", "console.keys", ("console.key", "console.create_key", "console.revoke_key"), needs=Scope.ADMIN
    ),
    NavigationItem("Activity", "console.activity", ("console.activity",), needs=Scope.ADMIN),
    NavigationItem("System", "console.system", ("console.system",), is_operators=True),
)
"""The links in the header of every page, in order; a new page adds its line."""


def page(template: str, status: int = 200, **values: Any) -> Response:
    """Render a whole page."""
    return Response(render(template, **values), status, mimetype="text/html")


def render(template: str, **values: Any) -> str:
    """Render a template with the variables that all pages and live parts have."""
    who = signed_in_caller()
    is_operator = who is not None and who.is_operator
    return render_template(
        template,
        who=who,
        may_write=who is not None and who.may(Scope.WRITE),
        may_admin=who is not None and who.may(Scope.ADMIN),
        is_operator=is_operator,
        navigation=[
            item for item in NAVIGATION if who and who.may(item.needs) and (is_operator or not item.is_operators)
        ],
        endpoint=request.endpoint or "",
        flower_url=flower_url(wiring().settings),
        now=datetime.now(UTC),
        **values,
    )


def live_fragment(template: str, etag: str, read: Callable[[], Mapping[str, Any]]) -> Response:
    """Render the part of a page that the script polls; 304, without a `read`, while `etag` is unchanged.

    `etag` is taken before the values are read: the other way round, a change between the two is never shown.
    """
    who = signed_in_caller()
    may = "".join(scope.value[0] for scope in Scope if who and who.may(scope))
    tag = f"{etag}-{may}"
    is_known = request.if_none_match.contains_weak(tag)
    response = Response("", 304) if is_known else page(template, **read())
    response.set_etag(tag, weak=True)
    return response


def list_page(name: str, endpoint: str, status: int = 200, **values: Any) -> Response:
    """Render NAME.html, or, for the script that refreshes it, its NAME_live.html alone; 304 while that is unchanged.

    `endpoint`: the page's own, which a form that was refused is shown on too.
    """
    asked = request.query_string.decode(errors="replace") if request.method == "GET" else ""
    values["refresh_url"] = url_for(endpoint, **(request.view_args or {})) + (f"?{asked}" if asked else "")
    if POLL_HEADER not in request.headers:
        return page(f"{name}.html", status, **values)
    part = render(f"{name}_live.html", **values)
    tag = sha256(_FORM_TOKEN.sub("", part).encode()).hexdigest()
    is_known = request.if_none_match.contains_weak(tag)
    response = Response("", 304) if is_known else Response(part, mimetype="text/html")
    response.set_etag(tag, weak=True)
    return response


def redirect_with_message(message: str, endpoint: str, **values: Any) -> ResponseReturnValue:
    """Redirect to a page that shows the message, so that a reload does not repeat the action."""
    flash(message)
    return redirect(url_for(endpoint, **values), 303)


def flower_url(settings: Settings) -> str | None:
    """Return Flower's URL for this browser, or None if the browser could not reach it."""
    if settings.flower_url:
        return settings.flower_url
    host = urlsplit(request.host_url).hostname
    if is_loopback(settings.flower_address) and not is_loopback(host):
        return None
    return f"http://{host}:{settings.flower_port}/"


def _provider_page(value: object, trunk_sid: str | None = None) -> ProviderPage | None:
    return provider_page(str(value), wiring().settings, trunk_sid)


def register_filters(blueprint: Blueprint) -> None:
    """Register the templates' filters."""
    blueprint.app_template_filter("action_label")(presentation.action_label)
    blueprint.app_template_filter("code_marks")(presentation.code_marks)
    blueprint.app_template_filter("badge")(presentation.badge)
    blueprint.app_template_filter("duration")(presentation.format_duration)
    blueprint.app_template_filter("event_count")(presentation.event_count)
    blueprint.app_template_filter("event_label")(presentation.event_label)
    blueprint.app_template_filter("health_badge")(presentation.health_badge)
    blueprint.app_template_filter("humanize")(presentation.humanize)
    blueprint.app_template_filter("number_badge")(presentation.number_badge)
    blueprint.app_template_filter("provider_page")(_provider_page)
    blueprint.app_template_filter("kind_label")(presentation.kind_label)
    blueprint.app_template_filter("step_label")(presentation.step_label)
    blueprint.app_template_filter("utc")(presentation.utc)
    blueprint.app_template_filter("exact_utc")(presentation.exact_utc)
