"""What one failed call does to the rows on the way down: rest, roll back, give up; and that it heals."""

import uuid
from collections.abc import Iterator
from datetime import timedelta

import pytest

from app.domain.errors import ErrorCode
from app.domain.events import EventName
from app.domain.operations import (
    DISPATCH_RULE,
    INBOUND_TRUNK,
    NUMBER,
    NUMBER_ATTACHMENT,
    ORIGINATION_URL,
    TRUNK,
    VERIFICATION,
    OperationStatus,
    PhoneStatus,
    StepState,
)
from app.path.observed import NumberRouting
from app.providers.errors import ProviderError, RejectedError, TransientError, UnknownOutcomeError
from app.saga.runner import Outcome
from app.saga.state import MESSAGE_GRACE, Verdict
from tests.support.providers import WorkerDiedError
from tests.support.saga import DO_CALL, MAKERS, TIMING, UNDO_CALL, VOICE_URL, WRITES, Saga

UNAVAILABLE = ErrorCode.PROVIDER_UNAVAILABLE
REFUSED = ErrorCode.TWILIO_REJECTED
DOWN = pytest.mark.parametrize("step", DO_CALL)
UNCERTAIN = pytest.mark.parametrize("step", [*MAKERS, NUMBER_ATTACHMENT])
QUIET = timedelta(seconds=12)
FOREVER = 10**6


def transient(retry_after_s: float | None = None) -> TransientError:
    return TransientError(UNAVAILABLE, "Twilio is busy.", retry_after_s=retry_after_s)


def rejected() -> RejectedError:
    return RejectedError(REFUSED, "Twilio refused.")


def unknown() -> UnknownOutcomeError:
    return UnknownOutcomeError(UNAVAILABLE, "No answer came.")


@DOWN
def test_a_transient_error_lets_the_step_rest_with_nothing_to_look_for(saga: Saga, number_sid: str, step: str) -> None:
    operation_id = saga.provision()
    saga.world.log.plan(DO_CALL[step], before=transient())
    assert saga.advance(operation_id) == Outcome(Verdict.RESTS, timedelta(seconds=0.5))
    snapshot = saga.snapshot(operation_id)
    row, operation = snapshot.rows[step], snapshot.operation
    assert (row.state, row.lease_token, row.intent) == (StepState.PENDING, None, None)
    assert (row.error_code, row.error_detail) == (UNAVAILABLE, "Twilio is busy.")
    assert row.lease_until is not None
    assert row.lease_until < snapshot.now + timedelta(seconds=0.5)
    assert operation.wake_at == row.lease_until + MESSAGE_GRACE
    assert (operation.status, operation.epoch, operation.error_code) == (OperationStatus.RUNNING, 0, None)
    assert snapshot.event_details(EventName.STEP_RESTS, step) == [
        {"code": UNAVAILABLE, "reason": "Twilio is busy.", "rest_s": 0.5, "attempt": 1}
    ]


@DOWN
def test_a_provider_that_comes_back_is_waited_out(saga: Saga, number_sid: str, step: str) -> None:
    operation_id = saga.provision()
    saga.world.log.plan(DO_CALL[step], before=transient(), times=6)
    saga.drive(operation_id)
    snapshot = saga.snapshot(operation_id)
    assert (snapshot.rows[step].attempts, snapshot.rows[step].error_code) == (7, None)
    assert {call: saga.world.log.applied[call] for call in WRITES} == dict.fromkeys(WRITES, 1)
    saga.assert_provisioned(snapshot.agent.id, number_sid)


@UNCERTAIN
def test_an_unknown_outcome_rests_the_quiet_period_and_keeps_the_intent(saga: Saga, number_sid: str, step: str) -> None:
    operation_id = saga.provision()
    saga.world.log.plan(DO_CALL[step], before=unknown())
    assert saga.advance(operation_id) == Outcome(Verdict.RESTS, QUIET)
    row = saga.snapshot(operation_id).rows[step]
    assert (row.state, row.intent) == (StepState.PENDING, {"do": step, "attempt": 1})
    assert row.lease_until is not None
    assert row.lease_until > saga.snapshot(operation_id).now + QUIET - timedelta(seconds=2)


@UNCERTAIN
def test_a_second_failure_before_the_look_keeps_the_question_open(saga: Saga, number_sid: str, step: str) -> None:
    """The write of the first try landed; the look of the second fails; only a look that works may decide."""
    look_call = {
        TRUNK: "carrier.list_trunks",
        ORIGINATION_URL: "carrier.list_origination_urls",
        INBOUND_TRUNK: "platform.list_inbound_trunks",
        DISPATCH_RULE: "platform.list_dispatch_rules",
        NUMBER_ATTACHMENT: "carrier.get_number",
    }[step]
    operation_id = saga.provision()
    saga.world.log.plan(DO_CALL[step], after=unknown())
    saga.world.log.plan(look_call, before=transient())
    for _ in range(2):
        saga.advance(operation_id)
        saga.expire_leases(operation_id)
    assert saga.snapshot(operation_id).rows[step].attempts == 2
    assert saga.snapshot(operation_id).rows[step].intent == {"do": step, "attempt": 2}
    saga.drive(operation_id)
    assert saga.world.log.applied[DO_CALL[step]] == 1
    saga.assert_provisioned(saga.snapshot(operation_id).agent.id, number_sid)


@DOWN
def test_a_refusal_turns_the_operation_round(saga: Saga, number_sid: str, step: str) -> None:
    operation_id = saga.provision()
    saga.world.log.plan(DO_CALL[step], before=rejected())
    assert saga.advance(operation_id) == Outcome(Verdict.ROLLING_BACK)
    snapshot = saga.snapshot(operation_id)
    row, operation = snapshot.rows[step], snapshot.operation
    # A refused step wrote nothing, so there is nothing of it to undo; on the first two, nothing at all.
    assert (row.state, row.intent, row.lease_until) == (StepState.UNDONE, None, None)
    assert (row.error_code, row.error_detail) == (REFUSED, "Twilio refused.")
    expected = OperationStatus.FAILED if step in {NUMBER, TRUNK} else OperationStatus.ROLLING_BACK
    assert (operation.status, operation.epoch) == (expected, 1)
    assert (operation.error_code, operation.error_detail) == (REFUSED, "Twilio refused.")
    assert snapshot.event_details(EventName.STEP_FAILED, step) == [{"code": REFUSED, "reason": "Twilio refused."}]
    assert snapshot.event_details(EventName.OPERATION_TURNED) == [{"code": REFUSED, "reason": "Twilio refused."}]


@DOWN
def test_a_refused_provisioning_ends_failed_with_nothing_left(saga: Saga, number_sid: str, step: str) -> None:
    operation_id = saga.provision()
    saga.world.log.plan(DO_CALL[step], before=rejected())
    saga.drive(operation_id)
    snapshot = saga.snapshot(operation_id)
    assert (snapshot.operation.status, snapshot.operation.wake_at) == (OperationStatus.FAILED, None)
    assert snapshot.operation.finished_at is not None
    assert snapshot.event_details(EventName.OPERATION_FAILED) == [{"code": REFUSED}]
    saga.assert_clean(snapshot.agent.id, PhoneStatus.FAILED)
    assert saga.world.routing(number_sid) == NumberRouting(None, None, VOICE_URL)


@DOWN
def test_a_defect_of_ours_turns_round_and_is_looked_after(saga: Saga, number_sid: str, step: str) -> None:
    """What a defect left is not known: the intent stays, and undo looks at the provider's own list."""
    operation_id = saga.provision()
    saga.world.log.plan(DO_CALL[step], after=RuntimeError("a defect"))
    assert saga.advance(operation_id) == Outcome(Verdict.ROLLING_BACK)
    snapshot = saga.snapshot(operation_id)
    assert snapshot.operation.error_code == ErrorCode.INTERNAL_STEP_ERROR
    if step in UNDO_CALL:
        assert (snapshot.rows[step].state, snapshot.rows[step].lease_until) == (StepState.FAILED, None)
        assert snapshot.rows[step].intent is not None
    saga.drive(operation_id)
    assert saga.snapshot(operation_id).operation.status is OperationStatus.FAILED
    saga.assert_clean(snapshot.agent.id, PhoneStatus.FAILED)


@pytest.fixture
def resting(saga: Saga, number_sid: str) -> Iterator[Saga]:
    """A saga whose trunk creation fails, whatever is tried."""
    saga.world.log.plan(DO_CALL[TRUNK], before=transient(), times=FOREVER)
    return saga


def rests(saga: Saga, tries: int) -> list[float]:
    operation_id = saga.provision()
    found = []
    for _ in range(tries):
        outcome = saga.advance(operation_id)
        assert outcome is not None
        found.append(outcome.rest.total_seconds())
        saga.expire_leases(operation_id)
    return found


def test_the_back_off_doubles_up_to_half_a_minute(resting: Saga) -> None:
    assert rests(resting, 9) == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_the_back_off_is_spread_from_nothing_to_its_ceiling(resting: Saga) -> None:
    asked = []

    def jitter(low: float, high: float) -> float:
        asked.append((low, high))
        return 0.25

    object.__setattr__(resting.runner, "jitter", jitter)
    assert rests(resting, 3) == [0.25, 0.25, 0.25]
    assert asked == [(0, 0.5), (0, 1), (0, 2)]


@pytest.mark.parametrize(("wish", "rest"), [(17.0, 17.0), (0.1, 0.5), (90.0, 90.0)])
def test_a_step_never_comes_back_sooner_than_the_provider_asks(
    saga: Saga, number_sid: str, wish: float, rest: float
) -> None:
    saga.world.log.plan(DO_CALL[TRUNK], before=transient(wish))
    assert rests(saga, 1) == [rest]


@pytest.mark.parametrize("error", [transient(QUIET.total_seconds()), unknown()], ids=lambda error: type(error).__name__)
@DOWN
def test_a_spent_budget_rolls_back_with_provider_unavailable(
    saga: Saga, number_sid: str, step: str, error: ProviderError
) -> None:
    operation_id = saga.provision()
    saga.world.log.plan(DO_CALL[step], before=error, times=FOREVER)
    saga.advance(operation_id)
    saga.expire_leases(operation_id)
    saga.age(operation_id, TIMING.budget - QUIET / 2)
    assert saga.advance(operation_id) == Outcome(Verdict.ROLLING_BACK, QUIET)
    operation = saga.snapshot(operation_id).operation
    assert operation.error_code == UNAVAILABLE
    assert operation.error_detail == f"Gave up after repeated failures at {step}. {error.detail}"
    saga.drive(operation_id)
    assert saga.snapshot(operation_id).operation.status is OperationStatus.FAILED
    saga.assert_clean(saga.snapshot(operation_id).agent.id, PhoneStatus.FAILED)


@DOWN
def test_a_budget_spent_by_dying_workers_turns_round_without_another_call(
    saga: Saga, number_sid: str, step: str
) -> None:
    operation_id = saga.provision()
    saga.world.log.plan(DO_CALL[step], before=WorkerDiedError())
    saga.advance(operation_id)
    saga.expire_leases(operation_id)
    saga.age(operation_id, TIMING.budget)
    calls = len(saga.world.log.order)
    assert saga.advance(operation_id) == Outcome(Verdict.ROLLING_BACK)
    assert len(saga.world.log.order) == calls
    operation = saga.snapshot(operation_id).operation
    assert operation.error_detail == f"Gave up after repeated failures at {step}. Its workers died."
    saga.drive(operation_id)
    saga.assert_clean(saga.snapshot(operation_id).agent.id, PhoneStatus.FAILED)


BELOW_THE_TRUNK = pytest.mark.parametrize("step", [ORIGINATION_URL, NUMBER_ATTACHMENT])
A_MINUTE = timedelta(seconds=60)


def drive_in_time(saga: Saga, operation_id: uuid.UUID) -> timedelta:
    """Drive the operation while the pauses that it asks for pass; return how long they were in all."""
    passed = timedelta()
    while not saga.status(operation_id).is_final:
        rest = saga.advance(operation_id).rest
        saga.expire_leases(operation_id)
        saga.age(operation_id, rest)
        passed += rest
    return passed


@BELOW_THE_TRUNK
def test_a_trunk_that_somebody_deletes_in_the_middle_ends_the_operation_within_a_minute(
    saga: Saga, number_sid: str, step: str
) -> None:
    operation_id = saga.provision()
    saga.world.log.plan(DO_CALL[step], before=saga.world.carrier.trunks.clear)
    assert timedelta(seconds=30) < drive_in_time(saga, operation_id) < A_MINUTE
    assert saga.snapshot(operation_id).operation.error_code == ErrorCode.TWILIO_TRUNK_GONE
    saga.assert_clean(saga.snapshot(operation_id).agent.id, PhoneStatus.FAILED)


@BELOW_THE_TRUNK
def test_a_trunk_that_is_shown_after_ten_seconds_is_waited_for(saga: Saga, number_sid: str, step: str) -> None:
    operation_id, passed = saga.provision(), timedelta()
    hidden = RejectedError(ErrorCode.TWILIO_TRUNK_GONE, "HTTP 404.")
    saga.world.log.plan(DO_CALL[step], before=hidden, times=FOREVER)
    while passed < timedelta(seconds=10):
        outcome = saga.advance(operation_id)
        assert outcome is not None
        assert outcome.verdict is Verdict.RESTS
        saga.expire_leases(operation_id)
        saga.age(operation_id, outcome.rest)
        passed += outcome.rest
    saga.world.log.heal()
    saga.drive(operation_id)
    saga.assert_provisioned(saga.snapshot(operation_id).agent.id, number_sid)


def test_an_attachment_that_never_shows_fails_verification(saga: Saga, number_sid: str) -> None:
    operation_id = saga.provision()
    saga.world.log.plan("carrier.attach_number", after=lambda: saga.world.carrier.route(number_sid, trunk_sid=None))
    outcome = saga.advance(operation_id)
    assert outcome == Outcome(Verdict.ROLLING_BACK)
    assert saga.clock.sleeps == [0.5, 1.0, 2.0, 4.0]
    detail = saga.snapshot(operation_id).operation.error_detail
    assert detail == f"The number is on no trunk. It has a voice URL of its own. (Twilio number {number_sid})"
    saga.drive(operation_id)
    saga.assert_clean(saga.snapshot(operation_id).agent.id, PhoneStatus.FAILED)


def test_a_path_that_never_becomes_whole_fails(saga: Saga, number_sid: str) -> None:
    operation_id = saga.provision()
    saga.advance(operation_id, until=NUMBER_ATTACHMENT)
    saga.world.carrier.urls.clear()
    assert saga.run(operation_id, VERIFICATION).verdict is Verdict.ROLLING_BACK
    operation = saga.snapshot(operation_id).operation
    assert operation.error_code == ErrorCode.PATH_NOT_VERIFIED
    assert operation.error_detail is not None
    assert operation.error_detail.startswith("Our origination URL was deleted. (Origination URL OU")
    saga.drive(operation_id)
    saga.assert_clean(saga.snapshot(operation_id).agent.id, PhoneStatus.FAILED)
