"""Whether thousands of queued numbers run at the providers' limit, with few calls for each, and without many 429s."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.benchmarks.bench import REAL_LATENCY, Bench
from tests.benchmarks.installation import BULK, ApiClient, Installation, running
from tests.benchmarks.report import Bar, Detail, Findings, Row
from tests.benchmarks.rows import add_agents

PATH = "/api/provisionings"

LIMIT_PER_S = 20
"""Requests a second that each provider allows."""

CREATES = 2
"""Requests of LiveKit's that no number can do without: more numbers a second than a half of the limit cannot be."""

TWILIO_CALLS, LIVEKIT_CALLS = 1.1, 2.1
"""Requests of each provider for a number on a trunk that numbers share, at most."""

PATIENCE_S = 600.0
"""Seconds until a bulk is given up."""

POLL_S = 0.5
"""Seconds between two looks whether it has ended: one count each."""

MIDDLE = (0.1, 0.9)
"""Between which of the numbers the rate is taken: the first seconds fill the pipe, and the last ones empty it."""

HTTP_TOO_MANY = 429


@dataclass(frozen=True)
class _Case:
    name: str
    rate: str
    """What `TWILIO_RATE` and `LIVEKIT_RATE` are set to."""
    share: float = 1.0
    """How many of the scale's numbers."""
    trunk_mode: str = "shared"


CASES = (
    _Case("shared trunks, rate set", str(LIMIT_PER_S)),
    _Case("shared trunks, rate found", "auto"),
    _Case("a trunk for each, rate set", str(LIMIT_PER_S), 0.3, "dedicated"),
)
"""The rate set by an operator who knows the limit, and the rate that the rate limiter finds."""


def measure(bench: Bench) -> Findings:
    """Queue one bulk of all items, for each case, and count what reaches the providers until it has ended."""
    limit = {"twilioRequestsPerS": LIMIT_PER_S, "livekitRequestsPerS": LIMIT_PER_S}
    found = Findings()
    bench.stack.sandbox.latency(REAL_LATENCY.twilio_ms, REAL_LATENCY.livekit_ms)
    try:
        for case in CASES:
            bench.stack.sandbox.switch(**limit)
            found.add(_run_bulk(bench, case))
            bench.stack.sandbox.switch(**dict.fromkeys(limit))
    finally:
        bench.stack.sandbox.switch(**dict.fromkeys(limit))
        bench.stack.sandbox.latency(0, 0)
    return found


def _run_bulk(bench: Bench, case: _Case) -> Findings:
    scale, database = bench.scale, f"bulk_{CASES.index(case)}"
    count = max(1, round(scale.bulk_items * case.share))
    bench.say("bulk", f"{count:,} items, {case.name}")
    with running(bench.stack, database, [], concurrency=scale.concurrency, workers=scale.workers) as installation:
        installation.environ |= {"TWILIO_RATE": case.rate, "LIVEKIT_RATE": case.rate}
        installation.start(BULK)
        with installation.connect() as connection:
            agents = add_agents(connection, count)
            connection.execute("UPDATE agents SET trunk_mode = %s", [case.trunk_mode])
        items = [
            {"agentId": agent, "phoneNumber": number}
            for agent, number in zip(agents, bench.owned_numbers(count), strict=True)
        ]
        return _measure_bulk(bench, installation, case, items)


def _measure_bulk(
    bench: Bench, installation: Installation, case: _Case, items: Sequence[Mapping[str, str]]
) -> Findings:
    bench.stack.sandbox.forget_requests()
    asked_at, began = time.time(), time.perf_counter()
    status, body = ApiClient(installation).post(PATH, {"items": items})
    took_s = time.perf_counter() - began
    if status != 202:
        return Findings([Row("bulk under a limit", None, "/s", note=f"POST {PATH}: {status} {body.get('code', '')}")])
    with installation.connect() as connection:
        while time.perf_counter() - began < PATIENCE_S:
            row = connection.execute("SELECT count(*) FROM operations WHERE finished_at IS NOT NULL").fetchone()
            if row and row[0] >= len(items):
                break
            time.sleep(POLL_S)
        ended = connection.execute(
            "SELECT extract(epoch FROM finished_at)::float8 FROM operations WHERE status = 'succeeded' ORDER BY 1"
        ).fetchall()
    done_at = [float(row[0]) - asked_at for row in ended]
    requests = bench.stack.sandbox.requests()
    found = Findings([Row(f"bulk, {case.name}: answer to a POST of {len(items):,} items", took_s, "s")])
    found.rows += rows_of(case.name, requests, done_at, is_pooled=case.trunk_mode == "shared")
    found.details.append(calls_of(case.name, requests, len(done_at)))
    return found


def rows_of(
    name: str, requests: Sequence[Mapping[str, Any]], done_at: Sequence[float], *, is_pooled: bool
) -> list[Row]:
    """Work out the rate, the calls for each number and the share of refused ones.

    `done_at` are the seconds, after the POST, at which numbers were connected, in order.
    """
    count = len(done_at)
    low, high = (int(share * count) for share in MIDDLE)
    middle_s = done_at[high - 1] - done_at[low] if high - low > 1 else 0.0
    rate = (high - 1 - low) / middle_s if middle_s else None
    refused = sum(request["status"] == HTTP_TOO_MANY for request in requests)
    served = Counter(str(request["provider"]) for request in requests if request["status"] != HTTP_TOO_MANY)
    note = f"{count} numbers in {done_at[-1]:.1f} s" if done_at else "none"
    floor = LIMIT_PER_S / CREATES
    rows = [
        Row(f"bulk, {name}: numbers", rate, "/s", "limit", floor, Bar(">=", 0.9) if is_pooled else None, note),
        Row(f"bulk, {name}: 429 of all answers", refused / max(len(requests), 1), "", bar=Bar("<=", 0.01, "figure")),
    ]
    for provider, most in (("twilio", TWILIO_CALLS), ("livekit", LIVEKIT_CALLS)):
        calls = served[provider] / count if count else None
        bar = Bar("<=", most, "figure") if is_pooled else None
        rows.append(Row(f"bulk, {name}: {provider} calls for a number", calls, "", bar=bar))
    return rows


def calls_of(name: str, requests: Sequence[Mapping[str, Any]], count: int) -> Detail:
    """Count the calls by operation, and for each number."""
    calls = Counter((str(request["provider"]), str(request["operation"])) for request in requests)
    lines = [
        (f"{provider} {operation}", calls[provider, operation], round(calls[provider, operation] / max(count, 1), 3))
        for provider, operation in sorted(calls)
    ]
    return Detail(f"bulk, {name}: calls", ("call", "calls", "for a number"), lines)
