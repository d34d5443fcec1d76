"""Tasks that provision, repair and move: one per step, and the chain that they form."""

from celery import Task, chain, group
from celery.canvas import Signature

from app.domain.kinds import KINDS
from app.domain.statuses import Direction, OperationKind
from app.domain.steps import NUMBER, branches
from app.saga.chain_plan import Plan
from tasks import app, rollback
from tasks.worker import RollingBackError, run_step


def _step_task(kind: OperationKind, name: str) -> Task:
    def run(self: Task, operation_id: str, epoch: int) -> str:
        return run_step(self, operation_id, epoch, name, Direction.DO)

    return app.task(run, bind=True, throws=(RollingBackError,), name=f"{kind}.{name}", max_retries=None)


TASKS = {
    (kind, step.name): _step_task(kind, step.name)
    for kind, rules in KINDS.items()
    if rules.starts is Direction.DO
    for step in rules.steps
}


BULK_QUEUE = "bulk"
"""The queue of a bulk's steps, all but its undos; workers read it only while `provision` is empty."""

FIRST_STEP_PRIORITY = 3
"""Priority of the first step's message. All others have 0, the highest; kombu knows 0, 3, 6 and 9 on Redis.

So operations that have begun are finished before others begin. With first in, first out alone, each operation of a long
queue waited for all others between two steps, the sweeper took its message for lost, and a queue of 200 grew to 3,600
messages (measured with 16 threads).
"""


def chain_of(plan: Plan) -> Signature:
    """Build the chain of what is left to do. Its arguments are ids only, so publishing it again at any time is safe.

    The Twilio branch and the LiveKit branch run side by side, and both end in the steps that need both. The branch that
    is done first stops there and the other goes on; the rows decide which, so no result backend has to count.
    """
    if plan.direction is Direction.UNDO:
        return _line(plan, plan.steps)
    first, *lines = branches(plan.steps)
    if len(lines) == 1:
        return _line(plan, (*first, *lines[0]))
    fork = group(_line(plan, line) for line in lines)
    return chain(_line(plan, first), fork) if first else fork


def _line(plan: Plan, names: tuple[str, ...]) -> Signature:
    is_do = plan.direction is Direction.DO
    tasks = [TASKS[plan.kind, name] if is_do else rollback.task_of(plan.kind, name) for name in names]
    steps = [task.si(str(plan.operation_id), plan.epoch) for task in tasks]
    if is_do and names[0] == NUMBER:
        steps[0].set(priority=FIRST_STEP_PRIORITY)
    if is_do and plan.is_bulk:
        steps = [step.set(queue=BULK_QUEUE) for step in steps]
    return chain(*steps).on_error(rollback.start_rollback.s(str(plan.operation_id)))
