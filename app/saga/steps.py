"""The functions of each step in `app.domain.operations`: do, find, undo and repair."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from app.domain.errors import ErrorCode
from app.domain.findings import Finding, FindingCode, Severity, finding_json
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
from app.path.compare import compare, is_broken
from app.path.observed import CarrierTrunk
from app.providers.errors import RejectedError
from app.saga import livekit_steps, twilio_steps
from app.saga.context import StepContext
from app.saga.machine import Result
from app.saga.observing import read_built_path


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

    findings = tuple(finding_json(finding) for finding in _wait_for_calls(ctx, delete))
    if ctx.is_uncertain:
        removed += _remove_duplicates(ctx)
        if ctx.source_agent_id:
            removed += _remove_duplicates(replace(ctx, agent_id=ctx.source_agent_id))
    return Result(None, removed=tuple(removed), findings=findings)


def _wait_for_calls(ctx: StepContext, delete: Callable[[str, str], None]) -> list[Finding]:
    """Read the path until calls get through; return what differs all the same.

    `delete` takes kind (step name) and id of a duplicate of ours that stops calls. `RejectedError(path_not_verified)`
    names why calls fail, when they still do after some reads.
    """
    findings: list[Finding] = []

    def is_whole() -> bool:
        findings[:] = read_findings(ctx)
        duplicates = [one.resource for one in findings if one.code is FindingCode.TWIN and one.resource]
        for kind, external_id in duplicates:
            ctx.check_time()
            delete(kind, external_id)
        return not is_broken(findings)

    if not ctx.wait_until(is_whole):
        details = [
            finding.instruction if finding.is_for_a_person else finding.cause
            for finding in findings
            if finding.severity is Severity.CRITICAL
        ]
        raise RejectedError(ErrorCode.PATH_NOT_VERIFIED, " ".join(details))
    return findings


def read_findings(ctx: StepContext) -> list[Finding]:
    """Read every resource of the path once, side by side, and compare it with what it should be."""
    spec = ctx.spec
    made = None
    if not ctx.keeps_path:
        # A provisioning has made its trunk a moment ago: nobody has changed it since, and a read less is a wait less.
        made = CarrierTrunk(ctx.ids[TRUNK], spec.trunk.tag, spec.trunk.is_secure, None, spec.trunk.transfer_mode or "")
    return compare(spec, read_built_path(ctx.tools.carrier, ctx.tools.platform, spec, made, ctx.check_time))


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
