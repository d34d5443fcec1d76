"""Traces over OTLP/HTTP: imported only where OTEL_EXPORTER_OTLP_ENDPOINT is set."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from app.observability.tracing import Span, SpanKind

_KINDS = {
    SpanKind.SERVER: trace.SpanKind.SERVER,
    SpanKind.CONSUMER: trace.SpanKind.CONSUMER,
    SpanKind.CLIENT: trace.SpanKind.CLIENT,
}

_HEADER = "traceparent"

NS = 1_000_000_000
"""Nanoseconds in a second."""


class _OtlpSpan:
    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def note(self, **attributes: str | float | None) -> None:
        for name, value in attributes.items():
            if value is not None:
                self._span.set_attribute(name.replace("__", "."), value)

    def fail(self, why: str) -> None:
        self._span.set_status(trace.StatusCode.ERROR)
        self._span.set_attribute("error.type", why)


class OtlpTracing:
    """Sends spans in batches from a thread of its own; when the endpoint does not respond only spans are lost.

    The SDK reads the rest of its variables itself: OTEL_EXPORTER_OTLP_HEADERS, OTEL_TRACES_SAMPLER, OTEL_BSP_*.
    """

    is_on = True

    def __init__(self, endpoint: str, instance: str) -> None:
        resource = Resource.create({"service.name": "trunkline", "service.namespace": instance})
        self._provider = TracerProvider(resource=resource)
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("trunkline")
        self._propagator = TraceContextTextMapPropagator()

    @property
    def is_inside(self) -> bool:
        """Whether a span is open."""
        return trace.get_current_span().get_span_context().is_valid

    @contextmanager
    def span(
        self,
        name: str,
        kind: SpanKind,
        *,
        parent: str | None = None,
        started_s_ago: float = 0,
        attributes: Mapping[str, str | int | float] | None = None,
    ) -> Iterator[Span]:
        """Run the block as a span; an exception that leaves it marks the span, with its type and no text."""
        span = self._tracer.start_span(
            name,
            context=self._propagator.extract({_HEADER: parent}) if parent else None,
            kind=_KINDS[kind],
            attributes=attributes,
            start_time=time.time_ns() - int(started_s_ago * NS),
        )
        exported = _OtlpSpan(span)
        with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            try:
                yield exported
            except Exception as error:
                exported.fail(type(error).__name__)
                raise

    def traceparent(self) -> str | None:
        """Return the header of the open span."""
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        return carrier.get(_HEADER)

    def close(self) -> None:
        """Send the remaining spans and end the thread."""
        self._provider.shutdown()
