"""A worker dies at every point of every step, both ways: the operation ends whole or clean, nothing made twice."""

from collections.abc import Callable

import pytest

from app.domain.errors import ErrorCode
from app.domain.operations import NUMBER, NUMBER_ATTACHMENT, VERIFICATION, OperationStatus, PhoneStatus, TrunkMode
from app.path.observed import NumberRouting
from app.providers.errors import RejectedError, TransientError, UnknownOutcomeError
from tests.support.providers import CallLog, WorkerDiedError
from tests.support.saga import DO_CALL, MAKERS, UNDO_CALL, VOICE_URL, WRITES, Saga

CODE = ErrorCode.PROVIDER_UNAVAILABLE

OTHER_E164 = "+15145550002"

Break = Callable[[CallLog, str], None]


def dies_before_the_call(log: CallLog, call: str) -> None:
    log.plan(call, before=WorkerDiedError())


def loses_the_answer(log: CallLog, call: str) -> None:
    error = UnknownOutcomeError if call in WRITES else TransientError
    log.plan(call, after=error(CODE, "The answer was lost."))


def dies_before_the_store(log: CallLog, call: str) -> None:
    log.plan(call, after=WorkerDiedError())


BREAKS = (dies_before_the_call, loses_the_answer, dies_before_the_store)
POINTS = pytest.mark.parametrize("break_", BREAKS, ids=lambda break_: break_.__name__)
DOWN = pytest.mark.parametrize("step", DO_CALL)
UP = pytest.mark.parametrize("step", UNDO_CALL)
UNTOUCHED = NumberRouting(None, None, VOICE_URL)


@POINTS
@DOWN
def test_a_provisioning_broken_off_ends_with_exactly_one_path(
    saga: Saga, number_sid: str, step: str, break_: Break
) -> None:
    operation_id = saga.provision()
    break_(saga.world.log, DO_CALL[step])
    saga.drive(operation_id)
    assert saga.snapshot(operation_id).rows[step].attempts == 2
    assert {call: saga.world.log.applied[call] for call in WRITES} == dict.fromkeys(WRITES, 1)
    saga.assert_provisioned(saga.snapshot(operation_id).agent.id, number_sid)


@DOWN
def test_a_worker_that_dies_after_the_store_leaves_the_step_done(saga: Saga, number_sid: str, step: str) -> None:
    operation_id = saga.provision()
    saga.advance(operation_id, until=step)
    saga.drive(operation_id)
    assert {row.attempts for row in saga.snapshot(operation_id).rows.values()} == {1}
    assert {call: saga.world.log.started[call] for call in WRITES} == dict.fromkeys(WRITES, 1)
    saga.assert_provisioned(saga.snapshot(operation_id).agent.id, number_sid)


@POINTS
@UP
def test_a_rollback_broken_off_ends_failed_with_nothing_left(
    saga: Saga, number_sid: str, step: str, break_: Break
) -> None:
    operation_id = saga.provision()
    saga.world.log.plan(DO_CALL[VERIFICATION], before=RejectedError(ErrorCode.PATH_NOT_VERIFIED, "No path."))
    break_(saga.world.log, UNDO_CALL[step])
    saga.drive(operation_id)
    snapshot = saga.snapshot(operation_id)
    assert snapshot.rows[step].attempts == 2
    assert (snapshot.operation.status, snapshot.operation.error_code) == (OperationStatus.FAILED, "path_not_verified")
    saga.assert_clean(snapshot.agent.id, PhoneStatus.FAILED)
    assert saga.world.routing(number_sid) == UNTOUCHED


@POINTS
@UP
def test_a_deprovisioning_broken_off_ends_with_nothing_left(
    saga: Saga, number_sid: str, step: str, break_: Break
) -> None:
    agent_id = saga.provisioned()
    operation_id = saga.deprovision(agent_id)
    break_(saga.world.log, UNDO_CALL[step])
    saga.drive(operation_id)
    assert saga.snapshot(operation_id).rows[step].attempts == 2
    assert saga.snapshot(operation_id).operation.status is OperationStatus.SUCCEEDED
    saga.assert_clean(agent_id, PhoneStatus.NOT_PROVISIONED)
    assert saga.world.routing(number_sid) == UNTOUCHED


@UP
def test_a_worker_that_dies_after_the_store_leaves_the_step_undone(saga: Saga, number_sid: str, step: str) -> None:
    agent_id = saga.provisioned()
    operation_id = saga.deprovision(agent_id)
    saga.advance(operation_id, until=step)
    saga.drive(operation_id)
    calls = UNDO_CALL.values()
    assert {call: saga.world.log.started[call] for call in calls} == dict.fromkeys(calls, 1)
    saga.assert_clean(agent_id, PhoneStatus.NOT_PROVISIONED)


@POINTS
@DOWN
def test_a_provisioning_broken_off_and_then_cancelled_leaves_nothing(
    saga: Saga, number_sid: str, step: str, break_: Break
) -> None:
    operation_id = saga.provision()
    break_(saga.world.log, DO_CALL[step])
    saga.advance(operation_id)
    agent_id = saga.snapshot(operation_id).agent.id
    assert saga.deprovision(agent_id) == operation_id
    saga.drive(operation_id)
    assert saga.snapshot(operation_id).operation.status is OperationStatus.CANCELLED
    saga.assert_clean(agent_id, PhoneStatus.NOT_PROVISIONED)
    assert saga.world.routing(number_sid) == UNTOUCHED


@pytest.mark.parametrize("step", [*MAKERS, NUMBER_ATTACHMENT])
def test_an_undo_waits_for_a_dead_worker_whose_call_may_still_land(saga: Saga, number_sid: str, step: str) -> None:
    operation_id = saga.provision()
    dies_before_the_call(saga.world.log, DO_CALL[step])
    saga.advance(operation_id)
    lease_until = saga.snapshot(operation_id).rows[step].lease_until
    saga.deprovision(saga.snapshot(operation_id).agent.id)
    saga.advance(operation_id)
    snapshot = saga.snapshot(operation_id)
    assert snapshot.rows[step].lease_until == lease_until
    assert saga.world.log.applied[UNDO_CALL[step]] == 0
    assert snapshot.operation.status is OperationStatus.ROLLING_BACK


READS = [
    "carrier.get_number",
    "carrier.list_origination_urls",
    "platform.list_dispatch_rules",
    "platform.list_inbound_trunks",
]
"""Verification's, side by side."""


def test_the_happy_path_takes_ten_calls_and_no_more(saga: Saga, number_sid: str) -> None:
    saga.provisioned()
    assert saga.world.log.order[:6] == [
        "carrier.find_number",
        "carrier.create_trunk",
        "carrier.create_origination_url",
        "platform.create_inbound_trunk",
        "platform.create_dispatch_rule",
        "carrier.attach_number",
    ]
    assert sorted(saga.world.log.order[6:]) == READS
    assert DO_CALL[NUMBER] == saga.world.log.order[0]


def test_the_happy_path_on_a_standing_shared_trunk_takes_seven_calls_three_of_them_twilio_s(
    saga: Saga, number_sid: str
) -> None:
    saga.trunk_mode = TrunkMode.SHARED
    saga.world.carrier.own_number(OTHER_E164)
    saga.provisioned(e164=OTHER_E164)
    saga.world.log.order.clear()
    agent_id = saga.provisioned()
    assert saga.world.log.order[:4] == [
        "carrier.find_number",
        "platform.create_inbound_trunk",
        "platform.create_dispatch_rule",
        "carrier.attach_number",
    ]
    assert sorted(saga.world.log.order[4:]) == [one for one in READS if one != "carrier.list_origination_urls"]
    saga.assert_provisioned(agent_id, number_sid)
