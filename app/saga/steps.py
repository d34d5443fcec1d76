"""What each step does: the functions behind the table of `app.domain.steps`, read down to provision, up to undo."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from app.domain.statuses import Direction
from app.domain.steps import (
    DISPATCH_RULE,
    INBOUND_TRUNK,
    NUMBER,
    NUMBER_ATTACHMENT,
    ORIGINATION_URL,
    TRUNK,
    VERIFICATION,
    steps_towards,
)
from app.saga import livekit_steps, twilio_steps, verification
from app.saga.context import StepContext
from app.saga.machine import Result


@dataclass(frozen=True)
class Actions:
    """What one step does at its provider."""

    do: Callable[[StepContext], Result]
    find: Callable[[StepContext], list[str]] | None = None
    """Give the ids of ours that are there, oldest first."""
    undo: Callable[[StepContext, str], None] | None = None
    """Take one back; of what is gone already it succeeds."""
    repair: Callable[[StepContext, str], bool] | None = None
    """Make what stands right in place, its marks included; False once it is certainly gone. For repair and move."""


def _verify(ctx: StepContext) -> Result:
    verification.verify(ctx)
    if not ctx.is_uncertain:
        return Result(None)
    removed = _remove_twins(ctx)
    if ctx.source_agent_id:
        removed += _remove_twins(replace(ctx, agent_id=ctx.source_agent_id))
    return Result(None, removed=tuple(removed))


def _remove_twins(ctx: StepContext) -> list[str]:
    """Delete what a lost answer may have left beside the path: all with the agent's mark that is not on it."""
    removed = []
    for step in steps_towards(Direction.UNDO):
        actions = ACTIONS[step.name]
        if not step.makes or not actions.find or not actions.undo:
            continue
        ctx.check_time()
        for twin in sorted({*actions.find(ctx), *ctx.ledger.get(step.name, ())} - {ctx.ids[step.name]}):
            actions.undo(ctx, twin)
            removed.append(twin)
    return removed


ACTIONS = {
    NUMBER: Actions(twilio_steps.look_up_number),
    TRUNK: Actions(
        twilio_steps.create_trunk, twilio_steps.find_trunks, twilio_steps.delete_trunk, twilio_steps.repair_trunk
    ),
    ORIGINATION_URL: Actions(
        twilio_steps.create_origination_url,
        twilio_steps.find_origination_urls,
        twilio_steps.delete_origination_url,
        twilio_steps.repair_origination_url,
    ),
    INBOUND_TRUNK: Actions(
        livekit_steps.create_inbound_trunk,
        livekit_steps.find_inbound_trunks,
        livekit_steps.delete_inbound_trunk,
        livekit_steps.repair_inbound_trunk,
    ),
    DISPATCH_RULE: Actions(
        livekit_steps.create_dispatch_rule,
        livekit_steps.find_dispatch_rules,
        livekit_steps.delete_dispatch_rule,
        livekit_steps.repair_dispatch_rule,
    ),
    NUMBER_ATTACHMENT: Actions(twilio_steps.attach_number, twilio_steps.find_attachment, twilio_steps.detach_number),
    VERIFICATION: Actions(_verify),
}
"""By the step's name."""
