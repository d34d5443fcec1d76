"""One soak from start to comparison, and what it prints."""

import json
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from app.dev.localstack.processes import ServerProcess
from app.dev.localstack.terminal import Terminal
from app.domain.events import Origin
from app.domain.sip_uris import SipUri
from app.path.marks import pool_tag
from app.path.spec import DispatchRuleSpec, InboundTrunkSpec, Label, OriginationUrlSpec, TrunkSpec
from tests.soak.chaos import Chaos, count_faults, count_open_operations
from tests.soak.comparison import Differences, ForeignObjects, compare, count_results, events_of_agent
from tests.soak.load import Load, Plan, Scenario, draw_plans
from tests.soak.stack import INSTANCE, MAX_NUMBERS, PROVIDER_TIMEOUT_S, SoakStack, soak_stack
from tests.support.forked import ForkedProcess

SETTLE_S = 120.0
"""Seconds after the chaos until what is still open counts as stuck: twice the longest pause before a refused undo."""

CHAOS_S_PER_OPERATION = 1.5
"""Seconds of chaos for each operation, at the most: clients that wait for a final status could wait for ever."""

PROGRESS_S = 5.0
"""Seconds between two lines of progress."""

LATE_REQUESTS_S = 4.5 * PROVIDER_TIMEOUT_S
"""Seconds after the last fault until the slowest request of a dead worker is applied: a comparison comes no sooner."""

THEIR_NUMBER = "+15145550100"
"""On a shared trunk of another installation in the same account."""

FREE_ROUTING = {"voiceUrl": "https://example.com/before"}


@dataclass
class Report:
    """What a soak has found."""

    seed: int
    operations: int
    chaos_s: float
    disruptions: Counter[str]
    faults: Counter[str]
    results: dict[str, int]
    """Agents by status, operations by kind and status, failed ones by error."""
    settled_s: float | None
    """Seconds from the end of the chaos to the last operation's; None when some never ended."""
    unexpected: Counter[str]
    """Responses that no client expects."""
    first: Differences
    """Before the audit."""
    final: Differences
    """After one audit with fix."""

    @property
    def is_passed(self) -> bool:
        """Whether the soak has passed."""
        return self.final.is_empty and not self.unexpected

    def as_json(self) -> dict[str, Any]:
        """Return everything, for machines."""
        return {
            "seed": self.seed,
            "operations": self.operations,
            "chaosSeconds": round(self.chaos_s, 1),
            "kills": dict(self.disruptions),
            "faults": dict(self.faults),
            "ended": self.results,
            "settledSeconds": None if self.settled_s is None else round(self.settled_s, 1),
            "unexpectedResponses": dict(self.unexpected),
            "beforeAudit": vars(self.first),
            "afterAudit": vars(self.final),
            "passed": self.is_passed,
        }


def soak(operations: int, seed: int, *, has_copies: bool, is_json: bool) -> int:
    """Run a soak and print what it found; 0 when there are no differences and no unexpected responses."""
    terminal = Terminal(Console(highlight=False, soft_wrap=True, stderr=is_json))
    terminal.heading(f"Soak of {operations} operations, seed {seed}")
    with soak_stack(ForkedProcess if has_copies else ServerProcess) as stack:
        report = run_soak(stack, operations, seed, terminal)
    if is_json:
        Console(highlight=False, soft_wrap=True).print_json(json.dumps(report.as_json()))
    else:
        terminal.console.print(report_table(report))
    terminal.plain("PASSED" if report.is_passed else "FAILED")
    return 0 if report.is_passed else 1


def run_soak(stack: SoakStack, operations: int, seed: int, terminal: Terminal) -> Report:
    """Seed the providers, run the load under chaos, end the chaos, wait, compare, audit, compare again."""
    drawn = draw_plans(operations, seed)
    original, foreign = seed_providers(stack, drawn)
    load, chaos = Load(stack.api_url, stack.key, list(drawn)), Chaos(stack, seed)
    started = time.monotonic()
    chaos.begin()
    load.start()
    _disrupt_until_done(load, chaos, started + CHAOS_S_PER_OPERATION * operations, terminal)
    faults, chaos_s = count_faults(stack.sandbox), time.monotonic() - started
    chaos.end()
    ended = time.monotonic()
    settled_s = _settle(stack, load, terminal)
    load.stop.set()
    chaos.pass_days()
    _settle(stack, load, terminal)
    time.sleep(max(ended + LATE_REQUESTS_S - time.monotonic(), 0))
    first = compare(stack.sandbox, stack.dsn, foreign, original, instance=INSTANCE, most=MAX_NUMBERS)
    _audit(stack, terminal)
    _settle(stack, load, terminal)
    final = compare(stack.sandbox, stack.dsn, foreign, original, instance=INSTANCE, most=MAX_NUMBERS)
    for line in [line for lines in vars(first).values() for line in lines]:
        terminal.error_line(line)
        for event in events_of_agent(stack.dsn, line):
            terminal.plain(f"    {event}")
    results = count_results(stack.dsn)
    unexpected = load.unexpected + chaos.unexpected
    return Report(seed, operations, chaos_s, chaos.counts, faults, results, settled_s, unexpected, first, final)


def seed_providers(stack: SoakStack, drawn: list[Plan]) -> tuple[dict[str, dict[str, Any]], ForeignObjects]:
    """Make the numbers of the plans, and what others own; return each number's record and the others' objects."""
    label = Label("somebody-else", '{"owner": "somebody else"}')
    taken: set[str] = set()
    numbers: list[dict[str, Any]] = []
    with stack.wiring() as wiring:
        theirs = wiring.carrier.create_trunk(TrunkSpec(label.tag)).sid
        url = SipUri("elsewhere.example.com", transport="tcp")
        wiring.carrier.create_origination_url(theirs, OriginationUrlSpec(label.tag, url))
        another = wiring.carrier.create_trunk(TrunkSpec(pool_tag("another", uuid.uuid4()))).sid
        numbers.append({"phoneNumber": THEIR_NUMBER, "trunkSid": another})
        taken.add(THEIR_NUMBER)
        for plan in drawn:
            number: dict[str, Any] = {"phoneNumber": plan.number, **FREE_ROUTING}
            if plan.scenario is Scenario.NOT_VOICE:
                number["voice"] = False
            elif plan.scenario is Scenario.FOREIGN_TRUNK:
                number = {"phoneNumber": plan.number, "trunkSid": theirs}
                taken.add(plan.number)
            elif plan.scenario is Scenario.FOREIGN_INBOUND:
                trunk = wiring.platform.create_inbound_trunk(InboundTrunkSpec(label, plan.number))
                wiring.platform.create_dispatch_rule(DispatchRuleSpec(label.tag, trunk.id, "their-agent"))
                taken.add(plan.number)
            if plan.scenario is not Scenario.UNKNOWN_NUMBER:
                numbers.append(number)
    records = stack.sandbox.seed(numbers)
    return {item["phone_number"]: item for item in records}, ForeignObjects.remember(stack.sandbox, taken)


def report_table(report: Report) -> Table:
    """Lay the report out."""
    table = Table(title=f"Soak, seed {report.seed}", title_justify="left")
    table.add_column("what")
    table.add_column("figure", justify="right")
    table.add_column("by kind")
    faults = Counter(report.faults)
    requests = faults.pop("requests")
    table.add_row("operations", str(report.operations), f"{report.chaos_s:.0f} s under chaos")
    table.add_row("disruptions", str(report.disruptions.total()), _listed(report.disruptions))
    table.add_row("faults served", str(faults.total()), f"of {requests} requests: {_listed(faults)}")
    for status in ("PROVISIONED", "FAILED", "NOT_PROVISIONED"):
        table.add_row(f"ended {status}", str(report.results.get(status, 0)), "")
    table.add_row("operations by status", "", _listed({k: v for k, v in report.results.items() if " " in k}))
    settled = "never" if report.settled_s is None else f"{report.settled_s:.1f} s"
    table.add_row("longest time to settle", settled, "after the chaos")
    for name, count in report.final.counts().items():
        before = report.first.counts()[name]
        table.add_row(LABELS[name], str(count), f"{before} before the audit" if before else "")
    table.add_row("unexpected responses", str(report.unexpected.total()), _listed(report.unexpected))
    return table


LABELS = {
    "stuck": "stuck",
    "leftovers": "leftovers",
    "duplicates": "duplicates",
    "broken": "provisioned but unreachable",
    "pool": "shared trunks that differ",
    "foreign": "foreign objects touched",
}


def _disrupt_until_done(load: Load, chaos: Chaos, until: float, terminal: Terminal) -> None:
    """Cause disruptions until every client is done, or the monotonic clock says `until`."""
    shown = time.monotonic()
    while load.is_running and time.monotonic() < until:
        disruption = chaos.disrupt()
        if time.monotonic() - shown >= PROGRESS_S:
            shown = time.monotonic()
            seen = f"{load.finished} of {load.agents} agents, {chaos.counts.total()} disruptions"
            terminal.line("Chaos", seen, f"last: {disruption}")


def _settle(stack: SoakStack, load: Load, terminal: Terminal) -> float | None:
    """Wait until every client is done and every operation final; return how long, None when it took too long."""
    started = shown = time.monotonic()
    while (left := count_open_operations(stack.dsn)) != 0 or load.is_running:
        now = time.monotonic()
        if now - started > SETTLE_S:
            return None
        if now - shown >= PROGRESS_S:
            shown = now
            terminal.line("Settling", f"{left} operations open", f"{now - started:.0f} s")
        time.sleep(0.25)
    return time.monotonic() - started


def _audit(stack: SoakStack, terminal: Terminal) -> None:
    """Run one audit with fix, as the command line would."""
    with stack.wiring() as wiring:
        audit = wiring.audits.run_audit(wiring.audits.request_audit(fix=True, origin=Origin(requested_by="soak")))
    if audit is not None:
        codes = Counter(str(finding["code"]) for finding in audit.findings)
        terminal.line("Audit", f"{audit.status}, {audit.agents_checked} agents", _listed(codes) or "nothing found")


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
