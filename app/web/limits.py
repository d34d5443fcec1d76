"""Rate-limits writing calls per API key, and bounds how many requests may ask a provider at once."""

import math
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import structlog
from flask import Flask, g
from limits import RateLimitItem, parse
from limits.storage import RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from redis.exceptions import RedisError

from app.providers.callers import Caller, calling
from app.settings import Settings

log = structlog.stdlib.get_logger()

REDIS_TIMEOUT_S = 0.25
"""Seconds that counting may take: a limit that makes everybody wait would be worse than none."""

PAUSE_AFTER_FAILURE_S = 5.0
"""Seconds without counting after Redis did not respond."""


BATCHES = 200
"""Batches in which a limit is taken from Redis: one round trip per batch, not per call.

What a process has taken and does not use is counted too early or used too late: half a percent of the limit.
"""


@dataclass(frozen=True)
class Allowance:
    """What one key may still send: calls, and the whole seconds until it may send more than that."""

    calls: int
    more_in_s: int
    may_pass: bool = True
    """Whether the call that was counted may pass; if not, `more_in_s` says when one may."""


@dataclass
class Batch:
    """Calls that this process has taken from Redis and not used, and what Redis had left beside them."""

    calls: int
    beside: int
    more_at: float
    ends_at: float


class RateLimit:
    """The same limit for each key; while Redis is down every request passes."""

    def __init__(self, item: RateLimitItem, redis_url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._storage = RedisStorage(
            redis_url,
            key_prefix="trunkline-rate",
            socket_timeout=REDIS_TIMEOUT_S,
            socket_connect_timeout=REDIS_TIMEOUT_S,
        )
        self._item = item
        self._limiter = SlidingWindowCounterRateLimiter(self._storage)
        self._batch = max(item.amount // BATCHES, 1)
        self._batches: dict[str, Batch] = {}
        self._clock = clock
        self._lock = threading.Lock()
        self._paused_until = 0.0

    @property
    def policy(self) -> tuple[int, int]:
        """How many calls may pass in how many seconds."""
        return self._item.amount, self._item.get_expiry()

    def take(self, who: str) -> Allowance | None:
        """Count one call of `who`; return whether it may pass and what is left. None: nothing is counted for now."""
        if self._clock() < self._paused_until:
            return None
        if (left := self._use_batch(who)) is not None:
            return left
        try:
            for calls in dict.fromkeys((self._batch, 1)):
                if self._limiter.hit(self._item, who, cost=calls):
                    return self._keep_batch(who, calls - 1)
            return Allowance(0, self._wait_s(who), may_pass=False)
        except (RedisError, OSError) as error:
            self._pause(error)
            return None

    def charge(self, who: str, calls: int) -> Allowance | None:
        """Count several more calls of `who`, at most the whole limit; return as for a single call.

        They pass while the limit is not overdrawn, and may overdraw it: so a request of any size is possible, and the
        key waits afterwards until the excess has expired.
        """
        cost = min(calls, self._item.amount - 1)
        if cost <= 0 or self._clock() < self._paused_until:
            return None
        key, limit = self._item.key_for(who), self._item.amount + cost
        try:
            if self._storage.acquire_sliding_window_entry(key, limit, self._item.get_expiry(), cost):
                return self._keep_batch(who)
            return Allowance(0, self._wait_s(who), may_pass=False)
        except (RedisError, OSError) as error:
            self._pause(error)
            return None

    def _wait_s(self, who: str) -> int:
        """Return the seconds until one call may pass; the previous window counts by how much of it still overlaps."""
        span_s, limit = self._item.get_expiry(), self._item.amount
        before, before_s, now, now_s = self._storage.get_sliding_window(self._item.key_for(who), span_s)
        if now >= limit:  # used up or overdrawn: this window has to become the previous one, and then expire
            wait_s = _rest(now_s, span_s) + span_s * (1 - limit / now)
        else:
            wait_s = before_s - span_s * (limit - now) / before if before else 0.0
        return max(math.ceil(wait_s), 1)

    def _left(self, who: str) -> tuple[int, float]:
        """Return how many calls Redis has left, and the seconds until it has one more.

        The calls of the previous window expire one by one, those of this one begin to with its end.
        """
        span_s = self._item.get_expiry()
        before, before_s, now, now_s = self._storage.get_sliding_window(self._item.key_for(who), span_s)
        left = self._item.amount - math.floor(before * before_s / span_s + now)
        next_s = _rest(before_s, span_s / before) if before else float(span_s)
        return max(left, 0), min(next_s, _rest(now_s, span_s))

    def _pause(self, error: Exception) -> None:
        log.warning("rate_limit_off", error=type(error).__name__)
        with self._lock:
            self._paused_until = self._clock() + PAUSE_AFTER_FAILURE_S

    def _keep_batch(self, who: str, calls: int | None = None) -> Allowance:
        """Keep so many calls, or those that are kept already, with what Redis has left beside them."""
        beside, more_in_s = self._left(who)
        now = self._clock()
        with self._lock:
            kept = self._batches.get(who)
            if calls is not None:
                # For as long as Redis counts them.
                batch = Batch(calls, beside, now + more_in_s, now + self._item.get_expiry())
            else:
                batch = replace(kept or Batch(0, 0, 0, now), beside=beside, more_at=now + more_in_s)
            self._batches[who] = batch
            return _allowance(batch, now)

    def _use_batch(self, who: str) -> Allowance | None:
        """Use one call of a batch that this process has taken; None if there is none."""
        now = self._clock()
        with self._lock:
            batch = self._batches.get(who)
            if batch is None or batch.calls == 0 or now >= batch.ends_at:
                return None
            batch.calls -= 1
            return _allowance(batch, now)


def _rest(left_s: float, span_s: float) -> float:
    """Return the seconds to the end of the span that is running, of those that end in `left_s`; at its start all of it.

    Redis keeps a window for a second span, in which it is the previous one.
    """
    return left_s % span_s or span_s


def _allowance(batch: Batch, now: float) -> Allowance:
    # Rounded, since the sum and difference of two times may be a little more than it was.
    return Allowance(batch.calls + batch.beside, max(math.ceil(round(batch.more_at - now, 3)), 1))


def make_rate_limit(settings: Settings) -> RateLimit | None:
    """Build the rate limit of the settings; None if it is off."""
    if settings.rate_limit == "off":
        return None
    return RateLimit(parse(settings.rate_limit), settings.redis_url)


MAX_CALLING_REQUESTS = 4
"""Requests of one process that may call a provider at the same time. Each holds one of 16 threads, as do the 8 that
wait for an operation (`MAX_WAITERS`): 4 threads stay free for health, polls, and whatever needs only the database."""

DEADLINE_S = 20.0
"""Seconds that a request has from the start of its first provider call to the end of its last: less than browsers,
proxies and clients wait for a response, and enough for five calls at four times their usual duration."""

_slots = threading.BoundedSemaphore(MAX_CALLING_REQUESTS)


@dataclass
class RequestCaller(Caller):
    """The provider calls of one HTTP request: the first one takes a slot, which the request keeps."""

    has_slot: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)
    """A request may make calls in parallel."""

    def may_call(self) -> bool:
        """Take a slot unless the request has one; say whether it has one now."""
        with self.lock:
            if not self.has_slot and _slots.acquire(blocking=False):
                self.has_slot = True
                self.ends_at = self.last_start_at = time.monotonic() + DEADLINE_S
            return self.has_slot

    def close(self) -> None:
        """Release the slot."""
        if self.has_slot:
            self.has_slot = False
            _slots.release()


def register_provider_calls(app: Flask) -> None:
    """Apply these limits to the provider calls of every request, whichever view makes them."""
    app.before_request(_begin)
    app.teardown_request(_end)


def _begin() -> None:
    caller = RequestCaller()
    g.provider_calls = ExitStack()
    g.provider_calls.callback(caller.close)
    g.provider_calls.enter_context(calling(caller))


def _end(_error: BaseException | None) -> None:
    if (provider_calls := g.pop("provider_calls", None)) is not None:
        provider_calls.close()
