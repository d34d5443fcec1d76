"""Pages of operations, with the timeline and the possible actions of each, and the page of audits."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue

from app.access import Scope
from app.console.forms import is_checked, read_operations_query
from app.console.pages import (
    console_services,
    list_page,
    live_fragment,
    origin,
    page,
    redirect_with_message,
    signed_in_caller,
)
from app.console.presentation import (
    MAX_FINDINGS_SHOWN,
    TAB_LABELS,
    Badge,
    Tone,
    badge,
    error_notice,
    finding_line,
    findings_of,
    format_duration,
    severity_counts,
    step_label,
    tab_counts,
    tick_label,
)
from app.db.models import Agent, Bulk, Event
from app.domain.errors import RefusedError
from app.domain.events import EventName
from app.domain.findings import Fix, all_calls_in_words, stored_finding, worst_first
from app.domain.operations import OperationKind, OperationStatus, PhoneStatus, StepState
from app.views.operations import OperationView, PhoneView, StepView
from app.web.context import web_services, wiring
from app.web.problems import status_of

MIN_BAR_PERCENT = 0.7
"""Least width of a bar, in percent of the whole, so that the shortest is visible."""

SCALE_PARTS = 4
"""Intervals between the ticks of the scale."""

MIN_SCALE = timedelta(milliseconds=100)
"""The shortest time that the full width can represent."""

_STARTS: Mapping[str, str] = {EventName.STEP_STARTED: "work", EventName.STEP_UNDOING: "undo"}
_ENDS = {EventName.STEP_DONE, EventName.STEP_UNDONE, EventName.STEP_FAILED, EventName.STEP_RESTS}
_IN_PROGRESS = {StepState.RUNNING, StepState.UNDOING}


@dataclass(frozen=True, slots=True)
class Bar:
    """One interval of a step; `x` and `width` in percent of the whole, `style` is work, undo, wait or fail."""

    x: float
    width: float
    style: str
    label: str
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class TimelineRow:
    """One step in the timeline."""

    label: str
    state: Badge
    bars: Sequence[Bar]
    attempts: int
    duration: str
    since: datetime | None
    """When it started, while it runs; else None."""
    until: datetime | None
    """When it is retried, while it waits; else None."""
    note: str
    resource_id: str | None


@dataclass(frozen=True, slots=True)
class Timeline:
    """The timeline of an operation."""

    rows: Sequence[TimelineRow]
    rollback_starts: Sequence[float]
    """Where a rollback started, in percent."""
    ticks: Sequence[tuple[float, str]]
    summary: str
    """One line for screen readers, announced when it changes."""


@dataclass
class _Interval:
    start: datetime
    end: datetime | None
    style: str
    label: str


@dataclass(frozen=True)
class _Scale:
    start: datetime
    span: timedelta

    def at(self, time: datetime) -> float:
        return round(min(max((time - self.start) / self.span, 0), 1) * 100, 2)


def build_timeline(operation: OperationView, now: datetime) -> Timeline:
    """Build the timeline from the operation's events; while it is open, up to `now`."""
    events = operation.timeline
    start = min([operation.created_at, *(event.at for event in events[:1])])
    end = operation.finished_at or max([now, *(event.at for event in events[-1:])])
    scale = _Scale(start, max(end - start, MIN_SCALE))
    rollback_starts = [scale.at(event.at) for event in events if event.event == EventName.OPERATION_TURNED]
    ticks = [
        (100 * part / SCALE_PARTS, tick_label(scale.span * part / SCALE_PARTS, scale.span))
        for part in range(SCALE_PARTS + 1)
    ]
    steps = operation.steps[::-1] if operation.kind is OperationKind.DEPROVISION else operation.steps
    rows = [_timeline_row(step, [event for event in events if event.step == step.name], scale) for step in steps]
    return Timeline(rows, rollback_starts, ticks, _summary(operation, rows))


def _timeline_row(step: StepView, events: Sequence[Event], scale: _Scale) -> TimelineRow:
    intervals = _intervals(events)
    end = scale.start + scale.span
    worked = sum(((each.end or end) - each.start for each in intervals if each.style != "wait"), timedelta())
    failures = [event for event in events if event.event == EventName.STEP_FAILED]
    reason = failures[-1].detail.get("reason") if failures else None
    return TimelineRow(
        label=step_label(step.name),
        state=_step_badge(step, is_failed=bool(failures)),
        bars=[_bar(each, scale, end) for each in intervals],
        # The row counts from zero after a rollback starts; the events of a very long operation are truncated.
        attempts=max(sum(each.style != "wait" for each in intervals), step.attempts),
        duration=format_duration(worked) if intervals else "",
        since=step.started_at if step.is_leased and step.state in _IN_PROGRESS else None,
        until=step.next_attempt_at if step.attempts else None,
        note=reason or (step.error.detail if step.error else ""),
        resource_id=step.resource_id,
    )


def _step_badge(step: StepView, *, is_failed: bool) -> Badge:
    if step.attempts and step.next_attempt_at is not None:
        return Badge("Waiting to retry", Tone.WARN)
    if step.started_at is None and step.state is StepState.DONE:
        return Badge("Unchanged", Tone.QUIET)
    if step.started_at is None and step.state is StepState.UNDONE:
        return Badge("Not reached", Tone.QUIET)
    # A step that failed and created nothing is UNDONE in its row; "Failed" explains more.
    return badge(StepState.FAILED if is_failed and step.state is StepState.UNDONE else step.state)


def _intervals(events: Sequence[Event]) -> list[_Interval]:
    found: list[_Interval] = []
    for event in events:
        name = event.event
        if name not in _STARTS and name not in _ENDS:
            continue
        if found and found[-1].end is None:
            found[-1].end = event.at
            if name == EventName.STEP_FAILED:
                found[-1].style = "fail"
        if name in _STARTS:
            verb = "Undo" if _STARTS[name] == "undo" else "Attempt"
            found.append(_Interval(event.at, None, _STARTS[name], f"{verb} {event.detail.get('attempt', 1)}"))
        elif name == EventName.STEP_RESTS:
            found.append(_Interval(event.at, None, "wait", f"Waiting: {event.detail.get('reason', '')}"))
    return found


def _bar(interval: _Interval, scale: _Scale, end: datetime) -> Bar:
    x, until = scale.at(interval.start), scale.at(interval.end or end)
    width = max(until - x, MIN_BAR_PERCENT)
    label = f"{interval.label} ({format_duration((interval.end or end) - interval.start)})"
    return Bar(
        min(x, 100 - MIN_BAR_PERCENT),
        round(min(width, 100 - min(x, 100 - MIN_BAR_PERCENT)), 2),
        interval.style,
        label,
        is_open=interval.end is None,
    )


def _summary(operation: OperationView, rows: Sequence[TimelineRow]) -> str:
    status = operation.status
    active = [f"{row.label.lower()} {row.state.label.lower()}" for row in rows if row.since or row.until]
    done = sum(step.state is StepState.DONE for step in operation.steps)
    summary = f"{badge(status).label}."
    if status is OperationStatus.RUNNING:
        summary = f"{summary} {done} of {len(rows)} steps done."
    return f"{summary} {'; '.join(active).capitalize()}." if active and not status.is_final else summary


_WITHOUT_NUMBER = {PhoneStatus.NOT_PROVISIONED, PhoneStatus.FAILED}
_BEING_PROVISIONED = {PhoneStatus.PENDING, PhoneStatus.PROVISIONING}


@dataclass(frozen=True, slots=True)
class AgentActions:
    """The actions that are possible for an agent now."""

    provision: bool
    clear: bool
    """Clear a failure."""
    cancel: bool
    verify: bool
    repair: bool
    repair_first: bool
    """Whether repair is the recommended action: something of what was found is for it."""
    repair_takes_over: bool
    """Whether the repair needs takeover, because the number is on somebody else's trunk."""
    move: bool
    deprovision: bool
    edit: bool
    delete: bool


@dataclass(frozen=True, slots=True)
class BulkActions:
    """The actions that are possible for a bulk now."""

    cancel: bool
    resume: bool


def agent_actions(phone: PhoneView, *, may_write: bool) -> AgentActions:
    """Return the actions that the services would accept; none for a read-only key."""
    agent, operation = phone.agent, phone.operation
    status = agent.phone_provisioning_status
    is_busy = operation is not None and not operation.status.is_final
    may_change = may_write and status is PhoneStatus.PROVISIONED
    kind = operation.kind if is_busy and operation else None
    findings = findings_of(agent)
    return AgentActions(
        provision=may_write and not is_busy and status in _WITHOUT_NUMBER,
        clear=may_write and not is_busy and status is PhoneStatus.FAILED,
        cancel=may_write and status in _BEING_PROVISIONED and kind in {OperationKind.PROVISION, OperationKind.ADOPT},
        verify=may_change,
        repair=may_change and not is_busy,
        repair_first=any(finding.steps for finding in findings),
        repair_takes_over=any(finding.fix is Fix.TAKE_BACK for finding in findings),
        move=may_change and not is_busy,
        deprovision=may_change and kind in {None, OperationKind.REPAIR, OperationKind.UPDATE},
        edit=may_write and not is_busy,
        delete=may_write and not is_busy and status in _WITHOUT_NUMBER,
    )


def bulk_actions(bulk: Bulk, waiting: int, *, may_write: bool) -> BulkActions:
    """Return the possible actions: cancel items that have not started, retry failed and cancelled items."""
    return BulkActions(may_write and waiting > 0, may_write and bulk.failed + bulk.cancelled > 0)


def can_retry(operation: OperationView, agent: Agent, *, may_write: bool) -> bool:
    """Return whether to offer a retry: of an open operation, or of a failed provisioning while the agent is free."""
    if not operation.status.is_final:
        return may_write
    ended_badly = operation.status in {OperationStatus.FAILED, OperationStatus.CANCELLED}
    is_free = agent.phone_provisioning_status in _WITHOUT_NUMBER
    return may_write and ended_badly and operation.kind is OperationKind.PROVISION and is_free


def register_operations(blueprint: Blueprint) -> None:
    """Register the list, the page of one operation, and retry."""
    blueprint.get("/operations", endpoint="operations")(operations)
    blueprint.get("/operations/<operation_id>", endpoint="operation")(operation)
    blueprint.get("/operations/<operation_id>/live", endpoint="operation_live")(operation_live)
    blueprint.post("/operations/<operation_id>/retry", endpoint="operation_retry")(retry)


def operations() -> ResponseReturnValue:
    """Show one tab of the list."""
    tab, code, cursor = read_operations_query(request.args)
    reader, who = console_services().reader, signed_in_caller()
    may_write = who is not None and who.may(Scope.WRITE)
    found, counts = reader.operations(tab, cursor, code), tab_counts(reader.counts())
    retries = {row.operation.id for row in found.rows if can_retry(row.operation, row.agent, may_write=may_write)}
    shown: dict[str, Any] = {"tab": tab, "code": code, "tabs": TAB_LABELS, "counts": counts}
    return list_page("operations", "console.operations", **shown, found=found, retries=retries)


def operation(operation_id: uuid.UUID) -> ResponseReturnValue:
    """Show one operation."""
    return operation_page(operation_id)


def operation_live(operation_id: uuid.UUID) -> ResponseReturnValue:
    """Return the live part of the page, which the script polls."""
    reader = web_services().reader
    etag = reader.phone_etag(reader.operation(operation_id).agent_id)
    return live_fragment("operation_live.html", etag, lambda: _page_data(operation_id))


def retry(operation_id: uuid.UUID) -> ResponseReturnValue:
    """Queue an open operation again, or start a new one after a failed provisioning."""
    queued = wiring().provisioning.retry(operation_id, origin=origin())
    message = "Queued again." if queued.id == operation_id else "A new operation was started."
    return redirect_with_message(message, "console.operation", operation_id=queued.id)


def operation_page(operation_id: uuid.UUID, refusal: RefusedError | None = None) -> Response:
    """Render the page."""
    return page("operation.html", status_of(refusal), refusal=error_notice(refusal), **_page_data(operation_id))


def _page_data(operation_id: uuid.UUID) -> dict[str, Any]:
    found, who = web_services().reader.operation(operation_id), signed_in_caller()
    agent, to = wiring().agents.get(found.agent_id), found.target_agent_id
    return {
        "operation": found,
        "agent": agent,
        "target_name": console_services().reader.names([to])[to] if to else None,
        "timeline": build_timeline(found, datetime.now(UTC)),
        "notice": error_notice(found.error),
        "can_retry": can_retry(found, agent, may_write=who is not None and who.may(Scope.WRITE)),
    }


def register_audits(blueprint: Blueprint) -> None:
    """Register the page and its actions."""
    blueprint.get("/audit", endpoint="audit")(audit)
    blueprint.get("/audit/live", endpoint="audit_live")(audit_live)
    blueprint.get("/audit/fix", endpoint="audit_fix")(fix_form)
    blueprint.post("/audit", endpoint="start_audit")(start_audit)


def audit() -> ResponseReturnValue:
    """Show the newest report."""
    return audit_page()


def audit_live() -> ResponseReturnValue:
    """Return the live part of the page, which the script polls."""
    details = _audit_data()
    return live_fragment("audit_live.html", details["version"], lambda: details)


def fix_form() -> ResponseReturnValue:
    """Ask for confirmation, and say what would be fixed of what the newest report has found."""
    report = console_services().reader.audit().report
    findings = [stored_finding(one) for one in report.findings] if report else []
    still = [finding for finding in findings if not finding.is_fixed]
    return page(
        "audit_fix.html",
        report=report,
        repaired=len({agent_id for finding in still if finding.fix is Fix.REPAIR for agent_id in finding.concerned}),
        deleted=sum(finding.fix is Fix.DELETE for finding in still),
        left=sum(finding.fix in {Fix.NONE, Fix.TAKE_BACK} for finding in still),
    )


def start_audit() -> ResponseReturnValue:
    """Queue an audit."""
    audit_id = wiring().audits.request_audit(fix=is_checked(request.form, "fix"), origin=origin())
    wiring().publisher.publish_audit(audit_id)
    return redirect_with_message("The audit is queued.", "console.audit")


def audit_page(refusal: RefusedError | None = None) -> Response:
    """Render the page."""
    return page("audit.html", status_of(refusal), refusal=error_notice(refusal), **_audit_data())


def _audit_data() -> dict[str, Any]:
    details = console_services().reader.audit()
    report, under_way = details.report, details.under_way
    findings = worst_first(stored_finding(one) for one in report.findings) if report else []
    return {
        "report": report,
        "under_way": under_way,
        "names": {str(agent_id): name for agent_id, name in details.names.items()},
        "findings": [finding_line(finding) for finding in findings[:MAX_FINDINGS_SHOWN]],
        "counts": severity_counts(findings),
        "calls": all_calls_in_words(findings),
        "max_shown": MAX_FINDINGS_SHOWN,
        "version": f"{report.id if report else ''}.{under_way.id if under_way else ''}."
        f"{under_way.status if under_way else ''}",
    }
