"""What Redis knows: the queues, the counters of all processes, and how fast the providers are asked."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector
from redis import Redis
from redis.exceptions import RedisError

from app.domain.queues import QueueName
from app.domain.statuses import Direction
from app.metrics.families import counted, gauge
from app.providers.governor import Governor
from app.telemetry import catalogue
from app.telemetry.tally import REDIS_TIMEOUT_S, Tally

UNACKED = "unacked"
"""The hash in which kombu keeps what a worker has taken and not finished (kombu transport/redis.py `unacked_key`)."""


@dataclass(frozen=True, eq=False)
class BrokerCollector(Collector):
    """Reads Redis; while it is away the rest of the page is there, and says that it is away."""

    redis_url: str = field(repr=False)
    tally: Tally
    governors: Mapping[str, Governor]
    steps: Sequence[str]
    """The names of all steps: a counter that starts at 0 shows its first count as a rise."""

    def describe(self) -> Iterable[Family]:
        """Name nothing in advance, so that registering does not need a broker."""
        return ()

    def collect(self) -> Iterable[Family]:
        """Yield one family after another."""
        try:
            families = [*self._queues(), *self._counters(), *self._pace()]
        except (RedisError, OSError):
            yield gauge(catalogue.BROKER_UP, {(): 0})
            return
        yield gauge(catalogue.BROKER_UP, {(): 1})
        yield from families

    def _queues(self) -> Iterable[Family]:
        limit = REDIS_TIMEOUT_S
        with (
            Redis.from_url(self.redis_url, socket_timeout=limit, socket_connect_timeout=limit) as client,
            client.pipeline(transaction=False) as pipeline,
        ):
            held = [(queue, each) for queue in QueueName for each in queue.lists]
            for _, each in held:
                pipeline.llen(each)
            pipeline.hlen(UNACKED)
            *lengths, unacked = pipeline.execute()
        queues = {(queue.value,): 0 for queue in QueueName}
        for (queue, _), length in zip(held, lengths, strict=True):
            queues[queue.value,] += length
        yield gauge(catalogue.QUEUE_MESSAGES, queues, list(queues))
        yield gauge(catalogue.UNACKED_MESSAGES, {(): unacked})

    def _counters(self) -> Iterable[Family]:
        tally = self.tally.read()
        runs = list(product(self.steps, [direction.value for direction in Direction]))
        yield counted(catalogue.STEP_SECONDS, tally)
        yield counted(catalogue.STEP_RUNS, tally)
        yield counted(catalogue.STEP_RETRIES, tally, runs)
        yield counted(catalogue.LEASE_LOSSES, tally, runs)
        yield counted(catalogue.HTTP_REFUSED, tally, [(str(status),) for status in catalogue.REFUSED_STATUSES])
        yield counted(catalogue.PROVIDER_CALLS, tally)
        yield counted(catalogue.PROVIDER_SECONDS, tally)

    def _pace(self) -> Iterable[Family]:
        loads = {(provider,): governor.load() for provider, governor in self.governors.items()}
        known = {labels: load for labels, load in loads.items() if load is not None}
        allowed = {labels: load.allowed_per_s for labels, load in known.items() if load.allowed_per_s is not None}
        yield gauge(catalogue.PROVIDER_ALLOWED, allowed, allowed)
        yield gauge(catalogue.PROVIDER_SENT, {labels: load.sent_per_s for labels, load in known.items()}, known)
        yield gauge(catalogue.PROVIDER_IN_FLIGHT, {labels: load.in_flight for labels, load in known.items()}, known)
