"""The requests of clients: rows before messages, and refusals with 404 and 409."""

import uuid
from datetime import timedelta

import pytest
from sqlalchemy import func, select

from app.db.models import Agent, Operation
from app.domain.errors import ErrorCode, RefusedError
from app.domain.events import EventName
from app.domain.operations import (
    NUMBER_ATTACHMENT,
    STEPS,
    TRUNK,
    Direction,
    OperationKind,
    OperationStatus,
    PhoneStatus,
    StepState,
)
from app.numbers.service import ProvisioningService
from app.providers.errors import RejectedError, TransientError, UnknownOutcomeError
from app.saga.chain_plan import Plan
from app.saga.state import MESSAGE_GRACE
from tests.support.saga import DO_CALL, E164, ORIGIN, UNDO_CALL, Saga

OTHER = "+15145551235"
FOREVER = 10**6


def refusal(saga: Saga, agent_id: uuid.UUID, e164: str = E164) -> ErrorCode:
    with pytest.raises(RefusedError) as caught:
        saga.provision(agent_id=agent_id, e164=e164)
    return caught.value.code


def failed(saga: Saga) -> uuid.UUID:
    """Provision and fail; return the operation's id."""
    operation_id = saga.provision()
    saga.world.log.plan(DO_CALL[TRUNK], before=RejectedError(ErrorCode.TWILIO_TRUNK_LIMIT, "Full."))
    saga.drive(operation_id)
    assert saga.snapshot(operation_id).operation.status is OperationStatus.FAILED
    return operation_id


def test_provisioning_claims_the_number_and_publishes_every_step(saga: Saga) -> None:
    operation_id = saga.provision(takeover=True)
    snapshot = saga.snapshot(operation_id)
    operation = snapshot.operation
    assert (operation.kind, operation.status, operation.epoch) == (OperationKind.PROVISION, OperationStatus.QUEUED, 0)
    assert (operation.phone_number, operation.takeover) == (E164, True)
    assert (operation.requested_by, operation.request_id) == (ORIGIN.requested_by, ORIGIN.request_id)
    assert operation.wake_at is not None
    assert timedelta() < operation.wake_at - operation.created_at <= MESSAGE_GRACE + timedelta(seconds=1)
    assert snapshot.agent.phone_provisioning_status is PhoneStatus.PENDING
    assert snapshot.agent.twilio_phone_number == E164
    assert {row.state for row in snapshot.rows.values()} == {StepState.PENDING}
    steps = tuple(step.name for step in STEPS)
    assert saga.publisher.plans == [Plan(operation_id, 0, OperationKind.PROVISION, Direction.DO, steps)]


def test_the_rows_are_committed_before_the_message_goes_out(saga: Saga) -> None:
    seen = []

    class Looking:
        def publish(self, plan: Plan) -> bool:
            seen.append(saga.snapshot(plan.operation_id).operation.status)
            return True

    service = ProvisioningService(saga.sessions, Looking(), saga.rows)
    agent_id = saga.agent()
    service.provision(agent_id, E164, takeover=False, origin=ORIGIN)
    service.deprovision(agent_id, origin=ORIGIN)
    assert seen == [OperationStatus.QUEUED]


def test_requests_are_accepted_without_a_broker(saga: Saga, number_sid: str) -> None:
    saga.publisher.accepts = False
    operation_id = saga.provision()
    assert saga.snapshot(operation_id).operation.status is OperationStatus.QUEUED


@pytest.mark.parametrize("ask", ["provision", "deprovision"])
def test_an_unknown_agent_is_not_found(saga: Saga, ask: str) -> None:
    unknown = uuid.uuid4()
    with pytest.raises(RefusedError) as caught:
        saga.provision(agent_id=unknown) if ask == "provision" else saga.service.deprovision(unknown, origin=ORIGIN)
    assert caught.value.code is ErrorCode.AGENT_NOT_FOUND


def test_a_deleted_agent_is_not_found(saga: Saga) -> None:
    agent_id = saga.agent()
    with saga.sessions.begin() as session:
        session.get_one(Agent, agent_id).deleted_at = func.now()
    assert refusal(saga, agent_id) is ErrorCode.AGENT_NOT_FOUND


@pytest.mark.parametrize("e164", [E164, OTHER])
def test_an_agent_with_a_number_gets_no_second_one(saga: Saga, number_sid: str, e164: str) -> None:
    agent_id = saga.provisioned()
    assert refusal(saga, agent_id, e164) is ErrorCode.AGENT_HAS_PHONE
    saga.assert_provisioned(agent_id, number_sid)


@pytest.mark.parametrize("e164", [E164, OTHER])
def test_an_agent_with_an_open_operation_is_busy(saga: Saga, e164: str) -> None:
    operation_id = saga.provision()
    agent_id = saga.snapshot(operation_id).agent.id
    assert refusal(saga, agent_id, e164) is ErrorCode.OPERATION_IN_PROGRESS
    assert len(saga.publisher.plans) == 1


def test_a_refused_request_leaves_no_trace(saga: Saga, number_sid: str) -> None:
    saga.provisioned()
    second = saga.agent()
    assert refusal(saga, second) is ErrorCode.NUMBER_IN_USE
    assert saga.status_of(second) is PhoneStatus.NOT_PROVISIONED
    with saga.sessions.begin() as session:
        assert session.scalar(select(func.count()).select_from(Operation)) == 1


def test_a_number_stays_claimed_until_its_last_resource_is_gone(saga: Saga, number_sid: str) -> None:
    down = saga.deprovision(saga.provisioned())
    second = saga.agent()
    for step in UNDO_CALL:
        assert refusal(saga, second) is ErrorCode.NUMBER_IN_USE
        saga.run(down, step)
    saga.provisioned(agent_id=second)
    saga.assert_provisioned(second, number_sid)


def test_a_number_stays_claimed_while_a_rollback_cannot_finish(saga: Saga, number_sid: str) -> None:
    operation_id = saga.provision()
    saga.world.log.plan(DO_CALL[NUMBER_ATTACHMENT], before=RejectedError(ErrorCode.TWILIO_REJECTED, "No."))
    saga.world.log.plan(UNDO_CALL[TRUNK], before=RejectedError(ErrorCode.TWILIO_REJECTED, "No."), times=FOREVER)
    saga.drive_until(operation_id, OperationStatus.NEEDS_ATTENTION)
    assert refusal(saga, saga.agent()) is ErrorCode.NUMBER_IN_USE
    saga.world.log.heal()
    saga.drive(operation_id)
    saga.provisioned(agent_id=saga.agent("next"))


def test_a_failed_agent_can_be_provisioned_again(saga: Saga, number_sid: str) -> None:
    agent_id = saga.snapshot(failed(saga)).agent.id
    saga.provisioned(agent_id=agent_id)
    saga.assert_provisioned(agent_id, number_sid)


def test_deprovisioning_publishes_the_undo_steps_and_keeps_the_ids(saga: Saga, number_sid: str) -> None:
    agent_id = saga.provisioned()
    operation_id = saga.deprovision(agent_id)
    snapshot = saga.snapshot(operation_id)
    assert snapshot.agent.phone_provisioning_status is PhoneStatus.DEPROVISIONING
    plan = Plan(operation_id, 0, OperationKind.DEPROVISION, Direction.UNDO, tuple(UNDO_CALL))
    assert saga.publisher.plans[-1] == plan
    assert snapshot.rows[TRUNK].resource_id == snapshot.agent.twilio_trunk_sid
    assert snapshot.rows[NUMBER_ATTACHMENT].resource_id == number_sid


def test_a_second_deprovisioning_joins_the_first(saga: Saga, number_sid: str) -> None:
    agent_id = saga.provisioned()
    first = saga.deprovision(agent_id)
    plans = len(saga.publisher.plans)
    assert saga.deprovision(agent_id) == first
    assert len(saga.publisher.plans) == plans


def test_an_agent_without_a_number_has_nothing_to_deprovision(saga: Saga) -> None:
    assert saga.service.deprovision(saga.agent(), origin=ORIGIN) is None


def test_deprovisioning_a_failed_agent_clears_the_status(saga: Saga, number_sid: str) -> None:
    agent_id = saga.snapshot(failed(saga)).agent.id
    assert saga.service.deprovision(agent_id, origin=ORIGIN) is None
    assert saga.status_of(agent_id) is PhoneStatus.NOT_PROVISIONED


@pytest.mark.parametrize("done", range(len(STEPS)))
def test_a_cancelled_provisioning_undoes_what_it_built(saga: Saga, number_sid: str, done: int) -> None:
    operation_id = saga.provision()
    if done:
        saga.advance(operation_id, until=STEPS[done - 1].name)
    agent_id = saga.snapshot(operation_id).agent.id
    assert saga.deprovision(agent_id) == operation_id
    snapshot = saga.snapshot(operation_id)
    # Before the trunk there is nothing to undo, and no worker is needed.
    immediate = done < 2
    expected = OperationStatus.CANCELLED if immediate else OperationStatus.ROLLING_BACK
    assert (snapshot.operation.status, snapshot.operation.epoch) == (expected, 1)
    if immediate:
        assert len(saga.publisher.plans) == 1 + done
    else:
        assert saga.publisher.plans[-1].direction is Direction.UNDO
        assert saga.publisher.plans[-1].epoch == 1
        saga.drive(operation_id)
    assert saga.snapshot(operation_id).operation.status is OperationStatus.CANCELLED
    saga.assert_clean(agent_id, PhoneStatus.NOT_PROVISIONED)
    assert saga.service.deprovision(agent_id, origin=ORIGIN) is None


def test_a_rollback_that_a_client_joins_ends_cancelled(saga: Saga, number_sid: str) -> None:
    operation_id = saga.provision()
    saga.world.log.plan(DO_CALL[NUMBER_ATTACHMENT], before=RejectedError(ErrorCode.TWILIO_REJECTED, "No."))
    saga.advance(operation_id)
    agent_id = saga.snapshot(operation_id).agent.id
    assert saga.deprovision(agent_id) == operation_id
    assert saga.snapshot(operation_id).operation.epoch == 1
    saga.drive(operation_id)
    assert saga.snapshot(operation_id).operation.status is OperationStatus.CANCELLED
    saga.assert_clean(agent_id, PhoneStatus.NOT_PROVISIONED)


def test_retry_publishes_an_open_operation_at_once(saga: Saga, number_sid: str) -> None:
    operation_id = saga.provision()
    saga.world.log.plan(
        DO_CALL[TRUNK], before=TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "Busy.", retry_after_s=60)
    )
    saga.advance(operation_id)
    assert saga.service.retry(operation_id, origin=ORIGIN).id == operation_id
    snapshot = saga.snapshot(operation_id)
    assert snapshot.operation.wake_at is not None
    assert snapshot.operation.wake_at <= snapshot.now
    assert snapshot.event_details(EventName.OPERATION_RETRIED) == [ORIGIN.in_trail()]
    saga.run_chain(saga.publisher.plans[-1])
    saga.assert_provisioned(snapshot.agent.id, number_sid)


def test_retry_does_not_cut_short_the_quiet_period(saga: Saga, number_sid: str) -> None:
    operation_id = saga.provision()
    saga.world.log.plan(DO_CALL[TRUNK], before=UnknownOutcomeError(ErrorCode.PROVIDER_UNAVAILABLE, "No answer."))
    saga.advance(operation_id)
    rest = saga.snapshot(operation_id).rows[TRUNK].lease_until
    saga.service.retry(operation_id, origin=ORIGIN)
    saga.run_chain(saga.publisher.plans[-1])
    assert saga.snapshot(operation_id).rows[TRUNK].lease_until == rest
    assert saga.world.log.started[DO_CALL[TRUNK]] == 1


@pytest.mark.parametrize("broken", [TRUNK, NUMBER_ATTACHMENT])
def test_retry_tries_an_undo_that_needs_attention_at_once(saga: Saga, number_sid: str, broken: str) -> None:
    """Also when the step itself ended with an unknown outcome: its quiet period ended before the undo began."""
    operation_id = saga.provision()
    saga.world.log.plan(DO_CALL[broken], after=RuntimeError("a defect"))
    saga.world.log.plan(UNDO_CALL[broken], before=RejectedError(ErrorCode.TWILIO_REJECTED, "No."))
    saga.drive_until(operation_id, OperationStatus.NEEDS_ATTENTION)
    saga.service.retry(operation_id, origin=ORIGIN)
    saga.run_chain(saga.publisher.plans[-1])
    assert saga.snapshot(operation_id).operation.status is OperationStatus.FAILED


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_retry_of_a_provisioning_that_ended_starts_a_new_one(saga: Saga, number_sid: str, end: str) -> None:
    old = failed(saga) if end == "failed" else saga.provision(takeover=True)
    if end == "cancelled":
        saga.deprovision(saga.snapshot(old).agent.id)
    new = saga.service.retry(old, origin=ORIGIN)
    assert new.id != old
    assert (new.phone_number, new.takeover) == (E164, end == "cancelled")
    saga.drive(new.id)
    saga.assert_provisioned(new.agent_id, number_sid)


def test_retry_of_what_succeeded_is_refused(saga: Saga, number_sid: str) -> None:
    operation_id = saga.provision()
    saga.drive(operation_id)
    with pytest.raises(RefusedError) as caught:
        saga.service.retry(operation_id, origin=ORIGIN)
    assert caught.value.code is ErrorCode.OPERATION_FINISHED


def test_retry_of_an_unknown_operation_is_not_found(saga: Saga) -> None:
    with pytest.raises(RefusedError) as caught:
        saga.service.retry(uuid.uuid4(), origin=ORIGIN)
    assert caught.value.code is ErrorCode.OPERATION_NOT_FOUND


def test_only_an_open_operation_is_republished(saga: Saga, number_sid: str) -> None:
    operation_id = saga.provision()
    saga.advance(operation_id, until=TRUNK)
    assert saga.plan(operation_id).steps == tuple(step.name for step in STEPS[2:])
    saga.drive(operation_id)
    assert saga.service.republish(operation_id) is False
    assert saga.service.republish(uuid.uuid4()) is False


def test_waiting_ends_with_the_operation(saga: Saga, number_sid: str) -> None:
    operation_id = saga.provision()
    service = ProvisioningService(
        saga.sessions, saga.publisher, saga.rows, sleep=lambda _: saga.drive(operation_id), clock=saga.clock
    )
    assert service.wait(operation_id, timedelta(seconds=5)).status is OperationStatus.SUCCEEDED


def test_waiting_ends_when_the_operation_needs_attention(saga: Saga, number_sid: str) -> None:
    operation_id = saga.provision()
    saga.world.log.plan(DO_CALL[NUMBER_ATTACHMENT], before=RejectedError(ErrorCode.TWILIO_REJECTED, "No."))
    saga.world.log.plan(UNDO_CALL[TRUNK], before=RejectedError(ErrorCode.TWILIO_REJECTED, "No."), times=FOREVER)
    saga.drive_until(operation_id, OperationStatus.NEEDS_ATTENTION)
    assert saga.service.wait(operation_id, timedelta(seconds=5)).status is OperationStatus.NEEDS_ATTENTION
    assert saga.clock.sleeps == []


def test_waiting_ends_at_its_timeout(saga: Saga) -> None:
    operation_id = saga.provision()
    start = saga.clock.now
    assert saga.service.wait(operation_id, timedelta(seconds=1)).status is OperationStatus.QUEUED
    assert saga.clock.now - start == pytest.approx(1)
    assert saga.clock.sleeps[:4] == [0.02, 0.05, 0.1, 0.2]
