"""Faults on request: which request is struck, by what, and the requests that wait to be let go."""

import itertools
import math
import random
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from app.dev.sandbox.exchange import Exchange, Hidden

TOO_MANY, ERROR_500, HTML_503, REJECT = "429", "500", "503_html", "reject"
HANG, DROP_BEFORE, APPLY_THEN_DROP = "hang", "drop_before", "apply_then_drop"
SLOW, MALFORMED, HOLD_BEFORE, HOLD_AFTER, RANDOM = "slow", "malformed", "hold_before", "hold_after", "random"
PAUSE, NOT_FOUND, EMPTY_LIST, LATE_LIST = "pause", "not_found", "empty_list", "late_list"

REFUSALS = frozenset({TOO_MANY, ERROR_500, HTML_503, REJECT})
"""Kinds that answer with an error and apply nothing."""

LIES = frozenset({NOT_FOUND, EMPTY_LIST, LATE_LIST})
"""Kinds whose answer hides objects that are there."""

KINDS = REFUSALS | LIES | {HANG, DROP_BEFORE, APPLY_THEN_DROP, SLOW, MALFORMED, HOLD_BEFORE, HOLD_AFTER}
"""Kinds that strike one request; a pause strikes a provider."""

READS = frozenset({"fetch", "get"})
"""Verbs of operations that read one object."""

SINGLE = READS | {"update", "delete", "release", "detach"}
"""Verbs of operations on one object that is there."""

ARRIVAL, REVERSED, SHUFFLED = "arrival", "reversed", "shuffled"
LANDINGS = (ARRIVAL, REVERSED, SHUFFLED)
"""Orders in which the requests of a pause land."""

FIELDS = frozenset(
    (
        "operation",
        "contains",
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
        "landing",
        "reads",
    )
)
"""What an order may say."""

NUMBERS = ("probability", "retryAfterS", "seconds", "status")
"""Fields of an order that must be numbers, none of them negative, when they are given."""

HANG_S = 120.0
"""Seconds that a hung request stays silent: far beyond any client's timeout."""

SLOW_S = 1.0
"""Seconds that a slow answer takes when the fault does not say."""

LATE_S = 5.0
"""Seconds that a late list is behind when the fault does not say: longer than an operation waits between two looks."""

DEFAULT_SECONDS = {HANG: HANG_S, SLOW: SLOW_S, LATE_LIST: LATE_S}


class FaultError(ValueError):
    """A control request describes a fault that does not exist."""


@dataclass(eq=False)
class Fault:
    """One order for trouble, and what has come of it."""

    id: str
    order: dict[str, Any]
    operation: str
    kinds: list[str]
    contains: str | None
    remaining: int | None
    probability: float
    dice: random.Random
    hits: int = 0
    is_deleted: bool = False
    ends_at: float = math.inf
    """When a pause ends by itself, on the monotonic clock."""
    waiting: dict[threading.Event, None] = field(default_factory=dict)
    """Requests that wait, in order of arrival."""

    def kinds_for(self, exchange: Exchange) -> list[str]:
        """Return the kinds in which the fault strikes this request; none when it is not meant for it."""
        fits = (
            self.remaining != 0
            and fnmatchcase(exchange.operation, self.operation)
            and (self.contains is None or exchange.contains(self.contains))
        )
        kinds = [kind for kind in self.kinds if self._suits(kind, exchange)] if fits else []
        return kinds if kinds and (self.probability >= 1 or self.dice.random() < self.probability) else []

    def _suits(self, kind: str, exchange: Exchange) -> bool:
        if kind not in LIES:
            return True
        if kind == NOT_FOUND:
            return exchange.verb in SINGLE
        return exchange.verb == "list" or (
            kind == LATE_LIST and bool(self.order.get("reads")) and exchange.verb in READS
        )

    def count(self) -> None:
        """Count a request that is struck."""
        self.hits += 1
        if self.remaining is not None:
            self.remaining -= 1

    def shown(self) -> dict[str, Any]:
        """Return the order with what has come of it."""
        remaining = 0 if time.monotonic() >= self.ends_at else self.remaining
        return {**self.order, "id": self.id, "hits": self.hits, "held": len(self.waiting), "remaining": remaining}


@dataclass(slots=True)
class Strike:
    """A fault and the kind in which it hit one request."""

    fault: Fault
    kind: str

    @property
    def seconds(self) -> float:
        """How long a slow or hung request takes, and how far behind a late list is."""
        return float(self.fault.order.get("seconds") or DEFAULT_SECONDS[self.kind])

    def hidden(self, written_at: Mapping[str, float]) -> Hidden | None:
        """Return what the answer hides, given when each object was last written."""
        if self.kind not in LIES:
            return None
        return Hidden(time.monotonic() - self.seconds if self.kind == LATE_LIST else -math.inf, written_at)


class Turn:
    """A place in the burst after a pause: whoever has it is carried out, then lets the next one go."""

    def __init__(self, following: threading.Event | None = None) -> None:
        self._following = following

    def pass_on(self) -> None:
        """Let the next request of the burst go; a second call does nothing."""
        if self._following:
            self._following.set()
            self._following = None


class Faults:
    """The faults in force, oldest first; the first that matches strikes."""

    def __init__(self) -> None:
        self._faults: dict[str, Fault] = {}
        self._bursts: dict[threading.Event, threading.Event | None] = {}
        """Requests that land, each with the one that comes after it."""
        self._ids = itertools.count(1)
        self._lock = threading.Lock()

    def add(self, order: dict[str, Any]) -> Fault:
        """Put a fault in force; raise FaultError when its description does not make sense.

        docs/CONTRIBUTING.md says what an order may ask for.
        """
        _check(order)
        fault = Fault(
            id=f"fault-{next(self._ids)}",
            order=dict(order),
            operation=str(order.get("operation") or "*"),
            kinds=order["kinds"] if order["kind"] == RANDOM else [order["kind"]],
            contains=order.get("contains"),
            remaining=order.get("times"),
            probability=1 if order.get("probability") is None else order["probability"],
            dice=random.Random(order.get("seed")),  # noqa: S311 - repeatable on purpose
        )
        if order["kind"] == PAUSE and order.get("seconds") is not None:
            fault.ends_at = time.monotonic() + order["seconds"]
        with self._lock:
            self._faults[fault.id] = fault
        return fault

    def strike(self, exchange: Exchange) -> Strike | None:
        """Return what hits this request, counting the hit."""
        if not self._faults:
            return None
        with self._lock:
            for fault in self._faults.values():
                if fault.order["kind"] != PAUSE and (kinds := fault.kinds_for(exchange)):
                    fault.count()
                    return Strike(fault, fault.dice.choice(kinds))
        return None

    def stand_still(self, exchange: Exchange) -> Turn | None:
        """Hold a request as long as its provider pauses; return its turn in the burst, None when nothing paused it."""
        turn: Turn | None = None
        while self._faults and (entered := self._enter_pause(exchange)):
            fault, event = entered
            if turn:
                turn.pass_on()
            seconds = None if fault.ends_at == math.inf else max(0.0, fault.ends_at - time.monotonic())
            if not event.wait(seconds):
                self.release(fault.id)
                event.wait()
            with self._lock:
                turn = Turn(self._bursts.pop(event))
        return turn

    def _enter_pause(self, exchange: Exchange) -> tuple[Fault, threading.Event] | None:
        with self._lock:
            for fault in self._faults.values():
                if fault.order["kind"] != PAUSE or time.monotonic() >= fault.ends_at:
                    continue
                if fault.kinds_for(exchange):
                    fault.count()
                    event = threading.Event()
                    fault.waiting[event] = None
                    return fault, event
        return None

    def wait(self, fault: Fault, seconds: float | None = None) -> None:
        """Hold the calling request until its fault is released or deleted, at most `seconds` when given."""
        event = self.enter(fault)
        event.wait(seconds)
        self.leave(fault, event)

    def enter(self, fault: Fault) -> threading.Event:
        """Register a waiting request; the event is set when it may go on."""
        event = threading.Event()
        with self._lock:
            if fault.is_deleted:
                event.set()
            else:
                fault.waiting[event] = None
        return event

    def leave(self, fault: Fault, event: threading.Event) -> None:
        """Take a request off the list of those that wait."""
        with self._lock:
            fault.waiting.pop(event, None)

    def release(self, fault_id: str) -> Fault | None:
        """Let the requests go that wait at this moment.

        A pause is over then; any other fault stays in force for as many times as it has left.
        """
        with self._lock:
            fault = self._faults.get(fault_id)
            if fault:
                self._let_go([fault])
            return fault

    def delete(self, fault_id: str) -> Fault | None:
        """Withdraw one fault and let its requests go."""
        with self._lock:
            fault = self._faults.pop(fault_id, None)
            if fault:
                fault.is_deleted = True
                self._let_go([fault])
            return fault

    def clear(self) -> None:
        """Withdraw every fault and let every request go."""
        with self._lock:
            for fault in self._faults.values():
                fault.is_deleted = True
            self._let_go(self._faults.values())
            self._faults = {}

    def shown(self) -> list[dict[str, Any]]:
        """Return every fault with its hits and held requests."""
        with self._lock:
            return [fault.shown() for fault in self._faults.values()]

    def _let_go(self, faults: Iterable[Fault]) -> None:
        for fault in faults:
            if fault.order["kind"] == PAUSE:
                fault.remaining = 0
                self._land(fault)
            else:
                for event in fault.waiting:
                    event.set()
            fault.waiting.clear()

    def _land(self, fault: Fault) -> None:
        """Start the burst: each request learns who comes after it, and the first one goes."""
        events = list(fault.waiting)
        if fault.order.get("landing") == REVERSED:
            events.reverse()
        elif fault.order.get("landing") == SHUFFLED:
            fault.dice.shuffle(events)
        self._bursts.update(itertools.zip_longest(events, events[1:]))
        if events:
            events[0].set()


def _check(order: dict[str, Any]) -> None:
    if unknown := order.keys() - FIELDS:
        raise FaultError(f"a fault has no {', '.join(sorted(unknown))}")
    is_pause = order.get("kind") == PAUSE
    kinds = order.get("kinds") if order.get("kind") == RANDOM else [order.get("kind")]
    if not isinstance(kinds, list) or not kinds or not (is_pause or set(kinds) <= KINDS):
        raise FaultError(f"kind must be pause or (as each of kinds) one of {', '.join(sorted(KINDS))}")
    _check_options(order, kinds, is_pause=is_pause)
    times, contains = order.get("times"), order.get("contains")
    if times is not None and (not isinstance(times, int) or times < 0):
        raise FaultError("times must be a count or null")
    if contains is not None and not isinstance(contains, str):
        raise FaultError("contains must be a text")
    for name in NUMBERS:
        if order.get(name) is not None and (not isinstance(order[name], int | float) or order[name] < 0):
            raise FaultError(f"{name} must be a number")
    if (order.get("probability") or 0) > 1:
        raise FaultError("probability must be a number from 0 to 1")


def _check_options(order: dict[str, Any], kinds: list[str], *, is_pause: bool) -> None:
    """Check the fields that belong to one kind alone."""
    if is_pause and order.get("times") is not None:
        raise FaultError("a pause holds every request that fits: it takes no times")
    if order.get("landing") not in (None, *LANDINGS) or ("landing" in order and not is_pause):
        raise FaultError(f"landing belongs to a pause and is one of {', '.join(LANDINGS)}")
    if not isinstance(order.get("reads", False), bool) or ("reads" in order and LATE_LIST not in kinds):
        raise FaultError("reads belongs to late_list and is true or false")
