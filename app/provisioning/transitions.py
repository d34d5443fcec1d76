"""What may be done to an operation's rows, inside a transaction that holds the operation's lock: open, turn, finish."""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from app.db.models import Agent, Event, Operation, OperationStep
from app.domain.errors import ErrorCode
from app.domain.events import EventName
from app.domain.statuses import Direction, OperationKind, OperationStatus, PhoneStatus, StepState
from app.provisioning.steps import STEP_BY_NAME, STEPS, steps_towards

HINT_GRACE = timedelta(seconds=5)
"""How long the message for the next step may take before the sweep takes it for lost: far above a queue's delay."""


@dataclass(frozen=True)
class Origin:
    """Who asked, for the trail: the name of the API key and the id of the request."""

    requested_by: str | None = None
    request_id: str | None = None


@dataclass(frozen=True)
class Plan:
    """What to publish for an operation now: the steps not yet finished, in their order."""

    operation_id: uuid.UUID
    epoch: int
    kind: OperationKind
    direction: Direction
    steps: tuple[str, ...]


def record(session: Session, operation: Operation, event: EventName, step: str | None = None, **detail: Any) -> None:
    """Append to the trail, in the caller's transaction."""
    session.add(Event(operation_id=operation.id, step=step, event=event, detail=detail))


def open_operation(
    session: Session, agent: Agent, kind: OperationKind, number: str, now: datetime, origin: Origin, *, takeover: bool
) -> Operation:
    """Insert an operation with its steps; the partial unique index refuses a second open one."""
    operation = Operation(
        id=uuid.uuid4(),
        agent_id=agent.id,
        kind=kind,
        phone_number=number,
        takeover=takeover,
        status=OperationStatus.QUEUED,
        epoch=0,
        wake_at=now + HINT_GRACE,
        requested_by=origin.requested_by,
        request_id=origin.request_id,
    )
    session.add(operation)
    session.flush()
    undoing = kind is OperationKind.DEPROVISION
    for position, step in enumerate(STEPS):
        if undoing and not step.undo:
            continue
        column = STEP_BY_NAME[step.changes or step.name].column
        session.add(
            OperationStep(
                operation_id=operation.id,
                name=step.name,
                position=position,
                state=StepState.PENDING,
                attempts=0,
                resource_id=getattr(agent, column) if undoing and column else None,
            )
        )
    record(session, operation, EventName.OPERATION_QUEUED, kind=kind, takeover=takeover)
    return operation


def plan_of(operation: Operation, steps: Iterable[OperationStep]) -> Plan:
    """Say what is left to publish; finished steps are left out, so publishing again at any time is safe."""
    finished = StepState.DONE if operation.direction is Direction.DO else StepState.UNDONE
    left = {row.name for row in steps if row.state is not finished}
    names = tuple(step.name for step in steps_towards(operation.direction) if step.name in left)
    return Plan(operation.id, operation.epoch, operation.kind, operation.direction, names)


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

    Steps that never wrote anything count as undone at once; a live lease stays, so that undo waits for its holder.
    """
    operation.move_to(OperationStatus.ROLLING_BACK)
    operation.epoch += 1
    operation.error_code, operation.error_detail = code, detail
    operation.wake_at = now + HINT_GRACE
    operation.idle_kicks = 0
    agent.move_to(PhoneStatus.ROLLING_BACK)
    record(session, operation, EventName.OPERATION_TURNED, code=code, reason=detail)
    for row in steps:
        touched = row.resource_id or row.intent or row.state is StepState.RUNNING
        if not touched or not STEP_BY_NAME[row.name].undo:
            row.state, row.lease_token, row.lease_until, row.intent = StepState.UNDONE, None, None, None
        row.attempts = 0
    finish_if_undone(session, operation, agent, steps, now)


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
    agent.move_to(phone)
    agent.twilio_phone_number = agent.twilio_phone_number_sid = agent.previous_routing = None
    return True


def finish_if_done(
    session: Session, operation: Operation, agent: Agent, steps: Iterable[OperationStep], now: datetime
) -> bool:
    """End a provisioning once every step is done."""
    if any(row.state is not StepState.DONE for row in steps):
        return False
    _close(session, operation, OperationStatus.SUCCEEDED, now, EventName.OPERATION_SUCCEEDED)
    operation.error_code = operation.error_detail = None
    agent.move_to(PhoneStatus.PROVISIONED)
    return True


def _close(session: Session, operation: Operation, end: OperationStatus, now: datetime, event: EventName) -> None:
    resting = OperationStatus.RUNNING if operation.kind is OperationKind.DEPROVISION else OperationStatus.ROLLING_BACK
    if operation.status is OperationStatus.NEEDS_ATTENTION:
        operation.move_to(resting)
    operation.move_to(end)
    operation.finished_at, operation.wake_at = now, None
    record(session, operation, event, code=operation.error_code)
