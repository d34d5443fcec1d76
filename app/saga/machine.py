"""The rules of the saga, pure: plain values in, plain values out, no I/O and no clock.

A transition takes all that the rows say of an operation (`Saga`), what has just happened and the time, and returns a
`Change`: the rows as they are to be, the events, ledger entries and announcements that go with them, and a `Verdict`.
`rows` loads the one and saves the other; `runner` calls the providers in between; docs/architecture.md draws it.

What the kinds of operation and the steps are stands in `app.domain.operations`.
"""

import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from app.domain.errors import WAITING_CODES, ErrorCode, RefusedError
from app.domain.events import INTERNAL, Action, Channel, EventName, Origin, WebhookEvent
from app.domain.findings import Health, health_of, stored_finding
from app.domain.operations import (
    ALL_NEEDS,
    COLUMNS,
    JOINS,
    KINDS,
    LAST,
    NUMBER,
    NUMBER_ATTACHMENT,
    STEP_BY_NAME,
    STEPS,
    TRUNK,
    Direction,
    OperationKind,
    OperationStatus,
    PhoneStatus,
    Step,
    StepState,
)
from app.path.changes import Changes
from app.saga.state import (
    CHANGED,
    FINISHED,
    AgentRow,
    Announcement,
    Asked,
    Change,
    EventRow,
    Failure,
    Lease,
    LedgerEntry,
    OperationRow,
    Result,
    Saga,
    StepRow,
    Timing,
    Verdict,
    in_status,
)

LEASE_MARGIN = timedelta(seconds=1)
"""How long after a lease's end the sweep looks: the holder's own last transaction may be a moment late."""

UNDO_TRIES = 5
"""Failed tries of one undo after which a person is told: some 15 s of back-off, more than a passing fault takes."""


# What a worker does.


def claim(
    saga: Saga, name: str, direction: Direction, epoch: int, timing: Timing, now: datetime, token: uuid.UUID
) -> Change:
    """Give one worker the right to act on a step until its lease ends, or say why not.

    CLAIMED; DONE: nothing is left to do; STALE: not this message's to do; ROLLING_BACK: the budget is spent.
    """
    change, operation, step = Change(saga, now), saga.operation, STEP_BY_NAME[name]
    if operation.status.is_final or operation.epoch != epoch or operation.direction is not direction:
        return change.end(Verdict.STALE)
    row = saga.steps.get(name)
    if row is None or row.state is FINISHED[direction]:
        return change.end(Verdict.DONE)
    if not _is_ready(step, saga.steps, direction):
        return change.end(Verdict.STALE)
    held_until = _held_until(change, step, direction, timing)
    if held_until:
        change.set_operation(wake_at=min(operation.wake_at or now, held_until + LEASE_MARGIN))
        return change.end(Verdict.STALE)
    late, is_resting = timedelta(), row.lease_token is None
    if row.error_code == ErrorCode.CREDENTIALS_REFUSED and is_resting and row.lease_until:
        # Whoever comes back late for a credential has waited for it until now.
        late = now - row.lease_until
        change.waited += late
    if direction is Direction.DO and _is_out_of_time(change, timing, now):
        _give_up(change, name)
        return change.end(Verdict.ROLLING_BACK)
    _take(change, step, direction, timing, token, late)
    return change.end(Verdict.CLAIMED)


def keep(saga: Saga, lease: Lease, result: Result, now: datetime) -> Change:
    """Keep a success: the ledger always; the step, the agent's id and the events only under the lease."""
    change, step = Change(saga, now), STEP_BY_NAME[lease.step]
    if step.makes and result.resource_id and result.trunk_id is None and not result.is_others:
        parent = saga.agent.ids.get(step.under) if step.under else None
        change.ledger.append(LedgerEntry(step.name, result.resource_id, parent))
    change.deleted.update((*result.removed, *result.given))
    if saga.steps[step.name].lease_token != lease.token or _is_path_changed(saga, step):
        change.tell(EventName.RESOURCE_SEEN_LATE, step.name, resource_id=result.resource_id)
        return change.end(Verdict.LOST)
    change.set_step(
        step.name,
        lease_token=None,
        lease_until=None,
        intent=None,
        error_code=None,
        error_detail=None,
        finished_at=now,
        resource_id=result.resource_id,
        state=FINISHED[lease.direction],
    )
    if lease.direction is Direction.UNDO:
        _keep_undone(change, step, result)
        return change.end(Verdict.DONE)
    _write_agent(change, step, result)
    was_reached = {"voice_host": result.voice_host} if result.voice_host else {}
    change.tell(EventName.STEP_DONE, step.name, resource_id=result.resource_id, **was_reached)
    if result.removed:
        former = set(saga.operation.former_ids.values())
        for event, ids in (
            (EventName.FORMER_REMOVED, [one for one in result.removed if one in former]),
            (EventName.TWINS_REMOVED, [one for one in result.removed if one not in former]),
        ):
            if ids:
                change.tell(event, step.name, ids=ids)
    _finish_others(change, result.finished)
    if saga.operation.direction is Direction.UNDO:
        change.wake()
        return change.end(Verdict.ROLLING_BACK)
    if not saga.operation.status.is_final and not _finish_if_done(change, result.findings):
        change.wait_for_message()
    is_met = all(change.steps[other].state is StepState.DONE for other in JOINS.get(step.name, ()))
    return change.end(Verdict.DONE if is_met else Verdict.OTHER_BRANCH)


def fail(saga: Saga, lease: Lease, failure: Failure, now: datetime) -> Change:
    """Keep a failure for good of a step on the way down, and start the rollback."""
    change, row = Change(saga, now), saga.steps[lease.step]
    if row.lease_token != lease.token:
        return change.end(Verdict.LOST)
    change.set_step(
        row.name,
        state=StepState.FAILED,
        lease_token=None,
        lease_until=None,
        error_code=failure.code,
        error_detail=failure.detail,
        finished_at=now,
        intent=None if failure.is_clear else row.intent,
        unsettled_until=_later(row.unsettled_until, failure.lands_until(now)),
    )
    if failure.found_routing is not None and change.steps[row.name].unsettled_until:
        # An attachment of ours may yet land, and take the number from there: then that is where it goes back to.
        change.set_agent(previous_routing=failure.found_routing)
    change.tell(EventName.STEP_FAILED, row.name, code=failure.code, reason=failure.detail)
    if saga.operation.direction is Direction.UNDO:
        change.wake()
    elif not saga.operation.status.is_final:
        _start_rollback(change, failure.code, failure.detail)
    return change.end(Verdict.ROLLING_BACK)


def rest(saga: Saga, lease: Lease, failure: Failure, pause: timedelta, timing: Timing, now: datetime) -> Change:
    """Keep that a step rests for `pause` until its next try; out of time, a provisioning rolls back instead."""
    change, row = Change(saga, now), saga.steps[lease.step]
    if row.lease_token != lease.token:
        return change.end(Verdict.LOST)
    is_forward = lease.direction is Direction.DO
    change.set_step(
        row.name,
        lease_token=None,
        lease_until=now + pause,
        attempts=row.attempts if failure.was_tried else max(row.attempts - 1, int(failure.was_begun)),
        error_code=failure.code,
        error_detail=failure.detail,
        state=StepState.PENDING if is_forward else row.state,
        intent=None if is_forward and failure.is_clear else row.intent,
        unsettled_until=_later(row.unsettled_until, failure.lands_until(now)),
        resource_id=None if row.resource_id in failure.removed else row.resource_id,
    )
    change.deleted.update(failure.removed)
    if failure.found_number is not None and is_forward:
        # Before the next try: what that attaches, an undo finds.
        change.set_step(NUMBER, resource_id=failure.found_number.sid)
        change.set_agent(
            ids=_with_id(change.agent.ids, NUMBER, failure.found_number.sid),
            previous_routing=failure.found_number.routing,
        )
    rested = {"rest_s": round(pause.total_seconds(), 3), "attempt": lease.attempt}
    if failure.waited_s is not None:
        rested["waited_s"] = failure.waited_s
    change.tell(EventName.STEP_RESTS, row.name, code=failure.code, reason=failure.detail, **rested)
    if saga.operation.status.is_final:
        return change.end(Verdict.ROLLING_BACK)
    is_on_its_way = saga.operation.direction is lease.direction
    grace = saga.operation.message_grace if is_on_its_way else LEASE_MARGIN
    change.set_operation(wake_at=now + pause + grace)
    if not is_on_its_way:
        return change.end(Verdict.ROLLING_BACK)
    if failure.waited_s is not None:
        change.waited += pause + timedelta(seconds=failure.waited_s)
    if is_forward and _is_out_of_time(change, timing, now + pause):
        change.set_step(row.name, state=StepState.FAILED)
        _give_up(change, row.name)
        return change.end(Verdict.ROLLING_BACK)
    if not is_forward and _needs_a_person(lease, failure):
        return change.end(_ask_for_attention(change, row.name, failure))
    return change.end(Verdict.RESTS)


def remember(saga: Saga, lease: Lease, changes: Changes, now: datetime) -> Change:
    """Keep what a step is about to change in its object, before it does; LOST: it must not, any more."""
    change, operation = Change(saga, now), saga.operation
    if saga.steps[lease.step].lease_token != lease.token or operation.status.is_final:
        return change.end(Verdict.LOST)
    former = operation.former_options or {}
    changed = {**former.get(CHANGED, {}), lease.step: changes}
    change.set_operation(former_options={**former, CHANGED: changed})
    return change.end(Verdict.CLAIMED)


# What people ask for.


def open_operation(
    kind: OperationKind,
    agent: AgentRow,
    now: datetime,
    origin: Origin,
    *,
    takeover: bool = False,
    target: AgentRow | None = None,
    only: frozenset[str] | None = None,
    bulk_id: uuid.UUID | None = None,
    leaves_trunk: bool = False,
    **more: Any,
) -> Change:
    """Open an operation for an agent whose number stands; a provisioning is opened by the statement that accepts it.

    `only` names the steps that a repair, a move or an update works on: the others count as done. `bulk_id` is the bulk
    whose item it is for. `leaves_trunk`: a move or an update takes the number to another trunk. `more` are columns of
    the operation that its kind alone has: `wanted`, `former_options`, `keeps_path`.
    """
    saga = _new_operation(kind, agent, origin, takeover=takeover, target=target, only=only, leaves_trunk=leaves_trunk)
    if saga.operation.rules.puts_back:
        more["former_options"] = {**more.get("former_options", {}), CHANGED: {}}
    saga = replace(saga, operation=replace(saga.operation, bulk_id=bulk_id, **more))
    saga = replace(saga, operation=replace(saga.operation, wake_at=now + saga.operation.message_grace))
    change = Change(saga, now)
    change.agent = in_status(agent, saga.operation.rules.phone.get(OperationStatus.QUEUED))
    change.target = in_status(target, saga.operation.rules.target_phone.get(OperationStatus.QUEUED)) if target else None
    detail: dict[str, Any] = {"kind": kind, "takeover": takeover}
    if target:
        detail["to_agent_id"] = str(target.id)
    change.opened = saga
    change.opened_events = [EventRow(EventName.OPERATION_QUEUED, None, detail | origin.in_trail())]
    _remember(change, origin, saga.operation.rules.action, agent.id, operation_id=str(saga.operation.id), **detail)
    return change


def cancel(saga: Saga, origin: Origin, now: datetime, detail: str) -> Change:
    """Start the rollback of an operation; one that is on its way back anyway ends cancelled, not failed."""
    change = Change(saga, now)
    change.set_operation(cancelled_at=now)
    change.tell(EventName.OPERATION_CANCEL_REQUESTED, **origin.in_trail())
    if saga.operation.status in {OperationStatus.QUEUED, OperationStatus.RUNNING}:
        _start_rollback(change, ErrorCode.CANCELLED, detail)
    return change.end(Verdict.ROLLING_BACK)


def deprovision(saga: Saga, origin: Origin, now: datetime, *, keeps_path: bool = False) -> Change | None:
    """Do to an open operation what a request to deprovision asks for; None where it does so already.

    `keeps_path`: an adopted path is left as it was found.

    A provisioning is cancelled. A repair and a rehome end where they are, and the way down begins in their place: it
    takes down all that row and ledger know of, so that nothing need go back before. A move is refused.
    """
    operation, why = saga.operation, "Cancelled by a request to deprovision."
    if operation.kind is OperationKind.MOVE:
        raise RefusedError(ErrorCode.OPERATION_IN_PROGRESS, "The number is being moved to another agent: ask again.")
    if operation.rules.starts is Direction.UNDO or operation.cancelled_at:
        return None
    if not operation.rules.has_path:
        change = cancel(saga, origin, now, why)
        _remember(change, origin, Action.DEPROVISION, saga.agent.id, operation_id=str(operation.id))
        return change
    change = Change(saga, now).end(Verdict.ROLLING_BACK)
    change.set_operation(cancelled_at=now, epoch=operation.epoch + 1, error_code=ErrorCode.CANCELLED, error_detail=why)
    change.tell(EventName.OPERATION_CANCEL_REQUESTED, **origin.in_trail())
    if operation.status is OperationStatus.NEEDS_ATTENTION:
        change.move_to(OperationStatus.ROLLING_BACK)
    _end_as_it_is(change)
    for name, row in saga.steps.items():
        # Nobody's: a holder has lost it, and whoever works on the path next waits until its call must have landed.
        if row.lease_token:
            change.set_step(name, lease_token=uuid.uuid4())
    opening = open_operation(OperationKind.DEPROVISION, change.agent, now, origin, keeps_path=keeps_path)
    _open_next(change, opening)
    return change


def retry(saga: Saga, origin: Origin, now: datetime) -> Change:
    """Let the next try of a resting step start now, except while an unknown outcome may still land."""
    change = Change(saga, now)
    for name, row in saga.steps.items():
        # Once an undo was tried, the quiet period before it is over.
        if row.lease_token is None and row.attempts and (row.intent is None or row.state is StepState.UNDOING):
            change.set_step(name, lease_until=None)
    change.wake()
    change.tell(EventName.OPERATION_RETRIED, **origin.in_trail())
    _remember(change, origin, Action.OPERATION_RETRY, saga.operation.id)
    return change


# The rules behind them.


def _is_ready(step: Step, rows: Mapping[str, StepRow], direction: Direction) -> bool:
    """Say whether all that must be finished before this step is: what it needs, or what needs it."""
    if direction is Direction.DO:
        return all(rows[name].state is StepState.DONE for name in ALL_NEEDS[step.name])
    above = (rows.get(other) for other, needs in ALL_NEEDS.items() if step.name in needs)
    return all(row is None or row.state is StepState.UNDONE for row in above)


def _held_until(change: Change, step: Step, direction: Direction, timing: Timing) -> datetime | None:
    """Return the end of the step's lease or rest, or of the time in which something may still land; None: free.

    An undo waits for the latter too, and so does the last step: they look last of all, and what landed after their look
    would be left over. Where the way back leads to what the last step may have asked to delete, it waits for all.
    """
    row, now = change.steps[step.name], change.now
    if row.lease_until and row.lease_until > now:
        return row.lease_until
    _learn_unsettled(change, step, direction, timing)
    is_undo, leaves = direction is Direction.UNDO, change.operation.leaves
    watched = [change.steps[step.name]] if is_undo else []
    if step.name == LAST or (is_undo and leaves):
        watched = list(change.steps.values())
    return max(
        (one.unsettled_until for one in watched if one.unsettled_until and one.unsettled_until > now), default=None
    )


def _learn_unsettled(change: Change, step: Step, direction: Direction, timing: Timing) -> None:
    """Note until when something may land of a worker that died, or of an older operation for this agent."""
    row, rules = change.steps[step.name], change.operation.rules
    if not (step.is_undone or change.operation.leaves):
        return
    unsettled_until = row.unsettled_until
    if row.lease_token and row.lease_until and (row.intent or step.changes or rules.keeps_path):
        unsettled_until = _later(unsettled_until, row.lease_until + timing.lands)
        change.set_step(step.name, lease_token=None)
    if row.attempts == 0 and (direction is Direction.UNDO or rules.has_path):
        unsettled_until = _later(unsettled_until, change.before.older_unsettled.get(step.name))
    if unsettled_until != row.unsettled_until:
        change.set_step(step.name, unsettled_until=unsettled_until)


def _later(one: datetime | None, other: datetime | None) -> datetime | None:
    return max(filter(None, (one, other)), default=None)


def _is_out_of_time(change: Change, timing: Timing, at: datetime) -> bool:
    """Say whether the operation's budget for retries is spent at this moment; waiting for its turn costs nothing."""
    started_at = change.operation.started_at
    return started_at is not None and at > started_at + timing.budget + change.waited


def _give_up(change: Change, name: str) -> None:
    """Start the rollback since the time for retries is over; say what the operation was waiting for."""
    why = change.steps[name].error_detail or "Its workers died."
    _start_rollback(change, ErrorCode.PROVIDER_UNAVAILABLE, f"Gave up after repeated failures at {name}. {why}")


def _take(change: Change, step: Step, direction: Direction, timing: Timing, token: uuid.UUID, late: timedelta) -> None:
    row, now = change.steps[step.name], change.now
    attempt, lease_until = row.attempts + 1, now + timing.lease
    is_forward = direction is Direction.DO
    if change.operation.status is OperationStatus.QUEUED:
        change.set_operation(started_at=now)
        change.move_to(OperationStatus.RUNNING)
        change.tell(EventName.OPERATION_STARTED)
    change.set_step(
        step.name,
        state=StepState.RUNNING if is_forward else StepState.UNDOING,
        attempts=attempt,
        lease_token=token,
        lease_until=lease_until,
        # Written before any call: where it stands, an earlier try may have made something.
        intent={"do": step.name, "attempt": attempt} if is_forward else row.intent,
        started_at=row.started_at if attempt > 1 else now,
        finished_at=None,
    )
    change.set_operation(wake_at=lease_until + LEASE_MARGIN, idle_kicks=0)
    event = EventName.STEP_STARTED if is_forward else EventName.STEP_UNDOING
    waited = {"waited_s": round(late.total_seconds(), 3)} if late else {}
    change.tell(event, step.name, attempt=attempt, **waited)


def _write_agent(change: Change, step: Step, result: Result) -> None:
    if step.column:
        change.set_agent(ids=_with_id(change.agent.ids, step.name, result.resource_id))
    if result.trunk_id is not None:
        change.set_agent(trunk_id=result.trunk_id)
    if result.previous_routing is not None and (change.agent.previous_routing is None or step.changes):
        change.set_agent(previous_routing=result.previous_routing)


def _finish_others(change: Change, finished: Mapping[str, str]) -> None:
    """Finish steps that nobody has begun, with what is there already."""
    for name, resource_id in finished.items():
        row = change.steps.get(name)
        if row is not None and row.state is StepState.PENDING and not row.attempts:
            change.set_step(
                name, state=StepState.DONE, resource_id=resource_id, started_at=change.now, finished_at=change.now
            )
            change.set_agent(ids=_with_id(change.agent.ids, name, resource_id))
            change.tell(EventName.STEP_DONE, name, resource_id=resource_id)


def _with_id(ids: Mapping[str, str], name: str, found: str | None) -> dict[str, str]:
    kept = {one: known for one, known in ids.items() if one != name}
    return kept | {name: found} if found else kept


def _is_path_changed(saga: Saga, step: Step) -> bool:
    """Say whether a repair ended while this step was under way, and the path was taken down or repaired since."""
    if not saga.operation.status.is_final:
        return False
    is_replaced = step.column is not None and saga.agent.ids.get(step.name) != saga.steps[step.name].resource_id
    return is_replaced or saga.agent.phone_provisioning_status is not PhoneStatus.PROVISIONED


def _needs_a_person(lease: Lease, failure: Failure) -> bool:
    return failure.is_for_good or (lease.attempt >= UNDO_TRIES and failure.code not in WAITING_CODES)


def _ask_for_attention(change: Change, name: str, failure: Failure) -> Verdict:
    operation = change.operation
    if operation.rules.starts is Direction.UNDO or operation.error_code is None:
        change.set_operation(error_code=failure.code, error_detail=failure.detail)
    if operation.status is OperationStatus.NEEDS_ATTENTION:
        return Verdict.RESTS
    change.move_to(OperationStatus.NEEDS_ATTENTION)
    leftovers = [entry.external_id for entry in change.after.ledger]
    change.tell(
        EventName.OPERATION_NEEDS_ATTENTION, name, code=failure.code, reason=failure.detail, leftovers=leftovers
    )
    _announce(change, WebhookEvent.NEEDS_ATTENTION, change.agent)
    return Verdict.ATTENTION


def _start_rollback(change: Change, code: ErrorCode, detail: str) -> None:
    """Make an operation go back: from here on every message of the old direction is stale.

    Steps that never asked for anything count as undone at once; a live lease stays, so that undo waits for its holder.
    """
    change.set_operation(epoch=change.operation.epoch + 1, error_code=code, error_detail=detail)
    if not change.operation.rules.rolls_back:
        _end_as_it_is(change)
        return
    change.move_to(OperationStatus.ROLLING_BACK)
    change.wait_for_message()
    change.set_operation(idle_kicks=0)
    change.tell(EventName.OPERATION_TURNED, code=code, reason=detail)
    for name, row in list(change.steps.items()):
        stands = row.attempts if change.operation.rules.has_path else row.resource_id
        touched = stands or row.may_have_happened or row.state is StepState.RUNNING
        if touched and STEP_BY_NAME[name].is_undone:
            change.set_step(name, attempts=0)
        else:
            change.set_step(name, state=StepState.UNDONE, lease_token=None, lease_until=None, intent=None, attempts=0)
    _finish_if_undone(change)


def _end_as_it_is(change: Change) -> None:
    """End what failed or was cancelled without a way back: what it made right stays, the rest stays as it was found."""
    for name, row in list(change.steps.items()):
        if row.state in {StepState.PENDING, StepState.RUNNING}:
            change.set_step(name, state=StepState.FAILED)
    _close(change, OperationStatus.CANCELLED if change.operation.cancelled_at else OperationStatus.FAILED)


def _keep_undone(change: Change, step: Step, result: Result) -> None:
    operation = change.operation
    # Where the path stands on there was nothing to delete: what a move made right again stays, and what is gone is left
    # to a repair; a rehome's ids come back with its end.
    if step.column and not operation.rules.has_path:
        change.set_agent(ids=_with_id(change.agent.ids, step.name, None))
    change.tell(EventName.STEP_UNDONE, step.name, ids=list(result.removed))
    if operation.status is OperationStatus.NEEDS_ATTENTION:
        change.move_to(_at_work(operation))
    if not _finish_if_undone(change):
        change.wait_for_message()


def _at_work(operation: OperationRow) -> OperationStatus:
    """Return the status of an operation that goes back, or takes a path down, while nobody is asked for."""
    is_taking_down = operation.rules.starts is Direction.UNDO
    return OperationStatus.RUNNING if is_taking_down else OperationStatus.ROLLING_BACK


def _finish_if_done(change: Change, findings: tuple[Mapping[str, Any], ...]) -> bool:
    """End an operation on the way down once every step is done; the last step has just read the whole path."""
    if any(row.state is not StepState.DONE for row in change.steps.values()):
        return False
    if change.target is not None:
        _hand_over(change)
    if change.operation.wanted:
        change.set_agent(version=change.agent.version + 1, **change.operation.wanted)
    change.set_operation(error_code=None, error_detail=None)
    _close(change, OperationStatus.SUCCEEDED)
    health = health_of(stored_finding(finding) for finding in findings)
    seen: dict[str, Any] = {"health_state": health, "health_checked_at": change.now, "health_findings": findings}
    if change.target is not None:
        change.target = replace(change.target, **seen)
    else:
        change.set_agent(**seen)
    return True


def _finish_if_undone(change: Change) -> bool:
    """End an operation that goes back once nothing is left to undo; only then is the number free again."""
    if any(row.state is not StepState.UNDONE for row in change.steps.values()):
        return False
    operation = change.operation
    if operation.former_ids:
        _give_back(change)
    elif not operation.rules.has_path:
        change.agent, change.gives_place_back = replace(change.agent, **_NO_PATH), True
    if operation.rules.starts is Direction.UNDO:
        change.set_operation(error_code=None, error_detail=None)
        _close(change, OperationStatus.SUCCEEDED)
    else:
        _close(change, OperationStatus.CANCELLED if operation.cancelled_at else OperationStatus.FAILED)
    if operation.rules.keeps_path and any(
        row.name in COLUMNS
        and STEP_BY_NAME[row.name].makes
        and row.name not in operation.former_ids
        and not row.resource_id
        for row in change.steps.values()
    ):
        _repair_after(change)
    return True


def _give_back(change: Change) -> None:
    """Give the agent the ids that it had before the operation, unless its number could not go back there.

    The undo says so by the id that it leaves with its step: the old trunk was deleted by then, or is the pool's now.
    """
    if any(change.steps[name].resource_id for name in (TRUNK, NUMBER_ATTACHMENT)):
        return
    operation = change.operation
    change.set_agent(ids={**change.agent.ids, **operation.former_ids}, trunk_id=operation.former_trunk_id)
    change.gives_place_back = True


_NO_PATH: Mapping[str, Any] = {
    "twilio_phone_number": None,
    "previous_routing": None,
    "ids": {},
    "trunk_id": None,
    "adopted": None,
    "health_state": Health.UNKNOWN,
    "health_checked_at": None,
    "health_findings": (),
}
"""The columns of an agent that has no number."""


def _hand_over(change: Change) -> None:
    """Give the number and every id of its path to the target's row, and the ledger with them."""
    source, target = change.agent, change.target
    if target is None:
        raise ValueError("only a move hands over")
    path: dict[str, Any] = {
        "twilio_phone_number": source.twilio_phone_number,
        "previous_routing": source.previous_routing,
        "trunk_id": source.trunk_id,
        "adopted": source.adopted,
    }
    change.target = replace(target, ids=source.ids, **path)
    change.agent, change.gives_place_back = replace(source, **_NO_PATH), True
    change.hands_over = True


def _repair_after(change: Change) -> None:
    """Open the repair of what somebody deleted while the number was being moved; the sweeper publishes it."""
    operation = change.operation
    origin = Origin(operation.requested_by, operation.request_id, operation.traceparent)
    only = frozenset(step.name for step in STEPS if step.is_undone or step.name == LAST)
    repair = open_operation(OperationKind.REPAIR, change.agent, change.now, origin, only=only)
    _open_next(change, repair)
    if change.opened:
        change.opened = replace(change.opened, operation=replace(change.opened.operation, wake_at=change.now))


def _open_next(change: Change, opening: Change) -> None:
    change.agent, change.opened, change.opened_events = opening.agent, opening.opened, opening.opened_events
    change.activity += opening.activity


def _close(change: Change, end: OperationStatus) -> None:
    change.move_to(end)
    # What stood before is of no use any more, and may be of somebody's whose data are to be erased.
    change.set_operation(finished_at=change.now, wake_at=None, former_options=None)
    change.tell(_END_EVENTS[end], code=change.operation.error_code)
    rules = change.operation.rules
    if end in rules.webhooks:
        _announce(change, rules.webhooks[end], change.agent)
    if change.target is not None and end in rules.target_webhooks:
        _announce(change, rules.target_webhooks[end], change.target)


_END_EVENTS = {
    OperationStatus.SUCCEEDED: EventName.OPERATION_SUCCEEDED,
    OperationStatus.FAILED: EventName.OPERATION_FAILED,
    OperationStatus.CANCELLED: EventName.OPERATION_CANCELLED,
}


def _announce(change: Change, event: WebhookEvent, agent: AgentRow) -> None:
    operation = change.operation
    data: dict[str, Any] = {
        "agentId": str(agent.id),
        "agentName": agent.name,
        "phoneProvisioningStatus": agent.phone_provisioning_status,
        "phoneNumber": operation.phone_number,
        "operationId": str(operation.id),
        "operationKind": operation.kind,
    }
    if operation.error_code:
        data["error"] = {"code": operation.error_code, "detail": operation.error_detail}
    change.announcements.append(Announcement(event, data))


def _remember(change: Change, origin: Origin, action: Action, subject_id: uuid.UUID, **detail: Any) -> None:
    """Remember who asked for this; nothing where nobody did."""
    if origin.channel is not Channel.INTERNAL:
        change.activity.append(Asked(origin, action, subject_id, detail))


def _new_operation(
    kind: OperationKind,
    agent: AgentRow,
    origin: Origin = INTERNAL,
    *,
    takeover: bool,
    target: AgentRow | None,
    only: frozenset[str] | None,
    leaves_trunk: bool,
) -> Saga:
    if agent.twilio_phone_number is None:
        raise ValueError("only a provisioning is opened for an agent without a number")
    operation = OperationRow(
        id=uuid.uuid4(),
        agent_id=agent.id,
        kind=kind,
        status=OperationStatus.QUEUED,
        phone_number=agent.twilio_phone_number,
        takeover=takeover,
        target_agent_id=target.id if target else None,
        requested_by=origin.requested_by,
        request_id=origin.request_id,
        traceparent=origin.traceparent,
    )
    if leaves_trunk or (agent.trunk_id is None and not operation.rules.keeps_path):
        former = {name: agent.ids[name] for name in operation.rules.leaves if name in agent.ids}
        operation = replace(operation, former_ids=former, former_trunk_id=agent.trunk_id)
    worked_on = {step.name for step in STEPS if only is None or step.name in only}
    left = {*operation.former_ids, NUMBER_ATTACHMENT} & worked_on if operation.former_ids else set()
    steps = {
        step.name: StepRow(
            step.name,
            StepState.PENDING if step.name in worked_on else StepState.DONE,
            # What is left behind is nothing that its step has made.
            resource_id=None if step.name in left else agent.ids.get(step.resource),
        )
        for step in KINDS[kind].steps
    }
    return Saga(operation, agent, steps, target)
