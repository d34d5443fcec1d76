"""Counts of several processes meet in Redis, and outlive what happens to it."""

from collections.abc import Iterator

import pytest
from prometheus_client.core import Metric
from redis import Redis

from app.dev.localstack.stores import ValkeyServer
from app.observability.counters import KEY, LEASE_LOSSES, STEP_RUNS, STEP_SECONDS, Tally, make_tally
from app.observability.metrics import counted

DO = ("twilio_trunk", "do")


@pytest.fixture
def url(valkey_server: ValkeyServer) -> Iterator[str]:
    with Redis.from_url(valkey_server.url) as client:
        client.delete(KEY)
        yield valkey_server.url
        client.delete(KEY)


@pytest.fixture
def tallies(url: str) -> Iterator[tuple[Tally, Tally]]:
    """Two, as two processes have them."""
    pair = make_tally(url), make_tally(url)
    yield pair
    for tally in pair:
        tally.close()


def samples(family: Metric) -> dict[tuple[str, ...], float]:
    return {(sample.name, *sample.labels.values()): sample.value for sample in family.samples}


def test_the_counts_of_two_processes_add_up(tallies: tuple[Tally, Tally]) -> None:
    for tally in tallies:
        tally.count(STEP_RUNS, *DO, "done")
        tally.count(STEP_RUNS, *DO, "done")
        tally.flush()
    tallies[0].count(STEP_RUNS, *DO, "rests")

    told = samples(counted(STEP_RUNS, tallies[0].read()))

    assert told == {("trunkline_step_runs_total", *DO, "done"): 4, ("trunkline_step_runs_total", *DO, "rests"): 1}


def test_a_closed_process_has_said_all(tallies: tuple[Tally, Tally]) -> None:
    tallies[0].count(STEP_RUNS, *DO, "done")
    tallies[0].close()
    assert list(tallies[1].read().values()) == [1]


def test_durations_fall_into_their_buckets(tallies: tuple[Tally, Tally]) -> None:
    for seconds in (0.05, 0.06, 0.4, 31):
        tallies[0].observe(STEP_SECONDS, *DO, seconds=seconds)

    told = samples(counted(STEP_SECONDS, tallies[0].read()))

    bucket, rest = "trunkline_step_duration_seconds_bucket", "trunkline_step_duration_seconds"
    assert [told[bucket, *DO, bound] for bound in ("0.05", "0.1", "0.25", "0.5", "30.0", "+Inf")] == [1, 2, 2, 3, 3, 4]
    assert told[f"{rest}_count", *DO] == 4
    assert told[f"{rest}_sum", *DO] == pytest.approx(31.51)


def test_what_redis_does_not_take_is_kept(url: str) -> None:
    away, back = Redis(port=1), Redis.from_url(url, decode_responses=True)
    tally = Tally(away)
    tally.count(STEP_RUNS, *DO, "done")
    tally.flush()
    tally._add = back.register_script(tally._add.script)
    tally.flush()
    tally.flush()

    assert back.hgetall(KEY) == {"trunkline_step_runs_total|twilio_trunk|do|done": "1"}
    tally.close()
    back.close()


def test_what_nobody_counted_yet_is_nought(tallies: tuple[Tally, Tally]) -> None:
    assert samples(counted(LEASE_LOSSES, tallies[0].read(), [DO])) == {("trunkline_lease_losses_total", *DO): 0}
