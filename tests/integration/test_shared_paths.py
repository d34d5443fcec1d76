"""Numbers on shared trunks: what is theirs and what is the pool's, and the rules by which a place is taken."""

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event, select

from app.db.models import Agent
from app.domain.errors import ErrorCode
from app.domain.findings import Finding, FindingCode
from app.domain.operations import NUMBER, TRUNK, Direction, OperationStatus, PhoneStatus, TrunkMode
from app.numbers.maintenance import MaintenanceService
from app.path.marks import pool_tag
from app.providers.errors import UnknownOutcomeError
from app.saga.state import Verdict
from tests.integration.test_service_races import DEADLINE_S, is_blocked
from tests.support.saga import E164, ORIGIN, Saga, with_max_numbers
from tests.support.stack import eventually
from tests.support.toolboxes import tools_of

OTHER_E164 = "+15145550002"


@pytest.fixture
def pooled(saga: Saga, number_sid: str) -> Saga:
    """A saga whose agents share trunks."""
    saga.trunk_mode = TrunkMode.SHARED
    saga.world.carrier.own_number(OTHER_E164)
    return saga


def maintenance_of(saga: Saga) -> MaintenanceService:
    return saga.sweeper.audits.maintenance


def repaired(saga: Saga, agent_id: uuid.UUID) -> None:
    """Repair all of the path that a repair can make."""
    findings = [Finding(FindingCode.TRUNK_CHANGED), Finding(FindingCode.ORIGINATION_URL_CHANGED)]
    result = maintenance_of(saga).repair_found(agent_id, findings, takeover=False, origin=ORIGIN)
    assert result.operation is not None
    saga.drive(result.operation.id)
    assert saga.status(result.operation.id) is OperationStatus.SUCCEEDED


def test_a_repair_leaves_a_shared_trunk_out_of_the_ledger(pooled: Saga, number_sid: str) -> None:
    agent_id = pooled.provisioned()
    repaired(pooled, agent_id)
    pooled.assert_provisioned(agent_id, number_sid)


def test_a_move_leaves_a_shared_trunk_out_of_the_ledger(pooled: Saga, number_sid: str) -> None:
    agent_id, target = pooled.provisioned(), pooled.agent("target")
    moved = maintenance_of(pooled).move(agent_id, target, origin=ORIGIN)
    pooled.drive(moved.id)
    assert pooled.status(moved.id) is OperationStatus.SUCCEEDED
    pooled.assert_provisioned(target, number_sid)
    pooled.assert_clean(agent_id, PhoneStatus.NOT_PROVISIONED)


def at_the_trunk(saga: Saga, e164: str) -> uuid.UUID:
    """Open a provisioning, and bring it to the step that makes the trunk on which it has a place."""
    operation_id = saga.provision(e164=e164)
    saga.advance(operation_id, until=NUMBER)
    return operation_id


def trunk_of(saga: Saga, operation_id: uuid.UUID) -> uuid.UUID | None:
    """Return the trunk that the operation's agent has a place on."""
    return saga.snapshot(operation_id).agent.trunk_id


def test_a_worker_that_has_lost_its_step_takes_no_place(pooled: Saga) -> None:
    operation_id = at_the_trunk(pooled, E164)
    agent_id = pooled.snapshot(operation_id).agent.id
    pooled.deprovision(agent_id)
    pooled.drive(operation_id)
    place = tools_of(pooled.runner).pool.take_place(agent_id, operation_id, TRUNK, uuid.uuid4())
    assert (place, trunk_of(pooled, operation_id)) == (None, None)


def test_two_at_once_make_one_trunk(pooled: Saga) -> None:
    first, second = at_the_trunk(pooled, E164), at_the_trunk(pooled, OTHER_E164)
    outcomes = []
    pooled.world.log.plan(
        "carrier.create_trunk", before=lambda: outcomes.append(pooled.run(second, TRUNK, Direction.DO).verdict)
    )
    outcomes.append(pooled.run(first, TRUNK, Direction.DO).verdict)
    assert outcomes == [Verdict.RESTS, Verdict.DONE]
    pooled.drive(first)
    pooled.drive(second)
    pooled.assert_nothing_else()
    assert pooled.world.log.applied["carrier.create_trunk"] == 1


def test_two_at_once_do_not_both_take_the_last_place(pooled: Saga) -> None:
    saga = with_max_numbers(pooled, 1)
    first, second = saga.provision(e164=E164), saga.provision(e164=OTHER_E164)
    with ThreadPoolExecutor(1) as other:
        ran: list[Future[Any]] = []

        def run_second() -> None:
            ran.append(other.submit(saga.run, second, NUMBER, Direction.DO))
            eventually(lambda: is_blocked(saga) or ran[0].done(), "the other waits, or has a place")

        with after_first(saga, "SET trunk_id", run_second):
            saga.run(first, NUMBER, Direction.DO)
        ran[0].result(DEADLINE_S)
    trunks = {trunk_of(saga, first), trunk_of(saga, second)}
    assert None not in trunks
    assert len(trunks) == 2, "two numbers have the last place"


@contextmanager
def after_first(saga: Saga, words: str, act: Callable[[], None]) -> Iterator[None]:
    """Act in the middle of a transaction: after the first statement that has these words."""
    waiting = [act]

    def meet(*statement: Any) -> None:
        if words in statement[2] and waiting:
            waiting.pop()()

    engine = saga.sessions.kw["bind"]
    event.listen(engine, "after_cursor_execute", meet)
    try:
        yield
    finally:
        event.remove(engine, "after_cursor_execute", meet)


def test_nobody_makes_a_trunk_while_one_may_still_land(pooled: Saga) -> None:
    first, second = at_the_trunk(pooled, E164), at_the_trunk(pooled, OTHER_E164)
    lost = UnknownOutcomeError(ErrorCode.PROVIDER_UNAVAILABLE, "The answer was lost.")
    pooled.world.log.plan("carrier.create_trunk", before=lost)
    pooled.run(first, TRUNK, Direction.DO)
    assert pooled.run(second, TRUNK, Direction.DO).verdict is Verdict.RESTS
    trunk_id = trunk_of(pooled, second)
    assert trunk_id is not None
    pooled.world.carrier.own_trunk(pool_tag("test", trunk_id))  # it lands
    pooled.drive(second)
    pooled.drive(first)
    pooled.assert_nothing_else()
    assert pooled.world.log.applied["carrier.create_trunk"] == 0


def test_a_number_that_goes_leaves_the_trunk_to_the_others(pooled: Saga, number_sid: str) -> None:
    first, second = pooled.provisioned(), pooled.provisioned(e164=OTHER_E164)
    pooled.drive(pooled.deprovision(second))
    pooled.assert_provisioned(first, number_sid)
    pooled.drive(pooled.deprovision(first))
    pooled.assert_clean(first, PhoneStatus.NOT_PROVISIONED)
    assert len(pooled.world.carrier.trunks) == len(pooled.world.carrier.urls) == 1
    with pooled.sessions() as session:
        assert session.scalars(select(Agent.trunk_id)).all() == [None, None]
