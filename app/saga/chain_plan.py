"""What is left to publish of an operation: a plan, from which tasks build the chain."""

import uuid
from dataclasses import dataclass

from app.domain.statuses import Direction, OperationKind
from app.saga.machine import Saga


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


def plan_of(saga: Saga) -> Plan:
    """Say what is left to publish; finished steps are left out, so publishing again at any time is safe."""
    operation = saga.operation
    is_bulk = operation.bulk_id is not None
    return Plan(operation.id, operation.epoch, operation.kind, operation.direction, saga.left, is_bulk)
