"""Places on shared trunks: never more than a trunk takes, never another trunk while one has room."""

import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import pytest
from sqlalchemy import func, select, update

from app.db.models import Agent, Operation, OperationStep, Trunk
from app.domain.operations import TRUNK, OperationKind, OperationStatus, TrunkMode, TrunkState
from app.domain.workspaces import ENVIRONMENT_ACCOUNT
from app.trunks.pool import _ADD_SHARD, _FIND_ROOM, TrunkPool
from tests.support.saga import PROFILE, Saga

MOST = 3
"""Numbers on one trunk."""

SECOND = timedelta(seconds=1)


@pytest.fixture
def pool(saga: Saga) -> TrunkPool:
    return TrunkPool(saga.sessions, ENVIRONMENT_ACCOUNT, PROFILE, MOST, lease=SECOND, lands=SECOND)


def take(saga: Saga, pool: TrunkPool) -> uuid.UUID:
    """Take a place for a new agent; return the trunk's id."""
    operation, step, token = uuid.uuid4(), TRUNK, uuid.uuid4()
    with saga.sessions.begin() as session:
        agent = Agent(name="a", livekit_agent_name="a")
        session.add(agent)
        session.flush()
        session.add(
            Operation(
                id=operation,
                agent_id=agent.id,
                workspace_id=agent.workspace_id,
                kind=OperationKind.PROVISION,
                phone_number="+15145551234",
                status=OperationStatus.RUNNING,
            )
        )
        session.flush()
        session.add(OperationStep(operation_id=operation, name=step, position=1, lease_token=token))
        agent_id = agent.id
    place = pool.take_place(agent_id, operation, step, token)
    assert place is not None
    return place.trunk_id


def fill(saga: Saga, pool: TrunkPool) -> uuid.UUID:
    """Take every place of one trunk; return its id."""
    (trunk_id,) = {take(saga, pool) for _ in range(MOST)}
    return trunk_id


def leave(saga: Saga, trunk_id: uuid.UUID) -> None:
    """Take one agent from its trunk behind everybody's back."""
    with saga.sessions.begin() as session:
        one = select(Agent.id).where(Agent.trunk_id == trunk_id).limit(1).scalar_subquery()
        session.execute(update(Agent).where(Agent.id == one).values(trunk_id=None))


def shards(saga: Saga) -> dict[int, tuple[int, bool]]:
    """Return shard -> members, and whether it is known to be full."""
    members = select(func.count()).where(Agent.trunk_id == Trunk.id).scalar_subquery()
    with saga.sessions() as session:
        return {
            row.shard: (row[1], row.is_full) for row in session.execute(select(Trunk.shard, members, Trunk.is_full))
        }


def test_the_newest_trunk_fills_up_before_another_is_added(saga: Saga, pool: TrunkPool) -> None:
    for _ in range(MOST + 1):
        take(saga, pool)
    assert shards(saga) == {1: (MOST, True), 2: (1, False)}


def test_a_trunk_that_has_room_again_is_found_before_another_is_added(saga: Saga, pool: TrunkPool) -> None:
    first = fill(saga, pool)
    second = fill(saga, pool)
    leave(saga, first)
    assert pool.next_place() is not None
    assert take(saga, pool) == first
    leave(saga, first)
    leave(saga, second)
    assert {take(saga, pool), take(saga, pool)} == {first, second}
    assert shards(saga) == {1: (MOST, True), 2: (MOST, True)}
    assert pool.next_place() is None
    take(saga, pool)
    assert shards(saga)[3] == (1, False)


@pytest.mark.usefixtures("number_sid")
def test_the_end_of_a_number_tells_that_its_trunk_has_room(saga: Saga) -> None:
    saga.trunk_mode = TrunkMode.SHARED
    agent = saga.provisioned()
    with saga.sessions.begin() as session:
        session.execute(update(Trunk).values(is_full=True))
    saga.drive(saga.deprovision(agent))
    assert shards(saga) == {1: (0, False)}


def test_a_raised_limit_gives_full_trunks_room(saga: Saga, pool: TrunkPool) -> None:
    first = fill(saga, pool)
    larger = TrunkPool(saga.sessions, ENVIRONMENT_ACCOUNT, PROFILE, MOST + 1, lease=SECOND, lands=SECOND)
    assert take(saga, larger) == first


def test_many_at_once_fill_trunks_to_the_last_place(saga: Saga, pool: TrunkPool) -> None:
    takers, barrier = 4 * MOST, Barrier(4)

    def one(_: int) -> uuid.UUID:
        barrier.wait()
        return take(saga, pool)

    with ThreadPoolExecutor(4) as threads:
        taken = Counter(threads.map(one, range(takers)))
    assert sorted(taken.values()) == [MOST] * 4
    assert shards(saga) == dict.fromkeys(range(1, 5), (MOST, True))


def test_of_many_who_find_all_full_one_adds_a_trunk(saga: Saga, pool: TrunkPool) -> None:
    """Whoever has found all full before the other one's trunk was there adds none beside it."""
    for _ in range(MOST):
        take(saga, pool)
    with saga.sessions.begin() as session:
        run = session.connection().exec_driver_sql
        full = run(_FIND_ROOM, pool._wanted).one()
        take(saga, pool)
        run(_ADD_SHARD, {**pool._wanted, "id": uuid.uuid4(), "profile": "{}", "shard": full.newest + 1})
    assert shards(saga) == {1: (MOST, True), 2: (1, False)}


def test_no_place_is_taken_on_a_trunk_that_retires(saga: Saga, pool: TrunkPool) -> None:
    first = take(saga, pool)
    with saga.sessions.begin() as session:
        session.execute(update(Trunk).values(state=TrunkState.RETIRING))
    assert take(saga, pool) != first
