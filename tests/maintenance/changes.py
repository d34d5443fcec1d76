"""What one row of the tables of single changes says: the change, what it does to calls, and what comes of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from app.dev.sandbox.state import CLOUD
from app.domain.findings import Callers, FindingCode
from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK, NUMBER, ORIGINATION_URL, TRUNK
from tests.support.changed_path import ChangedPath


class Outcome(StrEnum):
    """What a repair makes of a change."""

    NOTHING = "nothing"
    """There is no finding, and a repair touches nothing."""
    REPAIRED = "repaired"
    """It is undone, and no finding is left."""
    TAKEN_BACK = "taken back"
    """The same, but only with takeover."""
    LEFT = "left"
    """It is somebody else's, or somebody's to decide: named, and not touched."""


@dataclass(frozen=True)
class Change:
    """One change at a provider; `callers` says whose calls fail by it, None: nobody's."""

    name: str
    make: Callable[[ChangedPath], object]
    """Makes the change; returns the id of the object that is to be named, where that is not ours of this kind."""
    code: FindingCode | None = None
    callers: Callers | None = None
    outcome: Outcome = Outcome.REPAIRED
    kind: str = ""
    """Step name: which of our objects is to be named, where the code alone does not say it."""
    words: str = ""
    """Part of the finding's detail."""
    also: frozenset[FindingCode] = frozenset()
    """Other findings beside it."""
    server: str = CLOUD
    """LiveKit's server."""
    profile: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the profile that are set before the path is provisioned."""
    named_callers: tuple[str, ...] = ()
    """Further callers, whom the change treats otherwise."""

    @property
    def is_harmful(self) -> bool:
        """Whether calls fail."""
        return self.callers is not None

    def named(self, path: ChangedPath, made: object) -> str:
        """Return the id that the finding is to name."""
        if isinstance(made, str):
            return made
        kind = self.kind or next(kind for prefix, kind in _KINDS if str(self.code).startswith(prefix))
        return path.ours(kind)


_KINDS = (
    ("number_", NUMBER),
    ("trunk_", TRUNK),
    ("origination_", ORIGINATION_URL),
    ("livekit_trunk_", INBOUND_TRUNK),
    ("rule_", DISPATCH_RULE),
)
"""Beginning of a code -> the kind of our object that it is about."""


def harmless(name: str, make: Callable[[ChangedPath], object], **fields: Any) -> Change:
    """Return a change of which nobody need know."""
    # What it returns is of no interest: there is nothing to name.
    return Change(name, make, outcome=Outcome.NOTHING, **fields)
