"""The account's numbers as a process has last listed them: how old, for what, who reads, and what is never believed."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from app.domain.errors import ErrorCode
from app.domain.operations import NUMBER, TRUNK
from app.path.observed import CarrierNumber, NumberRouting, Unreadable
from app.providers import number_pages
from app.providers.errors import RejectedError, TransientError
from app.providers.number_pages import FOUND_WITHIN_S, MOST_PAGES, ROUTED_WITHIN_S, NumberPages
from app.saga.context import StepContext
from app.saga.state import Result
from app.saga.twilio_steps import attach_number, look_up_number
from tests.support.providers import World
from tests.support.saga import E164, ManualClock
from tests.support.step_context import make_context

LATER = 1e9
"""A time on the clock that no test reaches."""

LIST, FIND, GET = "carrier.list_numbers", "carrier.find_number", "carrier.get_number"


class Pages(NumberPages):
    """Over an account in memory, with a clock that a test moves."""

    def __init__(self, world: World) -> None:
        self.moved = ManualClock()
        super().__init__(world.carrier, self.moved)


@pytest.fixture
def world() -> World:
    return World.new()


@pytest.fixture
def pages(world: World) -> Pages:
    return Pages(world)


def own(world: World, count: int) -> list[str]:
    return [world.carrier.own_number(f"+1514600{n:04}") for n in range(count)]


def busy() -> TransientError:
    return TransientError(ErrorCode.PROVIDER_BUSY, "Too many requests.", retry_after_s=1)


def down() -> TransientError:
    return TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "Twilio is down.")


def listed(world: World) -> int:
    return world.log.started[LIST]


def test_one_list_answers_for_a_minute_for_a_look_up_and_for_a_moment_for_a_routing(world: World, pages: Pages) -> None:
    (sid,) = own(world, 1)
    assert pages.find("+15146000000", LATER) == world.carrier.numbers[sid]
    pages.moved.now += ROUTED_WITHIN_S
    assert pages.get(sid, LATER) is not None
    assert listed(world) == 1

    pages.moved.now += 0.1
    world.carrier.route(sid, trunk_sid="TK" + "f" * 32)
    found = pages.get(sid, LATER)
    assert found is not None
    assert found.routing.trunk_sid == "TK" + "f" * 32
    assert listed(world) == 2
    pages.moved.now += FOUND_WITHIN_S
    pages.find("+15146000000", LATER)
    assert listed(world) == 2
    pages.moved.now += 0.1
    pages.find("+15146000000", LATER)
    assert listed(world) == 3


def test_the_age_counts_from_when_the_list_was_begun(world: World, pages: Pages) -> None:
    (sid,) = own(world, 1)

    def take_long() -> None:
        pages.moved.now += ROUTED_WITHIN_S + 0.1

    world.log.plan(LIST, before=take_long)
    assert pages.get(sid, LATER) is None
    assert pages.find("+15146000000", LATER) is not None


def test_a_list_of_many_pages_lasts_longer_and_is_read_again_only_when_it_pays(
    world: World, pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(number_pages, "PAGE_SIZE", 2)
    sids = own(world, 6)
    assert pages.get(sids[0], LATER) is not None
    pages.moved.now += 3 * ROUTED_WITHIN_S
    assert pages.get(sids[0], LATER) is not None
    pages.moved.now += 0.1
    assert pages.get(sids[0], LATER) is None  # the second question since: one of its own costs less than three pages
    assert pages.get(sids[0], LATER) is not None
    assert listed(world) == 2


def test_an_account_whose_list_would_be_too_old_when_it_is_read_is_never_listed_again(
    world: World, pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(number_pages, "PAGE_SIZE", 1)
    sids = own(world, MOST_PAGES + 1)
    pages.find("+15146000000", LATER)
    pages.moved.now += 10 * FOUND_WITHIN_S
    assert {pages.find("+15146000000", LATER) for _ in range(3 * len(sids))} == {None}
    assert listed(world) == 1


def test_what_a_list_does_not_show_or_shows_twice_is_not_decided_by_it(world: World, pages: Pages) -> None:
    world.carrier.own_number(E164)
    world.carrier.own_number(E164)
    assert pages.find("+15146009999", LATER) is None
    assert pages.find(E164, LATER) is None


def test_a_record_that_cannot_be_read_is_not_decided_by_the_list(world: World, pages: Pages) -> None:
    own(world, 1)
    hidden = world.carrier.list_numbers

    def with_an_odd_one(unreadable: list[Unreadable] | None = None) -> list[CarrierNumber]:
        assert unreadable is not None, "without that list the whole of it would fail"
        unreadable.append(Unreadable("", may_be_ours=True))
        return hidden()[1:]

    world.carrier.list_numbers = with_an_odd_one  # type: ignore[method-assign]
    assert pages.find("+15146000000", LATER) is None


def test_a_list_that_fails_leaves_numbers_to_be_read_by_themselves(world: World, pages: Pages) -> None:
    (sid,) = own(world, 1)
    world.log.plan(LIST, before=down(), times=1)
    assert pages.find("+15146000000", LATER) is None
    assert {pages.find("+15146000000", LATER) for _ in range(number_pages.ASKED_AFTER_FAILURE - 1)} == {None}
    assert listed(world) == 1
    assert pages.get(sid, LATER) is not None


def test_where_the_provider_takes_no_more_requests_the_list_says_so(world: World, pages: Pages) -> None:
    own(world, 1)
    world.log.plan(LIST, before=busy())
    with pytest.raises(TransientError) as error:
        pages.find("+15146000000", LATER)
    assert error.value.code is ErrorCode.PROVIDER_BUSY
    assert pages.find("+15146000000", LATER) is not None


@pytest.mark.parametrize("failure", [None, busy()])
def test_one_thread_reads_and_all_who_need_it_share_what_comes(
    world: World, pages: Pages, failure: TransientError | None
) -> None:
    own(world, 1)
    reading, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        reading.set()
        assert go_on.wait(30)
        if failure:
            raise failure

    def ask(_: int) -> str:
        try:
            found = pages.find("+15146000000", pages.moved.now + 30)
        except TransientError as error:
            return error.code
        return found.phone_number if found else ""

    world.log.plan(LIST, before=hold)
    with ThreadPoolExecutor(8) as threads:
        first = threads.submit(ask, 0)
        assert reading.wait(30)
        others = [threads.submit(ask, n) for n in range(1, 8)]
        assert not any(other.done() for other in others)
        # All but the reader have asked, and found that it reads.
        while pages._asked < 8:
            assert not first.done()
        go_on.set()
        answers = {first.result(), *(other.result() for other in others)}
    assert answers == {ErrorCode.PROVIDER_BUSY.value if failure else "+15146000000"}
    assert listed(world) == 1


def test_a_list_of_another_thread_is_not_waited_for_beyond_the_lease(world: World, pages: Pages) -> None:
    own(world, 1)
    reading, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        reading.set()
        assert go_on.wait(30)

    world.log.plan(LIST, before=hold)
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(pages.find, "+15146000000", LATER)
        assert reading.wait(30)
        assert pages.find("+15146000000", pages.moved.now) is None
        go_on.set()
        assert first.result() is not None


def test_a_reader_that_dies_leaves_the_list_to_the_next(world: World, pages: Pages) -> None:
    own(world, 1)
    world.log.plan(LIST, before=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        pages.find("+15146000000", LATER)
    assert pages.find("+15146000000", LATER) is not None


# What the steps make of it.


def in_bulk(world: World, **changes: Any) -> StepContext:
    return make_context(world, shares_lists=True, **changes)


def as_later(ctx: StepContext, seconds: float) -> StepContext:
    """Return the same run's context with its clock moved on."""
    clock = ctx.tools.clock
    assert isinstance(clock, ManualClock)
    clock.now += seconds
    return replace(ctx, started=clock.now)


def after_look_up(ctx: StepContext, looked_up: Result, trunk_sid: str) -> StepContext:
    """Return the context of the attachment that follows."""
    assert looked_up.resource_id is not None
    assert looked_up.previous_routing is not None
    ids = {NUMBER: looked_up.resource_id, TRUNK: trunk_sid}
    return replace(ctx, ids=ids, previous_routing=NumberRouting(**looked_up.previous_routing))


def test_a_bulk_looks_a_number_up_in_the_list(world: World) -> None:
    sid = world.carrier.own_number(E164)
    assert look_up_number(in_bulk(world)).resource_id == sid
    assert (world.log.started[LIST], world.log.started[FIND]) == (1, 0)


def test_a_single_operation_looks_it_up_by_itself(world: World) -> None:
    world.carrier.own_number(E164)
    look_up_number(make_context(world))
    assert (world.log.started[LIST], world.log.started[FIND]) == (0, 1)


def test_a_number_that_the_list_does_not_show_yet_is_found(world: World) -> None:
    ctx = in_bulk(world)
    assert ctx.tools.numbers.find(E164, LATER) is None
    sid = world.carrier.own_number(E164)
    assert look_up_number(ctx).resource_id == sid


def test_a_number_is_called_absent_only_by_look_ups_of_its_own(world: World) -> None:
    with pytest.raises(RejectedError) as error:
        look_up_number(in_bulk(world))
    assert error.value.code is ErrorCode.NUMBER_NOT_IN_ACCOUNT
    assert world.log.started[FIND] == 3


def test_what_an_old_list_says_against_a_number_is_read_once_more(world: World) -> None:
    sid = world.carrier.own_number(E164, trunk_sid="TK" + "f" * 32)
    ctx = in_bulk(world)
    assert ctx.tools.numbers.find(E164, LATER) is not None
    world.carrier.route(sid, trunk_sid=None)
    assert look_up_number(ctx).resource_id == sid

    world.carrier.route(sid, trunk_sid="TK" + "f" * 32)
    with pytest.raises(RejectedError) as error:
        look_up_number(ctx)
    assert error.value.code is ErrorCode.NUMBER_ALREADY_ROUTED


@pytest.mark.parametrize("waits_s", [ROUTED_WITHIN_S + 0.1, FOUND_WITHIN_S])
def test_a_number_that_somebody_has_routed_since_its_look_up_is_not_taken(world: World, waits_s: float) -> None:
    sid, trunk = world.carrier.own_number(E164), world.carrier.own_trunk("trunkline-pool")
    ctx = in_bulk(world)
    looked_up = look_up_number(ctx)
    world.carrier.route(sid, trunk_sid="TK" + "f" * 32)
    ctx = after_look_up(as_later(ctx, waits_s), looked_up, trunk)
    with pytest.raises(RejectedError) as error:
        attach_number(ctx)
    assert error.value.code is ErrorCode.NUMBER_ALREADY_ROUTED
    assert world.routing(sid).trunk_sid == "TK" + "f" * 32


def test_a_bulk_attaches_without_a_read_while_the_list_is_young(world: World) -> None:
    sid, trunk = world.carrier.own_number(E164), world.carrier.own_trunk("trunkline-pool")
    ctx = in_bulk(world)
    looked_up = look_up_number(ctx)
    attach_number(after_look_up(as_later(ctx, ROUTED_WITHIN_S), looked_up, trunk))
    assert world.routing(sid).trunk_sid == trunk
    assert (world.log.started[LIST], world.log.started[FIND], world.log.started[GET]) == (1, 0, 0)


def test_a_list_that_is_older_than_the_look_up_refuses_nothing(world: World) -> None:
    sid, trunk = world.carrier.own_number(E164, trunk_sid="TK" + "f" * 32), world.carrier.own_trunk("trunkline-pool")
    ctx = in_bulk(world)
    assert ctx.tools.numbers.find(E164, LATER) is not None
    world.carrier.route(sid, trunk_sid=None)
    attach_number(after_look_up(ctx, look_up_number(ctx), trunk))
    assert world.routing(sid).trunk_sid == trunk
    assert world.log.started[GET] == 1


def test_a_number_that_is_not_in_the_list_is_read_before_it_is_attached(world: World) -> None:
    trunk = world.carrier.own_trunk("trunkline-pool")
    ctx = in_bulk(world)
    assert ctx.tools.numbers.find(E164, LATER) is None
    sid = world.carrier.own_number(E164, trunk_sid="TK" + "f" * 32)
    with pytest.raises(RejectedError) as error:
        attach_number(replace(ctx, ids={NUMBER: sid, TRUNK: trunk}))
    assert error.value.code is ErrorCode.NUMBER_ALREADY_ROUTED
    assert world.log.started[GET] == 1
