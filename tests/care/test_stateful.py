"""Whatever clients, workers, networks, the broker and people at the consoles do: after healing, all agree.

Hypothesis plays random days. By hand, for longer: `STATEFUL_EXAMPLES=2000 pytest tests/care/test_stateful.py -k any_day`;
with `STATEFUL_SHRINK=1`, which takes minutes, a day that ends badly is made as short as it can be.
"""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from app.providers.base import Carrier
from app.provisioning.audit import AuditService
from app.provisioning.claims import Claim
from app.provisioning.runner import Runner
from app.provisioning.steps import STEPS
from app.provisioning.sweeper import Sweeper
from app.provisioning.transitions import Plan
from tests.care.hostile_day import A_WHILE, NAMES, NUMBERS, THE_BUDGET, HostileDay, Parts, hostile_day
from tests.care.outsider import EDITS
from tests.support.mishaps import Mishap
from tests.support.sandbox import Sandbox

EXAMPLES = int(os.environ.get("STATEFUL_EXAMPLES", "60"))
"""Days played; 60 take half a minute."""

PHASES = (Phase.generate, Phase.shrink) if os.environ.get("STATEFUL_SHRINK") else (Phase.generate,)

ACTIONS = 25
"""Things that happen in a day."""

CALLS = (
    "twilio.list_numbers",
    "twilio.fetch_number",
    "twilio.update_number",
    "twilio.create_trunk",
    "twilio.list_trunks",
    "twilio.update_trunk",
    "twilio.delete_trunk",
    "twilio.list_trunk_numbers",
    "twilio.create_origination_url",
    "twilio.list_origination_urls",
    "twilio.update_origination_url",
    "twilio.delete_origination_url",
    "twilio.attach_number",
    "twilio.detach_number",
    "livekit.create_inbound_trunk",
    "livekit.list_inbound_trunks",
    "livekit.update_inbound_trunk",
    "livekit.delete_trunk",
    "livekit.create_dispatch_rule",
    "livekit.list_dispatch_rules",
    "livekit.update_dispatch_rule",
    "livekit.delete_dispatch_rule",
    "twilio.*",
    "livekit.*",
)

FAULTS = ("reject", "429", "500", "503_html", "drop_before", "apply_then_drop", "malformed")
"""Those that take no real time; what a hanging or late call does, `Mishap` plays without waiting."""

AGENTS, SOME = st.integers(0, len(NAMES) - 1), st.integers(0, 7)


class Day(RuleBasedStateMachine):
    """One day: the rules are what may happen, the teardown is the evening."""

    def __init__(self, day: HostileDay) -> None:
        super().__init__()
        self.day = day
        day.begin()

    @rule(agent=AGENTS, number=st.sampled_from(NUMBERS), takeover=st.booleans(), is_worked=st.booleans())
    def provision(self, agent: int, number: str, *, takeover: bool, is_worked: bool) -> None:
        self.day.ask(lambda: self.day.provision(agent, number, takeover=takeover))
        if is_worked:
            self.day.work()

    @rule(agent=AGENTS)
    def deprovision(self, agent: int) -> None:
        self.day.ask(lambda: self.day.deprovision(agent))

    @rule(agent=AGENTS, takeover=st.booleans())
    def repair(self, agent: int, *, takeover: bool) -> None:
        self.day.ask(lambda: self.day.repair(agent, takeover=takeover))

    @rule(agent=AGENTS, to_agent=AGENTS)
    def move(self, agent: int, to_agent: int) -> None:
        self.day.ask(lambda: self.day.move(agent, to_agent))

    @rule(agent=AGENTS)
    def verify(self, agent: int) -> None:
        self.day.ask(lambda: self.day.wiring.care.verify(self.day.agents[agent]))

    @rule(which=SOME)
    def retry(self, which: int) -> None:
        self.day.ask(lambda: self.day.retry(which))

    @rule(fix=st.booleans())
    def audit(self, *, fix: bool) -> None:
        self.day.ask(lambda: self.day.audit(fix=fix))

    @rule()
    def work(self) -> None:
        self.day.work()

    @rule(which=SOME, length=st.integers(1, len(STEPS)))
    def work_a_little(self, which: int, length: int) -> None:
        """Run the first steps of one message, and leave the rest of it in the queue."""
        plans = self.day.publisher.plans
        if plans:
            plan = plans.pop(which % len(plans))
            self.day.run(_part(plan, plan.steps[:length]))
            plans.append(_part(plan, plan.steps[length:]))

    @rule(which=SOME, steps=st.permutations([step.name for step in STEPS]))
    def work_out_of_order(self, which: int, steps: list[str]) -> None:
        plans = self.day.publisher.plans
        if plans:
            plan = plans[which % len(plans)]
            for name in steps:
                if name in plan.steps:
                    self.day.run(_part(plan, (name,)))

    @rule(which=SOME)
    def lose(self, which: int) -> None:
        plans = self.day.publisher.plans
        if plans:
            plans.pop(which % len(plans))

    @rule(which=SOME)
    def deliver_twice(self, which: int) -> None:
        plans = self.day.publisher.plans
        if plans:
            plans.append(plans[which % len(plans)])

    @rule(is_long=st.sampled_from([False, False, False, True]))
    def pass_time(self, *, is_long: bool) -> None:
        self.day.pass_time(THE_BUDGET if is_long else A_WHILE)
        self.day.wiring.sweeper.sweep()

    @rule(call=st.sampled_from(CALLS), kind=st.sampled_from(FAULTS), times=st.integers(1, 3))
    def break_a_call(self, call: str, kind: str, times: int) -> None:
        self.day.sandbox.fault(call, kind, times=times, **({"retryAfterS": 1} if kind == "429" else {}))

    @rule(mishap=st.sampled_from(Mishap), calls=st.integers(0, 9), agent=AGENTS, do=st.sampled_from(["work", "cancel"]))
    def strike_a_worker(self, mishap: Mishap, calls: int, agent: int, do: str) -> None:
        """Let the worker that makes one of the next calls die, lose its answer, or stall while this is done."""
        meanwhile = self.day.others_work if do == "work" else lambda: self.day.ask(lambda: self.day.deprovision(agent))
        self.day.fate.plan(mishap, calls, meanwhile)

    @rule(kind=st.sampled_from(sorted(EDITS)), agent=AGENTS)
    def edit(self, kind: str, agent: int) -> None:
        self.day.edit(kind, agent)

    def teardown(self) -> None:
        """End the day well."""
        self.day.heal()
        self.day.check()


def _part(plan: Plan, steps: tuple[str, ...]) -> Plan:
    return replace(plan, steps=steps)


class BlindRunner(Runner):
    """Never looks at what an earlier try has left behind."""

    def _look(self, claim: Claim) -> list[str]:
        return []


class IdleSweeper(Sweeper):
    """Never publishes anything again."""

    def sweep(self) -> int:
        return 0


class CarelessCarrier:
    """Takes numbers off trunks, and forgets what they were used for before."""

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier

    def __getattr__(self, name: str) -> Any:
        return getattr(self._carrier, name)

    def restore_routing(self, *_: object) -> None:
        pass


class IdleAudits(AuditService):
    """Finds everything, and fixes nothing."""

    def ask(self, *, fix: bool, requested_by: str | None) -> uuid.UUID:
        return super().ask(fix=False, requested_by=requested_by)


@contextmanager
def playing(sandbox: Sandbox, parts: Parts) -> Iterator[Callable[[settings], None]]:
    """Yield a function that plays days with these parts; the same ones each time."""
    with hostile_day(sandbox, parts) as day:
        yield lambda options: run_state_machine_as_test(lambda: Day(day), settings=options)


@pytest.fixture
def place(database_url: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, plain_logs: None) -> Sandbox:
    """Lead the settings to a database and a sandbox of the test's own."""
    stores = {"DATABASE_URL": database_url, "REDIS_URL": "redis://127.0.0.1:1/0"}
    limits = {"INSTANCE_NAME": "stage", "ORPHAN_GRACE_S": "0", "PROVIDER_TIMEOUT_S": "5"}
    for name, value in {**sandbox.settings(), **stores, **limits}.items():
        monkeypatch.setenv(name, value)
    return sandbox


def options(examples: int, *phases: Phase) -> settings:
    """Return the settings of a deterministic run."""
    return settings(
        max_examples=examples,
        stateful_step_count=ACTIONS,
        derandomize=True,
        deadline=None,
        database=None,
        phases=phases or (Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )


def test_after_any_day_rows_and_providers_agree(place: Sandbox) -> None:
    with playing(place, Parts()) as play:
        play(options(EXAMPLES, *PHASES))


@pytest.mark.parametrize(
    ("parts", "complaint"),
    [
        (Parts(runner=BlindRunner), "nobody knows"),
        (Parts(sweeper=IdleSweeper), "stuck"),
        (Parts(carrier=CarelessCarrier), "is routed"),
        (Parts(audits=IdleAudits), "not fixed"),
    ],
    ids=["never looks", "never sweeps", "never restores", "never fixes"],
)
def test_with_a_part_that_does_not_do_its_duty_the_days_end_badly(place: Sandbox, parts: Parts, complaint: str) -> None:
    with playing(place, parts) as play, pytest.raises(AssertionError, match=complaint):
        play(options(EXAMPLES))
