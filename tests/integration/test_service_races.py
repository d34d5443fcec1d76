"""Concurrent clients and workers: one wins, the others are refused, and nothing deadlocks."""

import random
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import event, select, text

from app.db.models import Agent, Operation, OperationStep
from app.domain.errors import ErrorCode, RefusedError
from app.domain.operations import NUMBER, Direction, PhoneStatus, TrunkMode
from app.providers.errors import RejectedError, UnknownOutcomeError
from app.saga.state import Verdict
from tests.support.providers import WorkerDiedError
from tests.support.saga import DO_CALL, E164, ORIGIN, Saga, with_max_numbers
from tests.support.short_forms import rounds
from tests.support.stack import eventually

ROUNDS = 200
SMALL_ROUNDS = 40
SMALL = 2
"""Numbers on a shared trunk."""

DEADLINE_S = 60.0


def at_once(calls: list[Callable[[], object]]) -> list[str]:
    """Make all calls at the same moment; return how each ended: "ok" or the code of its refusal."""
    gate = threading.Barrier(len(calls))

    def ended(call: Callable[[], object]) -> str:
        gate.wait(DEADLINE_S)
        try:
            call()
        except RefusedError as error:
            return error.code
        return "ok"

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(DEADLINE_S) for future in [pool.submit(ended, call) for call in calls]]


def provision(saga: Saga, agent_id: uuid.UUID, e164: str = E164) -> Callable[[], object]:
    return lambda: saga.service.provision(agent_id, e164, takeover=False, origin=ORIGIN)


def test_of_many_requests_for_one_number_one_gets_it(saga: Saga) -> None:
    agents = [saga.agent() for _ in range(10)]
    ends = at_once([provision(saga, agent_id) for agent_id in agents])
    assert Counter(ends) == {"ok": 1, ErrorCode.NUMBER_IN_USE: 9}
    statuses = Counter(saga.status_of(agent_id) for agent_id in agents)
    assert statuses == {PhoneStatus.PENDING: 1, PhoneStatus.NOT_PROVISIONED: 9}


def test_of_many_requests_for_one_agent_one_is_accepted(saga: Saga) -> None:
    agent_id = saga.agent()
    ends = at_once([provision(saga, agent_id, f"+1514555{n:04}") for n in range(10)])
    assert Counter(ends) == {"ok": 1, ErrorCode.OPERATION_IN_PROGRESS: 9}


def test_many_deprovisionings_at_once_are_one_operation(saga: Saga, number_sid: str) -> None:
    agent_id = saga.provisioned()
    found: list[uuid.UUID] = []
    ends = at_once([lambda: found.append(saga.deprovision(agent_id)) for _ in range(8)])
    # A request between the opening of the operation and its commit is refused: another one was just opened.
    assert set(ends) <= {"ok", ErrorCode.OPERATION_IN_PROGRESS}
    assert len(set(found)) == 1
    saga.drive(found[0])
    saga.assert_clean(agent_id, PhoneStatus.NOT_PROVISIONED)


def test_provision_and_deprovision_at_once_leave_one_order_of_the_two(saga: Saga, number_sid: str) -> None:
    for _ in range(10):
        agent_id = saga.agent()
        ends = at_once(
            [provision(saga, agent_id), lambda agent_id=agent_id: saga.service.deprovision(agent_id, origin=ORIGIN)]
        )
        assert ends[0] == "ok"
        assert ends[1] in {"ok", ErrorCode.OPERATION_IN_PROGRESS}
        assert saga.status_of(agent_id) in {PhoneStatus.PENDING, PhoneStatus.NOT_PROVISIONED}
        if saga.status_of(agent_id) is PhoneStatus.PENDING:
            saga.service.deprovision(agent_id, origin=ORIGIN)


def test_a_cancellation_meets_a_worker_that_takes_a_place_and_both_go_on(saga: Saga, number_sid: str) -> None:
    """They write the same rows: whoever comes second waits, whatever the other has locked first."""
    saga.trunk_mode = TrunkMode.SHARED
    operation_id = saga.provision()
    agent_id = saga.snapshot(operation_id).agent.id
    cancelled: list[Future[uuid.UUID]] = []
    with ThreadPoolExecutor(1) as client:

        def cancel_meanwhile(*statement: Any) -> None:
            if "FROM trunks" in statement[2] and not cancelled:
                cancelled.append(client.submit(saga.deprovision, agent_id))
                eventually(lambda: is_blocked(saga), "the cancellation waits for the worker")

        engine = saga.sessions.kw["bind"]
        event.listen(engine, "before_cursor_execute", cancel_meanwhile)
        try:
            outcome = saga.run(operation_id, NUMBER, Direction.DO)
        finally:
            event.remove(engine, "before_cursor_execute", cancel_meanwhile)
        assert cancelled[0].result(DEADLINE_S) == operation_id
    assert outcome.verdict is Verdict.LOST
    assert saga.snapshot(operation_id).rows[NUMBER].error_code is None
    saga.drive(operation_id)
    saga.assert_clean(agent_id, PhoneStatus.NOT_PROVISIONED)


def is_blocked(saga: Saga) -> bool:
    """Tell whether any statement in the database waits for a row that another has locked."""
    with saga.sessions() as session:
        waiting = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        return session.execute(text(waiting)).first() is not None


def test_random_rounds_of_clients_against_workers_never_deadlock(
    saga: Saga, number_sid: str, pytestconfig: pytest.Config
) -> None:
    """Two agents, one number, two workers that run whatever was published, and random refusals by the providers."""
    dice = random.Random(7)  # noqa: S311 - a seed, not a secret
    agents = [saga.agent("one"), saga.agent("two")]
    for number in range(rounds(pytestconfig, ROUNDS)):
        agent_id = dice.choice(agents)
        other = dice.choice(agents)
        if dice.random() < 0.1:
            call = dice.choice(list(DO_CALL.values()))
            saga.world.log.plan(call, before=RejectedError(ErrorCode.TWILIO_REJECTED, "No."))
        plans = saga.publisher.plans[-2:]
        calls: list[Callable[[], object]] = [lambda plan=plan: saga.run_chain(plan) for plan in plans]
        calls.append(provision(saga, agent_id))
        calls.append(lambda other=other: saga.service.deprovision(other, origin=ORIGIN))
        if plans and number % 3 == 0:
            calls.append(lambda plan=plans[-1]: saga.service.retry(plan.operation_id, origin=ORIGIN))
        at_once(calls)
        for agent in agents:
            saga.expire_leases_of(agent)
    saga.world.log.heal()
    for agent_id in agents:
        saga.expire_leases_of(agent_id)
        operation = saga.service.deprovision(agent_id, origin=ORIGIN)
        if operation is not None:
            saga.drive(operation.id)
            saga.service.deprovision(agent_id, origin=ORIGIN)
    for agent_id in agents:
        saga.assert_clean(agent_id, PhoneStatus.NOT_PROVISIONED)
    assert saga.world.log.applied["carrier.attach_number"] > 0


def test_random_rounds_on_small_shared_trunks_never_deadlock_nor_fill_one_beyond_its_room(
    saga: Saga, pytestconfig: pytest.Config
) -> None:
    """Six agents, five numbers, two to a trunk; workers die and lose answers, and trunks are being made meanwhile."""
    dice = random.Random(11)  # noqa: S311 - a seed, not a secret
    saga.trunk_mode = TrunkMode.SHARED
    saga = with_max_numbers(saga, SMALL)
    numbers = [f"+1514555{n:04}" for n in range(5)]
    for e164 in numbers:
        saga.world.carrier.own_number(e164)
    agents = [saga.agent(f"agent {n}") for n in range(6)]
    for number in range(rounds(pytestconfig, SMALL_ROUNDS)):
        plan_mishap(saga, dice)
        calls: list[Callable[[], object]] = [
            lambda plan=plan: saga.run_chain(plan) for plan in saga.publisher.plans[-4:]
        ]
        calls += [provision(saga, dice.choice(agents), dice.choice(numbers)) for _ in range(2)]
        if number % 3 == 0:
            calls.append(lambda: saga.service.deprovision(dice.choice(agents), origin=ORIGIN))
        at_once(calls)
        check_places(saga)
        for agent in agents:
            saga.expire_leases_of(agent)
        saga.expire_trunk_leases()
    saga.world.log.heal()
    for agent_id in agents:
        drive_open(saga, agent_id)
    check_places(saga)
    saga.assert_nothing_else()
    for agent_id in agents:
        saga.service.deprovision(agent_id, origin=ORIGIN)
        drive_open(saga, agent_id)
        saga.service.deprovision(agent_id, origin=ORIGIN)
    for agent_id in agents:
        saga.assert_clean(agent_id, PhoneStatus.NOT_PROVISIONED)
    assert saga.world.log.applied["carrier.attach_number"] > len(numbers)
    assert saga.world.log.applied["carrier.create_trunk"] > 1


def plan_mishap(saga: Saga, dice: random.Random) -> None:
    """Let a call fail, now and then: refused, without an answer, or with the end of its worker."""
    call, way = dice.choice(list(DO_CALL.values())), dice.random()
    if way < 0.1:
        saga.world.log.plan(call, before=RejectedError(ErrorCode.TWILIO_REJECTED, "No."))
    elif way < 0.2:
        saga.world.log.plan(call, after=UnknownOutcomeError(ErrorCode.PROVIDER_UNAVAILABLE, "No answer."))
    elif way < 0.3:
        saga.world.log.plan(call, **{dice.choice(("before", "after")): WorkerDiedError()})


def drive_open(saga: Saga, agent_id: uuid.UUID) -> None:
    """Bring the agent's open operation to its end, if it has one."""
    with saga.sessions() as session:
        open_id = session.scalar(
            select(Operation.id).where(Operation.agent_id == agent_id, Operation.finished_at.is_(None))
        )
    if open_id is not None:
        saga.drive(open_id)


def check_places(saga: Saga) -> None:
    """No trunk has more numbers than its room, no agent without a number a place, and none with one has none."""
    with saga.sessions() as session:
        agents = session.scalars(select(Agent)).all()
        of_ours = OperationStep.error_code == ErrorCode.INTERNAL_STEP_ERROR
        assert session.scalars(select(OperationStep.error_detail).where(of_ours)).all() == [], "as after a deadlock"
    members = Counter(agent.trunk_id for agent in agents if agent.trunk_id)
    assert all(count <= SMALL for count in members.values()), members
    assert not [agent.id for agent in agents if agent.trunk_id and not agent.twilio_phone_number]
    provisioned = [agent for agent in agents if agent.phone_provisioning_status is PhoneStatus.PROVISIONED]
    assert all(agent.trunk_id for agent in provisioned)
