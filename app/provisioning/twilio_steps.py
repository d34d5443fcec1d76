"""What the Twilio steps do at the provider, look for and take back."""

from app.domain.errors import ErrorCode
from app.providers.base import NumberRouting
from app.providers.errors import ProviderError, RejectedError, TransientError, UnknownOutcomeError
from app.provisioning.context import NUMBER, TRUNK, Result, StepContext
from app.provisioning.verification import same_sip_uri


def look_up_number(ctx: StepContext) -> Result:
    """Find the number by its exact text and check that it may be ours; its routing today is the snapshot."""
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


def find_trunks(ctx: StepContext) -> list[str]:
    """List the trunks that carry our tag."""
    return [trunk.sid for trunk in ctx.tools.carrier.list_trunks() if trunk.tag == ctx.label.tag]


def create_trunk(ctx: StepContext) -> Result:
    """Create the trunk."""
    return Result(ctx.tools.carrier.create_trunk(ctx.label).sid)


def mend_trunk(ctx: StepContext, trunk_sid: str) -> bool:
    """Give the trunk its tag and let it take plain calls."""
    return ctx.tools.carrier.update_trunk(trunk_sid, ctx.label)


def delete_trunk(ctx: StepContext, trunk_sid: str) -> None:
    """Delete only an empty trunk: Twilio would detach every number on it without a word (twilio.md 2).

    Our own number may be on it again, by an attachment that landed after it was undone: that one is taken off.
    """
    carrier, own, landed_late = ctx.tools.carrier, ctx.ids.get(NUMBER), False

    def is_empty() -> bool:
        nonlocal landed_late
        numbers = carrier.list_trunk_numbers(trunk_sid)
        if own in numbers:
            landed_late = True
            carrier.detach_number(trunk_sid, own)
        return not numbers

    if not ctx.until(is_empty):
        raise RejectedError(
            ErrorCode.TWILIO_TRUNK_IN_USE, f"Trunk {trunk_sid} still carries numbers: take them off it, then retry."
        )
    ctx.check_time()
    if own and landed_late and ctx.previous_routing is not None:
        carrier.restore_routing(own, ctx.previous_routing)
    carrier.delete_trunk(trunk_sid)


def find_origination_urls(ctx: StepContext) -> list[str]:
    """List the URLs of our trunk that lead where ours leads."""
    urls = ctx.tools.carrier.list_origination_urls(ctx.ids[TRUNK])
    return [url.sid for url in urls if url.is_enabled and same_sip_uri(url.sip_url, ctx.tools.sip_uri)]


def create_origination_url(ctx: StepContext) -> Result:
    """Create the URL."""
    return Result(ctx.tools.carrier.create_origination_url(ctx.ids[TRUNK], ctx.tools.sip_uri, ctx.label).sid)


def mend_origination_url(ctx: StepContext, url_sid: str) -> bool:
    """Make the URL lead to LiveKit again."""
    return ctx.tools.carrier.update_origination_url(ctx.ids[TRUNK], url_sid, ctx.tools.sip_uri, ctx.label)


def delete_origination_url(ctx: StepContext, url_sid: str) -> None:
    """Delete the URL."""
    ctx.tools.carrier.delete_origination_url(ctx.parents.get(url_sid) or ctx.ids[TRUNK], url_sid)


def find_attachment(ctx: StepContext) -> list[str]:
    """Say whether the number is on our trunk."""
    number = ctx.tools.carrier.get_number(ctx.ids[NUMBER])
    return [number.sid] if number.routing.trunk_sid == ctx.ids[TRUNK] else []


def attach_number(ctx: StepContext) -> Result:
    """Attach the number, and read back until it shows."""
    number_sid, trunk_sid = ctx.ids[NUMBER], ctx.ids[TRUNK]
    if ctx.look_again:
        _refuse_foreign_routing(ctx, ctx.tools.carrier.get_number(number_sid).routing, own_trunk=trunk_sid)
        ctx.check_time()
    ctx.tools.carrier.attach_number(trunk_sid, number_sid)
    try:
        is_shown = ctx.until(lambda: ctx.tools.carrier.get_number(number_sid).routing.trunk_sid == trunk_sid)
    except ProviderError as error:
        # Whatever the look says: the number is on our trunk now, and an undo must know.
        raise UnknownOutcomeError(error.code, error.detail) from error
    if not is_shown:
        raise UnknownOutcomeError(ErrorCode.PROVIDER_UNAVAILABLE, "Twilio took the attachment, but does not show it.")
    return Result(number_sid)


def detach_number(ctx: StepContext, number_sid: str) -> None:
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
