"""What a webhook may tell of, the body that tells it, and what becomes of one delivery."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

MAX_ENDPOINTS = 50
"""Endpoints of one installation: each one is written a row for every event, and has a thread of every sender."""


class WebhookEvent(StrEnum):
    """`type` in the payload; docs/webhooks.md says when each one is sent."""

    PROVISIONED = "phone.provisioned"
    FAILED = "phone.failed"
    DEPROVISIONED = "phone.deprovisioned"
    DRIFTED = "phone.drifted"
    NEEDS_ATTENTION = "phone.needs_attention"
    PING = "ping"
    """Only ever asked for: it tries an endpoint out."""


PHONE_EVENTS = tuple(event for event in WebhookEvent if event is not WebhookEvent.PING)
"""What an endpoint may subscribe to."""


class DeliveryStatus(StrEnum):
    """`webhook_deliveries.status`."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    """Given up: every try failed, or the receiver said that it is gone."""


class DisabledReason(StrEnum):
    """Why nothing is sent to an endpoint any more."""

    REQUESTED = "requested"
    GONE = "gone"
    """It answered 410."""
    FAILING = "failing"
    """It has failed for days."""


def payload_of(event: WebhookEvent, data: Mapping[str, Any]) -> str:
    """Write the body that is posted: the three fields of Standard Webhooks, now."""
    return json.dumps({"type": event, "timestamp": datetime.now(UTC).isoformat(), "data": data}, ensure_ascii=False)
