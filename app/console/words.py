"""Puts statuses, steps and times into the words and tones that the console's pages use."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from app.db.webhooks import WebhookEndpoint
from app.domain.bulks import BulkStatus, ItemStatus
from app.domain.findings import CHECKS, INBOUND_CHECK, NUMBER_CHECK, RULE_CHECK, TRUNK_CHECK, URL_CHECK, Health
from app.domain.statuses import OperationKind, OperationStatus, PhoneStatus, StepState
from app.domain.webhooks import DeliveryStatus, DisabledReason

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
DAYS_TOLD = 60
"""Days after which a date says more than "n days ago"."""


class Tone(StrEnum):
    """How a thing looks; style.css has one colour, and base.html one sign, for each."""

    GOOD = "good"
    BUSY = "busy"
    WARN = "warn"
    BAD = "bad"
    QUIET = "quiet"


@dataclass(frozen=True, slots=True)
class Badge:
    """A status as it is shown."""

    words: str
    tone: Tone


_PHONE: Mapping[PhoneStatus, Badge] = {
    PhoneStatus.NOT_PROVISIONED: Badge("No number", Tone.QUIET),
    PhoneStatus.PENDING: Badge("Pending", Tone.BUSY),
    PhoneStatus.PROVISIONING: Badge("Provisioning", Tone.BUSY),
    PhoneStatus.PROVISIONED: Badge("Provisioned", Tone.GOOD),
    PhoneStatus.ROLLING_BACK: Badge("Rolling back", Tone.WARN),
    PhoneStatus.FAILED: Badge("Failed", Tone.BAD),
    PhoneStatus.DEPROVISIONING: Badge("Deprovisioning", Tone.BUSY),
}
_OPERATION: Mapping[OperationStatus, Badge] = {
    OperationStatus.QUEUED: Badge("Queued", Tone.BUSY),
    OperationStatus.RUNNING: Badge("Running", Tone.BUSY),
    OperationStatus.ROLLING_BACK: Badge("Rolling back", Tone.WARN),
    OperationStatus.NEEDS_ATTENTION: Badge("Needs attention", Tone.BAD),
    OperationStatus.SUCCEEDED: Badge("Succeeded", Tone.GOOD),
    OperationStatus.FAILED: Badge("Failed", Tone.BAD),
    OperationStatus.CANCELLED: Badge("Cancelled", Tone.QUIET),
}
_STEP: Mapping[StepState, Badge] = {
    StepState.PENDING: Badge("Waiting", Tone.QUIET),
    StepState.RUNNING: Badge("Running", Tone.BUSY),
    StepState.DONE: Badge("Done", Tone.GOOD),
    StepState.FAILED: Badge("Failed", Tone.BAD),
    StepState.UNDOING: Badge("Undoing", Tone.WARN),
    StepState.UNDONE: Badge("Undone", Tone.QUIET),
}
_HEALTH: Mapping[Health, Badge] = {
    Health.IN_SYNC: Badge("In sync", Tone.GOOD),
    Health.DRIFTED: Badge("Drifted", Tone.BAD),
    Health.UNKNOWN: Badge("Not checked", Tone.QUIET),
}
_BULK: Mapping[BulkStatus, Badge] = {
    BulkStatus.QUEUED: Badge("Queued", Tone.BUSY),
    BulkStatus.RUNNING: Badge("Running", Tone.BUSY),
    BulkStatus.CANCELLING: Badge("Cancelling", Tone.WARN),
    BulkStatus.SUCCEEDED: Badge("Succeeded", Tone.GOOD),
    BulkStatus.FAILED: Badge("Some failed", Tone.BAD),
    BulkStatus.CANCELLED: Badge("Cancelled", Tone.QUIET),
}
_ITEM: Mapping[ItemStatus, Badge] = {
    ItemStatus.PENDING: Badge("Waiting", Tone.QUIET),
    ItemStatus.RUNNING: Badge("Running", Tone.BUSY),
    ItemStatus.SUCCEEDED: Badge("Succeeded", Tone.GOOD),
    ItemStatus.FAILED: Badge("Failed", Tone.BAD),
    ItemStatus.CANCELLED: Badge("Cancelled", Tone.QUIET),
}
_DELIVERY: Mapping[DeliveryStatus, Badge] = {
    DeliveryStatus.PENDING: Badge("Pending", Tone.BUSY),
    DeliveryStatus.DELIVERED: Badge("Delivered", Tone.GOOD),
    DeliveryStatus.FAILED: Badge("Given up", Tone.BAD),
}
_KINDS: Mapping[OperationKind, str] = {
    OperationKind.PROVISION: "Provision",
    OperationKind.DEPROVISION: "Deprovision",
    OperationKind.REPAIR: "Repair",
    OperationKind.MOVE: "Move",
}
_STEPS: Mapping[str, str] = {
    "twilio_number": "Twilio number",
    "twilio_trunk": "Twilio trunk",
    "twilio_origination_url": "Origination URL",
    "livekit_inbound_trunk": "LiveKit trunk",
    "livekit_dispatch_rule": "Dispatch rule",
    "twilio_number_attachment": "Number attachment",
    "verification": "Verification",
}
CHECK_WORDS: Mapping[str, str] = {
    NUMBER_CHECK: "The number is on our trunk",
    TRUNK_CHECK: "The Twilio trunk stands",
    URL_CHECK: "The origination URL leads to LiveKit",
    INBOUND_CHECK: "The LiveKit trunk takes the number",
    RULE_CHECK: "The dispatch rule names the agent",
}
"""The named checks, in words; one for each of `findings.CHECKS`."""

if set(CHECK_WORDS) != set(CHECKS):
    raise LookupError("a named check has no words")


def badge(status: StrEnum) -> Badge:
    """Return how any status of ours is shown."""
    for table in (_PHONE, _OPERATION, _STEP, _HEALTH, _BULK, _ITEM, _DELIVERY):
        # StrEnum members of different classes compare by text ("running"): the class decides.
        if isinstance(status, type(next(iter(table)))):
            return table[status]  # type: ignore[index]  # the line above has looked
    return Badge(plain(status), Tone.QUIET)


def endpoint_badge(endpoint: WebhookEndpoint) -> Badge:
    """Return how a webhook stands: on, off and why, or without success for some time."""
    if endpoint.disabled_at is not None:
        words = {
            DisabledReason.GONE: "Disabled: it answered 410",
            DisabledReason.FAILING: "Disabled: it failed for days",
        }
        by_itself = words.get(DisabledReason(endpoint.disabled_reason or DisabledReason.REQUESTED))
        return Badge(by_itself, Tone.BAD) if by_itself else Badge("Disabled", Tone.QUIET)
    return Badge("Failing", Tone.WARN) if endpoint.failing_since else Badge("Enabled", Tone.GOOD)


def plain(name: str) -> str:
    """Write a code or name of ours as people would: `step_rests` is "Step rests"."""
    return name.replace("_", " ").capitalize()


def step_words(name: str) -> str:
    """Return a step's name for people."""
    return _STEPS.get(name) or plain(name)


def kind_words(kind: OperationKind) -> str:
    """Return what an operation does, for people."""
    return _KINDS.get(kind) or plain(kind)


def ago(moment: datetime, now: datetime) -> str:
    """Say how long ago a moment was."""
    span = now - moment
    if span < MINUTE:
        return "just now"
    if span < HOUR:
        return f"{span // MINUTE} min ago"
    if span < DAY:
        return f"{span // HOUR} h ago"
    if span < DAY * DAYS_TOLD:
        return f"{span // DAY} d ago"
    return moment.strftime("%Y-%m-%d")


def took(span: timedelta) -> str:
    """Write a span as short as it can be read: "0.4 s", "12 s", "3 min 20 s", "5 h 2 min", "3 d 4 h"."""
    seconds = max(span.total_seconds(), 0)
    if seconds < 10:  # noqa: PLR2004 - below it a tenth is worth showing
        return f"{seconds:.1f} s"
    if span < MINUTE:
        return f"{seconds:.0f} s"
    if span < HOUR:
        return f"{span // MINUTE} min {span % MINUTE // timedelta(seconds=1)} s"
    if span < DAY:
        return f"{span // HOUR} h {span % HOUR // MINUTE} min"
    return f"{span // DAY} d {span % DAY // HOUR} h"


def figure(count: int, most: int) -> str:
    """Write a count that was not carried beyond `most`."""
    return f"{most:,}+" if count > most else f"{count:,}"
