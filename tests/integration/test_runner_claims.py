"""Who may act on a step, and what becomes of those who may not: stale messages, duplicates, lost leases, twins."""

import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from app.db.models import Agent, Operation
from app.domain.errors import ErrorCode
from app.domain.events import EventName
from app.domain.operations import (
    DISPATCH_RULE,
    INBOUND_TRUNK,
    NUMBER,
    NUMBER_ATTACHMENT,
    ORIGINATION_URL,
    STEPS,
    TRUNK,
    VERIFICATION,
    Direction,
    OperationStatus,
    PhoneStatus,
    StepState,
)
from app.path.marks import tag_of
from app.providers.errors import ProviderError, RejectedError, TransientError, UnknownOutcomeError
from app.saga.machine import LEASE_MARGIN
from app.saga.runner import Outcome
from app.saga.state import Verdict
from tests.support.providers import WorkerDiedError
from tests.support.saga import DO_CALL, FINISHED, MAKERS, SIP_URI, TIMING, UNDO_CALL, Saga

TWILIO_BRANCH = (TRUNK, ORIGINATION_URL)
LIVEKIT_BRANCH = (INBOUND_TRUNK, DISPATCH_RULE)

STALE = Outcome(Verdict.STALE)
LOST = Outcome(Verdict.LOST)
DONE = Outcome(Verdict.DONE)
UNAVAILABLE = ErrorCode.PROVIDER_UNAVAILABLE
DEADLINE_S = 20.0
DOWN = pytest.mark.parametrize("step", DO_CALL)


def unknown() -> UnknownOutcomeError:
    return UnknownOutcomeError(UNAVAILABLE, "No answer came.")


def stands_before(saga: Saga, step: str) -> uuid.UUID:
    """Return an operation of which `step` is the next."""
    operation_id = saga.provision()
    names = [each.name for each in STEPS]
    if step != names[0]:
        saga.advance(operation_id, until=names[names.index(step) - 1])
    return operation_id


@DOWN
def test_a_message_of_another_epoch_stops_without_a_call(saga: Saga, number_sid: str, step: str) -> None:
    operation_id = stands_before(saga, step)
    before = saga.snapshot(operation_id)
    calls = len(saga.world.log.order)
    for epoch in (-1, 1):
        assert saga.runner.run_step(operation_id, epoch, step, Direction.DO) == STALE
    after = saga.snapshot(operation_id)
    assert len(saga.world.log.order) == calls
    assert (after.rows[step].attempts, len(after.events)) == (0, len(before.events))


@pytest.mark.parametrize("step", UNDO_CALL)
def test_a_message_of_the_other_direction_stops_without_a_call(saga: Saga, number_sid: str, step: str) -> None:
    operation_id = saga.provision()
    saga.advance(operation_id, until=NUMBER_ATTACHMENT)
    calls = len(saga.world.log.order)
    assert saga.run(operation_id, step, Direction.UNDO) == STALE
    down = saga.deprovision(saga.snapshot(operation_id).agent.id)
    assert saga.run(down, step, Direction.DO) == STALE
    assert len(saga.world.log.order) == calls


def test_a_message_for_no_operation_at_all_stops(saga: Saga) -> None:
    assert saga.runner.run_step(uuid.uuid4(), 0, NUMBER, Direction.DO) == STALE


def test_a_message_for_an_operation_that_has_ended_stops(saga: Saga, number_sid: str) -> None:
    operation_id = saga.provision()
    saga.drive(operation_id)
    calls = len(saga.world.log.order)
    assert saga.run(operation_id, VERIFICATION) == STALE
    assert len(saga.world.log.order) == calls


@DOWN
def test_a_live_lease_stops_a_second_delivery(saga: Saga, number_sid: str, step: str) -> None:
    operation_id = stands_before(saga, step)
    saga.world.log.plan(DO_CALL[step], before=WorkerDiedError())
    saga.advance(operation_id)
    before = saga.snapshot(operation_id)
    calls = len(saga.world.log.order)
    with saga.sessions.begin() as session:
        session.get_one(Operation, operation_id).wake_at = before.now + timedelta(hours=1)
    assert saga.run(operation_id, step) == STALE
    after = saga.snapshot(operation_id)
    assert len(saga.world.log.order) == calls
    assert (after.rows[step].lease_token, after.rows[step].attempts) == (before.rows[step].lease_token, 1)
    assert after.rows[step].lease_until is not None
    assert after.operation.wake_at == after.rows[step].lease_until + LEASE_MARGIN


@DOWN
def test_a_claim_writes_lease_intent_and_wake_up_before_the_call(saga: Saga, number_sid: str, step: str) -> None:
    operation_id = stands_before(saga, step)
    saga.world.log.plan(DO_CALL[step], before=WorkerDiedError())
    saga.advance(operation_id)
    snapshot = saga.snapshot(operation_id)
    row = snapshot.rows[step]
    assert (row.state, row.attempts, row.intent) == (StepState.RUNNING, 1, {"do": step, "attempt": 1})
    assert row.lease_token is not None
    assert row.lease_until is not None
    assert timedelta() < row.lease_until - snapshot.now <= TIMING.lease
    assert snapshot.operation.wake_at == row.lease_until + LEASE_MARGIN
    assert snapshot.operation.idle_kicks == 0
    assert snapshot.event_details(EventName.STEP_STARTED, step) == [{"attempt": 1}]


@DOWN
def test_a_step_that_is_done_goes_on_without_a_call(saga: Saga, number_sid: str, step: str) -> None:
    operation_id = saga.provision()
    saga.advance(operation_id, until=NUMBER_ATTACHMENT)
    calls = len(saga.world.log.order)
    if step != VERIFICATION:
        assert saga.run(operation_id, step) == DONE
    assert len(saga.world.log.order) == calls


def test_a_step_before_its_turn_stops_both_ways(saga: Saga, number_sid: str) -> None:
    operation_id = saga.provision()
    assert saga.run(operation_id, ORIGINATION_URL) == STALE
    saga.drive(operation_id)
    down = saga.deprovision(saga.snapshot(operation_id).agent.id)
    assert saga.run(down, TRUNK) == STALE
    assert sum(saga.world.log.started[call] for call in UNDO_CALL.values()) == 0


@pytest.mark.parametrize("order", [(*TWILIO_BRANCH, *LIVEKIT_BRANCH), (*LIVEKIT_BRANCH, *TWILIO_BRANCH)])
def test_where_the_branches_meet_only_the_one_that_ends_last_goes_on(
    saga: Saga, number_sid: str, order: tuple[str, ...]
) -> None:
    operation_id = stands_before(saga, TRUNK)
    verdicts = [saga.run(operation_id, step).verdict for step in order]
    assert verdicts == [Verdict.DONE, Verdict.OTHER_BRANCH, Verdict.DONE, Verdict.DONE]


@pytest.mark.parametrize("step", MAKERS)
def test_two_deliveries_at_once_make_one_resource(saga: Saga, number_sid: str, step: str) -> None:
    operation_id = stands_before(saga, step)
    entered, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        entered.set()
        assert go_on.wait(DEADLINE_S)

    saga.world.log.plan(DO_CALL[step], before=hold)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(saga.runner.run_step, operation_id, 0, step, Direction.DO)
        assert entered.wait(DEADLINE_S)
        assert saga.run(operation_id, step) == STALE
        go_on.set()
        assert first.result(DEADLINE_S).verdict in FINISHED
    assert saga.world.log.started[DO_CALL[step]] == 1


@pytest.mark.parametrize("step", [TRUNK, ORIGINATION_URL])
def test_undo_deletes_what_only_the_ledger_knows(saga: Saga, number_sid: str, step: str) -> None:
    """Two workers hold the same step, one after the other: the late one's twin is on no row but in the ledger."""
    operation_id = stands_before(saga, step)

    def be_overtaken() -> None:
        saga.expire_leases(operation_id)
        assert saga.run(operation_id, step).verdict in FINISHED

    saga.world.log.plan(DO_CALL[step], before=be_overtaken)
    assert saga.runner.run_step(operation_id, 0, step, Direction.DO) == LOST
    snapshot = saga.snapshot(operation_id)
    late = (set(saga.world.ours()[step]) - {snapshot.rows[step].resource_id}).pop()
    assert snapshot.ledger[late].deleted_at is None
    # Somebody gives it another name: no list shows that it is ours.
    there: dict[str, Any] = saga.world.carrier.trunks if step == TRUNK else saga.world.carrier.urls
    there[late] = replace(there[late], tag="renamed", **({} if step == TRUNK else {"is_enabled": False}))
    assert snapshot.event_details(EventName.RESOURCE_SEEN_LATE, step) == [{"resource_id": late}]
    assert snapshot.rows[step].state is StepState.DONE
    saga.deprovision(snapshot.agent.id)
    saga.drive(operation_id)
    assert late not in there, f"{late} is left, which only the ledger knew"
    saga.assert_clean(snapshot.agent.id, PhoneStatus.NOT_PROVISIONED)


@pytest.mark.parametrize("step", [TRUNK, INBOUND_TRUNK])
def test_a_lost_lease_writes_the_ledger_and_leaves_the_row_alone(saga: Saga, number_sid: str, step: str) -> None:
    """The call lands after undo has looked and ended: nobody but the late worker can know of the resource."""
    operation_id = stands_before(saga, step)

    def be_undone() -> None:
        saga.expire_leases(operation_id)
        saga.deprovision(saga.snapshot(operation_id).agent.id)
        saga.drive(operation_id)

    saga.world.log.plan(DO_CALL[step], before=be_undone)
    assert saga.runner.run_step(operation_id, 0, step, Direction.DO) == LOST
    snapshot = saga.snapshot(operation_id)
    (late,) = saga.world.ours()[step]
    assert (snapshot.operation.status, snapshot.rows[step].state) == (OperationStatus.CANCELLED, StepState.UNDONE)
    assert snapshot.rows[step].resource_id is None
    assert (snapshot.agent.twilio_trunk_sid, snapshot.agent.livekit_inbound_trunk_id) == (None, None)
    assert snapshot.ledger[late].deleted_at is None
    assert snapshot.event_details(EventName.RESOURCE_SEEN_LATE, step) == [{"resource_id": late}]


@pytest.mark.parametrize("step", [TRUNK, INBOUND_TRUNK])
def test_what_came_late_goes_with_the_next_deprovisioning(saga: Saga, number_sid: str, step: str) -> None:
    test_a_lost_lease_writes_the_ledger_and_leaves_the_row_alone(saga, number_sid, step)
    with saga.sessions.begin() as session:
        agent_id = session.scalars(select(Agent.id)).one()
    saga.provisioned(agent_id=agent_id)
    saga.drive(saga.deprovision(agent_id))
    saga.assert_clean(agent_id, PhoneStatus.NOT_PROVISIONED)


@pytest.mark.parametrize("step", [INBOUND_TRUNK, DISPATCH_RULE])
def test_a_late_duplicate_that_conflicts_with_itself_turns_nothing_round(
    saga: Saga, number_sid: str, step: str
) -> None:
    operation_id = stands_before(saga, step)

    def be_overtaken() -> None:
        saga.expire_leases(operation_id)
        assert saga.run(operation_id, step).verdict in FINISHED

    saga.world.log.plan(DO_CALL[step], before=be_overtaken)
    assert saga.runner.run_step(operation_id, 0, step, Direction.DO) == LOST
    saga.drive(operation_id)
    saga.assert_provisioned(saga.snapshot(operation_id).agent.id, number_sid)


def test_a_late_undo_marks_the_ledger_and_leaves_the_row_alone(saga: Saga, number_sid: str) -> None:
    operation_id = saga.deprovision(saga.provisioned())
    saga.advance(operation_id, until=ORIGINATION_URL)

    def be_overtaken() -> None:
        saga.expire_leases(operation_id)
        assert saga.run(operation_id, TRUNK) == DONE

    saga.world.log.plan(UNDO_CALL[TRUNK], before=be_overtaken)
    assert saga.run(operation_id, TRUNK) == LOST
    snapshot = saga.snapshot(operation_id)
    assert snapshot.operation.status is OperationStatus.SUCCEEDED
    saga.assert_clean(snapshot.agent.id, PhoneStatus.NOT_PROVISIONED)


def test_a_resource_that_arrives_while_undo_waits_for_it_is_taken_down(saga: Saga, number_sid: str) -> None:
    """Cancelled with the lease alive: undo leaves the step to its holder, who stores it and says that it goes back."""
    operation_id = stands_before(saga, TRUNK)

    def be_cancelled() -> None:
        saga.deprovision(saga.snapshot(operation_id).agent.id)
        assert saga.run(operation_id, TRUNK, Direction.UNDO) == STALE

    saga.world.log.plan(DO_CALL[TRUNK], before=be_cancelled)
    assert saga.runner.run_step(operation_id, 0, TRUNK, Direction.DO) == Outcome(Verdict.ROLLING_BACK)
    snapshot = saga.snapshot(operation_id)
    assert (snapshot.rows[TRUNK].state, snapshot.operation.status) == (StepState.DONE, OperationStatus.ROLLING_BACK)
    assert snapshot.operation.wake_at is not None
    assert snapshot.operation.wake_at <= snapshot.now
    saga.drive(operation_id)
    saga.assert_clean(snapshot.agent.id, PhoneStatus.NOT_PROVISIONED)


@pytest.mark.parametrize(
    "error", [unknown(), TransientError(UNAVAILABLE, "Busy."), RejectedError(UNAVAILABLE, "No.")], ids=repr
)
def test_a_failure_that_arrives_while_undo_waits_for_it_is_looked_after(
    saga: Saga, number_sid: str, error: ProviderError
) -> None:
    operation_id = stands_before(saga, TRUNK)
    saga.world.log.plan(DO_CALL[TRUNK], before=lambda: _cancelled(saga, operation_id, error))
    assert saga.runner.run_step(operation_id, 0, TRUNK, Direction.DO).verdict is Verdict.ROLLING_BACK
    assert saga.snapshot(operation_id).operation.status is OperationStatus.ROLLING_BACK
    saga.drive(operation_id)
    assert saga.snapshot(operation_id).operation.error_code == ErrorCode.CANCELLED
    saga.assert_clean(saga.snapshot(operation_id).agent.id, PhoneStatus.NOT_PROVISIONED)


def _cancelled(saga: Saga, operation_id: uuid.UUID, error: ProviderError) -> None:
    saga.deprovision(saga.snapshot(operation_id).agent.id)
    raise error


@pytest.mark.parametrize("step", [TRUNK, ORIGINATION_URL])
def test_the_oldest_is_adopted_and_the_others_are_deleted(saga: Saga, number_sid: str, step: str) -> None:
    operation_id = stands_before(saga, step)
    make = _twin_maker(saga, operation_id, step)
    oldest = make()

    def leave_another() -> None:
        make()
        raise unknown()

    saga.world.log.plan(DO_CALL[step], before=leave_another)
    saga.advance(operation_id)
    saga.expire_leases(operation_id)
    assert saga.run(operation_id, step).verdict in FINISHED
    assert saga.world.ours()[step] == [oldest]
    saga.drive(operation_id)
    snapshot = saga.snapshot(operation_id)
    assert snapshot.rows[step].resource_id == oldest
    (twin,) = snapshot.event_details(EventName.TWINS_REMOVED, step)[0]["ids"]
    assert twin != oldest
    assert saga.world.log.applied[DO_CALL[step]] == 0
    saga.assert_provisioned(snapshot.agent.id, number_sid)


def _twin_maker(saga: Saga, operation_id: uuid.UUID, step: str) -> Callable[[], str]:
    """Return what puts another one of ours at the provider, without a call of ours."""
    agent = saga.snapshot(operation_id).agent
    tag = tag_of("test", agent.id)
    if step == TRUNK:
        return lambda: saga.world.carrier.own_trunk(tag)
    return lambda: saga.world.carrier.own_url(str(agent.twilio_trunk_sid), SIP_URI, tag)


@pytest.mark.parametrize("step", [TRUNK, ORIGINATION_URL])
def test_verification_deletes_the_twins_of_an_uncertain_operation(saga: Saga, number_sid: str, step: str) -> None:
    operation_id = saga.provision()
    saga.world.log.plan(DO_CALL[INBOUND_TRUNK], after=unknown())
    saga.advance(operation_id)
    twin = _twin_maker(saga, operation_id, step)()
    saga.drive(operation_id)
    snapshot = saga.snapshot(operation_id)
    assert snapshot.event_details(EventName.TWINS_REMOVED, VERIFICATION) == [{"ids": [twin]}]
    saga.assert_provisioned(snapshot.agent.id, number_sid)


def test_verification_of_an_uncertain_operation_deletes_nobody_elses(saga: Saga, number_sid: str) -> None:
    foreign = saga.world.carrier.own_trunk(tag_of("other", uuid.uuid4()))
    saga.world.platform.own_rule(saga.world.platform.own_trunk("+15145550000"), "other")
    operation_id = saga.provision()
    saga.world.log.plan(DO_CALL[INBOUND_TRUNK], after=unknown())
    saga.drive(operation_id)
    assert saga.snapshot(operation_id).event_details(EventName.TWINS_REMOVED) == []
    assert foreign in saga.world.carrier.trunks
    assert len(saga.world.platform.rules) == len(saga.world.platform.trunks) == 2
