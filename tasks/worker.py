"""What a worker process holds, and how the verdict on a step becomes what Celery understands."""

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
"""Seconds: a longer rest is left to the sweeper, since a waiting message sits unacknowledged in a worker's memory."""

_building = threading.Lock()


class TurnedRoundError(Exception):
    """The operation is on its way back; the chain's error callback publishes that way."""


@cache
def _wiring() -> Wiring:
    return build(load_settings())


def wiring() -> Wiring:
    """Return the process's wiring, built at first use: after any fork, and once for all threads."""
    with _building:
        return _wiring()


def carry(task: Task, operation_id: str, epoch: int, step: str, direction: Direction) -> str:
    """Run one step once; retry, end the chain in silence or fail it, as the runner says. Return what Flower shows."""
    outcome = wiring().runner.run_step(uuid.UUID(operation_id), epoch, step, direction)
    rest_s = outcome.rest.total_seconds()
    if outcome.verdict is Verdict.ROLLING_BACK:
        raise TurnedRoundError(f"{step}: operation {operation_id} goes back")
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
