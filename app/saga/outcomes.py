"""What came of a claimed step, written in one transaction: result, rest or failure."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.db.engine import Sessions
from app.db.models import Agent, Operation, OperationStep, Resource
from app.domain.errors import ErrorCode
from app.domain.events import EventName, Origin
from app.domain.statuses import Direction, OperationKind, OperationStatus, PhoneStatus, StepState
from app.providers.errors import ProviderError, RejectedError
from app.saga.chain_plan import hint_grace
from app.saga.claims import LEASE_MARGIN, Claim, Locked, is_out_of_time, lock_operation, out_of_time
from app.saga.context import ORIGINATION_URL, TRUNK, Result, TakenMeanwhileError, Toolbox
from app.saga.opening import open_operation
from app.saga.steps import JOINS, STEP_BY_NAME, STEPS
from app.saga.transitions import finish_if_done, finish_if_undone, record, turn_round
from app.webhooks.announcements import announce_attention

UNDO_TRIES = 5
"""Failed tries of one undo after which a person is told: some 15 s of back-off, more than a passing fault takes."""

Kept = Literal["done", "parted", "rests", "attention", "turned", "lost"]
"""What became of it: written; written, and the step after it waits for the other branch too; with a rest; with a rest,
and from now on a person is asked for; on an operation that goes back; refused (lease lost)."""


def keep_result(sessions: Sessions, claim: Claim, result: Result) -> Kept:
    """Persist a success: the ledger always; the step, the agent's id and the events only under the lease."""
    with sessions.begin() as session:
        locked, row = _reload(session, claim)
        _write_ledger(session, claim, result, locked.now)
        if row.lease_token != claim.token or _is_path_gone(locked):
            late = {"resource_id": result.resource_id}
            record(session, locked.operation, EventName.RESOURCE_SEEN_LATE, claim.step.name, **late)
            return "lost"
        row.lease_token = row.lease_until = row.intent = row.error_code = row.error_detail = None
        row.finished_at = locked.now
        if claim.direction is Direction.UNDO:
            _keep_undone(session, claim, locked, row, result)
            return "done"
        row.state, row.resource_id = StepState.DONE, result.resource_id
        _write_agent(locked.agent, claim, result)
        record(session, locked.operation, EventName.STEP_DONE, claim.step.name, resource_id=result.resource_id)
        if result.removed:
            record(session, locked.operation, EventName.TWINS_REMOVED, claim.step.name, ids=list(result.removed))
        if locked.operation.direction is Direction.UNDO:
            locked.operation.wake_at = locked.now
            return "turned"
        is_over = locked.operation.status.is_final or finish_if_done(
            session, locked.operation, locked.agent, locked.rows.values(), locked.now
        )
        if not is_over:
            locked.operation.wake_at = locked.now + hint_grace(locked.operation)
        is_met = all(locked.rows[name].state is StepState.DONE for name in JOINS.get(claim.step.name, ()))
        return "done" if is_met else "parted"


def keep_failure(
    sessions: Sessions, claim: Claim, error: RejectedError, *, is_clear: bool, settles_in: timedelta | None = None
) -> Kept:
    """Persist a failure for good, and turn the operation round. `is_clear`: nothing of this step can exist.

    `settles_in` is how long something of it may still land, where a request got no answer.
    """
    with sessions.begin() as session:
        locked, row = _reload(session, claim)
        if row.lease_token != claim.token:
            return "lost"
        was_over = locked.operation.status.is_final
        row.state, row.lease_token, row.lease_until = StepState.FAILED, None, None
        row.error_code, row.error_detail, row.finished_at = error.code, error.detail, locked.now
        if is_clear:
            row.intent = None
        _doubt(row, locked.now, settles_in)
        if isinstance(error, TakenMeanwhileError) and row.unsettled_until:
            # An attachment of ours may yet land, and take the number from there: then that is where it goes back to.
            locked.agent.previous_routing = asdict(error.routing)
        _record_failure(session, locked.operation, claim, error)
        if locked.operation.direction is Direction.UNDO:
            locked.operation.wake_at = locked.now
        elif not was_over:
            turn_round(
                session,
                locked.operation,
                locked.agent,
                locked.rows.values(),
                locked.now,
                code=error.code,
                detail=error.detail,
            )
        return "turned"


def keep_rest(
    sessions: Sessions,
    tools: Toolbox,
    claim: Claim,
    error: ProviderError,
    rest: timedelta,
    *,
    is_clear: bool,
    was_tried: bool = True,
    settles_in: timedelta | None = None,
) -> Kept:
    """Persist that the step rests until its next try; out of time, a provisioning turns round instead.

    `was_tried` is False where nothing was sent, so that the next try is the same one again; `settles_in` as above.
    """
    with sessions.begin() as session:
        locked, row = _reload(session, claim)
        operation = locked.operation
        if row.lease_token != claim.token:
            return "lost"
        _rest(row, claim, error, locked.now + rest, is_clear=is_clear, was_tried=was_tried)
        _doubt(row, locked.now, settles_in)
        if claim.context.removed:
            _mark_deleted(session, claim, claim.context.removed, locked.now)
            row.resource_id = None if row.resource_id in claim.context.removed else row.resource_id
        record(
            session,
            operation,
            EventName.STEP_RESTS,
            claim.step.name,
            code=error.code,
            reason=error.detail,
            rest_s=round(rest.total_seconds(), 3),
            attempt=claim.attempt,
            **_waited(tools, claim, error),
        )
        if operation.status.is_final:
            return "turned"
        is_on_its_way = operation.direction is claim.direction
        operation.wake_at = locked.now + rest + (hint_grace(operation) if is_on_its_way else LEASE_MARGIN)
        if not is_on_its_way:
            return "turned"
        if claim.direction is Direction.DO and is_out_of_time(session, operation, tools, locked.now + rest):
            return _give_up(session, locked, row)
        return _ask_for_attention(session, locked, claim, error) if _needs_a_person(claim, error) else "rests"


def _is_path_gone(locked: Locked) -> bool:
    """Say whether a repair ended while one of its steps was under way, and the path was taken down since."""
    return locked.operation.status.is_final and locked.agent.phone_provisioning_status is not PhoneStatus.PROVISIONED


def _needs_a_person(claim: Claim, error: ProviderError) -> bool:
    is_failing = claim.attempt >= UNDO_TRIES and error.code is not ErrorCode.PROVIDER_BUSY
    return claim.direction is Direction.UNDO and (isinstance(error, RejectedError) or is_failing)


def _rest(
    row: OperationStep, claim: Claim, error: ProviderError, until: datetime, *, is_clear: bool, was_tried: bool
) -> None:
    row.lease_token, row.lease_until = None, until
    row.attempts -= 0 if was_tried else 1
    row.error_code, row.error_detail = error.code, error.detail
    if claim.direction is Direction.DO:
        row.state = StepState.PENDING
        if is_clear:
            row.intent = None


def _doubt(row: OperationStep, now: datetime, settles_in: timedelta | None) -> None:
    """Note until when something of the step may still land."""
    if settles_in is not None:
        row.unsettled_until = max(filter(None, (row.unsettled_until, now + settles_in)))


def _give_up(session: Session, locked: Locked, row: OperationStep) -> Kept:
    """Turn the operation round: its time for retries would be over before the next one."""
    row.state = StepState.FAILED
    turn_round(
        session,
        locked.operation,
        locked.agent,
        locked.rows.values(),
        locked.now,
        code=ErrorCode.PROVIDER_UNAVAILABLE,
        detail=out_of_time(row),
    )
    return "turned"


def _reload(session: Session, claim: Claim) -> tuple[Locked, OperationStep]:
    locked = lock_operation(session, claim.context.operation_id)
    if locked is None:
        raise LookupError(f"operation {claim.context.operation_id} vanished while its step ran")
    return locked, locked.rows[claim.step.name]


def _keep_undone(session: Session, claim: Claim, locked: Locked, row: OperationStep, result: Result) -> None:
    operation = locked.operation
    # A move that goes back has nothing to delete: what it made right again stays, and what is gone is left to a repair.
    row.state, row.resource_id = StepState.UNDONE, result.resource_id
    if claim.step.column and not claim.mends:
        setattr(locked.agent, claim.step.column, None)
    record(session, operation, EventName.STEP_UNDONE, claim.step.name, ids=list(result.removed))
    if operation.status is OperationStatus.NEEDS_ATTENTION:
        going = OperationStatus.RUNNING if operation.kind is OperationKind.DEPROVISION else OperationStatus.ROLLING_BACK
        operation.move_to(going)
    if not finish_if_undone(session, operation, locked.agent, locked.rows.values(), locked.now):
        operation.wake_at = locked.now + hint_grace(locked.operation)
    elif operation.kind is OperationKind.MOVE and _is_broken(locked):
        _repair_after(session, locked)


def _is_broken(locked: Locked) -> bool:
    """Say whether something of the path that a move leaves where it was is gone."""
    return any(STEP_BY_NAME[name].makes and row.resource_id is None for name, row in locked.rows.items())


def _repair_after(session: Session, locked: Locked) -> None:
    """Open the repair of what somebody deleted while the number was being moved; the sweeper publishes it."""
    session.flush()  # the unique index must see the move closed before another operation is open
    operation = locked.operation
    origin = Origin(operation.requested_by, operation.request_id, operation.traceparent)
    kind, number = OperationKind.REPAIR, operation.phone_number
    only = frozenset(step.name for step in STEPS if step.makes or step.changes) | {STEPS[-1].name}
    repair = open_operation(session, locked.agent, kind, number, locked.now, origin, only=only)
    repair.wake_at = locked.now


def _write_agent(agent: Agent, claim: Claim, result: Result) -> None:
    if claim.step.column:
        setattr(agent, claim.step.column, result.resource_id)
    if result.previous_routing is not None and (agent.previous_routing is None or claim.step.changes):
        agent.previous_routing = asdict(result.previous_routing)


def _write_ledger(session: Session, claim: Claim, result: Result, now: datetime) -> None:
    if claim.step.makes and result.resource_id:
        parent = claim.context.ids.get(TRUNK) if claim.step.name == ORIGINATION_URL else None
        session.execute(
            insert(Resource)
            .values(
                provider=claim.step.provider,
                kind=claim.step.name,
                external_id=result.resource_id,
                agent_id=claim.holder_id,
                operation_id=claim.context.operation_id,
                parent_id=parent,
            )
            .on_conflict_do_nothing()
        )
    if result.removed:
        _mark_deleted(session, claim, result.removed, now)


def _mark_deleted(session: Session, claim: Claim, ids: Sequence[str], now: datetime) -> None:
    which = (Resource.agent_id == claim.holder_id, Resource.external_id.in_(ids), Resource.deleted_at.is_(None))
    session.execute(update(Resource).where(*which).values(deleted_at=now))


def _waited(tools: Toolbox, claim: Claim, error: ProviderError) -> dict[str, float]:
    """Say how long a step that was held back stood in line: like its rest, this is not its operation's time."""
    is_held_back = error.code is ErrorCode.PROVIDER_BUSY
    return {"waited_s": round(tools.clock() - claim.context.started, 3)} if is_held_back else {}


def _record_failure(session: Session, operation: Operation, claim: Claim, error: ProviderError) -> None:
    record(session, operation, EventName.STEP_FAILED, claim.step.name, code=error.code, reason=error.detail)


def _ask_for_attention(session: Session, locked: Locked, claim: Claim, error: ProviderError) -> Kept:
    operation = locked.operation
    if operation.kind is OperationKind.DEPROVISION or operation.error_code is None:
        operation.error_code, operation.error_detail = error.code, error.detail
    if operation.status is OperationStatus.NEEDS_ATTENTION:
        return "rests"
    operation.move_to(OperationStatus.NEEDS_ATTENTION)
    leftovers = session.scalars(
        select(Resource.external_id).where(Resource.agent_id == operation.agent_id, Resource.deleted_at.is_(None))
    )
    record(
        session,
        operation,
        EventName.OPERATION_NEEDS_ATTENTION,
        claim.step.name,
        code=error.code,
        reason=error.detail,
        leftovers=list(leftovers),
    )
    announce_attention(session, operation, locked.agent)
    return "attention"
