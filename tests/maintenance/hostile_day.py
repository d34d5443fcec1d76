"""A day on which everything happens to a few agents and numbers at once."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

from sqlalchemy import select, text

from app.audit.service import AuditService
from app.db.models import Audit, Operation
from app.domain.errors import RefusedError
from app.domain.events import Origin
from app.providers.base import Carrier, Label
from app.providers.errors import ProviderError
from app.saga.chain_plan import Plan
from app.saga.machine import Verdict
from app.saga.runner import BACKOFF_CAP_S, Runner
from app.settings import load_settings
from app.sweeper import Sweeper
from app.wiring import Wiring, build
from tests.e2e.invariants import ForeignObjects, routing_of
from tests.maintenance.outsider import Outsider
from tests.support.api import empty_tables
from tests.support.mishaps import Fate, Fateful, Mishap
from tests.support.providers import WorkerDiedError
from tests.support.saga import FINISHED, ManualClock, RecordingPublisher
from tests.support.sandbox import Sandbox

WEBHOOK, APPLICATION, TRUNK = NUMBERS = ("+15145550001", "+15145550002", "+15145550003")
"""Named by what their calls go to in the morning; the last two are somebody else's without `takeover`."""

FOREIGN_NUMBER = "+15145559999"
NAMES = ("front-desk", "back-office", "night-watch")
ORIGIN = Origin(requested_by="tests")

A_WHILE = timedelta(seconds=2 * BACKOFF_CAP_S)
"""Longer than every lease, rest and back-off."""

THE_BUDGET = timedelta(seconds=1000)
"""Longer than an operation may spend on retries."""

MESSAGES = 60
"""Plans run in one go; more means that one leads to the next for ever."""

_TIMES = {
    "operations": ("wake_at", "created_at", "started_at"),
    "operation_steps": ("lease_until", "unsettled_until", "started_at", "finished_at"),
    "audits": ("lease_until", "created_at", "started_at"),
    "agents": ("updated_at",),
}
"""Every time that decides when something is done."""


Event = tuple[Any, ...]
"""The name of a method of `HostileDay`, and its arguments."""


@dataclass(frozen=True)
class Parts:
    """What a negative control breaks."""

    runner: type[Runner] = Runner
    sweeper: type[Sweeper] = Sweeper
    audits: type[AuditService] = AuditService
    carrier: Callable[[Carrier], Any] = lambda carrier: carrier


@dataclass
class HostileDay:
    """One installation and everybody who does something to it: every method is something that may happen."""

    wiring: Wiring
    plain: Wiring
    """The same stores and providers, spared by fate."""
    sandbox: Sandbox
    publisher: RecordingPublisher
    clock: ManualClock
    fate: Fate
    agents: list[uuid.UUID] = field(default_factory=list)
    taken_over: set[str] = field(default_factory=set)
    """Numbers that somebody asked for with `takeover`."""

    def begin(self) -> None:
        """Start with no rows, three agents, three numbers, and somebody else's things beside them."""
        self.fate.heal()
        self.fate.under_way.clear()
        self.publisher.plans.clear()
        self.publisher.audits.clear()
        self.taken_over.clear()
        empty_tables(self.plain)
        self.sandbox.clear_faults()
        self.sandbox.reset()
        self.foreigners = ForeignObjects(self.plain, self.sandbox, FOREIGN_NUMBER)
        self.their_trunk = self.plain.carrier.create_trunk(Label("theirs")).sid
        self.sandbox.number(WEBHOOK, voiceUrl="https://example.com/voice")
        self.sandbox.number(APPLICATION, voiceApplicationSid="AP" + "0" * 32)
        self.sandbox.number(TRUNK, trunkSid=self.their_trunk)
        state = self.sandbox.state()
        self.outsider = Outsider(self.plain, self.sandbox, self.their_trunk)
        self.routings = {number: [routing_of(state, number)] for number in NUMBERS}
        self.agents[:] = [self.wiring.agents.create(name, name, {}).id for name in NAMES]

    def happens(self, event: Event) -> None:
        """Let something happen; a refusal, a provider's error and the death of whoever serves it are all answers."""
        with suppress(RefusedError, ProviderError, WorkerDiedError):
            getattr(self, event[0])(*event[1:])

    def in_trouble(self, trouble: Event, asked: Event) -> None:
        """Ask for something while something goes wrong, and let the workers have a go at it."""
        self.happens(trouble)
        self.happens(asked)
        self.work()

    def break_a_call(self, call: str, kind: str, times: int) -> None:
        """Let a provider fail at one of its calls."""
        self.sandbox.fault(call, kind, times=times, **({"retryAfterS": 1} if kind == "429" else {}))

    def strike_a_worker(self, mishap: Mishap, calls: int, meanwhile: Event) -> None:
        """Let the worker that makes one of the next calls die, lose its answer, or stall for longer than its lease."""

        def others_go_on() -> None:
            self.happens(meanwhile)
            self.pass_time()
            self.work()

        self.fate.plan(mishap, calls, others_go_on)

    def provision(self, agent: int, number: str, takeover: bool) -> None:
        if takeover:
            self.taken_over.add(number)
        self.wiring.provisioning.provision(self.agents[agent], number, takeover=takeover, origin=ORIGIN)

    def deprovision(self, agent: int) -> None:
        self.wiring.provisioning.deprovision(self.agents[agent], origin=ORIGIN)

    def repair(self, agent: int, takeover: bool) -> None:
        number = self.wiring.agents.get(self.agents[agent]).twilio_phone_number
        if takeover and number:
            self.taken_over.add(number)
        self.wiring.maintenance.repair(self.agents[agent], takeover=takeover, origin=ORIGIN)

    def move(self, agent: int, to_agent: int) -> None:
        self.wiring.maintenance.move(self.agents[agent], self.agents[to_agent], origin=ORIGIN)

    def retry(self, which: int) -> None:
        """Retry one of the operations, whatever its status."""
        with self.wiring.sessions.begin() as session:
            found = session.scalars(select(Operation.id).order_by(Operation.created_at, Operation.id)).all()
        if found:
            self.wiring.provisioning.retry(found[which % len(found)], origin=ORIGIN)

    def verify(self, agent: int) -> None:
        self.wiring.maintenance.verify(self.agents[agent])

    def audit(self, fix: bool) -> Audit | None:
        return self.wiring.audits.run_audit(self.wiring.audits.request_audit(fix=fix, origin=ORIGIN))

    def edit(self, kind: str, agent: int) -> None:
        """Let somebody change one thing of an agent's at the providers' consoles."""
        row = self.plain.agents.get(self.agents[agent])
        self.outsider.edit(kind, row)
        if kind == "move_number" and row.twilio_phone_number:
            now = routing_of(self.sandbox.state(), row.twilio_phone_number)
            if now["trunk_sid"] == self.their_trunk:
                # Whoever put it there wants it there: releasing the number leaves it alone.
                self.routings[row.twilio_phone_number].append(now)

    def number_sid(self, number: str) -> str:
        return next(str(one["sid"]) for one in self.sandbox.state()["numbers"] if one["phone_number"] == number)

    def run(self, plan: Plan) -> None:
        """Do what Celery and its workers do with one chain."""
        with suppress(WorkerDiedError):
            for name in plan.steps:
                outcome = self.wiring.runner.run_step(plan.operation_id, plan.epoch, name, plan.direction)
                if outcome.verdict is Verdict.ROLLING_BACK:
                    self.wiring.provisioning.republish(plan.operation_id)
                if outcome.verdict not in FINISHED:
                    return

    def work(self) -> None:
        """Run every message there is, and those that they lead to."""
        for _ in range(MESSAGES):
            if self.publisher.plans:
                self.run(self.publisher.plans.pop(0))
            elif self.publisher.audits:
                with suppress(WorkerDiedError):
                    self.wiring.audits.run_audit(self.publisher.audits.pop(0))
            else:
                return
        raise AssertionError("one message leads to the next for ever")

    def work_a_little(self, which: int, length: int) -> None:
        """Run the first steps of one message, and leave the rest of it in the queue."""
        for plan in self._message(which):
            self.publisher.plans.remove(plan)
            self.run(replace(plan, steps=plan.steps[:length]))
            self.publisher.plans.append(replace(plan, steps=plan.steps[length:]))

    def work_out_of_order(self, which: int, order: list[str]) -> None:
        """Run the steps of one message in any order, as if each were a message of its own."""
        for plan in self._message(which):
            for name in order:
                if name in plan.steps:
                    self.run(replace(plan, steps=(name,)))

    def lose(self, which: int) -> None:
        for plan in self._message(which):
            self.publisher.plans.remove(plan)

    def deliver_twice(self, which: int) -> None:
        self.publisher.plans.extend(self._message(which))

    def _message(self, which: int) -> list[Plan]:
        plans = self.publisher.plans
        return [plans[which % len(plans)]] if plans else []

    def pass_time(self, span: timedelta = A_WHILE) -> None:
        """Let time pass, and the sweeper look: requests under way land, and all times are further in the past."""
        self.fate.land()
        self.clock.sleep(span.total_seconds())
        with self.plain.sessions.begin() as session:
            for table, columns in _TIMES.items():
                changes = ", ".join(f"{column} = {column} - :span" for column in columns)
                session.execute(text(f"UPDATE {table} SET {changes}"), {"span": span})  # noqa: S608 - names of ours
        self.wiring.sweeper.sweep()


@contextmanager
def hostile_day(sandbox: Sandbox, parts: Parts) -> Iterator[HostileDay]:
    """Wire an installation from the environment; nothing in it really waits."""
    publisher, fate, clock = RecordingPublisher(), Fate(), ManualClock()
    plain = build(load_settings(), publisher=publisher)
    carrier, platform = Fateful(parts.carrier(plain.carrier), fate), Fateful(plain.platform, fate)
    wiring = build(load_settings(), publisher=publisher, carrier=carrier, platform=platform)
    tools = replace(wiring.runner.tools, sleep=clock.sleep, clock=clock)
    maintenance = replace(wiring.maintenance, tools=tools)
    audits = parts.audits(**{**vars(wiring.audits), "tools": tools, "maintenance": maintenance})
    runner = parts.runner(**{**vars(wiring.runner), "tools": tools, "jitter": lambda _low, high: high})
    sweeper = parts.sweeper(**{**vars(wiring.sweeper), "audits": audits})
    wiring = replace(wiring, runner=runner, sweeper=sweeper, maintenance=maintenance, audits=audits)
    try:
        yield HostileDay(wiring, plain, sandbox, publisher, clock, fate)
    finally:
        wiring.close()
        plain.close()
