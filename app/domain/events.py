"""The closed lists of events: those of operations, audit-trail actions, and webhook events."""

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any


class EventName(StrEnum):
    """`events.event`: something that happened to an operation or one of its steps."""

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
    FORMER_REMOVED = "former_removed"


class Channel(StrEnum):
    """`activity.channel`: where a request came in."""

    API = "api"
    CONSOLE = "console"
    COMMAND_LINE = "command line"
    INTERNAL = "internal"
    """No request, but a consequence of one: the sweeper opens an item of a bulk, an audit queues a repair."""


class Action(StrEnum):
    """`activity.action`: what was requested; the word before the dot is the type of `subject_id`."""

    AGENT_CREATE = "agent.create"
    AGENT_CHANGE = "agent.change"
    AGENT_DELETE = "agent.delete"
    PROVISION = "agent.provision_phone"
    DEPROVISION = "agent.deprovision_phone"
    REPAIR = "agent.repair_phone"
    MOVE = "agent.move_phone"
    REHOME = "agent.rehome_phone"
    ADOPT = "agent.adopt_phone"
    TEST_CALL = "agent.test_call"
    OPERATION_RETRY = "operation.retry"
    BULK_CREATE = "bulk.create"
    BULK_CANCEL = "bulk.cancel"
    BULK_RESUME = "bulk.resume"
    DECLARATION_APPLY = "declaration.apply"
    AUDIT_START = "audit.start"
    WEBHOOK_CREATE = "webhook.create"
    WEBHOOK_CHANGE = "webhook.change"
    WEBHOOK_DELETE = "webhook.delete"
    WEBHOOK_ROTATE_SECRET = "webhook.rotate_secret"  # noqa: S105  # the name of an action
    WEBHOOK_TEST = "webhook.test"
    WEBHOOK_REDELIVER = "webhook.redeliver"
    WORKSPACE_CREATE = "workspace.create"
    WORKSPACE_CHANGE = "workspace.change"
    WORKSPACE_DELETE = "workspace.delete"
    ACCOUNT_CREATE = "account.create"
    ACCOUNT_CHANGE = "account.change"
    ACCOUNT_ROTATE = "account.rotate"
    ACCOUNT_DELETE = "account.delete"
    KEY_CREATE = "key.create"
    KEY_REVOKE = "key.revoke"
    SIGN_IN_LINK = "session.link"
    SIGN_IN = "session.start"
    SIGN_IN_REFUSED = "session.refuse"
    SIGN_OUT = "session.end"


@dataclass(frozen=True, slots=True)
class Origin:
    """Who made a request, for the audit trail: a readable name, request and trace id, channel, API key, address."""

    requested_by: str | None = None
    request_id: str | None = None
    traceparent: str | None = None
    channel: Channel = Channel.INTERNAL
    key_id: uuid.UUID | None = None
    address: str | None = None
    """The client's IP address as far as known; stored in `activity` only, for a limited time."""

    def in_trail(self) -> dict[str, str]:
        """Return the part that goes into an operation's events, which are kept forever and readable with every key."""
        fields = {"requested_by": self.requested_by, "key_id": self.key_id, "request_id": self.request_id}
        return {name: str(value) for name, value in fields.items() if value is not None}


INTERNAL = Origin()
"""No request of anybody."""


MAX_ENDPOINTS = 50
"""Endpoints of one workspace: each gets a row for every event, and a thread in every sending process."""


class WebhookEvent(StrEnum):
    """`type` in the payload; docs/webhooks.md says when each is sent."""

    PROVISIONED = "phone.provisioned"
    FAILED = "phone.failed"
    DEPROVISIONED = "phone.deprovisioned"
    DRIFTED = "phone.drifted"
    NEEDS_ATTENTION = "phone.needs_attention"
    UNREACHABLE = "phone.unreachable"
    """A monitored number whose test calls fail."""
    REACHABLE = "phone.reachable"
    """They get through again."""
    PING = "ping"
    """Sent on request only, to test an endpoint."""


PHONE_EVENTS = tuple(event for event in WebhookEvent if event is not WebhookEvent.PING)

_STATUS_THEN = {WebhookEvent.FAILED: "FAILED", WebhookEvent.DEPROVISIONED: "NOT_PROVISIONED"}
"""`phoneProvisioningStatus` in an example of an event, where it is not PROVISIONED."""


def example_data(event: WebhookEvent, webhook_id: object) -> dict[str, Any]:
    """Return the `data` of an event that is sent on request, to test an endpoint: about nobody's agent and number."""
    if event is WebhookEvent.PING:
        return {"webhookId": str(webhook_id)}
    about: dict[str, Any] = {
        "agentId": "00000000-0000-4000-8000-000000000000",
        "agentName": "Test",
        "phoneProvisioningStatus": _STATUS_THEN.get(event, "PROVISIONED"),
        "phoneNumber": "+15005550006",
        "operationId": None,
        "isTest": True,
    }
    if event is WebhookEvent.FAILED:
        about["error"] = {"code": "number_not_in_account", "detail": "The Twilio account has no such number."}
    if event is WebhookEvent.DRIFTED:
        about["findings"] = []
    return about


"""What an endpoint may subscribe to."""


class DeliveryStatus(StrEnum):
    """`webhook_deliveries.status`."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    """Given up: every attempt failed, or the receiver responded with 410."""


class DisabledReason(StrEnum):
    """Why an endpoint is disabled."""

    REQUESTED = "requested"
    GONE = "gone"
    """It responded with 410."""
    FAILING = "failing"
    """It has failed for days without a success."""


def payload_of(event: WebhookEvent, data: Mapping[str, Any]) -> str:
    """Build the JSON body to post: the three fields of Standard Webhooks, with the current time."""
    return json.dumps({"type": event, "timestamp": datetime.now(UTC).isoformat(), "data": data}, ensure_ascii=False)
