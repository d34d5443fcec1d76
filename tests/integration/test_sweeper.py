"""The sweeper republishes operations whose message was lost: once each, with growing pauses, through outages."""

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import func, update

from app.db.engine import make_engine, make_sessions
from app.db.models import Operation
from app.dev.localstack.servers import PostgresServer
from app.domain.errors import ErrorCode
from app.domain.operations import NUMBER, Direction, OperationStatus, PhoneStatus
from app.providers.errors import RejectedError
from app.sweeper import ACCOUNTS_INTERVAL_S, BATCH, MOVING, PURGE_INTERVAL_S, Sweeper
from tests.support.saga import DO_CALL, E164, ORIGIN, TRUNK, UNDO_CALL, Saga, wire
from tests.support.servers import nested_loops_only

DEADLINE_S = 60.0
FOREVER = 10**6


def make_due(saga: Saga, *operation_ids: uuid.UUID) -> None:
    with saga.sessions.begin() as session:
        due = update(Operation).where(Operation.id.in_(operation_ids))
        session.execute(due.values(wake_at=func.clock_timestamp() - timedelta(seconds=1)))


def many(saga: Saga, count: int) -> list[uuid.UUID]:
    """Open that many operations, all due."""
    found = [saga.provision(e164=f"+1514556{n:04}") for n in range(count)]
    make_due(saga, *found)
    saga.publisher.plans.clear()
    return found


def test_what_is_not_due_is_left_alone(saga: Saga) -> None:
    saga.provision()
    assert saga.sweeper.sweep() == 0
    assert len(saga.publisher.plans) == 1


def test_a_lost_message_costs_one_sweep(saga: Saga, number_sid: str) -> None:
    saga.publisher.accepts = False
    operation_id = saga.provision()
    saga.publisher.accepts = True
    make_due(saga, operation_id)
    assert saga.sweeper.sweep() == 1
    saga.run_chain(saga.publisher.plans[-1])
    saga.assert_provisioned(saga.snapshot(operation_id).agent.id, number_sid)


def begin(saga: Saga, operation_id: uuid.UUID) -> None:
    saga.runner.run_step(operation_id, 0, NUMBER, Direction.DO)
    assert saga.status(operation_id) is OperationStatus.RUNNING


def test_an_operation_that_waits_in_a_moving_queue_is_not_republished(saga: Saga) -> None:
    saga.world.carrier.own_number("+15145560000")
    running, waiting = (saga.provision(e164=f"+1514556000{number}") for number in range(2))
    begin(saga, running)
    make_due(saga, waiting)
    assert saga.sweeper.sweep() == 0

    with saga.sessions.begin() as session:
        session.execute(update(Operation).where(Operation.id == running).values(started_at=func.now() - MOVING))
    assert saga.sweeper.sweep() == 1


def test_an_operation_that_a_later_one_overtook_is_republished(saga: Saga) -> None:
    saga.world.carrier.own_number("+15145560001")
    lost, running = (saga.provision(e164=f"+1514556000{number}") for number in range(2))
    begin(saga, running)
    make_due(saga, lost)
    assert saga.sweeper.sweep() == 1
    assert saga.publisher.plans[-1].operation_id == lost


def test_two_sweepers_publish_each_operation_once(saga: Saga) -> None:
    operations = many(saga, BATCH + 30)
    gate = threading.Barrier(2)

    def sweep() -> int:
        gate.wait(DEADLINE_S)
        return saga.sweeper.sweep()

    with ThreadPoolExecutor(2) as pool:
        taken = [future.result(DEADLINE_S) for future in [pool.submit(sweep), pool.submit(sweep)]]
    published = [plan.operation_id for plan in saga.publisher.plans]
    assert sum(taken) == len(published) == len(set(published))
    saga.sweeper.sweep()
    assert sorted(plan.operation_id for plan in saga.publisher.plans) == sorted(operations)


@pytest.mark.parametrize("joins", ["any", "nested loops only"])
def test_one_pass_takes_a_batch_the_longest_due_first(saga: Saga, joins: str) -> None:
    """However PostgreSQL plans it."""
    operations = many(saga, BATCH + 3)
    with saga.sessions.begin() as session:
        longest = update(Operation).where(Operation.id.in_(operations[3:]))
        session.execute(longest.values(wake_at=func.clock_timestamp() - timedelta(hours=1)))
    with nested_loops_only(saga.sessions) if joins == "nested loops only" else nullcontext():
        assert saga.sweeper.sweep() == BATCH
    assert not set(operations[:3]) & {plan.operation_id for plan in saga.publisher.plans}


def test_a_sweeper_does_not_wait_for_a_locked_operation(saga: Saga) -> None:
    held, free = many(saga, 2)
    with saga.sessions.begin() as session:
        session.get_one(Operation, held, with_for_update=True)
        assert saga.sweeper.sweep() == 1
    assert [plan.operation_id for plan in saga.publisher.plans] == [free]


def test_an_operation_without_progress_is_republished_after_growing_pauses(saga: Saga) -> None:
    operation_id = saga.provision()
    pauses = []
    for _ in range(5):
        make_due(saga, operation_id)
        saga.sweeper.sweep()
        snapshot = saga.snapshot(operation_id)
        assert snapshot.operation.wake_at is not None
        pauses.append(round((snapshot.operation.wake_at - snapshot.now).total_seconds()))
    assert pauses == [5, 10, 20, 30, 30]
    assert saga.snapshot(operation_id).operation.idle_kicks == 5


def test_the_pause_stays_at_its_cap_after_months(saga: Saga) -> None:
    operation_id = saga.provision()
    with saga.sessions.begin() as session:
        session.get_one(Operation, operation_id).idle_kicks = 1_000_000
    make_due(saga, operation_id)
    assert saga.sweeper.sweep() == 1
    snapshot = saga.snapshot(operation_id)
    assert snapshot.operation.wake_at is not None
    assert snapshot.operation.wake_at - snapshot.now <= timedelta(seconds=30)


def test_progress_resets_the_pause(saga: Saga, number_sid: str) -> None:
    operation_id = saga.provision()
    for _ in range(3):
        make_due(saga, operation_id)
        saga.sweeper.sweep()
    saga.advance(operation_id, until=TRUNK)
    assert saga.snapshot(operation_id).operation.idle_kicks == 0


@pytest.mark.parametrize("end", [OperationStatus.SUCCEEDED, OperationStatus.FAILED, OperationStatus.CANCELLED])
def test_an_ended_operation_is_never_published(saga: Saga, number_sid: str, end: OperationStatus) -> None:
    operation_id = saga.provision()
    if end is OperationStatus.FAILED:
        saga.world.log.plan(DO_CALL[TRUNK], before=RejectedError(ErrorCode.TWILIO_REJECTED, "No."))
    if end is OperationStatus.CANCELLED:
        saga.deprovision(saga.snapshot(operation_id).agent.id)
    saga.drive(operation_id)
    assert saga.snapshot(operation_id).operation.status is end
    assert saga.snapshot(operation_id).operation.wake_at is None
    make_due(saga, operation_id)
    saga.publisher.plans.clear()
    assert saga.sweeper.sweep() == 0
    assert saga.publisher.plans == []


def test_what_needs_attention_is_republished_without_limit(saga: Saga, number_sid: str) -> None:
    operation_id = saga.deprovision(saga.provisioned())
    saga.world.log.plan(UNDO_CALL[TRUNK], before=RejectedError(ErrorCode.TWILIO_REJECTED, "No."), times=FOREVER)
    saga.drive_until(operation_id, OperationStatus.NEEDS_ATTENTION)
    saga.world.log.heal()
    saga.expire_leases(operation_id)
    make_due(saga, operation_id)
    assert saga.sweeper.sweep() == 1
    saga.run_chain(saga.publisher.plans[-1])
    saga.assert_clean(saga.snapshot(operation_id).agent.id, PhoneStatus.NOT_PROVISIONED)


def test_a_broker_that_accepts_nothing_does_not_stop_the_sweep(saga: Saga) -> None:
    operations = many(saga, 3)
    saga.publisher.accepts = False
    assert saga.sweeper.sweep() == 3
    assert {plan.operation_id for plan in saga.publisher.plans} == set(operations)


class StoppedAfter(threading.Event):
    """A stop event that is set after some passes, and runs a function at each pause."""

    def __init__(self, *pauses: object) -> None:
        super().__init__()
        self._pauses = list(pauses)

    def wait(self, timeout: float | None = None) -> bool:
        if self._pauses:
            self._pauses.pop(0)()  # type: ignore[operator]
        if not self._pauses:
            self.set()
        return self.is_set()


def test_expired_rows_are_purged_at_the_start_and_each_hour(saga: Saga) -> None:
    purged: list[float] = []

    def purge() -> int:
        purged.append(saga.clock.now)
        return 0

    sweeper = replace(saga.sweeper, purges=(purge,), clock=saga.clock)
    start = saga.clock.now
    sweeper.run(StoppedAfter(*[lambda: saga.clock.sleep(PURGE_INTERVAL_S / 4)] * 9))
    assert purged == [start, start + PURGE_INTERVAL_S, start + 2 * PURGE_INTERVAL_S]


def test_the_sweeper_outlives_an_outage_of_the_database(own_postgres: PostgresServer) -> None:
    engine = make_engine(own_postgres.url())
    saga = wire(make_sessions(engine))
    operation_id = saga.service.provision(saga.agent(), E164, takeover=False, origin=ORIGIN).id
    make_due(saga, operation_id)
    saga.publisher.plans.clear()
    own_postgres.kill()
    old = saga.sweeper
    sweeper = Sweeper(saga.sessions, saga.service, old.audits, old.dispatcher, old.deliveries, old.calls, old.retiring)
    sweeper.run(StoppedAfter(lambda: None, own_postgres.start, lambda: None))
    assert [plan.operation_id for plan in saga.publisher.plans] == [operation_id]
    engine.dispose()


def test_a_provider_that_does_not_respond_holds_up_no_sweep_and_is_asked_once_at_a_time(saga: Saga) -> None:
    begun, let_go, ended = threading.Semaphore(0), threading.Event(), threading.Event()

    def recheck() -> int:
        begun.release()
        assert let_go.wait(DEADLINE_S)
        ended.set()
        return 0

    operation_id = saga.provision()
    saga.publisher.plans.clear()
    sweeper = replace(saga.sweeper, recheck_accounts=recheck, clock=saga.clock)

    def later() -> None:
        assert begun.acquire(timeout=DEADLINE_S)
        saga.clock.sleep(2 * ACCOUNTS_INTERVAL_S)
        make_due(saga, operation_id)

    sweeper.run(StoppedAfter(later, lambda: saga.clock.sleep(2 * ACCOUNTS_INTERVAL_S), lambda: None))
    assert [plan.operation_id for plan in saga.publisher.plans] == [operation_id]
    assert not begun.acquire(blocking=False)
    let_go.set()
    assert ended.wait(DEADLINE_S)
