"""A limit that is taken from Redis in packets: exact where it is small, and never exceeded where it is large."""

import pytest
import redis
from limits import parse

from app.web.limits import RateLimit
from tests.support.api import NOWHERE

LARGE, PACKET = 1000, 5


@pytest.mark.parametrize(("limit", "least"), [(3, 3), (LARGE, LARGE - PACKET)])
def test_two_processes_together_keep_to_one_limit(redis_url: str, limit: int, least: int) -> None:
    processes = [RateLimit(parse(f"{limit}/hour"), redis_url) for _ in range(2)]
    passed = [processes[number % 2].take("key").may_pass for number in range(limit + 2 * PACKET)]
    assert least <= sum(passed) <= limit
    refused = processes[0].take("key")
    assert (refused.calls, refused.may_pass, refused.more_in_s >= 1) == (0, False, True)
    assert processes[0].take("another key").may_pass


def test_a_large_limit_asks_redis_for_each_packet_and_for_what_is_left_then(redis_url: str) -> None:
    rate = RateLimit(parse(f"{LARGE}/hour"), redis_url)
    rate.take("key")
    with redis.Redis.from_url(redis_url) as client:
        before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
        for _ in range(2 * PACKET):
            rate.take("key")
        assert client.info("commandstats")["cmdstat_evalsha"]["calls"] - before == 2 * 2


@pytest.mark.parametrize("limit", [10, LARGE])
def test_what_is_left_falls_by_one_with_each_call(redis_url: str, limit: int) -> None:
    rate = RateLimit(parse(f"{limit}/hour"), redis_url)
    left = [rate.take("key") for _ in range(8)]
    assert [one.calls for one in left] == [limit - 1 - number for number in range(8)]
    # Nothing of an hour before expires meanwhile: more comes with the end of this one.
    assert all(3600 - 60 < one.more_in_s <= 3600 for one in left)


def test_what_is_left_counts_many_calls_at_once_and_those_of_other_processes(redis_url: str) -> None:
    first, second = (RateLimit(parse(f"{LARGE}/hour"), redis_url) for _ in range(2))
    first.take("key")
    charged = first.charge("key", 100)
    assert charged.calls == LARGE - 1 - 100
    # What the first has taken and not used is not the second's.
    assert second.take("key").calls == LARGE - PACKET - 100 - 1
    assert first.charge("key", 10 * LARGE).calls == PACKET - 1
    assert first.take("key").calls == PACKET - 2


def test_many_calls_at_once_pass_while_the_limit_is_not_overdrawn_and_are_made_up_for(redis_url: str) -> None:
    first, second = (RateLimit(parse("10/hour"), redis_url) for _ in range(2))
    passed = [rate.charge("key", 1000).may_pass for rate in (first, second, first)]
    wait_s = first.take("key").more_in_s

    assert passed == [True, True, False]
    # Of the 18 in this window 10 may count: as many as overlap ten eighteenths of the next one.
    assert 3600 * 26 / 18 - 60 < wait_s <= 3600 * 26 / 18 + 1
    assert first.take("another key").may_pass


def test_nothing_is_said_of_a_limit_that_cannot_be_counted() -> None:
    rate = RateLimit(parse("10/hour"), NOWHERE)
    assert rate.take("key") is None
    assert rate.charge("key", 5) is None
