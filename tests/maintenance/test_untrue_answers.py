"""Answers that are not true, and a person who changes the path between any two of our calls.

Every read, list, update and delete of every kind of operation is told once and twice that what is there is not.
In the suite each call meets one lie; all of them by hand: `UNTRUE=all pytest tests/maintenance/test_untrue_answers.py`.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest

from app.domain.errors import RefusedError
from app.domain.statuses import PhoneStatus
from tests.e2e.invariants import Assignment, check_call, check_clean, check_path, routing_of
from tests.e2e.rows import rows_of
from tests.maintenance.evening import check, check_nothing_unknown, heal, settle
from tests.maintenance.hostile_day import NAMES, WEBHOOK, HostileDay, Parts, hostile_day
from tests.maintenance.outsider import EDITS
from tests.support.mishaps import Mishap
from tests.support.sandbox import Sandbox

LIARS = ("list", "fetch", "update", "delete", "detach")
"""Verbs of the calls that may be answered so."""

ALL = bool(os.environ.get("UNTRUE"))
TIMES = (1, 2) if ALL else (2,)
LIES = ("not_found", "empty_list", "late_list") if ALL else ("not_found", "empty_list")


@dataclass(frozen=True)
class Flow:
    """One kind of operation: what comes before it, how it is asked for, and how it ends."""

    before: Callable[[HostileDay], None]
    ask: Callable[[HostileDay], None]
    ends: PhoneStatus
    holder: int = 0


def _asked(day: HostileDay) -> None:
    day.provision(0, WEBHOOK, takeover=False)


def _provisioned(day: HostileDay) -> None:
    _asked(day)
    day.work()


def _refused(day: HostileDay) -> None:
    """Let a provisioning fail at its last write."""
    day.sandbox.fault("twilio.attach_number", "reject", status=400, code=20001, message="no")
    _asked(day)


def _broken(day: HostileDay) -> None:
    """Change everything that a repair makes right in place, and delete one thing."""
    _provisioned(day)
    for kind in ("secure_trunk", "disable_url", "empty_rule", "detach_number"):
        day.edit(kind, 0)


FLOWS = {
    "provision": Flow(
        lambda _day: None, lambda day: day.provision(0, WEBHOOK, takeover=False), PhoneStatus.PROVISIONED
    ),
    "rollback": Flow(lambda _day: None, _refused, PhoneStatus.FAILED),
    "deprovision": Flow(_provisioned, lambda day: day.deprovision(0), PhoneStatus.NOT_PROVISIONED),
    "repair": Flow(_broken, lambda day: day.repair(0, takeover=False), PhoneStatus.PROVISIONED),
    "move": Flow(_provisioned, lambda day: day.move(0, 1), PhoneStatus.PROVISIONED, holder=1),
}


@pytest.fixture
def day(database_url: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, plain_logs: None) -> Iterator[HostileDay]:
    """An installation in which nothing really waits."""
    stores = {"DATABASE_URL": database_url, "REDIS_URL": "redis://127.0.0.1:1/0"}
    limits = {"INSTANCE_NAME": "stage", "PROVIDER_TIMEOUT_S": "5", "TWILIO_RATE": "off", "LIVEKIT_RATE": "off"}
    for name, value in {**sandbox.settings(), **stores, **limits}.items():
        monkeypatch.setenv(name, value)
    with hostile_day(sandbox, Parts()) as day:
        yield day


def _calls(day: HostileDay, flow: Flow) -> list[str]:
    """Play the flow undisturbed, and return the calls that it makes, in order."""
    day.begin()
    flow.before(day)
    seen = day.sandbox.requests()[-1]["seq"]
    flow.ask(day)
    settle(day)
    return [str(each["operation"]) for each in day.sandbox.requests(seen)]


def _ends_well(day: HostileDay, flow: Flow) -> None:
    """Raise unless the flow has ended as it must, by itself, with nothing that only an audit would find."""
    state, rows = day.sandbox.state(), rows_of(day.plain.sessions, str(day.agents[flow.holder]))
    operations = [(each.kind.value, each.status.value, each.error_code, each.error_detail) for each in rows.operations]
    assert rows.agent.phone_provisioning_status is flow.ends, operations
    check_nothing_unknown(day)
    if flow.ends is PhoneStatus.PROVISIONED:
        subject = Assignment(str(rows.agent.id), WEBHOOK, NAMES[flow.holder], {})
        check_path(rows, state, subject)
        check_call(day.sandbox, subject)
    else:
        check_clean(rows, state)
        assert routing_of(state, WEBHOOK) in day.routings[WEBHOOK]
    day.foreigners.check()


@pytest.mark.parametrize("name", FLOWS)
def test_what_is_there_is_not_taken_for_gone_because_an_answer_says_so(day: HostileDay, name: str) -> None:
    flow, failures, played = FLOWS[name], [], 0
    for call in sorted({each for each in _calls(day, flow) if each.partition(".")[2].partition("_")[0] in LIARS}):
        for lie in LIES:
            for times in TIMES:
                day.begin()
                flow.before(day)
                fault = day.sandbox.fault(call, lie, times=times, **({"seconds": 600} if lie == "late_list" else {}))
                flow.ask(day)
                try:
                    settle(day)
                    if not next(each["hits"] for each in day.sandbox.faults() if each["id"] == fault):
                        continue
                    played += 1
                    _ends_well(day, flow)
                except AssertionError as error:
                    failures.append(f"{call} {lie} x{times}: {str(error)[:600]}")
    assert not failures, "\n".join([f"{len(failures)} of {played}", *failures])
    assert played > 3


GAPS = {"attach_number", "restore_routing"}
"""Calls between which and our look directly before them nothing can be done: Twilio's writes know no condition."""


def _interrupted(day: HostileDay, flow: Flow, meanwhile: Callable[[], None]) -> Iterator[str]:
    """Play the flow again and again, each time with `meanwhile` before another of its calls; yield which."""
    before = 0
    while True:
        day.begin()
        flow.before(day)
        day.fate.at = ""
        day.fate.plan(Mishap.STALLS_BEFORE, before, meanwhile)
        with suppress(RefusedError):
            flow.ask(day)
        settle(day)
        if not day.fate.at:
            assert before > 5
            return
        yield f"call {before}, {day.fate.at}"
        before += 1


@pytest.mark.parametrize("name", FLOWS)
def test_a_number_that_somebody_moves_between_two_of_our_calls_stays_theirs(day: HostileDay, name: str) -> None:
    failures = []
    for at in _interrupted(day, FLOWS[name], lambda: day.outsider.move_to_theirs(day.number_sid(WEBHOOK))):
        now = routing_of(day.sandbox.state(), WEBHOOK)
        if now["trunk_sid"] != day.their_trunk and day.fate.at not in GAPS:
            failures.append(f"{at}: {now}")
        check_nothing_unknown(day)
        day.foreigners.check()
    assert not failures, "\n".join(failures)


@pytest.mark.skipif(not ALL, reason="takes minutes: UNTRUE=all")
@pytest.mark.parametrize("kind", EDITS)
@pytest.mark.parametrize("name", FLOWS)
def test_whatever_somebody_changes_between_two_of_our_calls_all_ends_well(
    day: HostileDay, name: str, kind: str
) -> None:
    failures = []
    for at in _interrupted(day, FLOWS[name], lambda: day.edit(kind, 0)):
        try:
            heal(day)
            check(day)
        except AssertionError as error:
            failures.append(f"{at}: {str(error)[:600]}")
    assert not failures, "\n".join(failures)
