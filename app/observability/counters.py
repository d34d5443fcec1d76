"""Every metric by name, and the counters and histograms of all processes together, in one hash in Redis.

Prometheus scrapes one address and sees the whole installation, whichever process responds. When Redis loses its data
the counters start at 0 again, which Prometheus takes for a restart. A killed process loses what it counted since its
last flush.
"""

import atexit
import threading
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import structlog
from redis import Redis
from redis.exceptions import RedisError

log = structlog.get_logger(__name__)


class Kind(StrEnum):
    """The type of a metric, as Prometheus names it."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True)
class Metric:
    """One metric. Labels come from closed sets only."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of all histograms, seconds: from a quick provider call to the end of a step's lease."""

REFUSED_STATUSES = (401, 403, 429)
"""Response statuses that are counted: they show who tries keys, or sends too many requests."""

OPERATIONS = Metric("trunkline_operations", Kind.GAUGE, "Operations by kind and status.", ("kind", "status"))
OPEN_OPERATIONS = Metric(
    "trunkline_open_operations",
    Kind.GAUGE,
    "Operations that are not over, by status and by how long ago they were requested.",
    ("status", "age"),
)
OLDEST_OPEN = Metric("trunkline_oldest_open_operation_seconds", Kind.GAUGE, "Age of the oldest open operation.")
WAKE_DELAY = Metric(
    "trunkline_wake_delay_seconds",
    Kind.GAUGE,
    "How long the most overdue open operation has waited for a sweeper; above a minute, none is running.",
)
OLDEST_QUEUED = Metric(
    "trunkline_oldest_queued_operation_seconds",
    Kind.GAUGE,
    "Age of the oldest operation whose first step no worker has begun, by the queue that it waits in.",
    ("queue",),
)
AGENTS = Metric("trunkline_agents", Kind.GAUGE, "Agents by the status of their number.", ("status",))
AGENTS_HEALTH = Metric(
    "trunkline_agents_health", Kind.GAUGE, "Agents with a number by the health of its path.", ("health",)
)
AGENTS_REACHABILITY = Metric(
    "trunkline_monitored_agents",
    Kind.GAUGE,
    "Agents with a number and a monitor, by what their test calls say.",
    ("reachability",),
)
TEST_CALLS = Metric(
    "trunkline_test_calls_total", Kind.COUNTER, "Test calls by verdict and by who asked.", ("verdict", "trigger")
)
STEP_SECONDS = Metric(
    "trunkline_step_duration_seconds",
    Kind.HISTOGRAM,
    "One run of a step, from its claim to the storing of its result; rests are not part of it.",
    ("step", "direction"),
)
STEP_RUNS = Metric(
    "trunkline_step_runs_total", Kind.COUNTER, "Runs of steps by how they ended.", ("step", "direction", "outcome")
)
STEP_RETRIES = Metric(
    "trunkline_step_retries_total", Kind.COUNTER, "Runs that were not the first of their step.", ("step", "direction")
)
LEASE_LOSSES = Metric(
    "trunkline_lease_losses_total",
    Kind.COUNTER,
    "Runs whose lease had ended, or whose operation had changed direction, before their outcome could be stored.",
    ("step", "direction"),
)
PROVIDER_CALLS = Metric(
    "trunkline_provider_calls_total",
    Kind.COUNTER,
    "Requests to providers by operation and outcome.",
    ("provider", "operation", "outcome"),
)
PROVIDER_SECONDS = Metric(
    "trunkline_provider_call_duration_seconds",
    Kind.HISTOGRAM,
    "One request to a provider, without the wait in the rate limiter.",
    ("provider",),
)
PROVIDER_ALLOWED = Metric(
    "trunkline_provider_allowed_requests_per_second",
    Kind.GAUGE,
    "Requests per second that the provider is sent at most; absent while no limit is in force.",
    ("provider",),
)
PROVIDER_SENT = Metric(
    "trunkline_provider_sent_requests_per_second",
    Kind.GAUGE,
    "Requests that the provider took in the last second.",
    ("provider",),
)
PROVIDER_IN_FLIGHT = Metric(
    "trunkline_provider_in_flight_requests",
    Kind.GAUGE,
    "Requests under way; counted only where their number is limited.",
    ("provider",),
)
BUILD_INFO = Metric(
    "trunkline_build_info",
    Kind.GAUGE,
    "1, with the versions of Trunkline and of Python of the web process that responds.",
    ("version", "python"),
)
HTTP_SECONDS = Metric(
    "trunkline_http_request_duration_seconds",
    Kind.HISTOGRAM,
    "Requests to API, console and health, by method, route and class of the response's status; a wait for an operation "
    "(Prefer: wait) is part of it.",
    ("method", "route", "status"),
)
HTTP_REFUSED = Metric(
    "trunkline_http_refused_total",
    Kind.COUNTER,
    "Requests that were refused: no valid key (401), not with this key (403), too many (429).",
    ("status",),
)
QUEUE_MESSAGES = Metric("trunkline_queue_messages", Kind.GAUGE, "Messages that no worker has taken yet.", ("queue",))
UNACKED_MESSAGES = Metric(
    "trunkline_unacknowledged_messages", Kind.GAUGE, "Messages that workers have taken and not finished."
)
BROKER_UP = Metric("trunkline_broker_up", Kind.GAUGE, "Whether Redis responded; 0: what is counted there is absent.")
CHECK_OK = Metric(
    "trunkline_check_ok",
    Kind.GAUGE,
    "Whether each check of /readyz was passed, in the web process that responds.",
    ("check",),
)
AUDIT_FINDINGS = Metric(
    "trunkline_audit_findings",
    Kind.GAUGE,
    "Findings of the newest audit, by code and by what they mean: calls fail (critical), or not.",
    ("code", "severity"),
)
AUDIT_AGE = Metric(
    "trunkline_audit_age_seconds", Kind.GAUGE, "Time since the last audit that was done; absent before the first."
)
DELIVERIES = Metric("trunkline_webhook_deliveries", Kind.GAUGE, "Deliveries of webhooks by status.", ("status",))
OLDEST_DELIVERY = Metric(
    "trunkline_oldest_pending_delivery_seconds", Kind.GAUGE, "Age of the oldest delivery that is still being tried."
)
WEBHOOKS = Metric("trunkline_webhooks", Kind.GAUGE, "Webhooks by whether anything is sent to them.", ("state",))
BULKS = Metric("trunkline_bulks", Kind.GAUGE, "Bulks by status.", ("status",))
BULK_ITEMS = Metric("trunkline_open_bulk_items", Kind.GAUGE, "Items of the bulks that are not over.", ("status",))

TRUNKS = Metric("trunkline_shared_trunks", Kind.GAUGE, "Twilio trunks that numbers share, by state.", ("state",))
TRUNK_NUMBERS = Metric(
    "trunkline_trunk_numbers",
    Kind.GAUGE,
    "Numbers that have a place on a shared trunk, or a trunk of their own.",
    ("mode",),
)
PLACES_FREE = Metric(
    "trunkline_places_free",
    Kind.GAUGE,
    "Places on shared trunks that no number already accepted takes; absent while Twilio's trunks cannot be listed.",
    ("account",),
)
NUMBERS_THAT_FIT = Metric(
    "trunkline_numbers_that_fit",
    Kind.GAUGE,
    "How many more numbers fit: free places, and those on trunks that the Twilio account may still have; absent while "
    "these cannot be listed.",
    ("account",),
)

METRICS = (
    OPERATIONS,
    OPEN_OPERATIONS,
    OLDEST_OPEN,
    WAKE_DELAY,
    OLDEST_QUEUED,
    AGENTS,
    AGENTS_HEALTH,
    AGENTS_REACHABILITY,
    TEST_CALLS,
    STEP_SECONDS,
    STEP_RUNS,
    STEP_RETRIES,
    LEASE_LOSSES,
    PROVIDER_CALLS,
    PROVIDER_SECONDS,
    PROVIDER_ALLOWED,
    PROVIDER_SENT,
    PROVIDER_IN_FLIGHT,
    BUILD_INFO,
    HTTP_SECONDS,
    HTTP_REFUSED,
    QUEUE_MESSAGES,
    UNACKED_MESSAGES,
    BROKER_UP,
    CHECK_OK,
    AUDIT_FINDINGS,
    AUDIT_AGE,
    DELIVERIES,
    OLDEST_DELIVERY,
    WEBHOOKS,
    BULKS,
    BULK_ITEMS,
    TRUNKS,
    TRUNK_NUMBERS,
    PLACES_FREE,
    NUMBERS_THAT_FIT,
)
"""All of them, in the order of docs/metrics.md; a test checks that none is missing."""


KEY = "trunkline-metrics"
"""The hash: `metric|label|...` or, of a histogram, `metric|label|...|bucket` and `...|sum`."""

FLUSH_S = 2.0
"""Seconds between two flushes to Redis, well below any scrape interval: one round trip for all new counts."""

REDIS_TIMEOUT_S = 0.5
"""Seconds that Redis may take; only the flushing thread and a scrape wait for it."""

_ADD_SCRIPT = "for i = 1, #ARGV, 2 do redis.call('HINCRBYFLOAT', KEYS[1], ARGV[i], ARGV[i + 1]) end"
"""One command for any number of fields: packing a hundred commands costs more CPU than all the counting."""

SUM = "sum"
LARGEST = "inf"

BUCKETS = (*(format(bound, "g") for bound in BUCKETS_S), LARGEST)
"""The names of a histogram's buckets; each counts what lies above the one before it."""


class Counters:
    """Counts in this process, and reads the counts of all processes; one count costs a few microseconds.

    Without a Redis client it counts nothing. The flushing thread starts with the first count, so that it lives in the
    process that counts, after a fork.
    """

    def __init__(self, client: Redis | None) -> None:
        self._client = client
        self._add = client.register_script(_ADD_SCRIPT) if client else None
        self._lock = threading.Lock()
        self._counts: dict[str, float] = {}
        self._has_counts = threading.Event()
        self._is_closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_connected = True

    def count(self, metric: Metric, *labels: str) -> None:
        """Count one event; `labels` in the metric's order."""
        self._record({"|".join((metric.name, *labels)): 1})

    def observe(self, metric: Metric, *labels: str, seconds: float) -> None:
        """Put one duration into its bucket."""
        series = "|".join((metric.name, *labels))
        self._record({f"{series}|{BUCKETS[bisect_left(BUCKETS_S, seconds)]}": 1, f"{series}|{SUM}": seconds})

    def read(self) -> Mapping[str, float]:
        """Return the counts of all processes by field; raise `RedisError` when Redis does not respond."""
        if self._client is None:
            return {}
        self.flush()
        return {str(field): float(value) for field, value in self._client.hgetall(KEY).items()}

    def flush(self) -> None:
        """Add the counts to Redis; what Redis does not take is kept for the next flush."""
        with self._lock:
            counts, self._counts = self._counts, {}
        if not counts or self._add is None:
            return
        try:
            self._add([KEY], [part for field, value in counts.items() for part in (field, format(value, ".9g"))])
        except (RedisError, OSError) as error:
            self._add_counts(counts)
            if self._is_connected:
                log.warning("counters_off", error=type(error).__name__)
            self._is_connected = False
        else:
            self._is_connected = True

    def close(self) -> None:
        """Flush the last counts and end the thread."""
        self._is_closed.set()
        self._has_counts.set()
        if self._thread is not None:
            self._thread.join()
        self.flush()
        if self._client is not None:
            self._client.close()

    def _record(self, counts: Mapping[str, float]) -> None:
        if self._client is None:
            return
        self._add_counts(counts)
        if self._thread is None:
            self._start()
        if not self._has_counts.is_set():
            self._has_counts.set()

    def _add_counts(self, counts: Mapping[str, float]) -> None:
        with self._lock:
            for field, value in counts.items():
                self._counts[field] = self._counts.get(field, 0) + value

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._flush_often, name="counters", daemon=True)
                self._thread.start()
                atexit.register(self.flush)

    def _flush_often(self) -> None:
        """Sleep while there is nothing to flush, then flush every `FLUSH_S`."""
        while not self._is_closed.is_set():
            self._has_counts.wait()
            self._is_closed.wait(FLUSH_S)
            self._has_counts.clear()
            self.flush()


def make_counters(redis_url: str) -> Counters:
    """Build the counters of one process; they connect at the first flush."""
    limit = REDIS_TIMEOUT_S
    return Counters(
        Redis.from_url(redis_url, socket_timeout=limit, socket_connect_timeout=limit, decode_responses=True)
    )
