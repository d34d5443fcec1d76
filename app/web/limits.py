"""Rate-limits writing calls per API key, and bounds how many requests may ask a provider at once."""

import math
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

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
        self._taken: dict[str, tuple[int, float]] = {}
        self._clock = clock
        self._lock = threading.Lock()
        self._paused_until = 0.0

    def retry_after_s(self, who: str) -> int | None:
        """Count one call of `who`; return None if it may pass, else the seconds until the next one may."""
        if self._clock() < self._paused_until or self._use_taken(who):
            return None
        try:
            if self._batch > 1 and self._limiter.hit(self._item, who, cost=self._batch):
                self._take_batch(who)
                return None
            if self._limiter.hit(self._item, who):
                return None
            return self._wait_s(who)
        except (RedisError, OSError) as error:
            self._pause(error)
            return None

    def charge(self, who: str, calls: int) -> int | None:
        """Count several more calls of `who`, at most the whole limit; return None or seconds as for a single call.

        They pass while the limit is not overdrawn, and may overdraw it: so a request of any size is possible, and the
        key waits afterwards until the excess has expired.
        """
        cost = min(calls, self._item.amount - 1)
        if cost <= 0 or self._clock() < self._paused_until:
            return None
        key, limit = self._item.key_for(who), self._item.amount + cost
        try:
            if self._storage.acquire_sliding_window_entry(key, limit, self._item.get_expiry(), cost):
                return None
            return self._wait_s(who)
        except (RedisError, OSError) as error:
            self._pause(error)
            return None

    def _wait_s(self, who: str) -> int:
        """Return the seconds until one call may pass; the previous window counts by how much of it still overlaps."""
        span_s, limit = self._item.get_expiry(), self._item.amount
        before, before_s, now, now_s = self._storage.get_sliding_window(self._item.key_for(who), span_s)
        if now >= limit:  # used up or overdrawn: this window has to become the previous one, and then expire
            wait_s = now_s % span_s + span_s * (1 - limit / now)
        else:
            wait_s = before_s - span_s * (limit - now) / before if before else 0.0
        return max(math.ceil(wait_s), 1)

    def _pause(self, error: Exception) -> None:
        log.warning("rate_limit_off", error=type(error).__name__)
        with self._lock:
            self._paused_until = self._clock() + PAUSE_AFTER_FAILURE_S

    def _take_batch(self, who: str) -> None:
        """Keep the rest of a batch after this call, for as long as Redis counts it."""
        with self._lock:
            self._taken[who] = (self._batch - 1, self._clock() + self._item.get_expiry())

    def _use_taken(self, who: str) -> bool:
        """Use one call of a batch that this process has taken; say whether there was one."""
        with self._lock:
            left, until = self._taken.get(who, (0, 0.0))
            if left == 0 or self._clock() >= until:
                return False
            self._taken[who] = (left - 1, until)
            return True


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
