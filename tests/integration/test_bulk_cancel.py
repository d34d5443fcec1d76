"""Cancelling a bulk: what has called no provider ends at once, also under concurrent claims; the rest goes on."""

import threading
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select, text, update

from app.bulk import service as bulk_module
from app.bulk.items import read_items
from app.bulk.service import BulkService
from app.db.models import Agent, BulkItem, Operation
from app.domain.events import EventName
from app.domain.operations import NUMBER, BulkStatus, Direction, ItemStatus, OperationStatus, PhoneStatus
from app.saga.rows import Rows
from app.saga.state import Verdict
from app.views.option_schemas import read_options
from tests.support.providers import WorkerDiedError
from tests.support.saga import ORIGIN, Saga

DEADLINE_S = 60.0


def opened(saga: Saga, count: int) -> tuple[BulkService, uuid.UUID, list[uuid.UUID]]:
    """Accept a bulk of numbers that the account owns, and open an operation for each."""
    numbers = [f"+1514557{n:04}" for n in range(count)]
    for number in numbers:
        saga.world.carrier.own_number(number)
    bulks = BulkService(saga.sessions, saga.rows)
    raw = [{"agent": f"desk {number}", "phoneNumber": number} for number in numbers]
    bulk_id = bulks.accept(read_items(raw, read_options), origin=ORIGIN).id
    saga.sweeper.dispatcher.advance()
    return bulks, bulk_id, [item.operation_id for item in bulks.items(bulk_id) if item.operation_id]


def begin(saga: Saga, operation_id: uuid.UUID) -> None:
    assert saga.runner.run_step(operation_id, 0, NUMBER, Direction.DO).verdict is Verdict.DONE


def statuses(bulks: BulkService, bulk_id: uuid.UUID) -> Sequence[ItemStatus]:
    return [item.status for item in bulks.items(bulk_id)]


def wait_for_a_waiter(saga: Saga) -> None:
    """Return once some transaction waits for a lock that another holds."""
    waiting, until = text("SELECT count(*) FROM pg_locks WHERE NOT granted"), time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        with saga.sessions() as session:
            if session.scalar(waiting):
                return
    raise AssertionError("nobody waits")


def test_queued_items_are_cancelled_without_a_provider_call_and_the_rest_runs_to_its_end(saga: Saga) -> None:
    bulks, bulk_id, operations = opened(saga, 5)
    begin(saga, operations[0])
    saga.drive(operations[1])
    calls = len(saga.world.log.order)

    result = bulks.cancel(bulk_id)

    assert (result.cancelled_now, result.still_running, result.already_done) == (3, 1, 1)
    assert result.bulk.status is BulkStatus.CANCELLING
    assert statuses(bulks, bulk_id) == ["running", "succeeded", *["cancelled"] * 3]
    ended = saga.snapshot(operations[2])
    assert (ended.operation.status, ended.operation.started_at) == (OperationStatus.CANCELLED, None)
    assert ended.operation.finished_at is not None
    assert ended.operation.finished_at >= ended.operation.created_at
    assert ended.event_details(EventName.OPERATION_CANCELLED) == [{"code": "cancelled"}]
    assert (ended.agent.phone_provisioning_status, ended.agent.twilio_phone_number) == ("NOT_PROVISIONED", None)
    assert len(saga.world.log.order) == calls
    saga.drive(operations[0])
    saga.sweeper.dispatcher.advance()
    bulk = bulks.get(bulk_id)
    assert (bulk.status, bulk.succeeded, bulk.cancelled) == (BulkStatus.CANCELLED, 2, 3)


def test_of_a_hundred_numbers_of_which_one_has_started_ninety_nine_are_never_connected(saga: Saga) -> None:
    bulks, bulk_id, operations = opened(saga, 100)
    begin(saga, operations[0])
    calls = len(saga.world.log.order)

    result = bulks.cancel(bulk_id)
    outcomes = [saga.run_chain(plan) for plan in list(saga.publisher.plans) if plan.operation_id != operations[0]]

    assert (result.cancelled_now, result.still_running, result.already_done) == (99, 1, 0)
    assert {outcome.verdict for outcome in outcomes if outcome} == {Verdict.STALE}
    assert len(outcomes) == 99
    assert len(saga.world.log.order) == calls
    assert statuses(bulks, bulk_id) == ["running", *["cancelled"] * 99]


def test_messages_and_sweeps_of_cancelled_operations_do_nothing(saga: Saga) -> None:
    bulks, bulk_id, operations = opened(saga, 2)
    plans = list(saga.publisher.plans)
    bulks.cancel(bulk_id)
    with saga.sessions.begin() as session:
        due = session.scalars(select(Operation.wake_at)).all()

    outcomes = [saga.run_chain(plan) for plan in plans]

    assert due == [None, None]
    assert {outcome.verdict for outcome in outcomes if outcome} == {Verdict.STALE}
    assert saga.sweeper.sweep() == 0
    assert not any(saga.service.republish(operation_id) for operation_id in operations)
    assert saga.world.log.order == []
    assert {saga.status(operation_id) for operation_id in operations} == {OperationStatus.CANCELLED}


def test_a_second_cancel_changes_nothing(saga: Saga) -> None:
    bulks, bulk_id, operations = opened(saga, 3)
    begin(saga, operations[0])
    first = bulks.cancel(bulk_id)
    second = bulks.cancel(bulk_id)

    assert (second.cancelled_now, second.still_running, second.already_done) == (0, 1, 2)
    assert second.bulk.cancelled_at == first.bulk.cancelled_at
    assert [len(saga.snapshot(one).event_details(EventName.OPERATION_CANCELLED)) for one in operations] == [0, 1, 1]


def test_a_bulk_whose_items_have_all_started_is_not_called_cancelled(saga: Saga) -> None:
    bulks, bulk_id, operations = opened(saga, 1)
    begin(saga, operations[0])

    assert bulks.cancel(bulk_id).cancelled_now == 0
    saga.drive(operations[0])
    saga.sweeper.dispatcher.advance()
    assert bulks.get(bulk_id).status is BulkStatus.SUCCEEDED


def test_what_was_cancelled_in_its_queue_is_resumed_with_the_same_agents(saga: Saga) -> None:
    bulks, bulk_id, _ = opened(saga, 2)
    before = [item.agent_id for item in bulks.items(bulk_id)]
    bulks.cancel(bulk_id)

    assert bulks.resume(bulk_id).pending == 2
    saga.sweeper.dispatcher.advance()
    for item in bulks.items(bulk_id):
        assert item.operation_id is not None
        saga.drive(item.operation_id)
    saga.sweeper.dispatcher.advance()

    assert bulks.get(bulk_id).status is BulkStatus.SUCCEEDED
    assert [item.agent_id for item in bulks.items(bulk_id)] == before


def test_one_queued_number_that_is_deprovisioned_ends_at_once_and_the_others_go_on(saga: Saga) -> None:
    bulks, bulk_id, operations = opened(saga, 2)
    agent_id = saga.snapshot(operations[0]).agent.id

    ended = saga.service.deprovision(agent_id, origin=ORIGIN)

    assert ended is not None
    assert (ended.id, ended.status) == (operations[0], OperationStatus.CANCELLED)
    assert saga.world.log.order == []
    saga.drive(operations[1])
    saga.sweeper.dispatcher.advance()
    assert statuses(bulks, bulk_id) == ["cancelled", "succeeded"]


def test_an_item_that_is_retried_after_a_cancel_goes_on(saga: Saga) -> None:
    bulks, bulk_id, operations = opened(saga, 1)
    bulks.cancel(bulk_id)

    again = saga.service.retry(operations[0], origin=ORIGIN)
    saga.drive(again.id)
    saga.sweeper.dispatcher.advance()

    assert statuses(bulks, bulk_id) == ["succeeded"]


def test_workers_that_claim_at_the_same_moment_have_it_or_find_it_cancelled(
    saga: Saga, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_module, "CANCEL_BATCH", 3)
    bulks, bulk_id, operations = opened(saga, 24)
    gate = threading.Barrier(9)

    def work(mine: Sequence[uuid.UUID]) -> int:
        gate.wait(DEADLINE_S)
        verdicts = [saga.runner.run_step(one, 0, NUMBER, Direction.DO).verdict for one in mine]
        return sum(verdict is Verdict.DONE for verdict in verdicts)

    def cancel() -> Any:
        gate.wait(DEADLINE_S)
        return bulks.cancel(bulk_id)

    with ThreadPoolExecutor(9) as pool:
        workers = [pool.submit(work, operations[n::8]) for n in range(8)]
        result = pool.submit(cancel).result(DEADLINE_S)
        begun = sum(worker.result(DEADLINE_S) for worker in workers)

    assert result.cancelled_now + begun == 24
    assert (result.bulk.cancelled, result.still_running) == (result.cancelled_now, begun)
    with saga.sessions.begin() as session:
        started = session.scalars(select(Operation.started_at.is_not(None)).where(Operation.status == "cancelled"))
        assert set(started) <= {False}
        free = session.scalars(select(Agent).where(Agent.phone_provisioning_status == PhoneStatus.NOT_PROVISIONED))
        assert len(free.all()) == result.cancelled_now
    # Those that began share a list of the account's numbers; nothing else was asked, and nothing for those cancelled.
    assert set(saga.world.log.order) <= {"carrier.list_numbers"}
    assert len(saga.world.log.order) <= begun


def test_a_claim_that_holds_the_lock_is_waited_for_and_has_its_operation(saga: Saga) -> None:
    bulks, bulk_id, operations = opened(saga, 2)
    with ThreadPoolExecutor(1) as pool:
        with saga.sessions.begin() as session:
            session.execute(update(Operation).where(Operation.id == operations[0]).values(status="running"))
            result = pool.submit(bulks.cancel, bulk_id)
            wait_for_a_waiter(saga)
        assert result.result(DEADLINE_S).cancelled_now == 1
    assert saga.status(operations[0]) is OperationStatus.RUNNING


def test_a_resume_in_the_middle_of_a_cancel_is_not_undone_by_it(saga: Saga, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_module, "CANCEL_BATCH", 1)
    bulks, bulk_id, _ = opened(saga, 3)
    lock_queued = bulk_module.queries.lock_queued
    batches = []

    def resume_before_the_second(session: Any, ids: Any) -> Any:
        batches.append(ids)
        if len(batches) == 2:
            bulks.resume(bulk_id)
        return lock_queued(session, ids)

    monkeypatch.setattr(bulk_module.queries, "lock_queued", resume_before_the_second)

    assert bulks.cancel(bulk_id).cancelled_now == 1
    assert (len(batches), sorted(statuses(bulks, bulk_id))) == (2, ["pending", "running", "running"])


class DyingRows(Rows):
    """Rows in a process that is killed at one of its writes."""

    def __init__(self, rows: Rows, writes: int) -> None:
        super().__init__(rows._sessions)
        self._left = writes

    def write(self, *args: Any, **options: Any) -> str | None:
        self._left -= 1
        if not self._left:
            raise WorkerDiedError
        return super().write(*args, **options)


def test_a_cancel_that_dies_half_way_is_finished_by_the_next(saga: Saga, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_module, "CANCEL_BATCH", 2)
    bulks, bulk_id, operations = opened(saga, 5)
    dying = replace(bulks, rows=DyingRows(saga.rows, writes=3))
    with pytest.raises(WorkerDiedError):
        dying.cancel(bulk_id)
    assert bulks.get(bulk_id).cancelled == 2

    result = bulks.cancel(bulk_id)
    assert (result.cancelled_now, result.already_done, result.bulk.status) == (3, 2, BulkStatus.CANCELLED)
    assert {saga.status(one) for one in operations} == {OperationStatus.CANCELLED}


def test_the_agents_of_a_cancelled_bulk_are_free_for_others(saga: Saga) -> None:
    bulks, bulk_id, _ = opened(saga, 1)
    bulks.cancel(bulk_id)
    with saga.sessions.begin() as session:
        item = session.scalars(select(BulkItem)).one()

    saga.provisioned(agent_id=item.agent_id, e164=str(item.phone_number))
