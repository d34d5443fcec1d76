"""The way down: one named task per step, and the chain of them."""

from celery import Task, chain
from celery.canvas import Signature

from app.domain.statuses import Direction, OperationKind
from app.provisioning.steps import steps_towards
from app.provisioning.transitions import Plan
from tasks import app, rollback
from tasks.worker import TurnedRoundError, carry


def _step_task(name: str) -> Task:
    def run(self: Task, operation_id: str, epoch: int) -> None:
        carry(self, operation_id, epoch, name, Direction.DO)

    return app.task(run, bind=True, throws=(TurnedRoundError,), name=f"provision.{name}", max_retries=None)


TASKS = {step.name: _step_task(step.name) for step in steps_towards(Direction.DO)}


def chain_of(plan: Plan) -> Signature:
    """Build the chain of what is left to do; ids only, so that it may be published at any time by anybody."""
    tasks = TASKS
    if plan.direction is Direction.UNDO:
        tasks = rollback.DEPROVISION_TASKS if plan.kind is OperationKind.DEPROVISION else rollback.ROLLBACK_TASKS
    steps = [tasks[name].si(str(plan.operation_id), plan.epoch) for name in plan.steps]
    return chain(*steps).on_error(rollback.begin.s(str(plan.operation_id)))
