"""One operation in traces, logs and metrics: one trace, correlated log lines, and counts of what workers did."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.dev.localstack.processes import JsonClient
from app.domain.operations import STEP_BY_NAME
from tests.e2e.rows import statuses
from tests.support.collector import Collector, Seen, running_collector
from tests.support.sandbox import ControlledSandbox, running_sandbox
from tests.support.servers import running_valkey
from tests.support.stack import Stack, eventually, running_stack

NUMBER, REFUSED = "+15147770123", "+15147770124"
REQUEST_ID = "observed-request-1"
CALLERS_TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLERS_SPAN = "b7ad6b7169203331"

STEPS = {f"provision.{name}" for name in STEP_BY_NAME}

CALLS = {
    "twilio.find_number",
    "twilio.create_trunk",
    "twilio.create_origination_url",
    "livekit.create_inbound_trunk",
    "livekit.create_dispatch_rule",
    "twilio.attach_number",
}
"""The provider calls without which no number is connected."""


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with running_collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def sandbox_server() -> Iterator[ControlledSandbox]:
    with running_sandbox() as server:
        yield server


@pytest.fixture(scope="module")
def stack(make_database: Callable[[], str], sandbox_server: ControlledSandbox, collector: Collector) -> Iterator[Stack]:
    database_url = make_database()
    with (
        running_valkey() as valkey,
        running_stack(database_url, valkey.url, sandbox_server.control, start=False) as stack,
    ):
        stack.environ |= {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        stack.start()
        yield stack


def post(stack: Stack, number: str, **headers: str) -> str:
    """Request a number with these headers; return the operation's id once it has ended."""
    agent_id = stack.api.agent(number[-4:])
    client = JsonClient(stack.api.base_url, {"Authorization": f"Bearer {stack.api.key}", **headers}, timeout_s=90)
    status, body = client.call("POST", f"/api/agents/{agent_id}/provision-phone", {"phoneNumber": number})
    assert status == 202, body
    operation_id = str(body["operationId"])
    expected_status = {"succeeded", "failed"}
    eventually(lambda: statuses(stack.sessions, [operation_id])[operation_id] in expected_status, stack.log_tails)
    return operation_id


@pytest.fixture(scope="module")
def operation_id(stack: Stack, sandbox_server: ControlledSandbox) -> str:
    """One number that is connected, requested by a client that traces."""
    sandbox_server.control.number(NUMBER)
    traceparent = f"00-{CALLERS_TRACE}-{CALLERS_SPAN}-01"
    return post(stack, NUMBER, **{"X-Request-ID": REQUEST_ID, "traceparent": traceparent})


@pytest.fixture(scope="module")
def trace(operation_id: str, collector: Collector) -> list[Seen]:
    wanted = {*STEPS, *CALLS}
    eventually(lambda: wanted <= {span.name for span in collector.trace(CALLERS_TRACE)}, "the spans arrive")
    eventually(lambda: collector.named("POST /api/agents/<agent_id>/provision-phone"), "the request's span arrives")
    return collector.trace(CALLERS_TRACE)


def test_an_operation_is_one_trace_with_a_span_per_step(trace: list[Seen], operation_id: str) -> None:
    (root,) = [span for span in trace if span.kind == "server"]
    assert (root.parent_id, root.name) == (CALLERS_SPAN, "POST /api/agents/<agent_id>/provision-phone")
    assert root.attributes["http.response.status_code"] == 202
    steps = {span.name: span for span in trace if span.kind == "consumer"}
    assert set(steps) == STEPS
    for span in steps.values():
        assert span.parent_id == root.span_id
        assert span.attributes["trunkline.operation.id"] == operation_id
        assert (span.attributes["trunkline.attempt"], span.attributes["trunkline.outcome"]) == (1, "done")


def test_every_provider_call_is_a_span_under_its_step(trace: list[Seen], sandbox_server: ControlledSandbox) -> None:
    by_id = {span.span_id: span for span in trace}
    calls = [span for span in trace if span.kind == "client"]
    assert all(by_id[span.parent_id].kind == "consumer" for span in calls)
    assert len(calls) == len(sandbox_server.control.requests())
    (made,) = [span for span in calls if span.name == "twilio.create_trunk"]
    assert by_id[made.parent_id].name == "provision.twilio_trunk"
    assert (made.attributes["http.request.method"], made.attributes["http.response.status_code"]) == ("POST", 201)
    assert str(made.attributes["url.full"]).endswith("/v1/Trunks")


def test_an_operation_that_is_rolled_back_is_one_trace_with_the_error(
    stack: Stack, collector: Collector, operation_id: str
) -> None:
    refused = post(stack, REFUSED)
    eventually(lambda: [s for s in collector.named("provision.twilio_number") if s.failed], "the failure arrives")

    (failed,) = [span for span in collector.named("provision.twilio_number") if span.failed]
    assert failed.attributes["trunkline.operation.id"] == refused
    assert (failed.attributes["trunkline.outcome"], failed.attributes["error.type"]) == (
        "turned",
        "number_not_in_account",
    )
    assert {span.kind for span in collector.trace(failed.trace_id)} == {"server", "consumer", "client"}


def test_no_number_and_no_secret_is_in_a_trace(stack: Stack, collector: Collector, trace: list[Seen]) -> None:
    sent = b"".join(collector.bodies)
    secrets = [NUMBER, NUMBER.removeprefix("+"), stack.api.key]
    secrets += [stack.environ[name] for name in ("TWILIO_AUTH_TOKEN", "LIVEKIT_API_SECRET", "REDIS_URL")]
    assert trace
    assert [secret for secret in secrets if secret.encode() in sent] == []


def lines(stack: Stack, process: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stack.log(process).splitlines() if line.startswith("{")]


def test_a_workers_lines_name_the_operation_the_step_and_the_request(stack: Stack, operation_id: str) -> None:
    finished = [
        line
        for line in lines(stack, "worker")
        if line["event"] == "step_finished" and line["operation_id"] == operation_id
    ]
    assert {line["step"] for line in finished} == set(STEP_BY_NAME)
    assert {line["request_id"] for line in finished} == {REQUEST_ID}
    of_request = [line["event"] for line in lines(stack, "web") if line.get("request_id") == REQUEST_ID]
    assert of_request == ["provision_queued", "request"]


def test_the_metrics_page_has_the_workers_counts(stack: Stack, operation_id: str) -> None:
    client = JsonClient(stack.api.base_url, {"Authorization": f"Bearer {stack.api.key}"})

    def runs() -> dict[str, float]:
        page = text_string_to_metric_families(str(client.call("GET", "/metrics")[1]))
        samples = next(family for family in page if family.name == "trunkline_step_runs").samples
        return {sample.labels["step"]: sample.value for sample in samples if sample.labels["outcome"] == "done"}

    eventually(lambda: set(runs()) == set(STEP_BY_NAME), "the workers report their counts")
