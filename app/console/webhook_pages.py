"""Webhooks: who is told of what happens, each one's secret (once), and the log of telling."""

import uuid
from hashlib import sha256
from typing import Any

from flask import Blueprint, Response, request, url_for
from flask.typing import ResponseReturnValue

from app.console.forms import read_deliveries_query, read_webhook_form
from app.console.pages import done, origin, page, polled
from app.console.presentation import endpoint_badge, trouble_of
from app.console.reads import PAGE_ROWS
from app.db.webhooks import WebhookEndpoint
from app.domain.errors import RefusedError
from app.domain.events import PHONE_EVENTS, DeliveryStatus
from app.views.reader import cut
from app.views.webhook_schemas import SUMMARIES
from app.web.context import wiring
from app.web.problems import status_of


def register_webhooks(blueprint: Blueprint) -> None:
    """Add the list, the pages of one endpoint, and what their buttons do."""
    blueprint.get("/webhooks", endpoint="webhooks")(webhooks)
    blueprint.post("/webhooks", endpoint="create_webhook")(create_webhook)
    for path, endpoint, view in (
        ("", "webhook", webhook),
        ("/live", "webhook_live", webhook_live),
        ("/delete", "webhook_delete", delete_form),
    ):
        blueprint.get(f"/webhooks/<webhook_id>{path}", endpoint=endpoint)(view)
    for name, press in (
        ("delete", delete_webhook),
        ("enable", enable_webhook),
        ("disable", disable_webhook),
        ("rotate", rotate_webhook),
        ("ping", ping_webhook),
        ("deliveries/<delivery_id>/redeliver", redeliver_webhook),
    ):
        blueprint.post(f"/webhooks/<webhook_id>/{name}", endpoint=press.__name__)(press)


def webhooks() -> ResponseReturnValue:
    """Show every endpoint."""
    return webhooks_page()


def create_webhook() -> ResponseReturnValue:
    """Register an endpoint, and show its secret on this very answer: no address shows it again."""
    wanted = read_webhook_form(request.form)
    return _secret_page(wiring().webhooks.create(**wanted, origin=origin()), "The webhook is registered", 201)


def webhook(webhook_id: uuid.UUID) -> ResponseReturnValue:
    """Show one endpoint."""
    return webhook_page(webhook_id)


def webhook_live(webhook_id: uuid.UUID) -> ResponseReturnValue:
    """Show the part of the page that changes, for our script."""
    sheet = _sheet(webhook_id)
    return polled("webhook_live.html", sheet["version"], **sheet)


def delete_form(webhook_id: uuid.UUID) -> ResponseReturnValue:
    """Ask whether the endpoint is really to go."""
    return page("webhook_delete.html", webhook=wiring().webhooks.get(webhook_id))


def delete_webhook(webhook_id: uuid.UUID) -> ResponseReturnValue:
    """Forget the endpoint and its log."""
    wiring().webhooks.delete(webhook_id, origin=origin())
    return done("The webhook is deleted.", "console.webhooks")


def enable_webhook(webhook_id: uuid.UUID) -> ResponseReturnValue:
    """Send to the endpoint again."""
    wiring().webhooks.change(webhook_id, {"enabled": True}, origin=origin())
    return done("Enabled: pending deliveries continue.", "console.webhook", webhook_id=webhook_id)


def disable_webhook(webhook_id: uuid.UUID) -> ResponseReturnValue:
    """Record and send nothing for the endpoint until it is enabled again."""
    wiring().webhooks.change(webhook_id, {"enabled": False}, origin=origin())
    return done("Disabled: no events are recorded or sent.", "console.webhook", webhook_id=webhook_id)


def rotate_webhook(webhook_id: uuid.UUID) -> ResponseReturnValue:
    """Give the endpoint a new secret, and show it on this very answer."""
    return _secret_page(
        wiring().webhooks.rotate_secret(webhook_id, origin=origin()), "The webhook has a new secret", 200
    )


def ping_webhook(webhook_id: uuid.UUID) -> ResponseReturnValue:
    """Queue a test."""
    wiring().webhooks.test(webhook_id, origin=origin())
    return done("A test event is queued.", "console.webhook", webhook_id=webhook_id)


def redeliver_webhook(webhook_id: uuid.UUID, delivery_id: uuid.UUID) -> ResponseReturnValue:
    """Queue a delivery again."""
    wiring().webhooks.redeliver(webhook_id, delivery_id, origin=origin())
    return done("The delivery is queued again.", "console.webhook", webhook_id=webhook_id)


def webhooks_page(refusal: RefusedError | None = None) -> Response:
    """Render the list, with the form for a new one."""
    return page(
        "webhooks.html",
        status_of(refusal),
        rows=[(row, endpoint_badge(row)) for row in wiring().webhooks.all()],
        events={event.value: SUMMARIES[event] for event in PHONE_EVENTS},
        refusal=trouble_of(refusal),
        errors=refusal.errors if refusal else {},
    )


def webhook_page(webhook_id: uuid.UUID, refusal: RefusedError | None = None) -> Response:
    """Render the page of one endpoint."""
    return page("webhook.html", status_of(refusal), refusal=trouble_of(refusal), **_sheet(webhook_id))


def _secret_page(endpoint: WebhookEndpoint, title: str, status: int) -> Response:
    response = page("webhook_secret.html", status, webhook=endpoint, title=title)
    response.headers["Cache-Control"] = "no-store"
    return response


def _sheet(webhook_id: uuid.UUID) -> dict[str, Any]:
    status, cursor = read_deliveries_query(request.args)
    service = wiring().webhooks
    endpoint = service.get(webhook_id)
    rows = service.deliveries(webhook_id, status=status, after=cursor, limit=PAGE_ROWS + 1)
    found = cut(rows, PAGE_ROWS)
    where: dict[str, Any] = {"webhook_id": endpoint.id} | ({"status": status.value} if status else {})
    stands = [(row.id, row.status, row.attempts, row.next_at) for row in found.items]
    about = (endpoint.disabled_at, endpoint.failing_since, endpoint.previous_secret_until, stands)
    return {
        "webhook": endpoint,
        "state": endpoint_badge(endpoint),
        "found": found,
        "statuses": list(DeliveryStatus),
        "chosen": status,
        "where": where,
        "live_url": url_for("console.webhook_live", cursor=request.args.get("cursor"), **where),
        "is_open": endpoint.disabled_at is None and any(row.next_at is not None for row in found.items),
        "version": sha256(repr(about).encode()).hexdigest(),
    }
