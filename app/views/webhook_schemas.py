"""Request and response bodies of webhooks; a secret is only in the response that creates it."""

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from marshmallow import fields, pre_dump, validate

from app.domain.events import PHONE_EVENTS, DeliveryStatus, DisabledReason, WebhookEvent
from app.domain.texts import MAX_NAME
from app.views.agent_schemas import OPERATION_ID, PageQuery, Query, moment, next_page, text
from app.views.fields import VISIBLE_LINE, Name, Schema, Strict, StrictBoolean, choice

if TYPE_CHECKING:
    from app.webhooks.endpoints import EndpointWithSecret

URL = "https://example.com/hooks/trunkline"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwQ1Z9Vn5cJrE="  # noqa: S105  # nobody's
MESSAGE_ID = "msg_b2d2c8a88c2e4a5c9f0e6f2a5d1f7e42"

MAX_URL = 2000
"""Characters of a URL: what every server and proxy accepts."""


def _url(**more: Any) -> Name:
    return Name(
        validate=validate.Length(1, MAX_URL),
        metadata={
            "description": "Where events are posted: https, and a public address.",
            "pattern": VISIBLE_LINE,
            "example": URL,
        },
        **more,
    )


def _events(**more: Any) -> fields.List[str]:
    one = fields.String(
        validate=validate.OneOf([event.value for event in PHONE_EVENTS]),
        metadata={"enum": [event.value for event in PHONE_EVENTS], "example": WebhookEvent.FAILED.value},
    )
    wanted = "Which events; null: all, including those of later versions."
    return fields.List(one, allow_none=True, metadata={"description": wanted}, **more)


def _description(**more: Any) -> Name:
    return Name(
        allow_none=True,
        validate=validate.Length(1, MAX_NAME),
        metadata={"description": "What it is for.", "pattern": VISIBLE_LINE, "example": "Pager"},
        **more,
    )


SUMMARIES = {
    WebhookEvent.PROVISIONED: "A number rings an agent.",
    WebhookEvent.FAILED: "A number could not be connected or moved; nothing of the attempt is left.",
    WebhookEvent.DEPROVISIONED: "A number was disconnected on request.",
    WebhookEvent.DRIFTED: "A path differs from what was built.",
    WebhookEvent.NEEDS_ATTENTION: "Something keeps failing, and a person should look.",
    WebhookEvent.UNREACHABLE: "Test calls of a monitored number do not get through any more.",
    WebhookEvent.REACHABLE: "Test calls of a monitored number get through again.",
}


class WebhookIn(Strict):
    """An endpoint to register."""

    url = _url(required=True)
    events = _events(load_default=None, validate=validate.Length(1))
    description = _description(load_default=None)


class WebhookChangeIn(Strict):
    """What to change of an endpoint; what is left out stays."""

    url = _url()
    events = _events(validate=validate.Length(1))
    description = _description()
    enabled = StrictBoolean(
        metadata={"description": "False: no event is recorded or sent. True: events are sent again."}
    )


class WebhookSummary(Schema):
    """An endpoint in a list."""

    id = fields.UUID(metadata={"example": OPERATION_ID})
    url = text("Where events are posted.", URL)
    events = _events()
    description = text("What it is for.", "Pager", allow_none=True)
    enabled = fields.Function(
        lambda row: row.disabled_at is None, metadata={"type": "boolean", "description": "Whether events are sent."}
    )
    disabled_reason = fields.String(
        data_key="disabledReason",
        allow_none=True,
        metadata={"description": "Why not.", "enum": [*(reason.value for reason in DisabledReason), None]},
    )
    failing_since = moment("The first failed attempt since the last success.", data_key="failingSince", allow_none=True)
    created_at = moment("When it was registered.", data_key="createdAt")


class WebhookOut(WebhookSummary):
    """An endpoint."""

    previous_secret_until = moment(
        "Until when messages are also signed with the old secret.", data_key="previousSecretUntil", allow_none=True
    )


class WebhookSecretOut(WebhookOut):
    """An endpoint with its new secret, which is shown this once."""

    secret = text("The signing secret: store it now.", SECRET)

    @pre_dump
    def _beside_its_secret(self, shown: "EndpointWithSecret", **_: object) -> SimpleNamespace:
        return SimpleNamespace(**vars(shown.endpoint), secret=shown.secret)


class WebhookList(Schema):
    """Every endpoint, the oldest first."""

    items = fields.List(fields.Nested(WebhookSummary))


class WebhookTestQuery(Query):
    """Which event to send."""

    event = choice(
        WebhookEvent,
        "An example of another event than `ping`, about nobody's agent: `isTest` is true in its data.",
        load_default=WebhookEvent.PING,
    )


class WebhookDeliveryQuery(PageQuery):
    """Which deliveries to list."""

    status = choice(DeliveryStatus, "Only deliveries in this status.")


class WebhookDeliveryOut(Schema):
    """The delivery of one event to one endpoint."""

    id = fields.UUID(metadata={"example": OPERATION_ID})
    message_id = text("`webhook-id`: the same on every attempt.", MESSAGE_ID, data_key="webhookId")
    event = fields.String(
        metadata={"enum": [event.value for event in WebhookEvent], "example": WebhookEvent.FAILED.value}
    )
    status = choice(DeliveryStatus, "failed: given up; it can be redelivered.")
    attempts = fields.Integer(metadata={"description": "Attempts since it was queued.", "example": 1})
    created_at = moment("When it happened.", data_key="createdAt")
    last_attempt_at = moment("The last attempt.", data_key="lastAttemptAt", allow_none=True)
    next_at = moment("The next attempt; null once it has finished.", data_key="nextAttemptAt", allow_none=True)
    finished_at = moment("When it was received or given up.", data_key="finishedAt", allow_none=True)
    response_status = fields.Integer(
        data_key="responseStatus",
        allow_none=True,
        metadata={"description": "HTTP status of the last response; null if there was none.", "example": 204},
    )
    response_body = text("The first KiB of the last response.", "", data_key="responseBody", allow_none=True)
    error = text("Why there was no response.", "connection_failed", allow_none=True)
    payload = fields.Function(
        lambda row: json.loads(row.payload), metadata={"type": "object", "description": "The body that is posted."}
    )


class WebhookDeliveryPage(Schema):
    """One page of deliveries, the newest first."""

    items = fields.List(fields.Nested(WebhookDeliveryOut))
    next_cursor = next_page()
