"""The claim of a step: one transaction that gives one worker the right to act on it, or says why not."""

import json
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import case, func, or_, select
from sqlalchemy.orm import Session

from app.db.engine import Sessions
from app.db.models import Agent, Operation, OperationStep, Resource
from app.db.queries import waited_for_turn
from app.domain.errors import ErrorCode
from app.domain.events import EventName
from app.domain.statuses import Direction, OperationKind, OperationStatus, PhoneStatus, StepState
from app.providers.rate_limiter import Lane
from app.saga.context import StepContext, Toolbox, routing_of
from app.saga.steps import STEPS, Step
from app.saga.transitions import record, turn_round

LEASE_MARGIN = timedelta(seconds=1)
"""How long after a lease's end the sweep looks: the holder's own last transaction may be a moment late."""

Refusal = Literal["done", "stale", "turned"]


@dataclass(frozen=True)
class Trail:
    """What ties a run of a step to the request that asked for it, for logs and traces."""

    kind: OperationKind
    request_id: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True)
class Claim:
    """The right to act on one step until its lease ends."""

    step: Step
    direction: Direction
    token: uuid.UUID
    attempt: int
    may_have_happened: bool
    """Whether an earlier try, of this operation or of one before it, ended without a known outcome."""
    resource_id: str | None
    holder_id: uuid.UUID
    """The agent whose row and ledger hold what the step makes; a move acts for another until it ends."""
    mends: bool
    """Whether the step makes right what stands, as a repair or a move does, before it makes anything."""
    is_move: bool
    """Whether the step hands over what stands, and makes and deletes nothing."""
    context: StepContext
    lane: Lane
    """How its calls stand in line at the providers."""
    trail: Trail


@dataclass(frozen=True)
class Locked:
    """An operation whose row this transaction holds, with all that belongs to it."""

    operation: Operation
    agent: Agent
    rows: dict[str, OperationStep]
    now: datetime
    """The database's clock: the only one that leases know."""


def lock_operation(session: Session, operation_id: uuid.UUID) -> Locked | None:
    """Take the operation's row lock, then read what it guards; None when there is no such operation."""
    operation = session.get(Operation, operation_id, with_for_update=True)
    if operation is None:
        return None
    # Read after the lock: what was joined before it could be a moment old.
    steps = select(OperationStep, func.clock_timestamp()).where(OperationStep.operation_id == operation_id)
    found = session.execute(steps.order_by(OperationStep.position)).all()
    agent = session.get_one(Agent, operation.agent_id, populate_existing=True)
    return Locked(operation, agent, {row.name: row for row, _ in found}, found[0][1])


def claim_step(
    sessions: Sessions, tools: Toolbox, operation_id: uuid.UUID, epoch: int, step: Step, direction: Direction
) -> Claim | Refusal:
    """Claim the step; "done": nothing left to do, "stale": not ours to do, "turned": the budget is spent."""
    with sessions.begin() as session:
        locked = lock_operation(session, operation_id)
        if locked is None or not _is_current(locked.operation, epoch, direction):
            return "stale"
        operation, row = locked.operation, locked.rows.get(step.name)
        if row is None or row.state is (StepState.DONE if direction is Direction.DO else StepState.UNDONE):
            return "done"
        if not _is_ready(step, locked.rows, direction):
            return "stale"
        held_until = _held_until(session, tools, locked, row, step, direction)
        if held_until:
            operation.wake_at = min(operation.wake_at or locked.now, held_until + LEASE_MARGIN)
            return "stale"
        if direction is Direction.DO and is_out_of_time(session, operation, tools, locked.now):
            code, detail = ErrorCode.PROVIDER_UNAVAILABLE, out_of_time(row)
            turn_round(session, operation, locked.agent, locked.rows.values(), locked.now, code=code, detail=detail)
            return "turned"
        return _take(session, tools, locked, row, step, direction)


def _held_until(
    session: Session, tools: Toolbox, locked: Locked, row: OperationStep, step: Step, direction: Direction
) -> datetime | None:
    """Return the end of the step's lease or rest, or of the time in which something may still land; None: free.

    An undo waits for the latter too, and so does verification: they look last of all, and what landed after their look
    would be left over.
    """
    if row.lease_until and row.lease_until > locked.now:
        return row.lease_until
    _learn_doubts(session, tools, locked, row, step, direction)
    watched = [row] if direction is Direction.UNDO else locked.rows.values() if step is STEPS[-1] else []
    moments = [one.unsettled_until for one in watched if one.unsettled_until]
    return max((moment for moment in moments if moment > locked.now), default=None)


def _learn_doubts(
    session: Session, tools: Toolbox, locked: Locked, row: OperationStep, step: Step, direction: Direction
) -> None:
    """Note until when something may land of a worker that died, or of an older operation for this agent."""
    # The first call of a holder that is dead, or has lost its lease, ended within one timeout, or it made no other.
    lands, doubts = tools.timing.settle - tools.timing.provider_timeout, [row.unsettled_until]
    if not step.undo:
        return
    if row.lease_token and row.lease_until and (row.intent or step.changes or _mends(locked.operation)):
        doubts.append(row.lease_until + lands)
        row.lease_token = None
    if row.attempts == 0 and (direction is Direction.UNDO or _mends(locked.operation)):
        doubts.append(_older_doubt(session, locked, step, lands))
    row.unsettled_until = max((doubt for doubt in doubts if doubt), default=None)


def _older_doubt(session: Session, locked: Locked, step: Step, lands: timedelta) -> datetime | None:
    agent_id = locked.agent.id
    landed = case((OperationStep.lease_token.is_not(None), OperationStep.lease_until + lands))
    found: datetime | None = session.scalar(
        select(func.max(func.greatest(OperationStep.unsettled_until, landed)))
        .join(Operation, Operation.id == OperationStep.operation_id)
        .where(
            or_(Operation.agent_id == agent_id, Operation.target_agent_id == agent_id),
            Operation.id != locked.operation.id,
            OperationStep.name == step.name,
        )
    )
    return found


def _mends(operation: Operation) -> bool:
    return operation.kind in {OperationKind.REPAIR, OperationKind.MOVE}


def is_out_of_time(session: Session, operation: Operation, tools: Toolbox, at: datetime) -> bool:
    """Say whether the operation's budget for retries is spent at this moment; waiting for its turn costs nothing."""
    if operation.started_at is None or at <= operation.started_at + tools.timing.budget:
        return False
    return at > operation.started_at + tools.timing.budget + waited_for_turn(session, operation.id)


def out_of_time(row: OperationStep) -> str:
    """Say what the operation was waiting for when its time ran out."""
    return f"Gave up after repeated failures at {row.name}. {row.error_detail or 'Its workers died.'}"


def _is_current(operation: Operation, epoch: int, direction: Direction) -> bool:
    return not operation.status.is_final and operation.epoch == epoch and operation.direction is direction


def _is_ready(step: Step, rows: dict[str, OperationStep], direction: Direction) -> bool:
    if direction is Direction.DO:
        return all(rows[name].state is StepState.DONE for name in step.needs)
    above = (rows.get(other.name) for other in STEPS if step.name in other.needs)
    return all(row is None or row.state is StepState.UNDONE for row in above)


def _is_uncertain(locked: Locked) -> bool:
    return any(row.attempts > 1 or row.unsettled_until for row in locked.rows.values())


def _ledger(session: Session, locked: Locked) -> dict[str, list[Resource]]:
    rows = session.scalars(
        select(Resource)
        .where(Resource.agent_id == locked.agent.id, Resource.deleted_at.is_(None))
        .order_by(Resource.seen_at)
    )
    ledger: dict[str, list[Resource]] = {}
    for row in rows:
        ledger.setdefault(row.kind, []).append(row)
    return ledger


def _take(
    session: Session,
    tools: Toolbox,
    locked: Locked,
    row: OperationStep,
    step: Step,
    direction: Direction,
) -> Claim:
    operation, now = locked.operation, locked.now
    may_have_happened = row.intent is not None or row.unsettled_until is not None
    row.attempts += 1
    row.lease_token, row.lease_until = uuid.uuid4(), now + tools.timing.lease
    row.started_at = row.started_at if row.attempts > 1 else now
    row.finished_at = None
    operation.wake_at, operation.idle_kicks = row.lease_until + LEASE_MARGIN, 0
    _begin(session, locked, row, direction)
    event = EventName.STEP_STARTED if direction is Direction.DO else EventName.STEP_UNDOING
    record(session, operation, event, step.name, attempt=row.attempts)
    context = _context(session, tools, locked, direction)
    return Claim(
        step,
        direction,
        row.lease_token,
        row.attempts,
        may_have_happened,
        row.resource_id,
        locked.agent.id,
        _mends(operation),
        operation.kind is OperationKind.MOVE,
        context,
        Lane.BULK if operation.bulk_id else Lane.SINGLE,
        Trail(operation.kind, operation.request_id, operation.traceparent),
    )


def _begin(session: Session, locked: Locked, row: OperationStep, direction: Direction) -> None:
    operation = locked.operation
    if operation.status is OperationStatus.QUEUED:
        operation.started_at = locked.now
        operation.move_to(OperationStatus.RUNNING)
        record(session, operation, EventName.OPERATION_STARTED)
    if direction is Direction.DO:
        row.state, row.intent = StepState.RUNNING, {"do": row.name, "attempt": row.attempts}
        if operation.kind is OperationKind.PROVISION:
            locked.agent.move_to(PhoneStatus.PROVISIONING)
    else:
        row.state = StepState.UNDOING


def _context(session: Session, tools: Toolbox, locked: Locked, direction: Direction) -> StepContext:
    operation, agent, is_uncertain = locked.operation, locked.agent, _is_uncertain(locked)
    ledger = _ledger(session, locked) if direction is Direction.UNDO or is_uncertain else {}
    # A move works under the identity of the agent that gets the number, and its undo under the old one's again.
    identity = operation.target if operation.target is not None and direction is Direction.DO else agent
    return StepContext(
        tools=tools,
        agent_id=identity.id,
        operation_id=operation.id,
        phone_number=operation.phone_number,
        takeover=operation.takeover,
        agent_name=identity.livekit_agent_name,
        job_metadata=json.dumps(identity.agent_metadata),
        ids=_ids(agent),
        parents={entry.external_id: entry.parent_id for kind in ledger.values() for entry in kind if entry.parent_id},
        ledger={kind: tuple(entry.external_id for entry in entries) for kind, entries in ledger.items()},
        previous_routing=routing_of(agent.previous_routing),
        is_uncertain=is_uncertain,
        started=tools.clock(),
        holder_id=agent.id if identity is not agent else None,
    )


def _ids(agent: Agent) -> dict[str, str]:
    values = {step.name: getattr(agent, step.column) for step in STEPS if step.column}
    return {name: value for name, value in values.items() if value}
