"""What may be done to an operation's rows, inside a transaction that holds the operation's lock: open, turn, finish."""

import uuid
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select, update
from sqlalchemy.orm import Session

from app.db.access import record_activity
from app.db.models import Agent, Event, Operation, OperationStep, Resource
from app.domain.errors import ErrorCode, RefusedError, agent_not_found
from app.domain.events import Action, EventName, Origin
from app.domain.findings import Health
from app.domain.statuses import (
    OPEN_STATUSES,
    OperationKind,
    OperationStatus,
    PhoneStatus,
    StepState,
)
from app.saga.chain_plan import Plan, hint_grace, plan_of
from app.saga.steps import STEP_BY_NAME, STEPS
from app.webhooks.announcements import announce_end


def is_open_for(agent_id: uuid.UUID) -> ColumnElement[bool]:
    """Match the open operations that this agent takes part in, as the one that moves its number here too."""
    takes_part = or_(Operation.agent_id == agent_id, Operation.target_agent_id == agent_id)
    return and_(takes_part, Operation.status.in_(OPEN_STATUSES))


def refuse_busy(session: Session, agent_id: uuid.UUID) -> None:
    """Raise 409 `operation_in_progress` while an operation is open for the agent."""
    busy = session.scalar(select(Operation.id).where(is_open_for(agent_id)))
    if busy:
        raise RefusedError(ErrorCode.OPERATION_IN_PROGRESS, f"Operation {busy} is still open for this agent.")


def lock_agent(session: Session, agent_id: uuid.UUID) -> tuple[Agent, datetime]:
    """Take the agent's row lock and the database's time; 404 `agent_not_found`."""
    row = session.execute(
        select(Agent, func.clock_timestamp())
        .where(Agent.id == agent_id, Agent.deleted_at.is_(None))
        .with_for_update(of=Agent)
    ).one_or_none()
    if row is None:
        raise agent_not_found(agent_id)
    return row[0], row[1]


def plan_now(session: Session, operation: Operation) -> Plan:
    """Read the steps as this transaction has left them, and say what is to be published."""
    session.flush()
    session.refresh(operation, ["steps"])
    return plan_of(operation, operation.steps)


def record(session: Session, operation: Operation, event: EventName, step: str | None = None, **detail: Any) -> None:
    """Append to the trail, in the caller's transaction."""
    session.add(Event(operation_id=operation.id, step=step, event=event, detail=detail))


def record_request(
    session: Session, operation: Operation, event: EventName, action: Action, origin: Origin, **detail: Any
) -> None:
    """Append to the trail what somebody asked for, and to `activity` who it was, in the caller's transaction."""
    record(session, operation, event, **detail, **origin.in_trail())
    record_activity(session, origin, action, operation.agent_id, operation_id=str(operation.id), **detail)


def turn_round(
    session: Session,
    operation: Operation,
    agent: Agent,
    steps: Iterable[OperationStep],
    now: datetime,
    *,
    code: ErrorCode,
    detail: str,
) -> None:
    """Make a provisioning go back up: from here on every message of the old direction is stale.

    Steps that never asked for anything count as undone at once; a live lease stays, so that undo waits for its holder.
    """
    operation.epoch += 1
    operation.error_code, operation.error_detail = code, detail
    if operation.kind is OperationKind.REPAIR:
        end_repair(session, operation, steps, now)
        announce_end(session, operation, agent)
        return
    operation.move_to(OperationStatus.ROLLING_BACK)
    operation.wake_at = now + hint_grace(operation)
    operation.idle_kicks = 0
    if operation.kind is OperationKind.PROVISION:
        agent.move_to(PhoneStatus.ROLLING_BACK)
    record(session, operation, EventName.OPERATION_TURNED, code=code, reason=detail)
    for row in steps:
        stands = row.resource_id if operation.kind is not OperationKind.MOVE else row.attempts
        touched = stands or row.intent or row.unsettled_until or row.state is StepState.RUNNING
        if not touched or not STEP_BY_NAME[row.name].undo:
            row.state, row.lease_token, row.lease_until, row.intent = StepState.UNDONE, None, None, None
        row.attempts = 0
    finish_if_undone(session, operation, agent, steps, now)


def end_repair(session: Session, operation: Operation, steps: Iterable[OperationStep], now: datetime) -> None:
    """End a repair that failed or was cancelled: what it made right stays, what it did not stays as it was found."""
    is_cancelled = operation.cancelled_at is not None
    end = OperationStatus.CANCELLED if is_cancelled else OperationStatus.FAILED
    event = EventName.OPERATION_CANCELLED if is_cancelled else EventName.OPERATION_FAILED
    for row in steps:
        if row.state in {StepState.PENDING, StepState.RUNNING}:
            row.state = StepState.FAILED
    _close(session, operation, end, now, event)


def finish_if_undone(
    session: Session, operation: Operation, agent: Agent, steps: Iterable[OperationStep], now: datetime
) -> bool:
    """End an operation that goes up once nothing is left to undo; only then is the number free again."""
    if any(row.state is not StepState.UNDONE for row in steps):
        return False
    if operation.kind is OperationKind.DEPROVISION:
        end, phone, event = OperationStatus.SUCCEEDED, PhoneStatus.NOT_PROVISIONED, EventName.OPERATION_SUCCEEDED
        operation.error_code = operation.error_detail = None
    elif operation.cancelled_at:
        end, phone, event = OperationStatus.CANCELLED, PhoneStatus.NOT_PROVISIONED, EventName.OPERATION_CANCELLED
    else:
        end, phone, event = OperationStatus.FAILED, PhoneStatus.FAILED, EventName.OPERATION_FAILED
    _close(session, operation, end, now, event)
    if operation.kind is not OperationKind.MOVE:
        agent.move_to(phone)
        agent.twilio_phone_number = agent.twilio_phone_number_sid = agent.previous_routing = None
        agent.health_state, agent.health_checked_at, agent.health_findings = Health.UNKNOWN, None, []
    elif operation.target is not None:
        operation.target.move_to(PhoneStatus.NOT_PROVISIONED)
    announce_end(session, operation, agent)
    return True


def finish_if_done(
    session: Session, operation: Operation, agent: Agent, steps: Iterable[OperationStep], now: datetime
) -> bool:
    """End a provisioning once every step is done."""
    if any(row.state is not StepState.DONE for row in steps):
        return False
    _close(session, operation, OperationStatus.SUCCEEDED, now, EventName.OPERATION_SUCCEEDED)
    operation.error_code = operation.error_detail = None
    holder = _hand_over(session, agent, operation.target) if operation.target is not None else agent
    holder.move_to(PhoneStatus.PROVISIONED)
    # Verification has just read the whole path.
    holder.health_state, holder.health_checked_at, holder.health_findings = Health.IN_SYNC, now, []
    announce_end(session, operation, agent)
    return True


def _hand_over(session: Session, source: Agent, target: Agent) -> Agent:
    """Give the number and every id of its path to the other agent's row, and the ledger with them."""
    number, source.twilio_phone_number = source.twilio_phone_number, None
    session.flush()  # the unique index must see the number free before it is taken again
    target.twilio_phone_number = number
    for column in ("previous_routing", *(step.column for step in STEPS if step.column)):
        setattr(target, column, getattr(source, column))
        setattr(source, column, None)
    source.move_to(PhoneStatus.NOT_PROVISIONED)
    source.health_state, source.health_checked_at, source.health_findings = Health.UNKNOWN, None, []
    live = (Resource.agent_id == source.id, Resource.deleted_at.is_(None))
    session.execute(update(Resource).where(*live).values(agent_id=target.id))
    return target


def _close(session: Session, operation: Operation, end: OperationStatus, now: datetime, event: EventName) -> None:
    resting = OperationStatus.RUNNING if operation.kind is OperationKind.DEPROVISION else OperationStatus.ROLLING_BACK
    if operation.status is OperationStatus.NEEDS_ATTENTION:
        operation.move_to(resting)
    operation.move_to(end)
    operation.finished_at, operation.wake_at = now, None
    record(session, operation, event, code=operation.error_code)
