"""Bulks that repair the numbers that agents have: opened like provisionings, each item once."""

import uuid
from dataclasses import replace

import pytest
from sqlalchemy import func, select, update

from app.bulk.items import BulkItemRef, ItemTakenError
from app.bulk.service import BulkService
from app.db.access import Activity
from app.db.models import Agent, BulkItem, Operation, OperationStep
from app.domain.errors import ErrorCode, RefusedError
from app.domain.events import Action, Channel
from app.domain.operations import BulkKind, BulkStatus, ItemStatus, OperationKind, OperationStatus, StepState
from app.numbers.maintenance import TRUNK_STEPS
from app.saga.state import BULK_MESSAGE_GRACE
from tests.support.saga import ORIGIN, Saga

NUMBERS = ("+15145550001", "+15145550002", "+15145550003")


@pytest.fixture
def agents(saga: Saga) -> list[tuple[uuid.UUID, str]]:
    """Three agents with a number each."""
    found = []
    for number in NUMBERS:
        saga.world.carrier.own_number(number)
        found.append((saga.provisioned(e164=number), number))
    return found


def bulks(saga: Saga) -> BulkService:
    return BulkService(saga.sessions, saga.rows)


def items(saga: Saga, bulk_id: uuid.UUID) -> list[BulkItem]:
    return list(bulks(saga).items(bulk_id))


def number_of(saga: Saga, agent_id: uuid.UUID) -> str | None:
    with saga.sessions() as session:
        return session.get_one(Agent, agent_id).twilio_phone_number


def run_bulk(saga: Saga, bulk_id: uuid.UUID) -> None:
    """Run it to its end."""
    saga.sweeper.dispatcher.advance()
    for item in items(saga, bulk_id):
        if item.status is ItemStatus.RUNNING and item.operation_id:
            saga.drive(item.operation_id)
    saga.sweeper.dispatcher.advance()


def test_a_bulk_of_repairs_opens_one_for_every_agent(saga: Saga, agents: list[tuple[uuid.UUID, str]]) -> None:
    bulk = bulks(saga).open_for_agents(BulkKind.REPAIR, agents, origin=replace(ORIGIN, channel=Channel.API))
    assert (bulk.kind, bulk.total, bulk.status) == (BulkKind.REPAIR, 3, BulkStatus.QUEUED)
    assert saga.sweeper.dispatcher.advance() == 3
    with saga.sessions() as session:
        opened = session.scalars(select(Operation).where(Operation.bulk_id == bulk.id)).all()
        now = session.scalars(select(func.now())).one()
        pending = select(OperationStep.name).where(OperationStep.state == StepState.PENDING)
        steps = {one.id: set(session.scalars(pending.where(OperationStep.operation_id == one.id))) for one in opened}
        (asked,) = session.scalars(select(Activity).where(Activity.action == Action.BULK_CREATE))
    assert {one.kind for one in opened} == {OperationKind.REPAIR}
    assert list(steps.values()) == [set(TRUNK_STEPS)] * 3
    assert all(one.wake_at and one.wake_at - now > BULK_MESSAGE_GRACE / 2 for one in opened)
    assert [plan.is_bulk for plan in saga.publisher.plans[-3:]] == [True] * 3
    assert asked.detail == {"kind": "repair", "total": 3}


def test_a_bulk_of_repairs_makes_a_trunk_right(saga: Saga, agents: list[tuple[uuid.UUID, str]]) -> None:
    saga.world.carrier.delete_trunk(next(iter(saga.world.carrier.trunks)))
    bulk = bulks(saga).open_for_agents(BulkKind.REPAIR, agents, origin=ORIGIN)
    run_bulk(saga, bulk.id)
    assert bulks(saga).get(bulk.id).status is BulkStatus.SUCCEEDED
    assert len(saga.world.carrier.trunks) == 3


def test_an_agent_without_its_number_fails_its_item_alone(saga: Saga, agents: list[tuple[uuid.UUID, str]]) -> None:
    bulk = bulks(saga).open_for_agents(BulkKind.REPAIR, agents, origin=ORIGIN)
    saga.drive(saga.deprovision(agents[0][0]))
    busy = saga.service.deprovision(agents[1][0], origin=ORIGIN)
    assert busy is not None
    run_bulk(saga, bulk.id)
    assert [(item.status, item.error_code) for item in items(saga, bulk.id)] == [
        (ItemStatus.FAILED, ErrorCode.AGENT_HAS_NO_PHONE),
        (ItemStatus.FAILED, ErrorCode.OPERATION_IN_PROGRESS),
        (ItemStatus.SUCCEEDED, None),
    ]


def test_an_agent_with_another_number_by_now_is_left_alone(saga: Saga, agents: list[tuple[uuid.UUID, str]]) -> None:
    (agent_id, number), *_ = agents
    bulk = bulks(saga).open_for_agents(BulkKind.REPAIR, [(agent_id, "+15145559999")], origin=ORIGIN)
    run_bulk(saga, bulk.id)
    assert [item.error_code for item in items(saga, bulk.id)] == [ErrorCode.AGENT_HAS_NO_PHONE]
    assert number_of(saga, agent_id) == number


def test_cancel_and_resume_work_for_every_kind(saga: Saga, agents: list[tuple[uuid.UUID, str]]) -> None:
    bulk = bulks(saga).open_for_agents(BulkKind.REPAIR, agents, origin=ORIGIN)
    saga.sweeper.dispatcher.advance()
    result = bulks(saga).cancel(bulk.id, origin=ORIGIN)
    assert (result.cancelled_now, result.bulk.status) == (3, BulkStatus.CANCELLED)
    with saga.sessions() as session:
        assert set(session.scalars(select(Operation.status).where(Operation.bulk_id == bulk.id))) == {
            OperationStatus.CANCELLED
        }
    bulks(saga).resume(bulk.id, origin=ORIGIN)
    run_bulk(saga, bulk.id)
    resumed = bulks(saga).get(bulk.id)
    assert (resumed.kind, resumed.status, resumed.succeeded) == (BulkKind.REPAIR, BulkStatus.SUCCEEDED, 3)


def test_an_ended_repair_of_a_bulk_is_not_retried_by_itself(saga: Saga, agents: list[tuple[uuid.UUID, str]]) -> None:
    bulk = bulks(saga).open_for_agents(BulkKind.REPAIR, agents[:1], origin=ORIGIN)
    saga.sweeper.dispatcher.advance()
    bulks(saga).cancel(bulk.id, origin=ORIGIN)
    (item,) = items(saga, bulk.id)
    assert item.operation_id is not None
    with pytest.raises(RefusedError) as refused:
        saga.service.retry(item.operation_id, origin=ORIGIN)
    assert refused.value.code is ErrorCode.OPERATION_FINISHED
    assert [one.status for one in items(saga, bulk.id)] == [ItemStatus.CANCELLED]


def test_an_item_that_another_sweeper_has_taken_opens_nothing(saga: Saga, agents: list[tuple[uuid.UUID, str]]) -> None:
    (agent_id, number), *_ = agents
    bulk = bulks(saga).open_for_agents(BulkKind.REPAIR, agents[:1], origin=ORIGIN)
    with saga.sessions.begin() as session:
        session.execute(
            update(BulkItem)
            .where(BulkItem.bulk_id == bulk.id)
            .values(status=ItemStatus.CANCELLED, error_code=ErrorCode.CANCELLED)
        )
    maintenance = saga.sweeper.dispatcher.maintenance
    with pytest.raises(ItemTakenError):
        maintenance.open_for_bulk(BulkKind.REPAIR, agent_id, number, BulkItemRef(bulk.id, 1), origin=ORIGIN)
    with saga.sessions() as session:
        assert session.scalar(select(func.count()).where(Operation.bulk_id == bulk.id)) == 0
