"""One soak from start to verdict, and what it prints."""

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from app.dev.localstack.terminal import Terminal
from app.domain.events import Origin
from app.providers.base import Label
from tests.soak.chaos import Chaos, open_operations, served
from tests.soak.load import Load, Plan, Play, plans
from tests.soak.stack import SoakStack, soak_stack
from tests.soak.verdict import Foreign, Verdict, ended, judge, story

SETTLE_S = 120.0
"""Seconds after healing until what is still open counts as stuck: twice the longest pause before a refused undo."""

CHAOS_S_PER_OPERATION = 1.5
"""Seconds of chaos for each operation, at the most: clients that mean to see a number ring could wait for ever."""

SHOW_S = 5.0
"""Seconds between two lines of progress."""

LANDING_S = 5.0
"""Seconds after the last operation for the slowest request of a dead worker to land before the comparison."""

FREE_ROUTING = {"voiceUrl": "https://example.com/before"}


@dataclass
class Report:
    """What a soak has found."""

    seed: int
    operations: int
    chaos_s: float
    kills: Counter[str]
    faults: Counter[str]
    ended: dict[str, int]
    settled_s: float | None
    """Seconds from healing to the last operation's end; None when some never ended."""
    surprises: Counter[str]
    first: Verdict
    """Before the audit."""
    final: Verdict
    """After one audit with fix."""

    @property
    def is_clean(self) -> bool:
        """Whether the soak has passed."""
        return self.final.is_clean and not self.surprises

    def as_json(self) -> dict[str, Any]:
        """Return everything, for machines."""
        verdicts = {name: vars(verdict) for name, verdict in (("beforeAudit", self.first), ("afterAudit", self.final))}
        return {
            "seed": self.seed,
            "operations": self.operations,
            "chaosSeconds": round(self.chaos_s, 1),
            "kills": dict(self.kills),
            "faults": dict(self.faults),
            "ended": self.ended,
            "settledSeconds": None if self.settled_s is None else round(self.settled_s, 1),
            "unexpectedAnswers": dict(self.surprises),
            **verdicts,
            "passed": self.is_clean,
        }


def soak(operations: int, seed: int, *, is_json: bool) -> int:
    """Run a soak and print what it found; 0 when nothing is stuck, left over, doubled, broken or touched."""
    terminal = Terminal(Console(highlight=False, soft_wrap=True, stderr=is_json))
    terminal.heading(f"Soak of {operations} operations, seed {seed}")
    with soak_stack() as stack:
        report = run(stack, operations, seed, terminal)
    if is_json:
        Console(highlight=False, soft_wrap=True).print_json(json.dumps(report.as_json()))
    else:
        terminal.console.print(table_of(report))
    terminal.plain("PASSED" if report.is_clean else "FAILED")
    return 0 if report.is_clean else 1


def run(stack: SoakStack, operations: int, seed: int, terminal: Terminal) -> Report:
    """Seed the providers, let the load run under chaos, heal, wait, compare, audit, compare again."""
    drawn = plans(operations, seed)
    original, foreign = seed_providers(stack, drawn)
    load, chaos = Load(stack.api_url, stack.key, list(drawn)), Chaos(stack, seed)
    started = time.monotonic()
    chaos.begin()
    load.start()
    _rage(load, chaos, started + CHAOS_S_PER_OPERATION * operations, terminal)
    faults, chaos_s = served(stack), time.monotonic() - started
    chaos.heal()
    settled_s = _settle(stack, load, terminal)
    load.stop.set()
    time.sleep(LANDING_S)
    first = judge(stack, foreign, original)
    _audit(stack, terminal)
    _settle(stack, load, terminal)
    final = judge(stack, foreign, original)
    for line in [line for lines in vars(first).values() for line in lines]:
        terminal.problem(line)
        for event in story(stack, line):
            terminal.plain(f"    {event}")
    ends = ended(stack)
    return Report(seed, operations, chaos_s, chaos.kills, faults, ends, settled_s, load.surprises, first, final)


def seed_providers(stack: SoakStack, drawn: list[Plan]) -> tuple[dict[str, dict[str, Any]], Foreign]:
    """Make the numbers of the plans, and what others own; return each number's record and the others' objects."""
    label = Label("somebody-else", '{"owner": "somebody else"}')
    taken: set[str] = set()
    orders: list[dict[str, Any]] = []
    with stack.wiring() as wiring:
        theirs = wiring.carrier.create_trunk(label).sid
        wiring.carrier.create_origination_url(theirs, "sip:elsewhere.example.com;transport=tcp", label)
        for plan in drawn:
            order: dict[str, Any] = {"phoneNumber": plan.number, **FREE_ROUTING}
            if plan.play is Play.NOT_VOICE:
                order["voice"] = False
            elif plan.play is Play.FOREIGN_TRUNK:
                order = {"phoneNumber": plan.number, "trunkSid": theirs}
                taken.add(plan.number)
            elif plan.play is Play.FOREIGN_INBOUND:
                trunk = wiring.platform.create_inbound_trunk(plan.number, label)
                wiring.platform.create_dispatch_rule(trunk.id, "their-agent", "{}", label)
                taken.add(plan.number)
            orders += [order] if plan.play is not Play.UNKNOWN_NUMBER else []
    records = stack.order("POST", "/sandbox/numbers", {"numbers": orders})["numbers"]
    return {item["phone_number"]: item for item in records}, Foreign.remember(stack, taken)


def table_of(report: Report) -> Table:
    """Lay the report out."""
    table = Table(title=f"Soak, seed {report.seed}", title_justify="left")
    table.add_column("what")
    table.add_column("figure", justify="right")
    table.add_column("by kind")
    faults = Counter(report.faults)
    requests = faults.pop("requests")
    table.add_row("operations", str(report.operations), f"{report.chaos_s:.0f} s under chaos")
    table.add_row("kills", str(report.kills.total()), _listed(report.kills))
    table.add_row("faults served", str(faults.total()), f"of {requests} requests: {_listed(faults)}")
    for status in ("PROVISIONED", "FAILED", "NOT_PROVISIONED"):
        table.add_row(f"ended {status}", str(report.ended.get(status, 0)), "")
    table.add_row("operations by end", "", _listed({k: v for k, v in report.ended.items() if " " in k}))
    settled = "never" if report.settled_s is None else f"{report.settled_s:.1f} s"
    table.add_row("longest time to settle", settled, "after healing")
    for name, count in report.final.counts().items():
        before = report.first.counts()[name]
        table.add_row(LABELS[name], str(count), f"{before} before the audit" if before else "")
    table.add_row("unexpected answers", str(report.surprises.total()), _listed(report.surprises))
    return table


LABELS = {
    "stuck": "stuck",
    "leftovers": "leftovers",
    "twins": "twins",
    "broken": "provisioned but unreachable",
    "touched": "foreign objects touched",
}


def _rage(load: Load, chaos: Chaos, until: float, terminal: Terminal) -> None:
    """Deal blows until every client is through, or the monotonic clock says `until`."""
    shown = time.monotonic()
    while load.is_running and time.monotonic() < until:
        blow = chaos.strike()
        if time.monotonic() - shown >= SHOW_S:
            shown = time.monotonic()
            seen = f"{load.finished} of {load.agents} agents, {chaos.kills.total()} blows"
            terminal.line("Chaos", seen, f"last: {blow}")


def _settle(stack: SoakStack, load: Load, terminal: Terminal) -> float | None:
    """Wait until every client is through and every operation final; return how long, None when it took too long."""
    started = shown = time.monotonic()
    while (left := open_operations(stack)) != 0 or load.is_running:
        now = time.monotonic()
        if now - started > SETTLE_S:
            return None
        if now - shown >= SHOW_S:
            shown = now
            terminal.line("Healed", f"{left} operations open", f"{now - started:.0f} s")
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
