"""The closed lists of what is remembered and told: an operation's trail, who asked for what, and webhooks."""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any


class EventName(StrEnum):
    """`events.event`: one thing that happened to an operation or one of its steps."""

    OPERATION_QUEUED = "operation_queued"
    OPERATION_STARTED = "operation_started"
    OPERATION_CANCEL_REQUESTED = "operation_cancel_requested"
    OPERATION_TURNED = "operation_turned"
    OPERATION_NEEDS_ATTENTION = "operation_needs_attention"
    OPERATION_RETRIED = "operation_retried"
    OPERATION_SUCCEEDED = "operation_succeeded"
    OPERATION_FAILED = "operation_failed"
    OPERATION_CANCELLED = "operation_cancelled"
    STEP_STARTED = "step_started"
    STEP_DONE = "step_done"
    STEP_RESTS = "step_rests"
    STEP_FAILED = "step_failed"
    STEP_UNDOING = "step_undoing"
    STEP_UNDONE = "step_undone"
    RESOURCE_SEEN_LATE = "resource_seen_late"
    TWINS_REMOVED = "twins_removed"


class Channel(StrEnum):
    """`activity.channel`: the door that a request came through."""

    API = "api"
    CONSOLE = "console"
    COMMAND_LINE = "command line"
    INTERNAL = "internal"
    """Nobody's request, but what follows from one: the sweeper opens an item of a bulk, an audit queues a repair."""


class Action(StrEnum):
    """`activity.action`: what was asked for; the word before the dot says whose id `subject_id` is."""

    AGENT_CREATE = "agent.create"
    AGENT_DELETE = "agent.delete"
    PROVISION = "agent.provision_phone"
    DEPROVISION = "agent.deprovision_phone"
    REPAIR = "agent.repair_phone"
    MOVE = "agent.move_phone"
    OPERATION_RETRY = "operation.retry"
    BULK_CREATE = "bulk.create"
    BULK_CANCEL = "bulk.cancel"
    BULK_RESUME = "bulk.resume"
    AUDIT_START = "audit.start"
    WEBHOOK_CREATE = "webhook.create"
    WEBHOOK_CHANGE = "webhook.change"
    WEBHOOK_DELETE = "webhook.delete"
    WEBHOOK_ROTATE_SECRET = "webhook.rotate_secret"  # noqa: S105  # the name of an action
    WEBHOOK_TEST = "webhook.test"
    WEBHOOK_REDELIVER = "webhook.redeliver"
    KEY_CREATE = "key.create"
    KEY_REVOKE = "key.revoke"
    SIGN_IN = "session.start"
    SIGN_IN_REFUSED = "session.refuse"
    SIGN_OUT = "session.end"


@dataclass(frozen=True, slots=True)
class Origin:
    """Who asked, for the trail: a name that people know, the request and its span, the door, the key, the address."""

    requested_by: str | None = None
    request_id: str | None = None
    traceparent: str | None = None
    channel: Channel = Channel.INTERNAL
    key_id: uuid.UUID | None = None
    address: str | None = None
    """Where the client is, as far as we can tell; only `activity` keeps it, and not for ever."""

    def in_trail(self) -> dict[str, str]:
        """Return what an operation's trail says of who asked: it is kept for ever and every key reads it."""
        told = {"requested_by": self.requested_by, "key_id": self.key_id, "request_id": self.request_id}
        return {name: str(value) for name, value in told.items() if value is not None}


INTERNAL = Origin()
"""Nobody's request."""


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
