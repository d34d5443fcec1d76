"""With the sweeper, the lease or the look-up switched off, the checks of the other tests fail: they can fail."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from app.domain.statuses import PhoneStatus
from app.saga.machine import Timing
from app.saga.rows import Rows
from app.saga.steps import ACTIONS
from app.wiring import Wiring
from tests.e2e.invariants import Foreigners, check, check_made_once
from tests.e2e.rows import finished
from tests.e2e.scenarios import deliver_twice, lose_an_answer, lose_every_message
from tests.e2e.subjects import new_subject, next_number
from tests.support.sandbox import Sandbox
from tests.support.stack import Stack, services_of

NO_SWEEP_S = 12
"""Seconds without a sweeper: with one, twice what the lost operations take."""


@pytest.fixture
def wiring(make_database: Callable[[], str], sandbox: Sandbox) -> Iterator[Wiring]:
    """A worker's inside without Celery, on a database of its own."""
    stores = {"DATABASE_URL": make_database(), "REDIS_URL": "redis://127.0.0.1:1/0", "PROVIDER_TIMEOUT_S": "2"}
    with services_of({**sandbox.settings(), **stores}) as wiring:
        yield wiring


class NoLease(Timing):
    """Timing under which a lease ends when it is taken, and nothing is expected to be applied after it."""

    lease = timedelta()
    settle = quiet = lands = timedelta()


@pytest.fixture
def wiring_without_lease(wiring: Wiring) -> Wiring:
    """The services with a runner that holds no step."""
    timing = wiring.runner.tools.timing
    tools = replace(wiring.runner.tools, timing=NoLease(timing.provider_timeout, timing.budget))
    return replace(wiring, runner=replace(wiring.runner, tools=tools, rows=Rows(wiring.sessions)))


@pytest.fixture
def no_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the look-up away from every step."""
    for name, actions in ACTIONS.items():
        monkeypatch.setitem(ACTIONS, name, replace(actions, find=None))


def test_without_a_sweeper_lost_messages_leave_operations_stuck(
    stack: Stack, sandbox: Sandbox, foreigners: Foreigners
) -> None:
    subjects = [new_subject(stack, sandbox) for _ in range(4)]
    stack.sweeper.kill()
    try:
        operations = lose_every_message(stack, sandbox, subjects[:2], subjects[2:])
        with pytest.raises(AssertionError, match="every operation ends"):
            finished(stack, operations, NO_SWEEP_S)
    finally:
        stack.start_sweeper()
    finished(stack, operations)
    for each in subjects:
        check(stack.sessions, sandbox, each, PhoneStatus.PROVISIONED)


def test_with_the_lease_two_deliveries_make_one_trunk(wiring: Wiring, sandbox: Sandbox) -> None:
    check_made_once(sandbox, deliver_twice(wiring, sandbox, next_number()))


def test_without_the_lease_two_deliveries_make_two_trunks(wiring_without_lease: Wiring, sandbox: Sandbox) -> None:
    subject = deliver_twice(wiring_without_lease, sandbox, next_number())
    with pytest.raises(AssertionError, match=r"'twilio\.create_trunk': 2"):
        check_made_once(sandbox, subject)


def test_with_the_look_up_a_lost_answer_is_adopted(wiring: Wiring, sandbox: Sandbox) -> None:
    check(wiring.sessions, sandbox, lose_an_answer(wiring, sandbox, next_number()), PhoneStatus.PROVISIONED)


@pytest.mark.usefixtures("no_look_up")
def test_without_the_look_up_a_lost_answer_becomes_a_duplicate(wiring: Wiring, sandbox: Sandbox) -> None:
    subject = lose_an_answer(wiring, sandbox, next_number())
    with pytest.raises(AssertionError, match="not exactly one set"):
        check(wiring.sessions, sandbox, subject, PhoneStatus.PROVISIONED)
