"""The rate limiter: lets a provider call out when the account can take it; single calls go before bulk calls.

The limits of an account are shared by all processes through Redis. The rate is kept by GCRA (the "leaky bucket as a
meter": one time, `next`, at which the next call is due). After a 429 the rate follows CUBIC (RFC 9438): it falls by a
share, is back at the old rate within `REGAIN_S`, grows slowly around it and then ever faster, so that a limit that no
longer applies is forgotten. The rate is a function of time, so it needs no writes to grow.

No call is delayed until a limit is set or a provider responds with 429. While Redis is away every call passes.
"""

import hashlib
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import structlog
from redis import Redis
from redis.exceptions import RedisError

from app.providers.callers import Caller, CallPriority, current_caller
from app.providers.errors import CallFailedError, Outcome

log = structlog.get_logger(__name__)

FALL = 0.15
"""Share of the rate that a 429 takes away: less finds the limit late, more leaves it unused until it is regained."""

REGAIN_S = 20.0
"""Seconds until the rate is what it was at the 429: one or two 429s in 20 s of calls stay below 1 %."""

FORGET_S = 200
"""Seconds after a 429 when it has no effect any more: ten times REGAIN_S, where the curve is at 147 times the old rate.
"""

START_PER_S = 10.0
"""Requests per second that the first 429 leaves at least: a stray one on a quiet account says nothing of its limit."""

FLOOR_PER_S = 5.0
"""Requests per second below which no 429 brings the rate: a provider that takes less has trouble, not a limit, and each
step's own backoff deals with that."""

SETTLE_S = 1.0
"""Seconds after a 429 in which further ones change nothing: they respond to calls that were under way."""

PAUSE_S = 0.5
"""Seconds without a call after a 429 that names no Retry-After."""

BURST_S = 0.5
"""Seconds' worth of calls that may go at once after a quiet time: the few calls of one number must not be spread over a
second."""

_LUA_CONSTANTS = {
    "FALL": FALL,
    "REGAIN_S": REGAIN_S,
    "FORGET_S": FORGET_S,
    "START_PER_S": START_PER_S,
    "FLOOR_PER_S": FLOOR_PER_S,
    "SETTLE_S": SETTLE_S,
    "PAUSE_S": PAUSE_S,
    "BURST_S": BURST_S,
}


def _read_script(name: str) -> str:
    """Read a script from the folder `lua`, after our constants and the part that all of them begin with."""
    folder = Path(__file__).with_name("lua")
    constants = f"local {', '.join(_LUA_CONSTANTS)} = {', '.join(map(str, _LUA_CONSTANTS.values()))}"
    return "\n".join((constants, (folder / "account.lua").read_text("utf-8"), (folder / name).read_text("utf-8")))


class Decision(StrEnum):
    """What Redis decided about a call."""

    SCHEDULED = "scheduled"
    """It may go once the wait is over."""
    COUNTED = "counted"
    """It may go at once; only the number of requests in flight is limited."""
    UNLIMITED = "unlimited"
    """It may go at once; no limit is in force."""
    TOO_EARLY = "too_early"
    """It may not go: its slot is too far away."""
    FULL = "full"
    """It may not go: too many requests are in flight."""


@dataclass(frozen=True)
class Permit:
    """The decision about one call, and the seconds until it may go, or may ask again."""

    decision: Decision
    wait_s: float

    @property
    def is_granted(self) -> bool:
        """Whether the call may go, once `wait_s` has passed."""
        return self.decision not in {Decision.TOO_EARLY, Decision.FULL}


@dataclass(frozen=True)
class Load:
    """What an account takes now."""

    allowed_per_s: float | None
    """Requests per second that it is sent at most; None: no limit is in force."""
    sent_per_s: float
    """Requests that it took in the last second."""
    in_flight: int
    """Requests under way; counted only where their number is limited."""


class AccountLimits:
    """The limits of one account, in Redis. `account` is part of the keys there and holds no secret.

    `per_s` and `in_flight` are the configured limits. A request in flight that is never released ends after `hold_s`.
    """

    def __init__(self, client: Redis, account: str, per_s: float | None, in_flight: int | None, hold_s: float) -> None:
        self.account = account
        self.in_flight = in_flight
        self._client = client
        self._per_s = per_s or 0
        self._hold_s = hold_s
        # The braces keep the three on one node of a cluster. The names are those of earlier releases, so that old and
        # new processes share the limits during an upgrade.
        self._keys = [f"trunkline-governor:{{{account}}}:{name}" for name in ("pace", "seen", "in-flight")]
        self._acquire = client.register_script(_read_script("acquire.lua"))
        self._reduce = client.register_script(_read_script("reduce.lua"))
        self._load = client.register_script(_read_script("load.lua"))

    def acquire(self, priority: CallPriority, token: str, max_wait_s: float, unreported: int) -> Permit:
        """Ask for one call within `max_wait_s`; `unreported` is the number of calls made since without asking."""
        request = (self._per_s, self.in_flight or 0, priority, max_wait_s, token, self._hold_s, unreported)
        decision, wait_s = self._acquire(self._keys, request)
        return Permit(Decision(decision.decode()), float(wait_s))

    def release(self, token: str) -> None:
        """End a request in flight."""
        self._client.zrem(self._keys[2], token)

    def reduce(self, retry_after_s: float | None, unreported: int) -> float:
        """Lower the rate of all processes after a 429; return the requests per second that were too many."""
        return float(self._reduce(self._keys, (self._per_s, retry_after_s or 0, unreported)))

    def load(self) -> Load:
        """Return what the account takes now, and change nothing."""
        allowed, sent, in_flight = self._load(self._keys, (self._per_s,))
        return Load(float(allowed) if allowed else None, float(sent), int(in_flight))


REDIS_TIMEOUT_S = 0.25
"""Seconds that Redis may take: a rate limiter that delays every call would be worse than none."""

PAUSE_AFTER_FAILURE_S = 5.0
"""Seconds in which Redis is not asked after it did not respond."""

UNLIMITED_S = 0.05
"""Seconds for which "no limit is in force" is trusted: how long a 429 seen by another process may go unnoticed."""

FULL_POLL_S = 0.02
"""Seconds between two requests for a free place in flight: a tenth of a call's length."""

TOO_MANY_REQUESTS = 429


CROWD = 4
"""Threads of a process that may wait for one account while others are called: fewer leave its slots unused, more keep
the others' work waiting for a thread."""

CALLED_WITHIN_S = 60.0
"""Seconds for which an account counts as called."""


class Waiters:
    """The threads of one process that wait for their turn, by account; all its rate limiters share one.

    An account's name begins with its provider: the two providers of one path are called in any case.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: Counter[str] = Counter()
        self._called_at: dict[str, float] = {}

    @contextmanager
    def joined(self, account: str) -> Iterator[bool]:
        """Count this thread in the block; say whether it may wait: one account alone may have every thread."""
        with self._lock:
            now = self._clock()
            self._called_at[account] = now
            others = (one for one, at in self._called_at.items() if now - at <= CALLED_WITHIN_S and one != account)
            is_alone = all(_provider(one) != _provider(account) for one in others)
            may_wait = is_alone or self._waiting[account] < CROWD
            self._waiting[account] += 1
        try:
            yield may_wait
        finally:
            with self._lock:
                self._waiting[account] -= 1


def _provider(account: str) -> str:
    return account.partition(":")[0]


class RateLimiter:
    """Limits the calls of one process to one provider account; safe to share between threads.

    `max_wait_s` is how long a call may wait at most; what would wait longer fails with `Outcome.HELD_BACK`.
    """

    def __init__(
        self,
        limits: AccountLimits,
        provider: str,
        max_wait_s: float,
        *,
        waiters: Waiters | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._limits = limits
        self._provider = provider
        self._max_wait_s = max_wait_s
        self._waiters = waiters or Waiters(clock)
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._bulk_lock = threading.Lock()
        self._unreported = 0
        self._unlimited_until = 0.0
        self._suspended_until = 0.0

    @contextmanager
    def limited_call(self) -> Iterator[None]:
        """Make one call in the block, as soon as the account can take it; a 429 slows all processes down."""
        token = self._acquire(current_caller())
        try:
            yield
        except CallFailedError as failure:
            if failure.status == TOO_MANY_REQUESTS:
                self._reduce(failure.retry_after_s)
            raise
        finally:
            if token:
                self._release(token)

    def load(self) -> Load | None:
        """Return what the account takes now, of all processes; None while Redis is away."""
        try:
            return self._limits.load()
        except (RedisError, OSError):
            return None

    def _acquire(self, caller: Caller) -> str | None:
        """Return once the call may go: the token of its place in flight, or None where these are not limited."""
        if self._needs_no_permit():
            caller.has_called = True
            return None
        give_up_at = self._clock() + (self._max_wait_s if caller.max_wait_s is None else caller.max_wait_s)
        if caller.last_start_at is not None:
            give_up_at = min(give_up_at, caller.last_start_at)
        token = uuid.uuid4().hex if self._limits.in_flight else ""
        with self._waiters.joined(self._limits.account) as may_wait:
            self._take_turn(caller.next_priority, token, give_up_at if may_wait else self._clock())
        caller.has_called = True
        return token or None

    def _take_turn(self, priority: CallPriority, token: str, give_up_at: float) -> None:
        if priority is CallPriority.SINGLE:
            self._wait_for_permit(CallPriority.SINGLE, token, give_up_at)
            return
        # One thread of a process asks for bulk calls at a time: the others would only ask in vain.
        if not self._bulk_lock.acquire(timeout=max(give_up_at - self._clock(), 0)):
            raise _held_back(self._max_wait_s)
        try:
            self._wait_for_permit(CallPriority.BULK, token, give_up_at)
        finally:
            self._bulk_lock.release()

    def _needs_no_permit(self) -> bool:
        """Say whether Redis need not be asked: no limit was in force a moment ago, or it is away."""
        now = self._clock()
        if now < self._suspended_until:
            return True
        if now >= self._unlimited_until:
            return False
        with self._lock:
            self._unreported += 1
        return True

    def _wait_for_permit(self, priority: CallPriority, token: str, give_up_at: float) -> None:
        while True:
            left_s = max(give_up_at - self._clock(), 0)
            permit = self._ask(priority, token, left_s)
            wait_s = FULL_POLL_S if permit.decision is Decision.FULL else permit.wait_s
            if not permit.is_granted and wait_s > left_s:
                raise _held_back(max(wait_s, self._max_wait_s))
            if wait_s:
                self._sleep(wait_s)
            if permit.is_granted:
                return

    def _ask(self, priority: CallPriority, token: str, max_wait_s: float) -> Permit:
        unreported = self._take_unreported()
        try:
            permit = self._limits.acquire(priority, token, max_wait_s, unreported)
        except (RedisError, OSError) as error:
            self._suspend(error)
            return Permit(Decision.UNLIMITED, 0)
        if permit.decision is Decision.UNLIMITED:
            self._unlimited_until = self._clock() + UNLIMITED_S
        return permit

    def _reduce(self, retry_after_s: float | None) -> None:
        self._unlimited_until = 0.0
        if self._clock() < self._suspended_until:
            return
        try:
            too_many_per_s = self._limits.reduce(retry_after_s, self._take_unreported())
        except (RedisError, OSError) as error:
            self._suspend(error)
            return
        log.info("provider_slowed", provider=self._provider, too_many_per_s=round(too_many_per_s, 2))

    def _release(self, token: str) -> None:
        if self._clock() < self._suspended_until:
            return
        try:
            self._limits.release(token)
        except (RedisError, OSError) as error:
            self._suspend(error)

    def _take_unreported(self) -> int:
        with self._lock:
            unreported, self._unreported = self._unreported, 0
        return unreported

    def _suspend(self, error: Exception) -> None:
        log.warning("rate_limiter_off", provider=self._provider, error=type(error).__name__)
        self._suspended_until = self._clock() + PAUSE_AFTER_FAILURE_S


def _held_back(retry_after_s: float) -> CallFailedError:
    return CallFailedError(Outcome.HELD_BACK, retry_after_s=retry_after_s)


_WAITERS = Waiters()
"""Of this process."""


def make_rate_limiter(
    redis_url: str, provider: str, account: str, *, per_s: float | None, in_flight: int | None, timeout_s: float
) -> RateLimiter:
    """Build the rate limiter of one account. `per_s` and `in_flight` are known limits; None: found from its 429s."""
    client = Redis.from_url(redis_url, socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S)
    name = f"{provider}:{hashlib.sha256(account.encode()).hexdigest()[:16]}"
    limits = AccountLimits(client, name, per_s, in_flight, hold_s=1.2 * timeout_s)
    # A call takes its timeout at most and waits half of it at most, so that a lease has room for both and more.
    return RateLimiter(limits, provider, max_wait_s=timeout_s / 2, waiters=_WAITERS)
