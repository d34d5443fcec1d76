"""Labels, colours and formats for everything that the templates show: statuses, times, errors, findings, counts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from markupsafe import Markup

from app.console.forms import FILTERED_STATUSES, STATUS_FILTER_LABELS, HealthFilter, StatusFilter
from app.console.reader import TAB_STATUSES, Tab
from app.db.agent_lists import AgentOrder
from app.db.console_queries import CALLS_FAIL, COUNTED_TO
from app.db.models import Agent, Bulk, Event
from app.db.queries import MAX_TIMELINE
from app.db.webhooks import WebhookEndpoint
from app.domain.errors import ADVICE, ErrorCode, RefusedError
from app.domain.events import Action, DeliveryStatus, DisabledReason, EventName
from app.domain.findings import (
    CHECKS,
    INBOUND_CHECK,
    NUMBER_CHECK,
    RULE_CHECK,
    TRUNK_CHECK,
    URL_CHECK,
    Finding,
    Health,
    Severity,
    calls_in_words,
    failed_checks,
    stored_finding,
    worst_first,
)
from app.domain.operations import (
    STEP_BY_NAME,
    BulkStatus,
    ItemStatus,
    OperationKind,
    OperationStatus,
    PhoneStatus,
    StepState,
    TrunkState,
)
from app.domain.workspaces import CredentialStatus
from app.numbers.inventory import NumberUse
from app.views.operations import Failure, PhoneView
from app.web.problems import KINDS as PROBLEMS

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


class Tone(StrEnum):
    """The look of a status; console.css has a colour and a symbol for each."""

    GOOD = "good"
    BUSY = "busy"
    WARN = "warn"
    BAD = "bad"
    QUIET = "quiet"


@dataclass(frozen=True, slots=True)
class Badge:
    """The label and tone of a status."""

    label: str
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
    OperationKind.REHOME: "Rehome",
}
_EVENTS: Mapping[str, str] = {
    EventName.OPERATION_TURNED: "Rollback started",
    EventName.STEP_RESTS: "Step waiting to retry",
}
"""Labels of the events whose names do not read well in words."""

CHECK_LABELS: Mapping[str, str] = {
    NUMBER_CHECK: "The number is on our trunk",
    TRUNK_CHECK: "The Twilio trunk exists",
    URL_CHECK: "The origination URL points to LiveKit",
    INBOUND_CHECK: "The LiveKit trunk accepts the number",
    RULE_CHECK: "The dispatch rule names the agent",
}
"""Label of each of `findings.CHECKS`."""

if set(CHECK_LABELS) != set(CHECKS):
    raise LookupError("a named check has no label")


_TRUNK: Mapping[TrunkState, Badge] = {
    TrunkState.CREATING: Badge("Being made", Tone.BUSY),
    TrunkState.ACTIVE: Badge("Active", Tone.GOOD),
    TrunkState.RETIRING: Badge("Being removed", Tone.WARN),
    TrunkState.GONE: Badge("Gone", Tone.QUIET),
}
_USE: Mapping[NumberUse, Badge] = {
    NumberUse.FREE: Badge("Free", Tone.GOOD),
    NumberUse.VOICE_URL: Badge("Voice URL", Tone.WARN),
    NumberUse.APPLICATION: Badge("Voice application", Tone.WARN),
    NumberUse.TRUNK: Badge("Another trunk", Tone.WARN),
    NumberUse.AGENT: Badge("An agent's", Tone.QUIET),
    NumberUse.NO_VOICE: Badge("No voice calls", Tone.QUIET),
}

USE_FILTER_LABELS: Mapping[NumberUse, str] = {use: shown.label for use, shown in _USE.items()}


def badge(status: StrEnum) -> Badge:
    """Return the badge of any status."""
    for table in (_PHONE, _OPERATION, _STEP, _HEALTH, _BULK, _ITEM, _DELIVERY, _TRUNK, _USE):
        # StrEnum members of different classes compare equal ("running"), so choose the table by class.
        if isinstance(status, type(next(iter(table)))):
            return table[status]  # type: ignore[index]  # the class was checked above
    return Badge(humanize(status), Tone.QUIET)


def number_badge(agent: Agent, status: OperationStatus | None) -> Badge:
    """Return the badge of an agent's number; a newest operation of this status that needs a person comes first."""
    is_stuck = status is OperationStatus.NEEDS_ATTENTION
    return badge(OperationStatus.NEEDS_ATTENTION if is_stuck else agent.phone_provisioning_status)


def endpoint_badge(endpoint: WebhookEndpoint) -> Badge:
    """Return the badge of a webhook: enabled, failing, or disabled and why."""
    if endpoint.disabled_at is not None:
        labels = {
            DisabledReason.GONE: "Disabled: it responded 410",
            DisabledReason.FAILING: "Disabled: it kept failing",
        }
        label = labels.get(DisabledReason(endpoint.disabled_reason or DisabledReason.REQUESTED))
        return Badge(label, Tone.BAD) if label else Badge("Disabled", Tone.QUIET)
    return Badge("Failing", Tone.WARN) if endpoint.failing_since else Badge("Enabled", Tone.GOOD)


def credential_badge(status: CredentialStatus) -> Badge:
    """Return the badge of an account's credential."""
    return {
        CredentialStatus.PENDING: Badge("Not checked", Tone.QUIET),
        CredentialStatus.VERIFIED: Badge("Verified", Tone.GOOD),
        CredentialStatus.INVALID: Badge("Refused", Tone.BAD),
    }[status]


def humanize(name: str) -> str:
    """Turn a code into words: `step_started` becomes "Step started"."""
    return name.replace("_", " ").capitalize()


def step_label(name: str) -> str:
    """Return the label of a step."""
    return (name in STEP_BY_NAME and STEP_BY_NAME[name].label) or humanize(name)


def code_marks(text: str) -> Markup:
    """Return a sentence of ours with what stands between backticks as code."""
    parts = text.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if place % 2 else part for place, part in enumerate(parts)
    )


def kind_label(kind: OperationKind) -> str:
    """Return the label of an operation's kind."""
    return _KINDS.get(kind) or humanize(kind)


def event_label(name: str) -> str:
    """Return the label of an event in an operation's event log."""
    return _EVENTS.get(name) or humanize(name)


def event_count(events: Sequence[Event]) -> str:
    """Return how many events an operation's event log has, and that they are the last ones where there may be more."""
    return f"the last {MAX_TIMELINE}" if len(events) >= MAX_TIMELINE else str(len(events))


_SIGNING = {
    Action.SIGN_IN_LINK: "Make sign-in link",
    Action.SIGN_IN: "Sign in",
    Action.SIGN_IN_REFUSED: "Sign-in refused",
    Action.SIGN_OUT: "Sign out",
}


def action_label(action: str) -> str:
    """Return the label of a change: "Create agent", "Provision phone", "Rotate secret"."""
    noun, _, verb = action.partition(".")
    return _SIGNING.get(action) or humanize(verb if "_" in verb else f"{verb} {noun}")  # type: ignore[call-overload]  # a str is equal to its member


def utc(moment: datetime) -> str:
    """Format a time for readers whose browser does not put it into their own zone: "2026-11-29 17:35 UTC"."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def exact_utc(moment: datetime) -> str:
    """Format a time of an event log, with milliseconds: "2026-11-29 17:35:01.250 UTC"."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03} UTC"


def format_duration(span: timedelta) -> str:
    """Format a duration: "0.4 s", "12 s", "3 min 20 s", "5 h 2 min", "3 d 4 h"."""
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


def tick_label(moment: timedelta, whole: timedelta) -> str:
    """Format a moment of a scale in few characters, by the whole's unit: "0.4 s", "1:20", "5:02 h", "3.5 d"."""
    seconds = moment // timedelta(seconds=1)
    if whole < MINUTE:
        return format_duration(moment)
    if whole < HOUR:
        return f"{seconds // 60}:{seconds % 60:02}"
    if whole < DAY:
        return f"{seconds // 3600}:{seconds // 60 % 60:02} h"
    return f"{moment / DAY:.1f} d"


def format_count(count: int, most: int) -> str:
    """Format a count that was counted up to `most`: "1,000+" beyond it."""
    return f"{most:,}+" if count > most else f"{count:,}"


MAX_FINDINGS_SHOWN = 200
"""Findings of one report on the page: more of them have a common cause, and the API returns all."""

SEVERITY_TONES: Mapping[Severity, Tone] = {
    Severity.CRITICAL: Tone.BAD,
    Severity.WARNING: Tone.WARN,
    Severity.FOREIGN: Tone.QUIET,
}


@dataclass(frozen=True, slots=True)
class ErrorNotice:
    """An error as a page shows it: what, why, and what to do."""

    title: str
    detail: str
    advice: str
    code: str


@dataclass(frozen=True, slots=True)
class Check:
    """One named check of a path."""

    label: str
    state: Badge


@dataclass(frozen=True, slots=True)
class FindingLine:
    """One finding with its advice, and how it was fixed."""

    sentence: str
    detail: str
    severity: Badge
    advice: str
    code: str
    agent_id: str | None
    more_agents: int
    """How many agents it concerns beside that one."""
    resource: str | None
    resource_id: str | None
    fixed: str
    is_fixed: bool


@dataclass(frozen=True, slots=True)
class HealthCard:
    """The result of the last check of one path; `text` says whether calls fail."""

    state: Badge
    text: str
    checked_at: datetime | None
    checks: Sequence[Check]
    findings: Sequence[FindingLine]


def error_notice(error: RefusedError | Failure | None) -> ErrorNotice | None:
    """Return what a page shows of an error, or None."""
    if error is None:
        return None
    code = ErrorCode(error.code)
    return ErrorNotice(PROBLEMS[code].title, error.detail, ADVICE[code], code)


def health_card(phone: PhoneView) -> HealthCard:
    """Build the health card from the agent's row; every check is unknown while there is no provisioned path."""
    found = worst_first(findings_of(phone.agent)) if phone.has_phone else []
    failed = failed_checks(found)
    is_known = phone.has_phone and phone.agent.health_checked_at is not None
    checks = [Check(text, _check_state(failed.get(name, ()), is_known=is_known)) for name, text in CHECK_LABELS.items()]
    checked_at = phone.agent.health_checked_at if phone.has_phone else None
    lines = [finding_line(finding) for finding in found]
    return HealthCard(health_badge(phone.agent), calls_in_words(found), checked_at, checks, lines)


def findings_of(agent: Agent) -> list[Finding]:
    """Return what the last check of the agent's path found."""
    return [stored_finding(one) for one in agent.health_findings or ()]


def health_badge(agent: Agent) -> Badge:
    """Return the badge of the last check's worst finding; the path's health where there is none."""
    if agent.phone_provisioning_status is not PhoneStatus.PROVISIONED:
        return badge(Health.UNKNOWN)
    worst = worst_first(findings_of(agent))[:1]
    is_drifted = agent.health_state is Health.DRIFTED
    return finding_badge(worst[0]) if worst and is_drifted else badge(agent.health_state or Health.UNKNOWN)


def finding_badge(finding: Finding) -> Badge:
    """Return the badge that says what a finding means."""
    return Badge(finding.label, SEVERITY_TONES[finding.severity])


def finding_line(finding: Finding) -> FindingLine:
    """Return what a page shows of a finding."""
    resource = finding.resource
    return FindingLine(
        sentence=finding.kind.sentence,
        detail=finding.detail,
        severity=finding_badge(finding),
        advice=finding.advice,
        code=finding.code,
        agent_id=finding.agent_id,
        more_agents=max(len(finding.concerned) - 1, 0),
        resource=step_label(resource[0]) if resource else None,
        resource_id=resource[1] if resource else None,
        fixed=finding.fixed,
        is_fixed=finding.is_fixed,
    )


def severity_counts(findings: Sequence[Finding]) -> list[Badge]:
    """Return a badge for each meaning that findings have, with how many have it, the worst first."""
    counts = Counter(finding_badge(finding) for finding in worst_first(findings))
    return [Badge(f"{shown.label}: {count:,}", shown.tone) for shown, count in counts.items()]


def _check_state(failed_by: Sequence[Finding], *, is_known: bool) -> Badge:
    if not is_known:
        return Badge("Not checked", Tone.QUIET)
    return finding_badge(worst_first(failed_by)[0]) if failed_by else Badge("OK", Tone.GOOD)


STATUS_FILTER_TONES: Mapping[StatusFilter, Tone] = {
    StatusFilter.PROVISIONED: Tone.GOOD,
    StatusFilter.MOVING: Tone.BUSY,
    StatusFilter.FAILED: Tone.BAD,
    StatusFilter.EMPTY: Tone.QUIET,
}

HEALTH_FILTER_LABELS: Mapping[HealthFilter, str] = {
    HealthFilter.CALLS_FAIL: "Calls fail",
    **{HealthFilter(health): shown.label for health, shown in _HEALTH.items()},
    HealthFilter.UNREACHABLE: "Unreachable",
}

ORDER_LABELS: Mapping[AgentOrder, str] = {
    AgentOrder.NEWEST: "Newest first",
    AgentOrder.NAME: "Name, A to Z",
    AgentOrder.NAME_BACK: "Name, Z to A",
    AgentOrder.NUMBER: "Number, lowest first",
    AgentOrder.NUMBER_BACK: "Number, highest first",
    AgentOrder.STATE: "State, failed first",
    AgentOrder.STATE_BACK: "State, failed last",
    AgentOrder.CHANGED_BACK: "Latest change first",
    AgentOrder.CHANGED: "Latest change last",
}

TAB_LABELS: Mapping[Tab, str] = {
    Tab.RUNNING: "Running",
    Tab.ATTENTION: "Needs attention",
    Tab.FAILED: "Failed",
    Tab.DONE: "Completed or cancelled",
}


@dataclass(frozen=True, slots=True)
class CountLink:
    """One count, linked to the page that lists it with these query parameters."""

    label: str
    count: str
    tone: Tone
    endpoint: str
    query: Mapping[str, str]


def agent_counts(counts: Mapping[str, int]) -> Sequence[CountLink]:
    """Return the counts at the top of Numbers; those of failures are coloured only if they are not zero."""
    found = [
        _agent_count(
            STATUS_FILTER_LABELS[one],
            [counts[each] for each in FILTERED_STATUSES[one]],
            STATUS_FILTER_TONES[one],
            status=one.value,
        )
        for one in StatusFilter
    ]
    for health, tone in ((HealthFilter.CALLS_FAIL, Tone.BAD), (HealthFilter.DRIFTED, Tone.WARN)):
        count = counts[CALLS_FAIL if health is HealthFilter.CALLS_FAIL else Health.DRIFTED]
        found.append(_agent_count(HEALTH_FILTER_LABELS[health], [count], tone, health=health.value))
    attention = sum(counts[each] for each in TAB_STATUSES[Tab.ATTENTION])
    tone = Tone.BAD if attention else Tone.QUIET
    found.append(
        CountLink(
            "Needs attention", format_count(attention, COUNTED_TO), tone, "console.operations", {"tab": "attention"}
        )
    )
    return found


def tab_counts(counts: Mapping[str, int]) -> Mapping[Tab, str]:
    """Return the number of operations in each tab; the last tab has none, since counting it would be slow."""
    tabs = (Tab.RUNNING, Tab.ATTENTION, Tab.FAILED)
    return {tab: format_count(sum(counts[each] for each in TAB_STATUSES[tab]), COUNTED_TO) for tab in tabs}


def bulk_counts(bulk: Bulk) -> Sequence[CountLink]:
    """Return the counts of a bulk: all items, and those in each status."""
    whole = CountLink("Total", f"{bulk.total:,}", Tone.QUIET, "console.bulk", {"bulk_id": str(bulk.id)})
    return [whole, *(_item_count(bulk, status) for status in ItemStatus)]


def _item_count(bulk: Bulk, status: ItemStatus) -> CountLink:
    count, shown = getattr(bulk, status.value), badge(status)
    query = {"bulk_id": str(bulk.id), "status": status.value}
    return CountLink(shown.label, f"{count:,}", shown.tone if count else Tone.QUIET, "console.bulk", query)


def _agent_count(label: str, counts: Sequence[int], tone: Tone, **query: str) -> CountLink:
    count = sum(counts)
    return CountLink(label, format_count(count, COUNTED_TO), tone if count else Tone.QUIET, "console.numbers", query)
