"""With the sweeper, the lease or the look-up switched off, the checks of the other tests fail: they can fail."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session

from app.db.models import OperationStep
from app.domain.statuses import PhoneStatus
from app.saga import first_tries, steps
from app.wiring import Wiring
from tests.e2e.invariants import Foreigners, check, check_made_once
from tests.e2e.rows import finished
from tests.e2e.scenarios import deliver_twice, lose_an_answer, lose_every_message
from tests.e2e.subjects import new_subject, next_number, wiring_of
from tests.support.sandbox import Sandbox
from tests.support.stack import Stack

NO_SWEEP_S = 12
"""Seconds without a sweeper: with one, twice what the lost operations take."""


@pytest.fixture
def wiring(make_database: Callable[[], str], sandbox: Sandbox) -> Iterator[Wiring]:
    """A worker's inside without Celery, on a database of its own."""
    stores = {"DATABASE_URL": make_database(), "REDIS_URL": "redis://127.0.0.1:1/0", "PROVIDER_TIMEOUT_S": "2"}
    wiring = wiring_of({**sandbox.settings(), **stores})
    yield wiring
    wiring.close()


@pytest.fixture
def no_lease(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make every lease end the moment it is taken, by the ORM or by the one statement of a first try."""
    taking = "lease_until = clock_timestamp() + %(lease)s"
    assert taking in first_tries._CLAIM
    monkeypatch.setattr(first_tries, "_CLAIM", first_tries._CLAIM.replace(taking, "lease_until = NULL"))

    def end_leases(session: Session, *_: object) -> None:
        for row in session.dirty:
            if isinstance(row, OperationStep):
                row.lease_until = None

    event.listen(Session, "before_flush", end_leases)
    yield
    event.remove(Session, "before_flush", end_leases)


@pytest.fixture
def no_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the look-up out of the step table."""
    blind = tuple(replace(step, find=None) for step in steps.STEPS)
    monkeypatch.setattr(steps, "STEPS", blind)
    for step in blind:
        monkeypatch.setitem(steps.STEP_BY_NAME, step.name, step)


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


@pytest.mark.usefixtures("no_lease")
def test_without_the_lease_two_deliveries_make_two_trunks(wiring: Wiring, sandbox: Sandbox) -> None:
    subject = deliver_twice(wiring, sandbox, next_number())
    with pytest.raises(AssertionError, match=r"'twilio\.create_trunk': 2"):
        check_made_once(sandbox, subject)


def test_with_the_look_up_a_lost_answer_is_adopted(wiring: Wiring, sandbox: Sandbox) -> None:
    check(wiring.sessions, sandbox, lose_an_answer(wiring, sandbox, next_number()), PhoneStatus.PROVISIONED)


@pytest.mark.usefixtures("no_look_up")
def test_without_the_look_up_a_lost_answer_becomes_a_twin(wiring: Wiring, sandbox: Sandbox) -> None:
    subject = lose_an_answer(wiring, sandbox, next_number())
    with pytest.raises(AssertionError, match="not exactly one set"):
        check(wiring.sessions, sandbox, subject, PhoneStatus.PROVISIONED)
