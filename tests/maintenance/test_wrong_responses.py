"""Wrong responses of a provider, and edits by somebody else between any two of our calls.

Every read, list, update and delete of every kind of operation is answered once and twice as if nothing were there.
Where this file is named each call gets two of the wrong responses, and the whole suite has one in three of the cases of
each flow (tests/support/short_forms.py). All of them, by hand:
`WRONG_RESPONSES=all pytest tests/maintenance/test_wrong_responses.py`.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import product

import pytest

from app.domain.errors import RefusedError
from app.domain.operations import PhoneStatus
from app.saga.context import LOOK_UP_LASTS
from tests.e2e.invariants import Assignment, check_call, check_clean, check_path, routing_of
from tests.e2e.rows import rows_of
from tests.maintenance.consistency import check_consistency, check_nothing_unknown, recover, run_until_idle
from tests.maintenance.console_edits import EDITS
from tests.maintenance.random_day import NAMES, WEBHOOK, Parts, RandomDay, random_day
from tests.support.fault_plan import WorkerFault
from tests.support.sandbox import Sandbox
from tests.support.short_forms import ONE_IN, is_short

VERBS = ("list", "fetch", "update", "delete", "detach")
"""Verbs of the calls that may get a wrong response."""

ALL = bool(os.environ.get("WRONG_RESPONSES"))
TIMES = (1, 2) if ALL else (2,)
WRONG_RESPONSES = ("not_found", "empty_list", "late_list") if ALL else ("not_found", "empty_list")


@dataclass(frozen=True)
class Flow:
    """One kind of operation: its preparation, its request, and its expected end."""

    prepare: Callable[[RandomDay], None]
    request: Callable[[RandomDay], None]
    ends: PhoneStatus
    holder: int = 0


def _requested(day: RandomDay) -> None:
    day.provision(0, WEBHOOK, takeover=False)


def _provisioned(day: RandomDay) -> None:
    _requested(day)
    day.run_messages()


def _refused(day: RandomDay) -> None:
    """Make a provisioning fail at its last write."""
    day.sandbox.fault("twilio.attach_number", "reject", status=400, code=20001, message="no")
    _requested(day)


def _broken(day: RandomDay) -> None:
    """Change everything that a repair updates in place, and delete one resource."""
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
def day(database_url: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, plain_logs: None) -> Iterator[RandomDay]:
    """An installation in which nothing waits in real time."""
    stores = {"DATABASE_URL": database_url, "REDIS_URL": "redis://127.0.0.1:1/0"}
    limits = {"INSTANCE_NAME": "stage", "PROVIDER_TIMEOUT_S": "5", "TWILIO_RATE": "off", "LIVEKIT_RATE": "off"}
    for name, value in {**sandbox.settings(), **stores, **limits}.items():
        monkeypatch.setenv(name, value)
    with random_day(sandbox, Parts()) as day:
        yield day


def _calls(day: RandomDay, flow: Flow) -> list[str]:
    """Run the flow undisturbed, and return its calls in order."""
    day.reset()
    flow.prepare(day)
    seen = day.sandbox.requests()[-1]["seq"]
    flow.request(day)
    run_until_idle(day)
    return [str(each["operation"]) for each in day.sandbox.requests(seen)]


def _check_end(day: RandomDay, flow: Flow) -> None:
    """Raise unless the flow ended as expected, by itself, with nothing left for an audit to find."""
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


@pytest.fixture
def places(pytestconfig: pytest.Config, name: str) -> slice:
    """The cases of this flow: all of them, or in the whole suite one in three, from another one on for each flow."""
    return slice(list(FLOWS).index(name) % ONE_IN, None, ONE_IN) if is_short(pytestconfig) and not ALL else slice(None)


@pytest.mark.parametrize("name", FLOWS)
def test_wrong_responses_do_not_make_a_resource_count_as_gone(day: RandomDay, name: str, places: slice) -> None:
    flow, failures, runs = FLOWS[name], [], 0
    calls = sorted({each for each in _calls(day, flow) if each.partition(".")[2].partition("_")[0] in VERBS})
    for call, response, times in list(product(calls, WRONG_RESPONSES, TIMES))[places]:
        day.reset()
        flow.prepare(day)
        fault = day.sandbox.fault(call, response, times=times, **({"seconds": 600} if response == "late_list" else {}))
        flow.request(day)
        try:
            run_until_idle(day)
            if not next(each["hits"] for each in day.sandbox.faults() if each["id"] == fault):
                continue
            runs += 1
            _check_end(day, flow)
        except AssertionError as error:
            failures.append(f"{call} {response} x{times}: {str(error)[:600]}")
    assert not failures, "\n".join([f"{len(failures)} of {runs}", *failures])
    assert runs > (1 if places.step else 3)


UNPROTECTED_CALLS = {"attach_number", "restore_routing"}
"""Calls that an edit may precede after our last read: Twilio has no conditional writes."""


def _interrupted(
    day: RandomDay, flow: Flow, meanwhile: Callable[[], None], places: slice = slice(None)
) -> Iterator[str]:
    """Run the flow repeatedly, each time with `meanwhile` before another of its calls; yield that call."""
    before = places.start or 0
    while True:
        day.reset()
        flow.prepare(day)
        day.fault_plan.at = ""
        day.fault_plan.schedule(WorkerFault.STALLS_BEFORE, before, meanwhile)
        with suppress(RefusedError):
            flow.request(day)
        run_until_idle(day)
        if not day.fault_plan.at:
            assert before > 5
            return
        yield f"call {before}, {day.fault_plan.at}"
        before += places.step or 1


@pytest.mark.parametrize("name", FLOWS)
def test_a_number_that_somebody_moves_between_two_of_our_calls_stays_where_it_is(
    day: RandomDay, name: str, places: slice
) -> None:
    failures = []

    def move() -> None:
        day.console_editor.move_to_theirs(day.number_sid(WEBHOOK))
        # What the look-up has seen is believed that long.
        day.pass_time(LOOK_UP_LASTS)

    for at in _interrupted(day, FLOWS[name], move, places):
        now = routing_of(day.sandbox.state(), WEBHOOK)
        if now["trunk_sid"] != day.their_trunk and day.fault_plan.at not in UNPROTECTED_CALLS:
            failures.append(f"{at}: {now}")
        check_nothing_unknown(day)
        day.foreigners.check()
    assert not failures, "\n".join(failures)


@pytest.mark.skipif(not ALL, reason="takes minutes: WRONG_RESPONSES=all")
@pytest.mark.parametrize("kind", EDITS)
@pytest.mark.parametrize("name", FLOWS)
def test_any_edit_between_two_of_our_calls_is_fixed_in_the_end(day: RandomDay, name: str, kind: str) -> None:
    failures = []
    for at in _interrupted(day, FLOWS[name], lambda: day.edit(kind, 0)):
        try:
            recover(day)
            check_consistency(day)
        except AssertionError as error:
            failures.append(f"{at}: {str(error)[:600]}")
    assert not failures, "\n".join(failures)
