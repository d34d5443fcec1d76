"""Faults on request: which requests they hit, in which way, and the requests that wait for their release."""

import itertools
import math
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from app.dev.sandbox.exchange import SIP, Exchange, HiddenObjects

TOO_MANY, ERROR_500, HTML_503, REJECT = "429", "500", "503_html", "reject"
HANG, DROP_BEFORE, APPLY_THEN_DROP = "hang", "drop_before", "apply_then_drop"
SLOW, MALFORMED, HOLD_BEFORE, HOLD_AFTER, RANDOM = "slow", "malformed", "hold_before", "hold_after", "random"
PAUSE, NOT_FOUND, EMPTY_LIST, LATE_LIST = "pause", "not_found", "empty_list", "late_list"

REFUSALS = frozenset({TOO_MANY, ERROR_500, HTML_503, REJECT})
"""Kinds that respond with an error and apply nothing."""

HIDING_KINDS = frozenset({NOT_FOUND, EMPTY_LIST, LATE_LIST})
"""Kinds whose response leaves out objects that exist."""

SIP_DROP, SIP_LATE, SIP_SILENT, SIP_STATUS = "sip_drop", "sip_late", "sip_silent", "sip_status"
SIP_GARBAGE, SIP_RESET = "sip_garbage", "sip_reset"

SIP_KINDS = frozenset({SIP_DROP, SIP_LATE, SIP_SILENT, SIP_STATUS, SIP_GARBAGE, SIP_RESET})
"""Kinds that strike SIP messages, and nothing else."""

HTTP_KINDS = REFUSALS | HIDING_KINDS | {HANG, DROP_BEFORE, APPLY_THEN_DROP, SLOW, MALFORMED, HOLD_BEFORE, HOLD_AFTER}

KINDS = HTTP_KINDS | SIP_KINDS
"""Kinds that hit one request; a pause hits a provider."""

READS = frozenset({"fetch", "get"})
"""Verbs of operations that read one object."""

SINGLE = READS | {"update", "delete", "release", "detach"}
"""Verbs of operations on one object that exists."""

ARRIVAL, REVERSED, SHUFFLED = "arrival", "reversed", "shuffled"
LANDINGS = (ARRIVAL, REVERSED, SHUFFLED)
"""Orders in which the requests of a pause are applied."""

FIELDS = frozenset(
    (
        "operation",
        "contains",
        "number",
        "owner",
        "kind",
        "kinds",
        "times",
        "probability",
        "seed",
        "retryAfterS",
        "seconds",
        "status",
        "code",
        "message",
        "contact",
        "landing",
        "reads",
    )
)
"""Fields that a fault's description may have."""

NUMBERS = ("probability", "retryAfterS", "seconds", "status")
"""Fields of a description that must be numbers, none of them negative, when they are set."""

HANG_S = 120.0
"""Seconds until a hung request is dropped: far beyond any client's timeout."""

SLOW_S = 1.0
"""Seconds that a slow response takes when the fault does not say."""

LATE_S = 5.0
"""Seconds that a late list is behind when the fault does not say: longer than an operation waits between two reads."""

DEFAULT_SECONDS = {HANG: HANG_S, SLOW: SLOW_S, SIP_LATE: SLOW_S, LATE_LIST: LATE_S}


Names = Callable[[str], Iterable[str]]
"""What requests about a phone number name."""


class FaultError(ValueError):
    """A control request describes a fault that does not exist."""


@dataclass(eq=False)
class Fault:
    """One fault, and the requests that it has hit."""

    id: str
    spec: dict[str, Any]
    operation: str
    kinds: list[str]
    contains: str | None
    remaining: int | None
    probability: float
    generator: random.Random
    hits: int = 0
    is_deleted: bool = False
    ends_at: float = math.inf
    """When a pause ends by itself, on the monotonic clock."""
    waiting: dict[threading.Event, None] = field(default_factory=dict)
    """Requests that wait, in order of arrival."""

    def kinds_for(self, exchange: Exchange, names_of: Names) -> list[str]:
        """Return the kinds in which the fault can hit this request; empty when it does not match."""
        number = self.spec.get("number")
        fits = (
            self.remaining != 0
            and fnmatchcase(exchange.operation, self.operation)
            and (self.contains is None or exchange.contains(self.contains))
            and self.spec.get("owner") in (None, exchange.owner)
            and (number is None or any(map(exchange.contains, names_of(number))))
        )
        kinds = [kind for kind in self.kinds if self._applies_to(kind, exchange)] if fits else []
        return kinds if kinds and (self.probability >= 1 or self.generator.random() < self.probability) else []

    def _applies_to(self, kind: str, exchange: Exchange) -> bool:
        if (kind in SIP_KINDS) != (exchange.provider == SIP):
            return False
        if kind not in HIDING_KINDS:
            return True
        if kind == NOT_FOUND:
            return exchange.verb in SINGLE or exchange.parent is not None
        is_read = exchange.verb in READS or exchange.parent is not None
        return exchange.verb == "list" or (kind == LATE_LIST and bool(self.spec.get("reads")) and is_read)

    def count(self) -> None:
        """Count a request that is hit."""
        self.hits += 1
        if self.remaining is not None:
            self.remaining -= 1

    def as_json(self) -> dict[str, Any]:
        """Return the description with the fault's counts."""
        remaining = 0 if time.monotonic() >= self.ends_at else self.remaining
        return {**self.spec, "id": self.id, "hits": self.hits, "held": len(self.waiting), "remaining": remaining}


@dataclass(slots=True)
class FaultHit:
    """A fault and the kind in which it hit one request."""

    fault: Fault
    kind: str

    @property
    def seconds(self) -> float:
        """How long a slow or hung request takes, or how far behind a late list is."""
        return float(self.fault.spec.get("seconds") or DEFAULT_SECONDS[self.kind])

    def hidden(self, written_at: Mapping[str, float]) -> HiddenObjects | None:
        """Return what the response leaves out, given when each object was last written."""
        if self.kind not in HIDING_KINDS:
            return None
        return HiddenObjects(time.monotonic() - self.seconds if self.kind == LATE_LIST else -math.inf, written_at)


class BurstSlot:
    """A request's slot in the burst after a pause: the request is applied, then the next one is released."""

    def __init__(self, following: threading.Event | None = None) -> None:
        self._following = following

    def release_next(self) -> None:
        """Release the next request of the burst; a second call does nothing."""
        if self._following:
            self._following.set()
            self._following = None


class Faults:
    """The faults in force, oldest first; the first that matches hits."""

    def __init__(self) -> None:
        self.names_of: Names = lambda number: [number]
        """What requests about a phone number name; called without the store's lock."""
        self._faults: dict[str, Fault] = {}
        self._bursts: dict[threading.Event, threading.Event | None] = {}
        """Requests of a burst, each with the one after it."""
        self._ids = itertools.count(1)
        self._lock = threading.Lock()

    def add(self, spec: dict[str, Any]) -> Fault:
        """Put a fault in force; raise FaultError when its description is invalid.

        docs/sandbox.md says what it may ask for.
        """
        _check(spec)
        fault = Fault(
            id=f"fault-{next(self._ids)}",
            spec=dict(spec),
            operation=str(spec.get("operation") or "*"),
            kinds=spec["kinds"] if spec["kind"] == RANDOM else [spec["kind"]],
            contains=spec.get("contains"),
            remaining=spec.get("times"),
            probability=1 if spec.get("probability") is None else spec["probability"],
            generator=random.Random(spec.get("seed")),  # noqa: S311 - repeatable on purpose
        )
        if spec["kind"] == PAUSE and spec.get("seconds") is not None:
            fault.ends_at = time.monotonic() + spec["seconds"]
        with self._lock:
            self._faults[fault.id] = fault
        return fault

    def match(self, exchange: Exchange) -> FaultHit | None:
        """Return the fault that hits this request, and count the hit."""
        if not self._faults:
            return None
        with self._lock:
            for fault in self._faults.values():
                if fault.spec["kind"] != PAUSE and (kinds := fault.kinds_for(exchange, self.names_of)):
                    fault.count()
                    return FaultHit(fault, fault.generator.choice(kinds))
        return None

    def wait_while_paused(self, exchange: Exchange) -> BurstSlot | None:
        """Hold a request while its provider is paused; return its slot in the burst, None when nothing paused it."""
        slot: BurstSlot | None = None
        while self._faults and (entered := self._enter_pause(exchange)):
            fault, event = entered
            if slot:
                slot.release_next()
            seconds = None if fault.ends_at == math.inf else max(0.0, fault.ends_at - time.monotonic())
            if not event.wait(seconds):
                self.release(fault.id)
                event.wait()
            with self._lock:
                slot = BurstSlot(self._bursts.pop(event))
        return slot

    def _enter_pause(self, exchange: Exchange) -> tuple[Fault, threading.Event] | None:
        with self._lock:
            for fault in self._faults.values():
                if fault.spec["kind"] != PAUSE or time.monotonic() >= fault.ends_at:
                    continue
                if fault.kinds_for(exchange, self.names_of):
                    fault.count()
                    event = threading.Event()
                    fault.waiting[event] = None
                    return fault, event
        return None

    def wait(self, fault: Fault, seconds: float | None = None) -> None:
        """Hold the calling request until its fault is released or deleted, at most `seconds` when given."""
        event = self.add_waiting(fault)
        event.wait(seconds)
        self.remove_waiting(fault, event)

    def add_waiting(self, fault: Fault) -> threading.Event:
        """Register a waiting request; the event is set when it is released."""
        event = threading.Event()
        with self._lock:
            if fault.is_deleted:
                event.set()
            else:
                fault.waiting[event] = None
        return event

    def remove_waiting(self, fault: Fault, event: threading.Event) -> None:
        """Remove a request from those that wait."""
        with self._lock:
            fault.waiting.pop(event, None)

    def release(self, fault_id: str) -> Fault | None:
        """Release the requests that wait at this moment.

        A pause is over then; any other fault stays in force for as many times as it has left.
        """
        with self._lock:
            fault = self._faults.get(fault_id)
            if fault:
                self._release([fault])
            return fault

    def delete(self, fault_id: str) -> Fault | None:
        """Delete one fault and release its requests."""
        with self._lock:
            fault = self._faults.pop(fault_id, None)
            if fault:
                fault.is_deleted = True
                self._release([fault])
            return fault

    def arm(self, number: str, specs: Iterable[dict[str, Any]]) -> None:
        """Put these faults in force for requests about a phone number, in place of those that there are."""
        self.clear(number)
        for spec in specs:
            self.add({**spec, "number": number})

    def clear(self, number: str | None = None) -> None:
        """Delete every fault, or those of one phone number, and release every request that waits for them."""
        with self._lock:
            deleted = [each for each in self._faults.values() if number in (None, each.spec.get("number"))]
            for fault in deleted:
                fault.is_deleted = True
                del self._faults[fault.id]
            self._release(deleted)

    def as_json(self) -> list[dict[str, Any]]:
        """Return every fault with its hits and held requests."""
        with self._lock:
            return [fault.as_json() for fault in self._faults.values()]

    def _release(self, faults: Iterable[Fault]) -> None:
        for fault in faults:
            if fault.spec["kind"] == PAUSE:
                fault.remaining = 0
                self._start_burst(fault)
            else:
                for event in fault.waiting:
                    event.set()
            fault.waiting.clear()

    def _start_burst(self, fault: Fault) -> None:
        """Start the burst: link each request to the one after it, and release the first."""
        events = list(fault.waiting)
        if fault.spec.get("landing") == REVERSED:
            events.reverse()
        elif fault.spec.get("landing") == SHUFFLED:
            fault.generator.shuffle(events)
        self._bursts.update(itertools.zip_longest(events, events[1:]))
        if events:
            events[0].set()


def _check(spec: dict[str, Any]) -> None:
    if unknown := spec.keys() - FIELDS:
        raise FaultError(f"a fault has no {', '.join(sorted(unknown))}")
    is_pause = spec.get("kind") == PAUSE
    kinds = spec.get("kinds") if spec.get("kind") == RANDOM else [spec.get("kind")]
    if not isinstance(kinds, list) or not kinds or not (is_pause or set(kinds) <= KINDS):
        raise FaultError(f"kind must be pause or (as each of kinds) one of {', '.join(sorted(KINDS))}")
    _check_options(spec, kinds, is_pause=is_pause)
    times = spec.get("times")
    if times is not None and (not isinstance(times, int) or times < 0):
        raise FaultError("times must be a count or null")
    for name, value in [(each, spec.get(each)) for each in ("contains", "number", "owner", "contact")]:
        if value is not None and not isinstance(value, str):
            raise FaultError(f"{name} must be a text")
    for name in NUMBERS:
        if spec.get(name) is not None and (not isinstance(spec[name], int | float) or spec[name] < 0):
            raise FaultError(f"{name} must be a number")
    if (spec.get("probability") or 0) > 1:
        raise FaultError("probability must be a number from 0 to 1")


def _check_options(spec: dict[str, Any], kinds: list[str], *, is_pause: bool) -> None:
    """Check the fields that belong to one kind only."""
    if is_pause and spec.get("times") is not None:
        raise FaultError("a pause holds every request that fits: it takes no times")
    if spec.get("landing") not in (None, *LANDINGS) or ("landing" in spec and not is_pause):
        raise FaultError(f"landing belongs to a pause and is one of {', '.join(LANDINGS)}")
    if SIP_STATUS in kinds and spec.get("status") not in range(300, 700):
        raise FaultError("sip_status takes a status from 300 to 699")
    if not isinstance(spec.get("reads", False), bool) or ("reads" in spec and LATE_LIST not in kinds):
        raise FaultError("reads belongs to late_list and is true or false")
