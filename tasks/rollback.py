"""The way up: the error callback, and one named task per step for rollback and for deprovisioning."""

import uuid

import structlog
from celery import Task

from app.domain.statuses import Direction, OperationKind
from app.domain.steps import steps_towards
from tasks import app
from tasks.worker import TurnedRoundError, carry, wiring

log = structlog.get_logger(__name__)


def _undo_task(prefix: str, name: str) -> Task:
    def run(self: Task, operation_id: str, epoch: int) -> str:
        return carry(self, operation_id, epoch, name, Direction.UNDO)

    return app.task(run, bind=True, throws=(TurnedRoundError,), name=f"{prefix}.{name}", max_retries=None)


ROLLBACK_TASKS = {step.name: _undo_task("rollback", step.name) for step in steps_towards(Direction.UNDO)}
DEPROVISION_TASKS = {step.name: _undo_task("deprovision", step.name) for step in steps_towards(Direction.UNDO)}


def task_of(kind: OperationKind, name: str) -> Task:
    """Return the task that undoes a step: under its own name where taking the path down is what was asked for."""
    return DEPROVISION_TASKS[name] if kind is OperationKind.DEPROVISION else ROLLBACK_TASKS[name]


@app.task(name="rollback.begin")
def begin(_request: object, error: object, _traceback: object, operation_id: str) -> None:
    """Publish what the row says is next; called none, once or twice by Celery, and right each time.

    The step has already decided and written the failure: this callback only saves the sweeper's second.
    """
    log.info("chain_failed", operation_id=operation_id, error=type(error).__name__)
    wiring().provisioning.republish(uuid.UUID(operation_id))
