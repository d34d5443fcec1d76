"""What an audit costs where numbers share trunks, beside a trunk for each, and how it puts back what lost its trunk."""

import time
from collections.abc import Sequence
from typing import NamedTuple

from app.db.models import Trunk
from app.dev.localstack.host import StackError
from app.domain.events import Origin
from app.domain.findings import FindingCode
from app.wiring import Wiring
from tests.benchmarks.bench import LATENCIES, NO_LATENCY, Bench, Latency
from tests.benchmarks.installation import BULK, Installation, running
from tests.benchmarks.report import Bar, Findings, Row
from tests.support.many_paths import AGENT_NAME, add_paths

PER_TRUNK = 500
"""Numbers on one trunk, as TRUNK_MAX_NUMBERS sets it."""

MOST_REQUESTS = Bar("<=", 40, "figure")

PUT_BACK_S = 600.0
"""Seconds until a bulk of repairs is given up."""


class _Cost(NamedTuple):
    requests: int
    took_s: float
    cpu_s: float


def measure(bench: Bench) -> Findings:
    """Audit the same count of numbers on trunks of their own and on shared ones; then delete a shared trunk."""
    count = bench.scale.audit_numbers
    costs: dict[tuple[bool, str], _Cost] = {}
    found = Findings()
    for is_shared in (False, True):
        bench.stack.sandbox.reset()
        bench.stack.sandbox.switch(trunkLimit=count + PER_TRUNK)
        with running(bench.stack, f"audit_{'shared' if is_shared else 'own'}", []) as installation:
            bench.say(
                "audit", f"{count:,} numbers, {'shared trunks' if is_shared else 'a trunk for each'}: making them"
            )
            numbers = bench.numbers(count)
            with installation.wiring() as wiring:
                add_paths(wiring, bench.stack.sandbox, numbers, per_trunk=PER_TRUNK if is_shared else 0)
                for latency in LATENCIES:
                    bench.say("audit", latency.name)
                    costs[is_shared, latency.name] = _audit(bench, wiring, latency, count)
                if is_shared:
                    bench.say("audit", "a shared trunk is deleted")
                    found.rows += _put_back(bench, installation, wiring, numbers)
    return Findings([*_rows(costs, count), *found.rows])


def _audit(bench: Bench, wiring: Wiring, latency: Latency, count: int) -> _Cost:
    audit_id = wiring.audits.request_audit(fix=False, origin=Origin(requested_by="bench"))
    bench.stack.sandbox.latency(latency.twilio_ms, latency.livekit_ms)
    bench.stack.sandbox.forget_requests()
    began, began_cpu = time.perf_counter(), time.process_time()
    report = wiring.audits.run_audit(audit_id)
    cost = time.perf_counter() - began, time.process_time() - began_cpu
    bench.stack.sandbox.latency(0, 0)
    if report is None or report.findings or report.agents_checked != count:
        raise StackError(f"the audit found what is not there: {report and (report.error_detail, report.findings[:3])}")
    return _Cost(sum(bench.stack.sandbox.request_counts().values()), *cost)


def _rows(costs: dict[tuple[bool, str], _Cost], count: int) -> list[Row]:
    own, shared = costs[False, NO_LATENCY.name], costs[True, NO_LATENCY.name]
    name, floor = f"audit of {count:,} numbers", "a trunk for each"
    per_1000 = 1000 / count
    rows = [
        Row(f"{name}: requests", shared.requests, "", floor, own.requests, MOST_REQUESTS),
        Row(f"{name}: requests per 1,000 numbers", shared.requests * per_1000, "", floor, own.requests * per_1000),
        Row(f"{name}: CPU", shared.cpu_s, "s", floor, own.cpu_s),
    ]
    for latency in LATENCIES:
        pair = costs[True, latency.name].took_s, costs[False, latency.name].took_s
        rows.append(Row(f"{name}, {latency.name}: time", pair[0], "s", floor, pair[1]))
    return rows


def _put_back(bench: Bench, installation: Installation, wiring: Wiring, numbers: Sequence[str]) -> list[Row]:
    """Delete a full shared trunk as somebody at Twilio's console would; audit with fix, and wait for its bulk."""
    members = numbers[:PER_TRUNK]
    with wiring.sessions() as session:
        trunk_sid = session.query(Trunk.twilio_trunk_sid).where(Trunk.shard == 1).scalar()
    wiring.carrier.delete_trunk(trunk_sid)
    bench.stack.sandbox.forget_requests()
    began = time.perf_counter()
    report = wiring.audits.run_audit(wiring.audits.request_audit(fix=True, origin=Origin(requested_by="bench")))
    audit_s = time.perf_counter() - began
    findings = report.findings if report else []
    if [one["code"] for one in findings] != [FindingCode.TRUNK_GONE]:
        raise StackError(f"not one finding of a trunk: {findings[:3]}")
    bulk_id = findings[0]["fixed"].removeprefix("bulk ")
    bench.stack.sandbox.forget_requests()
    began = time.perf_counter()
    installation.start(BULK)
    put_back_s = _wait_for_bulk(installation, bulk_id, began)
    requests = sum(bench.stack.sandbox.request_counts().values())
    answered = sum(AGENT_NAME in bench.stack.sandbox.call(number)["agents"] for number in members)
    again = wiring.audits.run_audit(wiring.audits.request_audit(fix=False, origin=Origin(requested_by="bench")))
    left = len(again.findings) if again else -1
    name = f"a shared trunk deleted under {len(members):,} numbers"
    note = f"{answered:,} of {len(members):,} calls answered; {left} findings left"
    return [
        Row(f"{name}: findings", len(findings), "", bar=Bar("<=", 1, "figure")),
        Row(f"{name}: audit with fix", audit_s, "s"),
        Row(f"{name}: until all are back, start of the processes included", put_back_s, "s", note=note),
        Row(f"{name}: requests per number", requests / len(members), ""),
        Row(f"{name}: calls not answered", len(members) - answered, "", bar=Bar("<=", 0, "figure")),
    ]


def _wait_for_bulk(installation: Installation, bulk_id: str, began: float) -> float:
    """Wait until every item has ended; return the seconds."""
    with installation.connect() as connection:
        while time.perf_counter() - began < PUT_BACK_S:
            row = connection.execute("SELECT status FROM bulks WHERE id = %s", [bulk_id]).fetchone()
            if row and row[0] in {"succeeded", "failed"}:
                return time.perf_counter() - began
            time.sleep(0.2)
    raise StackError(f"the bulk has not ended within {PUT_BACK_S:g} s")
