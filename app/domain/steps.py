"""The steps of a path, once: names, order, needs, and what each one makes; what they do is `app.saga.steps`."""

from collections.abc import Iterable
from dataclasses import dataclass

from app.domain.statuses import Direction

NUMBER = "twilio_number"
TRUNK = "twilio_trunk"
ORIGINATION_URL = "twilio_origination_url"
INBOUND_TRUNK = "livekit_inbound_trunk"
DISPATCH_RULE = "livekit_dispatch_rule"
NUMBER_ATTACHMENT = "twilio_number_attachment"
VERIFICATION = "verification"


@dataclass(frozen=True)
class Step:
    """One resource of the path."""

    name: str
    provider: str
    needs: tuple[str, ...] = ()
    """The steps that must be done before it, and are undone after it."""
    column: str | None = None
    """The agent's column that holds the id."""
    makes: bool = False
    """Whether it makes a resource that the ledger must know."""
    changes: str | None = None
    """The step whose resource it changes, where it makes none of its own: attaching changes a number."""
    under: str | None = None
    """The step whose resource this one lives under, where its own id does not reach it."""

    @property
    def is_undone(self) -> bool:
        """Whether there is something to undo."""
        return self.makes or self.changes is not None

    @property
    def resource(self) -> str:
        """The step whose id this one works on: its own, or that of what it changes."""
        return self.changes or self.name


STEPS = (
    Step(NUMBER, "twilio", column="twilio_phone_number_sid"),
    Step(TRUNK, "twilio", (NUMBER,), "twilio_trunk_sid", makes=True),
    Step(ORIGINATION_URL, "twilio", (TRUNK,), "twilio_origination_url_sid", makes=True, under=TRUNK),
    Step(INBOUND_TRUNK, "livekit", (NUMBER,), "livekit_inbound_trunk_id", makes=True),
    Step(DISPATCH_RULE, "livekit", (INBOUND_TRUNK,), "livekit_dispatch_rule_id", makes=True),
    Step(NUMBER_ATTACHMENT, "twilio", (ORIGINATION_URL, DISPATCH_RULE), changes=NUMBER),
    Step(VERIFICATION, "livekit", (NUMBER_ATTACHMENT,)),
)
"""In an order in which they can run; those that do not need each other run side by side (`branches`).

The number is attached last, so that a caller never meets a half-built path; verification reads the whole of it.
"""

STEP_BY_NAME = {step.name: step for step in STEPS}


def _all_needs(name: str) -> frozenset[str]:
    needs = STEP_BY_NAME[name].needs
    return frozenset(needs).union(*map(_all_needs, needs))


ALL_NEEDS = {step.name: _all_needs(step.name) for step in STEPS}
"""Step -> every step that it needs, directly or through others.

A repair and a move work on some steps only: what lies between two of those counts as done from the start.
"""

COLUMNS = {step.name: step.column for step in STEPS if step.column}
"""Step -> the agent's column that holds the id of its resource."""

LAST = STEPS[-1].name
"""The step that looks at all others' work: it waits until nothing unexpected can land any more."""

JOINS = {need: step.needs for step in STEPS for need in step.needs if len(step.needs) > 1}
"""Last step of a branch -> the last steps of all branches that are waited for together."""


def steps_towards(direction: Direction) -> tuple[Step, ...]:
    """Return the table as it is read in this direction; what cannot be undone has no place on the way back."""
    return STEPS if direction is Direction.DO else tuple(step for step in reversed(STEPS) if step.is_undone)


def branches(names: Iterable[str]) -> tuple[tuple[str, ...], ...]:
    """Split steps on the way down into lines that may run side by side, each with all that comes after it.

    The first line of the result, which may be empty, comes before the others: `((a,), (b, c, f), (d, e, f))`.
    """
    left = [STEP_BY_NAME[name] for name in _ordered(names)]
    join = next((place for place, step in enumerate(STEPS) if len(step.needs) > 1), len(STEPS))
    before, after = STEPS[:join], tuple(step.name for step in STEPS[join:] if step in left)
    siblings = {step.name for step in before if sum(other.needs == step.needs for other in before) > 1}
    branch_of: dict[str, str | None] = {}
    for step in before:
        branch_of[step.name] = (
            step.name if step.name in siblings else branch_of.get(step.needs[0]) if step.needs else None
        )
    first = tuple(step.name for step in left if step.name in branch_of and branch_of[step.name] is None)
    lines: dict[str, tuple[str, ...]] = {}
    for step in left:
        head = branch_of.get(step.name)
        if head:
            lines[head] = (*lines.get(head, ()), step.name)
    return first, *((*line, *after) for line in lines.values() or ((),))


def _ordered(names: Iterable[str]) -> list[str]:
    wanted = set(names)
    return [step.name for step in STEPS if step.name in wanted]
