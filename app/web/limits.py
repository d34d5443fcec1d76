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

from app.providers.rate_limiter import Caller, calling
from app.settings import Settings

log = structlog.stdlib.get_logger()

REDIS_TIMEOUT_S = 0.25
"""Seconds that the count may take: a limit that makes everybody wait would be worse than none."""

PAUSE_AFTER_FAILURE_S = 5.0
"""Seconds in which nothing is counted after Redis did not answer."""


PACKETS = 200
"""Packets that a limit is taken from Redis in: a round trip for each of them and not for each call.

What a process holds of one and does not use is counted too early or used too late: half a percent of the limit.
"""


class RateLimit:
    """One limit for each key; while Redis is away every request passes."""

    def __init__(self, item: RateLimitItem, redis_url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._storage = RedisStorage(
            redis_url,
            key_prefix="trunkline-rate",
            socket_timeout=REDIS_TIMEOUT_S,
            socket_connect_timeout=REDIS_TIMEOUT_S,
        )
        self._item = item
        self._limiter = SlidingWindowCounterRateLimiter(self._storage)
        self._packet = max(item.amount // PACKETS, 1)
        self._held: dict[str, tuple[int, float]] = {}
        self._clock = clock
        self._lock = threading.Lock()
        self._silent_until = 0.0

    def retry_after_s(self, who: str) -> int | None:
        """Count one call of `who`; None where it may pass, else the seconds until another one may."""
        if self._clock() < self._silent_until or self._uses_held(who):
            return None
        try:
            if self._packet > 1 and self._limiter.hit(self._item, who, cost=self._packet):
                self._hold(who)
                return None
            if self._limiter.hit(self._item, who):
                return None
            return self._wait_s(who)
        except (RedisError, OSError) as error:
            self._fall_silent(error)
            return None

    def charge(self, who: str, calls: int) -> int | None:
        """Count so many more calls of `who` at once, at most the whole limit; None where they pass, as for one call.

        They pass while the limit is not overdrawn, and may overdraw it: however much is asked for, somebody can ask for
        it, and has to wait afterwards until it is made up for.
        """
        cost = min(calls, self._item.amount - 1)
        if cost <= 0 or self._clock() < self._silent_until:
            return None
        key, limit = self._item.key_for(who), self._item.amount + cost
        try:
            if self._storage.acquire_sliding_window_entry(key, limit, self._item.get_expiry(), cost):
                return None
            return self._wait_s(who)
        except (RedisError, OSError) as error:
            self._fall_silent(error)
            return None

    def _wait_s(self, who: str) -> int:
        """Return the seconds until one call may pass: the window before counts for as much as it still overlaps."""
        span_s, limit = self._item.get_expiry(), self._item.amount
        before, before_s, now, now_s = self._storage.get_sliding_window(self._item.key_for(who), span_s)
        if now >= limit:  # used up or overdrawn: this window must become the one before, and then wane
            wait_s = now_s % span_s + span_s * (1 - limit / now)
        else:
            wait_s = before_s - span_s * (limit - now) / before if before else 0.0
        return max(math.ceil(wait_s), 1)

    def _fall_silent(self, error: Exception) -> None:
        log.warning("rate_limit_off", error=type(error).__name__)
        with self._lock:
            self._silent_until = self._clock() + PAUSE_AFTER_FAILURE_S

    def _hold(self, who: str) -> None:
        """Keep what is left of a packet after this call, for as long as Redis counts it."""
        with self._lock:
            self._held[who] = (self._packet - 1, self._clock() + self._item.get_expiry())

    def _uses_held(self, who: str) -> bool:
        """Pay for one call from a packet that this process has."""
        with self._lock:
            left, until = self._held.get(who, (0, 0.0))
            if left == 0 or self._clock() >= until:
                return False
            self._held[who] = (left - 1, until)
            return True


def make_rate_limit(settings: Settings) -> RateLimit | None:
    """Build the limit that the settings ask for, if any."""
    if settings.rate_limit == "off":
        return None
    return RateLimit(parse(settings.rate_limit), settings.redis_url)


MAX_ASKING = 4
"""Requests of one process that may ask a provider at once. Each holds a thread of 16, as each of 8 that wait for an
operation does (`MAX_WAITERS`): 4 threads stay free for health, polls, and whatever needs the database only."""

DEADLINE_S = 20.0
"""Seconds from its first provider call to the end of its last that a request has: below what browsers, proxies and
clients wait for an answer, and enough for five calls at four times their usual length."""

_places = threading.BoundedSemaphore(MAX_ASKING)


@dataclass
class RequestCaller(Caller):
    """The provider calls of one HTTP request: the first one takes a place, which the request then keeps."""

    has_place: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)
    """A request may make its calls side by side."""

    def may_call(self) -> bool:
        """Take a place, unless it has one; say whether it has."""
        with self.lock:
            if not self.has_place and _places.acquire(blocking=False):
                self.has_place = True
                self.ends_at = self.last_start_at = time.monotonic() + DEADLINE_S
            return self.has_place

    def close(self) -> None:
        """Give the place back."""
        if self.has_place:
            self.has_place = False
            _places.release()


def register_provider_calls(app: Flask) -> None:
    """Put every request's provider calls under the bounds, whichever view makes them."""
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
