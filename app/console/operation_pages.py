"""Operations: what runs, what failed, what needs a person, and each one's timeline as bars."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Blueprint, Response, request
from flask.typing import ResponseReturnValue

from app.access import Scope
from app.console.forms import read_operations_query
from app.console.pages import desk, done, origin, page, polled, visitor
from app.console.presentation import TAB_WORDS, Badge, Tone, badge, step_words, tab_figures, took, trouble_of
from app.db.models import Agent, Bulk, Event
from app.domain.errors import RefusedError
from app.domain.events import EventName
from app.domain.findings import FINDING_KINDS, FindingCode, Fix, Health
from app.domain.statuses import OperationKind, OperationStatus, PhoneStatus, StepState
from app.views.operations import OperationView, PhoneView, StepView
from app.web.context import web_services, wiring
from app.web.problems import status_of

NARROWEST = 0.7
"""Percent of the width: a bar that took no time is still seen."""

TICKS = 4
"""Parts into which the scale is divided."""

SHORTEST_SCALE = timedelta(milliseconds=100)
"""The least span that the width stands for."""

_BEGINS: Mapping[str, str] = {EventName.STEP_STARTED: "work", EventName.STEP_UNDOING: "undo"}
_ENDS = {EventName.STEP_DONE, EventName.STEP_UNDONE, EventName.STEP_FAILED, EventName.STEP_RESTS}
_MOVING = {StepState.RUNNING, StepState.UNDOING}


@dataclass(frozen=True, slots=True)
class Bar:
    """One stretch of time; `x` and `width` in percent of the whole, `look` one of work, undo, wait, fail."""

    x: float
    width: float
    look: str
    words: str
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class Lane:
    """One step."""

    words: str
    state: Badge
    bars: Sequence[Bar]
    attempts: int
    took: str
    since: datetime | None
    """Since when it is at work; None unless it is."""
    until: datetime | None
    """When it is tried again, while it rests."""
    note: str
    resource_id: str | None


@dataclass(frozen=True, slots=True)
class Chart:
    """The whole operation."""

    lanes: Sequence[Lane]
    turns: Sequence[float]
    """Where it turned round, in percent."""
    ticks: Sequence[tuple[float, str]]
    summary: str
    """One line for those who do not see the bars, said anew when it changes."""


@dataclass
class _Stretch:
    start: datetime
    end: datetime | None
    look: str
    words: str


@dataclass(frozen=True)
class _Scale:
    start: datetime
    span: timedelta

    def at(self, moment: datetime) -> float:
        return round(min(max((moment - self.start) / self.span, 0), 1) * 100, 2)


def draw_chart(operation: OperationView, now: datetime) -> Chart:
    """Draw the operation as its trail tells it; while it is open, up to `now`."""
    trail = operation.timeline
    start = min([operation.created_at, *(event.at for event in trail[:1])])
    end = operation.finished_at or max([now, *(event.at for event in trail[-1:])])
    scale = _Scale(start, max(end - start, SHORTEST_SCALE))
    turns = [scale.at(event.at) for event in trail if event.event == EventName.OPERATION_TURNED]
    ticks = [(100 * part / TICKS, took(scale.span * part / TICKS)) for part in range(TICKS + 1)]
    steps = operation.steps[::-1] if operation.kind is OperationKind.DEPROVISION else operation.steps
    lanes = [_lane(step, [event for event in trail if event.step == step.name], scale) for step in steps]
    return Chart(lanes, turns, ticks, _summary(operation, lanes))


def _lane(step: StepView, trail: Sequence[Event], scale: _Scale) -> Lane:
    stretches = _stretches(trail)
    end = scale.start + scale.span
    worked = sum(((each.end or end) - each.start for each in stretches if each.look != "wait"), timedelta())
    failures = [event for event in trail if event.event == EventName.STEP_FAILED]
    reason = failures[-1].detail.get("reason") if failures else None
    return Lane(
        words=step_words(step.name),
        state=_state(step, is_failed=bool(failures)),
        bars=[_bar(each, scale, end) for each in stretches],
        # The row counts anew when the operation turns; its trail is cut where it is very long.
        attempts=max(sum(each.look != "wait" for each in stretches), step.attempts),
        took=took(worked) if stretches else "",
        since=step.started_at if step.is_leased and step.state in _MOVING else None,
        until=step.next_attempt_at if step.attempts else None,
        note=reason or (step.error.detail if step.error else ""),
        resource_id=step.resource_id,
    )


def _state(step: StepView, *, is_failed: bool) -> Badge:
    if step.attempts and step.next_attempt_at is not None:
        return Badge("Waiting to retry", Tone.WARN)
    if step.started_at is None and step.state is StepState.DONE:
        return Badge("Unchanged", Tone.QUIET)
    if step.started_at is None and step.state is StepState.UNDONE:
        return Badge("Not reached", Tone.QUIET)
    # What failed made nothing: that it counts as undone explains less than that it failed.
    return badge(StepState.FAILED if is_failed and step.state is StepState.UNDONE else step.state)


def _stretches(trail: Sequence[Event]) -> list[_Stretch]:
    found: list[_Stretch] = []
    for event in trail:
        name = event.event
        if name not in _BEGINS and name not in _ENDS:
            continue
        if found and found[-1].end is None:
            found[-1].end = event.at
            if name == EventName.STEP_FAILED:
                found[-1].look = "fail"
        if name in _BEGINS:
            verb = "Undo" if _BEGINS[name] == "undo" else "Attempt"
            found.append(_Stretch(event.at, None, _BEGINS[name], f"{verb} {event.detail.get('attempt', 1)}"))
        elif name == EventName.STEP_RESTS:
            found.append(_Stretch(event.at, None, "wait", f"Waiting: {event.detail.get('reason', '')}"))
    return found


def _bar(stretch: _Stretch, scale: _Scale, end: datetime) -> Bar:
    x, until = scale.at(stretch.start), scale.at(stretch.end or end)
    width = max(until - x, NARROWEST)
    words = f"{stretch.words} ({took((stretch.end or end) - stretch.start)})"
    return Bar(
        min(x, 100 - NARROWEST),
        round(min(width, 100 - min(x, 100 - NARROWEST)), 2),
        stretch.look,
        words,
        is_open=stretch.end is None,
    )


def _summary(operation: OperationView, lanes: Sequence[Lane]) -> str:
    status = operation.status
    at_work = [f"{lane.words.lower()} {lane.state.words.lower()}" for lane in lanes if lane.since or lane.until]
    done = sum(step.state is StepState.DONE for step in operation.steps)
    words = f"{badge(status).words}."
    if status is OperationStatus.RUNNING:
        words = f"{words} {done} of {len(lanes)} steps done."
    return f"{words} {'; '.join(at_work).capitalize()}." if at_work and not status.is_final else words


_EMPTY = {PhoneStatus.NOT_PROVISIONED, PhoneStatus.FAILED}
_COMING = {PhoneStatus.PENDING, PhoneStatus.PROVISIONING}


@dataclass(frozen=True, slots=True)
class AgentActions:
    """What can be done to an agent now."""

    provision: bool
    clear: bool
    """Forget a failure: the agent is as new."""
    cancel: bool
    verify: bool
    repair: bool
    repair_first: bool
    """Whether repair is what is called for."""
    repair_takes_over: bool
    """Whether a repair must take the number back from somebody else's trunk."""
    move: bool
    deprovision: bool


@dataclass(frozen=True, slots=True)
class BulkActions:
    """What can be done to a bulk now."""

    cancel: bool
    resume: bool


def agent_actions(phone: PhoneView, *, may_write: bool) -> AgentActions:
    """Read off the rows what can be done; nothing for a key that only reads."""
    agent, operation = phone.agent, phone.operation
    status = agent.phone_provisioning_status
    is_busy = operation is not None and not operation.status.is_final
    stands = may_write and status is PhoneStatus.PROVISIONED
    kind = operation.kind if is_busy and operation else None
    moves = {FINDING_KINDS[FindingCode(finding["code"])].fix for finding in agent.health_findings or []}
    return AgentActions(
        provision=may_write and not is_busy and status in _EMPTY,
        clear=may_write and not is_busy and status is PhoneStatus.FAILED,
        cancel=may_write and status in _COMING and kind is OperationKind.PROVISION,
        verify=stands,
        repair=stands and not is_busy,
        repair_first=agent.health_state is Health.DRIFTED,
        repair_takes_over=Fix.TAKE_BACK in moves,
        move=stands and not is_busy,
        deprovision=stands and kind in {None, OperationKind.REPAIR},
    )


def bulk_actions(bulk: Bulk, waiting: int, *, may_write: bool) -> BulkActions:
    """Read off the counts what can be done: what has not begun can be cancelled, what did not succeed tried again."""
    return BulkActions(may_write and waiting > 0, may_write and bulk.failed + bulk.cancelled > 0)


def can_retry(operation: OperationView, agent: Agent, *, may_write: bool) -> bool:
    """Say whether a re-enqueue makes sense: of what is open, or of a provisioning that failed and left nothing."""
    if not operation.status.is_final:
        return may_write
    ended_badly = operation.status in {OperationStatus.FAILED, OperationStatus.CANCELLED}
    is_free = agent.phone_provisioning_status in _EMPTY
    return may_write and ended_badly and operation.kind is OperationKind.PROVISION and is_free


def register_operations(blueprint: Blueprint) -> None:
    """Add the list, the page of one operation, and re-enqueue."""
    blueprint.get("/operations", endpoint="operations")(operations)
    blueprint.get("/operations/<operation_id>", endpoint="operation")(operation)
    blueprint.get("/operations/<operation_id>/live", endpoint="operation_live")(operation_live)
    blueprint.post("/operations/<operation_id>/retry", endpoint="operation_retry")(retry)


def operations() -> ResponseReturnValue:
    """Show one page of a tab."""
    tab, cursor = read_operations_query(request.args)
    reader, who = desk().reader, visitor()
    may_write = who is not None and who.may(Scope.WRITE)
    found, figures = reader.operations(tab, cursor), tab_figures(reader.counts())
    retries = {row.operation.id for row in found.rows if can_retry(row.operation, row.agent, may_write=may_write)}
    return page("operations.html", tab=tab, tabs=TAB_WORDS, figures=figures, found=found, retries=retries)


def operation(operation_id: uuid.UUID) -> ResponseReturnValue:
    """Show one operation."""
    return operation_page(operation_id)


def operation_live(operation_id: uuid.UUID) -> ResponseReturnValue:
    """Show the part of the page that changes, for our script."""
    sheet = _sheet(operation_id)
    return polled("operation_live.html", web_services().reader.phone_etag(sheet["agent"].id), **sheet)


def retry(operation_id: uuid.UUID) -> ResponseReturnValue:
    """Queue an open operation again; start a failed provisioning afresh."""
    queued = wiring().provisioning.retry(operation_id, origin=origin())
    message = "Queued again." if queued.id == operation_id else "A new operation was started."
    return done(message, "console.operation", operation_id=queued.id)


def operation_page(operation_id: uuid.UUID, refusal: RefusedError | None = None) -> Response:
    """Render the page."""
    return page("operation.html", status_of(refusal), refusal=trouble_of(refusal), **_sheet(operation_id))


def _sheet(operation_id: uuid.UUID) -> dict[str, Any]:
    found, who = web_services().reader.operation(operation_id), visitor()
    agent, to = wiring().agents.get(found.agent_id), found.target_agent_id
    return {
        "operation": found,
        "agent": agent,
        "target_name": desk().reader.names([to])[to] if to else None,
        "chart": draw_chart(found, datetime.now(UTC)),
        "trouble": trouble_of(found.error),
        "can_retry": can_retry(found, agent, may_write=who is not None and who.may(Scope.WRITE)),
    }
