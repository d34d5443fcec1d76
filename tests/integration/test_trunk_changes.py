"""An update takes a number from one shared trunk to another, whose profile is that of the wanted options.

A caller reaches the agent at every moment, whatever fails or dies, and a failed update leaves all as it was found.
"""

import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from app.db.models import Agent
from app.domain.errors import ErrorCode
from app.domain.operations import (
    DISPATCH_RULE,
    NUMBER_ATTACHMENT,
    ORIGINATION_URL,
    TRUNK,
    OperationKind,
    OperationStatus,
    PhoneStatus,
    TrunkMode,
)
from app.domain.options import RuleAgent
from app.numbers.agents import lock_agent
from app.numbers.maintenance import MOVED_STEPS, TRUNK_STEPS
from app.providers.errors import RejectedError
from app.saga import machine
from app.saga.rows import agent_row
from tests.support.moved_numbers import FAILURES, Watch, drive, ids_of, ledger, pool_trunks, snapshot
from tests.support.pooled import assert_pool
from tests.support.providers import WorkerDiedError
from tests.support.saga import ORIGIN, Saga

OTHER = "+15145550101"
OPTIONS: Mapping[str, Any] = {"transfer": "enable-all"}
CALLS = 16
"""More than such an update makes; one that is broken where nothing is called any more runs undisturbed."""


@pytest.fixture
def pooled(saga: Saga, number_sid: str) -> Saga:
    saga.trunk_mode = TrunkMode.SHARED
    return saga


def change(saga: Saga, agent_id: uuid.UUID, target_id: uuid.UUID | None = None) -> uuid.UUID:
    """Open an update to other options, or a move to an agent that has them."""
    kind = OperationKind.MOVE if target_id else OperationKind.UPDATE
    more: dict[str, Any] = {} if target_id else {"wanted": {"options": OPTIONS}, "former_options": {}}
    only = TRUNK_STEPS | MOVED_STEPS if target_id else TRUNK_STEPS
    with saga.sessions.begin() as session:
        agent, now = lock_agent(session, agent_id)
        target = agent_row(lock_agent(session, target_id)[0]) if target_id else None
        opening = machine.open_operation(
            kind, agent_row(agent), now, ORIGIN, target=target, only=only, leaves_trunk=True, **more
        )
        return saga.rows.open(opening, session).operation.id


def options_of(saga: Saga, agent_id: uuid.UUID) -> tuple[dict[str, Any], int]:
    with saga.sessions() as session:
        agent = session.get_one(Agent, agent_id)
        return agent.options, agent.version


def assert_changed(saga: Saga, agent_id: uuid.UUID, number_sid: str, before: Mapping[str, object]) -> None:
    now = ids_of(saga, agent_id)
    former, new = sorted(pool_trunks(saga), key=lambda trunk: trunk.created_at)
    assert former.id == before["trunk_id"]
    assert now == before | {
        TRUNK: new.twilio_trunk_sid,
        ORIGINATION_URL: new.twilio_origination_url_sid,
        "trunk_id": new.id,
    }
    assert saga.world.routing(number_sid).trunk_sid == new.twilio_trunk_sid
    modes = [saga.world.carrier.trunks[one.twilio_trunk_sid or ""].transfer_mode for one in (former, new)]
    assert modes[1] == "enable-all" != modes[0]
    assert_pool(saga)


def test_a_number_goes_to_a_trunk_of_the_new_profile_and_rings_throughout(pooled: Saga, number_sid: str) -> None:
    agent_id = pooled.provisioned()
    before, known = ids_of(pooled, agent_id), ledger(pooled, agent_id)
    watch = Watch(pooled.world, (number_sid,))
    operation_id = change(pooled, agent_id)
    pooled.drive(operation_id)
    assert pooled.status(operation_id) is OperationStatus.SUCCEEDED
    assert_changed(pooled, agent_id, number_sid, before)
    assert (watch.cut_off, watch.calls.count("carrier.move_number")) == ([], 1)
    assert (options_of(pooled, agent_id), ledger(pooled, agent_id)) == ((OPTIONS, 2), known)


def test_another_number_stays_where_it_is(pooled: Saga, number_sid: str) -> None:
    other_sid = pooled.world.carrier.own_number(OTHER)
    agent_id, other = pooled.provisioned(), pooled.provisioned(e164=OTHER)
    before = ids_of(pooled, other)
    operation_id = change(pooled, agent_id)
    pooled.drive(operation_id)
    assert ids_of(pooled, other) == before
    assert pooled.world.routing(other_sid).trunk_sid == before[TRUNK]
    assert_pool(pooled)


@pytest.mark.sweep
@pytest.mark.parametrize("kind", FAILURES)
@pytest.mark.parametrize("at", range(CALLS))
def test_a_change_broken_anywhere_ends_whole_or_as_it_was_found(
    pooled: Saga, number_sid: str, at: int, kind: str
) -> None:
    agent_id = pooled.provisioned()
    before, there, known = ids_of(pooled, agent_id), snapshot(pooled.world), ledger(pooled, agent_id)
    operation_id = change(pooled, agent_id)
    watch = Watch(pooled.world, (number_sid,), at, **FAILURES[kind]())
    drive(pooled, operation_id)
    watch.look("at the end")
    assert watch.cut_off == []
    assert ledger(pooled, agent_id) == known
    assert_pool(pooled)
    if pooled.status(operation_id) is OperationStatus.SUCCEEDED:
        assert_changed(pooled, agent_id, number_sid, before)
        return
    assert (kind, pooled.status(operation_id)) == ("refused", OperationStatus.FAILED)
    assert (ids_of(pooled, agent_id), snapshot(pooled.world)) == (before, there)
    assert options_of(pooled, agent_id) == ({}, 1)


@pytest.mark.sweep
@pytest.mark.parametrize("kind", [kind for kind in FAILURES if kind != "refused"])
@pytest.mark.parametrize("at", range(8))
def test_its_way_back_broken_anywhere_ends_as_it_was_found(pooled: Saga, number_sid: str, at: int, kind: str) -> None:
    agent_id = pooled.provisioned()
    before, there = ids_of(pooled, agent_id), snapshot(pooled.world)
    operation_id = change(pooled, agent_id)
    pooled.world.log.plan("platform.list_dispatch_rules", before=RejectedError(ErrorCode.LIVEKIT_REJECTED, "No."))
    pooled.drive_until(operation_id, OperationStatus.ROLLING_BACK)
    assert pooled.world.routing(number_sid).trunk_sid != before[TRUNK]
    watch = Watch(pooled.world, (number_sid,), at, **FAILURES[kind]())
    drive(pooled, operation_id)
    watch.look("at the end")
    assert watch.cut_off == []
    assert (ids_of(pooled, agent_id), snapshot(pooled.world)) == (before, there)
    assert_pool(pooled)


@pytest.mark.parametrize("until", [None, TRUNK, ORIGINATION_URL, NUMBER_ATTACHMENT])
def test_a_deprovisioning_takes_down_a_change_under_way(pooled: Saga, number_sid: str, until: str | None) -> None:
    agent_id = pooled.provisioned()
    operation_id = change(pooled, agent_id)
    if until:
        pooled.advance(operation_id, until=until)
    deprovisioning = pooled.deprovision(agent_id)
    assert pooled.status(operation_id) is OperationStatus.CANCELLED
    drive(pooled, deprovisioning)
    assert pooled.status(deprovisioning) is OperationStatus.SUCCEEDED
    assert ids_of(pooled, agent_id)["trunk_id"] is None
    assert not pooled.world.routing(number_sid).is_taken
    assert options_of(pooled, agent_id) == ({}, 1)
    assert_pool(pooled)


def test_a_worker_that_died_after_taking_the_place_is_taken_back(pooled: Saga, number_sid: str) -> None:
    agent_id = pooled.provisioned()
    before = ids_of(pooled, agent_id)
    operation_id = change(pooled, agent_id)
    pooled.world.log.plan("carrier.create_trunk", before=WorkerDiedError())
    pooled.advance(operation_id)
    pooled.world.log.plan("carrier.create_trunk", before=RejectedError(ErrorCode.TWILIO_REJECTED, "No."))
    drive(pooled, operation_id)
    assert pooled.status(operation_id) is OperationStatus.FAILED
    assert ids_of(pooled, agent_id) == before


def test_a_move_to_an_agent_of_another_profile_takes_the_number_along(pooled: Saga, number_sid: str) -> None:
    agent_id, target_id = pooled.provisioned(), pooled.agent("target")
    with pooled.sessions.begin() as session:
        session.get_one(Agent, target_id).options = dict(OPTIONS)
    before = ids_of(pooled, agent_id)
    watch = Watch(pooled.world, (number_sid,))
    operation_id = change(pooled, agent_id, target_id)
    drive(pooled, operation_id)
    assert (pooled.status(operation_id), watch.cut_off) == (OperationStatus.SUCCEEDED, [])
    assert_changed(pooled, target_id, number_sid, before)
    assert pooled.status_of(agent_id) is PhoneStatus.NOT_PROVISIONED
    assert not {ids_of(pooled, agent_id)[name] for name in (TRUNK, ORIGINATION_URL, DISPATCH_RULE)} - {None}


HEIR: Mapping[str, Any] = {
    "participant": {"hidePhoneNumber": False},
    "call": {"ringingS": 20, "krisp": False, "maxDurationS": 600},
    "dispatch": {"pin": "4711", "roomPrefix": "heir"},
    "agents": [{"name": "recorder"}],
}
"""Options of an agent that gets a number; what stands there was set by hand."""


@pytest.mark.sweep
@pytest.mark.parametrize("kind", FAILURES)
@pytest.mark.parametrize("at", [None, *range(14)])
def test_a_move_to_an_agent_with_options_broken_anywhere_leaves_what_was_set_by_hand(
    pooled: Saga, number_sid: str, at: int | None, kind: str
) -> None:
    agent_id, target_id = pooled.provisioned(), pooled.agent("target")
    with pooled.sessions.begin() as session:
        session.get_one(Agent, target_id).options = dict(HEIR)
    world = pooled.world.platform
    world.trunks = {
        one.id: replace(one, ringing_timeout_s=77.0, max_call_duration_s=1800.0, krisp=True)
        for one in world.trunks.values()
    }
    world.rules = {
        # The operator's own has the name of the agent that gets the number.
        one.id: replace(
            one, hides_caller=True, krisp=True, room="theirs", agents=(RuleAgent("target", "x"), *one.agents)
        )
        for one in world.rules.values()
    }
    before, there = ids_of(pooled, agent_id), snapshot(pooled.world)
    with pooled.sessions.begin() as session:
        agent, now = lock_agent(session, agent_id)
        target = agent_row(lock_agent(session, target_id)[0])
        opening = machine.open_operation(
            OperationKind.MOVE, agent_row(agent), now, ORIGIN, target=target, only=MOVED_STEPS
        )
        operation_id = pooled.rows.open(opening, session).operation.id
    if at is None:
        pooled.world.log.plan("platform.list_dispatch_rules", before=RejectedError(ErrorCode.LIVEKIT_REJECTED, "No."))
    else:
        Watch(pooled.world, (number_sid,), at, **FAILURES[kind]())

    drive(pooled, operation_id)

    (trunk,), (rule,) = world.trunks.values(), world.rules.values()
    if pooled.status(operation_id) is OperationStatus.FAILED:
        assert (at is None, kind == "refused") != (False, False)
        assert (ids_of(pooled, agent_id), snapshot(pooled.world)) == (before, there)
        return
    assert (trunk.ringing_timeout_s, trunk.max_call_duration_s, trunk.krisp) == (20, 600, False)
    assert (rule.pin, rule.room, rule.hides_caller, rule.krisp) == ("4711", "heir", False, False)
    assert [one.name for one in rule.agents] == ["target", "recorder"]


@pytest.mark.sweep
@pytest.mark.parametrize("kind", ["refused", "dies after"])
@pytest.mark.parametrize("at", range(CALLS))
def test_such_a_move_broken_anywhere_ends_whole_or_as_it_was_found(
    pooled: Saga, number_sid: str, at: int, kind: str
) -> None:
    agent_id, target_id = pooled.provisioned(), pooled.agent("target")
    with pooled.sessions.begin() as session:
        session.get_one(Agent, target_id).options = dict(OPTIONS)
    before, there = ids_of(pooled, agent_id), snapshot(pooled.world)
    operation_id = change(pooled, agent_id, target_id)
    watch = Watch(pooled.world, (number_sid,), at, **FAILURES[kind]())
    drive(pooled, operation_id)
    watch.look("at the end")
    assert watch.cut_off == []
    assert_pool(pooled)
    if pooled.status(operation_id) is OperationStatus.SUCCEEDED:
        assert_changed(pooled, target_id, number_sid, before)
        return
    assert (ids_of(pooled, agent_id), snapshot(pooled.world)) == (before, there)
    assert pooled.status_of(target_id) is PhoneStatus.NOT_PROVISIONED
