"""Which cases the failure matrix has, and which of them its short form runs: one call in three for each failure.

Failures that are alike take turns: what one of three leaves out, another one meets. So the short form still meets every
call on every path with every kind of trunk, and has every failure on every path with every kind of trunk.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from tests.e2e.cases import CallPoint, Failure, Path, Trunks, points_on
from tests.support.short_forms import ONE_IN

MOST_PATHS = (Path.PROVISION, Path.ROLLBACK, Path.DEPROVISION, Path.UPDATE, Path.UPDATE_ROLLBACK)
"""The paths of most failures; a cancellation is of interest where something is under way for long."""

UNDO_PATHS = (Path.ROLLBACK, Path.DEPROVISION, Path.UPDATE_ROLLBACK)


class Shape(NamedTuple):
    """What a case is about, before it has an agent and a number."""

    path: Path
    trunks: Trunks
    point: CallPoint
    failure: Failure


@dataclass(frozen=True)
class Block:
    """One failure at every call on these paths, with each of these kinds of trunk."""

    failure: Failure
    paths: tuple[Path, ...] = MOST_PATHS
    trunks: tuple[Trunks, ...] = tuple(Trunks)
    turn: int = 0
    """Which calls the short form has: those that others like it leave out have other turns."""

    def among(self, trunks: Sequence[Trunks]) -> "Block":
        """Return the same with these kinds of trunk alone."""
        return replace(self, trunks=tuple(one for one in self.trunks if one in trunks))

    def shapes(self, *, is_short: bool) -> list[Shape]:
        """Return its cases, or those of the short form."""
        found = []
        for place, path in enumerate(self.paths):
            for trunks in self.trunks:
                points = points_on(path, trunks)
                if not points:
                    continue
                # Also of two calls the short form has one.
                step = min(ONE_IN, len(points)) if is_short else 1
                found += [
                    Shape(path, trunks, point, self.failure)
                    for number, point in enumerate(points)
                    if (number - self.turn - place) % step == 0
                ]
        return found


REFUSALS = (
    Block(Failure.REFUSED),
    Block(Failure.TRANSIENT, turn=1),
    Block(Failure.RESPONSE_LOST, turn=2),
)

NO_WAY_BACK = Block(Failure.PERMANENT, UNDO_PATHS)
"""While something is undone: it ends when the provider is back."""

GIVEN_UP = Block(Failure.PERMANENT, (Path.PROVISION, Path.UPDATE))

KILLS = (
    Block(Failure.KILLED_BEFORE),
    Block(Failure.KILLED_AFTER, turn=1),
    Block(Failure.KILLED_STORED, turn=2),
)

MADE_BY_US = tuple(one for one in Trunks if one is not Trunks.FOUND)
"""Not with a path made by hand: the request for its adoption reads both providers, and waits with them."""

HANGS = tuple(Block(Failure.PROVIDER_HUNG, tuple(Path), MADE_BY_US, turn) for turn in range(3))

MATRIX = (*REFUSALS, NO_WAY_BACK, GIVEN_UP, *KILLS, *HANGS)
"""All of it."""
