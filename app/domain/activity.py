"""Who asked for a change, and the closed list of changes that are remembered with who asked."""

import uuid
from dataclasses import dataclass
from enum import StrEnum


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
