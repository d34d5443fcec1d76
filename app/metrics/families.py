"""Writes what was counted as Prometheus' families, each under its entry in the catalogue."""

from collections.abc import Iterable, Mapping
from typing import TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family

from app.telemetry.catalogue import BUCKETS_S, Kind, Metric
from app.telemetry.tally import BUCKETS, LARGEST, SUM

Labels = tuple[str, ...]

Key = TypeVar("Key", bound=Labels)


def gauge(metric: Metric, values: Mapping[Key, float], every: Iterable[Labels] = ((),)) -> Family:
    """Write a gauge: for each of `every` combination of labels, and 0 where none was counted."""
    found: dict[Labels, float] = dict(values.items())
    family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels in every:
        family.add_metric(labels, found.get(labels, 0))
    return family


def counted(metric: Metric, tally: Mapping[str, float], zeros: Iterable[Labels] = ()) -> Family:
    """Write a counter or histogram from the tally; those of `zeros` that nobody counted yet as 0."""
    prefix = f"{metric.name}|"
    fields = {
        tuple(field.removeprefix(prefix).split("|")): value
        for field, value in tally.items()
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
    for labels in sorted({field[:-1] for field in fields}):
        so_far, buckets = 0.0, []
        for name, bound in bounds.items():
            so_far += fields.get((*labels, name), 0)
            buckets.append((bound, so_far))
        family.add_metric(labels, buckets, fields.get((*labels, SUM), 0))
    return family
