"""A random day: requests, faults, edits and time, in random order, over a few agents and numbers."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from datetime import timedelta
from typing import Any

from sqlalchemy import select, text

from app.audit.service import AuditService
from app.db.models import Audit, Operation
from app.domain.errors import RefusedError
from app.domain.events import Origin
from app.domain.operations import TrunkMode
from app.path.spec import TrunkSpec
from app.providers.base import Carrier
from app.providers.errors import ProviderError
from app.saga.chain_plan import Plan
from app.saga.runner import BACKOFF_CAP_S, Runner
from app.saga.state import Verdict
from app.settings import load_settings
from app.sweeper import Sweeper
from app.wiring import Wiring, build
from tests.e2e.invariants import ForeignObjects, routing_of
from tests.maintenance.console_edits import ConsoleEditor
from tests.support.api import empty_tables
from tests.support.fault_plan import FaultPlan, FaultyAdapter, WorkerFault
from tests.support.providers import WorkerDiedError
from tests.support.saga import FINISHED, ManualClock, RecordingPublisher
from tests.support.sandbox import Sandbox
from tests.support.toolboxes import GivenToolboxes, tools_of, with_parts

WEBHOOK, APPLICATION, TRUNK = NUMBERS = ("+15145550001", "+15145550002", "+15145550003")
"""Named by their routing at the start of the day; the last two need `takeover`."""

FOREIGN_NUMBER = "+15145559999"
TRUNK_MODES = {
    "front-desk": TrunkMode.DEDICATED,
    "back-office": TrunkMode.SHARED,
    "night-watch": TrunkMode.SHARED,
}
NAMES = tuple(TRUNK_MODES)
ORIGIN = Origin(requested_by="tests")

LONGEST_REST = timedelta(seconds=2 * BACKOFF_CAP_S)
"""Longer than every lease, pause and back-off."""

RETRY_BUDGET = timedelta(seconds=1000)
"""Longer than an operation may spend on retries, 900 s."""

MESSAGES = 60
"""Messages run at a time; more means that they publish each other forever."""

_TIMES = {
    "operations": ("wake_at", "created_at", "started_at"),
    "operation_steps": ("lease_until", "unsettled_until", "started_at", "finished_at"),
    "audits": ("lease_until", "created_at", "started_at"),
    "bulks": ("lease_until", "created_at", "started_at"),
    "agents": ("updated_at",),
    "trunks": ("lease_until", "unsettled_until", "checked_at", "emptied_at", "created_at"),
}
"""Every column with a time that decides when something is done."""


Event = tuple[Any, ...]
"""The name of a method of `RandomDay`, and its arguments."""


@dataclass(frozen=True)
class Parts:
    """The parts that a negative control replaces."""

    runner: type[Runner] = Runner
    sweeper: type[Sweeper] = Sweeper
    audits: type[AuditService] = AuditService
    carrier: Callable[[Carrier], Any] = lambda carrier: carrier


@dataclass
class RandomDay:
    """One installation and all that may happen to it: most methods are events."""

    wiring: Wiring
    plain: Wiring
    """The same stores and providers, without the fault plan."""
    sandbox: Sandbox
    publisher: RecordingPublisher
    clock: ManualClock
    fault_plan: FaultPlan
    agents: list[uuid.UUID] = field(default_factory=list)
    taken_over: set[str] = field(default_factory=set)
    """Numbers that were requested with `takeover`."""

    def reset(self) -> None:
        """Start with no rows, three agents, three numbers, and foreign resources beside them."""
        self.fault_plan.clear()
        self.fault_plan.late_requests.clear()
        self.publisher.plans.clear()
        self.publisher.audits.clear()
        self.taken_over.clear()
        empty_tables(self.plain)
        self.sandbox.clear_faults()
        self.sandbox.reset()
        self.foreigners = ForeignObjects(self.plain, self.sandbox, FOREIGN_NUMBER)
        self.their_trunk = self.plain.carrier.create_trunk(TrunkSpec("theirs")).sid
        self.sandbox.number(WEBHOOK, voiceUrl="https://example.com/voice")
        self.sandbox.number(APPLICATION, voiceApplicationSid="AP" + "0" * 32)
        self.sandbox.number(TRUNK, trunkSid=self.their_trunk)
        state = self.sandbox.state()
        self.console_editor = ConsoleEditor(self.plain, self.sandbox, self.their_trunk)
        self.routings = {number: [routing_of(state, number)] for number in NUMBERS}
        self.agents[:] = [
            self.wiring.agents.create(name, name, {}, trunk_mode=mode).id for name, mode in TRUNK_MODES.items()
        ]

    def apply_event(self, event: Event) -> None:
        """Apply one event; a refusal, a provider's error and a worker's death are expected results."""
        with suppress(RefusedError, ProviderError, WorkerDiedError):
            getattr(self, event[0])(*event[1:])

    def with_fault(self, fault: Event, request: Event) -> None:
        """Schedule a fault, make a request, and run the workers."""
        self.apply_event(fault)
        self.apply_event(request)
        self.run_messages()

    def fail_provider_call(self, call: str, kind: str, times: int) -> None:
        """Make a provider's call fail."""
        self.sandbox.fault(call, kind, times=times, **({"retryAfterS": 1} if kind == "429" else {}))

    def schedule_worker_fault(self, fault: WorkerFault, calls: int, meanwhile: Event) -> None:
        """Make the worker of one of the next calls die, lose its response, or stall for longer than its lease."""

        def run_others() -> None:
            self.apply_event(meanwhile)
            self.pass_time()
            self.run_messages()

        self.fault_plan.schedule(fault, calls, run_others)

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
        """Edit one resource of an agent at the providers' consoles."""
        row = self.plain.agents.get(self.agents[agent])
        self.console_editor.edit(kind, row)
        if kind == "move_number" and row.twilio_phone_number:
            now = routing_of(self.sandbox.state(), row.twilio_phone_number)
            if now["trunk_sid"] == self.their_trunk:
                # This routing is intended: releasing the number leaves it alone.
                self.routings[row.twilio_phone_number].append(now)

    def number_sid(self, number: str) -> str:
        return next(str(one["sid"]) for one in self.sandbox.state()["numbers"] if one["phone_number"] == number)

    def run_plan(self, plan: Plan) -> None:
        """Run the steps of one message as Celery and its workers do."""
        with suppress(WorkerDiedError):
            for name in plan.steps:
                outcome = self.wiring.runner.run_step(plan.operation_id, plan.epoch, name, plan.direction)
                if outcome.verdict is Verdict.ROLLING_BACK:
                    self.wiring.provisioning.republish(plan.operation_id)
                if outcome.verdict not in FINISHED:
                    return

    def run_messages(self) -> None:
        """Run all messages, and those that they publish."""
        for _ in range(MESSAGES):
            if self.publisher.plans:
                self.run_plan(self.publisher.plans.pop(0))
            elif self.publisher.audits:
                with suppress(WorkerDiedError):
                    self.wiring.audits.run_audit(self.publisher.audits.pop(0))
            else:
                return
        raise AssertionError("messages publish each other forever")

    def run_part_of_message(self, which: int, length: int) -> None:
        """Run the first steps of one message, and queue the rest."""
        for plan in self._message(which):
            self.publisher.plans.remove(plan)
            self.run_plan(replace(plan, steps=plan.steps[:length]))
            self.publisher.plans.append(replace(plan, steps=plan.steps[length:]))

    def run_steps_out_of_order(self, which: int, order: list[str]) -> None:
        """Run the steps of one message in any order, each as a message of its own."""
        for plan in self._message(which):
            for name in order:
                if name in plan.steps:
                    self.run_plan(replace(plan, steps=(name,)))

    def lose_message(self, which: int) -> None:
        for plan in self._message(which):
            self.publisher.plans.remove(plan)

    def duplicate_message(self, which: int) -> None:
        self.publisher.plans.extend(self._message(which))

    def _message(self, which: int) -> list[Plan]:
        plans = self.publisher.plans
        return [plans[which % len(plans)]] if plans else []

    def pass_time(self, span: timedelta = LONGEST_REST) -> None:
        """Let time pass and run the sweeper: late requests land, and all times move into the past."""
        self.fault_plan.deliver_late_requests()
        self.clock.sleep(span.total_seconds())
        with self.plain.sessions.begin() as session:
            for table, columns in _TIMES.items():
                changes = ", ".join(f"{column} = {column} - :span" for column in columns)
                session.execute(text(f"UPDATE {table} SET {changes}"), {"span": span})  # noqa: S608 - names of ours
        self.wiring.sweeper.sweep()
        self.wiring.sweeper.dispatcher.advance()


@contextmanager
def random_day(sandbox: Sandbox, parts: Parts) -> Iterator[RandomDay]:
    """Wire an installation from the environment; nothing in it waits in real time."""
    publisher, fault_plan, clock = RecordingPublisher(), FaultPlan(), ManualClock()
    plain = build(load_settings(), publisher=publisher)
    carrier, platform = (
        FaultyAdapter(parts.carrier(plain.carrier), fault_plan),
        FaultyAdapter(plain.platform, fault_plan),
    )
    wiring = build(load_settings(), publisher=publisher, carrier=carrier, platform=platform)
    tools = replace(tools_of(wiring.runner), sleep=clock.sleep, clock=clock)
    toolboxes = GivenToolboxes(tools, wiring.toolboxes)
    maintenance = replace(wiring.maintenance, toolboxes=toolboxes)
    audits = parts.audits(**{**vars(wiring.audits), "toolboxes": toolboxes, "maintenance": maintenance})
    of_runner = {one.name: getattr(wiring.runner, one.name) for one in fields(Runner)}
    runner = parts.runner(**{**of_runner, "toolboxes": toolboxes, "jitter": lambda _low, high: high})
    sweeper = parts.sweeper(**{**vars(wiring.sweeper), "audits": audits})
    wiring = with_parts(wiring, runner=runner, sweeper=sweeper, maintenance=maintenance, audits=audits)
    try:
        yield RandomDay(wiring, plain, sandbox, publisher, clock, fault_plan)
    finally:
        wiring.close()
        plain.close()
