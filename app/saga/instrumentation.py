"""Instruments each run of a step: ids in its log lines, metrics, and a span in the operation's trace."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from app.domain.operations import Direction, OperationKind
from app.observability.counters import LEASE_LOSSES, STEP_RETRIES, STEP_RUNS, STEP_SECONDS
from app.observability.tracing import NO_TELEMETRY, SpanKind, Telemetry, traceparent_of
from app.saga.context import Claim
from app.saga.state import Verdict

WAITS, BROKE = "waits", "broke"
"""A rest until the provider takes requests again; a run that ended with an exception, such as a lost database."""

OUTCOMES: dict[str, str] = {
    Verdict.DONE: "done",
    Verdict.RESTS: "rests",
    WAITS: "waits",
    Verdict.ROLLING_BACK: "turned",
    Verdict.ATTENTION: "attention",
    Verdict.LOST: "lost",
    BROKE: "broke",
}
"""How a run ended -> the label `outcome` of metrics and traces (docs/metrics.md), which does not follow our names."""

_NO_FAILURES = (OUTCOMES[Verdict.DONE], OUTCOMES[WAITS])
"""Labels of runs that are no failures in a trace."""


@dataclass
class StepRun:
    """The run under way."""

    outcome: str = BROKE
    """Set by the runner before the block ends."""
    error_code: str | None = None

    @property
    def label(self) -> str:
        """The label `outcome`."""
        return OUTCOMES.get(self.outcome, self.outcome)


@dataclass(frozen=True)
class StepInstrumentation:
    """Wraps the runs of steps; safe to use from many threads."""

    telemetry: Telemetry = NO_TELEMETRY

    @contextmanager
    def run(self, claim: Claim, claimed_s: float) -> Iterator[StepRun]:
        """Run a claimed step in the block; `claimed_s` is how long the claim took, in seconds."""
        run, began = StepRun(), time.perf_counter() - claimed_s
        labels = (claim.step.name, claim.direction.value)
        ids = {"operation_id": str(claim.context.operation_id), "step": claim.step.name, "attempt": claim.lease.attempt}
        context = structlog.contextvars.bound_contextvars(
            **ids, direction=claim.direction.value, request_id=claim.operation.request_id
        )
        with context, self._span(claim, claimed_s, run):
            try:
                yield run
            finally:
                counters = self.telemetry.counters
                counters.observe(STEP_SECONDS, *labels, seconds=time.perf_counter() - began)
                counters.count(STEP_RUNS, *labels, run.label)
                if claim.lease.attempt > 1:
                    counters.count(STEP_RETRIES, *labels)
                if run.outcome == Verdict.LOST:
                    counters.count(LEASE_LOSSES, *labels)

    @contextmanager
    def _span(self, claim: Claim, claimed_s: float, run: StepRun) -> Iterator[None]:
        tracing, operation_id = self.telemetry.tracing, claim.context.operation_id
        if not tracing.is_on:
            yield
            return
        with tracing.span(
            f"{_task_prefix(claim)}.{claim.step.name}",
            SpanKind.CONSUMER,
            parent=traceparent_of(operation_id, claim.operation.traceparent),
            started_s_ago=claimed_s,
            attributes={
                "trunkline.operation.id": str(operation_id),
                "trunkline.step": claim.step.name,
                "trunkline.direction": claim.direction.value,
                "trunkline.attempt": claim.lease.attempt,
            },
        ) as span:
            try:
                yield
            finally:
                span.note(trunkline__outcome=run.label)
                if run.label not in _NO_FAILURES:
                    span.fail(run.error_code or run.label)


NOT_INSTRUMENTED = StepInstrumentation()
"""Writes to the log only."""


def _task_prefix(claim: Claim) -> str:
    """Return the prefix of the step's Celery task, so that Flower and traces show the same name."""
    if claim.direction is Direction.UNDO and claim.operation.kind is not OperationKind.DEPROVISION:
        return "rollback"
    return claim.operation.kind.value
