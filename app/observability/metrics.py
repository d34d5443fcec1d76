"""The page that Prometheus scrapes: rows counted in SQL, queues and counters read from Redis."""

import platform
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import product
from typing import Protocol, TypeVar

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector
from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import ColumnElement, Float, Row, case, cast, func, select, text
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.db.engine import Sessions
from app.db.models import Agent, Audit, Bulk, Operation, Trunk
from app.db.webhooks import WebhookDelivery, WebhookEndpoint
from app.domain.calls import CallVerdict, Reachability
from app.domain.events import DeliveryStatus
from app.domain.findings import FINDING_KINDS, AuditStatus, Finding, Health, stored_finding
from app.domain.operations import (
    OPEN_BULKS,
    OPEN_STATUSES,
    BulkStatus,
    Direction,
    ItemStatus,
    OperationKind,
    OperationStatus,
    PhoneStatus,
    TrunkMode,
    TrunkState,
)
from app.domain.queues import QueueName
from app.observability import counters
from app.observability.counters import BUCKETS, BUCKETS_S, LARGEST, REDIS_TIMEOUT_S, SUM, Counters, Kind, Metric
from app.providers.rate_limiter import RateLimiter

Labels = tuple[str, ...]

Key = TypeVar("Key", bound=Labels)


def gauge(metric: Metric, values: Mapping[Key, float], every: Iterable[Labels] = ((),)) -> Family:
    """Build a gauge with a value for each combination of labels in `every`, 0 where nothing was counted."""
    found: dict[Labels, float] = dict(values.items())
    family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels in every:
        family.add_metric(labels, found.get(labels, 0))
    return family


def counted(metric: Metric, counts: Mapping[str, float], zeros: Iterable[Labels] = ()) -> Family:
    """Build a counter or histogram from the counts; those of `zeros` that were never counted as 0."""
    prefix = f"{metric.name}|"
    fields = {
        tuple(field.removeprefix(prefix).split("|")): value
        for field, value in counts.items()
        if field.startswith(prefix)
    }
    if metric.kind is Kind.HISTOGRAM:
        return _histogram(metric, fields)
    family = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels in sorted({*fields, *zeros}):
        family.add_metric(labels, fields.get(labels, 0))
    return family


def _histogram(metric: Metric, fields: Mapping[Labels, float]) -> Family:
    family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
    bounds = {**dict(zip(BUCKETS, (str(bound) for bound in BUCKETS_S), strict=False)), LARGEST: "+Inf"}
    for labels in sorted({series[:-1] for series in fields}):
        so_far, buckets = 0.0, []
        for name, bound in bounds.items():
            so_far += fields.get((*labels, name), 0)
            buckets.append((bound, so_far))
        family.add_metric(labels, buckets, fields.get((*labels, SUM), 0))
    return family


class Age(StrEnum):
    """How long ago an operation was requested."""

    UNDER_A_MINUTE = "under_1m"
    MINUTES = "1m_to_15m"
    OVER_BUDGET = "15m_to_1h"
    """More than an operation may spend on retries, unless OPERATION_BUDGET_S says otherwise."""
    OVER_AN_HOUR = "over_1h"


def _seconds_since(moment: ColumnElement[object] | InstrumentedAttribute[object]) -> ColumnElement[float]:
    return cast(func.extract("epoch", func.now() - moment), Float)


def _age_of_oldest(moment: InstrumentedAttribute[object]) -> ColumnElement[float]:
    return func.greatest(func.coalesce(_seconds_since(func.min(moment)), 0), 0)


def count_operations(session: Session) -> Sequence[Row[OperationKind, OperationStatus, int]]:
    """Return (kind, status, how many) for every pair that occurs."""
    query = select(Operation.kind, Operation.status, func.count()).group_by(Operation.kind, Operation.status)
    return session.execute(query).all()


def count_open_operations(session: Session) -> Sequence[Row[OperationStatus, str, int]]:
    """Return (status, age, how many) for every pair that occurs among the operations that are not over."""
    seconds = _seconds_since(Operation.created_at)
    age = case(
        (seconds < 60, Age.UNDER_A_MINUTE.value),  # noqa: PLR2004  # the label says it
        (seconds < 900, Age.MINUTES.value),  # noqa: PLR2004
        (seconds < 3600, Age.OVER_BUDGET.value),  # noqa: PLR2004
        else_=Age.OVER_AN_HOUR.value,
    ).label("age")
    query = select(Operation.status, age, func.count()).where(Operation.status.in_(OPEN_STATUSES))
    return session.execute(query.group_by(Operation.status, "age")).all()


def open_operation_ages(session: Session) -> tuple[float, float]:
    """Return, in seconds, the age of the oldest open operation and how long the most overdue one waits for a sweep."""
    ages = select(_age_of_oldest(Operation.created_at), _age_of_oldest(Operation.wake_at))
    oldest, overdue = session.execute(ages.where(Operation.status.in_(OPEN_STATUSES))).one()
    return float(oldest), float(overdue)


def oldest_queued(session: Session) -> dict[QueueName, float]:
    """Return, in seconds, the age of the oldest operation that no worker has begun, for each queue where one waits."""
    queue = case(
        (Operation.kind == OperationKind.DEPROVISION, QueueName.ROLLBACK.value),
        (Operation.bulk_id.is_not(None), QueueName.BULK.value),
        else_=QueueName.PROVISION.value,
    ).label("queue")
    query = select(queue, _age_of_oldest(Operation.created_at)).where(Operation.status == OperationStatus.QUEUED)
    return {QueueName(name): float(age) for name, age in session.execute(query.group_by("queue"))}


def count_agents(session: Session) -> Sequence[Row[str, str, int]]:
    """Return (phone provisioning status, health, how many agents) for every pair that occurs; deleted ones left out."""
    pair = Agent.phone_provisioning_status, Agent.health_state
    return session.execute(select(*pair, func.count()).where(Agent.deleted_at.is_(None)).group_by(*pair)).all()


def count_monitored(session: Session) -> Sequence[Row[Reachability, int]]:
    """Return (reachability, how many agents with a number and a monitor) for every value that occurs."""
    is_monitored = text("options -> 'monitor' IS NOT NULL")
    is_provisioned = Agent.phone_provisioning_status == PhoneStatus.PROVISIONED
    query = select(Agent.reachability, func.count()).where(is_monitored, is_provisioned)
    return session.execute(query.group_by(Agent.reachability)).all()


def newest_findings(session: Session) -> Sequence[Finding]:
    """Return every finding of the newest audit that was done."""
    query = select(Audit.findings).where(Audit.status == AuditStatus.DONE)
    found = session.scalar(query.order_by(Audit.created_at.desc(), Audit.id.desc()).limit(1))
    return [stored_finding(finding) for finding in found or ()]


def audit_age(session: Session) -> float | None:
    """Return the seconds since the last audit that was done ended; None before the first."""
    return session.scalar(select(_seconds_since(func.max(Audit.finished_at))).where(Audit.status == AuditStatus.DONE))


def count_deliveries(session: Session) -> Sequence[Row[DeliveryStatus, int, float]]:
    """Return (status, how many, age of the oldest in seconds) for every status that occurs."""
    status = WebhookDelivery.status
    query = select(status, func.count(), _age_of_oldest(WebhookDelivery.created_at)).group_by(status)
    return session.execute(query).all()


def count_webhooks(session: Session) -> tuple[int, int]:
    """Return how many webhooks are served, and how many are disabled."""
    is_disabled = WebhookEndpoint.disabled_at.is_not(None)
    query = select(func.count().filter(~is_disabled), func.count().filter(is_disabled)).select_from(WebhookEndpoint)
    served, disabled = session.execute(query).one()
    return served, disabled


def count_bulks(session: Session) -> Sequence[Row[str, int]]:
    """Return (status, how many bulks) for every status that occurs."""
    return session.execute(select(Bulk.status, func.count()).group_by(Bulk.status)).all()


def count_open_items(session: Session) -> dict[ItemStatus, int]:
    """Return how many items of the open bulks are in each status, as last counted."""
    sums = [func.coalesce(func.sum(getattr(Bulk, status.value)), 0) for status in ItemStatus]
    return dict(zip(ItemStatus, session.execute(select(*sums).where(Bulk.status.in_(OPEN_BULKS))).one(), strict=True))


OPERATION_QUEUES = (QueueName.PROVISION, QueueName.BULK, QueueName.ROLLBACK)
"""The queues in which operations wait; `ops` has none."""


@dataclass(frozen=True, eq=False)
class RowCollector(Collector):
    """Counts rows; every status is shown, those that do not occur as 0."""

    sessions: Sessions

    def describe(self) -> Iterable[Family]:
        """Describe nothing in advance, so that registering does not need a database."""
        return ()

    def collect(self) -> Iterable[Family]:
        """Yield one family after another."""
        with self.sessions() as session:
            yield from _operations(session)
            yield from _agents(session)
            yield from _bulks(session)
            yield from _webhooks(session)
            yield from _trunks(session)


def _operations(session: Session) -> Iterable[Family]:
    found = {(kind.value, status.value): count for kind, status, count in count_operations(session)}
    yield gauge(counters.OPERATIONS, found, _all(OperationKind, OperationStatus))
    ages = {(status.value, age): count for status, age, count in count_open_operations(session)}
    yield gauge(counters.OPEN_OPERATIONS, ages, product(sorted(OPEN_STATUSES), Age))
    oldest_s, overdue_s = open_operation_ages(session)
    yield gauge(counters.OLDEST_OPEN, {(): oldest_s})
    yield gauge(counters.WAKE_DELAY, {(): overdue_s})
    queued = {(name.value,): age for name, age in oldest_queued(session).items()}
    yield gauge(counters.OLDEST_QUEUED, queued, [(name,) for name in OPERATION_QUEUES])


def _agents(session: Session) -> Iterable[Family]:
    statuses: Counter[Labels] = Counter()
    health: Counter[Labels] = Counter()
    for status, state, count in count_agents(session):
        statuses[status,] += count
        if status is PhoneStatus.PROVISIONED:
            health[state,] += count
    yield gauge(counters.AGENTS, statuses, _all(PhoneStatus))
    yield gauge(counters.AGENTS_HEALTH, health, _all(Health))
    reached = {(one.value,): count for one, count in count_monitored(session)}
    yield gauge(counters.AGENTS_REACHABILITY, reached, _all(Reachability))
    findings: Counter[Labels] = Counter((one.code.value, one.severity.value) for one in newest_findings(session))
    # A code may be found with another severity than its own: that pair is shown while it is.
    own = [(code.value, kind.severity.value) for code, kind in FINDING_KINDS.items()]
    yield gauge(counters.AUDIT_FINDINGS, findings, dict.fromkeys([*own, *findings]))
    age = audit_age(session)
    yield gauge(counters.AUDIT_AGE, {(): age or 0}, () if age is None else ((),))


def _bulks(session: Session) -> Iterable[Family]:
    bulks = {(status,): count for status, count in count_bulks(session)}
    yield gauge(counters.BULKS, bulks, _all(BulkStatus))
    yield gauge(
        counters.BULK_ITEMS,
        {(status.value,): count for status, count in count_open_items(session).items()},
        _all(ItemStatus),
    )


def _webhooks(session: Session) -> Iterable[Family]:
    found = count_deliveries(session)
    yield gauge(counters.DELIVERIES, {(status,): count for status, count, _ in found}, _all(DeliveryStatus))
    oldest = {status: age for status, _, age in found}
    yield gauge(counters.OLDEST_DELIVERY, {(): oldest.get(DeliveryStatus.PENDING, 0)})
    served, disabled = count_webhooks(session)
    yield gauge(counters.WEBHOOKS, {("served",): served, ("disabled",): disabled}, (("served",), ("disabled",)))


def count_trunks(session: Session) -> Sequence[Row[TrunkState, int]]:
    """Return (state, how many shared trunks) for every state that occurs."""
    return session.execute(select(Trunk.state, func.count()).group_by(Trunk.state)).all()


def count_trunk_numbers(session: Session) -> dict[TrunkMode, int]:
    """Return how many agents have a place on a shared trunk, and how many a trunk of their own."""
    is_own = Agent.trunk_id.is_(None) & Agent.twilio_trunk_sid.is_not(None)
    conditions = {TrunkMode.SHARED: Agent.trunk_id.is_not(None), TrunkMode.DEDICATED: is_own}
    return {mode: session.scalars(select(func.count()).where(one)).one() for mode, one in conditions.items()}


def _trunks(session: Session) -> Iterable[Family]:
    states = {(state.value,): count for state, count in count_trunks(session)}
    yield gauge(counters.TRUNKS, states, _all(TrunkState))
    numbers = {(mode.value,): count for mode, count in count_trunk_numbers(session).items()}
    yield gauge(counters.TRUNK_NUMBERS, numbers, numbers)


class Room(Protocol):
    """What is known of the room for more numbers."""

    @property
    def places_free(self) -> int:
        """Places on shared trunks."""

    @property
    def numbers_fit(self) -> int:
        """Numbers that fit there and on trunks that may still be made."""


@dataclass(frozen=True, eq=False)
class RoomCollector(Collector):
    """Shows how many more numbers fit in each account; nothing of one while that is not known."""

    rooms: Callable[[], Mapping[str, Room]]
    """By the label of the account."""

    def describe(self) -> Iterable[Family]:
        """Describe nothing in advance, so that registering does not ask anybody."""
        return ()

    def collect(self) -> Iterable[Family]:
        """Yield one family after another."""
        rooms = {(account,): room for account, room in self.rooms().items()}
        yield gauge(counters.PLACES_FREE, {labels: room.places_free for labels, room in rooms.items()}, rooms)
        yield gauge(counters.NUMBERS_THAT_FIT, {labels: room.numbers_fit for labels, room in rooms.items()}, rooms)


@dataclass(frozen=True, eq=False)
class BuildCollector(Collector):
    """Shows which version runs, and on which Python."""

    version: str

    def collect(self) -> Iterable[Family]:
        """Yield one family."""
        labels = (self.version, platform.python_version())
        yield gauge(counters.BUILD_INFO, {labels: 1}, [labels])


def _all(*enums: type[StrEnum]) -> Iterable[Labels]:
    return product(*([member.value for member in enum] for enum in enums))


UNACKED = "unacked"
"""The hash in which kombu keeps what a worker has taken and not finished (kombu transport/redis.py `unacked_key`)."""


@dataclass(frozen=True, eq=False)
class BrokerCollector(Collector):
    """Reads Redis; while it is away only `trunkline_broker_up` is shown, as 0."""

    redis_url: str = field(repr=False)
    counters: Counters
    rate_limiters: Mapping[str, RateLimiter]
    steps: Sequence[str]
    """The names of all steps: a counter that starts at 0 shows its first count as a rise."""

    def describe(self) -> Iterable[Family]:
        """Describe nothing in advance, so that registering does not need a broker."""
        return ()

    def collect(self) -> Iterable[Family]:
        """Yield one family after another."""
        try:
            families = [*self._queues(), *self._counters(), *self._rate_limits()]
        except (RedisError, OSError):
            yield gauge(counters.BROKER_UP, {(): 0})
            return
        yield gauge(counters.BROKER_UP, {(): 1})
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
        yield gauge(counters.QUEUE_MESSAGES, queues, list(queues))
        yield gauge(counters.UNACKED_MESSAGES, {(): unacked})

    def _counters(self) -> Iterable[Family]:
        counts = self.counters.read()
        runs = list(product(self.steps, [direction.value for direction in Direction]))
        yield counted(counters.STEP_SECONDS, counts)
        yield counted(counters.STEP_RUNS, counts)
        yield counted(counters.STEP_RETRIES, counts, runs)
        yield counted(counters.LEASE_LOSSES, counts, runs)
        yield counted(counters.TEST_CALLS, counts, product(CallVerdict, ("request", "monitor")))
        yield counted(counters.HTTP_SECONDS, counts)
        yield counted(counters.HTTP_REFUSED, counts, [(str(status),) for status in counters.REFUSED_STATUSES])
        yield counted(counters.PROVIDER_CALLS, counts)
        yield counted(counters.PROVIDER_SECONDS, counts)

    def _rate_limits(self) -> Iterable[Family]:
        loads = {(provider,): rate_limiter.load() for provider, rate_limiter in self.rate_limiters.items()}
        known = {labels: load for labels, load in loads.items() if load is not None}
        allowed = {labels: load.allowed_per_s for labels, load in known.items() if load.allowed_per_s is not None}
        yield gauge(counters.PROVIDER_ALLOWED, allowed, allowed)
        yield gauge(counters.PROVIDER_SENT, {labels: load.sent_per_s for labels, load in known.items()}, known)
        yield gauge(counters.PROVIDER_IN_FLIGHT, {labels: load.in_flight for labels, load in known.items()}, known)


CACHED_S = 5.0
"""Seconds for which a page is cached: it may be public, and counting a million rows takes a while."""


def make_metrics(*collectors: Collector) -> Callable[[], bytes]:
    """Return a function that writes the metrics in Prometheus' text format, from a count at most `CACHED_S` old."""
    registry = CollectorRegistry(auto_describe=False)
    for collector in collectors:
        registry.register(collector)
    lock = threading.Lock()
    cached: list[tuple[float, bytes]] = []

    def metrics() -> bytes:
        with lock:
            if not cached or time.monotonic() - cached[0][0] > CACHED_S:
                cached[:] = [(time.monotonic(), generate_latest(registry))]
            return cached[0][1]

    return metrics
