"""What a failed undo does to the rows, on rollback and on deprovisioning: it rests, asks for a person, goes on."""

import uuid
from datetime import timedelta

import pytest

from app.domain.errors import ErrorCode
from app.domain.events import EventName
from app.domain.operations import NUMBER_ATTACHMENT, TRUNK, VERIFICATION, OperationStatus, PhoneStatus, StepState
from app.path.observed import NumberRouting
from app.providers.errors import RejectedError, TransientError
from app.saga.machine import UNDO_TRIES
from app.saga.runner import BACKOFF_CAP_S, Outcome
from app.saga.state import MESSAGE_GRACE, Verdict
from tests.support.saga import DO_CALL, E164, TIMING, UNDO_CALL, VOICE_URL, Saga

UNAVAILABLE = ErrorCode.PROVIDER_UNAVAILABLE
FOREVER = 10**6
UP = pytest.mark.parametrize("step", UNDO_CALL)
WAYS = pytest.mark.parametrize("way", ["rollback", "deprovision"])
UNTOUCHED = NumberRouting(None, None, VOICE_URL)


def going_up(saga: Saga, way: str) -> uuid.UUID:
    """Return an operation whose whole path stands and is about to be taken down."""
    if way == "deprovision":
        return saga.deprovision(saga.provisioned())
    operation_id = saga.provision()
    saga.world.log.plan(DO_CALL[VERIFICATION], before=RejectedError(ErrorCode.PATH_NOT_VERIFIED, "No path."))
    outcome = saga.advance(operation_id)
    assert outcome == Outcome(Verdict.ROLLING_BACK)
    return operation_id


def open_statuses(way: str) -> tuple[OperationStatus, PhoneStatus]:
    if way == "deprovision":
        return OperationStatus.RUNNING, PhoneStatus.DEPROVISIONING
    return OperationStatus.ROLLING_BACK, PhoneStatus.ROLLING_BACK


def assert_ended(saga: Saga, operation_id: uuid.UUID, way: str, number_sid: str) -> None:
    snapshot = saga.snapshot(operation_id)
    if way == "deprovision":
        assert (snapshot.operation.status, snapshot.operation.error_code) == (OperationStatus.SUCCEEDED, None)
        saga.assert_clean(snapshot.agent.id, PhoneStatus.NOT_PROVISIONED)
    else:
        assert (snapshot.operation.status, snapshot.operation.error_code) == (
            OperationStatus.FAILED,
            ErrorCode.PATH_NOT_VERIFIED,
        )
        saga.assert_clean(snapshot.agent.id, PhoneStatus.FAILED)
    assert saga.world.routing(number_sid) == UNTOUCHED


@WAYS
@UP
def test_a_transient_error_lets_the_undo_rest(saga: Saga, number_sid: str, step: str, way: str) -> None:
    operation_id = going_up(saga, way)
    saga.world.log.plan(UNDO_CALL[step], before=TransientError(UNAVAILABLE, "Busy."))
    assert saga.advance(operation_id) == Outcome(Verdict.RESTS, timedelta(seconds=0.5))
    snapshot = saga.snapshot(operation_id)
    row, operation = snapshot.rows[step], snapshot.operation
    assert (row.state, row.lease_token, row.error_code) == (StepState.UNDOING, None, UNAVAILABLE)
    assert row.lease_until is not None
    assert operation.wake_at == row.lease_until + MESSAGE_GRACE
    assert (operation.status, snapshot.agent.phone_provisioning_status) == open_statuses(way)
    saga.drive(operation_id)
    assert_ended(saga, operation_id, way, number_sid)


@WAYS
@UP
def test_an_undo_that_keeps_failing_needs_attention_and_names_what_is_left(
    saga: Saga, number_sid: str, step: str, way: str
) -> None:
    operation_id = going_up(saga, way)
    before = saga.snapshot(operation_id).operation.error_code
    saga.world.log.plan(UNDO_CALL[step], before=TransientError(UNAVAILABLE, "Busy."), times=FOREVER)
    snapshot = saga.drive_until(operation_id, OperationStatus.NEEDS_ATTENTION)
    assert snapshot.rows[step].attempts == UNDO_TRIES
    assert snapshot.agent.phone_provisioning_status is open_statuses(way)[1]
    assert snapshot.operation.error_code == (before or UNAVAILABLE)
    live = {entry.external_id for entry in snapshot.ledger.values() if entry.deleted_at is None}
    (told,) = snapshot.event_details(EventName.OPERATION_NEEDS_ATTENTION)
    assert set(told.pop("leftovers")) == live == {sid for kind in saga.world.ours().values() for sid in kind}
    assert told == {"code": UNAVAILABLE, "reason": "Busy."}
    saga.world.log.heal()
    saga.drive(operation_id)
    assert_ended(saga, operation_id, way, number_sid)


@WAYS
@UP
@pytest.mark.parametrize(
    "error", [RejectedError(ErrorCode.TWILIO_REJECTED, "No."), RuntimeError("a defect")], ids=["refusal", "defect"]
)
def test_an_undo_refused_needs_attention_at_once_and_is_tried_again_twice_a_minute(
    saga: Saga, number_sid: str, step: str, way: str, error: Exception
) -> None:
    operation_id = going_up(saga, way)
    saga.world.log.plan(UNDO_CALL[step], before=error, times=2)
    for verdict in (Verdict.ATTENTION, Verdict.RESTS):
        assert saga.advance(operation_id) == Outcome(verdict, timedelta(seconds=BACKOFF_CAP_S))
        assert saga.snapshot(operation_id).operation.status is OperationStatus.NEEDS_ATTENTION
        saga.expire_leases(operation_id)
    assert len(saga.snapshot(operation_id).event_details(EventName.OPERATION_NEEDS_ATTENTION)) == 1
    saga.drive(operation_id)
    assert_ended(saga, operation_id, way, number_sid)


@WAYS
def test_an_undo_that_works_again_needs_nobody_any_more(saga: Saga, number_sid: str, way: str) -> None:
    operation_id = going_up(saga, way)
    first = next(iter(UNDO_CALL))
    saga.world.log.plan(UNDO_CALL[first], before=RejectedError(ErrorCode.TWILIO_REJECTED, "No."))
    saga.drive_until(operation_id, OperationStatus.NEEDS_ATTENTION)
    saga.expire_leases(operation_id)
    assert saga.run(operation_id, first) == Outcome(Verdict.DONE)
    snapshot = saga.snapshot(operation_id)
    assert (snapshot.operation.status, snapshot.agent.phone_provisioning_status) == open_statuses(way)


def test_an_undo_is_tried_for_ever_whatever_the_budget(saga: Saga, number_sid: str) -> None:
    operation_id = going_up(saga, "rollback")
    saga.age(operation_id, 10 * TIMING.budget)
    saga.world.log.plan(UNDO_CALL[TRUNK], before=TransientError(UNAVAILABLE, "Busy."), times=FOREVER)
    rests = []
    for _ in range(10):
        outcome = saga.advance(operation_id)
        assert outcome is not None
        rests.append(outcome.rest.total_seconds())
        saga.expire_leases(operation_id)
    assert rests == [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30]
    saga.world.log.heal()
    saga.drive(operation_id)
    assert_ended(saga, operation_id, "rollback", number_sid)


def test_a_trunk_that_somebody_put_a_number_on_is_not_deleted(saga: Saga, number_sid: str) -> None:
    operation_id = going_up(saga, "deprovision")
    (trunk_sid,) = saga.world.ours()[TRUNK]
    guest = saga.world.carrier.own_number("+15145550000", trunk_sid=trunk_sid)
    snapshot = saga.drive_until(operation_id, OperationStatus.NEEDS_ATTENTION)
    assert snapshot.operation.error_code == ErrorCode.TWILIO_TRUNK_IN_USE
    assert snapshot.event_details(EventName.OPERATION_NEEDS_ATTENTION)[0]["leftovers"] == [trunk_sid]
    assert saga.world.routing(guest).trunk_sid == trunk_sid
    saga.world.carrier.route(guest, trunk_sid=None)
    saga.drive(operation_id)
    assert_ended(saga, operation_id, "deprovision", number_sid)


@pytest.mark.parametrize(
    "routing", [{"trunk_sid": "TK" + "f" * 32}, {"trunk_sid": None, "voice_application_sid": "AP1"}]
)
def test_a_number_that_was_moved_away_is_left_alone(
    saga: Saga, number_sid: str, routing: dict[str, str | None]
) -> None:
    operation_id = going_up(saga, "deprovision")
    saga.world.carrier.route(number_sid, **routing)
    moved = saga.world.routing(number_sid)
    saga.drive(operation_id)
    assert saga.world.routing(number_sid) == moved
    assert saga.world.log.started["carrier.detach_number"] == saga.world.log.started["carrier.restore_routing"] == 0
    saga.assert_clean(saga.snapshot(operation_id).agent.id, PhoneStatus.NOT_PROVISIONED)


def test_a_number_that_left_the_account_stops_nobody(saga: Saga, number_sid: str) -> None:
    operation_id = going_up(saga, "deprovision")
    del saga.world.carrier.numbers[number_sid]
    saga.drive(operation_id)
    saga.assert_clean(saga.snapshot(operation_id).agent.id, PhoneStatus.NOT_PROVISIONED)


@pytest.mark.parametrize("way", ["rollback", "deprovision"])
def test_a_takeover_puts_the_old_trunk_back(saga: Saga, way: str) -> None:
    foreign = saga.world.carrier.own_trunk("somebody else's")
    number = saga.world.carrier.own_number(E164, trunk_sid=foreign)
    operation_id = saga.provision(takeover=True)
    if way == "rollback":
        saga.world.log.plan(DO_CALL[VERIFICATION], before=RejectedError(ErrorCode.PATH_NOT_VERIFIED, "No path."))
    saga.drive(operation_id)
    agent = saga.snapshot(operation_id).agent
    if way == "deprovision":
        assert agent.previous_routing == {"trunk_sid": foreign, "voice_application_sid": None, "voice_url": None}
        saga.assert_provisioned(agent.id, number)
        saga.drive(saga.deprovision(agent.id))
    assert saga.world.routing(number).trunk_sid == foreign
    saga.assert_clean(agent.id, PhoneStatus.FAILED if way == "rollback" else PhoneStatus.NOT_PROVISIONED)


def test_the_snapshot_of_a_takeover_survives_a_second_look(saga: Saga) -> None:
    """The first try attached the number: what the second sees is our own trunk, not what was there before us."""
    foreign = saga.world.carrier.own_trunk("somebody else's")
    number = saga.world.carrier.own_number(E164, trunk_sid=foreign)
    operation_id = saga.provision(takeover=True)
    saga.world.log.plan(DO_CALL[NUMBER_ATTACHMENT], after=TransientError(UNAVAILABLE, "Busy."), times=3)
    saga.drive(operation_id)
    saga.drive(saga.deprovision(saga.snapshot(operation_id).agent.id))
    assert saga.world.routing(number).trunk_sid == foreign


@pytest.mark.parametrize("place", [{"trunk_sid": "TK" + "f" * 32}, {"application_sid": "AP" + "f" * 32}])
def test_a_number_in_use_elsewhere_is_refused_and_not_touched(saga: Saga, place: dict[str, str]) -> None:
    number = saga.world.carrier.own_number(E164, **place)
    before = saga.world.routing(number)
    operation_id = saga.provision()
    saga.drive(operation_id)
    assert saga.snapshot(operation_id).operation.error_code == ErrorCode.NUMBER_ALREADY_ROUTED
    assert saga.world.log.order == ["carrier.find_number"]
    assert saga.world.routing(number) == before
