"""The page that Prometheus scrapes."""

import threading
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

KEPT_S = 5.0
"""Seconds that one count serves every scrape: the page needs no key, and counting a million rows takes a while."""


def make_metrics(*collectors: Collector) -> Callable[[], bytes]:
    """Return a function that writes the metrics in Prometheus' text format, from a count at most `KEPT_S` old."""
    registry = CollectorRegistry(auto_describe=False)
    for collector in collectors:
        registry.register(collector)
    lock = threading.Lock()
    kept: list[tuple[float, bytes]] = []

    def metrics() -> bytes:
        with lock:
            if not kept or time.monotonic() - kept[0][0] > KEPT_S:
                kept[:] = [(time.monotonic(), generate_latest(registry))]
            return kept[0][1]

    return metrics
