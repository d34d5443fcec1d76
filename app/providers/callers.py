"""Who calls a provider: the work that a call belongs to, which calls go first, and how long they may take."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum


class CallPriority(StrEnum):
    """Which calls go first when a provider limits them."""

    SINGLE = "single"
    """Takes the next slot there is."""
    BULK = "bulk"
    """Takes a slot only when no single call wants it now."""


@dataclass
class Caller:
    """One piece of work that makes provider calls: a step, an audit or a request to the API."""

    priority: CallPriority = CallPriority.SINGLE
    last_start_at: float | None = None
    """The monotonic clock, seconds, after which no call of it may start; None: no bound but `max_wait_s`."""
    max_wait_s: float | None = None
    """Seconds that one call may wait; None: the rate limiter's own bound."""
    is_raised_once_begun: bool = True
    """Whether its calls after the first are single calls: work that has begun holds a lease, and others wait for it."""
    has_called: bool = False
    """Whether a call of it has gone out."""
    stall_s: float = math.inf
    """Seconds after which a response counts as late: the provider hangs, and what waits there may land later."""
    has_stalled: bool = False
    """Whether a call of it got no response, or a late one."""
    ends_at: float | None = None
    """The monotonic clock, seconds, at which its last call must be over; None: each call's own timeout."""

    def record_response(self, seconds: float, *, is_lost: bool) -> None:
        """Record how long a call took, and whether its response was lost."""
        self.has_stalled = self.has_stalled or is_lost or seconds > self.stall_s

    def may_call(self) -> bool:
        """Say whether this process has room for its calls."""
        return True

    @property
    def next_priority(self) -> CallPriority:
        """The priority of its next call."""
        return CallPriority.SINGLE if self.has_called and self.is_raised_once_begun else self.priority


_caller: ContextVar[Caller | None] = ContextVar("caller", default=None)


def current_caller() -> Caller:
    """Return the caller of the block around; without one, a single call of its own."""
    return _caller.get() or Caller()


def time_for_call(timeout_s: float) -> float:
    """Return how many seconds the next call may take, `timeout_s` at most; 0 or less where no time is left."""
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
