"""The tasks of steps, one for each step and way, and the chain that they form; what a worker process holds for them."""

import threading
import uuid
from functools import cache

import structlog
from celery import Task, chain, group
from celery.canvas import Signature
from celery.signals import setup_logging, worker_shutdown

from app.domain.operations import KINDS, NUMBER, Direction, OperationKind, branches, steps_towards
from app.observability.logs import configure
from app.saga.chain_plan import Plan
from app.saga.state import Verdict
from app.settings import load_settings
from app.wiring import Wiring, build
from tasks import app

log = structlog.get_logger(__name__)

LONGEST_COUNTDOWN_S = 60.0
"""Seconds. A longer rest is left to the sweeper: until a retry is due, the worker holds its message unacknowledged."""

_building = threading.Lock()


class RollingBackError(Exception):
    """The operation is rolling back: this chain ends here, and its error callback publishes the rollback."""


@cache
def _wiring() -> Wiring:
    return build(load_settings())


def wiring() -> Wiring:
    """Return the process's wiring, built at first use: after any fork, and once for all threads."""
    with _building:
        return _wiring()


def run_step(task: Task, operation_id: str, epoch: int, step: str, direction: Direction) -> str:
    """Run one step once, then go on, retry, end the chain without an error or fail it, as the runner says.

    Return the verdict's name, which Flower shows. Raise `RollingBackError` where the operation rolls back, and Celery's
    `Retry` where the step is to be tried again within `LONGEST_COUNTDOWN_S`.
    """
    outcome = wiring().runner.run_step(uuid.UUID(operation_id), epoch, step, direction)
    rest_s = outcome.rest.total_seconds()
    if outcome.verdict is Verdict.ROLLING_BACK:
        raise RollingBackError(f"{step}: operation {operation_id} rolls back")
    if outcome.verdict in {Verdict.RESTS, Verdict.ATTENTION} and rest_s <= LONGEST_COUNTDOWN_S:
        raise task.retry(countdown=rest_s)
    if outcome.shortcut is not None:
        wiring().publisher.publish(outcome.shortcut)
    if outcome.verdict is not Verdict.DONE or outcome.shortcut is not None:
        # Not `Ignore`: for that Celery copies the whole traceback, and Flower shows the task as started for ever.
        task.request.chain = None
    return outcome.verdict.value


def _undo_task(prefix: str, name: str) -> Task:
    def run(self: Task, operation_id: str, epoch: int) -> str:
        return run_step(self, operation_id, epoch, name, Direction.UNDO)

    return app.task(run, bind=True, throws=(RollingBackError,), name=f"{prefix}.{name}", max_retries=None)


ROLLBACK_TASKS = {step.name: _undo_task("rollback", step.name) for step in steps_towards(Direction.UNDO)}
DEPROVISION_TASKS = {step.name: _undo_task("deprovision", step.name) for step in steps_towards(Direction.UNDO)}


def undo_task_of(kind: OperationKind, name: str) -> Task:
    """Return the task that undoes a step: `deprovision.*` where that was asked for, `rollback.*` after a failure."""
    return DEPROVISION_TASKS[name] if kind is OperationKind.DEPROVISION else ROLLBACK_TASKS[name]


@app.task(name="rollback.begin")
def start_rollback(_request: object, error: object, _traceback: object, operation_id: str) -> None:
    """Publish what the operation's rows say is next, whether Celery calls this never, once or twice.

    The step has already stored the failure. Without this callback the sweeper would publish it, a second later.
    """
    log.info("chain_failed", operation_id=operation_id, error=type(error).__name__)
    wiring().provisioning.republish(uuid.UUID(operation_id))


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
    tasks = [TASKS[plan.kind, name] if is_do else undo_task_of(plan.kind, name) for name in names]
    steps = [task.si(str(plan.operation_id), plan.epoch) for task in tasks]
    if is_do and names[0] == NUMBER:
        steps[0].set(priority=FIRST_STEP_PRIORITY)
    if is_do and plan.is_bulk:
        steps = [step.set(queue=BULK_QUEUE) for step in steps]
    return chain(*steps).on_error(start_rollback.s(str(plan.operation_id)))


@setup_logging.connect
def _configure_logging(**_: object) -> None:
    configure(load_settings().log_format)


@worker_shutdown.connect
def _close(**_: object) -> None:
    if _wiring.cache_info().currsize:
        wiring().close()
