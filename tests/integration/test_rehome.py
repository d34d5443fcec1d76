"""An agent's number moves from a trunk of its own to one that numbers share, in place: whole or as it was found.

A caller reaches the agent at every moment, whatever fails or dies: that is looked at before each call to a provider.
"""

import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select, update

from app.bulk.service import BulkService
from app.db.models import Agent, BulkItem, Operation
from app.domain.errors import ErrorCode
from app.domain.operations import (
    DISPATCH_RULE,
    INBOUND_TRUNK,
    NUMBER_ATTACHMENT,
    ORIGINATION_URL,
    TRUNK,
    VERIFICATION,
    BulkKind,
    ItemStatus,
    OperationStatus,
    PhoneStatus,
    TrunkMode,
    TrunkState,
)
from app.path.marks import is_pool_tag
from app.providers.errors import RejectedError, UnknownOutcomeError
from tests.support.moved_numbers import CODE, FAILURES, Watch, drive, ids_of, ledger, pool_trunks, snapshot
from tests.support.providers import WorkerDiedError
from tests.support.saga import E164, ORIGIN, TIMING, Saga

OTHERS = ("+15145550101", "+15145550102", "+15145550103")


def on_own_trunk(saga: Saga, number: str = E164) -> uuid.UUID:
    """Provision as the first edition did, and let the agent share from now on."""
    agent_id = saga.provisioned(e164=number)
    with saga.sessions.begin() as session:
        session.execute(update(Agent).where(Agent.id == agent_id).values(trunk_mode=TrunkMode.SHARED))
    return agent_id


def rehome(saga: Saga, *agents: tuple[uuid.UUID, str]) -> list[uuid.UUID]:
    """Open a bulk of rehomes, and return its operations."""
    bulk = BulkService(saga.sessions, saga.rows).open_for_agents(BulkKind.REHOME, agents, origin=ORIGIN)
    saga.sweeper.dispatcher.advance()
    with saga.sessions() as session:
        items = session.scalars(select(BulkItem).where(BulkItem.bulk_id == bulk.id).order_by(BulkItem.position))
        return [item.operation_id for item in items if item.operation_id]


def assert_pooled(saga: Saga, agent_id: uuid.UUID, number_sid: str, former: Mapping[str, object]) -> None:
    now, (trunk,) = ids_of(saga, agent_id), pool_trunks(saga)
    assert (trunk.state, trunk.lease_token) == (TrunkState.ACTIVE, None)
    assert now == former | {
        TRUNK: trunk.twilio_trunk_sid,
        ORIGINATION_URL: trunk.twilio_origination_url_sid,
        "trunk_id": trunk.id,
    }
    assert saga.world.routing(number_sid).trunk_sid == trunk.twilio_trunk_sid
    assert ledger(saga, agent_id) == {now[INBOUND_TRUNK], now[DISPATCH_RULE]}
    carrier = saga.world.carrier
    assert list(carrier.trunks) == [trunk.twilio_trunk_sid]
    assert [url.sid for url in carrier.urls.values()] == [trunk.twilio_origination_url_sid]
    assert is_pool_tag("test", carrier.trunks[trunk.twilio_trunk_sid or ""].tag)


def test_a_number_moves_to_a_shared_trunk_and_rings_throughout(saga: Saga, number_sid: str) -> None:
    agent_id = on_own_trunk(saga)
    before = ids_of(saga, agent_id)
    watch = Watch(saga.world, (number_sid,))
    (operation_id,) = rehome(saga, (agent_id, E164))
    saga.drive(operation_id)
    assert saga.status(operation_id) is OperationStatus.SUCCEEDED
    assert_pooled(saga, agent_id, number_sid, before)
    assert (watch.cut_off, watch.calls.count("carrier.move_number")) == ([], 1)
    assert not [call for call in watch.calls if "attach" in call or "detach" in call]
    operation = saga.snapshot(operation_id).operation
    assert operation.former_ids == {TRUNK: before[TRUNK], ORIGINATION_URL: before[ORIGINATION_URL]}


def test_the_next_number_moves_with_less(saga: Saga, number_sid: str) -> None:
    first, number = on_own_trunk(saga), OTHERS[0]
    saga.world.carrier.own_number(number)
    second = on_own_trunk(saga, number)
    for one in ((first, E164), (second, number)):
        watch = Watch(saga.world, (number_sid,))
        (operation_id,) = rehome(saga, one)
        saga.drive(operation_id)
    assert "carrier.create_trunk" not in watch.calls[: watch.calls.index("carrier.move_number")]
    assert len(pool_trunks(saga)) == 1
    assert len(saga.world.carrier.trunks) == 1


CALLS = 20
"""More than a rehome makes; one that is broken where nothing is called any more runs undisturbed."""


@pytest.mark.sweep
@pytest.mark.parametrize("kind", FAILURES)
@pytest.mark.parametrize("at", range(CALLS))
def test_a_rehome_broken_anywhere_ends_whole_or_as_it_was_found(
    saga: Saga, number_sid: str, at: int, kind: str
) -> None:
    agent_id = on_own_trunk(saga)
    before, there = ids_of(saga, agent_id), snapshot(saga.world)
    known = ledger(saga, agent_id)
    (operation_id,) = rehome(saga, (agent_id, E164))
    watch = Watch(saga.world, (number_sid,), at, **FAILURES[kind]())
    drive(saga, operation_id)
    watch.look("at the end")
    assert watch.cut_off == []
    if saga.status(operation_id) is OperationStatus.SUCCEEDED:
        assert_pooled(saga, agent_id, number_sid, before)
    else:
        assert kind == "refused"
        assert saga.status(operation_id) is OperationStatus.FAILED
        assert (ids_of(saga, agent_id), snapshot(saga.world), ledger(saga, agent_id)) == (before, there, known)


@pytest.mark.sweep
@pytest.mark.parametrize("kind", [kind for kind in FAILURES if kind != "refused"])
@pytest.mark.parametrize("at", range(8))
def test_a_way_back_broken_anywhere_ends_as_it_was_found(saga: Saga, number_sid: str, at: int, kind: str) -> None:
    agent_id = on_own_trunk(saga)
    before, there = ids_of(saga, agent_id), snapshot(saga.world)
    known = ledger(saga, agent_id)
    (operation_id,) = rehome(saga, (agent_id, E164))
    saga.world.log.plan("platform.list_dispatch_rules", before=RejectedError(ErrorCode.LIVEKIT_REJECTED, "No."))
    saga.drive_until(operation_id, OperationStatus.ROLLING_BACK)
    assert saga.world.routing(number_sid).trunk_sid != before[TRUNK]
    watch = Watch(saga.world, (number_sid,), at, **FAILURES[kind]())
    drive(saga, operation_id)
    watch.look("at the end")
    assert watch.cut_off == []
    assert (ids_of(saga, agent_id), snapshot(saga.world), ledger(saga, agent_id)) == (before, there, known)
    assert saga.snapshot(operation_id).operation.error_code == ErrorCode.LIVEKIT_REJECTED


def test_a_failed_rehome_takes_no_place(saga: Saga, number_sid: str) -> None:
    agent_id = on_own_trunk(saga)
    (operation_id,) = rehome(saga, (agent_id, E164))
    # The worker dies after it has taken the place, before anything of it is written with the step.
    saga.world.log.plan("carrier.create_trunk", before=WorkerDiedError())
    saga.advance(operation_id)
    saga.world.log.plan("carrier.create_trunk", before=RejectedError(ErrorCode.TWILIO_REJECTED, "No."))
    drive(saga, operation_id)
    assert saga.status(operation_id) is OperationStatus.FAILED
    assert ids_of(saga, agent_id)["trunk_id"] is None


@pytest.mark.parametrize("where", ["detached", "elsewhere"])
def test_a_number_that_somebody_moved_is_left_alone(saga: Saga, number_sid: str, where: str) -> None:
    agent_id = on_own_trunk(saga)
    before = ids_of(saga, agent_id)
    foreign = saga.world.carrier.own_trunk("theirs") if where == "elsewhere" else None
    (operation_id,) = rehome(saga, (agent_id, E164))
    saga.world.carrier.route(number_sid, trunk_sid=foreign)
    drive(saga, operation_id)
    operation = saga.snapshot(operation_id).operation
    assert (operation.status, operation.error_code) == (OperationStatus.FAILED, ErrorCode.NUMBER_MOVED)
    assert saga.world.routing(number_sid).trunk_sid == foreign
    assert ids_of(saga, agent_id) == before
    assert before[TRUNK] in saga.world.carrier.trunks


def test_a_number_on_the_shared_trunk_already_is_adopted(saga: Saga, number_sid: str) -> None:
    first, number = on_own_trunk(saga), OTHERS[0]
    other_sid = saga.world.carrier.own_number(number)
    second = on_own_trunk(saga, number)
    (operation_id,) = rehome(saga, (first, E164))
    drive(saga, operation_id)
    before = ids_of(saga, second)
    saga.world.carrier.route(other_sid, trunk_sid=pool_trunks(saga)[0].twilio_trunk_sid)
    (operation_id,) = rehome(saga, (second, number))
    watch = Watch(saga.world, (other_sid, number_sid))
    drive(saga, operation_id)
    assert saga.status(operation_id) is OperationStatus.SUCCEEDED
    assert "carrier.move_number" not in watch.calls
    assert_pooled(saga, second, other_sid, before)


def test_a_second_rehome_has_nothing_to_do(saga: Saga, number_sid: str) -> None:
    agent_id = on_own_trunk(saga)
    before = ids_of(saga, agent_id)
    for _ in range(2):
        (operation_id,) = rehome(saga, (agent_id, E164))
        watch = Watch(saga.world, (number_sid,))
        drive(saga, operation_id)
        assert saga.status(operation_id) is OperationStatus.SUCCEEDED
        assert_pooled(saga, agent_id, number_sid, before)
    assert not {"carrier.move_number", "carrier.delete_trunk", "carrier.create_trunk"} & set(watch.calls)


def test_a_trunk_with_a_number_of_somebody_else_stays_and_so_does_ours(saga: Saga, number_sid: str) -> None:
    agent_id = on_own_trunk(saga)
    before = ids_of(saga, agent_id)
    theirs = saga.world.carrier.own_number(OTHERS[0], trunk_sid=str(before[TRUNK]))
    (operation_id,) = rehome(saga, (agent_id, E164))
    watch = Watch(saga.world, (number_sid,))
    drive(saga, operation_id)
    operation = saga.snapshot(operation_id).operation
    assert (operation.status, operation.error_code) == (OperationStatus.FAILED, ErrorCode.TWILIO_TRUNK_IN_USE)
    assert (ids_of(saga, agent_id), watch.cut_off) == (before, [])
    assert [saga.world.routing(one).trunk_sid for one in (theirs, number_sid)] == [before[TRUNK]] * 2


def test_an_agent_that_is_to_have_its_own_trunk_is_refused(saga: Saga, number_sid: str) -> None:
    agent_id = saga.provisioned()
    assert rehome(saga, (agent_id, E164)) == []
    with saga.sessions() as session:
        (item,) = session.scalars(select(BulkItem))
    assert (item.status, item.error_code) == (ItemStatus.FAILED, ErrorCode.VALIDATION_FAILED)


def test_what_lands_late_is_waited_for_before_the_way_back(saga: Saga, number_sid: str) -> None:
    """The old trunk may yet be deleted by a request without an answer: the number does not go back to it before."""
    agent_id = on_own_trunk(saga)
    before = ids_of(saga, agent_id)
    (operation_id,) = rehome(saga, (agent_id, E164))
    watch = Watch(saga.world, (number_sid,))
    carrier = saga.world.carrier
    saga.world.log.plan("carrier.delete_trunk", before=UnknownOutcomeError(CODE, "The answer was lost."))
    saga.advance(operation_id)
    saga.age(operation_id, TIMING.budget * 2)
    with saga.sessions() as session:
        unsettled = saga.snapshot(operation_id).rows[VERIFICATION].unsettled_until
        assert unsettled is not None
        assert session.get_one(Operation, operation_id).status is OperationStatus.RUNNING
    # Its quiet time is over, the budget is spent: it goes back, but not while the deletion may land.
    saga.drive_until(operation_id, OperationStatus.ROLLING_BACK)
    carrier.trunks.pop(str(before[TRUNK]))
    carrier.urls.pop(str(before[ORIGINATION_URL]))
    drive(saga, operation_id)
    watch.look("at the end")
    assert watch.cut_off == []
    assert saga.status(operation_id) is OperationStatus.FAILED
    assert_pooled(saga, agent_id, number_sid, before)


@pytest.mark.parametrize("until", [None, TRUNK, ORIGINATION_URL, NUMBER_ATTACHMENT])
def test_a_deprovisioning_takes_down_a_rehome_under_way(saga: Saga, number_sid: str, until: str | None) -> None:
    agent_id = on_own_trunk(saga)
    (operation_id,) = rehome(saga, (agent_id, E164))
    if until:
        saga.advance(operation_id, until=until)
    deprovisioning = saga.deprovision(agent_id)
    assert saga.status(operation_id) is OperationStatus.CANCELLED
    assert saga.status_of(agent_id) is PhoneStatus.DEPROVISIONING
    drive(saga, deprovisioning)
    assert saga.status(deprovisioning) is OperationStatus.SUCCEEDED
    saga.assert_clean(agent_id, PhoneStatus.NOT_PROVISIONED)
    assert ids_of(saga, agent_id)["trunk_id"] is None
    assert not saga.world.routing(number_sid).is_taken
    assert {is_pool_tag("test", trunk.tag) for trunk in saga.world.carrier.trunks.values()} <= {True}


@pytest.mark.parametrize("point", ["before", "after"])
def test_a_move_that_lands_after_the_deprovisioning_began_is_undone(saga: Saga, number_sid: str, point: str) -> None:
    agent_id = on_own_trunk(saga)
    (operation_id,) = rehome(saga, (agent_id, E164))
    saga.world.log.plan("carrier.move_number", **{point: WorkerDiedError()})  # type: ignore[arg-type]  # a hook
    saga.advance(operation_id)
    deprovisioning = saga.deprovision(agent_id)
    saga.advance(deprovisioning)
    assert saga.status(deprovisioning) is not OperationStatus.SUCCEEDED
    if point == "before":
        saga.world.carrier.route(number_sid, trunk_sid=pool_trunks(saga)[0].twilio_trunk_sid)
    saga.expire_leases_of(agent_id)
    drive(saga, deprovisioning)
    saga.assert_clean(agent_id, PhoneStatus.NOT_PROVISIONED)
    assert not saga.world.routing(number_sid).is_taken


def test_a_cancelled_bulk_leaves_waiting_agents_as_they_are(saga: Saga, number_sid: str) -> None:
    agent_id = on_own_trunk(saga)
    before, there = ids_of(saga, agent_id), snapshot(saga.world)
    (operation_id,) = rehome(saga, (agent_id, E164))
    with saga.sessions() as session:
        bulk_id = session.get_one(Operation, operation_id).bulk_id
    assert bulk_id
    bulks = BulkService(saga.sessions, saga.rows)
    assert bulks.cancel(bulk_id, origin=ORIGIN).cancelled_now == 1
    assert saga.status(operation_id) is OperationStatus.CANCELLED
    assert (ids_of(saga, agent_id), snapshot(saga.world)) == (before, there)
    bulks.resume(bulk_id, origin=ORIGIN)
    saga.sweeper.dispatcher.advance()
    (item,) = bulks.items(bulk_id)
    assert item.operation_id
    drive(saga, item.operation_id)
    assert_pooled(saga, agent_id, number_sid, before)


def test_many_at_once_make_one_trunk(saga: Saga, number_sid: str) -> None:
    agents = [(on_own_trunk(saga), E164)]
    sids = [number_sid]
    for number in OTHERS:
        sids.append(saga.world.carrier.own_number(number))
        agents.append((on_own_trunk(saga, number), number))
    watch = Watch(saga.world, tuple(sids))
    operations = rehome(saga, *agents)
    with ThreadPoolExecutor(len(operations)) as threads:
        list(threads.map(lambda one: drive(saga, one), operations))
    watch.look("at the end")
    assert {saga.status(one) for one in operations} == {OperationStatus.SUCCEEDED}
    assert (watch.calls.count("carrier.create_trunk"), watch.cut_off) == (1, [])
    assert len(saga.world.carrier.trunks) == len(pool_trunks(saga)) == 1


# The account has no trunk left.


def at_the_limit(saga: Saga) -> None:
    saga.world.carrier.trunk_limit = len(saga.world.carrier.trunks)


def test_at_the_limit_one_trunk_of_an_agent_becomes_the_pools(saga: Saga, number_sid: str) -> None:
    first, number = on_own_trunk(saga), OTHERS[0]
    other_sid = saga.world.carrier.own_number(number)
    second = on_own_trunk(saga, number)
    at_the_limit(saga)
    before, later = ids_of(saga, first), ids_of(saga, second)
    watch = Watch(saga.world, (number_sid, other_sid))
    first_id, second_id = rehome(saga, (first, E164), (second, number))
    drive(saga, first_id)
    (trunk,) = pool_trunks(saga)
    assert (trunk.twilio_trunk_sid, trunk.twilio_origination_url_sid) == (before[TRUNK], before[ORIGINATION_URL])
    assert ids_of(saga, first) == before | {"trunk_id": trunk.id}
    assert ledger(saga, first) == {before[INBOUND_TRUNK], before[DISPATCH_RULE]}
    carrier = saga.world.carrier
    assert is_pool_tag("test", carrier.trunks[str(before[TRUNK])].tag)
    assert is_pool_tag("test", carrier.urls[str(before[ORIGINATION_URL])].tag)
    assert "carrier.move_number" not in watch.calls
    drive(saga, second_id)
    assert_pooled(saga, second, other_sid, later)
    assert watch.cut_off == []


@pytest.mark.sweep
@pytest.mark.parametrize("kind", FAILURES)
@pytest.mark.parametrize("at", range(14))
def test_sharing_ones_own_trunk_broken_anywhere_ends_on_a_trunk_that_stands(
    saga: Saga, number_sid: str, at: int, kind: str
) -> None:
    agent_id = on_own_trunk(saga)
    before = ids_of(saga, agent_id)
    at_the_limit(saga)
    (operation_id,) = rehome(saga, (agent_id, E164))
    watch = Watch(saga.world, (number_sid,), at, **FAILURES[kind]())
    drive(saga, operation_id)
    watch.look("at the end")
    assert watch.cut_off == []
    assert (list(saga.world.carrier.trunks), len(saga.world.carrier.urls)) == ([before[TRUNK]], 1)
    now = ids_of(saga, agent_id)
    assert now | {"trunk_id": None} == before
    if saga.status(operation_id) is OperationStatus.SUCCEEDED:
        assert_pooled(saga, agent_id, number_sid, before)
    # Whatever happened, another try ends it.
    watch.breaks_at = -1
    (operation_id,) = rehome(saga, (agent_id, E164))
    drive(saga, operation_id)
    assert saga.status(operation_id) is OperationStatus.SUCCEEDED
    assert_pooled(saga, agent_id, number_sid, before)


def test_a_trunk_with_a_foreign_number_does_not_become_the_pools(saga: Saga, number_sid: str) -> None:
    agent_id = on_own_trunk(saga)
    before = ids_of(saga, agent_id)
    saga.world.carrier.own_number(OTHERS[0], trunk_sid=str(before[TRUNK]))
    at_the_limit(saga)
    there = snapshot(saga.world)
    (operation_id,) = rehome(saga, (agent_id, E164))
    drive(saga, operation_id)
    operation = saga.snapshot(operation_id).operation
    assert (operation.status, operation.error_code) == (OperationStatus.FAILED, ErrorCode.TWILIO_TRUNK_LIMIT)
    assert (ids_of(saga, agent_id), snapshot(saga.world)) == (before, there)
