"""Which status may follow which."""

import itertools

import pytest

from app.db.models import IS_OPEN, Agent, Operation
from app.domain.operations import (
    FINAL_STATUSES,
    OPEN_STATUSES,
    OPERATION_MOVES,
    PHONE_MOVES,
    Direction,
    IllegalMoveError,
    OperationKind,
    OperationStatus,
    PhoneStatus,
    check_move,
)

LEGAL = {
    "queued": {"running", "rolling_back", "cancelled"},
    "running": {"rolling_back", "needs_attention", "succeeded", "failed", "cancelled"},
    "rolling_back": {"needs_attention", "failed", "cancelled"},
    "needs_attention": {"running", "rolling_back"},
    "succeeded": set(),
    "failed": set(),
    "cancelled": set(),
    "NOT_PROVISIONED": {"PENDING"},
    "PENDING": {"PROVISIONING", "ROLLING_BACK", "PROVISIONED", "NOT_PROVISIONED"},
    "PROVISIONING": {"PROVISIONED", "ROLLING_BACK"},
    "PROVISIONED": {"DEPROVISIONING", "NOT_PROVISIONED"},
    "ROLLING_BACK": {"FAILED", "NOT_PROVISIONED"},
    "FAILED": {"PENDING", "NOT_PROVISIONED"},
    "DEPROVISIONING": {"NOT_PROVISIONED"},
}
"""Written down a second time on purpose: a change of the tables must be meant."""

PAIRS = [*itertools.product(OperationStatus, repeat=2), *itertools.product(PhoneStatus, repeat=2)]


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_a_move_is_legal_when_the_list_has_it_or_nothing_moves(
    old: OperationStatus | PhoneStatus, new: OperationStatus | PhoneStatus
) -> None:
    if new == old or new in LEGAL[old]:
        check_move(old, new)
        return
    with pytest.raises(IllegalMoveError, match=f"{old} cannot become {new}"):
        check_move(old, new)


def test_an_agent_makes_legal_moves_only() -> None:
    agent = Agent(phone_provisioning_status=PhoneStatus.FAILED)
    agent.move_to(PhoneStatus.NOT_PROVISIONED)
    assert agent.phone_provisioning_status is PhoneStatus.NOT_PROVISIONED
    with pytest.raises(IllegalMoveError):
        agent.move_to(PhoneStatus.PROVISIONED)


def test_every_status_has_its_moves() -> None:
    assert set(OPERATION_MOVES) == set(OperationStatus)
    assert set(PHONE_MOVES) == set(PhoneStatus)


def test_a_status_is_final_when_nothing_follows_it() -> None:
    assert {status for status, moves in OPERATION_MOVES.items() if not moves} == FINAL_STATUSES
    assert {status for status in OperationStatus if status.is_final} == FINAL_STATUSES
    assert set(OperationStatus) - FINAL_STATUSES == OPEN_STATUSES


def test_the_partial_indexes_cover_exactly_the_open_statuses() -> None:
    assert set(IS_OPEN.removeprefix("status IN (").removesuffix(")").replace("'", "").split(", ")) == OPEN_STATUSES


@pytest.mark.parametrize("status", OperationStatus)
def test_deprovisioning_always_goes_up_and_provisioning_once_it_turned(status: OperationStatus) -> None:
    assert Operation(kind=OperationKind.DEPROVISION, status=status).direction is Direction.UNDO
    going_up = status in {OperationStatus.ROLLING_BACK, OperationStatus.NEEDS_ATTENTION}
    expected = Direction.UNDO if going_up else Direction.DO
    assert Operation(kind=OperationKind.PROVISION, status=status).direction is expected
