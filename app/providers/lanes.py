"""Who is calling: whether a provider call goes first or waits for what is left, and how long it may wait."""

import math
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

    def note_answer(self, seconds: float, *, is_lost: bool) -> None:
        """Note how long a call took, and whether any answer came."""
        self.has_stalled = self.has_stalled or is_lost or seconds > self.stall_s

    @property
    def lane_now(self) -> Lane:
        """The lane of its next call."""
        return Lane.SINGLE if self.has_called and self.finishes_first else self.lane


_caller: ContextVar[Caller | None] = ContextVar("caller", default=None)


def current_caller() -> Caller:
    """Return who is calling; where nobody has said so, a single call of its own."""
    return _caller.get() or Caller()


@contextmanager
def calling(caller: Caller) -> Iterator[Caller]:
    """Make the provider calls of the block this caller's. Threads started in the block do not inherit it."""
    token = _caller.set(caller)
    try:
        yield caller
    finally:
        _caller.reset(token)
