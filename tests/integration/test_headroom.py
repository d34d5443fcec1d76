"""The headroom of the Twilio account: counted in the background, and corrected by what we created since."""

import threading
from dataclasses import replace

import pytest
from sqlalchemy import func, update

from app.accounts.clients import Toolboxes
from app.db.models import Trunk
from app.domain.errors import ErrorCode
from app.domain.operations import TrunkMode, TrunkState
from app.numbers.account_lists import FRESH_S, PAUSE_AFTER_FAILURE_S
from app.numbers.dry_run import PlannedTrunk, PlanningService
from app.numbers.headroom import HeadroomService
from app.providers.errors import TransientError
from tests.support.saga import E164, MAX_NUMBERS, PROFILE, TIMING, Saga
from tests.support.toolboxes import toolboxes_in_memory
from tests.support.trunks import add_shared_trunk

LIST = "carrier.list_trunks"
OTHER = "+15145551235"
DEADLINE_S = 60.0


def service(
    saga: Saga, limit: int = 100, most: int = MAX_NUMBERS, list_timeout_s: float = DEADLINE_S
) -> HeadroomService:
    toolboxes = limited(saga, limit, most)
    return HeadroomService(saga.sessions, toolboxes, most, list_timeout_s=list_timeout_s, clock=saga.clock)


def limited(saga: Saga, limit: int, most: int = MAX_NUMBERS) -> Toolboxes:
    return toolboxes_in_memory(
        saga.sessions,
        saga.world,
        saga.worlds,
        PROFILE,
        TIMING,
        max_numbers=most,
        trunk_limit=limit,
        clock=saga.clock,
    )


def listed(saga: Saga) -> int:
    return saga.world.log.started[LIST]


def test_foreign_trunks_and_pending_numbers_count(saga: Saga) -> None:
    saga.world.carrier.own_trunk("somebody else's")
    saga.provision()

    room = service(saga, limit=3).of()

    assert room is not None
    assert (room.trunks_in_use, room.trunks_promised) == (1, 1)
    assert [room.for_numbers(wanted, wanted).fits for wanted in (0, 1, 2)] == [0, 1, 1]
    assert [room.for_numbers(wanted).fits for wanted in (0, 500, 501)] == [0, 500, 500]


def test_the_dry_run_uses_the_same_limit(saga: Saga) -> None:
    saga.world.carrier.own_number(E164)
    saga.world.carrier.own_trunk("somebody else's")
    plans = [PlanningService(saga.sessions, limited(saga, limit), 500) for limit in (1, 2)]
    full, raised = [plan.preview(saga.agent(), E164, takeover=False) for plan in plans]

    assert (full.would_succeed, full.trunks_limit) == (False, 1)
    assert (raised.would_succeed, raised.trunks_limit) == (True, 2)


def test_an_account_that_is_over_its_limit_has_room_for_none(saga: Saga) -> None:
    for _ in range(3):
        saga.world.carrier.own_trunk("theirs")
    room = service(saga, limit=2).of()

    assert room is not None
    assert (room.for_numbers(5).fits, room.for_numbers(5, 5).fits, room.numbers_fit) == (0, 0, 0)
    assert room.for_numbers(5).reason.startswith("0 of 5 numbers fit: 0 places are free on shared trunks")


def test_places_on_standing_trunks_need_no_other(saga: Saga) -> None:
    saga.trunk_mode = TrunkMode.SHARED
    saga.world.carrier.own_number(E164)
    saga.provisioned()
    room = service(saga, limit=1, most=3).of()

    assert room is not None
    assert (room.trunks_in_use, room.trunks_promised, room.places_free) == (1, 0, 2)
    assert [room.for_numbers(wanted).fits for wanted in (2, 3)] == [2, 2]
    assert room.for_numbers(3, 1).fits == 2


def test_a_trunk_that_is_being_made_is_promised_with_its_places(saga: Saga) -> None:
    add_shared_trunk(
        saga.sessions,
        PROFILE,
        1,
        state=TrunkState.CREATING,
        twilio_trunk_sid=None,
        twilio_origination_url_sid=None,
    )
    room, full = service(saga, limit=2, most=10).of(), service(saga, limit=0, most=10).of()

    assert room is not None
    assert full is not None
    assert (room.trunks_in_use, room.trunks_promised, room.places_free, room.numbers_fit) == (0, 1, 9, 19)
    assert (full.trunks_promised, full.places_free, full.numbers_fit) == (1, 0, 0)


def test_a_trunk_of_other_settings_has_no_places_for_new_numbers(saga: Saga) -> None:
    add_shared_trunk(saga.sessions, replace(PROFILE, is_secure=True))
    room = service(saga, most=10).of()

    assert room is not None
    assert (room.trunks_in_use, room.places_free) == (1, 0)


def test_numbers_accepted_before_take_places_first_and_then_trunks(saga: Saga) -> None:
    saga.trunk_mode = TrunkMode.SHARED
    add_shared_trunk(saga.sessions, PROFILE, 8)
    for count in range(5):
        saga.provision(e164=f"+1514555{count:04d}")
    room = service(saga, limit=3, most=10).of()

    assert room is not None
    # Two take the places that are left, three a trunk that has room for seven more; a third trunk may be made.
    assert (room.trunks_in_use, room.trunks_promised, room.places_free, room.numbers_fit) == (1, 1, 7, 17)


def test_shared_trunks_made_and_deleted_since_the_list_are_added_to_it(saga: Saga) -> None:
    rooms = service(saga)
    saga.world.carrier.own_trunk("somebody else's")
    assert (before := rooms.of()) is not None
    trunk_id = add_shared_trunk(saga.sessions, PROFILE, checked_at=func.clock_timestamp())
    assert (made := rooms.of()) is not None
    with saga.sessions.begin() as session:
        gone = {"state": TrunkState.GONE, "gone_at": func.clock_timestamp()}
        session.execute(update(Trunk).where(Trunk.id == trunk_id).values(**gone))
    assert (deleted := rooms.of()) is not None

    assert [room.trunks_in_use for room in (before, made, deleted)] == [1, 2, 1]
    assert listed(saga) == 1


def test_the_dry_run_needs_no_trunk_while_a_shared_one_has_room(saga: Saga) -> None:
    saga.trunk_mode = TrunkMode.SHARED
    saga.world.carrier.own_number(E164)
    saga.world.carrier.own_number(OTHER)
    plans = PlanningService(saga.sessions, limited(saga, 1), MAX_NUMBERS)
    first = plans.preview(saga.agent(), OTHER, takeover=False)
    saga.provisioned()
    joined = plans.preview(saga.agent(), OTHER, takeover=False)
    saga.trunk_mode = TrunkMode.DEDICATED
    own = plans.preview(saga.agent(), OTHER, takeover=False)

    assert (first.would_succeed, first.trunk) == (True, PlannedTrunk(TrunkMode.SHARED, None, 0, MAX_NUMBERS))
    (trunk,) = saga.world.carrier.list_trunks()
    assert (joined.would_succeed, joined.trunk) == (True, PlannedTrunk(TrunkMode.SHARED, trunk.sid, 1, MAX_NUMBERS))
    assert len(joined.calls) == 7
    assert (own.would_succeed, own.trunk) == (False, PlannedTrunk(TrunkMode.DEDICATED, None, 0, 1))
    (obstacle,) = own.obstacles
    assert obstacle.code is ErrorCode.TWILIO_TRUNK_LIMIT
    assert obstacle.detail == (
        "A trunk would have to be made (the agent is to have one of its own), and the account has 1 of 1 "
        "(TWILIO_TRUNK_LIMIT)."
    )


def test_what_we_made_and_deleted_since_the_list_is_added_to_it(saga: Saga) -> None:
    rooms = service(saga)
    saga.world.carrier.own_number(E164)
    assert (before := rooms.of()) is not None
    agent_id = saga.provisioned()
    assert (with_one := rooms.of()) is not None
    saga.drive(saga.deprovision(agent_id))
    assert (without := rooms.of()) is not None

    assert [room.trunks_in_use for room in (before, with_one, without)] == [0, 1, 0]
    assert {room.trunks_promised for room in (before, with_one, without)} == {0}
    assert listed(saga) == 1


def test_a_list_serves_for_a_minute(saga: Saga) -> None:
    rooms = service(saga)
    rooms.of()
    saga.world.carrier.own_trunk("theirs")
    saga.clock.now += FRESH_S - 1
    assert (old := rooms.of()) is not None
    saga.clock.now += 1
    assert (new := rooms.of()) is not None

    assert (old.trunks_in_use, new.trunks_in_use, listed(saga)) == (0, 1, 2)


def test_a_hanging_provider_delays_only_the_first_request_and_only_for_the_timeout(saga: Saga) -> None:
    goes_on = threading.Event()
    saga.world.log.plan(LIST, before=lambda: goes_on.wait(DEADLINE_S))
    rooms = service(saga, list_timeout_s=0.01)

    assert rooms.of() is None
    saga.clock.now += 1  # nobody's patience is left
    assert [rooms.of() for _ in range(5)] == [None] * 5
    assert listed(saga) == 1
    (thread,) = [one for one in threading.enumerate() if one.name == "trunks"]
    goes_on.set()
    thread.join(DEADLINE_S)
    assert rooms.of() is not None
    assert listed(saga) == 1


@pytest.mark.parametrize("error", [TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "Down."), ValueError("a defect")])
def test_after_a_failed_list_the_figures_are_unknown_until_a_pause_is_over(saga: Saga, error: Exception) -> None:
    saga.world.log.plan(LIST, before=error)
    rooms = service(saga)

    assert [rooms.of(), rooms.of()] == [None, None]
    assert listed(saga) == 1
    saga.clock.now += PAUSE_AFTER_FAILURE_S
    assert rooms.of() is not None
