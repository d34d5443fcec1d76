"""The least time of a provisioning: the longest chain of its calls that wait for each other, at the set latency."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.bench import Latency

FIND = "twilio.list_numbers"
TWILIO_BRANCH = ("twilio.create_trunk", "twilio.create_origination_url")
LIVEKIT_BRANCH = ("livekit.create_inbound_trunk", "livekit.create_dispatch_rule")
READ = "twilio.fetch_number"
ATTACH = "twilio.attach_number"
READS = (READ, "twilio.list_origination_urls", "livekit.list_inbound_trunks", "livekit.list_dispatch_rules")
"""Verification's reads: none waits for another, so that only the longest of them counts."""

CALLS = (FIND, *TWILIO_BRANCH, *LIVEKIT_BRANCH, READ, ATTACH, *READS)
"""The calls of a provisioning without failures; the number is read directly before it is attached."""


@dataclass(frozen=True)
class Path:
    """The calls of one provisioning, and what they must take at least."""

    critical_ms: float
    calls_ms: float
    """All calls one after another: how long slots are held, and what a straight script waits."""
    calls: float


def path_of(requests: Sequence[Mapping[str, Any]], operations: int, latency: Latency) -> Path:
    """Compute the path from the providers' requests for `operations` provisionings without failures."""
    counts = Counter(str(request["operation"]) for request in requests)
    if strange := set(counts) - set(CALLS):
        raise ValueError(f"calls that are no part of the path: {', '.join(sorted(strange))}")
    ms = {
        name: counts[name] / operations * (latency.twilio_ms if name.startswith("twilio.") else latency.livekit_ms)
        for name in set(CALLS)
    }
    branches = (sum(ms[name] for name in branch) for branch in (TWILIO_BRANCH, LIVEKIT_BRANCH))
    once = ms | {READ: ms[READ] / 2}
    critical = ms[FIND] + max(branches) + once[READ] + ms[ATTACH] + max(once[name] for name in READS)
    return Path(critical, sum(ms.values()), sum(counts.values()) / operations)


def needed(latency: Latency) -> Path:
    """Return the path of a provisioning that makes each call once: a bound that needless calls do not lower."""
    return path_of([{"operation": name} for name in CALLS], 1, latency)
