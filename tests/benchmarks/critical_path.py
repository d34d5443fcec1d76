"""The least time of a provisioning: the longest chain of its calls that wait for each other, at the set latency."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.bench import Latency

FIND = "twilio.list_numbers"
TWILIO_BRANCH = ("twilio.create_trunk", "twilio.create_origination_url")
"""The calls that make a Twilio trunk: none of them where a shared one stands already."""
LIVEKIT_BRANCH = ("livekit.create_inbound_trunk", "livekit.create_dispatch_rule")
READ = "twilio.fetch_number"
ATTACH = "twilio.attach_number"
READS = (READ, "livekit.list_inbound_trunks", "livekit.list_dispatch_rules")
"""Verification's reads: none waits for another, so that only the longest of them counts."""
TRUNK_READS = ("twilio.fetch_trunk", "twilio.list_origination_urls")
"""What else it reads, side by side with them: of a trunk of its own the URLs, of a shared one both, once a minute."""

CALLS = (FIND, *LIVEKIT_BRANCH, ATTACH, *READS)
"""The calls of a provisioning on a standing shared trunk, without failures."""

_KNOWN = frozenset({*CALLS, *TWILIO_BRANCH, *TRUNK_READS})


@dataclass(frozen=True)
class Path:
    """The calls of one provisioning, and what they must take at least."""

    critical_ms: float
    calls_ms: float
    """All calls one after another: how long slots are held, and what a straight script waits."""
    calls: float
    twilio_in_line: float
    """Twilio's calls of which each waits for the one before."""


def path_of(requests: Sequence[Mapping[str, Any]], operations: int, latency: Latency) -> Path:
    """Compute the path from the providers' requests for `operations` provisionings without failures."""
    counts = Counter(str(request["operation"]) for request in requests)
    if strange := set(counts) - _KNOWN:
        raise ValueError(f"calls that are no part of the path: {', '.join(sorted(strange))}")
    each = {name: counts[name] / operations for name in _KNOWN}
    ms = {
        name: count * (latency.twilio_ms if name.startswith("twilio.") else latency.livekit_ms)
        for name, count in each.items()
    }
    once = {name: ms[name] / max(each[name], 1) for name in (*READS, *TRUNK_READS)}
    branches = (sum(ms[name] for name in branch) for branch in (TWILIO_BRANCH, LIVEKIT_BRANCH))
    # A number that is read more than once is read before it is attached, too.
    in_line_ms = ms[FIND] + ms[READ] - once[READ] + ms[ATTACH]
    critical_ms = in_line_ms + max(branches) + max(once.values())
    in_line = sum(each[name] for name in (FIND, *TWILIO_BRANCH, READ, ATTACH))
    return Path(critical_ms, sum(ms.values()), sum(counts.values()) / operations, in_line)


def needed(latency: Latency) -> Path:
    """Return the path of a provisioning that makes each call once: a bound that needless calls do not lower."""
    return path_of([{"operation": name} for name in CALLS], 1, latency)
