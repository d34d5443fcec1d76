"""Bounds what requests may ask of the providers: a slow provider must not take the threads of the API."""

import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field

from flask import Flask, g

from app.providers.lanes import Caller, calling

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
                self.ends_at = self.until = time.monotonic() + DEADLINE_S
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
