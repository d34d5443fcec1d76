"""Declarations over real rows and providers in memory: applied, run to their end, and found to be so."""

from dataclasses import replace
from typing import Any

import pytest

from app.bulk.service import BulkService
from app.db.models import Agent
from app.declared.planner import ChangeKind, Declared, Plan
from app.declared.service import DeclarationService
from app.domain.errors import ErrorCode, RefusedError
from app.domain.operations import BulkStatus, ItemStatus, TrunkMode
from tests.support.bulks import run_bulk
from tests.support.saga import ORIGIN, Saga

NUMBERS = tuple(f"+1514555000{digit}" for digit in range(1, 5))
FIRST, SECOND, THIRD, MISSING = NUMBERS


@pytest.fixture
def shared(saga: Saga) -> Saga:
    """A saga whose agents share trunks, with three numbers in the account."""
    for number in (FIRST, SECOND, THIRD):
        saga.world.carrier.own_number(number)
    return replace(saga, trunk_mode=TrunkMode.SHARED)


def service(saga: Saga) -> DeclarationService:
    return DeclarationService(saga.sessions, BulkService(saga.sessions, saga.rows))


def file(*agents: tuple[str, str | None, dict[str, Any]]) -> list[Declared]:
    return [Declared(place, name, given, number, True) for place, (name, number, given) in enumerate(agents)]


def applied(saga: Saga, declared: list[Declared], *, prune: bool = False) -> BulkStatus | None:
    """Apply, and run the bulk to its end; at every stage a second application finds nothing to do."""
    made = service(saga).apply(declared, prune=prune, origin=ORIGIN)
    assert service(saga).preview(declared, prune=prune) == Plan()
    if made.bulk is None:
        return None
    saga.sweeper.dispatcher.advance()
    assert service(saga).apply(declared, prune=prune, origin=ORIGIN).plan == Plan()
    return run_bulk(saga, made.bulk.id)


def numbers(saga: Saga) -> dict[str, str | None]:
    return {one.external_id: one.number for one in service(saga).export()}


def row(saga: Saga, external_id: str) -> Agent:
    with saga.sessions() as session:
        return session.query(Agent).filter_by(external_id=external_id).one()


def test_a_file_is_made_changed_and_pruned_to_its_end(shared: Saga) -> None:
    ringing = {"options": {"call": {"ringingS": 9}}}
    first = file(("a", FIRST, {}), ("b", SECOND, ringing), ("c", None, {}))
    assert applied(shared, first) is BulkStatus.SUCCEEDED
    assert numbers(shared) == {"a": FIRST, "b": SECOND, "c": None}
    assert service(shared).preview(first, prune=True) == Plan()

    # a and b swap, and change what they are; c goes on a trunk of its own with a number.
    second = file(
        ("a", SECOND, {"name": "Night", **ringing}),
        ("b", FIRST, {"options": {}}),
        ("c", THIRD, {"trunk_mode": "dedicated"}),
    )
    assert applied(shared, second) is BulkStatus.SUCCEEDED
    assert numbers(shared) == {"a": SECOND, "b": FIRST, "c": THIRD}
    assert (row(shared, "a").name, row(shared, "a").options, row(shared, "b").options) == (
        "Night",
        ringing["options"],
        {},
    )
    assert row(shared, "c").trunk_id is None
    shared.assert_nothing_else()
    rung = {trunk.numbers: trunk.ringing_timeout_s for trunk in shared.world.platform.trunks.values()}
    assert {number for number, seconds in rung.items() if seconds == 9} == {(SECOND,)}
    assert len(rung) == 3

    # b goes, and its number to a new agent, by a move.
    third = file(("a", SECOND, {}), ("d", FIRST, {}))
    made = service(shared).preview(third, prune=True)
    assert [(one.kind, one.external_id) for one in made.changes if one.kind is ChangeKind.MOVE] == [("move", "d")]
    assert applied(shared, third, prune=True) is BulkStatus.SUCCEEDED
    assert numbers(shared) == {"a": SECOND, "d": FIRST}
    assert len(shared.world.platform.trunks) == 2


def test_what_fails_is_said_and_planned_again(shared: Saga) -> None:
    declared = file(("a", MISSING, {}), ("b", FIRST, {}))

    made = service(shared).apply(declared, origin=ORIGIN)
    assert made.bulk is not None
    assert run_bulk(shared, made.bulk.id) is BulkStatus.FAILED

    items = BulkService(shared.sessions, shared.rows).items(made.bulk.id)
    assert [(one.status, one.error_code) for one in items] == [
        (ItemStatus.FAILED, ErrorCode.NUMBER_NOT_IN_ACCOUNT),
        (ItemStatus.SUCCEEDED, None),
    ]
    assert [(one.kind, one.external_id) for one in service(shared).preview(declared).changes] == [("provision", "a")]


def test_an_agent_that_somebody_changes_meanwhile_is_changed_by_neither_half(shared: Saga) -> None:
    made = service(shared).apply(file(("a", FIRST, {})), origin=ORIGIN)
    assert made.bulk is not None
    run_bulk(shared, made.bulk.id)
    shared.deprovision(row(shared, "a").id)

    with pytest.raises(RefusedError) as refused:
        service(shared).apply(file(("a", FIRST, {}), ("b", None, {})), origin=ORIGIN)

    assert refused.value.code is ErrorCode.OPERATION_IN_PROGRESS
    assert "/agents/0" in refused.value.errors
    assert numbers(shared) == {"a": None}


def test_agents_without_an_external_id_are_never_touched(shared: Saga) -> None:
    kept = shared.provisioned(e164=FIRST)

    assert service(shared).preview([], prune=True) == Plan()
    assert service(shared).export() == []
    with pytest.raises(RefusedError) as refused:
        service(shared).apply(file(("a", FIRST, {})), prune=True, origin=ORIGIN)

    assert refused.value.code is ErrorCode.DECLARATION_CONFLICT
    assert str(kept) in refused.value.errors["/agents/0/phoneNumber"][0]


def test_the_charge_hears_of_changes_before_anything_is_written(shared: Saga) -> None:
    heard: list[int] = []

    def charge(count: int) -> None:
        heard.append(count)
        raise RefusedError(ErrorCode.RATE_LIMITED, "Too fast.")

    with pytest.raises(RefusedError):
        service(shared).apply(file(("a", FIRST, {})), origin=ORIGIN, charge=charge)

    assert heard == [2]
    assert service(shared).export() == []
