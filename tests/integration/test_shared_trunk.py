"""Shared trunks under crowds, kills and lost answers: one is made, everybody gets a place, nothing is there twice."""

import time
import uuid
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update

from app.db.engine import make_engine, make_sessions
from app.db.models import Agent, Event, Operation, OperationStep
from app.dev.localstack.servers import PostgresServer
from app.domain.errors import ErrorCode
from app.domain.events import EventName
from app.domain.operations import (
    NUMBER_ATTACHMENT,
    ORIGINATION_URL,
    TRUNK,
    Direction,
    OperationStatus,
    PhoneStatus,
    StepState,
    TrunkMode,
    TrunkState,
)
from app.path.marks import pool_tag
from app.providers.errors import RejectedError, UnknownOutcomeError
from app.saga.chain_plan import plan_of
from app.trunks.pool import Pool
from tests.integration.test_service_races import at_once
from tests.support.pooled import assert_pool, pool_trunks, trunk_rows
from tests.support.providers import WorkerDiedError
from tests.support.saga import ORIGIN, SIP_URI, Saga, wire
from tests.support.short_forms import rounds
from tests.support.toolboxes import tools_of, with_tools

LOST = UnknownOutcomeError(ErrorCode.PROVIDER_UNAVAILABLE, "No answer.")
FULL = RejectedError(ErrorCode.TWILIO_TRUNK_LIMIT, "The account has all its trunks.")
NO_TRUNK = RejectedError(ErrorCode.TWILIO_TRUNK_GONE, "Twilio knows no such trunk.")
MAKERS = ("carrier.create_trunk", "carrier.create_origination_url")
ENDS_S = 60.0


@pytest.fixture
def pooled(saga: Saga) -> Saga:
    """A saga whose agents share trunks."""
    saga.trunk_mode = TrunkMode.SHARED
    return saga


def small(saga: Saga, max_numbers: int) -> Saga:
    """The same world with trunks for fewer numbers."""
    other = wire(saga.sessions, max_numbers=max_numbers)
    tools = replace(tools_of(other.runner), carrier=saga.world.carrier, platform=saga.world.platform)
    return replace(saga, runner=with_tools(other.runner, tools))


def posts(saga: Saga, count: int) -> list[uuid.UUID]:
    """Open provisionings for as many new numbers and agents."""
    first = len(saga.world.carrier.numbers)
    numbers = [f"+1514555{first + n:04}" for n in range(count)]
    for number in numbers:
        saga.world.carrier.own_number(number)
    return [saga.provision(e164=number) for number in numbers]


def work(saga: Saga, operation_id: uuid.UUID) -> None:
    """Do what messages of one operation do until it has ended, with its own rests cut short and no lease of others."""
    deadline = time.monotonic() + ENDS_S
    while not saga.status(operation_id).is_final:
        assert time.monotonic() < deadline, saga.snapshot(operation_id).rows
        with saga.sessions.begin() as session:  # of this one alone: others are at work
            session.execute(update(Operation).where(Operation.id == operation_id).values(idle_kicks=1))
            session.execute(
                update(OperationStep)
                .where(OperationStep.operation_id == operation_id, OperationStep.lease_until.is_not(None))
                .values(lease_until=func.now() - timedelta(hours=1))
            )
        loaded = saga.rows.read(operation_id)
        assert loaded is not None
        saga.run_chain(plan_of(loaded.saga))


def rests(saga: Saga, code: ErrorCode) -> int:
    with saga.sessions.begin() as session:
        is_rest = (Event.event == EventName.STEP_RESTS, Event.detail["code"].astext == code)
        return session.scalar(select(func.count()).where(*is_rest)) or 0


def assert_all(saga: Saga, operations: list[uuid.UUID], status: OperationStatus) -> None:
    ends = {operation: saga.snapshot(operation) for operation in operations}
    details = {one.operation.error_detail for one in ends.values()}
    assert {one.operation.status for one in ends.values()} == {status}, details
    assert all(not one.ledger.keys() & set(pool_trunks(saga)) for one in ends.values())


def test_fifty_first_posts_at_once_make_one_trunk(pooled: Saga) -> None:
    operations = posts(pooled, 50)

    def while_others_wait() -> None:
        deadline = time.monotonic() + ENDS_S
        while rests(pooled, ErrorCode.TRUNK_BEING_MADE) < 20 and time.monotonic() < deadline:
            time.sleep(0.01)

    pooled.world.log.plan("carrier.create_trunk", before=while_others_wait)
    at_once([lambda each=each: work(pooled, each) for each in operations])
    assert_all(pooled, operations, OperationStatus.SUCCEEDED)
    assert [pooled.world.log.started[call] for call in MAKERS] == [1, 1]
    assert_pool(pooled)
    assert rests(pooled, ErrorCode.TRUNK_BEING_MADE) >= 20


def test_waiting_for_a_trunk_costs_no_tries_and_ends_with_the_budget(pooled: Saga) -> None:
    maker, waiting = posts(pooled, 2)
    pooled.world.log.plan("carrier.create_trunk", before=LOST)
    pooled.advance(maker)
    for _ in range(3):
        pooled.expire_leases(waiting)
        pooled.advance(waiting)
    row = pooled.snapshot(waiting).rows[TRUNK]
    assert (row.attempts, row.error_code) == (0, ErrorCode.TRUNK_BEING_MADE)
    loaded = pooled.rows.read(waiting)
    assert loaded is not None
    assert loaded.saga.waited == timedelta()
    assert pooled.world.log.started["carrier.create_trunk"] == 1
    for each in (maker, waiting):
        pooled.drive(each)
    assert_all(pooled, [maker, waiting], OperationStatus.SUCCEEDED)
    assert_pool(pooled)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("call", [*MAKERS, "carrier.list_trunks", "carrier.list_origination_urls"])
def test_a_killed_maker_leaves_one_trunk_to_those_who_wait(pooled: Saga, call: str, moment: str) -> None:
    operations = posts(pooled, 3)
    if "list" in call:  # a look is taken after a try without an answer
        pooled.world.log.plan(MAKERS["url" in call], after=LOST)
    pooled.world.log.plan(call, **{moment: WorkerDiedError()})
    for each in operations:
        pooled.advance(each)
    assert pooled.world.log.started[MAKERS[0]] == 1
    for each in reversed(operations):
        pooled.drive(each)
    assert_all(pooled, operations, OperationStatus.SUCCEEDED)
    assert [pooled.world.log.applied[maker] for maker in MAKERS] == [1, 1]
    assert_pool(pooled)


@dataclass
class DyingPool:
    """A pool whose worker dies before or after one call of one method."""

    pool: Pool
    method: str
    moment: str
    left: int = 1

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.pool, name)
        if name != self.method:
            return method

        def call(*args: Any, **options: Any) -> Any:
            is_last, self.left = self.left == 1, self.left - 1
            if is_last and self.moment == "before":
                raise WorkerDiedError
            answer = method(*args, **options)
            if is_last and self.moment == "after":
                raise WorkerDiedError
            return answer

        return call


@pytest.mark.sweep
@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("method", ["take_place", "begin_making", "keep_made", "keep_checked"])
def test_a_kill_between_two_statements_leaves_one_trunk(pooled: Saga, method: str, nth: int, moment: str) -> None:
    operations = posts(pooled, 2)
    tools = tools_of(pooled.runner)
    dying = replace(tools, pool=DyingPool(tools.pool, method, moment, nth))
    first = replace(pooled, runner=with_tools(pooled.runner, dying))
    first.advance(operations[0])
    for each in reversed(operations):
        pooled.drive(each)
    assert_all(pooled, operations, OperationStatus.SUCCEEDED)
    assert [pooled.world.log.applied[maker] for maker in MAKERS] == [1, 1]
    assert_pool(pooled)


@pytest.mark.parametrize("when", ["at once", "late", "never"])
@pytest.mark.parametrize("call", MAKERS)
def test_a_lost_answer_is_waited_for_and_adopted(pooled: Saga, call: str, when: str) -> None:
    """It lands at once, after others have come to wait for it, or never: nobody makes a second one."""
    operations = posts(pooled, 3)
    carrier = pooled.world.carrier
    pooled.world.log.plan(call, **{"after" if when == "at once" else "before": LOST})
    for each in operations:
        pooled.advance(each)
        pooled.expire_leases(each)
    for each in operations:
        pooled.advance(each)
    assert pooled.world.log.started[call] == 1
    (row,) = trunk_rows(pooled)
    assert row.unsettled_until is not None
    if when == "late":
        tag = pool_tag("test", row.id)
        if call == "carrier.create_trunk":
            carrier.own_trunk(tag)
        else:
            carrier.own_url(row.twilio_trunk_sid or "", SIP_URI, tag)
    for each in operations:
        pooled.drive(each)
    assert_all(pooled, operations, OperationStatus.SUCCEEDED)
    assert pooled.world.log.started[call] == (2 if when == "never" else 1)
    assert_pool(pooled)


@pytest.mark.parametrize("call", MAKERS)
def test_a_maker_that_hangs_and_comes_back_after_its_lease_makes_no_second_one(pooled: Saga, call: str) -> None:
    late, other = posts(pooled, 2)

    def meanwhile() -> None:
        pooled.expire_leases(late)
        pooled.drive(other)

    pooled.world.log.plan(call, before=meanwhile)
    pooled.advance(late)
    assert pooled.status(other) is OperationStatus.SUCCEEDED
    pooled.drive(late)
    assert_all(pooled, [late, other], OperationStatus.SUCCEEDED)
    assert pooled.world.log.applied[call] == 2  # it was made twice, and one is deleted again
    assert_pool(pooled)


@pytest.mark.parametrize("call", MAKERS)
def test_a_late_maker_that_is_first_after_all_wins(pooled: Saga, call: str) -> None:
    """The other one has looked, found nothing, and is about to make it: now the late one's is there."""
    late, other = posts(pooled, 2)
    order = []

    def meanwhile() -> None:
        pooled.expire_leases(late)
        pooled.expire_trunk_leases()
        pooled.world.log.plan(call, after=lambda: order.append("other"), before=back_in_time)
        pooled.advance(other)

    def back_in_time() -> None:
        # Only what the late one does once its call returns can happen here: its write of the row.
        (row,) = trunk_rows(pooled)
        carrier, tag = pooled.world.carrier, pool_tag("test", row.id)
        step = TRUNK if call == MAKERS[0] else ORIGINATION_URL
        on = None if step == TRUNK else row.twilio_trunk_sid
        sid = carrier.own_trunk(tag) if step == TRUNK else carrier.own_url(on or "", SIP_URI, tag)
        assert tools_of(pooled.runner).pool.keep_made(row.id, uuid.uuid4(), step, sid, on, was_there=False) == sid
        order.append("late")

    pooled.world.log.plan(call, before=meanwhile, after=WorkerDiedError())
    pooled.advance(late)
    assert order == ["late", "other"]
    # The first one's own call has taken effect too, and it died: that one is found as a duplicate.
    for each in (late, other):
        pooled.drive(each)
    assert_all(pooled, [late, other], OperationStatus.SUCCEEDED)
    (row,) = trunk_rows(pooled)
    assert row.state is TrunkState.ACTIVE


def test_a_place_is_never_taken_twice_when_trunks_fill_up(pooled: Saga) -> None:
    saga = small(pooled, 3)
    operations = posts(saga, 20)
    at_once([lambda each=each: work(saga, each) for each in operations])
    assert_all(saga, operations, OperationStatus.SUCCEEDED)
    assert_pool(saga, 3)
    assert [row.shard for row in trunk_rows(saga)] == list(range(1, 8))
    assert saga.world.log.applied["carrier.create_trunk"] == 7


def test_the_accounts_last_trunk_fails_clearly_and_room_heals_it(pooled: Saga) -> None:
    pooled.world.carrier.trunk_limit = 0
    operations = posts(pooled, 4)
    at_once([lambda each=each: work(pooled, each) for each in operations])
    assert_all(pooled, operations, OperationStatus.FAILED)
    for each in operations:
        end = pooled.snapshot(each)
        assert end.operation.error_code == ErrorCode.TWILIO_TRUNK_LIMIT
        assert end.agent.trunk_id is None
        pooled.assert_clean(end.agent.id, PhoneStatus.FAILED)
    assert_pool(pooled)
    pooled.world.carrier.trunk_limit = 1
    (again,) = posts(pooled, 1)
    pooled.drive(again)
    assert_all(pooled, [again], OperationStatus.SUCCEEDED)
    assert len(trunk_rows(pooled)) == 1
    assert_pool(pooled)


def test_a_trunk_deleted_by_hand_is_made_again_once(pooled: Saga) -> None:
    (old,) = posts(pooled, 1)
    pooled.drive(old)
    (sid,) = pool_trunks(pooled)
    pooled.world.carrier.delete_trunk(sid)
    (unlucky,) = posts(pooled, 1)
    pooled.advance(unlucky)
    pooled.age(unlucky, tools_of(pooled.runner).timing.lease * 2)
    pooled.drive(unlucky)
    end = pooled.snapshot(unlucky)
    assert (end.operation.status, end.operation.error_code) == (OperationStatus.FAILED, ErrorCode.TWILIO_TRUNK_GONE)
    pooled.world.log.started.clear()
    operations = posts(pooled, 10)
    at_once([lambda each=each: work(pooled, each) for each in operations])
    assert_all(pooled, operations, OperationStatus.SUCCEEDED)
    assert [pooled.world.log.started[maker] for maker in MAKERS] == [1, 1]
    assert len(trunk_rows(pooled)) == 1


def test_a_404_that_is_not_true_deletes_nothing_and_makes_no_second_trunk(pooled: Saga) -> None:
    (old,) = posts(pooled, 1)
    pooled.drive(old)
    before = (dict(pooled.world.carrier.trunks), dict(pooled.world.carrier.urls))
    (unlucky,) = posts(pooled, 1)
    pooled.world.log.plan("carrier.attach_number", before=NO_TRUNK, times=10)
    pooled.advance(unlucky)
    pooled.age(unlucky, tools_of(pooled.runner).timing.lease * 2)
    pooled.drive(unlucky)
    assert pooled.snapshot(unlucky).operation.error_code == ErrorCode.TWILIO_TRUNK_GONE
    assert (pooled.world.carrier.trunks, pooled.world.carrier.urls) == before
    pooled.world.log.heal()
    (again,) = posts(pooled, 1)
    pooled.drive(again)
    assert_all(pooled, [old, again], OperationStatus.SUCCEEDED)
    assert (pooled.world.carrier.trunks, pooled.world.carrier.urls) == before
    assert_pool(pooled)


def test_a_late_attachment_is_taken_off_the_shared_trunk_again(pooled: Saga) -> None:
    (kept,) = posts(pooled, 1)
    pooled.drive(kept)
    (sid,) = pool_trunks(pooled)
    (operation,) = posts(pooled, 1)
    pooled.world.log.plan("carrier.attach_number", before=LOST)
    pooled.advance(operation)
    agent = pooled.snapshot(operation).agent
    pooled.deprovision(agent.id)
    for _ in range(3):
        pooled.expire_leases(operation)
        pooled.run(operation, NUMBER_ATTACHMENT, Direction.UNDO)
    assert pooled.snapshot(operation).rows[NUMBER_ATTACHMENT].state is StepState.UNDONE
    pooled.world.carrier.route(agent.twilio_phone_number_sid or "", trunk_sid=sid)
    pooled.drive(operation)
    assert pooled.world.routing(agent.twilio_phone_number_sid or "").trunk_sid is None
    assert pooled.status_of(agent.id) is PhoneStatus.NOT_PROVISIONED
    assert_pool(pooled)


def test_a_moved_number_keeps_its_trunk_and_its_place(pooled: Saga) -> None:
    saga = small(pooled, 1)
    first, second = posts(saga, 2)
    saga.drive(first)
    saga.drive(second)
    source = saga.snapshot(first).agent
    target = saga.agent("target")
    saga.drive(saga.deprovision(saga.snapshot(second).agent.id))  # the newest trunk has room now
    maintenance = saga.sweeper.audits.maintenance
    moved = maintenance.move(source.id, target, origin=ORIGIN)
    saga.drive(moved.id)
    with saga.sessions.begin() as session:
        agent = session.get_one(Agent, target)
        assert (agent.twilio_trunk_sid, agent.trunk_id) == (source.twilio_trunk_sid, source.trunk_id)
    assert saga.status(moved.id) is OperationStatus.SUCCEEDED
    assert_pool(saga, 1)


def test_cancelled_and_taken_places_never_deadlock(pooled: Saga, pytestconfig: pytest.Config) -> None:
    saga = small(pooled, 2)
    for _ in range(rounds(pytestconfig, 15)):
        operations = posts(saga, 6)
        agents = [saga.snapshot(each).agent.id for each in operations]
        calls = [lambda each=each: work(saga, each) for each in operations]
        calls += [lambda each=each: saga.service.deprovision(each, origin=ORIGIN) for each in agents]
        at_once(calls)
        for each in operations:
            end = saga.snapshot(each)
            assert end.operation.status in {OperationStatus.CANCELLED, OperationStatus.SUCCEEDED}
            failures = {detail["code"] for detail in end.event_details(EventName.STEP_FAILED)}
            assert ErrorCode.INTERNAL_STEP_ERROR not in failures
        assert_pool(saga, 2)


def test_two_installations_in_one_account_leave_each_other_alone(
    pooled: Saga, postgres_server: PostgresServer, template_database: str
) -> None:
    postgres_server.create_database("another_installation", template_database)
    engine = make_engine(postgres_server.url("another_installation"))
    try:
        other = wire(make_sessions(engine))
        other.trunk_mode = TrunkMode.SHARED
        tools = replace(
            tools_of(other.runner), carrier=pooled.world.carrier, platform=pooled.world.platform, instance="other"
        )
        other = replace(other, runner=with_tools(other.runner, tools), world=pooled.world)
        ours, theirs = posts(pooled, 5), posts(other, 5)
        everybody = [*((pooled, each) for each in ours), *((other, each) for each in theirs)]
        at_once([lambda saga=saga, each=each: work(saga, each) for saga, each in everybody])
        assert_all(pooled, ours, OperationStatus.SUCCEEDED)
        assert_all(other, theirs, OperationStatus.SUCCEEDED)
        assert len(pooled.world.carrier.trunks) == 2
        assert_pool(pooled)
        assert_pool(other, instance="other")
        for each in ours:
            pooled.drive(pooled.deprovision(pooled.snapshot(each).agent.id))
        assert_pool(other, instance="other")
        assert len(pooled.world.platform.trunks) == 5
    finally:
        engine.dispose()
