"""What an account has, as this process has last listed it: the requests of a process share one list of each account.

No request reads it by itself: a thread of the list does, and finishes even where nobody waits any more, so that the
next request gets what a slow provider has sent meanwhile.
"""

import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

FRESH_S = 60.0
"""Seconds for which a list is reused, from the end of its reading: one of many pages takes long."""

PAUSE_AFTER_FAILURE_S = 5.0
"""Seconds after a failed list in which its error is repeated and the provider is left alone."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Listed(Generic[T]):
    """What one reading has found."""

    value: T
    serial: int
    """Counts the readings of the list, from 1."""
    read_at: float
    """When its reading ended, monotonic time."""
    took_s: float


@dataclass(frozen=True, slots=True)
class _Failure:
    error: BaseException
    until: float


@dataclass(frozen=True, slots=True)
class _Reading(Generic[T]):
    serial: int
    began_at: float
    result: "Future[Listed[T]]"


class AccountList(Generic[T]):
    """One list; safe to share between threads, and read by one thread at a time.

    `name` is the thread's. `read` makes the provider's calls; an error of it is raised to all who wait. `waits_s` is
    how long after the beginning of a reading anybody waits for it, so that a slow provider does not hold up one request
    after the other.
    """

    def __init__(
        self,
        name: str,
        read: Callable[[], T],
        *,
        waits_s: float = math.inf,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._read = read
        self._waits_s = waits_s
        self._clock = clock
        self._lock = threading.Lock()
        self._listed: Listed[T] | None = None
        self._reading: _Reading[T] | None = None
        self._failure: _Failure | None = None
        self._begun = 0

    @property
    def held(self) -> Listed[T] | None:
        """What was last listed, however old."""
        return self._listed

    def forget(self) -> None:
        """Drop what was listed."""
        with self._lock:
            self._listed = None

    def get(self, take_wait_s: Callable[[], float], *, is_new: bool = False) -> T:
        """Return a fresh list; with `is_new` one whose reading begins from now on.

        `take_wait_s` is called once, where the provider has to be waited for: it returns the seconds that the caller
        has, or raises. `TimeoutError` after these; the error of a reading that fails, or has failed a moment ago.
        """
        with self._lock:
            asked = self._begun if is_new else 0
        listed = self._fresh(after=asked)
        if listed is not None:
            return listed.value
        give_up_at = self._clock() + take_wait_s()
        while not isinstance(found := self._fresh_or_coming(after=asked), Listed):
            left_s = min(give_up_at, found.began_at + self._waits_s) - self._clock()
            error = found.result.exception(None if math.isinf(left_s) else max(left_s, 0.0))
            if error is not None:
                raise error.with_traceback(None)
            if found.serial > asked:
                return found.result.result().value
        return found.value

    def _fresh(self, after: int) -> Listed[T] | None:
        """Return the list if its reading came after this one's, and is not long over; raise what has just failed."""
        now, listed, failure = self._clock(), self._listed, self._failure
        if listed is not None and listed.serial > after and now < listed.read_at + FRESH_S:
            return listed
        if failure is not None and now < failure.until:
            raise failure.error.with_traceback(None)
        return None

    def _fresh_or_coming(self, after: int) -> Listed[T] | _Reading[T]:
        """Return the same, or else the reading that goes on, which this begins if there is none."""
        with self._lock:
            listed = self._fresh(after)
            if listed is not None:
                return listed
            if self._reading is None:
                reading: _Reading[T] = _Reading(self._begun + 1, self._clock(), Future())
                threading.Thread(target=self._run, args=(reading,), name=self._name, daemon=True).start()
                self._begun, self._reading = reading.serial, reading
            return self._reading

    def _run(self, reading: _Reading[T]) -> None:
        failure: _Failure | None = None
        try:
            value, read_at = self._read(), self._clock()
            listed = Listed(value, reading.serial, read_at, read_at - reading.began_at)
        except BaseException as error:  # noqa: BLE001  # it is raised to those who wait, or nobody would read again
            failure = _Failure(error, self._clock() + PAUSE_AFTER_FAILURE_S)
        with self._lock:
            self._reading, self._failure = None, failure
            if failure is None:
                self._listed = listed
        if failure is None:
            reading.result.set_result(listed)
        else:
            reading.result.set_exception(failure.error)
