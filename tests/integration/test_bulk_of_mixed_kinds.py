"""A bulk whose items are of several kinds: what each does, and that one waits for those that come first."""

import uuid
from collections.abc import Sequence
from dataclasses import replace

import pytest
from sqlalchemy import select

from app.bulk.items import BulkItemRef, ItemTakenError, MixedItem
from app.bulk.service import BulkService
from app.db.models import Agent, Bulk, BulkItem, Operation
from app.db.visibility import home_workspace
from app.domain.errors import ErrorCode
from app.domain.operations import BulkStatus, ItemKind, ItemStatus, OperationKind, PhoneStatus, TrunkMode
from app.numbers.changing import made_of
from tests.support.bulks import run_bulk
from tests.support.saga import ORIGIN, Saga

FIRST, SECOND = "+15145550001", "+15145550002"


@pytest.fixture
def shared(saga: Saga) -> Saga:
    """A saga whose agents share trunks, with two numbers in the account."""
    for number in (FIRST, SECOND):
        saga.world.carrier.own_number(number)
    return replace(saga, trunk_mode=TrunkMode.SHARED)


def bulks(saga: Saga) -> BulkService:
    return BulkService(saga.sessions, saga.rows)


def start(saga: Saga, *items: MixedItem) -> Bulk:
    with saga.sessions.begin() as session:
        return bulks(saga).add_mixed(session, home_workspace(), items, origin=ORIGIN)


def ended(saga: Saga, *items: MixedItem) -> Sequence[BulkItem]:
    """Run a bulk of these items to its end, and return them."""
    bulk = start(saga, *items)
    run_bulk(saga, bulk.id)
    return bulks(saga).items(bulk.id)


def agent(saga: Saga, agent_id: uuid.UUID) -> Agent:
    with saga.sessions() as session:
        return session.get_one(Agent, agent_id)


def kinds_of_operations(saga: Saga) -> list[OperationKind]:
    with saga.sessions() as session:
        wanted = select(Operation.kind).where(Operation.bulk_id.is_not(None)).order_by(Operation.created_at)
        return list(session.scalars(wanted))


def test_two_agents_swap_their_numbers(shared: Saga) -> None:
    left, right = shared.provisioned(e164=FIRST), shared.provisioned(e164=SECOND)

    items = ended(
        shared,
        MixedItem(ItemKind.DEPROVISION, left, FIRST),
        MixedItem(ItemKind.MOVE, right, SECOND, target_agent_id=left, waits_for=(1,)),
        MixedItem(ItemKind.PROVISION, right, FIRST, waits_for=(1, 2)),
    )

    assert [one.status for one in items] == [ItemStatus.SUCCEEDED] * 3
    assert (agent(shared, left).twilio_phone_number, agent(shared, right).twilio_phone_number) == (SECOND, FIRST)
    assert kinds_of_operations(shared) == [OperationKind.DEPROVISION, OperationKind.MOVE, OperationKind.PROVISION]


def test_an_update_is_started_by_a_worker_and_changes_the_path(shared: Saga) -> None:
    agent_id = shared.provisioned(e164=FIRST)
    bulk = start(
        shared,
        MixedItem(ItemKind.UPDATE, agent_id, FIRST, wanted={"name": "Night", "options": {"call": {"ringingS": 9}}}),
    )
    shared.sweeper.dispatcher.advance()
    assert (shared.publisher.adoptions, kinds_of_operations(shared)) == ([bulk.id], [])

    run_bulk(shared, bulk.id)

    assert kinds_of_operations(shared) == [OperationKind.UPDATE]
    assert (agent(shared, agent_id).name, agent(shared, agent_id).options) == ("Night", {"call": {"ringingS": 9}})
    (trunk,) = shared.world.platform.trunks.values()
    assert trunk.ringing_timeout_s == 9


def test_an_update_of_an_agent_without_a_number_needs_no_operation(shared: Saga) -> None:
    agent_id = shared.provisioned(e164=FIRST)

    items = ended(
        shared,
        MixedItem(ItemKind.DEPROVISION, agent_id, FIRST),
        MixedItem(ItemKind.UPDATE, agent_id, FIRST, wanted={"trunk_mode": "dedicated"}, waits_for=(1,)),
        MixedItem(ItemKind.PROVISION, agent_id, SECOND, waits_for=(1, 2)),
    )

    assert [(one.status, one.operation_id is None) for one in items] == [
        (ItemStatus.SUCCEEDED, False),
        (ItemStatus.SUCCEEDED, True),
        (ItemStatus.SUCCEEDED, False),
    ]
    found = agent(shared, agent_id)
    assert (found.trunk_mode, found.twilio_phone_number, found.trunk_id) == (TrunkMode.DEDICATED, SECOND, None)


def test_an_agent_is_deleted_once_its_number_is_gone_and_what_was_wanted_of_it_is_erased(shared: Saga) -> None:
    agent_id = shared.provisioned(e164=FIRST)

    items = ended(
        shared,
        MixedItem(ItemKind.UPDATE, agent_id, FIRST, wanted={"name": "secret"}),
        MixedItem(ItemKind.DEPROVISION, agent_id, FIRST, waits_for=(1,)),
        MixedItem(ItemKind.DELETE, agent_id, FIRST, waits_for=(2,)),
    )

    assert [one.status for one in items] == [ItemStatus.SUCCEEDED] * 3
    assert agent(shared, agent_id).deleted_at is not None
    assert [one.wanted for one in items] == [None] * 3


def test_what_waits_for_an_item_that_fails_is_cancelled_and_a_resume_begins_there(shared: Saga) -> None:
    left, right = shared.provisioned(e164=FIRST), shared.agent()
    busy = shared.service.deprovision(left, origin=ORIGIN)
    assert busy is not None
    bulk = start(
        shared,
        MixedItem(ItemKind.MOVE, left, FIRST, target_agent_id=right),
        MixedItem(ItemKind.DELETE, left, FIRST, waits_for=(1,)),
        MixedItem(ItemKind.PROVISION, left, SECOND, waits_for=(2,)),
    )
    run_bulk(shared, bulk.id)

    assert [(one.status, one.error_code) for one in bulks(shared).items(bulk.id)] == [
        (ItemStatus.FAILED, ErrorCode.OPERATION_IN_PROGRESS),
        (ItemStatus.CANCELLED, ErrorCode.CANCELLED),
        (ItemStatus.CANCELLED, ErrorCode.CANCELLED),
    ]
    assert bulks(shared).get(bulk.id).status is BulkStatus.FAILED
    assert agent(shared, left).deleted_at is None
    shared.drive(busy.id)
    shared.drive(shared.provision(e164=FIRST, agent_id=left))
    bulks(shared).resume(bulk.id, origin=ORIGIN)
    run_bulk(shared, bulk.id)

    statuses = [one.status for one in bulks(shared).items(bulk.id)]
    assert statuses[:2] == [ItemStatus.SUCCEEDED] * 2
    assert agent(shared, right).twilio_phone_number == FIRST
    assert agent(shared, left).deleted_at is not None


def test_a_deprovisioning_of_a_number_that_is_gone_already_has_nothing_to_do(shared: Saga) -> None:
    agent_id = shared.agent()

    (item,) = ended(shared, MixedItem(ItemKind.DEPROVISION, agent_id, FIRST))

    assert (item.status, item.operation_id) == (ItemStatus.SUCCEEDED, None)


def test_a_cancel_leaves_a_move_and_a_deprovisioning_that_are_queued_alone(shared: Saga) -> None:
    left, right, third = shared.provisioned(e164=FIRST), shared.provisioned(e164=SECOND), shared.agent()
    bulk = start(
        shared,
        MixedItem(ItemKind.DEPROVISION, left, FIRST),
        MixedItem(ItemKind.MOVE, right, SECOND, target_agent_id=third),
        MixedItem(ItemKind.DELETE, left, FIRST, waits_for=(1,)),
    )
    shared.sweeper.dispatcher.advance()

    told = bulks(shared).cancel(bulk.id, origin=ORIGIN)

    assert (told.cancelled_now, told.still_running) == (1, 2)
    run_bulk(shared, bulk.id)
    assert agent(shared, left).phone_provisioning_status is PhoneStatus.NOT_PROVISIONED
    assert agent(shared, third).twilio_phone_number == SECOND
    assert bulks(shared).get(bulk.id).status is BulkStatus.CANCELLED


def opened(saga: Saga, kind: ItemKind, agent_id: uuid.UUID, other_id: uuid.UUID, item: BulkItemRef) -> object:
    """Do for an item what its kind asks for, as a sweeper that was slow."""
    dispatcher = saga.sweeper.dispatcher
    match kind:
        case ItemKind.DEPROVISION:
            return saga.service.deprovision_item(agent_id, FIRST, item, origin=ORIGIN)
        case ItemKind.MOVE:
            return dispatcher.maintenance.move(agent_id, other_id, origin=ORIGIN, phone_number=FIRST, bulk_item=item)
        case ItemKind.UPDATE:
            return dispatcher.changes.change(agent_id, made_of({"name": "Night"}), origin=ORIGIN, bulk_item=item)
        case _:
            return dispatcher.agents.delete(agent_id, origin=ORIGIN, bulk_item=item)


@pytest.mark.parametrize("kind", [ItemKind.DEPROVISION, ItemKind.MOVE, ItemKind.UPDATE, ItemKind.DELETE])
def test_an_item_that_is_no_longer_pending_does_nothing(shared: Saga, kind: ItemKind) -> None:
    other_id = shared.agent()
    agent_id = shared.agent() if kind is ItemKind.DELETE else shared.provisioned(e164=FIRST)
    bulk = start(shared, MixedItem(kind, agent_id, FIRST, target_agent_id=other_id))
    bulks(shared).cancel(bulk.id, origin=ORIGIN)
    before = agent(shared, agent_id)

    with pytest.raises(ItemTakenError):
        opened(shared, kind, agent_id, other_id, BulkItemRef(bulk.id, 1))

    now = agent(shared, agent_id)
    assert (now.name, now.deleted_at, now.version) == (before.name, None, before.version)
    assert kinds_of_operations(shared) == []
