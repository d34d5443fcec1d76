"""Requests without a response: every undo searches for what they may have created, until nothing can land any more."""

import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import update

from app.db.models import Operation, OperationStep
from app.domain.errors import ErrorCode
from app.domain.operations import (
    DISPATCH_RULE,
    INBOUND_TRUNK,
    NUMBER_ATTACHMENT,
    ORIGINATION_URL,
    TRUNK,
    VERIFICATION,
    Direction,
    OperationStatus,
    PhoneStatus,
    StepState,
)
from app.providers.callers import current_caller
from app.providers.errors import RejectedError, UnknownOutcomeError
from app.saga.context import tag_of
from app.saga.runner import Outcome
from app.saga.state import Verdict
from tests.support.providers import WorkerDiedError
from tests.support.saga import DO_CALL, MAKERS, SIP_URI, TIMING, UNDO_CALL, Saga
from tests.support.step_context import make_context

LOST = UnknownOutcomeError(ErrorCode.PROVIDER_UNAVAILABLE, "No answer.")
REFUSED = RejectedError(ErrorCode.PATH_NOT_VERIFIED, "No path.")

MADE = pytest.mark.parametrize("step", MAKERS)


def land(saga: Saga, operation_id: uuid.UUID, step: str) -> str:
    """Make an earlier request of this step take effect now."""
    agent = saga.snapshot(operation_id).agent
    tag, context = tag_of("test", agent.id), make_context(saga.world, agent_id=agent.id)
    trunk, inbound = str(agent.twilio_trunk_sid), str(agent.livekit_inbound_trunk_id)
    landing: dict[str, Callable[[], str]] = {
        TRUNK: lambda: saga.world.carrier.own_trunk(tag),
        ORIGINATION_URL: lambda: saga.world.carrier.own_url(trunk, SIP_URI, tag),
        INBOUND_TRUNK: lambda: saga.world.platform.own_trunk(
            context.phone_number, name=tag, metadata=context.spec.label.metadata
        ),
        DISPATCH_RULE: lambda: saga.world.platform.own_rule(
            inbound, "support", name=tag, metadata=context.spec.label.metadata
        ),
    }
    return landing[step]()


def lose(saga: Saga, step: str) -> uuid.UUID:
    """Provision up to this step, whose request gets no response."""
    operation_id = saga.provision()
    saga.world.log.plan(DO_CALL[step], before=LOST)
    saga.drive_to(operation_id, lambda: saga.snapshot(operation_id).rows[step].unsettled_until is not None)
    return operation_id


def end_rest(saga: Saga, operation_id: uuid.UUID, step: str) -> None:
    """End the step's pause, but not its quiet period."""
    with saga.sessions.begin() as session:
        which = (OperationStep.operation_id == operation_id, OperationStep.name == step)
        session.execute(update(OperationStep).where(*which).values(lease_until=None))
        # As everybody does who changes steps.
        session.execute(update(Operation).values(idle_kicks=Operation.idle_kicks))


@MADE
def test_what_lands_after_an_empty_search_is_found_by_the_undo(saga: Saga, number_sid: str, step: str) -> None:
    operation_id = lose(saga, step)
    saga.world.log.plan(DO_CALL[NUMBER_ATTACHMENT], before=REFUSED)
    saga.drive_until(operation_id, OperationStatus.ROLLING_BACK)
    assert len(saga.world.ours()[step]) == 1
    land(saga, operation_id, step)
    saga.drive(operation_id)
    saga.assert_clean(saga.snapshot(operation_id).agent.id, PhoneStatus.FAILED)


@MADE
def test_an_undo_waits_until_nothing_can_land_any_more(saga: Saga, number_sid: str, step: str) -> None:
    operation_id = lose(saga, step)
    saga.deprovision(saga.snapshot(operation_id).agent.id)
    end_rest(saga, operation_id, step)
    before = saga.world.log.started.total()
    assert saga.run(operation_id, step) == Outcome(Verdict.STALE)
    snapshot = saga.snapshot(operation_id)
    waits = snapshot.rows[step].unsettled_until
    assert waits is not None
    assert TIMING.settle - timedelta(seconds=5) < waits - snapshot.now <= TIMING.settle
    assert snapshot.operation.wake_at is not None
    assert saga.world.log.started.total() == before
    land(saga, operation_id, step)
    saga.drive(operation_id)
    saga.assert_clean(snapshot.agent.id, PhoneStatus.NOT_PROVISIONED)


@MADE
def test_a_search_with_a_slow_response_proves_nothing(saga: Saga, number_sid: str, step: str) -> None:
    operation_id = lose(saga, step)
    saga.expire_leases(operation_id)
    search = {TRUNK: "carrier.list_trunks", ORIGINATION_URL: "carrier.list_origination_urls"}
    search |= {INBOUND_TRUNK: "platform.list_inbound_trunks", DISPATCH_RULE: "platform.list_dispatch_rules"}
    late = TIMING.stall.total_seconds() + 0.1
    saga.world.log.plan(search[step], before=lambda: current_caller().record_response(late, is_lost=False))
    made = saga.world.log.started[DO_CALL[step]]
    assert saga.run(operation_id, step) == Outcome(Verdict.RESTS, TIMING.quiet)
    assert saga.world.log.started[DO_CALL[step]] == made
    landed = land(saga, operation_id, step)
    saga.drive(operation_id)
    assert saga.world.ours()[step] == [landed]
    saga.assert_provisioned(saga.snapshot(operation_id).agent.id, number_sid)


@MADE
def test_a_number_is_not_provisioned_while_a_duplicate_may_land(saga: Saga, number_sid: str, step: str) -> None:
    operation_id = lose(saga, step)
    for row in saga.snapshot(operation_id).rows:
        end_rest(saga, operation_id, row)
    saga.advance(operation_id)
    assert saga.snapshot(operation_id).rows[VERIFICATION].state is StepState.PENDING
    if step in {TRUNK, ORIGINATION_URL}:  # LiveKit refuses a second one
        land(saga, operation_id, step)
    saga.drive(operation_id)
    saga.assert_provisioned(saga.snapshot(operation_id).agent.id, number_sid)


@pytest.mark.parametrize("step", [INBOUND_TRUNK, DISPATCH_RULE])
def test_a_conflict_with_what_landed_between_search_and_create_is_adopted(
    saga: Saga, number_sid: str, step: str
) -> None:
    operation_id = lose(saga, step)
    saga.world.log.plan(DO_CALL[step], before=lambda: land(saga, operation_id, step))
    saga.drive(operation_id)
    saga.assert_provisioned(saga.snapshot(operation_id).agent.id, number_sid)


def test_what_landed_late_is_made_right_before_it_is_adopted(saga: Saga, number_sid: str) -> None:
    """It is of an earlier wish, or somebody has changed it since: a rule with a PIN would stop every call."""
    operation_id = lose(saga, DISPATCH_RULE)

    def land_with_pin() -> None:
        land(saga, operation_id, DISPATCH_RULE)
        (rule,) = saga.world.platform.rules.values()
        saga.world.platform.rules[rule.id] = replace(rule, pin="1234")

    saga.world.log.plan(DO_CALL[DISPATCH_RULE], before=land_with_pin)
    saga.drive(operation_id)
    agent_id = saga.snapshot(operation_id).agent.id
    saga.assert_provisioned(agent_id, number_sid)
    (rule,) = saga.world.platform.rules.values()
    assert rule.pin == ""


@MADE
def test_a_deprovisioning_searches_for_what_an_older_operation_may_have_created(
    saga: Saga, number_sid: str, step: str
) -> None:
    provisioning = lose(saga, step)
    saga.drive(provisioning)
    agent_id = saga.snapshot(provisioning).agent.id
    saga.assert_provisioned(agent_id, number_sid)
    land(saga, provisioning, step)
    saga.drive(saga.deprovision(agent_id))
    saga.assert_clean(agent_id, PhoneStatus.NOT_PROVISIONED)


@pytest.mark.parametrize("step", UNDO_CALL)
def test_an_undo_waits_for_the_quiet_period_of_a_worker_killed_in_a_write(
    saga: Saga, number_sid: str, step: str
) -> None:
    operation_id = saga.provision()
    saga.world.log.plan(DO_CALL[step], before=WorkerDiedError())
    saga.drive_to(operation_id, lambda: saga.snapshot(operation_id).rows[step].state is StepState.RUNNING)
    saga.deprovision(saga.snapshot(operation_id).agent.id)
    lease_until = saga.snapshot(operation_id).rows[step].lease_until
    end_lease = timedelta(seconds=1)
    with saga.sessions.begin() as session:
        which = (OperationStep.operation_id == operation_id, OperationStep.name == step)
        now = saga.snapshot(operation_id).now
        session.execute(update(OperationStep).where(*which).values(lease_until=now - end_lease))
        # As everybody does who changes steps.
        session.execute(update(Operation).values(idle_kicks=Operation.idle_kicks))
    assert lease_until is not None
    assert saga.run(operation_id, step, Direction.UNDO) == Outcome(Verdict.STALE)
    waits = saga.snapshot(operation_id).rows[step].unsettled_until
    assert waits == now - end_lease + TIMING.settle - TIMING.provider_timeout
    saga.drive(operation_id)
    saga.assert_clean(saga.snapshot(operation_id).agent.id, PhoneStatus.NOT_PROVISIONED)


def test_a_late_attachment_is_undone_to_the_routing_that_the_number_was_moved_to(saga: Saga, number_sid: str) -> None:
    theirs = saga.world.carrier.own_trunk("theirs")
    operation_id = lose(saga, NUMBER_ATTACHMENT)
    saga.world.carrier.route(number_sid, trunk_sid=theirs)
    saga.expire_leases(operation_id)
    assert saga.run(operation_id, NUMBER_ATTACHMENT).verdict is Verdict.ROLLING_BACK
    saga.world.carrier.route(number_sid, trunk_sid=saga.snapshot(operation_id).agent.twilio_trunk_sid)
    saga.drive(operation_id)
    assert saga.world.routing(number_sid).trunk_sid == theirs
    saga.assert_clean(saga.snapshot(operation_id).agent.id, PhoneStatus.FAILED)


@MADE
def test_a_rollback_searches_for_what_an_older_operation_of_the_agent_may_have_created(
    saga: Saga, number_sid: str, step: str
) -> None:
    """The process has read the operation on its way down, and goes on with that when it rolls back."""
    older = lose(saga, step)
    agent_id = saga.snapshot(older).agent.id
    saga.deprovision(agent_id)
    saga.drive(older)

    newer = saga.provision(agent_id=agent_id)
    saga.world.log.plan(DO_CALL[NUMBER_ATTACHMENT], before=REFUSED)
    saga.advance(newer)
    assert saga.status(newer) is OperationStatus.ROLLING_BACK
    land(saga, newer, step)
    # Nobody else writes the operation, so that the process goes on from memory.
    saga.advance(newer)

    assert saga.status(newer) is OperationStatus.FAILED
    saga.assert_clean(agent_id, PhoneStatus.FAILED)
