"""The failure matrix: every step, every kind of failure, in provisioning, rollback, deprovisioning and cancellation,
and in the update of an agent whose number rings, and its rollback.

All cases of a test run at the same time on one stack, each with its own agent, number and faults: some with a trunk of
their own, some on one that numbers share, some on one that is yet to be made, some on a path made by hand, which is
adopted and kept. The whole suite runs a short form (tests/e2e/matrix.py), who names this file all of it. With
MATRIX_APART=1 each of these four also runs alone.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from app.dev.localstack.servers import ValkeyServer
from app.domain.operations import OperationStatus, PhoneStatus
from tests.e2e.case_runner import CaseRunner
from tests.e2e.cases import Case, Failure, Path, Trunks
from tests.e2e.invariants import ForeignObjects
from tests.e2e.matrix import GIVEN_UP, HANGS, KILLS, NO_WAY_BACK, REFUSALS, UNDO_PATHS, Block, Shape
from tests.support.case_counts import PROPERTY
from tests.support.sandbox import Sandbox
from tests.support.short_forms import is_short
from tests.support.stack import Stack, Timings, eventually, running_stack

SHORT_BUDGET = Timings(provider_timeout=1, budget=4)
"""So that "for ever" is over in seconds."""

SHORT_QUIET = Timings(provider_timeout=2)
"""So that five tries of an undo with an open outcome, and the quiet period after each, are over in seconds."""

LONG_CALLS = Timings(provider_timeout=6)
"""Calls that last until all cases are at their calls when the worker is killed; the leases take 18 s to end."""

FEWER_LONG_CALLS = Timings(provider_timeout=4)
"""The same for the short form: 12 s, and the last case is at its call after 1 s on a busy machine."""

BEFORE_ROLLBACK = {OperationStatus.QUEUED, OperationStatus.RUNNING}

TRUNKS = [tuple(Trunks)]
if os.environ.get("MATRIX_APART"):
    TRUNKS += [(one,) for one in Trunks]


@dataclass(frozen=True)
class Choice:
    """Which cases of blocks run: all of them or their short form, with the kinds of trunk that run at once."""

    trunks: tuple[Trunks, ...]
    is_short: bool
    record_property: Callable[[str, Any], None]

    def shapes(self, *blocks: Block) -> list[Shape]:
        """Return them, and record how many of how many they are."""
        among = [block.among(self.trunks) for block in blocks]
        shapes, whole = (
            [shape for block in among for shape in block.shapes(is_short=each)] for each in (self.is_short, False)
        )
        self.record_property(PROPERTY, (len(shapes), len(whole)))
        return shapes


@pytest.fixture(params=TRUNKS, ids=" and ".join)
def chosen(request: pytest.FixtureRequest, record_property: Callable[[str, Any], None]) -> Choice:
    """What this run has of the matrix."""
    return Choice(request.param, is_short(request.config) and not os.environ.get("MATRIX_APART"), record_property)


def test_refusals_transient_faults_and_lost_responses_leave_all_or_nothing(
    make_database: Callable[[], str],
    own_valkey: ValkeyServer,
    sandbox: Sandbox,
    foreign_objects: ForeignObjects,
    subtests: pytest.Subtests,
    chosen: Choice,
) -> None:
    """In an undo, a transient failure ends when the provider is back, and a refusal when a person retries."""
    with running_stack(make_database(), own_valkey.url, sandbox, SHORT_QUIET) as stack:
        runner = CaseRunner(stack, sandbox, chosen.shapes(*REFUSALS, NO_WAY_BACK))
        runner.prepare()
        runner.start_cases()
        runner.await_hits()
        runner.start_others()
        stuck = [case for case in runner.on_paths(*UNDO_PATHS) if case.failure is Failure.REFUSED]
        await_needs_attention(stack, runner, stuck, subtests)
        runner.retry(stuck)
        # Each as soon as it needs attention: its pauses grow for as long as the provider refuses.
        await_needs_attention(
            stack, runner, [case for case in runner.cases if case.failure is Failure.PERMANENT], subtests
        )
        runner.await_end()
        runner.clear_faults()
        runner.check(subtests)


def test_a_step_that_fails_for_ever_is_given_up_and_rolled_back(
    make_database: Callable[[], str],
    own_valkey: ValkeyServer,
    sandbox: Sandbox,
    foreign_objects: ForeignObjects,
    subtests: pytest.Subtests,
    chosen: Choice,
) -> None:
    with running_stack(make_database(), own_valkey.url, sandbox, SHORT_BUDGET) as stack:
        runner = CaseRunner(stack, sandbox, chosen.shapes(GIVEN_UP))
        runner.prepare()
        runner.start_cases()
        runner.await_statuses(runner.cases, lambda status: status not in BEFORE_ROLLBACK, "every case is rolled back")
        runner.clear_faults()
        runner.await_end()
        runner.check(subtests)


def test_a_worker_killed_at_any_point_costs_time_and_nothing_else(
    make_database: Callable[[], str],
    own_valkey: ValkeyServer,
    sandbox: Sandbox,
    foreign_objects: ForeignObjects,
    subtests: pytest.Subtests,
    chosen: Choice,
) -> None:
    """Three workers are killed in turn; the cases of the first are resumed while the next are prepared."""
    timings = FEWER_LONG_CALLS if chosen.is_short else LONG_CALLS
    with running_stack(make_database(), own_valkey.url, sandbox, timings) as stack:
        runners = [
            kill_at_every_point(stack, sandbox, chosen.shapes(block), own_valkey, block.failure) for block in KILLS
        ]
        for runner in runners:
            runner.await_end()
            runner.check(subtests)


def test_a_provider_that_hangs_and_then_applies_everything_at_once_leaves_nothing(
    make_database: Callable[[], str],
    own_valkey: ValkeyServer,
    sandbox: Sandbox,
    foreign_objects: ForeignObjects,
    subtests: pytest.Subtests,
    chosen: Choice,
) -> None:
    """Every create and every undo is under way meanwhile: for less than a call, for more than one and its quiet period,
    and for as long with the worker killed. What one hang leaves is resumed while the next is prepared, and under it."""
    shapes = [chosen.shapes(block) for block in HANGS]
    if not all(shapes):
        pytest.skip("adoption under a hang is held by tests/integration/test_adoptions.py")
    with running_stack(make_database(), own_valkey.url, sandbox, HANG_TIMINGS) as stack:
        runners = [hang_providers(stack, sandbox, *each) for each in zip(shapes, PROVIDER_HANGS, strict=True)]
        for runner in runners:
            runner.await_end()
            runner.check(subtests)


HANG_TIMINGS = Timings(provider_timeout=3)
"""Long enough for every case to be at its call before the first of them times out, and for the burst at the end to have
landed within the quiet period, on a busy machine too."""


@dataclass(frozen=True)
class ProviderHang:
    """How both providers hang: for how many call timeouts, in which order the requests are applied, who is killed."""

    calls: float
    landing: str
    is_worker_killed: bool = False


BURST_S = 0.3
"""Seconds in which the held requests are applied: time enough to act on a read that was answered too early."""

PROVIDER_HANGS = (
    ProviderHang(2.6, "arrival", is_worker_killed=True),
    ProviderHang(2.6, "shuffled"),
    ProviderHang(0.5, "reversed"),
)


def hang_providers(stack: Stack, sandbox: Sandbox, shapes: list[Shape], hang: ProviderHang) -> CaseRunner:
    """Hold every case's request, then all other requests too; cancel some operations; apply everything."""
    runner = CaseRunner(stack, sandbox, shapes)
    runner.prepare()
    runner.start_cases()
    runner.await_held()
    runner.start_others()
    pauses = [sandbox.pause(f"{provider}.*", landing=hang.landing, seed=1) for provider in ("twilio", "livekit")]
    began = time.monotonic()
    runner.cancel()
    if hang.is_worker_killed:
        stack.worker.kill()
        stack.start_worker()
    time.sleep(max(began + hang.calls * HANG_TIMINGS.provider_timeout - time.monotonic(), 0))
    # The last to arrive are applied first: a read is answered before the write that it looks for.
    for fault_id in pauses:
        sandbox.delete_fault(fault_id)
    time.sleep(BURST_S)
    runner.clear_faults()
    sandbox.clear_faults()
    return runner


def kill_at_every_point(
    stack: Stack, sandbox: Sandbox, shapes: list[Shape], broker: ValkeyServer, failure: Failure
) -> CaseRunner:
    """SIGKILL the worker while every case's call is under way; start another."""
    runner = CaseRunner(stack, sandbox, shapes)
    runner.prepare()
    runner.start_cases()
    runner.await_held()
    if failure is Failure.KILLED_STORED:
        broker.pause()  # no further message can be sent: the worker stops after it has stored the result
        runner.clear_faults()
        runner.await_stored()
    stack.worker.kill()
    if failure is Failure.KILLED_STORED:
        broker.resume()
    else:
        runner.clear_faults()
    stack.start_worker()
    runner.start_others()
    return runner


def await_needs_attention(stack: Stack, runner: CaseRunner, cases: list[Case], subtests: pytest.Subtests) -> None:
    """Wait until each operation needs attention, check what phone-status says then, and end its failure."""
    waiting = list(cases)

    def none_waits() -> bool:
        for case in runner.in_status(waiting, OperationStatus.NEEDS_ATTENTION):
            with subtests.test(f"{case.label}, while it is stuck"):
                check_needs_attention(stack.api.phone(case.assignment.agent_id), case)
            runner.clear_faults([case])
            waiting.remove(case)
        return not waiting

    eventually(none_waits, lambda: f"all need attention, not {[case.label for case in waiting]}")


def check_needs_attention(phone: dict[str, object], case: Case) -> None:
    """Raise unless phone-status says that the undo is stuck, at which step, and what is left over."""
    expected = {Path.ROLLBACK: PhoneStatus.ROLLING_BACK, Path.DEPROVISION: PhoneStatus.DEPROVISIONING}.get(
        case.path, PhoneStatus.PROVISIONED
    )
    operation = phone["operation"]
    assert isinstance(operation, dict)
    assert phone["phoneProvisioningStatus"] == expected
    assert operation["status"] == "needs_attention"
    assert operation["error"]["code"]
    assert operation["leftovers"]
    step = next(each for each in operation["steps"] if each["name"] == case.point.step)
    assert step["error"]["code"]
