"""Prometheus metrics, counted in SQL when they are scraped: every web process gives the same answer.

Nothing is kept in memory: with several processes behind one port, a counter in one of them would tell a part of the
truth at every other scrape. Rates of requests come from the log or the proxy.
"""

import threading
import time
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.db import queries
from app.db.engine import Sessions
from app.domain.statuses import OperationKind, OperationStatus, PhoneStatus

KEPT_S = 5.0
"""Seconds that one count serves every scrape: the page needs no key, and counting a million rows takes a while."""


class RowCollector(Collector):
    """Counts rows."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def describe(self) -> Iterable[Metric]:
        """Name nothing in advance, so that registering does not need a database."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Yield one family after another; every status is shown, those that do not occur as 0."""
        with self._sessions() as session:
            operations = {(kind, status): count for kind, status, count in queries.count_operations(session)}
            agents = dict(queries.count_agents(session))
            oldest_s, overdue_s = queries.open_operation_ages(session)
        family = GaugeMetricFamily("trunkline_operations", "Operations by kind and status.", labels=["kind", "status"])
        for kind in OperationKind:
            for status in OperationStatus:
                family.add_metric([kind, status], operations.get((kind.value, status.value), 0))
        yield family
        family = GaugeMetricFamily("trunkline_agents", "Agents by the status of their number.", labels=["status"])
        for phone_status in PhoneStatus:
            family.add_metric([phone_status], agents.get(phone_status.value, 0))
        yield family
        yield GaugeMetricFamily(
            "trunkline_oldest_open_operation_seconds", "Age of the oldest open operation.", oldest_s
        )
        yield GaugeMetricFamily(
            "trunkline_wake_delay_seconds",
            "How long the most overdue open operation has waited for a sweeper; above a minute, none is running.",
            overdue_s,
        )


def make_metrics(sessions: Sessions) -> Callable[[], bytes]:
    """Return a function that writes the metrics in Prometheus' text format, from a count at most `KEPT_S` old."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(RowCollector(sessions))
    lock = threading.Lock()
    kept: list[tuple[float, bytes]] = []

    def metrics() -> bytes:
        with lock:
            if not kept or time.monotonic() - kept[0][0] > KEPT_S:
                kept[:] = [(time.monotonic(), generate_latest(registry))]
            return kept[0][1]

    return metrics
