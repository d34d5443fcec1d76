"""The tracing interface, and `Telemetry`: the counters and traces of one process.

OpenTelemetry is imported only where an endpoint is set, since it costs start-up time and memory.
"""

import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from app.observability.counters import Counters

TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""W3C Trace Context, version 00 (https://www.w3.org/TR/trace-context/#traceparent-header)."""


class SpanKind(StrEnum):
    """Which side of a request a span is on."""

    SERVER = "server"
    CONSUMER = "consumer"
    CLIENT = "client"


class Span(Protocol):
    """A piece of work under way."""

    def note(self, **attributes: str | float | None) -> None:
        """Add attributes; `__` in a name stands for a dot, and None for nothing."""

    def fail(self, why: str) -> None:
        """Mark the work as failed."""


class Tracing(Protocol):
    """Starts spans; safe to use from many threads."""

    @property
    def is_on(self) -> bool:
        """Whether spans are exported."""

    @property
    def is_inside(self) -> bool:
        """Whether a span is open."""

    def span(
        self,
        name: str,
        kind: SpanKind,
        *,
        parent: str | None = None,
        started_s_ago: float = 0,
        attributes: Mapping[str, str | int | float] | None = None,
    ) -> AbstractContextManager[Span]:
        """Run the block as a span, a child of the open one or of `parent` (a traceparent)."""

    def traceparent(self) -> str | None:
        """Return the traceparent of the open span, for later work; None where there is none."""

    def close(self) -> None:
        """Send what was not sent yet."""


class _NoSpan:
    def note(self, **attributes: str | float | None) -> None:
        del attributes

    def fail(self, why: str) -> None:
        del why


_NO_SPAN = _NoSpan()


class NoTracing:
    """Does nothing."""

    is_on = False
    is_inside = False

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
        """Run the block."""
        del name, kind, parent, started_s_ago, attributes
        yield _NO_SPAN

    def traceparent(self) -> None:
        """Return None."""

    def close(self) -> None:
        """Do nothing."""


NO_TRACING: Tracing = NoTracing()


def checked_traceparent(header: str | None) -> str | None:
    """Return the header unchanged where it is one, else None: a bad one starts a new trace."""
    return header if header and TRACEPARENT.fullmatch(header) else None


def traceparent_of(operation_id: uuid.UUID, stored: str | None) -> str:
    """Return the traceparent that all spans of an operation have as their parent.

    Where no request was traced (a bulk, a command, an audit, an older version's row) the operation's own id makes the
    trace, so that all of its tasks meet in one.
    """
    return checked_traceparent(stored) or f"00-{operation_id.hex}-{operation_id.hex[16:]}-01"


def make_tracing(endpoint: str | None, instance: str) -> Tracing:
    """Build the process's tracing: to the OTLP endpoint, or none."""
    if endpoint is None:
        return NO_TRACING
    from app.observability.otlp import OtlpTracing  # noqa: PLC0415  # see the module's docstring

    return OtlpTracing(endpoint, instance)


@dataclass(frozen=True)
class Telemetry:
    """The counters and traces of one process; safe to use from many threads."""

    counters: Counters
    tracing: Tracing = NO_TRACING

    def close(self) -> None:
        """Send what was not sent yet, within seconds."""
        self.counters.close()
        self.tracing.close()


NO_TELEMETRY = Telemetry(Counters(None))
"""Counts and traces nothing: for commands and tests that have no broker."""
