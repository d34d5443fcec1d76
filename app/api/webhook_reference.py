"""The `webhooks` section of the OpenAPI document: what is posted to a receiver."""

from typing import Any

from app.api.schemas import AGENT_ID, NUMBER, OPERATION_ID
from app.api.webhook_schemas import MESSAGE_ID
from app.domain.findings import FindingCode, Severity
from app.domain.statuses import OperationKind, PhoneStatus
from app.domain.webhooks import PHONE_EVENTS, WebhookEvent

SUMMARIES = {
    WebhookEvent.PROVISIONED: "A number rings an agent.",
    WebhookEvent.FAILED: "A number could not be connected or moved; nothing of the try is left.",
    WebhookEvent.DEPROVISIONED: "A number no longer rings an agent, as was asked for.",
    WebhookEvent.DRIFTED: "A path was found changed behind our back.",
    WebhookEvent.NEEDS_ATTENTION: "Something keeps failing, and a person should look.",
}

HEADERS = {
    "webhook-id": {"description": "The same on every try: the key to tell repetitions by.", "example": MESSAGE_ID},
    "webhook-timestamp": {"description": "When this try was signed, in Unix seconds.", "example": "1674087231"},
    "webhook-signature": {
        "description": "One or more, with blanks between: `v1,` and the base64 HMAC-SHA256 of "
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
        "description": "Why, where something went wrong.",
        "properties": {"code": {"type": "string"}, "detail": {"type": "string"}},
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
                "sentence": {"type": "string"},
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
        for name, about in HEADERS.items()
    ]
    return {
        "summary": SUMMARIES[event],
        "tags": ["Webhooks"],
        # A receiver knows us by the signature in the headers: no scheme of OpenAPI's says that.
        "security": [],
        "parameters": headers,
        "requestBody": {"required": True, "content": {"application/json": {"schema": _body(event)}}},
        "responses": {"2XX": {"description": "Received. Anything else is tried again; 410 disables the endpoint."}},
    }


def _body(event: WebhookEvent) -> dict[str, Any]:
    more = _ABOUT_DRIFT if event is WebhookEvent.DRIFTED else _ABOUT_OPERATION
    return {
        "type": "object",
        "required": ["type", "timestamp", "data"],
        "properties": {
            "type": {"const": event.value},
            "timestamp": {"type": "string", "format": "date-time", "description": "When it happened."},
            "data": {
                "type": "object",
                "required": [*_ABOUT_AGENT, "operationId"],
                "properties": {**_ABOUT_AGENT, **more},
            },
        },
    }
