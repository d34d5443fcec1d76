"""What waiting for a provider's room does to the rows: a rest that is neither a failure nor spent time."""

from datetime import timedelta

import pytest

from app.domain.errors import ErrorCode
from app.domain.events import EventName
from app.domain.operations import NUMBER_ATTACHMENT, TRUNK, OperationStatus, PhoneStatus, StepState
from app.providers.callers import CallPriority, current_caller
from app.providers.errors import TransientError
from app.saga.machine import UNDO_TRIES
from app.saga.runner import Outcome
from app.saga.state import Verdict
from tests.support.saga import DO_CALL, TIMING, UNDO_CALL, Saga

DOWN = pytest.mark.parametrize("step", DO_CALL)
UP = pytest.mark.parametrize("step", UNDO_CALL)
HELD_S = 5.0


def held_back() -> TransientError:
    return TransientError(ErrorCode.PROVIDER_BUSY, "It waits for its turn.", retry_after_s=HELD_S)


@DOWN
def test_a_step_that_was_held_back_has_not_been_tried(saga: Saga, number_sid: str, step: str) -> None:
    operation_id = saga.provision()
    saga.world.log.plan(DO_CALL[step], before=held_back(), times=3)
    for _ in range(3):
        assert saga.advance(operation_id) == Outcome(Verdict.RESTS, timedelta(seconds=2 * HELD_S))
        row = saga.snapshot(operation_id).rows[step]
        assert (row.state, row.intent, row.attempts) == (StepState.PENDING, None, 0)
        assert row.error_code == ErrorCode.PROVIDER_BUSY
        saga.expire_leases(operation_id)
    saga.drive(operation_id)
    assert {row.attempts for row in saga.snapshot(operation_id).rows.values()} == {1}


@DOWN
def test_time_spent_waiting_for_a_turn_is_not_the_operations(saga: Saga, number_sid: str, step: str) -> None:
    operation_id = saga.provision()
    saga.world.log.plan(DO_CALL[step], before=held_back(), times=2)
    assert saga.advance(operation_id).verdict is Verdict.RESTS
    saga.expire_leases(operation_id)
    saga.age(operation_id, TIMING.budget + timedelta(seconds=HELD_S))
    assert saga.advance(operation_id).verdict is Verdict.RESTS
    saga.expire_leases(operation_id)
    saga.drive(operation_id)
    assert saga.status(operation_id) is OperationStatus.SUCCEEDED


def test_time_spent_otherwise_is(saga: Saga, number_sid: str) -> None:
    operation_id = saga.provision()
    saga.world.log.plan(DO_CALL[TRUNK], before=held_back())
    saga.advance(operation_id)
    saga.expire_leases(operation_id)
    saga.age(operation_id, TIMING.budget + timedelta(seconds=3 * HELD_S))
    assert saga.advance(operation_id).verdict is Verdict.ROLLING_BACK


@UP
def test_an_undo_that_is_held_back_asks_for_nobodys_attention(saga: Saga, number_sid: str, step: str) -> None:
    agent_id = saga.provisioned()
    operation_id = saga.deprovision(agent_id)
    saga.world.log.plan(UNDO_CALL[step], before=held_back(), times=2 * UNDO_TRIES)
    for _ in range(2 * UNDO_TRIES):
        assert saga.advance(operation_id).verdict is Verdict.RESTS
        saga.expire_leases(operation_id)
    assert saga.snapshot(operation_id).event_details(EventName.OPERATION_NEEDS_ATTENTION) == []
    saga.drive(operation_id)
    saga.assert_clean(agent_id, PhoneStatus.NOT_PROVISIONED)


def test_a_step_held_back_half_way_looks_first_when_it_comes_again(saga: Saga, number_sid: str) -> None:
    operation_id = saga.provision()

    def half_way() -> None:
        current_caller().has_called = True
        raise held_back()

    saga.world.log.plan("carrier.attach_number", after=half_way)
    assert saga.advance(operation_id).verdict is Verdict.RESTS
    row = saga.snapshot(operation_id).rows[NUMBER_ATTACHMENT]
    assert (row.attempts, row.intent is not None) == (1, True)


def test_a_single_operation_calls_with_single_priority_within_its_lease(saga: Saga, number_sid: str) -> None:
    operation_id = saga.provision()
    seen = []
    saga.world.log.plan(DO_CALL[TRUNK], after=lambda: seen.append(current_caller()))
    saga.drive(operation_id)
    assert [caller.priority for caller in seen] == [CallPriority.SINGLE]
    assert seen[0].last_start_at == saga.clock.now + (TIMING.lease - TIMING.provider_timeout).total_seconds()
