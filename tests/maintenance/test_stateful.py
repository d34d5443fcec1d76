"""Whatever clients, workers, networks, the broker and people at the consoles do: after healing, all agree.

By hand, for longer: `STATEFUL_EXAMPLES=2000 pytest tests/maintenance/test_stateful.py -k any`; with
`STATEFUL_SHRINK=1`, which takes minutes, a day that ends badly is made as short as it can be.
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
from tests.maintenance.evening import check, heal
from tests.maintenance.happenings import draw, draw_loss
from tests.maintenance.hostile_day import NAMES, NUMBERS, Event, HostileDay, Parts, hostile_day
from tests.support.sandbox import Sandbox

EXAMPLES = int(os.environ.get("STATEFUL_EXAMPLES", "10"))
"""Days played: in the suite 10, the same each time, under a second each on an idle machine."""

BAD_DAYS = 60
"""Days after which a broken part must have done harm: each of them needs less than a dozen."""

PHASES = (Phase.generate, Phase.shrink) if os.environ.get("STATEFUL_SHRINK") else (Phase.generate,)

ACTIONS = 20
"""Things that happen in a day."""


SEEDS = st.integers(0, 2**64 - 1)


class Day(RuleBasedStateMachine):
    """One day: `happens` again and again, then the evening."""

    def __init__(self, day: HostileDay) -> None:
        super().__init__()
        self.day = day
        day.begin()

    @initialize(count=st.integers(0, len(NAMES)))
    def wake_up(self, count: int) -> None:
        """Begin with some numbers provisioned."""
        for agent in range(count):
            self.day.happens(("provision", agent, NUMBERS[agent], True))
        self.day.work()

    @rule(event=SEEDS.map(draw))
    def happens(self, event: Event) -> None:
        self.day.happens(event)

    def teardown(self) -> None:
        """End the day well."""
        heal(self.day)
        check(self.day)


class LossyDay(Day):
    """A day on which every request loses an answer: bad soon for whoever does not look, or does not put back."""

    @rule(event=SEEDS.map(draw_loss))
    def happens(self, event: Event) -> None:
        self.day.happens(event)


class BlindRunner(Runner):
    """Never looks at what an earlier try has left behind."""

    def _look(self, claim: Claim, actions: Actions) -> list[str]:
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

    def request_audit(self, *, fix: bool, origin: Origin) -> uuid.UUID:
        return super().request_audit(fix=False, origin=origin)


@contextmanager
def playing(sandbox: Sandbox, parts: Parts, kind: type[Day] = Day) -> Iterator[Callable[[settings], None]]:
    """Yield a function that plays days of this kind with these parts; the same ones each time."""
    with hostile_day(sandbox, parts) as day:
        yield lambda options: run_state_machine_as_test(lambda: kind(day), settings=options)


@pytest.fixture
def place(database_url: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, plain_logs: None) -> Sandbox:
    """Lead the settings to a database and a sandbox of the test's own."""
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
        stateful_step_count=ACTIONS,
        derandomize="STATEFUL_EXAMPLES" not in os.environ,
        print_blob=False,
        deadline=None,
        database=None,
        phases=phases or (Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.parametrize("kind", [Day, LossyDay])
def test_after_any_day_rows_and_providers_agree(place: Sandbox, kind: type[Day]) -> None:
    with playing(place, Parts(), kind) as play:
        play(options(EXAMPLES, *PHASES))


@pytest.mark.parametrize(
    ("parts", "kind", "complaint"),
    [
        (Parts(runner=BlindRunner), LossyDay, "nobody knows|not fixed|stuck"),
        (Parts(sweeper=IdleSweeper), Day, "stuck"),
        (Parts(carrier=CarelessCarrier), LossyDay, "is routed"),
        (Parts(audits=IdleAudits), Day, "not fixed"),
    ],
    ids=["never looks", "never sweeps", "never restores", "never fixes"],
)
def test_with_a_part_that_does_not_do_its_duty_the_days_end_badly(
    place: Sandbox, parts: Parts, kind: type[Day], complaint: str
) -> None:
    with playing(place, parts, kind) as play, pytest.raises(AssertionError, match=complaint):
        play(options(BAD_DAYS))
