"""A limit that is taken from Redis in packets: exact where it is small, and never exceeded where it is large."""

import pytest
import redis
from limits import parse

from app.web.limits import RateLimit

LARGE, PACKET = 1000, 5


@pytest.mark.parametrize(("limit", "least"), [(3, 3), (LARGE, LARGE - PACKET)])
def test_two_processes_together_keep_to_one_limit(redis_url: str, limit: int, least: int) -> None:
    processes = [RateLimit(parse(f"{limit}/hour"), redis_url) for _ in range(2)]
    passed = [processes[number % 2].retry_after_s("key") is None for number in range(limit + 2 * PACKET)]
    assert least <= sum(passed) <= limit
    assert processes[0].retry_after_s("key") >= 1
    assert processes[0].retry_after_s("another key") is None


def test_a_large_limit_asks_redis_once_for_each_packet(redis_url: str) -> None:
    rate = RateLimit(parse(f"{LARGE}/hour"), redis_url)
    rate.retry_after_s("key")
    with redis.Redis.from_url(redis_url) as client:
        before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
        for _ in range(2 * PACKET):
            rate.retry_after_s("key")
        assert client.info("commandstats")["cmdstat_evalsha"]["calls"] - before == 2


def test_many_calls_at_once_pass_while_the_limit_is_not_overdrawn_and_are_made_up_for(redis_url: str) -> None:
    first, second = (RateLimit(parse("10/hour"), redis_url) for _ in range(2))
    passed = [rate.charge("key", 1000) is None for rate in (first, second, first)]
    wait_s = first.retry_after_s("key")

    assert passed == [True, True, False]
    # Of the 18 in this window 10 may count: as many as overlap ten eighteenths of the next one.
    assert wait_s is not None
    assert 3600 * 26 / 18 - 60 < wait_s <= 3600 * 26 / 18 + 1
    assert first.retry_after_s("another key") is None
