"""Whether thousands of queued numbers run at the providers' limit, and without a storm of 429."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from tests.benchmarks.bench import Bench
from tests.benchmarks.installation import BULK, ApiClient, Installation, running
from tests.benchmarks.report import Bar, Findings, Row
from tests.benchmarks.rows import add_agents

PATH = "/api/provisionings"

LIMIT_PER_S = 20
"""Requests a second that each provider allows."""

RATES = {"rate set": str(LIMIT_PER_S), "rate found": "auto"}
"""The rate set by an operator who knows the limit, and the rate that the rate limiter finds."""

RAMP_S = 10.0
"""Seconds at the start that do not count: the sandbox lets one second's worth through at once."""

HTTP_TOO_MANY = 429


def measure(bench: Bench) -> Findings:
    """Queue one bulk of all items and watch what reaches the providers for a bounded time, for each way to set it."""
    limit = {"twilioRequestsPerS": LIMIT_PER_S, "livekitRequestsPerS": LIMIT_PER_S}
    found = Findings()
    for name, rate in RATES.items():
        bench.say("bulk", f"{bench.scale.bulk_items:,} items, {bench.scale.bulk_s:g} s, {name}")
        bench.stack.sandbox.switch(**limit)
        try:
            found.rows += _run_bulk(bench, name, rate)
        finally:
            bench.stack.sandbox.switch(**dict.fromkeys(limit))
    return found


def _run_bulk(bench: Bench, name: str, rate: str) -> list[Row]:
    scale, database = bench.scale, f"bulk_{rate}"
    with running(bench.stack, database, [], concurrency=scale.concurrency, workers=scale.workers) as installation:
        installation.environ |= {"TWILIO_RATE": rate, "LIVEKIT_RATE": rate}
        installation.start(BULK)
        with installation.connect() as connection:
            agents = add_agents(connection, scale.bulk_items)
        items = [
            {"agentId": agent, "phoneNumber": number}
            for agent, number in zip(agents, bench.owned_numbers(len(agents)), strict=True)
        ]
        return _measure_bulk(bench, installation, name, items)


def _measure_bulk(bench: Bench, installation: Installation, name: str, items: Sequence[Mapping[str, str]]) -> list[Row]:
    bench.stack.sandbox.forget_requests()
    began = time.perf_counter()
    status, body = ApiClient(installation).post(PATH, {"items": items})
    took_s = time.perf_counter() - began
    if status != 202:
        return [Row("bulk under a limit", None, "/s", note=f"POST {PATH}: {status} {body.get('code', '')}")]
    time.sleep(min(RAMP_S, bench.scale.bulk_s / 4) + bench.scale.bulk_s)
    requests = bench.stack.sandbox.requests()
    with installation.connect() as connection:
        row = connection.execute("SELECT count(*) FROM operations WHERE status = 'succeeded'").fetchone()
    accepted = Row(f"bulk: answer to a POST of {len(items):,} items", took_s, "s")
    return [accepted, *rows_of(name, requests, bench.scale.bulk_s, int(row[0]) if row else 0)]


def rows_of(name: str, requests: Sequence[Mapping[str, Any]], window_s: float, ended: int) -> list[Row]:
    """Work out the share of the limit that was used, and of refused calls, in the last `window_s`."""
    last = max((_at(request) for request in requests), default=0.0)
    counted = [request for request in requests if _at(request) > last - window_s]
    served = Counter(str(each["provider"]) for each in counted if each["status"] != HTTP_TOO_MANY)
    refused = sum(each["status"] == HTTP_TOO_MANY for each in counted)
    busiest = max(served.values(), default=0) / window_s
    note = f"{ended} numbers done; " + ", ".join(f"{who} {count}" for who, count in sorted(served.items()))
    return [
        Row(
            f"bulk, {name}, {window_s:g} s of it: busiest provider",
            busiest,
            "/s",
            "limit",
            LIMIT_PER_S,
            Bar(">=", 0.95),
            note,
        ),
        Row(f"bulk, {name}: 429 of all answers", refused / max(len(counted), 1), "", bar=Bar("<=", 0.01, "figure")),
    ]


def _at(request: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(str(request["at"])).timestamp()
