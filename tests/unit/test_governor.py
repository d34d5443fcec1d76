"""What the governor makes of the answers of the shared pace, without Redis."""

from dataclasses import dataclass, field

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from app.providers.errors import CallFailedError, Outcome
from app.providers.rate_limiter import OPEN_S, PAUSE_AFTER_FAILURE_S, Caller, Governor, Lane, Place, calling
from tests.support.saga import ManualClock

PATIENCE_S = 5.0


@dataclass
class ScriptedPace:
    """Gives the answers that a test has written, the last one for ever, and remembers what it was asked."""

    answers: list[Place | Exception]
    in_flight: int | None = None
    asked: list[tuple[str, float, int]] = field(default_factory=list)
    cuts: list[tuple[float | None, int]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def take(self, lane: str, token: str, patience_s: float, unsaid: int) -> Place:
        self.asked.append((lane, patience_s, unsaid))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def cut(self, retry_after_s: float | None, unsaid: int) -> float:
        self.cuts.append((retry_after_s, unsaid))
        return 20.0

    def leave(self, token: str) -> None:
        self.left.append(token)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def governor_over(pace: ScriptedPace, clock: ManualClock) -> Governor:
    return Governor(pace, "twilio", PATIENCE_S, clock=clock, sleep=clock.sleep)  # type: ignore[arg-type]


def call(governor: Governor) -> None:
    with governor.place():
        pass


def test_an_account_without_limits_is_asked_about_once_in_a_while(clock: ManualClock) -> None:
    pace = ScriptedPace([Place("open", 0)])
    governor = governor_over(pace, clock)
    for _ in range(10):
        call(governor)
    assert [unsaid for _, _, unsaid in pace.asked] == [0]
    clock.now += OPEN_S
    call(governor)
    assert [unsaid for _, _, unsaid in pace.asked] == [0, 9]
    assert clock.sleeps == []


def test_a_single_call_sleeps_until_its_slot(clock: ManualClock) -> None:
    call(governor_over(ScriptedPace([Place("paced", 1.5)]), clock))
    assert clock.sleeps == [1.5]


def test_a_bulk_call_comes_back_until_a_slot_is_free(clock: ManualClock) -> None:
    pace = ScriptedPace([Place("early", 0.4), Place("early", 0.2), Place("paced", 0)])
    with calling(Caller(Lane.BULK)) as caller:
        call(governor_over(pace, clock))
    assert caller.has_called
    assert clock.sleeps == [0.4, 0.2]
    assert [lane for lane, _, _ in pace.asked] == ["bulk"] * 3


@pytest.mark.parametrize(("finishes_first", "lane"), [(True, "single"), (False, "bulk")])
def test_what_has_begun_goes_first_unless_it_is_in_no_hurry(
    clock: ManualClock, lane: str, *, finishes_first: bool
) -> None:
    pace = ScriptedPace([Place("paced", 0)])
    governor = governor_over(pace, clock)
    with calling(Caller(Lane.BULK, finishes_first=finishes_first)):
        call(governor)
        call(governor)
    assert [lane for lane, _, _ in pace.asked] == ["bulk", lane]


@pytest.mark.parametrize("lane", list(Lane))
@pytest.mark.parametrize("told", ["early", "full"])
def test_a_wait_beyond_patience_is_held_back_with_nothing_sent(clock: ManualClock, lane: Lane, told: str) -> None:
    governor, sent = governor_over(ScriptedPace([Place(told, 30)]), clock), []
    with calling(Caller(lane)) as caller, pytest.raises(CallFailedError) as failed, governor.place():
        sent.append("call")
    assert (failed.value.outcome, sent, caller.has_called) == (Outcome.HELD_BACK, [], False)
    assert failed.value.retry_after_s == (30 if told == "early" else PATIENCE_S)
    assert sum(clock.sleeps) <= PATIENCE_S


def test_nobody_waits_longer_than_the_lease_of_the_step_allows(clock: ManualClock) -> None:
    pace = ScriptedPace([Place("paced", 0)])
    with calling(Caller(until=clock.now + 2)):
        call(governor_over(pace, clock))
    assert pace.asked == [("single", 2, 0)]


def test_a_429_slows_everybody_down_and_ends_the_belief_in_no_limit(clock: ManualClock) -> None:
    pace = ScriptedPace([Place("open", 0), Place("paced", 3)])
    governor = governor_over(pace, clock)
    call(governor)
    with pytest.raises(CallFailedError), governor.place():
        raise CallFailedError(Outcome.STATUS, status=429, retry_after_s=7)
    assert pace.cuts == [(7, 1)]
    call(governor)
    assert clock.sleeps == [3]


def test_other_failures_slow_nobody_down(clock: ManualClock) -> None:
    pace = ScriptedPace([Place("open", 0)])
    with pytest.raises(CallFailedError), governor_over(pace, clock).place():
        raise CallFailedError(Outcome.STATUS, status=503, retry_after_s=7)
    assert pace.cuts == []


def test_a_counted_place_is_given_back_even_after_a_failure(clock: ManualClock) -> None:
    pace = ScriptedPace([Place("counted", 0)], in_flight=4)
    with pytest.raises(CallFailedError), governor_over(pace, clock).place():
        raise CallFailedError(Outcome.LOST)
    assert len(pace.left) == 1


def test_without_redis_every_call_passes_and_nothing_is_asked_for_a_while(clock: ManualClock) -> None:
    pace = ScriptedPace([RedisConnectionError(), Place("open", 0)])
    governor = governor_over(pace, clock)
    call(governor)
    call(governor)
    assert len(pace.asked) == 1
    clock.now += PAUSE_AFTER_FAILURE_S
    call(governor)
    assert len(pace.asked) == 2
    assert clock.sleeps == []
