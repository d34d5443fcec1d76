"""/api/webhooks: endpoints that receive events, and the log of deliveries."""

import uuid
from typing import Any

from apiflask import APIBlueprint
from flask.typing import ResponseReturnValue
from marshmallow import RAISE

from app.domain.errors import ErrorCode
from app.views.reader import cut
from app.views.webhook_schemas import (
    WebhookChangeIn,
    WebhookDeliveryOut,
    WebhookDeliveryPage,
    WebhookDeliveryQuery,
    WebhookIn,
    WebhookList,
    WebhookOut,
    WebhookSecretOut,
    WebhookTestQuery,
)
from app.web.context import origin, wiring
from app.web.documented import responds_with

blueprint = APIBlueprint("webhooks", __name__, url_prefix="/api/webhooks", tag="Webhooks")


@blueprint.post("")
@blueprint.input(WebhookIn)
@blueprint.output(WebhookSecretOut, 201, description="The endpoint, with its secret.")
@responds_with(ErrorCode.WEBHOOK_LIMIT, headers={201: ["Location"]})
def create_webhook(json_data: dict[str, Any]) -> ResponseReturnValue:
    """Register an endpoint."""
    # No Idempotency-Key: the stored response would contain the secret.
    shown = wiring().webhooks.create(**json_data, origin=origin())
    return shown, 201, {"Location": f"/api/webhooks/{shown.endpoint.id}"}  # type: ignore[return-value]  # APIFlask packs the row


@blueprint.get("/<webhook_id>")
@blueprint.output(WebhookOut, description="The endpoint.")
@responds_with(ErrorCode.WEBHOOK_NOT_FOUND)
def get_webhook(webhook_id: uuid.UUID) -> object:
    """Get one endpoint."""
    return wiring().webhooks.get(webhook_id)


@blueprint.get("")
@blueprint.output(WebhookList, description="All of them.")
@responds_with()
def list_webhooks() -> object:
    """List endpoints."""
    return {"items": wiring().webhooks.all()}


@blueprint.patch("/<webhook_id>")
@blueprint.input(WebhookChangeIn)
@blueprint.output(WebhookOut, description="The changed endpoint.")
@responds_with(ErrorCode.WEBHOOK_NOT_FOUND)
def change_webhook(webhook_id: uuid.UUID, json_data: dict[str, Any]) -> object:
    """Change, disable or enable an endpoint."""
    return wiring().webhooks.change(webhook_id, json_data, origin=origin())


@blueprint.delete("/<webhook_id>")
@blueprint.output({}, 204, description="Deleted, with its log.")
@responds_with(ErrorCode.WEBHOOK_NOT_FOUND)
def delete_webhook(webhook_id: uuid.UUID) -> ResponseReturnValue:
    """Delete an endpoint."""
    wiring().webhooks.delete(webhook_id, origin=origin())
    return "", 204


@blueprint.post("/<webhook_id>/rotate-secret")
@blueprint.output(WebhookSecretOut, description="The endpoint, with its new secret.")
@responds_with(ErrorCode.WEBHOOK_NOT_FOUND, ErrorCode.WEBHOOK_LIMIT)
def rotate_webhook_secret(webhook_id: uuid.UUID) -> object:
    """Give an endpoint a new secret; old ones also sign for a day. Needs the scope `admin`."""
    return wiring().webhooks.rotate_secret(webhook_id, origin=origin())


@blueprint.post("/<webhook_id>/test")
@blueprint.input(WebhookTestQuery, location="query", unknown=RAISE)
@blueprint.output(WebhookDeliveryOut, 202, description="Queued.")
@responds_with(ErrorCode.WEBHOOK_NOT_FOUND, ErrorCode.WEBHOOK_DISABLED)
def ping_webhook(webhook_id: uuid.UUID, query_data: dict[str, Any]) -> object:
    """Send a `ping`, or an example of another event, to an endpoint."""
    return wiring().webhooks.test(webhook_id, query_data["event"], origin=origin())


@blueprint.get("/<webhook_id>/deliveries")
@blueprint.input(WebhookDeliveryQuery, location="query", unknown=RAISE)
@blueprint.output(WebhookDeliveryPage, description="One page.")
@responds_with(ErrorCode.WEBHOOK_NOT_FOUND, ErrorCode.VALIDATION_FAILED)
def list_webhook_deliveries(webhook_id: uuid.UUID, query_data: dict[str, Any]) -> object:
    """List an endpoint's deliveries, the newest first; finished ones are kept for 30 days."""
    status, after, limit = query_data.get("status"), query_data.get("cursor"), query_data["limit"]
    return cut(wiring().webhooks.deliveries(webhook_id, status=status, after=after, limit=limit + 1), limit)


@blueprint.post("/<webhook_id>/deliveries/<delivery_id>/redeliver")
@blueprint.output(WebhookDeliveryOut, 202, description="Queued again, under the same `webhook-id`.")
@responds_with(ErrorCode.WEBHOOK_NOT_FOUND, ErrorCode.WEBHOOK_DELIVERY_NOT_FOUND, ErrorCode.WEBHOOK_DISABLED)
def redeliver_webhook(webhook_id: uuid.UUID, delivery_id: uuid.UUID) -> object:
    """Send a delivery again."""
    return wiring().webhooks.redeliver(webhook_id, delivery_id, origin=origin())
