"""Verification of a bulk's paths with the same reads: who waits, who reads, and that each ends as if it were alone."""

import uuid
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from app.bulk.items import read_items
from app.bulk.service import BulkService
from app.db.models import Agent, Operation, OperationStep, Trunk
from app.domain.errors import ErrorCode
from app.domain.events import EventName
from app.domain.operations import (
    DISPATCH_RULE,
    INBOUND_TRUNK,
    LAST,
    NUMBER_ATTACHMENT,
    Direction,
    OperationStatus,
    StepState,
    TrunkMode,
)
from app.providers.errors import TransientError
from app.saga import batch
from app.saga.batch import BatchRunner
from app.saga.runner import Outcome
from app.saga.state import Verdict
from app.views.option_schemas import read_options
from tests.support.providers import WorkerDiedError
from tests.support.saga import ORIGIN, Saga

READS = ("carrier.list_trunk_numbers", "platform.list_inbound_trunks", "platform.list_dispatch_rules")
OF_ITS_OWN = "carrier.get_number"
"""The read that only a verification of its own makes."""

VERDICT_OF_NOBODY = Outcome(Verdict.STALE)
"""What a message gets that leaves the rest to others."""


@dataclass
class Bulk:
    """A bulk whose operations are open."""

    saga: Saga
    operation_ids: list[uuid.UUID]

    def build(self, *places: int) -> None:
        """Run all but the verification of these, or of all."""
        for place in places or range(len(self.operation_ids)):
            self.saga.advance(self.operation_ids[place], until=NUMBER_ATTACHMENT)

    def verify(self, place: int, runner: BatchRunner | None = None) -> Outcome:
        """Run the verification of one as its message does."""
        return (runner or self.saga.runner).run_step(self.operation_ids[place], 0, LAST, Direction.DO)

    @property
    def statuses(self) -> list[OperationStatus]:
        return [self.saga.status(one) for one in self.operation_ids]

    def number_sid(self, place: int) -> str:
        agent = self.saga.snapshot(self.operation_ids[place]).agent
        assert agent.twilio_phone_number_sid is not None
        return agent.twilio_phone_number_sid

    def published(self) -> list[uuid.UUID]:
        """Sweep; return whose messages were published."""
        before = len(self.saga.publisher.plans)
        self.saga.sweeper.sweep()
        return [plan.operation_id for plan in self.saga.publisher.plans[before:]]

    def calls(self) -> Counter[str]:
        return Counter(
            {name: count for name, count in self.saga.world.log.started.items() if name in (*READS, OF_ITS_OWN)}
        )


def another(saga: Saga) -> BatchRunner:
    """Return the runner of another worker process."""
    return BatchRunner(saga.rows, saga.runner.toolboxes, jitter=lambda _low, high: high)


@pytest.fixture
def open_bulk(saga: Saga) -> Callable[..., Bulk]:
    saga.runner = another(saga)

    def opened(count: int, mode: TrunkMode = TrunkMode.SHARED) -> Bulk:
        numbers = [f"+1514556{n:04}" for n in range(count)]
        for number in numbers:
            saga.world.carrier.own_number(number)
        raw = [{"agent": f"desk {number}", "phoneNumber": number} for number in numbers]
        service = BulkService(saga.sessions, saga.rows)
        bulk_id = service.accept(read_items(raw, read_options), origin=ORIGIN).id
        with saga.sessions.begin() as session:
            session.execute(update(Agent).values(trunk_mode=mode))
        saga.sweeper.dispatcher.advance()
        return Bulk(saga, [item.operation_id for item in service.items(bulk_id) if item.operation_id])

    return opened


SUCCEEDED, RUNNING = OperationStatus.SUCCEEDED, OperationStatus.RUNNING


def test_the_last_one_verifies_all_with_three_calls(open_bulk: Callable[..., Bulk]) -> None:
    bulk = open_bulk(5)
    bulk.build()
    assert bulk.verify(3) == VERDICT_OF_NOBODY
    assert bulk.statuses == [SUCCEEDED] * 5
    assert bulk.calls() == dict.fromkeys(READS, 1)


def test_while_others_are_on_their_way_the_one_that_waits_longest_comes_back(open_bulk: Callable[..., Bulk]) -> None:
    bulk = open_bulk(4)
    bulk.build(2, 0, 1)
    first = bulk.verify(2)
    assert first.verdict is Verdict.RESTS
    assert timedelta() < first.rest <= timedelta(seconds=batch.LONGEST_WAIT_S)
    assert bulk.verify(0) == bulk.verify(1) == VERDICT_OF_NOBODY
    assert bulk.calls() == {}
    assert bulk.statuses == [RUNNING] * 3 + [OperationStatus.QUEUED]


def test_enough_of_them_wait_for_nobody(open_bulk: Callable[..., Bulk], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "ENOUGH", 3)
    bulk = open_bulk(4)
    bulk.build(0, 1, 2)
    bulk.verify(2)
    assert bulk.statuses == [SUCCEEDED] * 3 + [OperationStatus.QUEUED]


def test_one_that_has_waited_long_enough_waits_no_longer(
    open_bulk: Callable[..., Bulk], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "LONGEST_WAIT_S", 0.0)
    bulk = open_bulk(3)
    bulk.build(0, 1)
    bulk.verify(1)
    assert bulk.statuses == [SUCCEEDED] * 2 + [OperationStatus.QUEUED]


def test_a_number_that_is_not_on_its_trunk_is_verified_alone_and_the_others_are_done(
    open_bulk: Callable[..., Bulk], saga: Saga
) -> None:
    bulk = open_bulk(3)
    bulk.build()
    saga.world.carrier.route(bulk.number_sid(1), trunk_sid="TK" + "f" * 32)
    bulk.verify(0)
    assert bulk.statuses == [SUCCEEDED, RUNNING, SUCCEEDED]
    assert bulk.calls()[OF_ITS_OWN] == 0

    assert bulk.published() == [bulk.operation_ids[1]]
    bulk.verify(1)
    assert bulk.calls()[OF_ITS_OWN] > 1
    saga.drive(bulk.operation_ids[1])
    snapshot = saga.snapshot(bulk.operation_ids[1])
    assert (snapshot.operation.status, snapshot.operation.error_code) == (
        OperationStatus.FAILED,
        ErrorCode.PATH_NOT_VERIFIED,
    )
    assert [number.routing.trunk_sid for number in saga.world.carrier.numbers.values()].count("TK" + "f" * 32) == 1


@pytest.mark.parametrize("kind", [INBOUND_TRUNK, DISPATCH_RULE])
def test_a_list_of_livekit_that_is_late_fails_nobody(open_bulk: Callable[..., Bulk], saga: Saga, kind: str) -> None:
    bulk = open_bulk(3)
    bulk.build()
    platform = saga.world.platform
    stored = platform.trunks if kind == INBOUND_TRUNK else platform.rules
    hidden = max(stored)
    kept = stored.pop(hidden)
    list_name = READS[1] if kind == INBOUND_TRUNK else READS[2]
    saga.world.log.plan(list_name, after=lambda: stored.update({hidden: kept}))
    bulk.verify(0)
    assert bulk.statuses.count(SUCCEEDED) == 2

    (late,) = bulk.published()
    saga.drive(late)
    assert bulk.statuses == [SUCCEEDED] * 3


def test_a_batch_that_is_killed_while_it_reads_is_taken_up_by_the_sweeper(
    open_bulk: Callable[..., Bulk], saga: Saga
) -> None:
    bulk = open_bulk(3)
    bulk.build()
    saga.world.log.plan("platform.list_dispatch_rules", before=WorkerDiedError())
    with pytest.raises(WorkerDiedError):
        bulk.verify(0)
    assert bulk.statuses == [RUNNING] * 3
    assert bulk.published() == []
    for operation_id in bulk.operation_ids:
        saga.expire_leases(operation_id)
    with saga.sessions.begin() as session:
        session.execute(update(Operation).values(wake_at=func.now()))
    assert sorted(bulk.published()) == sorted(bulk.operation_ids)
    for place in range(3):
        bulk.verify(place)
    assert bulk.statuses == [SUCCEEDED] * 3


def test_two_workers_at_once_verify_each_of_them_once(open_bulk: Callable[..., Bulk], saga: Saga) -> None:
    bulk = open_bulk(20)
    bulk.build()
    runners = [another(saga), another(saga)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: bulk.verify(n, runners[n % 2]), range(20)))
    assert bulk.statuses == [SUCCEEDED] * 20
    for operation_id in bulk.operation_ids:
        assert len(saga.snapshot(operation_id).event_details(EventName.STEP_DONE, LAST)) == 1


def test_one_that_is_cancelled_while_the_batch_reads_goes_back_and_the_others_are_done(
    open_bulk: Callable[..., Bulk], saga: Saga
) -> None:
    bulk = open_bulk(3)
    bulk.build()
    agent_id = saga.snapshot(bulk.operation_ids[1]).agent.id
    saga.world.log.plan(READS[1], before=lambda: saga.service.deprovision(agent_id, origin=ORIGIN))
    bulk.verify(0)
    assert bulk.statuses == [SUCCEEDED, OperationStatus.ROLLING_BACK, SUCCEEDED]
    saga.drive(bulk.operation_ids[1])
    assert bulk.statuses == [SUCCEEDED, OperationStatus.CANCELLED, SUCCEEDED]


def test_a_busy_provider_makes_the_batch_wait_and_costs_no_try(open_bulk: Callable[..., Bulk], saga: Saga) -> None:
    bulk = open_bulk(3)
    bulk.build()
    busy = TransientError(ErrorCode.PROVIDER_BUSY, "Too many requests.", retry_after_s=2)
    saga.world.log.plan(READS[2], before=busy)
    assert bulk.verify(1) == Outcome(Verdict.RESTS, timedelta(seconds=4))
    for operation_id in bulk.operation_ids:
        row = saga.snapshot(operation_id).rows[LAST]
        assert (row.state, row.attempts) == (StepState.PENDING, 0)
    with saga.sessions.begin() as session:
        session.execute(update(OperationStep).where(OperationStep.name == LAST).values(lease_until=func.now()))
        session.execute(update(Operation).values(idle_kicks=0))
    bulk.verify(1)
    assert bulk.statuses == [SUCCEEDED] * 3
    assert bulk.calls()[OF_ITS_OWN] == 0


@pytest.mark.parametrize("failure", [TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "down"), ZeroDivisionError()])
def test_where_the_reads_fail_each_is_verified_alone(
    open_bulk: Callable[..., Bulk], saga: Saga, failure: Exception
) -> None:
    bulk = open_bulk(3)
    bulk.build()
    saga.world.log.plan(READS[2], before=failure)
    bulk.verify(1)
    assert bulk.statuses == [RUNNING] * 3
    assert sorted(bulk.published()) == sorted(bulk.operation_ids)
    for place in range(3):
        bulk.verify(place)
    assert bulk.statuses == [SUCCEEDED] * 3
    assert bulk.calls()[OF_ITS_OWN] == 3


def test_one_that_was_tried_twice_on_the_way_is_verified_alone(open_bulk: Callable[..., Bulk], saga: Saga) -> None:
    bulk = open_bulk(2)
    down = TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "down")
    saga.world.log.plan("platform.create_dispatch_rule", before=down)
    bulk.build()
    saga.expire_leases(bulk.operation_ids[0])
    bulk.build(0)
    assert bulk.verify(0) == Outcome(Verdict.DONE)
    assert bulk.calls()[OF_ITS_OWN] == 1
    bulk.verify(1)
    assert bulk.statuses == [SUCCEEDED] * 2


def test_a_trunk_of_its_own_is_verified_alone(open_bulk: Callable[..., Bulk]) -> None:
    bulk = open_bulk(2, TrunkMode.DEDICATED)
    bulk.build()
    assert bulk.verify(0) == bulk.verify(1) == Outcome(Verdict.DONE)
    assert bulk.calls()[OF_ITS_OWN] == 2


def test_a_single_number_waits_for_nobody(open_bulk: Callable[..., Bulk], saga: Saga, number_sid: str) -> None:
    bulk = open_bulk(2)
    bulk.build(0)
    saga.trunk_mode = TrunkMode.SHARED
    operation_id = saga.provision()
    saga.advance(operation_id)
    assert saga.status(operation_id) is SUCCEEDED
    assert bulk.statuses == [RUNNING, OperationStatus.QUEUED]


def age_check(saga: Saga) -> None:
    with saga.sessions.begin() as session:
        session.execute(update(Trunk).values(checked_at=func.now() - timedelta(hours=1)))


def test_a_trunk_that_nobody_has_read_for_a_minute_is_read_once_for_all(
    open_bulk: Callable[..., Bulk], saga: Saga
) -> None:
    bulk = open_bulk(3)
    bulk.build()
    age_check(saga)
    bulk.verify(0)
    assert bulk.statuses == [SUCCEEDED] * 3
    assert saga.world.log.started["carrier.get_trunk"] == saga.world.log.started["carrier.list_origination_urls"] == 1
    with saga.sessions() as session:
        assert session.scalar(select(Trunk.checked_at > func.now() - timedelta(minutes=1)))


def test_what_is_broken_at_the_trunk_is_mended_by_those_who_are_verified_alone(
    open_bulk: Callable[..., Bulk], saga: Saga
) -> None:
    bulk = open_bulk(3)
    bulk.build()
    age_check(saga)
    ((sid, url),) = saga.world.carrier.urls.items()
    saga.world.carrier.urls[sid] = replace(url, is_enabled=False)
    bulk.verify(0)
    assert bulk.statuses == [RUNNING] * 3
    for operation_id in bulk.published():
        saga.drive(operation_id)
    assert bulk.statuses == [SUCCEEDED] * 3
    assert saga.world.carrier.urls[sid].is_enabled


def test_another_trunk_with_the_number_is_seen_in_a_batch(open_bulk: Callable[..., Bulk], saga: Saga) -> None:
    """LiveKit refuses every call to a number that two trunks have; the list by numbers shows both."""
    bulk = open_bulk(3)
    bulk.build()
    platform = saga.world.platform
    ours = next(trunk for trunk in platform.trunks.values() if trunk.numbers == ("+15145560002",))
    twin = replace(ours, id="ST_" + "z" * 12, name="foreign", metadata="")
    platform.trunks[twin.id] = twin
    bulk.verify(0)
    assert bulk.statuses == [SUCCEEDED, SUCCEEDED, RUNNING]


def test_two_rules_without_a_trunk_are_seen_in_a_batch(open_bulk: Callable[..., Bulk], saga: Saga) -> None:
    """They contradict each other, and LiveKit refuses every call; the list by trunks shows both."""
    bulk = open_bulk(2)
    bulk.build()
    platform = saga.world.platform
    first = platform.rules[platform.own_rule("", "foreign")]
    platform.rules["SDR_" + "z" * 12] = replace(first, id="SDR_" + "z" * 12)
    bulk.verify(0)
    assert bulk.statuses == [RUNNING] * 2
