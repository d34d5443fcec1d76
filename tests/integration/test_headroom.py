"""The headroom of the Twilio account: counted in the background, and corrected by what we created since."""

import threading

import pytest

from app.dev.sandbox import ACCOUNT_SID
from app.domain.errors import ErrorCode
from app.numbers.dry_run import PlanningService
from app.numbers.inventory import FRESH_S, PAUSE_AFTER_FAILURE_S, HeadroomService
from app.providers.errors import TransientError
from tests.support.adapters import recording_adapters
from tests.support.saga import E164, Saga

LIST = "carrier.list_trunks"
DEADLINE_S = 60.0


def service(saga: Saga, limit: int = 100, list_timeout_s: float = DEADLINE_S) -> HeadroomService:
    return HeadroomService(saga.sessions, saga.world.carrier, limit, list_timeout_s=list_timeout_s, clock=saga.clock)


def listed(saga: Saga) -> int:
    return saga.world.log.started[LIST]


def test_foreign_trunks_and_pending_numbers_count(saga: Saga) -> None:
    saga.world.carrier.own_trunk("somebody else's")
    saga.provision()

    room = service(saga, limit=3).now()

    assert room is not None
    assert (room.trunks_in_use, room.trunks_promised) == (1, 1)
    assert [room.for_numbers(wanted).fits for wanted in (0, 1, 2)] == [0, 1, 1]


def test_the_dry_run_uses_the_same_limit(saga: Saga) -> None:
    saga.world.carrier.own_number(E164)
    saga.world.carrier.own_trunk("somebody else's")
    tools = saga.runner.tools
    plans = [PlanningService(saga.sessions, tools, limit, ACCOUNT_SID, recording_adapters, 500) for limit in (1, 2)]
    full, raised = [plan.preview(saga.agent(), E164, takeover=False) for plan in plans]

    assert (full.would_succeed, full.trunks_limit) == (False, 1)
    assert (raised.would_succeed, raised.trunks_limit) == (True, 2)


def test_an_account_that_is_over_its_limit_has_room_for_none(saga: Saga) -> None:
    for _ in range(3):
        saga.world.carrier.own_trunk("theirs")
    room = service(saga, limit=2).now()

    assert room is not None
    assert room.for_numbers(5).fits == 0
    assert room.for_numbers(5).reason.startswith("0 of 5 numbers fit: each takes a trunk, and of the 2 trunks")


def test_what_we_made_and_deleted_since_the_list_is_added_to_it(saga: Saga) -> None:
    rooms = service(saga)
    saga.world.carrier.own_number(E164)
    assert (before := rooms.now()) is not None
    agent_id = saga.provisioned()
    assert (with_one := rooms.now()) is not None
    saga.drive(saga.deprovision(agent_id))
    assert (without := rooms.now()) is not None

    assert [room.trunks_in_use for room in (before, with_one, without)] == [0, 1, 0]
    assert {room.trunks_promised for room in (before, with_one, without)} == {0}
    assert listed(saga) == 1


def test_a_list_serves_for_a_minute(saga: Saga) -> None:
    rooms = service(saga)
    rooms.now()
    saga.world.carrier.own_trunk("theirs")
    saga.clock.now += FRESH_S - 1
    assert (old := rooms.now()) is not None
    saga.clock.now += 1
    assert (new := rooms.now()) is not None

    assert (old.trunks_in_use, new.trunks_in_use, listed(saga)) == (0, 1, 2)


def test_a_hanging_provider_delays_only_the_first_request_and_only_for_the_timeout(saga: Saga) -> None:
    goes_on = threading.Event()
    saga.world.log.plan(LIST, before=lambda: goes_on.wait(DEADLINE_S))
    rooms = service(saga, list_timeout_s=0.01)

    assert rooms.now() is None
    saga.clock.now += 1  # nobody's patience is left
    assert [rooms.now() for _ in range(5)] == [None] * 5
    assert listed(saga) == 1
    (thread,) = [one for one in threading.enumerate() if one.name == "trunks"]
    goes_on.set()
    thread.join(DEADLINE_S)
    assert rooms.now() is not None
    assert listed(saga) == 1


@pytest.mark.parametrize("error", [TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "Down."), ValueError("a defect")])
def test_after_a_failed_list_the_figures_are_unknown_until_a_pause_is_over(saga: Saga, error: Exception) -> None:
    saga.world.log.plan(LIST, before=error)
    rooms = service(saga)

    assert [rooms.now(), rooms.now()] == [None, None]
    assert listed(saga) == 1
    saga.clock.now += PAUSE_AFTER_FAILURE_S
    assert rooms.now() is not None
