"""Faults on request: which request is struck, by what, and the requests that wait to be let go."""

import itertools
import random
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from app.sandbox.exchange import Exchange

TOO_MANY, ERROR_500, HTML_503, REJECT = "429", "500", "503_html", "reject"
HANG, DROP_BEFORE, APPLY_THEN_DROP = "hang", "drop_before", "apply_then_drop"
SLOW, MALFORMED, HOLD_BEFORE, HOLD_AFTER, RANDOM = "slow", "malformed", "hold_before", "hold_after", "random"

REFUSALS = frozenset({TOO_MANY, ERROR_500, HTML_503, REJECT})
"""Kinds that answer with an error and apply nothing."""

KINDS = REFUSALS | {HANG, DROP_BEFORE, APPLY_THEN_DROP, SLOW, MALFORMED, HOLD_BEFORE, HOLD_AFTER}

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
    )
)
"""What an order may say."""

NUMBERS = ("probability", "retryAfterS", "seconds", "status")
"""Fields of an order that must be numbers, none of them negative, when they are given."""

HANG_S = 120.0
"""Seconds that a hung request stays silent: far beyond any client's timeout."""

SLOW_S = 1.0
"""Seconds that a slow answer takes when the fault does not say."""


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
    waiting: set[threading.Event] = field(default_factory=set)

    def matches(self, exchange: Exchange) -> bool:
        """Tell whether the fault is meant for this request."""
        return (
            self.remaining != 0
            and fnmatchcase(exchange.operation, self.operation)
            and (self.contains is None or exchange.contains(self.contains))
            and (self.probability >= 1 or self.dice.random() < self.probability)
        )

    def shown(self) -> dict[str, Any]:
        """Return the order with what has come of it."""
        return {**self.order, "id": self.id, "hits": self.hits, "held": len(self.waiting), "remaining": self.remaining}


@dataclass(slots=True)
class Strike:
    """A fault and the kind in which it hit one request."""

    fault: Fault
    kind: str

    @property
    def seconds(self) -> float:
        """How long a slow or hung request takes."""
        return float(self.fault.order.get("seconds") or (HANG_S if self.kind == HANG else SLOW_S))


class Faults:
    """The faults in force, oldest first; the first that matches strikes."""

    def __init__(self) -> None:
        self._faults: dict[str, Fault] = {}
        self._ids = itertools.count(1)
        self._lock = threading.Lock()

    def add(self, order: dict[str, Any]) -> Fault:
        """Put a fault in force; raise FaultError when its description does not make sense."""
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
        with self._lock:
            self._faults[fault.id] = fault
        return fault

    def strike(self, exchange: Exchange) -> Strike | None:
        """Return what hits this request, counting the hit."""
        if not self._faults:
            return None
        with self._lock:
            for fault in self._faults.values():
                if fault.matches(exchange):
                    fault.hits += 1
                    if fault.remaining is not None:
                        fault.remaining -= 1
                    return Strike(fault, fault.dice.choice(fault.kinds))
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
                fault.waiting.add(event)
        return event

    def leave(self, fault: Fault, event: threading.Event) -> None:
        """Take a request off the list of those that wait."""
        with self._lock:
            fault.waiting.discard(event)

    def release(self, fault_id: str) -> Fault | None:
        """Let the requests go that wait at this moment; the fault stays in force for as many times as it has left."""
        with self._lock:
            fault = self._faults.get(fault_id)
            if fault:
                _let_go([fault])
            return fault

    def delete(self, fault_id: str) -> Fault | None:
        """Withdraw one fault and let its requests go."""
        with self._lock:
            fault = self._faults.pop(fault_id, None)
            if fault:
                fault.is_deleted = True
                _let_go([fault])
            return fault

    def clear(self) -> None:
        """Withdraw every fault and let every request go."""
        with self._lock:
            for fault in self._faults.values():
                fault.is_deleted = True
            _let_go(self._faults.values())
            self._faults = {}

    def shown(self) -> list[dict[str, Any]]:
        """Return every fault with its hits and held requests."""
        with self._lock:
            return [fault.shown() for fault in self._faults.values()]


def _check(order: dict[str, Any]) -> None:
    if unknown := order.keys() - FIELDS:
        raise FaultError(f"a fault has no {', '.join(sorted(unknown))}")
    kinds = order.get("kinds") if order.get("kind") == RANDOM else [order.get("kind")]
    if not isinstance(kinds, list) or not kinds or not set(kinds) <= KINDS:
        raise FaultError(f"kind (or each of kinds) must be one of {', '.join(sorted(KINDS))}")
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


def _let_go(faults: Iterable[Fault]) -> None:
    for fault in faults:
        for event in fault.waiting:
            event.set()
        fault.waiting.clear()
