"""What /metrics says beyond the rows that tests/api/test_health.py counts."""

import platform
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta

import pytest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis
from sqlalchemy import insert, update

from app.access import Scope
from app.db.models import Audit, Operation
from app.domain.findings import AuditStatus
from app.domain.queues import QueueName
from app.domain.version import VERSION
from app.observability.counters import (
    HTTP_SECONDS,
    METRICS,
    PROVIDER_CALLS,
    PROVIDER_SECONDS,
    STEP_RUNS,
    STEP_SECONDS,
    SUM,
    Kind,
)
from app.observability.metrics import RowCollector, make_metrics
from tests.support.api import NOWHERE, NUMBER, Api, emptied, running_api
from tests.unit.test_eyes_documents import NO_PROMTOOL, PROMTOOL


@pytest.fixture
def api(own_api: Api) -> Api:
    """An application that remembers no answer of a test before: what is asked here is kept for seconds."""
    return own_api


def families(text: str) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(text)}


def values(family: Metric) -> dict[tuple[str, ...], float]:
    """Return each sample by its labels' values, in the alphabet's order of their names."""
    return {tuple(sample.labels.values()): sample.value for sample in family.samples}


def rows(api: Api) -> dict[str, Metric]:
    return families(make_metrics(RowCollector(api.wiring.sessions))().decode())


def let_something_happen(api: Api) -> None:
    """Make every metric appear that is absent until something happens; no rate limiter runs here."""
    counters = api.wiring.telemetry.counters
    counters.count(STEP_RUNS, "twilio_trunk", "do", "done")
    counters.observe(STEP_SECONDS, "twilio_trunk", "do", seconds=0.3)
    counters.count(PROVIDER_CALLS, "twilio", "create_trunk", "ok")
    counters.observe(PROVIDER_SECONDS, "twilio", seconds=0.2)
    api.get("/healthz")
    audit(api, [])


def audit(
    api: Api, codes: list[str], status: AuditStatus = AuditStatus.DONE, severities: Mapping[str, str] | None = None
) -> None:
    """Store a report; without a severity, a finding has that of its code."""
    found = [{"code": code, "severity": (severities or {}).get(code)} for code in codes]
    with api.wiring.engine.begin() as connection:
        now = Audit.created_at.server_default.arg  # type: ignore[union-attr]
        connection.execute(insert(Audit).values(status=status, findings=found, finished_at=now))


def test_the_page_shows_every_metric_of_the_catalogue(api: Api) -> None:
    let_something_happen(api)

    shown = families(api.get("/metrics").text)

    rate_limits = {metric.name for metric in METRICS if "provider_" in metric.name and metric.kind is Kind.GAUGE}
    assert set(shown) | rate_limits == {metric.name.removesuffix("_total") for metric in METRICS}
    for metric in METRICS:
        if metric.name not in rate_limits:
            family = shown[metric.name.removesuffix("_total")]
            assert (family.type, family.documentation) == (metric.kind, metric.help)
            assert all(set(sample.labels) - {"le"} == set(metric.labels) for sample in family.samples)


@pytest.mark.skipif(PROMTOOL is None, reason=NO_PROMTOOL)
def test_prometheus_accepts_the_page(api: Api) -> None:
    let_something_happen(api)
    page = api.get("/metrics").data
    done = subprocess.run([str(PROMTOOL), "check", "metrics"], input=page, capture_output=True, check=False)  # noqa: S603
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_queues_are_measured(api: Api) -> None:
    with Redis.from_url(api.wiring.settings.redis_url) as client:
        client.delete(*(each for queue in QueueName for each in queue.lists))
        client.lpush(QueueName.BULK, "a")
        # What nobody has begun waits at a lower priority, in a list of its own.
        client.lpush(QueueName.BULK.lists[1], "b")
        try:
            shown = families(api.get("/metrics").text)
        finally:
            client.delete(*QueueName.BULK.lists)

    assert values(shown["trunkline_queue_messages"]) == {
        ("provision",): 0,
        ("bulk",): 2,
        ("rollback",): 0,
        ("ops",): 0,
    }
    assert values(shown["trunkline_broker_up"]) == {(): 1}


def test_open_operations_are_shown_by_age_and_by_their_queue(api: Api) -> None:
    operation_id = api.provision(api.agent(), NUMBER).json["operationId"]
    assert values(rows(api)["trunkline_open_operations"])["under_1m", "queued"] == 1
    with api.wiring.engine.begin() as connection:
        old = Operation.created_at - timedelta(minutes=20)
        connection.execute(update(Operation).where(Operation.id == operation_id).values(created_at=old))

    shown = rows(api)

    ages = values(shown["trunkline_open_operations"])
    assert (ages["under_1m", "queued"], ages["15m_to_1h", "queued"], sum(ages.values())) == (0, 1, 1)
    queued = values(shown["trunkline_oldest_queued_operation_seconds"])
    assert queued["provision",] >= 1200
    assert (queued["bulk",], queued["rollback",]) == (0, 0)


def test_findings_are_those_of_the_newest_audit_that_was_done(api: Api) -> None:
    audit(api, ["trunk_gone", "trunk_gone"])
    audit(api, ["twin", "orphan", "orphan"], severities={"twin": "critical"})
    audit(api, [], AuditStatus.FAILED)

    shown = rows(api)

    found = values(shown["trunkline_audit_findings"])
    assert {labels: count for labels, count in found.items() if count} == {
        ("twin", "critical"): 1,
        ("orphan", "warning"): 2,
    }
    assert found["trunk_gone", "critical"] == 0
    assert 0 <= values(shown["trunkline_audit_age_seconds"])[()] < 60


def requests_of(api: Api) -> dict[tuple[str, ...], float]:
    """Return how many requests there were, by method, route and class of status."""
    counts: Counter[tuple[str, ...]] = Counter()
    for text, count in api.wiring.telemetry.counters.read().items():
        name, *labels = text.split("|")
        if name == HTTP_SECONDS.name and labels[-1] != SUM:
            counts[tuple(labels[:3])] += count
    return counts


def test_requests_are_counted_by_method_route_and_class_of_status_and_by_nothing_that_a_client_chooses(
    api: Api,
) -> None:
    agent_id = api.agent()
    before = requests_of(api)
    api.get(f"/api/agents/{agent_id}/phone-status")
    api.get("/api/agents/nobody")
    api.client.get("/+15145551234?number=+15145551234")
    api.client.open("/api/agents", method="A|B")
    api.client.get("/audit")

    grown = {labels: count - before[labels] for labels, count in requests_of(api).items() if count > before[labels]}

    assert grown == {
        ("GET", "/api/agents/<agent_id>/phone-status", "2xx"): 1,
        ("GET", "/api/agents/<agent_id>", "4xx"): 1,
        ("GET", "unmatched", "4xx"): 1,
        ("other", "unmatched", "4xx"): 1,
        ("GET", "/audit", "3xx"): 1,
    }


def test_the_version_that_runs_is_shown(api: Api) -> None:
    shown = families(api.get("/metrics").text)["trunkline_build_info"]

    assert values(shown) == {(platform.python_version(), VERSION): 1}


def test_requests_that_are_refused_are_counted_by_status(api: Api) -> None:
    before = values(families(api.get("/metrics").text)["trunkline_http_refused"])
    reader = replace(api, key=api.new_key(Scope.READ))
    api.client.get("/api/agents")
    api.client.get("/api/agents", headers={"Authorization": "Bearer tl_nonsense"})
    reader.post("/api/agents", {"name": "a"})
    api.get("/nowhere")

    counts = api.wiring.telemetry.counters.read()

    counted = {status: counts.get(f"trunkline_http_refused_total|{status}", 0) for status in ("401", "403", "429")}
    grown = {status: count - before[status,] for status, count in counted.items()}
    # At least: what an earlier test's application counted may be written only now.
    assert (grown["401"] >= 2, grown["403"] >= 1, grown["429"]) == (True, True, 0)


@pytest.fixture
def without_broker(api_database_url: str) -> Iterator[Api]:
    """The application with nothing where Redis should be."""
    with running_api(api_database_url, NOWHERE) as api:
        yield emptied(api)


def test_the_rows_are_told_while_redis_is_away(without_broker: Api) -> None:
    without_broker.wiring.telemetry.counters.count(STEP_RUNS, "twilio_trunk", "do", "done")

    response = without_broker.get("/metrics")

    shown = families(response.text)
    assert (response.status_code, values(shown["trunkline_broker_up"])) == (200, {(): 0})
    assert "trunkline_operations" in shown
    assert "trunkline_queue_messages" not in shown
