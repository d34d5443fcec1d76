"""The functions of each step in `app.domain.operations`: do, find, undo and repair."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from app.domain.findings import finding_json
from app.domain.operations import (
    DISPATCH_RULE,
    INBOUND_TRUNK,
    NUMBER,
    NUMBER_ATTACHMENT,
    ORIGINATION_URL,
    TRUNK,
    VERIFICATION,
    Direction,
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
    """List the ids of our resources that exist, oldest first."""
    undo: Callable[[StepContext, str], None] | None = None
    """Delete one; succeeds when it is gone already."""
    repair: Callable[[StepContext, str], bool] | None = None
    """Update the existing one in place, its mark included; False when it is certainly gone. For repair and move."""


def _verify(ctx: StepContext) -> Result:
    removed: list[str] = []

    def delete(kind: str, external_id: str) -> None:
        undo = ACTIONS[kind].undo
        if undo:
            undo(ctx, external_id)
            removed.append(external_id)

    findings = tuple(finding_json(finding) for finding in verification.verify(ctx, delete))
    if ctx.is_uncertain:
        removed += _remove_duplicates(ctx)
        if ctx.source_agent_id:
            removed += _remove_duplicates(replace(ctx, agent_id=ctx.source_agent_id))
    return Result(None, removed=tuple(removed), findings=findings)


def _remove_duplicates(ctx: StepContext) -> list[str]:
    """Delete duplicates that a lost response may have left: all that carry the agent's mark and are not on its path."""
    removed = []
    for step in steps_towards(Direction.UNDO):
        actions = ACTIONS[step.name]
        if not step.makes or not actions.find or not actions.undo or step.name not in ctx.ids:
            continue
        ctx.check_time()
        for duplicate in sorted({*actions.find(ctx), *ctx.ledger.get(step.name, ())} - {ctx.ids[step.name]}):
            actions.undo(ctx, duplicate)
            removed.append(duplicate)
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
"""Step name -> its functions."""
