"""With the sweeper, the lease or the look-up switched off, the checks of the other tests fail, as they must."""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime

import pytest

from app.domain.operations import PhoneStatus
from app.saga.rows import Loaded, Rows
from app.saga.state import Change, Saga
from app.saga.steps import ACTIONS
from app.wiring import Wiring
from tests.e2e.assignments import new_assignment, next_number
from tests.e2e.invariants import ForeignObjects, check, check_all, check_created_once
from tests.e2e.rows import wait_until_finished
from tests.e2e.scenarios import deliver_twice, lose_a_response, lose_every_message
from tests.support.sandbox import Sandbox
from tests.support.stack import Stack, services_of
from tests.support.toolboxes import tools_of, with_parts

NO_SWEEP_S = 8
"""Seconds without a sweeper: one publishes a lost operation after 5, and sweeps each second."""


@pytest.fixture
def wiring(make_database: Callable[[], str], sandbox: Sandbox) -> Iterator[Wiring]:
    """What a worker runs on, without Celery, over a database of its own."""
    stores = {"DATABASE_URL": make_database(), "REDIS_URL": "redis://127.0.0.1:1/0", "PROVIDER_TIMEOUT_S": "2"}
    with services_of({**sandbox.settings(), **stores}) as wiring:
        yield wiring


class RowsWithoutLeases(Rows):
    """Rows that show no lease to the rules, so that every claim is granted."""

    def change(
        self, operation_id: uuid.UUID, decide: Callable[[Saga, datetime], Change | None]
    ) -> tuple[Change, Loaded] | None:
        return super().change(operation_id, lambda saga, now: decide(without_leases(saga), now))


def without_leases(saga: Saga) -> Saga:
    """Return the operation with no lease on any step."""
    return replace(saga, steps={name: replace(row, lease_until=None) for name, row in saga.steps.items()})


@pytest.fixture
def wiring_without_lease(wiring: Wiring) -> Wiring:
    """The services with a runner that does not see leases."""
    rows = RowsWithoutLeases(wiring.sessions, tools_of(wiring.runner).timing.lands)
    return with_parts(wiring, runner=replace(wiring.runner, rows=rows))


@pytest.fixture
def no_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the look-up from every step."""
    for name, actions in ACTIONS.items():
        monkeypatch.setitem(ACTIONS, name, replace(actions, find=None))


def test_without_a_sweeper_lost_messages_leave_operations_stuck(
    stack: Stack, sandbox: Sandbox, foreign_objects: ForeignObjects
) -> None:
    assignments = [new_assignment(stack, sandbox) for _ in range(4)]
    stack.sweeper.kill()
    try:
        operations = lose_every_message(stack, sandbox, assignments[:2], assignments[2:])
        with pytest.raises(AssertionError, match="every operation ends"):
            wait_until_finished(stack, operations, NO_SWEEP_S)
    finally:
        stack.start_sweeper()
    wait_until_finished(stack, operations)
    check_all(stack.sessions, sandbox, assignments, PhoneStatus.PROVISIONED)


def test_with_the_lease_two_deliveries_make_one_trunk(wiring: Wiring, sandbox: Sandbox) -> None:
    check_created_once(sandbox, deliver_twice(wiring, sandbox, next_number()))


def test_without_the_lease_two_deliveries_make_two_trunks(wiring_without_lease: Wiring, sandbox: Sandbox) -> None:
    assignment = deliver_twice(wiring_without_lease, sandbox, next_number())
    with pytest.raises(AssertionError, match=r"'twilio\.create_trunk': 2"):
        check_created_once(sandbox, assignment)


def test_with_the_look_up_a_lost_response_is_adopted(wiring: Wiring, sandbox: Sandbox) -> None:
    check(wiring.sessions, sandbox, lose_a_response(wiring, sandbox, next_number()), PhoneStatus.PROVISIONED)


@pytest.mark.usefixtures("no_look_up")
def test_without_the_look_up_a_lost_response_becomes_a_duplicate(wiring: Wiring, sandbox: Sandbox) -> None:
    assignment = lose_a_response(wiring, sandbox, next_number())
    with pytest.raises(AssertionError, match="not exactly one set"):
        check(wiring.sessions, sandbox, assignment, PhoneStatus.PROVISIONED)
