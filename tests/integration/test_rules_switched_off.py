"""With one of the saga's rules switched off, named tests of the other modules fail: they can fail.

Off is a collaborator that is passed in: rows that forget, times that are zero, a table without needs. What the same
tests say with the rule on, they say in their own modules.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from app.domain.operations import STEPS, TRUNK, Direction
from app.domain.workspaces import ENVIRONMENT_ACCOUNT
from app.saga import machine, state, twilio_steps
from app.saga.rows import Loaded, Rows
from app.saga.runner import Outcome, Runner
from app.saga.state import Change, Timing
from app.trunks import pool
from tests.integration import test_runner_claims as claims
from tests.integration import test_runner_crashes as crashes
from tests.integration import test_runner_undo as undo
from tests.integration import test_shared_paths as shared
from tests.integration import test_unknown_outcomes as unknown_outcomes
from tests.integration.test_shared_paths import pooled
from tests.support.saga import E164, PROFILE, TIMING, Saga, wire, with_pool

Decide = Callable[[state.Saga, datetime], Change | None]


class ForgetfulRows(Rows):
    """Shows the rules an operation without what one of them goes by."""

    def change(self, operation_id: UUID, decide: Decide) -> tuple[Change, Loaded] | None:
        return super().change(operation_id, lambda saga, now: decide(self.without(saga), now))

    def without(self, saga: state.Saga) -> state.Saga:
        raise NotImplementedError


def _with_rows(saga: state.Saga, **values: Any) -> state.Saga:
    return replace(saga, steps={name: replace(row, **values) for name, row in saga.steps.items()})


class NoLeases(ForgetfulRows):
    def without(self, saga: state.Saga) -> state.Saga:
        return _with_rows(saga, lease_until=None)


class NoIntents(ForgetfulRows):
    def without(self, saga: state.Saga) -> state.Saga:
        return _with_rows(saga, intent=None)


class NoQuietPeriods(ForgetfulRows):
    def without(self, saga: state.Saga) -> state.Saga:
        return replace(_with_rows(saga, unsettled_until=None), older_unsettled={})


class UnreadLedger(ForgetfulRows):
    def without(self, saga: state.Saga) -> state.Saga:
        return replace(saga, ledger=())


class UnwrittenLedger(Rows):
    def write(self, change: Change, *args: Any, **options: Any) -> str | None:
        change.ledger.clear()
        return super().write(change, *args, **options)


class NoEpochs(Runner):
    """Takes every message for one of the present epoch."""

    def run_step(self, operation_id: UUID, epoch: int, name: str, direction: Direction) -> Outcome:
        loaded = self.rows.read(operation_id)
        return super().run_step(operation_id, loaded.saga.operation.epoch if loaded else epoch, name, direction)


class NoSettling(Timing):
    """Nothing is expected to take effect after its request has ended."""

    quiet = settle = lands = timedelta()


def with_rows(saga: Saga, kind: type[Rows]) -> Saga:
    """Return the same saga over other rows."""
    rows = kind(saga.sessions, TIMING.lands)
    runner, service = replace(saga.runner, rows=rows), replace(saga.service, rows=rows)
    return replace(saga, rows=rows, runner=runner, service=service, sweeper=replace(saga.sweeper, service=service))


NOT_STALE = r"!= <Verdict\.STALE"
"""A step was claimed, or done, that nobody should have touched."""


def test_without_leases_a_second_delivery_is_not_stopped(saga: Saga, number_sid: str) -> None:
    with pytest.raises(AssertionError, match=NOT_STALE):
        claims.test_a_live_lease_stops_a_second_delivery(with_rows(saga, NoLeases), number_sid, TRUNK)


def test_without_epochs_a_message_of_another_epoch_is_not_stopped(saga: Saga, number_sid: str) -> None:
    broken = replace(saga, runner=NoEpochs(**vars(saga.runner)))
    with pytest.raises(AssertionError, match=NOT_STALE):
        claims.test_a_message_of_another_epoch_stops_without_a_call(broken, number_sid, TRUNK)


def test_without_needs_a_step_before_its_turn_is_not_stopped(
    saga: Saga, number_sid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "ALL_NEEDS", {step.name: frozenset[str]() for step in STEPS})
    with pytest.raises(AssertionError, match=NOT_STALE):
        claims.test_a_step_before_its_turn_stops_both_ways(saga, number_sid)


@pytest.mark.parametrize("break_", [crashes.loses_the_answer, crashes.dies_before_the_store])
def test_without_intents_what_was_made_is_made_again(saga: Saga, number_sid: str, break_: crashes.Break) -> None:
    # An unknown outcome is noted twice: as an intent, and as a time in which it may take effect.
    class NoTraces(NoIntents):
        def without(self, saga: state.Saga) -> state.Saga:
            return _with_rows(super().without(saga), unsettled_until=None)

    with pytest.raises(AssertionError, match=r"'carrier\.create_trunk': 2"):
        crashes.test_a_provisioning_broken_off_ends_with_exactly_one_path(
            with_rows(saga, NoTraces), number_sid, TRUNK, break_
        )


def test_without_intents_alone_a_dead_worker_is_not_waited_for(saga: Saga, number_sid: str) -> None:
    with pytest.raises(AssertionError, match=NOT_STALE):
        unknown_outcomes.test_an_undo_waits_for_the_quiet_period_of_a_worker_killed_in_a_write(
            with_rows(saga, NoIntents), number_sid, TRUNK
        )


def test_without_quiet_periods_an_undo_does_not_wait(saga: Saga, number_sid: str) -> None:
    with pytest.raises(AssertionError, match=NOT_STALE):
        unknown_outcomes.test_an_undo_waits_until_nothing_can_land_any_more(
            with_rows(saga, NoQuietPeriods), number_sid, TRUNK
        )


def test_with_times_of_zero_an_undo_does_not_wait(saga: Saga) -> None:
    broken = wire(saga.sessions, NoSettling(TIMING.provider_timeout, TIMING.budget))
    number_sid = broken.world.carrier.own_number(E164)
    with pytest.raises(AssertionError, match=NOT_STALE):
        unknown_outcomes.test_an_undo_waits_until_nothing_can_land_any_more(broken, number_sid, TRUNK)


def test_without_quiet_periods_what_an_older_operation_asked_for_is_left_over(saga: Saga, number_sid: str) -> None:
    with pytest.raises(AssertionError, match="twilio_trunk"):
        unknown_outcomes.test_a_deprovisioning_searches_for_what_an_older_operation_may_have_created(
            with_rows(saga, NoQuietPeriods), number_sid, TRUNK
        )


def test_without_reading_the_ledger_an_undo_forgets_what_no_row_has(saga: Saga, number_sid: str) -> None:
    with pytest.raises(AssertionError, match="only the ledger knew"):
        claims.test_undo_deletes_what_only_the_ledger_knows(with_rows(saga, UnreadLedger), number_sid, TRUNK)


def test_without_reading_the_ledger_nobody_is_told_what_is_left(saga: Saga, number_sid: str) -> None:
    with pytest.raises(AssertionError, match=r"set\(\) == "):
        undo.test_an_undo_that_keeps_failing_needs_attention_and_names_what_is_left(
            with_rows(saga, UnreadLedger), number_sid, TRUNK, "deprovision"
        )


def test_without_writing_the_ledger_a_whole_path_is_not_in_it(saga: Saga, number_sid: str) -> None:
    broken = with_rows(saga, UnwrittenLedger)
    with pytest.raises(AssertionError, match=r"Right contains 4 more items"):
        broken.assert_provisioned(broken.provisioned(), number_sid)


__all__ = ["pooled"]


@pytest.fixture
def without_sql(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Take a condition out of a statement of the pool's."""

    def leave_out(statement: str, condition: str) -> None:
        text = getattr(pool, statement)
        assert text.count(condition) == 1
        monkeypatch.setattr(pool, statement, text.replace(condition, ""))

    return leave_out


def test_without_a_look_at_the_lease_a_late_worker_takes_a_place(
    pooled: Saga, without_sql: Callable[[str, str], None]
) -> None:
    without_sql("_HELD_PLACE", "AND operation_steps.lease_token = %(token)s")
    with pytest.raises(AssertionError, match="Place"):
        shared.test_a_worker_that_has_lost_its_step_takes_no_place(pooled)


def test_without_the_lease_of_a_trunk_two_make_it(pooled: Saga, without_sql: Callable[[str, str], None]) -> None:
    without_sql("_BEGIN_MAKING", "AND (lease_token IS NULL OR lease_until + %(lands)s < clock_timestamp())")
    with pytest.raises(AssertionError, match=r"Verdict\.DONE"):
        shared.test_two_at_once_make_one_trunk(pooled)


def test_without_a_lock_two_take_the_last_place(pooled: Saga, without_sql: Callable[[str, str], None]) -> None:
    without_sql("_CHOOSE_TRUNK", "FOR UPDATE")
    with pytest.raises(AssertionError, match="two numbers have the last place"):
        shared.test_two_at_once_do_not_both_take_the_last_place(pooled)


def test_without_waiting_for_what_may_land_a_trunk_is_made_twice(
    pooled: Saga, without_sql: Callable[[str, str], None]
) -> None:
    without_sql("_BEGIN_MAKING", "AND (unsettled_until IS NULL OR unsettled_until < clock_timestamp())")
    with pytest.raises(AssertionError, match="DONE"):
        shared.test_nobody_makes_a_trunk_while_one_may_still_land(pooled)


class OwnedPool(pool.TrunkPool):
    """A pool that says of no trunk that it is shared."""

    def is_shared(self, sid: str) -> bool:
        return False


def test_without_asking_the_pool_the_last_number_takes_the_trunk_with_it(
    pooled: Saga, number_sid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(twilio_steps, "is_shared", lambda *_: False, raising=False)
    owned = OwnedPool(pooled.sessions, ENVIRONMENT_ACCOUNT, PROFILE, 500, lease=TIMING.lease, lands=TIMING.lands)
    with pytest.raises(AssertionError):
        shared.test_a_number_that_goes_leaves_the_trunk_to_the_others(with_pool(pooled, owned), number_sid)
