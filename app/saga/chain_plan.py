"""What is left to publish of an operation, and how long its message may take before the sweep takes it for lost."""

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from app.db.models import Operation, OperationStep
from app.domain.statuses import Direction, OperationKind, OperationStatus, StepState, direction_of
from app.saga.steps import steps_towards


@dataclass(frozen=True)
class Plan:
    """What to publish for an operation now: the steps not yet finished, in their order."""

    operation_id: uuid.UUID
    epoch: int
    kind: OperationKind
    direction: Direction
    steps: tuple[str, ...]
    is_bulk: bool = False
    """Whether it stands behind the operations of single requests."""


def plan_of(operation: Operation, steps: Iterable[OperationStep]) -> Plan:
    """Say what is left to publish; finished steps are left out, so publishing again at any time is safe."""
    states = {row.name: row.state for row in steps}
    is_bulk = operation.bulk_id is not None
    return plan_from(operation.id, operation.epoch, operation.kind, operation.status, states, is_bulk=is_bulk)


def plan_from(
    operation_id: uuid.UUID,
    epoch: int,
    kind: OperationKind,
    status: OperationStatus,
    states: Mapping[str, StepState],
    *,
    is_bulk: bool,
) -> Plan:
    """Say the same of an operation whose columns were read and whose steps stand so."""
    direction = direction_of(kind, status)
    finished = StepState.DONE if direction is Direction.DO else StepState.UNDONE
    left = {name for name, state in states.items() if state is not finished}
    names = tuple(step.name for step in steps_towards(direction) if step.name in left)
    return Plan(operation_id, epoch, kind, direction, names, is_bulk)


HINT_GRACE = timedelta(seconds=5)
"""How long the message for the next step may take before the sweep takes it for lost: far above a queue's delay."""

BULK_HINT_GRACE = timedelta(seconds=30)
"""The same for a bulk: its messages wait behind each other. 200 operations at 20 provider calls a second, some eight
messages each, put 8 s between two steps; publishing what merely waits would double the queue."""


def hint_grace(operation: Operation) -> timedelta:
    """Return how long a message for this operation may take."""
    return HINT_GRACE if operation.bulk_id is None else BULK_HINT_GRACE
