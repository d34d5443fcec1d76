"""Instruments each request to a provider: rate limit, deadline, outcome in the metrics, span in the trace."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from app.domain.numbers import mask_numbers
from app.observability.counters import PROVIDER_CALLS, PROVIDER_SECONDS
from app.observability.tracing import NO_TELEMETRY, NO_TRACING, Span, SpanKind, Telemetry
from app.providers.callers import current_caller, time_for_call
from app.providers.errors import CallFailedError, Outcome
from app.providers.rate_limiter import TOO_MANY_REQUESTS, RateLimiter

_NOT_FOUND = 404
_FIRST_SERVER_ERROR = 500

_PORTS = {"http": 80, "https": 443}


class CallOutcome(StrEnum):
    """The label `outcome` of trunkline_provider_calls_total."""

    OK = "ok"
    NOT_FOUND = "not_found"
    """404: often what was asked for, as in a delete of what is gone."""
    THROTTLED = "throttled"
    """429."""
    REFUSED = "refused"
    """Any other status below 500."""
    SERVER_ERROR = "server_error"
    NOT_SENT = "not_sent"
    HELD_BACK = "held_back"
    LOST = "lost"
    UNREADABLE = "unreadable"

    @classmethod
    def of(cls, failure: CallFailedError) -> "CallOutcome":
        """Return the outcome of a failed call."""
        if failure.outcome is not Outcome.STATUS:
            return cls(failure.outcome.value)
        status = failure.status or 0
        named = {_NOT_FOUND: cls.NOT_FOUND, TOO_MANY_REQUESTS: cls.THROTTLED}.get(status)
        return named or (cls.SERVER_ERROR if status >= _FIRST_SERVER_ERROR else cls.REFUSED)


@dataclass
class Exchange:
    """What is known of a request under way."""

    url: str = ""
    """Where it goes; the span leaves out the query, which may hold a number."""
    status: int | None = None


@dataclass(frozen=True)
class CallInstrumentation:
    """Wraps the requests of one adapter; safe to share between threads."""

    provider: str
    rate_limiter: RateLimiter | None = None
    telemetry: Telemetry = NO_TELEMETRY

    @contextmanager
    def request(self, operation: str, method: str, url: str = "") -> Iterator[Exchange]:
        """Make one request in the block, as soon as the rate limiter lets it; `CallFailedError` passes through."""
        requested_at, outcome = time.perf_counter(), CallOutcome.UNREADABLE
        try:
            _check_caller()
            with (
                self.rate_limiter.limited_call() if self.rate_limiter else nullcontext(),
                self._sent(operation, method, Exchange(url), time.perf_counter() - requested_at) as exchange,
            ):
                yield exchange
            outcome = CallOutcome.OK
        except CallFailedError as failure:
            outcome = CallOutcome.of(failure)
            raise
        finally:
            self.telemetry.counters.count(PROVIDER_CALLS, self.provider, operation, outcome)

    @contextmanager
    def _sent(self, operation: str, method: str, exchange: Exchange, waited_s: float) -> Iterator[Exchange]:
        started, is_lost = time.perf_counter(), False
        # Outside of a request or an operation (a probe, an audit) a call would be a trace of its own: noise.
        tracing = self.telemetry.tracing if self.telemetry.tracing.is_inside else NO_TRACING
        with tracing.span(f"{self.provider}.{operation}", SpanKind.CLIENT) as span:
            try:
                yield exchange
            except CallFailedError as failure:
                exchange.status, is_lost = failure.status, failure.outcome is Outcome.LOST
                span.fail(str(failure.status or failure.outcome))
                raise
            finally:
                seconds = time.perf_counter() - started
                current_caller().record_response(seconds, is_lost=is_lost)
                self.telemetry.counters.observe(PROVIDER_SECONDS, self.provider, seconds=seconds)
                if tracing.is_on:
                    _describe(span, method, exchange, waited_s)


def _check_caller() -> None:
    """Refuse a call when this process has no room for it, or its caller no time left."""
    if not current_caller().may_call():
        raise CallFailedError(Outcome.HELD_BACK)
    if time_for_call(math.inf) <= 0:
        raise CallFailedError(Outcome.NOT_SENT)


def _describe(span: Span, method: str, exchange: Exchange, waited_s: float) -> None:
    """Set OpenTelemetry's attributes of an HTTP client span: no query, no user, no number."""
    parts = urlsplit(exchange.url)
    span.note(
        http__request__method=method,
        http__response__status_code=exchange.status,
        url__full=mask_numbers(f"{parts.scheme}://{parts.hostname}{parts.path}") if parts.hostname else None,
        server__address=parts.hostname,
        server__port=parts.port or (_PORTS.get(parts.scheme)),
        trunkline__waited_s=round(waited_s, 3),
    )
