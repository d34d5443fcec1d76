"""The timeline of one operation as bars: what each step did when, its retries and waits, read from the event trail."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.api.operation_views import OperationView, StepView
from app.console.words import Badge, Tone, badge, step_words, took
from app.db.models import Event
from app.domain.events import EventName
from app.domain.statuses import OperationKind, OperationStatus, StepState

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
    row, trail = operation.row, operation.timeline
    start = min([row.created_at, *(event.at for event in trail[:1])])
    end = row.finished_at or max([now, *(event.at for event in trail[-1:])])
    scale = _Scale(start, max(end - start, SHORTEST_SCALE))
    turns = [scale.at(event.at) for event in trail if event.event == EventName.OPERATION_TURNED]
    ticks = [(100 * part / TICKS, took(scale.span * part / TICKS)) for part in range(TICKS + 1)]
    steps = operation.steps[::-1] if row.kind is OperationKind.DEPROVISION else operation.steps
    lanes = [_lane(step, [event for event in trail if event.step == step.row.name], scale) for step in steps]
    return Chart(lanes, turns, ticks, _summary(operation, lanes))


def _lane(step: StepView, trail: Sequence[Event], scale: _Scale) -> Lane:
    row, stretches = step.row, _stretches(trail)
    end = scale.start + scale.span
    worked = sum(((each.end or end) - each.start for each in stretches if each.look != "wait"), timedelta())
    failures = [event for event in trail if event.event == EventName.STEP_FAILED]
    reason = failures[-1].detail.get("reason") if failures else None
    return Lane(
        words=step_words(row.name),
        state=_state(step, is_failed=bool(failures)),
        bars=[_bar(each, scale, end) for each in stretches],
        # The row counts anew when the operation turns; its trail is cut where it is very long.
        attempts=max(sum(each.look != "wait" for each in stretches), row.attempts),
        took=took(worked) if stretches else "",
        since=row.started_at if row.lease_token and row.state in _MOVING else None,
        until=step.next_attempt_at if row.attempts else None,
        note=reason or row.error_detail or "",
        resource_id=row.resource_id,
    )


def _state(step: StepView, *, is_failed: bool) -> Badge:
    row = step.row
    if row.attempts and step.next_attempt_at is not None:
        return Badge("Waits to retry", Tone.WARN)
    if row.started_at is None and row.state is StepState.DONE:
        return Badge("Not touched", Tone.QUIET)
    if row.started_at is None and row.state is StepState.UNDONE:
        return Badge("Not reached", Tone.QUIET)
    # What failed made nothing: that it counts as undone explains less than that it failed.
    return badge(StepState.FAILED if is_failed and row.state is StepState.UNDONE else row.state)


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
            verb = "Undo" if _BEGINS[name] == "undo" else "Try"
            found.append(_Stretch(event.at, None, _BEGINS[name], f"{verb} {event.detail.get('attempt', 1)}"))
        elif name == EventName.STEP_RESTS:
            found.append(_Stretch(event.at, None, "wait", f"Waits: {event.detail.get('reason', '')}"))
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
    status = operation.row.status
    at_work = [f"{lane.words.lower()} {lane.state.words.lower()}" for lane in lanes if lane.since or lane.until]
    done = sum(step.row.state is StepState.DONE for step in operation.steps)
    words = f"{badge(status).words}."
    if status is OperationStatus.RUNNING:
        words = f"{words} {done} of {len(lanes)} steps done."
    return f"{words} {'; '.join(at_work).capitalize()}." if at_work and not status.is_final else words
