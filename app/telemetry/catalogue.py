"""Every metric by name: the closed list that the code, docs/metrics.md, the dashboard and the alert rules share."""

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What Prometheus calls the type of a metric."""

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
"""Upper bounds of both histograms, seconds: from a quick provider call to the end of a step's lease."""

REFUSED_STATUSES = (401, 403, 429)
"""Statuses of answers that are counted: who tries keys, or asks too often, shows here."""

OPERATIONS = Metric("trunkline_operations", Kind.GAUGE, "Operations by kind and status.", ("kind", "status"))
OPEN_OPERATIONS = Metric(
    "trunkline_open_operations",
    Kind.GAUGE,
    "Operations that are not over, by status and by how long ago they were asked for.",
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
STEP_SECONDS = Metric(
    "trunkline_step_duration_seconds",
    Kind.HISTOGRAM,
    "One run of a step, from its claim to what was kept of it; rests are not part of it.",
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
    "Runs whose lease had ended, or whose operation had turned, before their outcome could be kept.",
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
    "One request to a provider, without the wait for its turn.",
    ("provider",),
)
PROVIDER_ALLOWED = Metric(
    "trunkline_provider_allowed_requests_per_second",
    Kind.GAUGE,
    "Requests per second that the provider is given at most; absent while no limit is in force.",
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
BROKER_UP = Metric("trunkline_broker_up", Kind.GAUGE, "Whether Redis answered; 0: what is counted there is absent.")
CHECK_OK = Metric(
    "trunkline_check_ok",
    Kind.GAUGE,
    "Whether each check of /readyz was passed, as the web process that answers finds it.",
    ("check",),
)
AUDIT_FINDINGS = Metric("trunkline_audit_findings", Kind.GAUGE, "Findings of the newest audit, by code.", ("code",))
AUDIT_AGE = Metric(
    "trunkline_audit_age_seconds", Kind.GAUGE, "Time since the last audit that was done; absent before the first."
)
DELIVERIES = Metric("trunkline_webhook_deliveries", Kind.GAUGE, "Deliveries of webhooks by status.", ("status",))
OLDEST_DELIVERY = Metric(
    "trunkline_oldest_pending_delivery_seconds", Kind.GAUGE, "Age of the oldest delivery that is still tried."
)
WEBHOOKS = Metric("trunkline_webhooks", Kind.GAUGE, "Webhooks by whether anything is sent to them.", ("state",))
BULKS = Metric("trunkline_bulks", Kind.GAUGE, "Bulks by status.", ("status",))
BULK_ITEMS = Metric("trunkline_open_bulk_items", Kind.GAUGE, "Items of the bulks that are not over.", ("status",))

METRICS = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
"""All of them, in the order in which they stand here."""
