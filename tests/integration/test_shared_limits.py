"""The shared limits on a real Valkey: several processes, a killed one, two priorities, and no Valkey at all."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import redis

from app.dev.localstack.processes import free_port, poll_until
from app.dev.localstack.servers import ValkeyServer
from app.providers.callers import Caller, CallPriority, calling
from app.providers.errors import CallFailedError, Outcome
from app.providers.rate_limiter import (
    BURST_S,
    FALL,
    FORGET_S,
    REGAIN_S,
    START_PER_S,
    AccountLimits,
    Decision,
    RateLimiter,
    make_rate_limiter,
)

ACCOUNT = "twilio:test"
CALLS = """
import sys, time
from redis import Redis
from app.providers.rate_limiter import make_rate_limiter
rate_limiter = make_rate_limiter(sys.argv[1], "twilio", "shared", per_s=40, in_flight=None, timeout_s=20)
client = Redis.from_url(sys.argv[1])
client.incr("ready")
while int(client.get("ready")) < 2:
    time.sleep(0.005)
started = time.monotonic()
for _ in range(30):
    with rate_limiter.limited_call():
        pass
print(time.monotonic() - started)
"""
HOLDER = """
import sys, time
from redis import Redis
from app.providers.rate_limiter import AccountLimits
AccountLimits(Redis.from_url(sys.argv[1]), "twilio:test", None, 1, 1.0).acquire("single", "killed", 0, 0)
print("taken", flush=True)
time.sleep(60)
"""


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def limits_at(client: redis.Redis, per_s: float | None = None, in_flight: int | None = None) -> AccountLimits:
    return AccountLimits(client, ACCOUNT, per_s, in_flight, 1.0)


def rate_limiter_at(redis_url: str, per_s: float | None) -> RateLimiter:
    return make_rate_limiter(redis_url, "twilio", "test", per_s=per_s, in_flight=None, timeout_s=20)


def later(client: redis.Redis, seconds: float) -> None:
    """Let the last 429 be so long ago."""
    key = f"trunkline-governor:{{{ACCOUNT}}}:pace"
    client.hset(key, "cut", float(client.hget(key, "cut") or 0) - seconds)


def test_two_processes_share_one_rate(redis_url: str) -> None:
    command = [sys.executable, "-c", CALLS, redis_url]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]  # noqa: S603
    took_s = [float(process.communicate(timeout=60)[0]) for process in running]
    # 60 calls at 40/s with half a second's worth at once; 30 calls of a process alone would take a quarter of that.
    assert max(took_s) >= 60 / 40 - BURST_S - 0.1


def test_a_killed_holder_frees_its_place(redis_url: str, client: redis.Redis) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, redis_url], stdout=subprocess.PIPE, text=True)  # noqa: S603
    assert holder.stdout is not None
    assert holder.stdout.readline() == "taken\n"
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    # Somebody who stays keeps the set of places alive, so that only the killed one's own end frees it.
    assert AccountLimits(client, ACCOUNT, None, 2, 60.0).acquire("single", "stays", 0, 0).is_granted
    limits = limits_at(client, in_flight=2)
    assert not limits.acquire("single", "mine", 0, 0).is_granted
    assert poll_until(lambda: limits.acquire("single", "mine", 0, 0).is_granted, 10)
    assert not limits.acquire("single", "another", 0, 0).is_granted
    limits.release("mine")
    assert limits.acquire("single", "another", 0, 0).is_granted


def test_bulk_takes_a_slot_only_when_it_is_due_while_singles_take_theirs_ahead(client: redis.Redis) -> None:
    limits = limits_at(client, per_s=1)
    assert limits.acquire("bulk", "", 5, 0).is_granted
    assert not limits.acquire("bulk", "", 5, 0).is_granted
    assert limits.acquire("single", "", 5, 0).is_granted
    assert limits.acquire("single", "", 5, 0).wait_s == pytest.approx(2, abs=1)


def test_bulk_leaves_a_fifth_of_the_places_to_singles(client: redis.Redis) -> None:
    limits = limits_at(client, in_flight=5)
    assert [limits.acquire("bulk", str(n), 0, 0).is_granted for n in range(5)] == [True] * 4 + [False]
    assert limits.acquire("single", "mine", 0, 0).is_granted
    assert limits.load().in_flight == 5


def test_nothing_is_limited_before_a_429(client: redis.Redis) -> None:
    limits = limits_at(client)
    assert {limits.acquire("bulk", "", 0, 10).decision for _ in range(50)} == {Decision.UNLIMITED}
    assert limits.load().allowed_per_s is None
    assert limits.load().sent_per_s == pytest.approx(550, rel=0.2)


def test_a_429_brings_the_rate_below_what_was_taken_and_time_brings_it_back(client: redis.Redis) -> None:
    limits = limits_at(client)
    limits.acquire("single", "", 0, 49)
    peak = limits.reduce(None, 1)
    assert peak == pytest.approx(50, rel=0.1)
    assert limits.load().allowed_per_s == pytest.approx(peak * (1 - FALL), rel=0.02)
    later(client, REGAIN_S)
    assert limits.load().allowed_per_s == pytest.approx(peak, rel=0.02)
    later(client, REGAIN_S)
    assert limits.load().allowed_per_s == pytest.approx(peak * (1 + FALL), rel=0.02)
    assert 0 < client.ttl(f"trunkline-governor:{{{ACCOUNT}}}:pace") <= FORGET_S


def test_only_the_first_429_of_a_second_counts(client: redis.Redis) -> None:
    limits = limits_at(client, per_s=100)
    limits.acquire("single", "", 0, 60)
    peaks = {limits.reduce(None, 0) for _ in range(20)}
    assert len(peaks) == 1
    later(client, 2)
    assert limits.reduce(None, 0) < peaks.pop()


def test_a_stray_429_on_a_quiet_account_leaves_enough(client: redis.Redis) -> None:
    assert limits_at(client).reduce(None, 1) == START_PER_S


def test_nobody_calls_before_retry_after_is_over(client: redis.Redis) -> None:
    limits = limits_at(client)
    limits.reduce(30, 1)
    for priority in CallPriority:
        permit = limits.acquire(priority, "", 5, 0)
        assert not permit.is_granted
        assert 29 < permit.wait_s <= 30


def test_a_set_rate_is_never_exceeded_however_long_nothing_hurts(client: redis.Redis) -> None:
    limits = limits_at(client, per_s=20)
    limits.reduce(None, 1)
    later(client, FORGET_S / 2)
    assert limits.load().allowed_per_s == 20


def test_singles_overtake_a_bulk_job(redis_url: str) -> None:
    rate_limiter, order, lock = rate_limiter_at(redis_url, per_s=5), [], threading.Lock()

    def call(priority: CallPriority) -> None:
        with calling(Caller(priority)), rate_limiter.limited_call(), lock:
            order.append(priority)

    bulk = [threading.Thread(target=call, args=(CallPriority.BULK,)) for _ in range(8)]
    for thread in bulk:
        thread.start()
    assert poll_until(lambda: len(order) >= 2, 10)
    before = len(order)
    singles = [threading.Thread(target=call, args=(CallPriority.SINGLE,)) for _ in range(3)]
    for thread in singles:
        thread.start()
    for thread in (*singles, *bulk):
        thread.join()
    # One that bulk had taken before the first single asked may come between.
    assert order[before : before + 4].count(CallPriority.SINGLE) == 3
    assert order.count(CallPriority.BULK) == 8


def test_a_call_that_would_wait_too_long_is_held_back(redis_url: str) -> None:
    rate_limiter = rate_limiter_at(redis_url, per_s=5)
    with pytest.raises(CallFailedError), rate_limiter.limited_call():
        raise CallFailedError(Outcome.STATUS, status=429, retry_after_s=60)
    with pytest.raises(CallFailedError) as failed, rate_limiter.limited_call():
        pytest.fail("let in")
    assert failed.value.outcome is Outcome.HELD_BACK
    assert failed.value.retry_after_s == pytest.approx(60, abs=5)


def test_without_valkey_every_call_passes() -> None:
    rate_limiter = make_rate_limiter(
        f"redis://127.0.0.1:{free_port()}/0", "twilio", "test", per_s=1, in_flight=1, timeout_s=20
    )
    passed = []
    for _ in range(5):
        with rate_limiter.limited_call():
            passed.append(1)
    assert len(passed) == 5
    assert rate_limiter.load() is None


def test_a_valkey_that_hangs_costs_one_short_timeout(own_valkey: ValkeyServer) -> None:
    rate_limiter = rate_limiter_at(own_valkey.url, per_s=1)
    own_valkey.pause()
    started = time.monotonic()
    for _ in range(5):
        with rate_limiter.limited_call():
            pass
    own_valkey.resume()
    # Five calls at 1/s would take four seconds.
    assert time.monotonic() - started < 3
