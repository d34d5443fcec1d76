"""The functions of each step in `app.domain.operations`: do, find, undo and repair."""

from collections.abc import Callable, Collection, Iterable
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
from app.path.observed import Observed
from app.path.spec import Adopted, as_built
from app.providers.errors import RejectedError
from app.saga import adopted_steps, livekit_steps, twilio_steps
from app.saga.context import StepContext
from app.saga.observing import read_built_path
from app.saga.state import Result


@dataclass(frozen=True)
class Actions:
    """What one step does at its provider."""

    do: Callable[[StepContext], Result]
    find: Callable[[StepContext], list[str]] | None = None
    """List the ids of our resources that exist, oldest first."""
    undo: Callable[[StepContext, str], None] | None = None
    """Delete one; succeeds when it is gone already."""
    is_own: Callable[[StepContext], bool] = lambda _: True
    """Whether the resource is the agent's own, so that there may be one of it to find."""
    repair: Callable[[StepContext, str], bool] | None = None
    """Update the existing one in place, its mark included; False when it is certainly gone. For repair and move."""
    take_back: Callable[[StepContext], Result] | None = None
    """Undo of going to another trunk, which deletes nothing; an id in its result: the number stays where it is."""
    mark: Callable[[StepContext, Adopted], bool] | None = None
    """Put our mark on what was adopted, and change nothing else; False when it is gone."""
    unmark: Callable[[StepContext, Adopted], None] | None = None
    """Give it back the name and metadata that it had; nothing where it is gone."""


def _verify(ctx: StepContext) -> Result:
    removed: list[str] = []

    def delete(kind: str, external_id: str) -> None:
        undo = ACTIONS[kind].undo
        if undo:
            undo(ctx, external_id)
            removed.append(external_id)

    findings = tuple(finding_json(finding) for finding in _wait_for_calls(ctx, delete))
    if ctx.former_ids:
        removed += twilio_steps.delete_former_trunk(ctx)
    if ctx.is_uncertain:
        removed += _remove_duplicates(ctx, removed)
        if ctx.source_agent_id:
            removed += _remove_duplicates(replace(ctx, agent_id=ctx.source_agent_id), removed)
    return Result(None, removed=tuple(removed), findings=findings)


def _wait_for_calls(ctx: StepContext, delete: Callable[[str, str], None]) -> list[Finding]:
    """Read the path until calls get through; return what differs all the same.

    `delete` takes kind (step name) and id of a duplicate of ours that stops calls. `RejectedError(path_not_verified)`
    names why calls fail, when they still do after some reads.
    """
    findings: list[Finding] = []
    # Whatever differs has been changed since it was looked at: then callers get something else than was agreed.
    is_adoption = bool(ctx.adopted) and not ctx.keeps_path

    def is_whole() -> bool:
        findings[:] = read_findings(ctx)
        duplicates = [one.resource for one in findings if one.code is FindingCode.TWIN and one.resource]
        for kind, external_id in duplicates:
            ctx.check_time()
            delete(kind, external_id)
        if ctx.is_pooled and not ctx.keeps_path:
            _mend_trunk(ctx, findings)
        return not (findings if is_adoption else is_broken(findings))

    if not ctx.wait_until(is_whole):
        details = [
            finding.instruction if finding.is_for_a_person else finding.cause
            for finding in findings
            if is_adoption or finding.severity is Severity.CRITICAL
        ]
        raise RejectedError(ErrorCode.PATH_NOT_VERIFIED, " ".join(details))
    return findings


def _mend_trunk(ctx: StepContext, findings: Iterable[Finding]) -> None:
    """Make right what somebody has changed at a shared trunk: a provisioning has not looked at it before."""
    for kind in (TRUNK, ORIGINATION_URL):
        repair = ACTIONS[kind].repair
        if repair and any(
            finding.severity is Severity.CRITICAL and finding.is_about_trunk and kind in finding.steps
            for finding in findings
        ):
            ctx.check_time()
            repair(ctx, ctx.ids[kind])


def read_findings(ctx: StepContext) -> list[Finding]:
    """Read every resource of the path once, side by side, and compare it with what it should be."""
    spec = ctx.spec
    pool, trunk_id = ctx.tools.pool, ctx.trunk_id
    known, built = Observed(), as_built(spec, Observed())
    if not (ctx.keeps_path or spec.adopted) and (trunk_id is None or pool.is_checked(trunk_id)):
        # A provisioning makes its own trunk a moment before, and many share one that was read for another's sake.
        known = Observed(trunks=built.trunks, urls=built.urls if trunk_id else {})
    found = compare(spec, read_built_path(ctx.tools.carrier, ctx.tools.platform, spec, known, ctx.check_time))
    if trunk_id is not None and not known.trunks and not any(finding.is_about_trunk for finding in found):
        pool.keep_checked(trunk_id)
    return found


def _remove_duplicates(ctx: StepContext, gone: Collection[str]) -> list[str]:
    """Delete duplicates that a lost response may have left: all that carry the agent's mark and are not on its path.

    `gone` is what this run has deleted already.
    """
    removed = []
    for step in steps_towards(Direction.UNDO):
        actions = ACTIONS[step.name]
        if not step.makes or not actions.find or not actions.undo or step.name not in ctx.ids:
            continue
        ctx.check_time()
        kept = {ctx.ids[step.name], *gone}
        for duplicate in sorted({*actions.find(ctx), *ctx.ledger.get(step.name, ())} - kept):
            actions.undo(ctx, duplicate)
            removed.append(duplicate)
    return removed


ACTIONS = {
    NUMBER: Actions(twilio_steps.look_up_number),
    TRUNK: Actions(
        twilio_steps.create_trunk,
        twilio_steps.find_trunks,
        adopted_steps.remove_trunk,
        twilio_steps.has_own_trunk,
        twilio_steps.repair_trunk,
        twilio_steps.leave_place,
        adopted_steps.mark_trunk,
        adopted_steps.unmark_trunk,
    ),
    ORIGINATION_URL: Actions(
        twilio_steps.create_origination_url,
        twilio_steps.find_origination_urls,
        adopted_steps.remove_origination_url,
        twilio_steps.has_own_trunk,
        twilio_steps.repair_origination_url,
        mark=adopted_steps.mark_origination_url,
        unmark=adopted_steps.unmark_origination_url,
    ),
    INBOUND_TRUNK: Actions(
        livekit_steps.create_inbound_trunk,
        livekit_steps.find_inbound_trunks,
        adopted_steps.remove_inbound_trunk,
        repair=livekit_steps.repair_inbound_trunk,
        mark=adopted_steps.mark_inbound_trunk,
        unmark=adopted_steps.unmark_inbound_trunk,
    ),
    DISPATCH_RULE: Actions(
        livekit_steps.create_dispatch_rule,
        livekit_steps.find_dispatch_rules,
        adopted_steps.remove_dispatch_rule,
        repair=livekit_steps.repair_dispatch_rule,
        mark=adopted_steps.mark_dispatch_rule,
        unmark=adopted_steps.unmark_dispatch_rule,
    ),
    NUMBER_ATTACHMENT: Actions(
        twilio_steps.attach_number,
        twilio_steps.find_attachment,
        twilio_steps.detach_number,
        take_back=twilio_steps.move_number_back,
    ),
    VERIFICATION: Actions(_verify),
}
"""Step name -> its functions."""
