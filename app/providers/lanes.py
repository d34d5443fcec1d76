"""Who is calling: whether a provider call goes first or waits for what is left, and how long it may wait."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum


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
