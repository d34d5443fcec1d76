"""The shared pace on a real Valkey: several processes, a killed one, two lanes, and no Valkey at all."""

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
from app.dev.localstack.stores import ValkeyServer
from app.providers.errors import CallFailedError, Outcome
from app.providers.rate_limiter import (
    BURST_S,
    FALL,
    FORGET_S,
    REGAIN_S,
    START_PER_S,
    Caller,
    Governor,
    Lane,
    Pace,
    calling,
    make_governor,
)

ACCOUNT = "twilio:test"
CALLS = """
import sys, time
from redis import Redis
from app.providers.rate_limiter import make_governor
governor = make_governor(sys.argv[1], "twilio", "shared", per_s=40, in_flight=None, timeout_s=20)
client = Redis.from_url(sys.argv[1])
client.incr("ready")
while int(client.get("ready")) < 2:
    time.sleep(0.005)
started = time.monotonic()
for _ in range(30):
    with governor.place():
        pass
print(time.monotonic() - started)
"""
HOLDER = """
import sys, time
from redis import Redis
from app.providers.rate_limiter import Pace
Pace(Redis.from_url(sys.argv[1]), "twilio:test", None, 1, 1.0).take("single", "killed", 0, 0)
print("taken", flush=True)
time.sleep(60)
"""


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def pace_at(client: redis.Redis, per_s: float | None = None, in_flight: int | None = None) -> Pace:
    return Pace(client, ACCOUNT, per_s, in_flight, 1.0)


def governor_at(redis_url: str, per_s: float | None) -> Governor:
    return make_governor(redis_url, "twilio", "test", per_s=per_s, in_flight=None, timeout_s=20)


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
    assert Pace(client, ACCOUNT, None, 2, 60.0).take("single", "stays", 0, 0).is_taken
    pace = pace_at(client, in_flight=2)
    assert not pace.take("single", "mine", 0, 0).is_taken
    assert poll_until(lambda: pace.take("single", "mine", 0, 0).is_taken, 10)
    assert not pace.take("single", "another", 0, 0).is_taken
    pace.leave("mine")
    assert pace.take("single", "another", 0, 0).is_taken


def test_bulk_takes_a_slot_only_when_it_is_due_while_singles_take_theirs_ahead(client: redis.Redis) -> None:
    pace = pace_at(client, per_s=1)
    assert pace.take("bulk", "", 5, 0).is_taken
    assert not pace.take("bulk", "", 5, 0).is_taken
    assert pace.take("single", "", 5, 0).is_taken
    assert pace.take("single", "", 5, 0).wait_s == pytest.approx(2, abs=1)


def test_bulk_leaves_a_fifth_of_the_places_to_singles(client: redis.Redis) -> None:
    pace = pace_at(client, in_flight=5)
    assert [pace.take("bulk", str(n), 0, 0).is_taken for n in range(5)] == [True] * 4 + [False]
    assert pace.take("single", "mine", 0, 0).is_taken
    assert pace.look().in_flight == 5


def test_nothing_is_paced_before_a_429(client: redis.Redis) -> None:
    pace = pace_at(client)
    assert {pace.take("bulk", "", 0, 10).told for _ in range(50)} == {"open"}
    assert pace.look().allowed_per_s is None
    assert pace.look().sent_per_s == pytest.approx(550, rel=0.2)


def test_a_429_brings_the_rate_below_what_was_taken_and_time_brings_it_back(client: redis.Redis) -> None:
    pace = pace_at(client)
    pace.take("single", "", 0, 49)
    peak = pace.cut(None, 1)
    assert peak == pytest.approx(50, rel=0.1)
    assert pace.look().allowed_per_s == pytest.approx(peak * (1 - FALL), rel=0.02)
    later(client, REGAIN_S)
    assert pace.look().allowed_per_s == pytest.approx(peak, rel=0.02)
    later(client, REGAIN_S)
    assert pace.look().allowed_per_s == pytest.approx(peak * (1 + FALL), rel=0.02)
    assert 0 < client.ttl(f"trunkline-governor:{{{ACCOUNT}}}:pace") <= FORGET_S


def test_only_the_first_429_of_a_second_counts(client: redis.Redis) -> None:
    pace = pace_at(client, per_s=100)
    pace.take("single", "", 0, 60)
    peaks = {pace.cut(None, 0) for _ in range(20)}
    assert len(peaks) == 1
    later(client, 2)
    assert pace.cut(None, 0) < peaks.pop()


def test_a_stray_429_on_a_quiet_account_leaves_enough(client: redis.Redis) -> None:
    assert pace_at(client).cut(None, 1) == START_PER_S


def test_nobody_calls_before_retry_after_is_over(client: redis.Redis) -> None:
    pace = pace_at(client)
    pace.cut(30, 1)
    for lane in Lane:
        place = pace.take(lane, "", 5, 0)
        assert not place.is_taken
        assert 29 < place.wait_s <= 30


def test_a_set_rate_is_never_exceeded_however_long_nothing_hurts(client: redis.Redis) -> None:
    pace = pace_at(client, per_s=20)
    pace.cut(None, 1)
    later(client, FORGET_S / 2)
    assert pace.look().allowed_per_s == 20


def test_singles_overtake_a_bulk_job(redis_url: str) -> None:
    governor, order, lock = governor_at(redis_url, per_s=5), [], threading.Lock()

    def call(lane: Lane) -> None:
        with calling(Caller(lane)), governor.place(), lock:
            order.append(lane)

    bulk = [threading.Thread(target=call, args=(Lane.BULK,)) for _ in range(8)]
    for thread in bulk:
        thread.start()
    assert poll_until(lambda: len(order) >= 2, 10)
    before = len(order)
    singles = [threading.Thread(target=call, args=(Lane.SINGLE,)) for _ in range(3)]
    for thread in singles:
        thread.start()
    for thread in (*singles, *bulk):
        thread.join()
    # One that bulk had taken before the first single asked may come between.
    assert order[before : before + 4].count(Lane.SINGLE) == 3
    assert order.count(Lane.BULK) == 8


def test_a_call_that_would_wait_too_long_is_held_back(redis_url: str) -> None:
    governor = governor_at(redis_url, per_s=5)
    with pytest.raises(CallFailedError), governor.place():
        raise CallFailedError(Outcome.STATUS, status=429, retry_after_s=60)
    with pytest.raises(CallFailedError) as failed, governor.place():
        pytest.fail("let in")
    assert failed.value.outcome is Outcome.HELD_BACK
    assert failed.value.retry_after_s == pytest.approx(60, abs=5)


def test_without_valkey_every_call_passes() -> None:
    governor = make_governor(f"redis://127.0.0.1:{free_port()}/0", "twilio", "test", per_s=1, in_flight=1, timeout_s=20)
    passed = []
    for _ in range(5):
        with governor.place():
            passed.append(1)
    assert len(passed) == 5
    assert governor.load() is None


def test_a_valkey_that_hangs_costs_one_short_timeout(own_valkey: ValkeyServer) -> None:
    governor = governor_at(own_valkey.url, per_s=1)
    own_valkey.pause()
    started = time.monotonic()
    for _ in range(5):
        with governor.place():
            pass
    own_valkey.resume()
    # Five calls at 1/s would take four seconds.
    assert time.monotonic() - started < 3
