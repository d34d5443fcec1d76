"""What the rate limiter does with the decisions of the shared limits, without Redis."""

from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from app.providers.callers import Caller, CallPriority, calling
from app.providers.errors import CallFailedError, Outcome
from app.providers.rate_limiter import (
    CALLED_WITHIN_S,
    CROWD,
    PAUSE_AFTER_FAILURE_S,
    UNLIMITED_S,
    Decision,
    Permit,
    RateLimiter,
    Waiters,
)
from tests.support.saga import ManualClock

MAX_WAIT_S = 5.0


@dataclass
class ScriptedLimits:
    """Returns the permits that a test has written, the last one for ever, and records the requests."""

    permits: list[Permit | Exception]
    in_flight: int | None = None
    asked: list[tuple[str, float, int]] = field(default_factory=list)
    reductions: list[tuple[float | None, int]] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    account: str = "twilio:ours"

    def acquire(self, priority: str, token: str, max_wait_s: float, unreported: int) -> Permit:
        self.asked.append((priority, max_wait_s, unreported))
        permit = self.permits.pop(0) if len(self.permits) > 1 else self.permits[0]
        if isinstance(permit, Exception):
            raise permit
        return permit

    def reduce(self, retry_after_s: float | None, unreported: int) -> float:
        self.reductions.append((retry_after_s, unreported))
        return 20.0

    def release(self, token: str) -> None:
        self.released.append(token)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def rate_limiter_over(limits: ScriptedLimits, clock: ManualClock) -> RateLimiter:
    return RateLimiter(limits, "twilio", MAX_WAIT_S, clock=clock, sleep=clock.sleep)  # type: ignore[arg-type]


def call(rate_limiter: RateLimiter) -> None:
    with rate_limiter.limited_call():
        pass


def test_an_account_without_limits_is_asked_about_once_in_a_while(clock: ManualClock) -> None:
    limits = ScriptedLimits([Permit(Decision.UNLIMITED, 0)])
    rate_limiter = rate_limiter_over(limits, clock)
    for _ in range(10):
        call(rate_limiter)
    assert [unreported for _, _, unreported in limits.asked] == [0]
    clock.now += UNLIMITED_S
    call(rate_limiter)
    assert [unreported for _, _, unreported in limits.asked] == [0, 9]
    assert clock.sleeps == []


def test_a_single_call_sleeps_until_its_slot(clock: ManualClock) -> None:
    call(rate_limiter_over(ScriptedLimits([Permit(Decision.SCHEDULED, 1.5)]), clock))
    assert clock.sleeps == [1.5]


def test_a_bulk_call_comes_back_until_a_slot_is_free(clock: ManualClock) -> None:
    limits = ScriptedLimits(
        [Permit(Decision.TOO_EARLY, 0.4), Permit(Decision.TOO_EARLY, 0.2), Permit(Decision.SCHEDULED, 0)]
    )
    with calling(Caller(CallPriority.BULK)) as caller:
        call(rate_limiter_over(limits, clock))
    assert caller.has_called
    assert clock.sleeps == [0.4, 0.2]
    assert [priority for priority, _, _ in limits.asked] == ["bulk"] * 3


@pytest.mark.parametrize(("is_raised_once_begun", "priority"), [(True, "single"), (False, "bulk")])
def test_work_that_has_begun_makes_single_calls_unless_it_declines(
    clock: ManualClock, priority: str, *, is_raised_once_begun: bool
) -> None:
    limits = ScriptedLimits([Permit(Decision.SCHEDULED, 0)])
    rate_limiter = rate_limiter_over(limits, clock)
    with calling(Caller(CallPriority.BULK, is_raised_once_begun=is_raised_once_begun)):
        call(rate_limiter)
        call(rate_limiter)
    assert [priority for priority, _, _ in limits.asked] == ["bulk", priority]


@pytest.mark.parametrize("priority", list(CallPriority))
@pytest.mark.parametrize("decision", [Decision.TOO_EARLY, Decision.FULL])
def test_a_wait_beyond_the_bound_is_held_back_with_nothing_sent(
    clock: ManualClock, priority: CallPriority, decision: Decision
) -> None:
    rate_limiter, sent = rate_limiter_over(ScriptedLimits([Permit(decision, 30)]), clock), []
    with calling(Caller(priority)) as caller, pytest.raises(CallFailedError) as failed, rate_limiter.limited_call():
        sent.append("call")
    assert (failed.value.outcome, sent, caller.has_called) == (Outcome.HELD_BACK, [], False)
    assert failed.value.retry_after_s == (30 if decision is Decision.TOO_EARLY else MAX_WAIT_S)
    assert sum(clock.sleeps) <= MAX_WAIT_S


def test_nobody_waits_longer_than_the_lease_of_the_step_allows(clock: ManualClock) -> None:
    limits = ScriptedLimits([Permit(Decision.SCHEDULED, 0)])
    with calling(Caller(last_start_at=clock.now + 2)):
        call(rate_limiter_over(limits, clock))
    assert limits.asked == [("single", 2, 0)]


def test_a_429_slows_all_processes_down_and_ends_the_trust_in_no_limit(clock: ManualClock) -> None:
    limits = ScriptedLimits([Permit(Decision.UNLIMITED, 0), Permit(Decision.SCHEDULED, 3)])
    rate_limiter = rate_limiter_over(limits, clock)
    call(rate_limiter)
    with pytest.raises(CallFailedError), rate_limiter.limited_call():
        raise CallFailedError(Outcome.STATUS, status=429, retry_after_s=7)
    assert limits.reductions == [(7, 1)]
    call(rate_limiter)
    assert clock.sleeps == [3]


def test_other_failures_do_not_lower_the_rate(clock: ManualClock) -> None:
    limits = ScriptedLimits([Permit(Decision.UNLIMITED, 0)])
    with pytest.raises(CallFailedError), rate_limiter_over(limits, clock).limited_call():
        raise CallFailedError(Outcome.STATUS, status=503, retry_after_s=7)
    assert limits.reductions == []


def test_a_counted_place_is_given_back_even_after_a_failure(clock: ManualClock) -> None:
    limits = ScriptedLimits([Permit(Decision.COUNTED, 0)], in_flight=4)
    with pytest.raises(CallFailedError), rate_limiter_over(limits, clock).limited_call():
        raise CallFailedError(Outcome.LOST)
    assert len(limits.released) == 1


def test_without_redis_every_call_passes_and_nothing_is_asked_for_a_while(clock: ManualClock) -> None:
    limits = ScriptedLimits([RedisConnectionError(), Permit(Decision.UNLIMITED, 0)])
    rate_limiter = rate_limiter_over(limits, clock)
    call(rate_limiter)
    call(rate_limiter)
    assert len(limits.asked) == 1
    clock.now += PAUSE_AFTER_FAILURE_S
    call(rate_limiter)
    assert len(limits.asked) == 2
    assert clock.sleeps == []


def test_one_account_alone_may_have_every_thread(clock: ManualClock) -> None:
    waiters = Waiters(clock)
    with waiters.joined("livekit:ours"), ExitStack() as stack:
        assert all(stack.enter_context(waiters.joined("twilio:ours")) for _ in range(10 * CROWD))


def test_beside_another_account_few_threads_wait(clock: ManualClock) -> None:
    waiters = Waiters(clock)
    with waiters.joined("twilio:theirs"):
        pass
    with ExitStack() as stack:
        may_wait = [stack.enter_context(waiters.joined("twilio:ours")) for _ in range(CROWD + 2)]
        assert may_wait == [True] * CROWD + [False] * 2
        with waiters.joined("twilio:theirs") as may_they:
            assert may_they
    with waiters.joined("twilio:ours") as may_again:
        assert may_again


def test_an_account_that_nobody_calls_any_more_counts_no_longer(clock: ManualClock) -> None:
    waiters = Waiters(clock)
    with waiters.joined("twilio:theirs"):
        pass
    clock.now += CALLED_WITHIN_S + 1
    with ExitStack() as stack:
        assert all(stack.enter_context(waiters.joined("twilio:ours")) for _ in range(CROWD + 2))


def test_a_call_that_may_not_wait_is_held_back_at_once(clock: ManualClock) -> None:
    waiters, limits = Waiters(clock), ScriptedLimits([Permit(Decision.TOO_EARLY, 1.0)])
    limiter = RateLimiter(limits, "twilio", MAX_WAIT_S, waiters=waiters, clock=clock, sleep=clock.sleep)  # type: ignore[arg-type]
    with waiters.joined("twilio:theirs"), ExitStack() as stack:
        for _ in range(CROWD):
            stack.enter_context(waiters.joined(limits.account))
        with pytest.raises(CallFailedError) as failed:
            call(limiter)
    assert failed.value.outcome is Outcome.HELD_BACK
    assert not clock.sleeps
    # No slot was taken ahead of time for a call that does not wait.
    assert [asked[1] for asked in limits.asked] == [0]
