"""The counts of several processes add up in Redis, and survive an outage of it."""

from collections.abc import Iterator

import pytest
from prometheus_client.core import Metric
from redis import Redis

from app.dev.localstack.servers import ValkeyServer
from app.observability.counters import KEY, LEASE_LOSSES, STEP_RUNS, STEP_SECONDS, Counters, make_counters
from app.observability.metrics import counted

DO = ("twilio_trunk", "do")


@pytest.fixture
def url(valkey_server: ValkeyServer) -> Iterator[str]:
    with Redis.from_url(valkey_server.url) as client:
        client.delete(KEY)
        yield valkey_server.url
        client.delete(KEY)


@pytest.fixture
def pair(url: str) -> Iterator[tuple[Counters, Counters]]:
    """The counters of two processes."""
    both = make_counters(url), make_counters(url)
    yield both
    for counters in both:
        counters.close()


def samples(family: Metric) -> dict[tuple[str, ...], float]:
    return {(sample.name, *sample.labels.values()): sample.value for sample in family.samples}


def test_the_counts_of_two_processes_add_up(pair: tuple[Counters, Counters]) -> None:
    for counters in pair:
        counters.count(STEP_RUNS, *DO, "done")
        counters.count(STEP_RUNS, *DO, "done")
        counters.flush()
    pair[0].count(STEP_RUNS, *DO, "rests")

    shown = samples(counted(STEP_RUNS, pair[0].read()))

    assert shown == {("trunkline_step_runs_total", *DO, "done"): 4, ("trunkline_step_runs_total", *DO, "rests"): 1}


def test_closing_flushes_the_last_counts(pair: tuple[Counters, Counters]) -> None:
    pair[0].count(STEP_RUNS, *DO, "done")
    pair[0].close()
    assert list(pair[1].read().values()) == [1]


def test_durations_fall_into_their_buckets(pair: tuple[Counters, Counters]) -> None:
    for seconds in (0.05, 0.06, 0.4, 31):
        pair[0].observe(STEP_SECONDS, *DO, seconds=seconds)

    shown = samples(counted(STEP_SECONDS, pair[0].read()))

    bucket, rest = "trunkline_step_duration_seconds_bucket", "trunkline_step_duration_seconds"
    assert [shown[bucket, *DO, bound] for bound in ("0.05", "0.1", "0.25", "0.5", "30.0", "+Inf")] == [1, 2, 2, 3, 3, 4]
    assert shown[f"{rest}_count", *DO] == 4
    assert shown[f"{rest}_sum", *DO] == pytest.approx(31.51)


def test_what_redis_does_not_take_is_kept(url: str) -> None:
    away, back = Redis(port=1), Redis.from_url(url, decode_responses=True)
    counters = Counters(away)
    counters.count(STEP_RUNS, *DO, "done")
    counters.flush()
    counters._add = back.register_script(counters._add.script)
    counters.flush()
    counters.flush()

    assert back.hgetall(KEY) == {"trunkline_step_runs_total|twilio_trunk|do|done": "1"}
    counters.close()
    back.close()


def test_what_was_never_counted_is_zero(pair: tuple[Counters, Counters]) -> None:
    assert samples(counted(LEASE_LOSSES, pair[0].read(), [DO])) == {("trunkline_lease_losses_total", *DO): 0}
