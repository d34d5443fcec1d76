"""The part of the OpenAPI document about webhooks: one entry for each event that an endpoint may subscribe to."""

import re
from typing import Any

from app.domain.events import PHONE_EVENTS, WebhookEvent
from app.domain.findings import Callers, FindingCode, Severity
from app.domain.operations import OperationKind, PhoneStatus
from app.views.agent_schemas import AGENT_ID, NUMBER, OPERATION_ID, TRUNK_SID
from app.views.webhook_schemas import MESSAGE_ID, SUMMARIES

DELIVERY_HEADERS = {
    "webhook-id": {"description": "The same on every attempt: use it to recognise repetitions.", "example": MESSAGE_ID},
    "webhook-timestamp": {"description": "When this attempt was signed, in Unix seconds.", "example": "1674087231"},
    "webhook-signature": {
        "description": "One or more, separated by blanks: `v1,` and the base64 HMAC-SHA256 of "
        "`{webhook-id}.{webhook-timestamp}.{body}` under the secret.",
        "example": "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=",
    },
}

_ABOUT_AGENT = {
    "agentId": {"type": "string", "format": "uuid", "example": AGENT_ID},
    "agentName": {"type": "string", "example": "Front desk"},
    "phoneNumber": {"type": "string", "example": NUMBER},
    "phoneProvisioningStatus": {"enum": [status.value for status in PhoneStatus]},
}
_ABOUT_OPERATION = {
    "operationId": {"type": "string", "format": "uuid", "example": OPERATION_ID},
    "operationKind": {"enum": [kind.value for kind in OperationKind]},
    "error": {
        "type": "object",
        "description": "Why it failed, if it did.",
        "properties": {
            "code": {"type": "string", "example": "number_not_in_account"},
            "detail": {"type": "string", "example": "The Twilio account has no such number."},
        },
    },
}
_ABOUT_DRIFT = {
    "operationId": {"type": "null"},
    "findings": {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {
                "code": {"enum": [code.value for code in FindingCode]},
                "severity": {"enum": [severity.value for severity in Severity]},
                "callers": {"enum": [*(callers.value for callers in Callers), None]},
                "sentence": {"type": "string", "example": "The number is on no trunk."},
                "detail": {"type": "string", "example": "The number is not in the account any more."},
                "resource": {
                    "type": ["object", "null"],
                    "properties": {
                        "kind": {"type": "string", "example": "twilio_trunk"},
                        "id": {"type": "string", "example": TRUNK_SID},
                    },
                },
            },
        },
    },
}


def webhook_reference() -> dict[str, Any]:
    """Return the section: one entry for each event that an endpoint may subscribe to."""
    return {event.value: {"post": _post(event)} for event in PHONE_EVENTS}


def _post(event: WebhookEvent) -> dict[str, Any]:
    headers = [
        {"in": "header", "name": name, "required": True, "schema": {"type": "string"}, **about}
        for name, about in DELIVERY_HEADERS.items()
    ]
    return {
        "operationId": "on" + "".join(word.capitalize() for word in re.split(r"[._]", event.value)),
        "summary": SUMMARIES[event],
        "tags": ["Webhooks"],
        # A receiver authenticates us by the signature in the headers, which no OpenAPI security scheme describes.
        "security": [],
        "parameters": headers,
        "requestBody": {"required": True, "content": {"application/json": {"schema": _body(event)}}},
        "responses": {"2XX": {"description": "Received. Any other status is retried; 410 disables the endpoint."}},
    }


def _body(event: WebhookEvent) -> dict[str, Any]:
    more = _ABOUT_DRIFT if event is WebhookEvent.DRIFTED else _ABOUT_OPERATION
    return {
        "type": "object",
        "required": ["type", "timestamp", "data"],
        "properties": {
            "type": {"const": event.value},
            "timestamp": {
                "type": "string",
                "format": "date-time",
                "description": "When it happened.",
                "example": "2026-11-23T09:15:04.120000+00:00",
            },
            "data": {
                "type": "object",
                "required": [*_ABOUT_AGENT, "operationId"],
                "properties": {**_ABOUT_AGENT, **more},
            },
        },
    }
