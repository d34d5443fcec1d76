"""A worker process's wiring, and how the runner's verdict on a step is told to Celery."""

import threading
import uuid
from functools import cache

from celery import Task
from celery.signals import setup_logging, worker_shutdown

from app.domain.statuses import Direction
from app.observability.logs import configure
from app.saga.machine import Verdict
from app.settings import load_settings
from app.wiring import Wiring, build

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
    if outcome.verdict is not Verdict.DONE:
        # Not `Ignore`: for that Celery copies the whole traceback, and Flower shows the task as started for ever.
        task.request.chain = None
    return outcome.verdict.value


@setup_logging.connect
def _configure_logging(**_: object) -> None:
    configure(load_settings().log_format)


@worker_shutdown.connect
def _close(**_: object) -> None:
    if _wiring.cache_info().currsize:
        wiring().close()
