"""The step table: read down to provision, up to undo. Adding a step is adding a row here (and its column)."""

from collections.abc import Callable
from dataclasses import dataclass

from app.domain.errors import ErrorCode
from app.domain.statuses import Direction
from app.providers.base import NumberRouting
from app.providers.errors import RejectedError, TransientError, UnknownOutcomeError
from app.provisioning import verification
from app.provisioning.context import (
    DISPATCH_RULE,
    INBOUND_TRUNK,
    NUMBER,
    NUMBER_ATTACHMENT,
    ORIGINATION_URL,
    TRUNK,
    VERIFICATION,
    StepContext,
)


@dataclass(frozen=True)
class Result:
    """What a step made or found: its id, and for the number what it did before us."""

    resource_id: str | None
    previous_routing: NumberRouting | None = None
    removed: tuple[str, ...] = ()
    """Ids of twins that were deleted on the way."""


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
    changes: str | None = None
    """The step whose resource this one changes, where it makes none of its own (attaching changes a number)."""

    @property
    def makes(self) -> bool:
        """Whether the step makes something that the ledger must know."""
        return self.undo is not None and self.changes is None


def _look_up_number(ctx: StepContext) -> Result:
    number = ctx.tools.carrier.find_number(ctx.phone_number)
    if not number.is_voice:
        raise RejectedError(ErrorCode.NUMBER_NOT_VOICE, "The number cannot take voice calls, or is set to receive fax.")
    _refuse_foreign_routing(ctx, number.routing, own_trunk=ctx.ids.get(TRUNK))
    return Result(number.sid, previous_routing=number.routing)


def _refuse_foreign_routing(ctx: StepContext, routing: NumberRouting, own_trunk: str | None) -> None:
    if ctx.takeover or (own_trunk and routing.trunk_sid == own_trunk):
        return
    if routing.trunk_sid or routing.voice_application_sid:
        what = "trunk" if routing.trunk_sid else "voice application"
        raise RejectedError(
            ErrorCode.NUMBER_ALREADY_ROUTED,
            f"The number is in use by another {what}; send takeover=true to move it (its routing is put back later).",
        )


def _find_trunks(ctx: StepContext) -> list[str]:
    return [trunk.sid for trunk in ctx.tools.carrier.list_trunks() if trunk.tag == ctx.label.tag]


def _create_trunk(ctx: StepContext) -> Result:
    return Result(ctx.tools.carrier.create_trunk(ctx.label).sid)


def _delete_trunk(ctx: StepContext, trunk_sid: str) -> None:
    """Delete only an empty trunk: Twilio would detach every number on it without a word (twilio.md 2)."""
    if not ctx.until(lambda: not ctx.tools.carrier.list_trunk_numbers(trunk_sid)):
        raise RejectedError(
            ErrorCode.TWILIO_TRUNK_IN_USE, f"Trunk {trunk_sid} still carries numbers: take them off it, then retry."
        )
    ctx.check_time()
    ctx.tools.carrier.delete_trunk(trunk_sid)


def _find_origination_urls(ctx: StepContext) -> list[str]:
    urls = ctx.tools.carrier.list_origination_urls(ctx.ids[TRUNK])
    return [url.sid for url in urls if verification.same_sip_uri(url.sip_url, ctx.tools.sip_uri)]


def _create_origination_url(ctx: StepContext) -> Result:
    return Result(ctx.tools.carrier.create_origination_url(ctx.ids[TRUNK], ctx.tools.sip_uri, ctx.label).sid)


def _delete_origination_url(ctx: StepContext, url_sid: str) -> None:
    ctx.tools.carrier.delete_origination_url(ctx.parents.get(url_sid) or ctx.ids[TRUNK], url_sid)


def _find_inbound_trunks(ctx: StepContext) -> list[str]:
    return [trunk.id for trunk in ctx.tools.platform.list_inbound_trunks(ctx.phone_number) if ctx.owns(trunk.metadata)]


def _create_inbound_trunk(ctx: StepContext) -> Result:
    """Create it; where one of this agent's own came late and holds the number, adopt that one."""
    try:
        return Result(ctx.tools.platform.create_inbound_trunk(ctx.phone_number, ctx.label).id)
    except RejectedError as error:
        ours = _find_inbound_trunks(ctx) if error.code is ErrorCode.LIVEKIT_NUMBER_CONFLICT else []
        if not ours:
            raise
        return Result(ours[0])


def _delete_inbound_trunk(ctx: StepContext, trunk_id: str) -> None:
    """Delete and confirm by list: the delete answers 200 for any id (livekit.md 3)."""
    ctx.tools.platform.delete_trunk(trunk_id)
    ctx.check_time()

    def is_gone() -> bool:
        return all(trunk.id != trunk_id for trunk in ctx.tools.platform.list_inbound_trunks(ctx.phone_number))

    if not ctx.until(is_gone):
        raise TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "LiveKit still lists the trunk that it deleted.")


def _find_dispatch_rules(ctx: StepContext) -> list[str]:
    rules = ctx.tools.platform.list_dispatch_rules(ctx.ids[INBOUND_TRUNK])
    return [rule.id for rule in rules if rule.trunk_ids == (ctx.ids[INBOUND_TRUNK],) and ctx.owns(rule.metadata)]


def _create_dispatch_rule(ctx: StepContext) -> Result:
    rule = ctx.tools.platform.create_dispatch_rule(ctx.ids[INBOUND_TRUNK], ctx.agent_name, ctx.job_metadata, ctx.label)
    return Result(rule.id)


def _delete_dispatch_rule(ctx: StepContext, rule_id: str) -> None:
    ctx.tools.platform.delete_dispatch_rule(rule_id)


def _find_attachment(ctx: StepContext) -> list[str]:
    number = ctx.tools.carrier.get_number(ctx.ids[NUMBER])
    return [number.sid] if number.routing.trunk_sid == ctx.ids[TRUNK] else []


def _attach_number(ctx: StepContext) -> Result:
    number_sid, trunk_sid = ctx.ids[NUMBER], ctx.ids[TRUNK]
    if ctx.look_again:
        _refuse_foreign_routing(ctx, ctx.tools.carrier.get_number(number_sid).routing, own_trunk=trunk_sid)
        ctx.check_time()
    ctx.tools.carrier.attach_number(trunk_sid, number_sid)
    if not ctx.until(lambda: ctx.tools.carrier.get_number(number_sid).routing.trunk_sid == trunk_sid):
        raise UnknownOutcomeError(ErrorCode.PROVIDER_UNAVAILABLE, "Twilio took the attachment, but does not show it.")
    return Result(number_sid)


def _detach_number(ctx: StepContext, number_sid: str) -> None:
    """Detach and restore where the number is still ours; leave it alone where somebody has moved it since."""
    carrier, trunk_sid = ctx.tools.carrier, ctx.ids.get(TRUNK)
    try:
        now = carrier.get_number(number_sid).routing
    except RejectedError as error:
        if error.code is ErrorCode.NUMBER_NOT_IN_ACCOUNT:
            return
        raise
    if trunk_sid and now.trunk_sid == trunk_sid:
        ctx.check_time()
        carrier.detach_number(trunk_sid, number_sid)
        if not ctx.until(lambda: carrier.get_number(number_sid).routing.trunk_sid != trunk_sid):
            raise TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "Twilio still shows the number on our trunk.")
    elif now.trunk_sid or now.voice_application_sid:
        return
    if ctx.previous_routing is not None:
        ctx.check_time()
        carrier.restore_routing(number_sid, ctx.previous_routing)


def _verify(ctx: StepContext) -> Result:
    verification.verify(ctx)
    return Result(None, removed=tuple(_remove_twins(ctx)) if ctx.is_uncertain else ())


def _remove_twins(ctx: StepContext) -> list[str]:
    """Delete what a lost answer may have left beside the path: all of ours that is not on it."""
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
    Step(NUMBER, "twilio", "twilio_phone_number_sid", (), do=_look_up_number),
    Step(TRUNK, "twilio", "twilio_trunk_sid", (NUMBER,), _create_trunk, _find_trunks, _delete_trunk),
    Step(
        ORIGINATION_URL,
        "twilio",
        "twilio_origination_url_sid",
        (TRUNK,),
        _create_origination_url,
        _find_origination_urls,
        _delete_origination_url,
    ),
    Step(
        INBOUND_TRUNK,
        "livekit",
        "livekit_inbound_trunk_id",
        (ORIGINATION_URL,),
        _create_inbound_trunk,
        _find_inbound_trunks,
        _delete_inbound_trunk,
    ),
    Step(
        DISPATCH_RULE,
        "livekit",
        "livekit_dispatch_rule_id",
        (INBOUND_TRUNK,),
        _create_dispatch_rule,
        _find_dispatch_rules,
        _delete_dispatch_rule,
    ),
    Step(
        NUMBER_ATTACHMENT,
        "twilio",
        None,
        (DISPATCH_RULE,),
        _attach_number,
        _find_attachment,
        _detach_number,
        changes=NUMBER,
    ),
    Step(VERIFICATION, "livekit", None, (NUMBER_ATTACHMENT,), do=_verify),
)
"""In the order in which they run; the number is attached last, so that a caller never meets a half-built path."""

STEP_BY_NAME = {step.name: step for step in STEPS}


def steps_towards(direction: Direction) -> tuple[Step, ...]:
    """Return the table as it is read in this direction; what cannot be undone has no place in the way up."""
    return STEPS if direction is Direction.DO else tuple(step for step in reversed(STEPS) if step.undo)
