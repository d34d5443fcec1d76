"""The governor: lets provider calls in at the pace that the account bears, shared by every process through Redis.

Nothing is paced until a limit is set or a provider answers 429. While Redis is away every call passes.
"""

import hashlib
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog
from redis import Redis
from redis.exceptions import RedisError

from app.providers.failures import CallFailedError, Outcome
from app.providers.lanes import Caller, Lane, current_caller
from app.providers.pace import Load, Pace, Place

log = structlog.get_logger(__name__)

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
