"""The plan of a declaration, on a model: made in any order that the plan allows, what stands is what was declared."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.declared.planner import (
    Change,
    ChangeKind,
    Conflict,
    Declared,
    Plan,
    Standing,
    declared_of,
    plan_changes,
    pointer_to,
    same,
)
from app.domain.errors import ErrorCode
from app.domain.workspaces import ENVIRONMENT, AccountIds

NUMBERS = tuple(f"+1514555000{digit}" for digit in range(6))
NAMES = ("a", "b", "c", "d", "e", "f")
OTHER_PROJECT = AccountIds(ENVIRONMENT.carrier_account_id, uuid.UUID(int=7))
OTHER_ACCOUNT = AccountIds(uuid.UUID(int=8), ENVIRONMENT.voice_project_id)
VALUES: Mapping[str, Any] = {
    "name": "Desk",
    "livekit_agent_name": "desk",
    "metadata": {},
    "options": {},
    "trunk_mode": "shared",
}


def standing(external_id: str, number: str | None = None, **more: Any) -> Standing:
    values = {**VALUES, **more.pop("values", {})}
    more.setdefault("claims", number)
    more.setdefault("accounts", ENVIRONMENT)
    return Standing(uuid.uuid5(uuid.NAMESPACE_URL, external_id), external_id, values, number=number, **more)


def declared(external_id: str, number: str | None = None, *, says_number: bool = True, **more: Any) -> Declared:
    return Declared(more.pop("place", 0), external_id, more.pop("given", {}), number, says_number, **more)


def planned(wanted: Sequence[Declared], there: Sequence[Standing], **more: Any) -> Plan:
    return plan_changes(wanted, there, default=ENVIRONMENT, **more)


def kinds(plan: Plan) -> list[tuple[str, str]]:
    return [(change.kind.value, change.external_id) for change in plan.changes]


def codes(plan: Plan) -> list[tuple[str, str, str]]:
    return [(one.code.value, one.pointer, one.external_id) for one in plan.conflicts]


@dataclass
class World:
    """Agents and numbers, which refuse what services and providers refuse."""

    agents: dict[str, tuple[dict[str, Any], str | None, AccountIds]]

    @classmethod
    def of(cls, there: Sequence[Standing]) -> "World":
        return cls({one.external_id: (dict(one.values), one.number, one.accounts) for one in there})

    def apply(self, plan: Plan, choose: Callable[[list[int]], int] = min) -> None:
        """Make what is made at once, then the items: each as it is chosen of those that wait for nothing more."""
        for change in plan.changes:
            if not change.is_queued and change.kind is not ChangeKind.DELETE:
                self._make(change)
        for change in plan.changes:
            if not change.is_queued and change.kind is ChangeKind.DELETE:
                self._make(change)
        left, done = set(plan.queued), set[int]()
        while left:
            index = choose(sorted(one for one in left if set(plan.changes[one].waits_for) <= done))
            self._make(plan.changes[index])
            left.discard(index)
            done.add(index)

    def _make(self, change: Change) -> None:
        name = change.external_id
        if change.kind is ChangeKind.CREATE:
            assert name not in self.agents
            assert change.accounts is not None
            self.agents[name] = (dict(change.after), None, change.accounts)
            return
        values, number, accounts = self.agents[name]
        match change.kind:
            case ChangeKind.UPDATE:
                assert change.is_queued or number is None
                assert number is None or "trunk_mode" not in change.after
                assert all(same(values[one], before) for one, before in change.before.items())
                self.agents[name] = ({**values, **change.after}, number, accounts)
            case ChangeKind.DEPROVISION:
                assert number == change.number
                self.agents[name] = (values, None, accounts)
            case ChangeKind.PROVISION:
                assert number is None
                assert change.number not in self.numbers
                self.agents[name] = (values, change.number, accounts)
            case ChangeKind.MOVE:
                assert number is None
                giver = change.from_external_id or ""
                given, held, whose = self.agents[giver]
                assert (held, whose) == (change.number, accounts)
                self.agents[giver] = (given, None, whose)
                self.agents[name] = (values, held, accounts)
            case ChangeKind.DELETE:
                assert number is None
                del self.agents[name]

    @property
    def numbers(self) -> set[str | None]:
        return {number for _, number, _ in self.agents.values()}

    def standing(self) -> list[Standing]:
        return [
            replace(standing(name, number), values=values, accounts=accounts)
            for name, (values, number, accounts) in self.agents.items()
        ]


ACCOUNTS = st.sampled_from([ENVIRONMENT, ENVIRONMENT, ENVIRONMENT, OTHER_PROJECT])
GIVEN = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["Desk", "Night"]),
        "metadata": st.sampled_from([{}, {"n": 1}, {"n": 1.0}, {"n": True}]),
        "options": st.sampled_from([{}, {"call": {"ringingS": 20}}]),
        "trunk_mode": st.sampled_from(["shared", "dedicated"]),
    },
)


@st.composite
def worlds(draw: st.DrawFn) -> list[Standing]:
    names = draw(st.lists(st.sampled_from(NAMES), unique=True))
    numbers = iter(draw(st.permutations(NUMBERS)))
    return [
        standing(
            name,
            next(numbers) if draw(st.booleans()) else None,
            values={"name": draw(st.sampled_from(["Desk", "Night"]))},
            accounts=draw(ACCOUNTS),
        )
        for name in names
    ]


@st.composite
def files(draw: st.DrawFn) -> list[Declared]:
    names = draw(st.lists(st.sampled_from(NAMES), unique=True))
    numbers = iter(draw(st.permutations(NUMBERS)))
    found = []
    for place, name in enumerate(names):
        says = draw(st.booleans())
        number = next(numbers) if says and draw(st.booleans()) else None
        found.append(declared(name, number, says_number=says, place=place, given=draw(GIVEN)))
    return found


@settings(max_examples=400)
@given(there=worlds(), wanted=files(), prune=st.booleans(), random=st.randoms(use_true_random=False))
def test_the_plan_makes_what_is_declared_and_a_second_finds_nothing_to_do(
    there: list[Standing], wanted: list[Declared], prune: bool, random: Random
) -> None:
    plan = planned(wanted, there, prune=prune)
    if plan.conflicts:
        assert {one.code for one in plan.conflicts} <= {ErrorCode.NUMBER_IN_USE, ErrorCode.AGENT_HAS_PHONE}
        return
    world = World.of(there)
    world.apply(plan, random.choice)

    before = {one.external_id: one for one in there}
    named = {one.external_id for one in wanted}
    for one in wanted:
        values, number, _ = world.agents[one.external_id]
        assert all(same(values[name], value) for name, value in one.given.items())
        former = before.get(one.external_id)
        assert number == (one.number if one.says_number or former is None else former.number)
        if former is not None:
            assert all(values[name] == former.values[name] for name in VALUES if name not in one.given)
    for name, was in before.items():
        if name not in named:
            assert (name in world.agents) is not prune
            assert prune or world.agents[name][:2] == (was.values, was.number)
    assert planned(wanted, world.standing(), prune=prune) == Plan()


@given(there=worlds(), prune=st.booleans())
def test_what_is_exported_leaves_nothing_to_do(there: list[Standing], prune: bool) -> None:
    exported = declared_of(there, ENVIRONMENT)

    assert planned(exported, there, prune=prune) == Plan()
    # And makes the same of nothing.
    world = World({})
    world.apply(planned(exported, []))
    assert world.agents == World.of(there).agents


def test_a_number_that_an_agent_gives_up_is_moved_to_the_one_that_wants_it() -> None:
    plan = planned([declared("a"), declared("b", NUMBERS[0])], [standing("a", NUMBERS[0])])

    assert kinds(plan) == [("create", "b"), ("move", "b")]
    assert plan.changes[1].from_external_id == "a"


def test_a_long_row_of_agents_that_pass_their_numbers_on_is_moved_from_its_end() -> None:
    numbers = [f"+1514{number:07}" for number in range(3000)]
    there = [standing(f"{number}", e164) for number, e164 in enumerate(numbers)]
    wanted = [declared(f"{number + 1}", e164, place=number) for number, e164 in enumerate(numbers)]

    plan = planned([*wanted, declared("0", None, place=3000)], there)

    assert [change.kind for change in plan.changes] == [ChangeKind.CREATE, *[ChangeKind.MOVE] * 3000]
    assert all(before < index for index, change in enumerate(plan.changes) for before in change.waits_for)


def test_of_a_circle_one_number_is_provisioned_and_the_others_are_moved() -> None:
    there = [standing(name, number) for name, number in zip("abc", NUMBERS, strict=False)]
    wanted = [declared(name, NUMBERS[(place + 1) % 3], place=place) for place, name in enumerate("abc")]

    plan = planned(wanted, there)

    found = [change.kind.value for change in plan.changes]
    assert sorted(found) == ["deprovision", "move", "move", "provision"]


def test_a_number_goes_to_another_voice_project_by_a_new_provisioning() -> None:
    there = [standing("a", NUMBERS[0]), standing("b", accounts=OTHER_PROJECT)]

    plan = planned([declared("a"), declared("b", NUMBERS[0], place=1)], there)

    assert kinds(plan) == [("deprovision", "a"), ("provision", "b")]
    assert plan.changes[1].waits_for == (0,)


def test_an_agent_is_changed_before_it_gets_the_number_of_another() -> None:
    there = [standing("a", NUMBERS[0]), standing("b", NUMBERS[1])]
    wanted = [declared("a"), declared("b", NUMBERS[0], place=1, given={"trunk_mode": "dedicated"})]

    plan = planned(wanted, there)

    assert kinds(plan) == [("deprovision", "b"), ("update", "b"), ("move", "b")]
    assert [change.waits_for for change in plan.changes] == [(), (0,), (0, 1)]


def test_agents_that_are_not_declared_go_only_when_asked_for() -> None:
    there = [standing("a", NUMBERS[0]), standing("b")]

    assert planned([], there) == Plan()
    plan = planned([], there, prune=True)
    assert kinds(plan) == [("deprovision", "a"), ("delete", "a"), ("delete", "b")]
    assert [(change.is_queued, change.waits_for, change.place) for change in plan.changes] == [
        (True, (), None),
        (True, (0,), None),
        (False, (), None),
    ]


BUSY = ("operation_in_progress", "/agents/0", "a")
CONFLICTS: Mapping[str, tuple[Sequence[Declared], Sequence[Standing], dict[str, Any], list[tuple[str, str, str]]]] = {
    "a number of an agent that the file leaves alone": (
        [declared("a", NUMBERS[0])],
        [standing("b", NUMBERS[0])],
        {},
        [("number_in_use", "/agents/0/phoneNumber", "a")],
    ),
    "a number that the file leaves with another": (
        [declared("a", NUMBERS[0]), declared("b", says_number=False, place=1)],
        [standing("b", NUMBERS[0])],
        {},
        [("number_in_use", "/agents/0/phoneNumber", "a")],
    ),
    "a number of an agent without an external id": (
        [declared("a", NUMBERS[0])],
        [],
        {"taken": {NUMBERS[0]: uuid.UUID(int=1)}},
        [("number_in_use", "/agents/0/phoneNumber", "a")],
    ),
    "a number of another workspace": (
        [declared("a", NUMBERS[0])],
        [],
        {"taken": {NUMBERS[0]: None}},
        [("number_in_use", "/agents/0/phoneNumber", "a")],
    ),
    "an agent with an open operation": (
        [declared("a", NUMBERS[0])],
        [standing("a", is_busy=True)],
        {},
        [BUSY],
    ),
    "an agent that is being deleted": ([declared("a")], [standing("a", is_busy=True, is_leaving=True)], {}, [BUSY]),
    "a number that is being given up": (
        [declared("a", NUMBERS[0])],
        [standing("b", claims=NUMBERS[0], is_busy=True)],
        {},
        [("operation_in_progress", "/agents/0/phoneNumber", "a")],
    ),
    "an agent with an operation that would go": (
        [],
        [standing("a", is_busy=True)],
        {"prune": True},
        [("operation_in_progress", "/agents", "a")],
    ),
    "other accounts than the agent's": (
        [declared("a", carrier_account_id=uuid.UUID(int=9))],
        [standing("a")],
        {},
        [("accounts_differ", "/agents/0/carrierAccountId", "a")],
    ),
    "a number in another carrier account": (
        [declared("a", NUMBERS[0]), declared("b", place=1)],
        [standing("a", accounts=OTHER_ACCOUNT), standing("b", NUMBERS[0])],
        {},
        [("accounts_differ", "/agents/0/phoneNumber", "a")],
    ),
    "another trunk for a number that stays": (
        [declared("a", NUMBERS[0], given={"trunk_mode": "dedicated"})],
        [standing("a", NUMBERS[0])],
        {},
        [("agent_has_phone", "/agents/0/trunkMode", "a")],
    ),
    "an adopted path that would go": (
        [declared("a")],
        [standing("a", NUMBERS[0], is_adopted=True)],
        {},
        [("keep_or_remove", "/agents/0/phoneNumber", "a")],
    ),
    "options that are too much for the number": (
        [declared("a", says_number=False, given={"options": {"dispatch": {"pin": "x"}}})],
        [standing("a", NUMBERS[0])],
        {},
        [("validation_failed", "/agents/0/options", "a")],
    ),
}


@pytest.mark.parametrize("case", CONFLICTS)
def test_what_stands_in_the_way_is_told_with_its_place(case: str) -> None:
    wanted, there, more, expected = CONFLICTS[case]

    assert codes(planned(wanted, there, **more)) == expected


def test_who_is_busy_with_what_is_declared_is_in_nobodys_way() -> None:
    there = [standing("a", NUMBERS[0], claims=None, is_busy=True), standing("b", is_busy=True, is_leaving=True)]

    assert planned([declared("a", NUMBERS[0])], there, prune=True) == Plan()


def test_a_pointer_escapes_what_json_pointers_escape() -> None:
    assert pointer_to(3, "metadata", "a/b~c") == "/agents/3/metadata/a~1b~0c"
    assert Conflict(ErrorCode.NUMBER_IN_USE, "", "a").pointer == "/agents"
