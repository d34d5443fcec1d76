"""A test call from end to end: the call itself, LiveKit's view of it while it rings, and the verdict."""

import ssl
import threading
import time
from collections.abc import Callable
from typing import Self

from app.calls.sip_call import CallTimes, new_call_id, place_call
from app.calls.verdicts import CallTarget, Outcome, RoomSight, verdict_of
from app.path.observed import RuleKind
from app.providers.base import VoicePlatform
from app.providers.callers import Caller, calling
from app.providers.errors import ProviderError, RejectedError

FIRST_LOOK_S = 0.3
"""Seconds after the start until LiveKit is asked for the first time: its caller is in the room after about 0.1 s."""

LONGEST_PAUSE_S = 3.0
"""Seconds between two looks; each pause is half as long again as the one before."""

LOOK_S = 3.0
"""Seconds that one look may take, all its requests together: so much later than the call its thread ends."""

MAX_WAIT_S = 1.0
"""Seconds that a request may wait for the rate limiter: a test call is worth no more than that."""


def place_test_call(
    platform: VoicePlatform,
    target: CallTarget,
    *,
    times: CallTimes | None = None,
    allows: Callable[[str], bool] = lambda _: True,
    tls: ssl.SSLContext | None = None,
) -> Outcome:
    """Call the target, ask LiveKit for the room meanwhile, and say what it shows.

    Blocks for `times.longest_s` at most, and `LOOK_S` where LiveKit's API does not answer. `allows` says whether an IP
    address may be called. What goes wrong on the way is a verdict, never an error.
    """
    call_id = new_call_id()
    with _Looking(platform, target, call_id) as looking:
        result = place_call(
            target.uri,
            target.called,
            target.caller,
            call_id=call_id,
            is_secure=target.is_secure,
            times=times,
            allows=allows,
            tls=tls,
        )
    return verdict_of(result, looking.sight, target)


class _Looking:
    """A thread that asks LiveKit for the room of a call, again and again, until the block is over."""

    def __init__(self, platform: VoicePlatform, target: CallTarget, call_id: str) -> None:
        self._platform = platform
        self._call_id, self._caller, self._called = call_id, target.caller, target.uri.called or target.called
        rule = target.rule
        self._room = rule.room if rule is not None and rule.kind is RuleKind.DIRECT else ""
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="test-call-room", daemon=True)
        self.sight = RoomSight()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _look(self) -> None:
        pause_s, others = FIRST_LOOK_S, set[str]()
        while not self._is_over.wait(pause_s):
            pause_s = min(1.5 * pause_s, LONGEST_PAUSE_S)
            try:
                with calling(Caller(ends_at=time.monotonic() + LOOK_S, max_wait_s=MAX_WAIT_S)):
                    found = self._platform.find_call(self._call_id, self._caller, self._called, self._room, others)
            except RejectedError:
                return
            except ProviderError:
                continue
            if found is not None:
                self._room = found.name
            self.sight = RoomSight(found or self.sight.room, was_asked=True)
