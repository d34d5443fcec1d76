"""Pages of webhooks: the list with its form, one endpoint with its delivery log and actions, and one delivery."""

import json
import uuid
from hashlib import sha256
from typing import Any

from flask import Blueprint, Response, request, url_for
from flask.typing import ResponseReturnValue

from app.console.forms import read_deliveries_query, read_webhook_form
from app.console.pages import list_page, live_fragment, origin, page, redirect_with_message
from app.console.presentation import endpoint_badge, error_notice
from app.console.reader import PAGE_ROWS
from app.domain.errors import RefusedError
from app.domain.events import PHONE_EVENTS, DeliveryStatus
from app.views.reader import cut
from app.views.webhook_schemas import SUMMARIES
from app.web.context import wiring
from app.web.problems import status_of
from app.webhooks.endpoints import OLD_SECRET_LIVES, EndpointWithSecret


def register_webhooks(blueprint: Blueprint) -> None:
    """Register the list, and the pages and actions of one endpoint."""
    blueprint.get("/webhooks", endpoint="webhooks")(webhooks)
    blueprint.post("/webhooks", endpoint="create_webhook")(create_webhook)
    for path, endpoint, view in (
        ("", "webhook", webhook),
        ("/live", "webhook_live", webhook_live),
        ("/edit", "webhook_edit", edit_form),
        ("/rotate", "webhook_rotate", rotate_form),
        ("/disable", "webhook_disable", disable_form),
        ("/delete", "webhook_delete", delete_form),
        ("/deliveries/<delivery_id>", "webhook_delivery", delivery),
    ):
        blueprint.get(f"/webhooks/<webhook_id>{path}", endpoint=endpoint)(view)
    for name, handler in (
        ("edit", change_webhook),
        ("delete", delete_webhook),
        ("enable", enable_webhook),
        ("disable", disable_webhook),
        ("rotate", rotate_webhook),
        ("ping", ping_webhook),
        ("deliveries/<delivery_id>/redeliver", redeliver_webhook),
    ):
        blueprint.post(f"/webhooks/<webhook_id>/{name}", endpoint=handler.__name__)(handler)


def webhooks() -> ResponseReturnValue:
    """Show every endpoint."""
    return webhooks_page()


def create_webhook() -> ResponseReturnValue:
    """Register an endpoint and show its secret in this response only."""
    wanted = read_webhook_form(request.form)
    return _secret_page(wiring().webhooks.create(**wanted, origin=origin()), "The webhook is registered", 201)


def webhook(webhook_id: uuid.UUID) -> ResponseReturnValue:
    """Show one endpoint."""
    return webhook_page(webhook_id)


def webhook_live(webhook_id: uuid.UUID) -> ResponseReturnValue:
    """Return the live part of the page, which the script polls."""
    details = _page_data(webhook_id)
    return live_fragment("webhook_live.html", details["version"], lambda: details)


def edit_form(webhook_id: uuid.UUID) -> ResponseReturnValue:
    """Show the form with what stands there now."""
    return edit_page(webhook_id)


def change_webhook(webhook_id: uuid.UUID) -> ResponseReturnValue:
    """Change URL, events and description."""
    wiring().webhooks.change(webhook_id, read_webhook_form(request.form), origin=origin())
    return redirect_with_message("The webhook is changed.", "console.webhook", webhook_id=webhook_id)


def rotate_form(webhook_id: uuid.UUID) -> ResponseReturnValue:
    """Ask for confirmation."""
    return page("webhook_rotate.html", webhook=wiring().webhooks.get(webhook_id), lives=OLD_SECRET_LIVES)


def disable_form(webhook_id: uuid.UUID) -> ResponseReturnValue:
    """Ask for confirmation."""
    return page("webhook_disable.html", webhook=wiring().webhooks.get(webhook_id))


def delivery(webhook_id: uuid.UUID, delivery_id: uuid.UUID) -> ResponseReturnValue:
    """Show what was sent, and what the receiver answered last."""
    service = wiring().webhooks
    endpoint, row = service.get(webhook_id), service.delivery(webhook_id, delivery_id)
    payload = json.dumps(json.loads(row.payload), indent=2, ensure_ascii=False)
    return page("webhook_delivery.html", webhook=endpoint, row=row, payload=payload)


def delete_form(webhook_id: uuid.UUID) -> ResponseReturnValue:
    """Ask for confirmation."""
    return page("webhook_delete.html", webhook=wiring().webhooks.get(webhook_id))


def delete_webhook(webhook_id: uuid.UUID) -> ResponseReturnValue:
    """Delete the endpoint and its log."""
    wiring().webhooks.delete(webhook_id, origin=origin())
    return redirect_with_message("The webhook is deleted.", "console.webhooks")


def enable_webhook(webhook_id: uuid.UUID) -> ResponseReturnValue:
    """Enable the endpoint."""
    wiring().webhooks.change(webhook_id, {"enabled": True}, origin=origin())
    return redirect_with_message("Enabled: pending deliveries continue.", "console.webhook", webhook_id=webhook_id)


def disable_webhook(webhook_id: uuid.UUID) -> ResponseReturnValue:
    """Disable the endpoint: no events are recorded or sent until it is enabled."""
    wiring().webhooks.change(webhook_id, {"enabled": False}, origin=origin())
    return redirect_with_message("Disabled: no events are recorded or sent.", "console.webhook", webhook_id=webhook_id)


def rotate_webhook(webhook_id: uuid.UUID) -> ResponseReturnValue:
    """Give the endpoint a new secret and show it in this response only."""
    return _secret_page(
        wiring().webhooks.rotate_secret(webhook_id, origin=origin()), "The webhook has a new secret", 200
    )


def ping_webhook(webhook_id: uuid.UUID) -> ResponseReturnValue:
    """Queue a test event."""
    wiring().webhooks.test(webhook_id, origin=origin())
    return redirect_with_message("A test event is queued.", "console.webhook", webhook_id=webhook_id)


def redeliver_webhook(webhook_id: uuid.UUID, delivery_id: uuid.UUID) -> ResponseReturnValue:
    """Queue a delivery again."""
    wiring().webhooks.redeliver(webhook_id, delivery_id, origin=origin())
    return redirect_with_message("The delivery is queued again.", "console.webhook", webhook_id=webhook_id)


def webhooks_page(refusal: RefusedError | None = None) -> Response:
    """Render the list with the form for a new endpoint."""
    return list_page(
        "webhooks",
        "console.webhooks",
        status_of(refusal),
        rows=[(row, endpoint_badge(row)) for row in wiring().webhooks.all()],
        events=_event_labels(),
        refusal=error_notice(refusal),
        errors=refusal.errors if refusal else {},
    )


def edit_page(webhook_id: uuid.UUID, refusal: RefusedError | None = None) -> Response:
    """Render the form: with what was typed after a refusal, else with what stands there now."""
    endpoint = wiring().webhooks.get(webhook_id)
    if refusal:
        typed = {name: request.form.get(name, "") for name in ("url", "description")}
        shown = typed | {"events": request.form.getlist("events")}
    else:
        shown = {"url": endpoint.url, "description": endpoint.description or "", "events": endpoint.events or []}
    return page(
        "webhook_edit.html",
        status_of(refusal),
        webhook=endpoint,
        shown=shown,
        events=_event_labels(),
        refusal=error_notice(refusal),
        errors=refusal.errors if refusal else {},
    )


def _event_labels() -> dict[str, str]:
    return {event.value: SUMMARIES[event] for event in PHONE_EVENTS}


def webhook_page(webhook_id: uuid.UUID, refusal: RefusedError | None = None) -> Response:
    """Render the page of one endpoint."""
    return page("webhook.html", status_of(refusal), refusal=error_notice(refusal), **_page_data(webhook_id))


def _secret_page(shown: EndpointWithSecret, title: str, status: int) -> Response:
    response = page("webhook_secret.html", status, webhook=shown.endpoint, secret=shown.secret, title=title)
    response.headers["Cache-Control"] = "no-store"
    return response


def _page_data(webhook_id: uuid.UUID) -> dict[str, Any]:
    status, cursor = read_deliveries_query(request.args)
    service = wiring().webhooks
    endpoint = service.get(webhook_id)
    rows = service.deliveries(webhook_id, status=status, after=cursor, limit=PAGE_ROWS + 1)
    found = cut(rows, PAGE_ROWS)
    query: dict[str, Any] = {"webhook_id": endpoint.id} | ({"status": status.value} if status else {})
    delivery_states = [(row.id, row.status, row.attempts, row.next_at) for row in found.items]
    version = (endpoint.disabled_at, endpoint.failing_since, endpoint.previous_secret_until, delivery_states)
    return {
        "webhook": endpoint,
        "status_badge": endpoint_badge(endpoint),
        "found": found,
        "statuses": list(DeliveryStatus),
        "chosen": status,
        "query": query,
        "live_url": url_for("console.webhook_live", cursor=request.args.get("cursor"), **query),
        "is_open": endpoint.disabled_at is None and any(row.next_at is not None for row in found.items),
        "version": sha256(repr(version).encode()).hexdigest(),
    }
