"""Puts statuses, steps, times, errors, findings and figures into the words and tones that the pages use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from app.console.forms import STANDING_WORDS, STATUSES, Standing
from app.console.reads import TAB_STATUSES, Tab
from app.db.console_queries import COUNTED_TO
from app.db.models import Bulk
from app.db.webhooks import WebhookEndpoint
from app.domain.errors import ErrorCode, RefusedError
from app.domain.events import DeliveryStatus, DisabledReason
from app.domain.findings import (
    ADVICE,
    CHECKS,
    FINDING_KINDS,
    INBOUND_CHECK,
    NUMBER_CHECK,
    RULE_CHECK,
    TRUNK_CHECK,
    URL_CHECK,
    FindingCode,
    Health,
    Severity,
    advice_on_finding,
    check_of,
)
from app.domain.statuses import BulkStatus, ItemStatus, OperationKind, OperationStatus, PhoneStatus, StepState
from app.views.operations import Failure, PhoneView
from app.web.problems import KINDS as PROBLEMS

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
    DeliveryStatus.FAILED: Badge("Failed", Tone.BAD),
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
    TRUNK_CHECK: "The Twilio trunk exists",
    URL_CHECK: "The origination URL points to LiveKit",
    INBOUND_CHECK: "The LiveKit trunk accepts the number",
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
            DisabledReason.GONE: "Disabled: it responded 410",
            DisabledReason.FAILING: "Disabled: it kept failing",
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


MOST_SHOWN = 200
"""Findings of one report on the page: beyond that they are a single cause, and the API has them all."""

_SEVERITY: Mapping[Severity, Badge] = {
    Severity.CRITICAL: Badge("Critical", Tone.BAD),
    Severity.WARNING: Badge("Warning", Tone.WARN),
}


@dataclass(frozen=True, slots=True)
class Trouble:
    """An error for a person: what, why, and what to do."""

    title: str
    detail: str
    advice: str
    code: str


@dataclass(frozen=True, slots=True)
class Check:
    """One named check of a path."""

    words: str
    state: Badge


@dataclass(frozen=True, slots=True)
class FindingLine:
    """One finding, with what mends it and what was done."""

    sentence: str
    detail: str
    severity: Badge
    advice: str
    code: str
    agent_id: str | None
    resource: str | None
    resource_id: str | None
    fixed: str


@dataclass(frozen=True, slots=True)
class HealthCard:
    """What the last look at the providers found of one path."""

    state: Badge
    checked_at: datetime | None
    checks: Sequence[Check]
    findings: Sequence[FindingLine]


def trouble_of(error: RefusedError | Failure | None) -> Trouble | None:
    """Put an error into a person's words."""
    if error is None:
        return None
    code = ErrorCode(error.code)
    return Trouble(PROBLEMS[code].title, error.detail, ADVICE[code], code)


def health_card(phone: PhoneView) -> HealthCard:
    """Read the agent's health off its row; without a path that stands there is nothing to check."""
    agent = phone.agent
    health = agent.health_state if phone.has_phone else Health.UNKNOWN
    found = (agent.health_findings or []) if phone.has_phone else []
    lines = [finding_line(finding) for finding in found]
    failed = {check_of(FindingCode(one["code"]), (one["resource"] or {}).get("kind", "")) for one in found}
    is_known = phone.has_phone and agent.health_checked_at is not None
    checks = [Check(text, _check_state(name in failed, is_known=is_known)) for name, text in CHECK_WORDS.items()]
    return HealthCard(badge(health), agent.health_checked_at if phone.has_phone else None, checks, lines)


def finding_line(finding: Mapping[str, Any]) -> FindingLine:
    """Put a stored finding into a person's words."""
    code, resource = FindingCode(finding["code"]), finding["resource"]
    return FindingLine(
        sentence=finding["sentence"],
        detail=finding["detail"],
        severity=_SEVERITY[FINDING_KINDS[code].severity],
        advice=advice_on_finding(code),
        code=code,
        agent_id=finding["agentId"],
        resource=step_words(resource["kind"]) if resource else None,
        resource_id=resource["id"] if resource else None,
        fixed=finding["fixed"],
    )


def worst_first(findings: Sequence[Mapping[str, Any]]) -> list[FindingLine]:
    """Return up to `MOST_SHOWN` findings, critical ones first."""
    lines = [finding_line(finding) for finding in findings]
    return sorted(lines, key=lambda line: line.severity.tone is not Tone.BAD)[:MOST_SHOWN]


def _check_state(has_failed: bool, *, is_known: bool) -> Badge:
    if not is_known:
        return Badge("Not checked", Tone.QUIET)
    return Badge("Broken", Tone.BAD) if has_failed else Badge("OK", Tone.GOOD)


_TONES: Mapping[Standing, Tone] = {
    Standing.PROVISIONED: Tone.GOOD,
    Standing.MOVING: Tone.BUSY,
    Standing.FAILED: Tone.BAD,
    Standing.EMPTY: Tone.QUIET,
}

TAB_WORDS: Mapping[Tab, str] = {
    Tab.RUNNING: "Running",
    Tab.ATTENTION: "Needs attention",
    Tab.FAILED: "Failed",
    Tab.DONE: "Completed or cancelled",
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure, and what a press on it shows: `where` is the query of the page that it leads to."""

    words: str
    count: str
    tone: Tone
    endpoint: str
    where: Mapping[str, str]


def tally(counts: Mapping[str, int]) -> Sequence[Figure]:
    """Return the figures of Numbers; one that counts trouble is loud only where there is some."""
    found = [
        _figure(STANDING_WORDS[one], [counts[each] for each in STATUSES[one]], _TONES[one], status=one.value)
        for one in Standing
    ]
    found.append(_figure("Drifted", [counts[Health.DRIFTED]], Tone.BAD, health=Health.DRIFTED.value))
    stuck = _total([counts[each] for each in TAB_STATUSES[Tab.ATTENTION]])
    tone = Tone.BAD if stuck else Tone.QUIET
    found.append(Figure("Needs attention", figure(stuck, COUNTED_TO), tone, "console.operations", {"tab": "attention"}))
    return found


def tab_figures(counts: Mapping[str, int]) -> Mapping[Tab, str]:
    """Return how many operations a tab holds, of those tabs that should be short."""
    tabs = (Tab.RUNNING, Tab.ATTENTION, Tab.FAILED)
    return {tab: figure(_total([counts[each] for each in TAB_STATUSES[tab]]), COUNTED_TO) for tab in tabs}


def bulk_tally(bulk: Bulk) -> Sequence[Figure]:
    """Return the figures of a bulk: all of its items, and those of each state."""
    whole = Figure("Total", f"{bulk.total:,}", Tone.QUIET, "console.bulk", {"bulk_id": str(bulk.id)})
    return [whole, *(_state_figure(bulk, status) for status in ItemStatus)]


def _state_figure(bulk: Bulk, status: ItemStatus) -> Figure:
    count, shown = getattr(bulk, status.value), badge(status)
    where = {"bulk_id": str(bulk.id), "status": status.value}
    return Figure(shown.words, f"{count:,}", shown.tone if count else Tone.QUIET, "console.bulk", where)


def _figure(words: str, counts: Sequence[int], tone: Tone, **where: str) -> Figure:
    count = _total(counts)
    return Figure(words, figure(count, COUNTED_TO), tone if count else Tone.QUIET, "console.numbers", where)


def _total(counts: Sequence[int]) -> int:
    """Add up counts none of which went beyond `COUNTED_TO` + 1."""
    return sum(counts)
