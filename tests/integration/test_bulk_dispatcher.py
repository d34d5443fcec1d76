"""The dispatcher of bulks: a limited number of open operations, and each item once, whatever is killed."""

import threading
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from typing import Any

import pytest
from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import IntegrityError

from app.bulk.dispatcher import LEASE, BulkDispatcher
from app.bulk.items import BulkItemRef, read_items
from app.bulk.service import BulkService, requeue_item
from app.db.engine import Sessions
from app.db.models import Bulk, BulkItem, Operation
from app.domain.errors import RefusedError
from app.domain.operations import BulkStatus, ItemStatus, OperationStatus
from app.numbers.service import ProvisioningService
from app.saga.chain_plan import Plan
from app.saga.state import BULK_MESSAGE_GRACE
from app.views.option_schemas import read_options
from tests.support.providers import WorkerDiedError
from tests.support.saga import E164, ORIGIN, Saga

DEADLINE_S = 60.0


def accept(saga: Saga, count: int, first: int = 0) -> uuid.UUID:
    raw = [{"agent": f"desk {n}", "phoneNumber": f"+1514556{n:04}"} for n in range(first, first + count)]
    return BulkService(saga.sessions, saga.rows).accept(read_items(raw, read_options), origin=ORIGIN).id


def admission(saga: Saga, window: int = 200) -> BulkDispatcher:
    return replace(saga.sweeper.dispatcher, window=window)


def items(saga: Saga, bulk_id: uuid.UUID) -> Sequence[BulkItem]:
    return BulkService(saga.sessions, saga.rows).items(bulk_id)


def failed_item(saga: Saga) -> tuple[uuid.UUID, BulkItem, uuid.UUID]:
    """Open a bulk of one number that the account does not own, and let it fail; return its operation too."""
    bulk_id = accept(saga, 1)
    saga.sweeper.dispatcher.advance()
    (item,) = items(saga, bulk_id)
    assert item.operation_id is not None
    saga.drive(item.operation_id)
    return bulk_id, item, item.operation_id


def operations(saga: Saga) -> list[Operation]:
    with saga.sessions() as session:
        return list(session.scalars(select(Operation)))


def set_status(saga: Saga, operation_id: uuid.UUID | None, status: OperationStatus) -> None:
    with saga.sessions.begin() as session:
        session.execute(update(Operation).where(Operation.id == operation_id).values(status=status))


def end_lease(saga: Saga) -> None:
    with saga.sessions.begin() as session:
        session.execute(update(Bulk).values(lease_until=func.now() - timedelta(seconds=1)))


def assert_each_once(saga: Saga, bulk_id: uuid.UUID) -> None:
    """Every item runs, under an operation of its own, and there is no other operation."""
    found = items(saga, bulk_id)
    assert {item.status for item in found} == {ItemStatus.RUNNING}
    assert sorted(item.operation_id for item in found) == sorted(operation.id for operation in operations(saga))
    assert {operation.bulk_id for operation in operations(saga)} == {bulk_id}


def test_a_bulk_runs_to_its_end_through_the_steps_of_a_single_request(saga: Saga) -> None:
    sids = [saga.world.carrier.own_number(f"+1514556{n:04}") for n in range(2)]
    bulk_id = accept(saga, 3)
    saga.sweeper.dispatcher.advance()
    assert [plan.is_bulk for plan in saga.publisher.plans] == [True] * 3
    for item in items(saga, bulk_id):
        assert item.operation_id is not None
        saga.drive(item.operation_id)
    saga.sweeper.dispatcher.advance()

    bulk = BulkService(saga.sessions, saga.rows).get(bulk_id)
    assert (bulk.status, bulk.succeeded, bulk.failed) == (BulkStatus.FAILED, 2, 1)
    assert [item.error_code for item in items(saga, bulk_id)] == [None, None, "number_not_in_account"]
    assert all(saga.world.routing(sid).trunk_sid for sid in sids)


def test_a_retry_of_a_failed_items_operation_belongs_to_the_item(saga: Saga) -> None:
    bulk_id, item, operation_id = failed_item(saga)
    saga.sweeper.dispatcher.advance()
    assert BulkService(saga.sessions, saga.rows).get(bulk_id).failed == 1

    saga.world.carrier.own_number(str(item.phone_number))
    again = saga.service.retry(operation_id, origin=ORIGIN)

    bulk = BulkService(saga.sessions, saga.rows).get(bulk_id)
    assert (bulk.status, bulk.finished_at, bulk.failed) == (BulkStatus.RUNNING, None, 0)
    assert [(each.status, each.operation_id) for each in items(saga, bulk_id)] == [(ItemStatus.RUNNING, again.id)]
    with pytest.raises(RefusedError, match="open"):
        saga.service.retry(operation_id, origin=ORIGIN)
    saga.drive(again.id)
    saga.sweeper.dispatcher.advance()
    bulk = BulkService(saga.sessions, saga.rows).get(bulk_id)
    assert (bulk.status, bulk.succeeded) == (BulkStatus.SUCCEEDED, 1)


def test_a_refused_retry_leaves_the_item_with_the_reason(saga: Saga) -> None:
    bulk_id, item, operation_id = failed_item(saga)
    saga.world.carrier.own_number(E164)
    saga.provisioned(agent_id=item.agent_id)

    with pytest.raises(RefusedError, match="has a number"):
        saga.service.retry(operation_id, origin=ORIGIN)
    saga.sweeper.dispatcher.advance()

    (item,) = items(saga, bulk_id)
    assert (item.status, item.error_code) == (ItemStatus.FAILED, "agent_has_phone")
    assert BulkService(saga.sessions, saga.rows).get(bulk_id).status is BulkStatus.FAILED


def test_a_retry_that_meets_a_sweeper_is_refused(saga: Saga, monkeypatch: pytest.MonkeyPatch) -> None:
    bulk_id, _, operation_id = failed_item(saga)

    def sweep_first(sessions: Sessions, operation: Operation) -> BulkItemRef | None:
        place = requeue_item(sessions, operation)
        saga.sweeper.dispatcher.advance()
        return place

    monkeypatch.setattr("app.numbers.service.requeue_item", sweep_first)
    with pytest.raises(RefusedError, match="just started"):
        saga.service.retry(operation_id, origin=ORIGIN)
    assert [each.status for each in items(saga, bulk_id)] == [ItemStatus.RUNNING]


def test_only_a_window_of_operations_is_open_at_once(saga: Saga) -> None:
    bulk_id = accept(saga, 5)
    sweeper = admission(saga, window=2)
    assert [sweeper.advance() for _ in range(2)] == [2, 0]
    set_status(saga, items(saga, bulk_id)[0].operation_id, OperationStatus.SUCCEEDED)
    assert [sweeper.advance() for _ in range(2)] == [1, 0]
    assert [item.status for item in items(saga, bulk_id)] == ["succeeded", *["running"] * 2, *["pending"] * 2]


def test_a_small_bulk_does_not_wait_behind_a_large_one(saga: Saga) -> None:
    large, small = accept(saga, 20), accept(saga, 2, first=100)
    admission(saga, window=10).advance()
    assert sum(item.status is ItemStatus.RUNNING for item in items(saga, large)) == 5
    assert {item.status for item in items(saga, small)} == {ItemStatus.RUNNING}


def test_an_operation_that_needs_attention_does_not_hold_up_the_bulk(saga: Saga) -> None:
    bulk_id = accept(saga, 2)
    sweeper = admission(saga, window=1)
    sweeper.advance()
    set_status(saga, items(saga, bulk_id)[0].operation_id, OperationStatus.NEEDS_ATTENTION)
    assert sweeper.advance() == 1
    assert BulkService(saga.sessions, saga.rows).get(bulk_id).running == 2


@dataclass
class DyingPublisher:
    """The process dies once, before it publishes."""

    then: Any
    plans: list[Plan] = field(default_factory=list)

    def publish(self, plan: Plan) -> bool:
        self.plans.append(plan)
        if len(self.plans) == 2:
            raise WorkerDiedError
        return bool(self.then.publish(plan))

    def publish_audit(self, audit_id: uuid.UUID) -> bool:
        return True


def test_a_sweeper_killed_before_its_message_loses_no_item_and_opens_none_twice(saga: Saga) -> None:
    bulk_id = accept(saga, 4)
    dying = DyingPublisher(saga.publisher)
    with pytest.raises(WorkerDiedError):
        replace(admission(saga), provisioning=ProvisioningService(saga.sessions, dying, saga.rows)).advance()
    assert saga.sweeper.dispatcher.advance() == 0, "its lease stands"
    end_lease(saga)
    assert saga.sweeper.dispatcher.advance() == 2

    assert_each_once(saga, bulk_id)
    assert len(saga.publisher.plans) == 3
    with saga.sessions.begin() as session:
        session.execute(update(Operation).values(wake_at=Operation.wake_at - BULK_MESSAGE_GRACE))
    assert saga.sweeper.sweep() == 4
    assert {plan.operation_id for plan in saga.publisher.plans} == {operation.id for operation in operations(saga)}


def test_two_sweepers_with_the_same_items_open_each_once(saga: Saga) -> None:
    bulk_id = accept(saga, 12)
    gate = threading.Barrier(2)

    def turn() -> Any:
        end_lease(saga)
        return saga.sweeper.dispatcher._take_batch(bulk_id, 200, 200)

    def open_all(taken: Any) -> None:
        gate.wait(DEADLINE_S)
        for item in taken.items:
            saga.sweeper.dispatcher._start(item, taken)

    turns = [turn(), turn()]
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(open_all, each) for each in turns]:
            future.result(DEADLINE_S)
    assert_each_once(saga, bulk_id)
    assert len(saga.publisher.plans) == 12


def test_a_cancel_between_the_batch_and_the_item_wins(saga: Saga) -> None:
    bulk_id = accept(saga, 3)
    turn = saga.sweeper.dispatcher._take_batch(bulk_id, 200, 200)
    assert turn is not None
    saga.sweeper.dispatcher._start(turn.items[0], turn)
    cancelled = BulkService(saga.sessions, saga.rows).cancel(bulk_id)
    for item in turn.items[1:]:
        saga.sweeper.dispatcher._start(item, turn)
    saga.sweeper.dispatcher._release_bulk(bulk_id)

    assert (cancelled.bulk.status, cancelled.cancelled_now) == (BulkStatus.CANCELLED, 3)
    assert [operation.status for operation in operations(saga)] == [OperationStatus.CANCELLED]
    assert {item.status for item in items(saga, bulk_id)} == {ItemStatus.CANCELLED}


def test_the_holder_of_a_lease_is_left_alone(saga: Saga) -> None:
    bulk_id = accept(saga, 3)
    with saga.sessions.begin() as session:
        session.execute(update(Bulk).values(lease_until=func.now() + LEASE))
    assert saga.sweeper.dispatcher.advance() == 0
    assert {item.status for item in items(saga, bulk_id)} == {ItemStatus.PENDING}


def put_bulk(saga: Saga, **values: Any) -> uuid.UUID:
    row = {"id": uuid.uuid4(), "status": BulkStatus.QUEUED, "total": 1, "pending": 1} | values
    with saga.sessions.begin() as session:
        session.execute(insert(Bulk).values(row))
    return row["id"]


def put_item(saga: Saga, status: StrEnum | str, **values: Any) -> None:
    operation_id = saga.provision()
    whole = {"agent_id": saga.snapshot(operation_id).agent.id, "phone_number": E164, "error_code": "cancelled"}
    row = {"bulk_id": put_bulk(saga), "position": 1, "status": status, **whole, "operation_id": operation_id} | values
    with saga.sessions.begin() as session:
        session.execute(insert(BulkItem).values(row))


@pytest.mark.parametrize("status", BulkStatus)
def test_the_database_takes_every_status_of_a_bulk(saga: Saga, status: BulkStatus) -> None:
    put_bulk(saga, status=status)


@pytest.mark.parametrize("status", ItemStatus)
def test_the_database_takes_every_status_of_an_item(saga: Saga, status: ItemStatus) -> None:
    put_item(saga, status, **({"operation_id": None} if status is ItemStatus.PENDING else {}))


@pytest.mark.parametrize(
    ("status", "values"),
    [
        (ItemStatus.PENDING, {}),
        (ItemStatus.PENDING, {"operation_id": None, "agent_id": None}),
        (ItemStatus.PENDING, {"operation_id": None, "phone_number": None}),
        (ItemStatus.RUNNING, {"operation_id": None}),
        (ItemStatus.SUCCEEDED, {"operation_id": None}),
        (ItemStatus.FAILED, {"error_code": None}),
    ],
)
def test_the_database_refuses_an_inconsistent_item(saga: Saga, status: ItemStatus, values: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError, match="ck_bulk_items"):
        put_item(saga, status, **values)


def test_the_database_refuses_counts_that_do_not_add_up(saga: Saga) -> None:
    with pytest.raises(IntegrityError, match="ck_bulks_counts"):
        put_bulk(saga, failed=1)


@pytest.mark.parametrize("duplicate", ["number", "agent"])
def test_two_pending_items_may_not_have_the_same(saga: Saga, duplicate: str) -> None:
    bulk_id = put_bulk(saga, total=2, pending=2)
    same = saga.agent()
    agents = [same, same] if duplicate == "agent" else [same, saga.agent()]
    numbers = [E164, E164] if duplicate == "number" else [E164, "+15145551235"]
    rows = [
        {"bulk_id": bulk_id, "position": n, "status": "pending", "agent_id": agents[n], "phone_number": numbers[n]}
        for n in range(2)
    ]
    with pytest.raises(IntegrityError, match=f"uq_bulk_items_live_{duplicate}"), saga.sessions.begin() as session:
        session.execute(insert(BulkItem), rows)
