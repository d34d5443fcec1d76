"""Tasks that undo: one per step for rollback and for deprovisioning, and the error callback of every chain."""

import uuid

import structlog
from celery import Task

from app.domain.statuses import Direction, OperationKind
from app.domain.steps import steps_towards
from tasks import app
from tasks.worker import RollingBackError, run_step, wiring

log = structlog.get_logger(__name__)


def _undo_task(prefix: str, name: str) -> Task:
    def run(self: Task, operation_id: str, epoch: int) -> str:
        return run_step(self, operation_id, epoch, name, Direction.UNDO)

    return app.task(run, bind=True, throws=(RollingBackError,), name=f"{prefix}.{name}", max_retries=None)


ROLLBACK_TASKS = {step.name: _undo_task("rollback", step.name) for step in steps_towards(Direction.UNDO)}
DEPROVISION_TASKS = {step.name: _undo_task("deprovision", step.name) for step in steps_towards(Direction.UNDO)}


def task_of(kind: OperationKind, name: str) -> Task:
    """Return the task that undoes a step: `deprovision.*` where that was asked for, `rollback.*` after a failure."""
    return DEPROVISION_TASKS[name] if kind is OperationKind.DEPROVISION else ROLLBACK_TASKS[name]


@app.task(name="rollback.begin")
def start_rollback(_request: object, error: object, _traceback: object, operation_id: str) -> None:
    """Publish what the operation's rows say is next, whether Celery calls this never, once or twice.

    The step has already stored the failure. Without this callback the sweeper would publish it, a second later.
    """
    log.info("chain_failed", operation_id=operation_id, error=type(error).__name__)
    wiring().provisioning.republish(uuid.UUID(operation_id))
