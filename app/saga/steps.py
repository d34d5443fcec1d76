"""The step table: read down to provision, up to undo. Adding a step is adding a row here (and its column)."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from app.domain.statuses import Direction
from app.saga import livekit_steps, twilio_steps, verification
from app.saga.context import (
    DISPATCH_RULE,
    INBOUND_TRUNK,
    NUMBER,
    NUMBER_ATTACHMENT,
    ORIGINATION_URL,
    TRUNK,
    VERIFICATION,
    Result,
    StepContext,
)


@dataclass(frozen=True)
class Step:
    """One resource of the path. `find` gives the ids of ours, oldest first; an `undo` of what is gone succeeds."""

    name: str
    provider: str
    column: str | None
    """The agent's column that holds the id."""
    needs: tuple[str, ...]
    do: Callable[[StepContext], Result]
    find: Callable[[StepContext], list[str]] | None = None
    undo: Callable[[StepContext, str], None] | None = None
    mend: Callable[[StepContext, str], bool] | None = None
    """Make what stands right in place, its marks included; False once it is certainly gone. For repair and move."""
    changes: str | None = None
    """The step whose resource this one changes, where it makes none of its own (attaching changes a number)."""

    @property
    def makes(self) -> bool:
        """Whether the step makes something that the ledger must know."""
        return self.undo is not None and self.changes is None


def _verify(ctx: StepContext) -> Result:
    verification.verify(ctx)
    if not ctx.is_uncertain:
        return Result(None)
    removed = _remove_twins(ctx)
    if ctx.holder_id:
        removed += _remove_twins(replace(ctx, agent_id=ctx.holder_id))
    return Result(None, removed=tuple(removed))


def _remove_twins(ctx: StepContext) -> list[str]:
    """Delete what a lost answer may have left beside the path: all with the agent's mark that is not on it."""
    removed = []
    for step in steps_towards(Direction.UNDO):
        if not step.makes or not step.find or not step.undo:
            continue
        ctx.check_time()
        for twin in sorted({*step.find(ctx), *ctx.ledger.get(step.name, ())} - {ctx.ids[step.name]}):
            step.undo(ctx, twin)
            removed.append(twin)
    return removed


STEPS = (
    Step(NUMBER, "twilio", "twilio_phone_number_sid", (), do=twilio_steps.look_up_number),
    Step(
        TRUNK,
        "twilio",
        "twilio_trunk_sid",
        (NUMBER,),
        twilio_steps.create_trunk,
        twilio_steps.find_trunks,
        twilio_steps.delete_trunk,
        twilio_steps.mend_trunk,
    ),
    Step(
        ORIGINATION_URL,
        "twilio",
        "twilio_origination_url_sid",
        (TRUNK,),
        twilio_steps.create_origination_url,
        twilio_steps.find_origination_urls,
        twilio_steps.delete_origination_url,
        twilio_steps.mend_origination_url,
    ),
    Step(
        INBOUND_TRUNK,
        "livekit",
        "livekit_inbound_trunk_id",
        (NUMBER,),
        livekit_steps.create_inbound_trunk,
        livekit_steps.find_inbound_trunks,
        livekit_steps.delete_inbound_trunk,
        livekit_steps.mend_inbound_trunk,
    ),
    Step(
        DISPATCH_RULE,
        "livekit",
        "livekit_dispatch_rule_id",
        (INBOUND_TRUNK,),
        livekit_steps.create_dispatch_rule,
        livekit_steps.find_dispatch_rules,
        livekit_steps.delete_dispatch_rule,
        livekit_steps.mend_dispatch_rule,
    ),
    Step(
        NUMBER_ATTACHMENT,
        "twilio",
        None,
        (ORIGINATION_URL, DISPATCH_RULE),
        twilio_steps.attach_number,
        twilio_steps.find_attachment,
        twilio_steps.detach_number,
        changes=NUMBER,
    ),
    Step(VERIFICATION, "livekit", None, (NUMBER_ATTACHMENT,), do=_verify),
)
"""In an order in which they can run; those that do not need each other run side by side (`branches`).

The number is attached last, so that a caller never meets a half-built path.
"""

JOINS = {need: step.needs for step in STEPS for need in step.needs if len(step.needs) > 1}
"""The steps that branches end with, each with all that the step after it waits for."""

STEP_BY_NAME = {step.name: step for step in STEPS}


def steps_towards(direction: Direction) -> tuple[Step, ...]:
    """Return the table as it is read in this direction; what cannot be undone has no place in the way up."""
    return STEPS if direction is Direction.DO else tuple(step for step in reversed(STEPS) if step.undo)
