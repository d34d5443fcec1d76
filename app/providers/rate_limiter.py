"""The rate limiter: lets provider calls in at the pace that the account bears, by the priority of who calls.

The rate is paced by GCRA (the "leaky bucket as a meter": one time, `next`, at which the next call is due). After a 429
the rate follows CUBIC (RFC 9438): a share of what hurt, back to that within `REGAIN_S`, slowly around it, and then ever
faster, so that a limit that is gone is forgotten. Being a function of time it needs no writes to climb.

Nothing is paced until a limit is set or a provider answers 429. While Redis is away every call passes.
"""

import hashlib
import math
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum

import structlog
from redis import Redis
from redis.exceptions import RedisError

from app.providers.errors import CallFailedError, Outcome

log = structlog.get_logger(__name__)

FALL = 0.15
"""Share of the rate that a 429 takes away: less finds the limit late, more leaves it unused until it is regained."""

REGAIN_S = 20.0
"""Seconds until the rate is what it was at the 429: one or two 429s in 20 s of calls stay below 1 %."""

FORGET_S = 200
"""Seconds after a 429 when nothing is left of it: ten times REGAIN_S, where the curve is at 147 times the old rate."""

START_PER_S = 10.0
"""Requests per second that the first 429 leaves at least: a stray one on a quiet account tells nothing of its limit."""

FLOOR_PER_S = 5.0
"""Requests per second below which no 429 brings the rate: a provider that bears less has trouble, not a limit, and each
step's own back-off is the answer to that."""

SETTLE_S = 1.0
"""Seconds after a 429 in which further ones change nothing: they answer calls that were under way."""

PAUSE_S = 0.5
"""Seconds without a call after a 429 that names no Retry-After."""

BURST_S = 0.5
"""Seconds' worth of calls that may go at once after a lull: one number's handful must not be spread over a second."""

_SHARED = f"""
local stamp = redis.call('TIME')
local now = stamp[1] + stamp[2] / 1000000
local ceiling = tonumber(ARGV[1])
local pace = redis.call('HMGET', KEYS[1], 'next', 'peak', 'cut')
local due, peak, cut = tonumber(pace[1]) or 0, tonumber(pace[2]), tonumber(pace[3])
local rate = ceiling > 0 and ceiling or math.huge
if peak then
  rate = math.min(rate, peak * (1 + {FALL} * ((now - cut) / {REGAIN_S} - 1) ^ 3))
end
local function tally(calls)
  local seen = redis.call('HMGET', KEYS[2], 'at', 'count', 'before')
  local at, count, before = tonumber(seen[1]) or now, tonumber(seen[2]) or 0, tonumber(seen[3]) or 0
  if now - at >= 2 then
    at, count, before = now, 0, 0
  elseif now - at >= 1 then
    at, count, before = at + 1, 0, count
  end
  count = count + calls
  if calls ~= 0 then
    redis.call('HSET', KEYS[2], 'at', at, 'count', count, 'before', before)
    redis.call('EXPIRE', KEYS[2], 10)
  end
  return count + before * (1 - (now - at))
end
"""
"""Requests of the last second are told by two one-second windows, the older one weighted by what of it still counts."""

_TAKE = f"""{_SHARED}
local places, is_bulk, patience = tonumber(ARGV[2]), ARGV[3] == 'bulk', tonumber(ARGV[4])
local token, hold, unsaid = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])
if places > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
  local left = places - redis.call('ZCARD', KEYS[3])
  if left <= (is_bulk and math.floor(places / 5) or 0) then
    tally(unsaid)
    return {{'full', '0'}}
  end
end
local wait = 0
if rate < math.huge then
  local slot = math.max(due, now - {BURST_S} + 1 / math.max(rate, 2))
  wait = math.max(0, slot - now)
  if wait > (is_bulk and 0 or patience) then
    tally(unsaid)
    return {{'early', tostring(wait)}}
  end
  redis.call('HSET', KEYS[1], 'next', slot + 1 / rate)
  if not peak then redis.call('EXPIRE', KEYS[1], {FORGET_S}) end
end
if places > 0 then
  redis.call('ZADD', KEYS[3], now + wait + hold, token)
  redis.call('EXPIRE', KEYS[3], math.ceil(wait + hold) + 1)
end
tally(unsaid + 1)
return {{rate < math.huge and 'paced' or places > 0 and 'counted' or 'open', tostring(wait)}}
"""
"""Singles take the next slot ahead of time; bulk takes one only when it is due, and leaves a fifth of the places."""

_CUT = f"""{_SHARED}
local retry_after, unsaid = tonumber(ARGV[2]), tonumber(ARGV[3])
local taken = tally(unsaid - 1)
if not cut or now - cut >= {SETTLE_S} then
  peak = math.max(math.min(rate, math.max(taken, {START_PER_S})), {FLOOR_PER_S} / (1 - {FALL}))
  redis.call('HSET', KEYS[1], 'peak', peak, 'cut', now, 'next', math.max(due, now + math.max(retry_after, {PAUSE_S})))
  redis.call('EXPIRE', KEYS[1], {FORGET_S} + math.ceil(retry_after))
elseif retry_after > 0 then
  redis.call('HSET', KEYS[1], 'next', math.max(due, now + retry_after))
end
return tostring(peak)
"""
"""What hurt is the rate in force, or, where none was, what the provider took in the last second."""

_LOOK = f"""{_SHARED}
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
return {{rate < math.huge and tostring(rate) or '', tostring(tally(0)), redis.call('ZCARD', KEYS[3])}}
"""


@dataclass(frozen=True)
class Place:
    """What a call was told. `paced`, `counted` and `open` let it in after `wait_s`; `early` and `full` do not."""

    told: str
    wait_s: float

    @property
    def is_taken(self) -> bool:
        """Whether the call may go, once `wait_s` has passed."""
        return self.told not in {"early", "full"}


@dataclass(frozen=True)
class Load:
    """What an account bears now."""

    allowed_per_s: float | None
    """Requests per second that it is given at most; None: no limit is in force."""
    sent_per_s: float
    """Requests that it took in the last second."""
    in_flight: int
    """Requests under way; counted only where their number is limited."""


class Pace:
    """The pace of one account. `account` is its key in Redis, without a secret."""

    def __init__(self, client: Redis, account: str, per_s: float | None, in_flight: int | None, hold_s: float) -> None:
        self.in_flight = in_flight
        self._client = client
        self._per_s = per_s or 0
        self._hold_s = hold_s
        # The braces keep the three on one node of a cluster.
        self._keys = [f"trunkline-governor:{{{account}}}:{name}" for name in ("pace", "seen", "in-flight")]
        self._take = client.register_script(_TAKE)
        self._cut = client.register_script(_CUT)
        self._look = client.register_script(_LOOK)

    def take(self, lane: str, token: str, patience_s: float, unsaid: int) -> Place:
        """Ask for a place within `patience_s`; `unsaid` are the calls made since without asking."""
        asked = (self._per_s, self.in_flight or 0, lane, patience_s, token, self._hold_s, unsaid)
        told, wait_s = self._take(self._keys, asked)
        return Place(told.decode(), float(wait_s))

    def leave(self, token: str) -> None:
        """Give the place back; one that nobody gives back is free after `hold_s`."""
        self._client.zrem(self._keys[2], token)

    def cut(self, retry_after_s: float | None, unsaid: int) -> float:
        """Slow everybody down after a 429; return the requests per second that were too many."""
        return float(self._cut(self._keys, (self._per_s, retry_after_s or 0, unsaid)))

    def look(self) -> Load:
        """Return what the account bears, and change nothing."""
        allowed, sent, in_flight = self._look(self._keys, (self._per_s,))
        return Load(float(allowed) if allowed else None, float(sent), int(in_flight))


class Lane(StrEnum):
    """How a call stands in line for a provider."""

    SINGLE = "single"
    """Takes the next place there is."""
    BULK = "bulk"
    """Takes a place only when nobody else wants it now."""


@dataclass
class Caller:
    """One piece of work that makes provider calls, a step or an audit."""

    lane: Lane = Lane.SINGLE
    until: float | None = None
    """The monotonic clock, seconds, at which its last call must have been let in; None: the governor's own bound."""
    patience_s: float | None = None
    """Seconds that one call may wait; None: the governor's own bound."""
    finishes_first: bool = True
    """Whether its calls after the first go in the single lane: what has begun holds a lease, and others wait for it."""
    has_called: bool = False
    """Whether a call of it was let in."""
    stall_s: float = math.inf
    """Seconds after which an answer counts as one of a provider that stands still: what waits there lands later."""
    has_stalled: bool = False
    """Whether a call of it got no answer, or one as late as that."""
    ends_at: float | None = None
    """The monotonic clock, seconds, at which its last call must be over; None: each call's own timeout."""

    def note_answer(self, seconds: float, *, is_lost: bool) -> None:
        """Note how long a call took, and whether any answer came."""
        self.has_stalled = self.has_stalled or is_lost or seconds > self.stall_s

    def may_call(self) -> bool:
        """Say whether this process has room for its calls."""
        return True

    @property
    def lane_now(self) -> Lane:
        """The lane of its next call."""
        return Lane.SINGLE if self.has_called and self.finishes_first else self.lane


_caller: ContextVar[Caller | None] = ContextVar("caller", default=None)


def current_caller() -> Caller:
    """Return who is calling; where nobody has said so, a single call of its own."""
    return _caller.get() or Caller()


def time_for_call(timeout_s: float) -> float:
    """Return how many seconds the next call may take, `timeout_s` at most; none are left where it is not above 0."""
    ends_at = current_caller().ends_at
    return timeout_s if ends_at is None else min(timeout_s, ends_at - time.monotonic())


@contextmanager
def calling(caller: Caller) -> Iterator[Caller]:
    """Make the provider calls of the block this caller's. Threads started in the block do not inherit it."""
    token = _caller.set(caller)
    try:
        yield caller
    finally:
        _caller.reset(token)


REDIS_TIMEOUT_S = 0.25
"""Seconds that Redis may take: a governor that makes everybody wait would be worse than none."""

PAUSE_AFTER_FAILURE_S = 5.0
"""Seconds in which nothing is asked after Redis did not answer."""

OPEN_S = 0.05
"""Seconds for which "no limit is in force" is believed: what a 429 seen by another process may cost in calls."""

FULL_POLL_S = 0.02
"""Seconds between two looks for a free place: a tenth of a call's length."""

TOO_MANY = 429


class Governor:
    """Governs the calls of one process to one provider account; safe to share between threads.

    `patience_s` is how long a call may wait at most; what would wait longer fails with `Outcome.HELD_BACK`.
    """

    def __init__(
        self,
        pace: Pace,
        provider: str,
        patience_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._pace = pace
        self._provider = provider
        self._patience_s = patience_s
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._head_of_bulk = threading.Lock()
        self._unsaid = 0
        self._open_until = 0.0
        self._silent_until = 0.0

    @contextmanager
    def place(self) -> Iterator[None]:
        """Make one call in the block, as soon as the account bears it; a 429 slows everybody down."""
        token = self._enter(current_caller())
        try:
            yield
        except CallFailedError as failure:
            if failure.status == TOO_MANY:
                self._slow_down(failure.retry_after_s)
            raise
        finally:
            if token:
                self._leave(token)

    def load(self) -> Load | None:
        """Return what the account bears now, of all processes; None while Redis is away."""
        try:
            return self._pace.look()
        except (RedisError, OSError):
            return None

    def _enter(self, caller: Caller) -> str | None:
        """Return once the call may go: the token of its place, or None where places are not counted."""
        if self._passes():
            caller.has_called = True
            return None
        give_up_at = self._clock() + (self._patience_s if caller.patience_s is None else caller.patience_s)
        if caller.until is not None:
            give_up_at = min(give_up_at, caller.until)
        token = uuid.uuid4().hex if self._pace.in_flight else ""
        if caller.lane_now is Lane.SINGLE:
            self._stand_in_line(Lane.SINGLE, token, give_up_at)
        else:
            # One thread of a process asks for bulk, the others stand behind it: they would only ask in vain.
            if not self._head_of_bulk.acquire(timeout=max(give_up_at - self._clock(), 0)):
                raise _held_back(self._patience_s)
            try:
                self._stand_in_line(Lane.BULK, token, give_up_at)
            finally:
                self._head_of_bulk.release()
        caller.has_called = True
        return token or None

    def _passes(self) -> bool:
        """Say whether nobody needs to be asked: no limit was in force a moment ago, or Redis is away."""
        now = self._clock()
        if now < self._silent_until:
            return True
        if now >= self._open_until:
            return False
        with self._lock:
            self._unsaid += 1
        return True

    def _stand_in_line(self, lane: Lane, token: str, give_up_at: float) -> None:
        while True:
            left_s = max(give_up_at - self._clock(), 0)
            place = self._ask(lane, token, left_s)
            wait_s = FULL_POLL_S if place.told == "full" else place.wait_s
            if not place.is_taken and wait_s > left_s:
                raise _held_back(max(wait_s, self._patience_s))
            if wait_s:
                self._sleep(wait_s)
            if place.is_taken:
                return

    def _ask(self, lane: Lane, token: str, patience_s: float) -> Place:
        unsaid = self._take_unsaid()
        try:
            place = self._pace.take(lane, token, patience_s, unsaid)
        except (RedisError, OSError) as error:
            self._be_silent(error)
            return Place("open", 0)
        if place.told == "open":
            self._open_until = self._clock() + OPEN_S
        return place

    def _slow_down(self, retry_after_s: float | None) -> None:
        self._open_until = 0.0
        if self._clock() < self._silent_until:
            return
        try:
            too_many_per_s = self._pace.cut(retry_after_s, self._take_unsaid())
        except (RedisError, OSError) as error:
            self._be_silent(error)
            return
        log.info("provider_slowed", provider=self._provider, too_many_per_s=round(too_many_per_s, 2))

    def _leave(self, token: str) -> None:
        if self._clock() < self._silent_until:
            return
        try:
            self._pace.leave(token)
        except (RedisError, OSError) as error:
            self._be_silent(error)

    def _take_unsaid(self) -> int:
        with self._lock:
            unsaid, self._unsaid = self._unsaid, 0
        return unsaid

    def _be_silent(self, error: Exception) -> None:
        log.warning("governor_off", provider=self._provider, error=type(error).__name__)
        self._silent_until = self._clock() + PAUSE_AFTER_FAILURE_S


def _held_back(retry_after_s: float) -> CallFailedError:
    return CallFailedError(Outcome.HELD_BACK, retry_after_s=retry_after_s)


def make_governor(
    redis_url: str, provider: str, account: str, *, per_s: float | None, in_flight: int | None, timeout_s: float
) -> Governor:
    """Build the governor of one account. `per_s` and `in_flight` are its known limits; None: found by its 429s."""
    client = Redis.from_url(redis_url, socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S)
    name = f"{provider}:{hashlib.sha256(account.encode()).hexdigest()[:16]}"
    # A call may take its timeout and a little; half of it is what one may wait, so that a lease holds both and more.
    return Governor(Pace(client, name, per_s, in_flight, hold_s=1.2 * timeout_s), provider, patience_s=timeout_s / 2)
