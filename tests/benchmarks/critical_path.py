"""The time below which no provisioning can be: the longest way through the calls that it made, at the set latency."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.bench import Latency

LOOK_UP = "twilio.list_numbers"
TWILIO_BRANCH = ("twilio.create_trunk", "twilio.create_origination_url")
LIVEKIT_BRANCH = ("livekit.create_inbound_trunk", "livekit.create_dispatch_rule")
LOOK = "twilio.fetch_number"
ATTACH = "twilio.attach_number"
READS = (LOOK, "twilio.list_origination_urls", "livekit.list_inbound_trunks", "livekit.list_dispatch_rules")
"""Verification's reads: none needs another's answer, so that the longest of them is what it costs."""

CALLS = (LOOK_UP, *TWILIO_BRANCH, *LIVEKIT_BRANCH, LOOK, ATTACH, *READS)
"""What a provisioning needs that nothing goes wrong with; the number is looked at directly before it is attached."""


@dataclass(frozen=True)
class Path:
    """The calls of one provisioning, and what they must take at least."""

    critical_ms: float
    calls_ms: float
    """All calls one after another: how long slots are held, and what a straight script waits."""
    calls: float


def path_of(requests: Sequence[Mapping[str, Any]], operations: int, latency: Latency) -> Path:
    """Work the path out from what the providers were asked for `operations` provisionings without a failure."""
    counts = Counter(str(request["operation"]) for request in requests)
    if strange := set(counts) - set(CALLS):
        raise ValueError(f"calls that are no part of the path: {', '.join(sorted(strange))}")
    ms = {
        name: counts[name] / operations * (latency.twilio_ms if name.startswith("twilio.") else latency.livekit_ms)
        for name in set(CALLS)
    }
    branches = (sum(ms[name] for name in branch) for branch in (TWILIO_BRANCH, LIVEKIT_BRANCH))
    once = ms | {LOOK: ms[LOOK] / 2}
    critical = ms[LOOK_UP] + max(branches) + once[LOOK] + ms[ATTACH] + max(once[name] for name in READS)
    return Path(critical, sum(ms.values()), sum(counts.values()) / operations)


def needed(latency: Latency) -> Path:
    """Return the path of a provisioning that makes each call once: a bound that needless calls do not lower."""
    return path_of([{"operation": name} for name in CALLS], 1, latency)
