"""The machine alone, under millions of random events: no illegal state, no lost step, no forgotten resource.

By hand, for longer: `MACHINE_EXAMPLES=14000 MACHINE_SEED=1 python -m pytest -s tests/unit/test_machine.py -k random`.
"""

import os
import time
import uuid
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st

from app.domain.findings import Finding, FindingCode, Health, finding_json
from app.domain.operations import (
    DISPATCH_RULE,
    KINDS,
    LAST,
    NUMBER,
    ORIGINATION_URL,
    TRUNK,
    Direction,
    OperationKind,
    PhoneStatus,
    StepState,
)
from app.saga import machine
from app.saga.state import AgentRow, Lease, Result, Saga, Verdict
from tests.support.machine_model import BEGINNING, E164, ORIGIN, TIMING, Dice, Holder, Life

EXAMPLES = int(os.environ.get("MACHINE_EXAMPLES", "250"))
"""Lives of one number, of some 155 events each; those of the suite are the same each time, and take 3 s."""

SEED = int(os.environ.get("MACHINE_SEED", "6"))

BAD_LIVES = 1000
"""Lives after which a rule that is off must have done harm: each of them needs less than a fifth of that."""

EVENTS = 150
"""Drawn for one life; it heals after them."""

BYTES = 6
"""Drawn for one event: more choices than any of them takes."""

ENDS = {
    (kind, status)
    for kind, rules in KINDS.items()
    for status in rules.phone
    if status.is_final and kind is not OperationKind.REHOME
}
"""The model knows no shared trunks: what a rehome does is held by tests/integration/test_rehome.py, call by call."""


def live(kind: type[Life], examples: int, **options: Any) -> tuple[int, Counter[Any]]:
    """Live many lives; return how many events that were, and how operations have ended."""
    counted, ended = 0, Counter[Any]()

    @seed(SEED)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        print_blob=False,
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
        **options,
    )
    @given(st.binary(min_size=EVENTS * BYTES, max_size=EVENTS * BYTES))
    def one_life(drawn: bytes) -> None:
        nonlocal counted
        first, *others = (int.from_bytes(drawn[at : at + BYTES], "little") for at in range(0, len(drawn), BYTES))
        life = kind()
        try:
            life.begin(Dice(first))
            for one in others:
                life.happens(Dice(one))
            counted += EVENTS + sum(1 for _ in life.heal())
        except Exception as error:
            error.add_note("\n".join(life.story))
            raise
        ended.update(life.ended)

    one_life()
    return counted, ended


def test_random_events_break_no_invariant() -> None:
    began = time.perf_counter()
    counted, ended = live(Life, EXAMPLES, phases=(Phase.generate, Phase.shrink))
    took_s = time.perf_counter() - began
    print(f"{counted:,} events in {took_s:.0f} s: {60 * counted / took_s:,.0f} a minute")  # noqa: T201  # what a long run is for
    ends = [f"{kind.value} {status.value} {count:,}" for (kind, status), count in sorted(ended.items())]
    print("lives with such an end: " + ", ".join(ends))  # noqa: T201
    assert ended.keys() >= ENDS


class Reads(Life):
    """Loads operations without what one rule goes by."""

    def saga(self, operation_id: Any) -> Saga:
        return self.without(super().saga(operation_id))

    def without(self, saga: Saga) -> Saga:
        raise NotImplementedError


def _with_rows(saga: Saga, **values: Any) -> Saga:
    return replace(saga, steps={name: replace(row, **values) for name, row in saga.steps.items()})


class NoLeases(Reads):
    def without(self, saga: Saga) -> Saga:
        return _with_rows(saga, lease_until=None)


class NoIntents(Reads):
    def without(self, saga: Saga) -> Saga:
        return _with_rows(saga, intent=None)


class NoQuietPeriods(Reads):
    def without(self, saga: Saga) -> Saga:
        return replace(_with_rows(saga, unsettled_until=None), older_unsettled={})


class NoLedger(Reads):
    def without(self, saga: Saga) -> Saga:
        return replace(saga, ledger=())


class NoEpochs(Life):
    def epoch_of(self, message: int, saga: Saga) -> int:
        return saga.operation.epoch


class SharedLife(Life):
    LIVES_TO_SHARED = 1


class KeepsPlaces(SharedLife):
    """The end of an operation writes what has changed of the agent, and no more."""

    def write_agent(self, before: AgentRow, after: AgentRow) -> None:
        if after.twilio_phone_number is None:
            after = replace(after, twilio_phone_number=before.twilio_phone_number)
            super().write_agent(before, after)
            self.agents[after.id] = replace(self.agents[after.id], twilio_phone_number=None)
        else:
            super().write_agent(before, after)


class TakesPlacesLate(SharedLife):
    """A place is given to every worker that asks."""

    def holds_step(self, holder: Holder) -> bool:
        return True


class OwnsWhatIsShared(SharedLife):
    """A worker does not say that the trunk is shared."""

    def share(self, holder: Holder, dice: Dice) -> None:
        super().share(holder, dice)
        if holder.result:
            holder.result = replace(holder.result, trunk_id=None)


class MovesWithoutPlace(SharedLife):
    """The agent that gets the number gets no place."""

    def write_agent(self, before: AgentRow, after: AgentRow) -> None:
        if before.twilio_phone_number is None and after.twilio_phone_number:
            after = replace(after, trunk_id=None)
        super().write_agent(before, after)


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        (KeepsPlaces, "an agent without a number has a place"),
        (TakesPlacesLate, "an agent without a number has a place"),
        (OwnsWhatIsShared, "a shared trunk is in a ledger"),
        (MovesWithoutPlace, "its place is not of its kind"),
        (NoLeases, "two live leases on one step"),
        (NoIntents, "left over|lands when its operation has ended"),
        (NoQuietPeriods, "left over|lands when its operation has ended"),
        (NoLedger, "undo forgot|ledger still has"),
        (NoEpochs, "a stale message was not refused"),
    ],
)
def test_without_one_rule_random_events_break_an_invariant(kind: type[Life], complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        live(kind, BAD_LIVES, phases=(Phase.generate,), report_multiple_bugs=False)


def test_without_the_needs_of_the_table_random_events_break_an_invariant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "ALL_NEEDS", {name: frozenset[str]() for name in machine.ALL_NEEDS})
    with pytest.raises(AssertionError, match=r"is done before|is undone before"):
        live(Life, BAD_LIVES, phases=(Phase.generate,), report_multiple_bugs=False)


@pytest.mark.parametrize("left", [TRUNK, ORIGINATION_URL, DISPATCH_RULE])
@pytest.mark.parametrize("kind", [OperationKind.REPAIR, OperationKind.MOVE])
def test_verification_waits_for_steps_that_it_needs_through_others(kind: OperationKind, left: str) -> None:
    """A repair and a move do not attach the number: what verification needs directly is done from the start."""
    source, target = Life().agents.values()
    source = replace(source, phone_provisioning_status=PhoneStatus.PROVISIONED, twilio_phone_number=E164)
    to_agent = target if kind is OperationKind.MOVE else None
    opening = machine.open_operation(kind, source, BEGINNING, ORIGIN, target=to_agent, only=frozenset({left, LAST}))
    assert opening.opened
    change = machine.claim(opening.opened, LAST, Direction.DO, 0, TIMING, BEGINNING, uuid.uuid4())
    assert (change.verdict, change.is_empty) == (Verdict.STALE, True)


@pytest.mark.parametrize("since", ["TK1", "TK2"])
def test_a_late_worker_of_a_repair_that_ended_does_not_replace_what_was_repaired_since(since: str) -> None:
    agent, _ = Life().agents.values()
    agent = replace(
        agent, phone_provisioning_status=PhoneStatus.PROVISIONED, twilio_phone_number=E164, ids={TRUNK: "TK1"}
    )
    opened = machine.open_operation(
        OperationKind.REPAIR, agent, BEGINNING, ORIGIN, only=frozenset({TRUNK, LAST})
    ).opened
    assert opened
    steps = dict(opened.steps) | {NUMBER: replace(opened.steps[NUMBER], state=StepState.DONE)}
    token = uuid.uuid4()
    claimed = machine.claim(replace(opened, steps=steps), TRUNK, Direction.DO, 0, TIMING, BEGINNING, token)
    ended = machine.cancel(claimed.after, ORIGIN, BEGINNING, "Cancelled.").after
    ended = replace(ended, agent=replace(ended.agent, ids={TRUNK: since}))
    kept = machine.keep(ended, Lease(TRUNK, Direction.DO, token, 1), Result("TK3", removed=("TK1",)), BEGINNING)
    assert kept.agent.ids == {TRUNK: "TK3" if since == "TK1" else "TK2"}
    assert kept.verdict is (Verdict.DONE if since == "TK1" else Verdict.LOST)
    assert [entry.external_id for entry in kept.after.ledger] == ["TK3"]


@pytest.mark.parametrize(
    ("findings", "health"),
    [
        ((), Health.IN_SYNC),
        ((FindingCode.RULE_FOREIGN_CATCH_ALL,), Health.IN_SYNC),
        ((FindingCode.MARK_LOST,), Health.DRIFTED),
    ],
)
def test_what_the_last_look_found_is_the_health_of_the_path(findings: tuple[FindingCode, ...], health: Health) -> None:
    agent, _ = Life().agents.values()
    agent = replace(agent, phone_provisioning_status=PhoneStatus.PROVISIONED, twilio_phone_number=E164)
    opened = machine.open_operation(OperationKind.REPAIR, agent, BEGINNING, ORIGIN, only=frozenset({LAST})).opened
    assert opened
    token = uuid.uuid4()
    claimed = machine.claim(opened, LAST, Direction.DO, 0, TIMING, BEGINNING, token)
    found = tuple(finding_json(Finding(code)) for code in findings)
    kept = machine.keep(claimed.after, Lease(LAST, Direction.DO, token, 1), Result(None, findings=found), BEGINNING)
    assert (kept.agent.health_state, kept.agent.health_findings) == (health, found)
