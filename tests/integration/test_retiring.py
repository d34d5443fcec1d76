"""Shared trunks that nobody uses any more go, and only those, whatever happens on the way."""

import contextlib
import uuid
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from app.audit.retiring import EMPTY_FOR, KEPT_FOR, RetiringService
from app.db.models import Trunk
from app.domain.errors import ErrorCode
from app.domain.findings import FindingCode
from app.domain.operations import OperationStatus, TrunkMode, TrunkState
from app.path.marks import pool_tag
from app.providers.errors import TransientError, UnknownOutcomeError
from tests.integration.test_service_races import at_once
from tests.integration.test_shared_trunk import posts, work
from tests.support.pooled import assert_pool, pool_trunks, trunk_rows
from tests.support.providers import WorkerDiedError
from tests.support.saga import Saga
from tests.support.short_forms import rounds
from tests.support.toolboxes import tools_of

LOST = UnknownOutcomeError(ErrorCode.PROVIDER_UNAVAILABLE, "No answer.")
TIMEOUT = TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "No answer.")
STRANGER = "+15145559999"


@pytest.fixture
def pooled(saga: Saga) -> Saga:
    """A saga whose agents share trunks."""
    saga.trunk_mode = TrunkMode.SHARED
    return saga


def retiring(saga: Saga) -> RetiringService:
    return saga.sweeper.retiring


def let_days_pass(saga: Saga, days: float = 1.1) -> None:
    with saga.sessions.begin() as session:
        session.execute(update(Trunk).values(emptied_at=Trunk.emptied_at - timedelta(days=days)))
        session.execute(update(Trunk).values(gone_at=Trunk.gone_at - timedelta(days=days)))


def emptied(saga: Saga) -> Trunk:
    """Provision a number and take it down again; a day later its trunk is due."""
    (operation,) = posts(saga, 1)
    saga.drive(operation)
    saga.drive(saga.deprovision(saga.snapshot(operation).agent.id))
    retiring(saga).take_due()
    let_days_pass(saga)
    (row,) = trunk_rows(saga)
    return row


def swept(saga: Saga) -> list[uuid.UUID]:
    """Let the sweeper look once, and workers do what it publishes; return what that was."""
    saga.publisher.retirements.clear()
    saga.sweeper.sweep_trunks()
    for trunk_id in saga.publisher.retirements:
        retiring(saga).retire(trunk_id)
    return saga.publisher.retirements


def row_of(saga: Saga, trunk_id: uuid.UUID) -> Trunk:
    with saga.sessions.begin() as session:
        return session.get_one(Trunk, trunk_id)


def test_a_trunk_goes_a_day_after_its_last_number(pooled: Saga) -> None:
    first, second = posts(pooled, 2)
    for each in (first, second):
        pooled.drive(each)
    for each in (first, second):
        assert swept(pooled) == []
        assert trunk_rows(pooled)[0].emptied_at is None
        pooled.drive(pooled.deprovision(pooled.snapshot(each).agent.id))
    assert swept(pooled) == []
    assert trunk_rows(pooled)[0].emptied_at is not None
    let_days_pass(pooled, 0.9)
    assert swept(pooled) == []
    let_days_pass(pooled, 0.2)
    (trunk_id,) = swept(pooled)
    row = row_of(pooled, trunk_id)
    assert (row.state, row.lease_token) == (TrunkState.GONE, None)
    assert row.gone_at is not None
    assert (pooled.world.carrier.trunks, pooled.world.carrier.urls) == ({}, {})
    assert swept(pooled) == []


def test_a_number_that_comes_in_time_keeps_the_trunk(pooled: Saga) -> None:
    row = emptied(pooled)
    (operation,) = posts(pooled, 1)
    pooled.drive(operation)
    retiring(pooled).retire(row.id)  # published before the number came
    assert swept(pooled) == []
    assert row_of(pooled, row.id).emptied_at is None
    assert_pool(pooled)


def test_a_number_that_came_and_went_between_two_looks_of_the_sweeper_begins_the_day_anew(pooled: Saga) -> None:
    trunk = emptied(pooled)
    (operation,) = posts(pooled, 1)
    pooled.drive(operation)
    pooled.drive(pooled.deprovision(pooled.snapshot(operation).agent.id))
    assert swept(pooled) == []
    assert row_of(pooled, trunk.id).state is TrunkState.ACTIVE


def test_a_look_at_the_next_place_writes_nothing_and_waits_for_nobody(pooled: Saga) -> None:
    trunk = emptied(pooled)
    with pooled.sessions.begin() as session:
        session.execute(update(Trunk).values(is_full=True))
        before = session.scalar(select(Trunk.__table__.c.id).with_for_update())
        place = tools_of(pooled.runner).pool.next_place()
    assert place is not None
    assert place.trunk_id == before == trunk.id
    assert row_of(pooled, trunk.id).is_full


def test_a_message_for_a_trunk_that_is_not_due_does_nothing(pooled: Saga) -> None:
    row = emptied(pooled)
    let_days_pass(pooled, -1)
    retiring(pooled).retire(row.id)
    retiring(pooled).retire(uuid.uuid4())
    assert row_of(pooled, row.id).state is TrunkState.ACTIVE
    assert_pool(pooled)


def test_a_trunk_with_somebody_elses_number_stays_and_says_so(pooled: Saga) -> None:
    row = emptied(pooled)
    stranger = pooled.world.carrier.own_number(STRANGER, trunk_sid=row.twilio_trunk_sid)
    assert swept(pooled) == [row.id]
    now = row_of(pooled, row.id)
    assert now.state is TrunkState.ACTIVE
    assert [one["code"] for one in now.health_findings] == [FindingCode.TRUNK_FOREIGN_NUMBER]
    assert stranger in now.health_findings[0]["detail"]
    assert pooled.world.routing(stranger).trunk_sid == row.twilio_trunk_sid
    let_days_pass(pooled)
    assert swept(pooled) == []  # until an audit has seen that the number is gone
    pooled.world.carrier.route(stranger, trunk_sid=None)
    with pooled.sessions.begin() as session:
        session.execute(update(Trunk).values(health_findings=[]))
    assert swept(pooled) == [row.id]
    assert row_of(pooled, row.id).state is TrunkState.GONE
    assert_pool(pooled)


def test_one_wrong_empty_list_deletes_nothing(pooled: Saga) -> None:
    row = emptied(pooled)
    carrier = pooled.world.carrier
    stranger = carrier.own_number(STRANGER)
    pooled.world.log.plan("carrier.list_trunk_numbers")
    pooled.world.log.plan(
        "carrier.list_trunk_numbers", before=lambda: carrier.route(stranger, trunk_sid=row.twilio_trunk_sid)
    )
    swept(pooled)
    assert pooled.world.routing(stranger).trunk_sid == row.twilio_trunk_sid
    assert pooled.world.log.started["carrier.delete_trunk"] == 0


def test_a_trunk_that_was_never_made_goes_without_a_call_that_deletes(pooled: Saga) -> None:
    pooled.world.carrier.trunk_limit = 0
    (operation,) = posts(pooled, 1)
    pooled.drive(operation)
    retiring(pooled).take_due()
    let_days_pass(pooled)
    (trunk_id,) = swept(pooled)
    assert row_of(pooled, trunk_id).state is TrunkState.GONE
    assert pooled.world.log.started["carrier.delete_trunk"] == 0


def test_a_create_without_an_answer_that_nobody_needs_any_more_is_looked_for(pooled: Saga) -> None:
    (operation,) = posts(pooled, 1)
    pooled.world.log.plan("carrier.create_trunk", after=LOST)
    pooled.advance(operation)
    pooled.deprovision(pooled.snapshot(operation).agent.id)
    pooled.drive(operation)
    assert len(pool_trunks(pooled)) == 1
    retiring(pooled).take_due()
    pooled.expire_trunk_leases()
    let_days_pass(pooled)
    assert swept(pooled) != []
    assert pool_trunks(pooled) == []
    assert trunk_rows(pooled) == []


def test_a_twin_goes_with_its_trunk_unless_it_is_used(pooled: Saga) -> None:
    row = emptied(pooled)
    carrier = pooled.world.carrier
    twin = carrier.own_trunk(pool_tag("test", row.id))
    stranger = carrier.own_number(STRANGER, trunk_sid=twin)
    swept(pooled)
    assert row_of(pooled, row.id).state is TrunkState.ACTIVE
    assert len(carrier.trunks) == 2
    carrier.route(stranger, trunk_sid=None)
    let_days_pass(pooled)
    with pooled.sessions.begin() as session:
        session.execute(update(Trunk).values(health_findings=[]))
    swept(pooled)
    assert carrier.trunks == {}


CALLS = ("carrier.list_trunks", "carrier.list_trunk_numbers", "carrier.delete_trunk")


@pytest.mark.sweep
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("hook", [WorkerDiedError(), TIMEOUT, LOST], ids=["killed", "timeout", "lost"])
def test_whatever_stops_a_retirement_the_next_one_ends_it(
    pooled: Saga, call: str, hook: BaseException, moment: str
) -> None:
    row = emptied(pooled)
    pooled.world.log.plan(call, **{moment: hook})
    pooled.sweeper.sweep_trunks()
    with contextlib.suppress(WorkerDiedError):
        retiring(pooled).retire(row.id)
    assert row_of(pooled, row.id).state is TrunkState.RETIRING
    assert swept(pooled) == []  # what was asked for may still land
    (operation,) = posts(pooled, 1)
    pooled.drive(operation)  # a newcomer gets another trunk, and ends the leases of the time
    assert pooled.status(operation) is OperationStatus.SUCCEEDED
    assert pooled.snapshot(operation).agent.trunk_id != row.id
    pooled.expire_trunk_leases()
    assert swept(pooled) == [row.id]
    assert row_of(pooled, row.id).state is TrunkState.GONE
    assert_pool(pooled)


def test_a_delete_that_lands_late_finds_nobody_on_the_trunk(pooled: Saga) -> None:
    """The worker hangs in its delete until after its lease; meanwhile a stranger's number is on the trunk."""
    row = emptied(pooled)
    carrier = pooled.world.carrier
    pooled.world.log.plan("carrier.delete_trunk", before=TIMEOUT)
    retiring(pooled).retire(row.id)
    stranger = carrier.own_number(STRANGER, trunk_sid=row.twilio_trunk_sid)
    assert swept(pooled) == []
    assert row_of(pooled, row.id).state is TrunkState.RETIRING  # so nobody joins while the delete may land
    pooled.expire_trunk_leases()
    swept(pooled)
    assert row_of(pooled, row.id).state is TrunkState.ACTIVE
    assert pooled.world.routing(stranger).trunk_sid == row.twilio_trunk_sid


def test_a_404_on_the_delete_is_believed_once_reads_agree(pooled: Saga) -> None:
    row = emptied(pooled)
    there = pooled.world.carrier.trunks
    trunks = dict(there)
    pooled.world.log.plan("carrier.delete_trunk", before=there.clear, after=lambda: there.update(trunks))
    retiring(pooled).retire(row.id)
    assert row_of(pooled, row.id).state is TrunkState.RETIRING  # it is there: the 404 was not true
    pooled.world.carrier.trunks.clear()
    pooled.world.carrier.urls.clear()
    pooled.expire_trunk_leases()
    swept(pooled)
    assert row_of(pooled, row.id).state is TrunkState.GONE


def test_the_last_one_leaves_while_another_joins(pooled: Saga, pytestconfig: pytest.Config) -> None:
    """Workers retire, a number leaves and one comes, all at once: it is on this trunk or on another, never on none."""
    for _ in range(rounds(pytestconfig, 12)):
        (leaver,) = posts(pooled, 1)
        pooled.drive(leaver)
        agent_id = pooled.snapshot(leaver).agent.id
        leaving = pooled.deprovision(agent_id)
        joiner = posts(pooled, 1)[0]
        row = next(one for one in trunk_rows(pooled) if one.state is TrunkState.ACTIVE)
        with pooled.sessions.begin() as session:
            long_ago = func.now() - 2 * EMPTY_FOR
            session.execute(update(Trunk).where(Trunk.id == row.id).values(emptied_at=long_ago))

        def retire(trunk_id: uuid.UUID = row.id) -> None:
            for _ in range(20):
                retiring(pooled).retire(trunk_id)

        at_once([lambda one=leaving: work(pooled, one), lambda one=joiner: work(pooled, one), retire, retire])
        assert pooled.status(joiner) is OperationStatus.SUCCEEDED
        assert pooled.status(leaving) is OperationStatus.SUCCEEDED
        pooled.expire_trunk_leases()
        assert_pool(pooled)
        pooled.drive(pooled.deprovision(pooled.snapshot(joiner).agent.id))


def test_rows_of_trunks_that_are_gone_are_purged_in_the_end(pooled: Saga) -> None:
    emptied(pooled)
    swept(pooled)
    assert retiring(pooled).purge() == 0
    let_days_pass(pooled, KEPT_FOR.days + 1)
    assert retiring(pooled).purge() == 1
    with pooled.sessions.begin() as session:
        assert session.scalar(select(func.count()).select_from(Trunk)) == 0
