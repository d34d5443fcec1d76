"""The steps of an operation that are still to be published; tasks build the Celery chain from them."""

import uuid
from dataclasses import dataclass

from app.domain.operations import Direction, OperationKind
from app.saga.state import Saga


@dataclass(frozen=True)
class Plan:
    """The steps of an operation that are not yet finished, in order."""

    operation_id: uuid.UUID
    epoch: int
    kind: OperationKind
    direction: Direction
    steps: tuple[str, ...]
    is_bulk: bool = False
    """Whether it waits in the bulk queue, behind the operations of single requests."""


def plan_of(saga: Saga) -> Plan:
    """Plan the unfinished steps; finished ones are left out, so publishing again at any time is safe."""
    operation = saga.operation
    is_bulk = operation.bulk_id is not None
    return Plan(operation.id, operation.epoch, operation.kind, operation.direction, saga.left, is_bulk)
