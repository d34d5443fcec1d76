"""The way down: one named task per step, and the chain of them."""

from celery import Task, chain, group
from celery.canvas import Signature

from app.domain.kinds import KINDS
from app.domain.statuses import Direction, OperationKind
from app.domain.steps import NUMBER, branches
from app.saga.chain_plan import Plan
from tasks import app, rollback
from tasks.worker import TurnedRoundError, carry


def _step_task(kind: OperationKind, name: str) -> Task:
    def run(self: Task, operation_id: str, epoch: int) -> str:
        return carry(self, operation_id, epoch, name, Direction.DO)

    return app.task(run, bind=True, throws=(TurnedRoundError,), name=f"{kind}.{name}", max_retries=None)


TASKS = {
    (kind, step.name): _step_task(kind, step.name)
    for kind, rules in KINDS.items()
    if rules.starts is Direction.DO
    for step in rules.steps
}


BULK_QUEUE = "bulk"
"""Where the way down of a bulk's operations waits; workers read it only while `provision` is empty."""

LAST_IN_LINE = 3
"""Priority of the first step's message (0, that of every other, is the highest; kombu knows 0, 3, 6 and 9 on Redis).

What has begun goes on before anything new begins. First in, first out alone, all of a long queue's operations advance
in step, each waits for all others between two steps, and the sweeper takes their messages for lost: a queue of 200
grew to 3,600 messages.
"""


def chain_of(plan: Plan) -> Signature:
    """Build the chain of what is left to do; ids only, so that it may be published at any time by anybody.

    On the way down the Twilio branch and the LiveKit branch run side by side, and each leads to the steps that wait for
    both: the one that is done first ends there, the other goes on. The rows decide which, so that no result backend has
    to count.
    """
    if plan.direction is Direction.UNDO:
        return _line(plan, plan.steps)
    first, *lines = branches(plan.steps)
    if len(lines) == 1:
        return _line(plan, (*first, *lines[0]))
    fork = group(_line(plan, line) for line in lines)
    return chain(_line(plan, first), fork) if first else fork


def _line(plan: Plan, names: tuple[str, ...]) -> Signature:
    down = plan.direction is Direction.DO
    tasks = [TASKS[plan.kind, name] if down else rollback.task_of(plan.kind, name) for name in names]
    steps = [task.si(str(plan.operation_id), plan.epoch) for task in tasks]
    if down and names[0] == NUMBER:
        steps[0].set(priority=LAST_IN_LINE)
    if down and plan.is_bulk:
        steps = [step.set(queue=BULK_QUEUE) for step in steps]
    return chain(*steps).on_error(rollback.begin.s(str(plan.operation_id)))
