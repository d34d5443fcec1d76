"""Traces: what ties them together, and that they cost nothing where nobody wants them."""

import subprocess
import sys
import uuid

import pytest

from app.observability.tracing import NO_TRACING, TRACEPARENT, checked_traceparent, make_tracing, traceparent_of
from tests.support.broker import NOWHERE

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OPERATION = uuid.UUID("0f0e0d0c-0b0a-4090-8807-060504030201")


def test_a_traceparent_is_taken_as_it_is() -> None:
    assert checked_traceparent(GIVEN) == GIVEN


@pytest.mark.parametrize(
    "header",
    [None, "", "00", GIVEN.upper(), f"{GIVEN}-x", "01" + GIVEN[2:], f"00-{'0' * 32}-{'1' * 16}-01", f"{GIVEN}\n"],
)
def test_what_is_no_traceparent_is_not_taken(header: str | None) -> None:
    assert checked_traceparent(header) is None


def test_an_operation_that_nobody_traced_makes_a_trace_of_its_id() -> None:
    made = traceparent_of(OPERATION, None)
    assert TRACEPARENT.fullmatch(made)
    assert made.split("-")[1] == OPERATION.hex
    assert traceparent_of(OPERATION, GIVEN) == GIVEN


def test_without_an_endpoint_nothing_is_traced_and_no_tracer_is_imported() -> None:
    """redis-py imports OpenTelemetry's metrics wherever it is installed; what sends spans is ours to leave out."""
    assert make_tracing(None, "trunkline") is NO_TRACING
    code = (
        "import sys, tasks.steps, tasks.publisher\n"
        "from app.settings import load_settings\n"
        "from app import create_app\n"
        "create_app()\n"
        "senders = ('opentelemetry.sdk.trace', 'opentelemetry.exporter')\n"
        "print([name for name in sys.modules if name.startswith(senders)])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=NOWHERE, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.stdout.strip() == "[]", done.stderr
