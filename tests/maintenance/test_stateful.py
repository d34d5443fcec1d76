"""Random days: whatever clients, workers, providers, broker and people do, rows and providers agree in the end.

By hand, for longer: `STATEFUL_EXAMPLES=2000 pytest tests/maintenance/test_stateful.py -k any`; with
`STATEFUL_SHRINK=1` a failing day is shrunk, which takes minutes.
"""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from app.audit.service import AuditService
from app.domain.events import Origin
from app.providers.base import Carrier
from app.saga.context import Claim
from app.saga.runner import Runner
from app.saga.steps import Actions
from app.sweeper import Sweeper
from tests.maintenance.consistency import check_consistency, recover
from tests.maintenance.random_day import NAMES, NUMBERS, Event, Parts, RandomDay, random_day
from tests.maintenance.random_events import draw_event, draw_lost_response
from tests.support.sandbox import Sandbox
from tests.support.short_forms import rounds

EXAMPLES = int(os.environ.get("STATEFUL_EXAMPLES", "10"))
"""Days to run, the same each time, under a second each on an idle machine; the whole suite has the first of them."""

CONTROL_DAYS = 60
"""Days within which a broken part must be noticed: each needs less than a dozen."""

PHASES = (Phase.generate, Phase.shrink) if os.environ.get("STATEFUL_SHRINK") else (Phase.generate,)

EVENTS_PER_DAY = 20
"""Events of one day."""


SEEDS = st.integers(0, 2**64 - 1)


class DayMachine(RuleBasedStateMachine):
    """One day: `apply_event` again and again, then recovery and the check."""

    def __init__(self, day: RandomDay) -> None:
        super().__init__()
        self.day = day
        day.reset()

    @initialize(count=st.integers(0, len(NAMES)))
    def provision_some(self, count: int) -> None:
        """Start with some numbers provisioned."""
        for agent in range(count):
            self.day.apply_event(("provision", agent, NUMBERS[agent], True))
        self.day.run_messages()

    @rule(event=SEEDS.map(draw_event))
    def apply_event(self, event: Event) -> None:
        self.day.apply_event(event)

    def teardown(self) -> None:
        """Recover and check."""
        recover(self.day)
        check_consistency(self.day)


class LossyDayMachine(DayMachine):
    """A day on which every request loses a response: it soon shows a missing search or a missing restore."""

    @rule(event=SEEDS.map(draw_lost_response))
    def apply_event(self, event: Event) -> None:
        self.day.apply_event(event)


class BlindRunner(Runner):
    """Never searches for what an earlier try left behind."""

    def _look(self, claim: Claim, actions: Actions) -> list[str]:
        return []


class IdleSweeper(Sweeper):
    """Never publishes an operation again."""

    def sweep(self) -> int:
        return 0


class ForgetfulCarrier:
    """Detaches numbers without restoring their earlier routing."""

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier

    def __getattr__(self, name: str) -> Any:
        return getattr(self._carrier, name)

    def restore_routing(self, *_: object) -> None:
        pass


class IdleAudits(AuditService):
    """Reports everything and fixes nothing."""

    def request_audit(self, *, fix: bool, origin: Origin) -> uuid.UUID:
        return super().request_audit(fix=False, origin=origin)


@contextmanager
def day_runner(
    sandbox: Sandbox, parts: Parts, kind: type[DayMachine] = DayMachine
) -> Iterator[Callable[[settings], None]]:
    """Yield a function that runs days of this kind with these parts; the same ones each time."""
    with random_day(sandbox, parts) as day:
        yield lambda options: run_state_machine_as_test(lambda: kind(day), settings=options)


@pytest.fixture
def own_sandbox(database_url: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, plain_logs: None) -> Sandbox:
    """Set the settings to a database and a sandbox of the test's own."""
    stores = {"DATABASE_URL": database_url, "REDIS_URL": "redis://127.0.0.1:1/0"}
    limits = {"INSTANCE_NAME": "stage", "ORPHAN_GRACE_S": "0", "PROVIDER_TIMEOUT_S": "5"}
    limits |= {"TWILIO_RATE": "off", "LIVEKIT_RATE": "off"}  # there is no Redis to keep the rate in
    for name, value in {**sandbox.settings(), **stores, **limits}.items():
        monkeypatch.setenv(name, value)
    return sandbox


def options(examples: int, *phases: Phase) -> settings:
    """Return the settings of a deterministic run."""
    return settings(
        max_examples=examples,
        stateful_step_count=EVENTS_PER_DAY,
        derandomize="STATEFUL_EXAMPLES" not in os.environ,
        print_blob=False,
        deadline=None,
        database=None,
        phases=phases or (Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.parametrize("kind", [DayMachine, LossyDayMachine])
def test_after_any_day_rows_and_providers_agree(
    own_sandbox: Sandbox, kind: type[DayMachine], pytestconfig: pytest.Config
) -> None:
    with day_runner(own_sandbox, Parts(), kind) as run_days:
        run_days(options(rounds(pytestconfig, EXAMPLES), *PHASES))


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("parts", "kind", "complaint"),
    [
        (Parts(runner=BlindRunner), LossyDayMachine, "no row refers|not fixed|stuck"),
        (Parts(sweeper=IdleSweeper), DayMachine, "stuck"),
        (Parts(carrier=ForgetfulCarrier), LossyDayMachine, "is routed"),
        (Parts(audits=IdleAudits), DayMachine, "not fixed"),
    ],
    ids=["never searches", "never sweeps", "never restores", "never fixes"],
)
def test_a_broken_part_is_noticed(own_sandbox: Sandbox, parts: Parts, kind: type[DayMachine], complaint: str) -> None:
    with day_runner(own_sandbox, parts, kind) as run_days, pytest.raises(AssertionError, match=complaint):
        run_days(options(CONTROL_DAYS))
