"""The failure matrix: every step, every kind of failure, on the way down, on the way back and on the way off.

All cases of a test run at the same time on one stack, each with its own agent, number and faults.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from app.dev.localstack.servers import ValkeyServer
from app.domain.statuses import OperationStatus, PhoneStatus
from tests.e2e.cases import Case, Path, Trouble
from tests.e2e.invariants import Foreigners
from tests.e2e.play import Play, withdraw
from tests.support.sandbox import Sandbox
from tests.support.stack import Stack, Timings, running_stack

SHORT_BUDGET = Timings(provider_timeout=1, budget=4)
"""So that "for ever" is over in seconds."""

LONG_CALLS = Timings(provider_timeout=6)
"""Calls that wait long enough for all cases to be at their points when the worker dies; the leases take 18 s to end."""

GOING_DOWN = {OperationStatus.QUEUED, OperationStatus.RUNNING}

BACK_AND_OFF = (Path.ROLLBACK, Path.DEPROVISION)


@pytest.fixture
def matrix_size(record_property: Callable[[str, object], None]) -> Callable[[Play], None]:
    """Note how many cases a test has played, for the line at the end of the run."""
    return lambda play: record_property("matrix_cases", len(play.cases))


def test_refusals_passing_faults_and_lost_answers_leave_all_or_nothing(
    stack: Stack,
    sandbox: Sandbox,
    foreigners: Foreigners,
    subtests: pytest.Subtests,
    matrix_size: Callable[[Play], None],
) -> None:
    """On the way up a lasting failure ends by itself when the provider is back, a refusal when a person retries."""
    play = Play(stack, sandbox, (Trouble.REFUSED, Trouble.PASSING, Trouble.LOST))
    play.add(Trouble.LASTING, *BACK_AND_OFF)
    play.prepare()
    play.go()
    lasting = [case for case in play.cases if case.trouble is Trouble.LASTING]
    stuck = [case for case in play.some(*BACK_AND_OFF) if case.trouble is Trouble.REFUSED]
    await_attention(stack, play, stuck + lasting, subtests)
    play.await_end([case for case in play.cases if case not in stuck + lasting])
    play.heal()
    play.retry(stuck)
    play.await_end()
    play.check(subtests)
    matrix_size(play)


def test_a_step_that_fails_for_ever_is_given_up_and_everything_taken_down(
    make_database: Callable[[], str],
    own_valkey: ValkeyServer,
    sandbox: Sandbox,
    foreigners: Foreigners,
    subtests: pytest.Subtests,
    matrix_size: Callable[[Play], None],
) -> None:
    with running_stack(make_database(), own_valkey.url, sandbox, SHORT_BUDGET) as stack:
        play = Play(stack, sandbox, (Trouble.LASTING,), Path.PROVISION)
        play.prepare()
        play.go()
        play.await_statuses(play.cases, lambda status: status not in GOING_DOWN, "every case turns round")
        play.heal()
        play.await_end()
        play.check(subtests)
        matrix_size(play)


def test_a_worker_killed_at_any_point_costs_time_and_nothing_else(
    make_database: Callable[[], str],
    own_valkey: ValkeyServer,
    sandbox: Sandbox,
    foreigners: Foreigners,
    subtests: pytest.Subtests,
    matrix_size: Callable[[Play], None],
) -> None:
    """Three workers die, one after the other; the cases of the first are taken up while the next are prepared."""
    with running_stack(make_database(), own_valkey.url, sandbox, LONG_CALLS) as stack:
        plays = [kill_at_every_point(stack, sandbox, own_valkey, trouble) for trouble in KILLS]
        for play in plays:
            play.await_end()
            play.check(subtests)
            matrix_size(play)


def test_a_provider_that_stands_still_and_then_lands_all_at_once_leaves_nothing(
    make_database: Callable[[], str],
    own_valkey: ValkeyServer,
    sandbox: Sandbox,
    foreigners: Foreigners,
    subtests: pytest.Subtests,
    matrix_size: Callable[[Play], None],
) -> None:
    """Every create and every undo is under way meanwhile: for less than a call, for more than one and its quiet period,
    and for as long while the worker dies."""
    with running_stack(make_database(), own_valkey.url, sandbox, STOOD) as stack:
        for stand in STANDS:
            play = Play(stack, sandbox, (Trouble.STOOD_STILL,), *Path)
            stand_still(stack, sandbox, play, stand)
            play.await_end()
            play.check(subtests)
            matrix_size(play)


STOOD = Timings(provider_timeout=2)
"""Long enough for every case to be at its point before the first of them looks again."""


@dataclass(frozen=True)
class Stand:
    """How both providers stand still: for how many calls' time, and in which order all lands; and who dies."""

    calls: float
    landing: str
    is_worker_killed: bool = False


BETWEEN_S = 0.3
"""Seconds in which a burst lands: time enough to act on a look that was answered too early."""

STANDS = (Stand(0.5, "reversed"), Stand(2.6, "shuffled"), Stand(2.6, "arrival", is_worker_killed=True))


def stand_still(stack: Stack, sandbox: Sandbox, play: Play, stand: Stand) -> None:
    """Hold the request of every case at its point, then everything else too; cancel some; let all land."""
    play.prepare()
    play.go()
    play.await_held()
    stills = [sandbox.pause(f"{provider}.*", landing=stand.landing, seed=1) for provider in ("twilio", "livekit")]
    began = time.monotonic()
    play.cancel()
    if stand.is_worker_killed:
        stack.worker.kill()
        stack.start_worker()
    time.sleep(max(began + stand.calls * STOOD.provider_timeout - time.monotonic(), 0))
    # The last to come are the first to be carried out: a look is answered before what it looks for has landed.
    for still in stills:
        withdraw(sandbox, still)
    time.sleep(BETWEEN_S)
    play.heal()
    sandbox.clear_faults()


KILLS = (Trouble.KILLED_BEFORE, Trouble.KILLED_AFTER, Trouble.KILLED_STORED)


def kill_at_every_point(stack: Stack, sandbox: Sandbox, broker: ValkeyServer, trouble: Trouble) -> Play:
    """SIGKILL the worker while it stands at the point of every case; start another."""
    play = Play(stack, sandbox, (trouble,))
    play.prepare()
    play.go()
    play.await_held()
    if trouble is Trouble.KILLED_STORED:
        broker.pause()  # the next step's message cannot be sent: the worker gets no further than the store
        play.heal()
        play.await_stored()
    stack.worker.kill()
    if trouble is Trouble.KILLED_STORED:
        broker.resume()
    else:
        play.heal()
    stack.start_worker()
    return play


def await_attention(stack: Stack, play: Play, cases: list[Case], subtests: pytest.Subtests) -> None:
    """Wait until these show that a person is needed, and check what that person is shown."""
    play.await_statuses(cases, lambda status: status is OperationStatus.NEEDS_ATTENTION, "all ask for attention")
    for case in cases:
        with subtests.test(f"{case.label}, while it is stuck"):
            check_attention(stack.api.phone(case.subject.agent_id), case)


def check_attention(phone: dict[str, object], case: Case) -> None:
    """Raise unless phone-status says that the way up is stuck, on what, and what is left over."""
    going = PhoneStatus.ROLLING_BACK if case.path is Path.ROLLBACK else PhoneStatus.DEPROVISIONING
    operation = phone["operation"]
    assert isinstance(operation, dict)
    assert phone["phoneProvisioningStatus"] == going
    assert operation["status"] == "needs_attention"
    assert operation["error"]["code"]
    assert operation["leftovers"]
    step = next(each for each in operation["steps"] if each["name"] == case.point.step)
    assert step["error"]["code"]
