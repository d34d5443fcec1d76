"""What every benchmark gets: the servers, the scale, and a terminal for its progress."""

import itertools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from app.dev.localstack.terminal import Terminal
from tests.benchmarks.stack import BenchStack


@dataclass(frozen=True)
class Latency:
    """How long the providers take for a response, milliseconds."""

    name: str
    twilio_ms: float
    livekit_ms: float


NO_LATENCY = Latency("(a) no latency", 0, 0)
REAL_LATENCY = Latency("(b) 150/50 ms", 150, 50)
"""Twilio and LiveKit as measured over the public internet, rounded."""

LATENCIES = (NO_LATENCY, REAL_LATENCY)


@dataclass(frozen=True)
class Scale:
    """How much of everything; rounds are interleaved, and the median counts."""

    load_s: float = 4.0
    """Seconds of load per round and side."""
    load_rounds: int = 3
    connections: tuple[int, ...] = (1, 16, 64)
    load_agents: int = 60_000
    """Agents made for one accept measure; each post needs one of its own."""
    single_numbers: int = 15
    many_numbers: int = 500
    many_rounds: int = 3
    many_latencies: tuple[Latency, ...] = LATENCIES
    concurrency: int = 64
    workers: int = 1
    """Worker processes that share the concurrency, ours and DBOS's alike."""
    patch_rounds: int = 5
    patch_plans: int = 1_000
    """Plans published, and posts, per round and side."""
    patch_numbers: int = 200
    """Operations per round and side."""
    agents: tuple[int, ...] = (0, 100_000, 1_000_000)
    passes: int = 21
    """Sweep passes, places and reads per size of the table."""
    account_numbers: int = 200
    account_rounds: int = 3
    bulk_items: int = 1_000
    pool_numbers: int = 10_000
    pool_dedicated: int = 1_000
    """Numbers on trunks of their own, to be consolidated."""
    audit_numbers: int = 5_000
    """Numbers that one audit compares, on shared trunks and on trunks of their own."""


QUICK = Scale(
    load_s=0.6,
    load_rounds=1,
    connections=(1, 16),
    load_agents=4_000,
    single_numbers=3,
    many_numbers=32,
    many_rounds=1,
    many_latencies=(REAL_LATENCY,),
    patch_rounds=1,
    patch_plans=100,
    patch_numbers=8,
    agents=(0, 2_000),
    passes=3,
    account_numbers=16,
    account_rounds=1,
    bulk_items=40,
    pool_numbers=40,
    pool_dedicated=4,
    audit_numbers=600,
)
"""A smoke of every measure within a minute; its figures say nothing."""


@dataclass
class Bench:
    """One run."""

    stack: BenchStack
    scale: Scale
    terminal: Terminal
    _numbers: "itertools.count[int]" = field(default_factory=lambda: itertools.count(2_000_000))

    def say(self, measure: str, text: str) -> None:
        """Print what is being done."""
        self.terminal.line(measure, text)

    def numbers(self, count: int) -> list[str]:
        """Return phone numbers that this run has not used yet; valid in form, and owned by nobody."""
        return [f"+1514{next(self._numbers)}" for _ in range(count)]

    def owned_numbers(self, count: int) -> list[str]:
        """Return numbers that the sandbox's account owns."""
        numbers = self.numbers(count)
        self.stack.sandbox.numbers(numbers)
        return numbers


Measure = Callable[[Bench], object]


def median(values: Sequence[float]) -> float | None:
    """Return the median, None of nothing."""
    return statistics.median(values) if values else None


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the value that `share` of the values do not exceed (nearest rank), None of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None
