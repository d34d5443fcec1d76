"""Opens an operation with its steps, in a transaction that holds the agent's lock; a provisioning is `service`'s."""

import uuid
from collections.abc import Iterator
from datetime import datetime

from sqlalchemy.orm import Session

from app.db.models import Agent, Operation, OperationStep
from app.domain.events import Action, EventName, Origin
from app.domain.statuses import OperationKind, OperationStatus, StepState
from app.saga.chain_plan import hint_grace
from app.saga.steps import STEP_BY_NAME, STEPS
from app.saga.transitions import record_request

_ACTIONS = {
    OperationKind.DEPROVISION: Action.DEPROVISION,
    OperationKind.REPAIR: Action.REPAIR,
    OperationKind.MOVE: Action.MOVE,
}
"""Kind of an operation -> what whoever asked for it has asked."""


def open_operation(
    session: Session,
    agent: Agent,
    kind: OperationKind,
    number: str,
    now: datetime,
    origin: Origin,
    *,
    takeover: bool = False,
    target: Agent | None = None,
    only: frozenset[str] | None = None,
    bulk_id: uuid.UUID | None = None,
) -> Operation:
    """Insert an operation with its steps; the partial unique index refuses a second open one.

    `only` names the steps that a repair or a move works on: the others count as done.
    """
    operation = Operation(
        id=uuid.uuid4(),
        agent_id=agent.id,
        kind=kind,
        phone_number=number,
        target_agent_id=target.id if target else None,
        takeover=takeover,
        status=OperationStatus.QUEUED,
        epoch=0,
        bulk_id=bulk_id,
        requested_by=origin.requested_by,
        request_id=origin.request_id,
        traceparent=origin.traceparent,
    )
    operation.wake_at = now + hint_grace(operation)
    session.add(operation)
    session.flush()
    session.add_all(_steps_of(operation, agent, only))
    action, detail = _ACTIONS[kind], {"to_agent_id": str(target.id)} if target else {}
    record_request(
        session, operation, EventName.OPERATION_QUEUED, action, origin, kind=kind, takeover=takeover, **detail
    )
    return operation


def _steps_of(operation: Operation, agent: Agent, only: frozenset[str] | None) -> Iterator[OperationStep]:
    for position, step in enumerate(STEPS):
        if operation.kind is OperationKind.DEPROVISION and not step.undo:
            continue
        column = STEP_BY_NAME[step.changes or step.name].column
        stands = operation.kind is not OperationKind.PROVISION and column is not None
        yield OperationStep(
            operation_id=operation.id,
            name=step.name,
            position=position,
            state=StepState.PENDING if only is None or step.name in only else StepState.DONE,
            attempts=0,
            resource_id=getattr(agent, column) if stands and column else None,
        )
