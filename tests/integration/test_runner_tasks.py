"""What a task tells Celery about the runner's verdict, and what the error callback and the ops task do."""

import uuid
from dataclasses import dataclass, field
from datetime import timedelta
from types import ModuleType

import pytest
from celery import Celery
from celery.exceptions import Retry

from app.domain.operations import TRUNK, Direction, OperationStatus
from app.numbers.service import ProvisioningService
from app.saga.runner import Outcome, Runner
from app.saga.state import Verdict
from tests.support.saga import Saga


@dataclass
class FixedRunner:
    """Always ends the same way, and remembers what it was asked."""

    outcome: Outcome
    asked: list[tuple[uuid.UUID, int, str, Direction]] = field(default_factory=list)

    def run_step(self, operation_id: uuid.UUID, epoch: int, step_name: str, direction: Direction) -> Outcome:
        self.asked.append((operation_id, epoch, step_name, direction))
        return self.outcome


@dataclass
class Process:
    """The part of a process's wiring that tasks use."""

    runner: FixedRunner | Runner
    provisioning: ProvisioningService | None = None


OPERATION = uuid.uuid4()


@pytest.fixture
def worker(celery_app: Celery) -> ModuleType:
    import tasks.steps  # noqa: PLC0415  # reads the settings

    return tasks.steps


def in_process(monkeypatch: pytest.MonkeyPatch, worker: ModuleType, outcome: Outcome) -> FixedRunner:
    runner = FixedRunner(outcome)
    monkeypatch.setattr(worker, "_wiring", lambda: Process(runner))
    return runner


@pytest.mark.parametrize(
    ("task", "step", "direction"),
    [
        ("provision.twilio_trunk", TRUNK, Direction.DO),
        ("rollback.twilio_trunk", TRUNK, Direction.UNDO),
        ("deprovision.twilio_trunk", TRUNK, Direction.UNDO),
    ],
)
def test_a_task_runs_its_own_step_in_its_own_direction(
    celery_app: Celery, worker: ModuleType, monkeypatch: pytest.MonkeyPatch, task: str, step: str, direction: Direction
) -> None:
    runner = in_process(monkeypatch, worker, Outcome(Verdict.DONE))
    celery_app.tasks[task](str(OPERATION), 3)
    assert runner.asked == [(OPERATION, 3, step, direction)]


def run_step(celery_app: Celery) -> tuple[str, list[str] | None]:
    """Run the task as part of a chain; return what Flower shows, and what is left of the chain."""
    task = celery_app.tasks["provision.twilio_trunk"]
    task.push_request(args=[str(OPERATION), 0], chain=["what comes next"], called_directly=False)
    try:
        return task.run(str(OPERATION), 0), task.request.chain
    finally:
        task.pop_request()


def test_a_step_that_is_finished_leads_to_the_next(
    celery_app: Celery, worker: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_process(monkeypatch, worker, Outcome(Verdict.DONE))
    assert run_step(celery_app) == ("done", ["what comes next"])


@pytest.mark.parametrize("verdict", [Verdict.STALE, Verdict.OTHER_BRANCH])
def test_a_step_that_is_not_ours_to_continue_ends_the_chain_in_silence(
    celery_app: Celery, worker: ModuleType, monkeypatch: pytest.MonkeyPatch, verdict: Verdict
) -> None:
    in_process(monkeypatch, worker, Outcome(verdict))
    assert run_step(celery_app) == (verdict.name.lower(), None)


def test_an_operation_that_turned_fails_the_chain_so_that_its_callback_runs(
    celery_app: Celery, worker: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_process(monkeypatch, worker, Outcome(Verdict.ROLLING_BACK))
    with pytest.raises(worker.RollingBackError, match="twilio_trunk"):
        run_step(celery_app)


def test_a_rest_is_a_retry_with_a_countdown(
    celery_app: Celery, worker: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_process(monkeypatch, worker, Outcome(Verdict.RESTS, timedelta(seconds=60)))
    task = celery_app.tasks["provision.twilio_trunk"]
    task.push_request(args=[str(OPERATION), 0], called_directly=False, is_eager=True, retries=1000)
    try:
        with pytest.raises(Retry) as caught:
            task.run(str(OPERATION), 0)
    finally:
        task.pop_request()
    assert caught.value.when == 60


def test_a_longer_rest_is_the_sweepers(celery_app: Celery, worker: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    in_process(monkeypatch, worker, Outcome(Verdict.RESTS, timedelta(seconds=61)))
    assert run_step(celery_app) == ("rests", None)


@pytest.mark.parametrize("times", [0, 1, 2])
def test_the_error_callback_may_run_any_number_of_times(
    celery_app: Celery, worker: ModuleType, monkeypatch: pytest.MonkeyPatch, saga: Saga, number_sid: str, times: int
) -> None:
    operation_id = saga.provision()
    saga.advance(operation_id, until=TRUNK)
    saga.deprovision(saga.snapshot(operation_id).agent.id)
    monkeypatch.setattr(worker, "_wiring", lambda: Process(saga.runner, saga.service))
    before = len(saga.publisher.plans)
    for _ in range(times):
        celery_app.tasks["rollback.begin"](None, RuntimeError("any"), None, str(operation_id))
    published = saga.publisher.plans[before:]
    assert [(plan.epoch, plan.direction) for plan in published] == [(1, Direction.UNDO)] * times
    for plan in published:
        saga.run_chain(plan)
    saga.drive(operation_id)
    assert saga.snapshot(operation_id).operation.status is OperationStatus.CANCELLED


def test_the_ops_task_publishes_an_open_operation_and_no_other(
    celery_app: Celery, worker: ModuleType, monkeypatch: pytest.MonkeyPatch, saga: Saga, number_sid: str
) -> None:
    monkeypatch.setattr(worker, "_wiring", lambda: Process(saga.runner, saga.service))
    operation_id = saga.provision()
    kick = celery_app.tasks["upkeep.kick"]
    kick(str(operation_id))
    assert len(saga.publisher.plans) == 2
    saga.run_chain(saga.publisher.plans[-1])
    kick(str(operation_id))
    assert len(saga.publisher.plans) == 2
