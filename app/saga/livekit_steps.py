"""The LiveKit steps: what each one creates, finds, repairs and deletes."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from app.domain.errors import ErrorCode
from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK
from app.path.corrections import corrected_inbound_trunk, corrected_rule
from app.path.observed import DispatchRule, Encryption, InboundTrunk, Media, normalised
from app.providers.errors import ProviderError, RejectedError, TransientError
from app.saga.context import StepContext
from app.saga.contradictions import refusals_of_rule, refusals_of_trunk
from app.saga.state import Result

CONFLICTS = {ErrorCode.LIVEKIT_NUMBER_CONFLICT, ErrorCode.LIVEKIT_RULE_CONFLICT}

Made = TypeVar("Made")


def find_inbound_trunks(ctx: StepContext) -> list[str]:
    """List our LiveKit trunks that have the number."""
    number = normalised(ctx.phone_number)
    return [
        trunk.id
        for trunk in ctx.tools.platform.list_inbound_trunks(ctx.phone_number)
        if ctx.has_own_mark(trunk.metadata, trunk.name) and number in map(normalised, trunk.numbers)
    ]


def create_inbound_trunk(ctx: StepContext) -> Result:
    """Create the trunk; adopt this agent's own one when an earlier request landed late and holds the number.

    In a repair its media is encrypted where the Twilio trunk encrypts.
    """
    spec = ctx.spec.inbound_trunk
    if ctx.keeps_path and not spec.is_secure:
        spec = replace(spec, is_secure=ctx.twilio_encrypts())
        ctx.check_time()
    return _create(
        ctx, lambda: ctx.tools.platform.create_inbound_trunk(spec).id, find_inbound_trunks, repair_inbound_trunk
    )


def _create(
    ctx: StepContext,
    create: Callable[[], str],
    find: Callable[[StepContext], list[str]],
    repair: Callable[[StepContext, str], bool],
) -> Result:
    """Create; on a conflict, adopt the resource that an earlier request of ours made late, or name what is there.

    What is adopted is made right: it may be older than what is wanted now.
    """
    try:
        return Result(create())
    except RejectedError as error:
        ours = ctx.find_with_retries(lambda: find(ctx)) if error.code in CONFLICTS else []
        if not ours:
            raise name_what_conflicts(ctx, error) from None
        repair(ctx, ours[0])
        return Result(ours[0])


def repair_inbound_trunk(ctx: StepContext, trunk_id: str) -> bool:
    """Make the trunk as it should be, in place; False when it is certainly gone."""
    platform, is_there = ctx.tools.platform, False
    now = platform.get_inbound_trunk(trunk_id)
    if now is not None:
        encrypts = _twilio_encrypts(ctx, now.media)
        wanted = corrected_inbound_trunk(now, ctx.spec, twilio_encrypts=encrypts, former=ctx.former)
        wanted = ctx.to_write(now, wanted)
        ctx.check_time()
        is_there = _update(
            ctx,
            lambda: platform.update_inbound_trunk(now, wanted),
            lambda: [one for one in find_inbound_trunks(ctx) if one != trunk_id],
            delete_inbound_trunk,
        )
    if not is_there:
        ctx.confirm_gone(lambda: [trunk.id for trunk in platform.list_inbound_trunks()], trunk_id)
    return is_there


def _twilio_encrypts(ctx: StepContext, media: Media) -> bool:
    """Read whether the Twilio trunk encrypts, where it matters: media is required to be encrypted, but not by us."""
    is_by_hand = media.encryption is Encryption.REQUIRE and not ctx.spec.profile.is_secure
    return is_by_hand and ctx.twilio_encrypts()


def _update(
    ctx: StepContext,
    update: Callable[[], Made],
    find_duplicates: Callable[[], list[str]],
    delete: Callable[[StepContext, str], None],
) -> Made:
    """Update; on a conflict with duplicates of ours, delete them and update once more; else name what is there."""
    try:
        return update()
    except RejectedError as error:
        duplicates = ctx.find_with_retries(find_duplicates) if error.code in CONFLICTS else []
        if not duplicates:
            raise name_what_conflicts(ctx, error) from None
    for duplicate in duplicates:
        ctx.check_time()
        delete(ctx, duplicate)
    ctx.check_time()
    try:
        return update()
    except RejectedError as error:
        raise name_what_conflicts(ctx, error) from None


def name_what_conflicts(ctx: StepContext, error: RejectedError) -> RejectedError:
    """Return the refusal with the objects in its way named, found by a list: LiveKit's text may quote only one of them.

    The error as it is where it is no conflict, where the list fails, and where it shows nothing.
    """
    try:
        ctx.check_time()
        match error.code:
            case ErrorCode.LIVEKIT_NUMBER_CONFLICT:
                named = _name_trunks(ctx)
            case ErrorCode.LIVEKIT_RULE_CONFLICT:
                named = _name_rules(ctx)
            case _:
                named = ""
    except ProviderError:
        named = ""
    return RejectedError(error.code, f"{named} {error.detail}") if named else error


def _name_trunks(ctx: StepContext) -> str:
    """Say which trunks LiveKit cannot have beside ours, or beside each other: it refuses a new one for both."""
    trunks = {trunk.id: trunk for trunk in ctx.tools.platform.list_inbound_trunks(unreadable=[])}
    now = trunks.pop(ctx.spec.inbound_trunk_id, None) or InboundTrunk("", "", "", ())
    ours = corrected_inbound_trunk(now, ctx.spec, twilio_encrypts=False)
    return next((one.sentence for one in refusals_of_trunk(ours, trunks.values())), "")


def _name_rules(ctx: StepContext) -> str:
    """Say which rules LiveKit cannot have beside ours, or beside each other: it refuses a new one for both."""
    rules = {rule.id: rule for rule in ctx.tools.platform.list_dispatch_rules(unreadable=[])}
    now = rules.pop(ctx.spec.rule_id, None) or DispatchRule("", "", "", ())
    ours = corrected_rule(now, ctx.spec, twilio_encrypts=False)
    return next((one.sentence for one in refusals_of_rule(ours, rules.values(), is_update=bool(now.id))), "")


def delete_inbound_trunk(ctx: StepContext, trunk_id: str) -> None:
    """Delete and confirm by list: LiveKit responds with 200 to a delete of any id."""
    ctx.tools.platform.delete_trunk(trunk_id)
    ctx.check_time()

    def is_gone() -> bool:
        return all(trunk.id != trunk_id for trunk in ctx.tools.platform.list_inbound_trunks(ctx.phone_number))

    if not ctx.wait_until(is_gone):
        raise TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "LiveKit still lists the trunk that it deleted.")


def find_dispatch_rules(ctx: StepContext) -> list[str]:
    """List our rules that name our trunk and no other."""
    rules = ctx.tools.platform.list_dispatch_rules(ctx.ids[INBOUND_TRUNK])
    ours = (rule for rule in rules if ctx.has_own_mark(rule.name, rule.metadata))
    return [rule.id for rule in ours if rule.trunk_ids == (ctx.ids[INBOUND_TRUNK],)]


def create_dispatch_rule(ctx: StepContext) -> Result:
    """Create the rule; adopt this agent's own one when an earlier request landed late and has the trunk."""
    spec = ctx.spec.dispatch_rule
    return _create(
        ctx, lambda: ctx.tools.platform.create_dispatch_rule(spec).id, find_dispatch_rules, repair_dispatch_rule
    )


def repair_dispatch_rule(ctx: StepContext, rule_id: str) -> bool:
    """Make the rule as it should be, in place; False when it is certainly gone, or shared and of another trunk."""
    platform, is_there = ctx.tools.platform, False
    now = platform.get_dispatch_rule(rule_id)
    adopted = ctx.spec.adopted.get(DISPATCH_RULE)
    if now is not None and adopted is not None and adopted.is_shared:
        # Others use it, so that it is not changed. It is the path's no more where the LiveKit trunk was made anew.
        return ctx.ids[INBOUND_TRUNK] in now.trunk_ids
    if now is not None:
        encrypts = _twilio_encrypts(ctx, now.media)
        wanted = corrected_rule(now, ctx.spec, twilio_encrypts=encrypts, former=ctx.former)
        wanted = ctx.to_write(now, wanted)
        ctx.check_time()
        is_there = _update(
            ctx,
            lambda: platform.update_dispatch_rule(now, wanted),
            lambda: [one for one in find_dispatch_rules(ctx) if one != rule_id],
            delete_dispatch_rule,
        )
    if not is_there:
        ctx.confirm_gone(lambda: _list_rules(ctx), rule_id)
    return is_there


def _list_rules(ctx: StepContext) -> list[str]:
    return [rule.id for rule in ctx.tools.platform.list_dispatch_rules()]


def delete_dispatch_rule(ctx: StepContext, rule_id: str) -> None:
    """Delete the rule."""
    if not ctx.tools.platform.delete_dispatch_rule(rule_id):
        ctx.confirm_gone(lambda: _list_rules(ctx), rule_id)
