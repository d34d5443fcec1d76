"""The Twilio steps: what each one creates, finds, repairs and deletes."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import timedelta
from typing import TypeVar

from app.domain.errors import ErrorCode
from app.domain.operations import NUMBER, ORIGINATION_URL, TRUNK
from app.path.arrival import leads_to
from app.path.corrections import corrected_trunk, corrected_url
from app.path.observed import CarrierNumber, NumberRouting
from app.providers.errors import RejectedError, TransientError
from app.saga.context import ABSENCE_CHECK_PAUSES, NumberReplacedError, RoutedElsewhereError, StepContext
from app.saga.shared_trunk import Maker, place_of, shared, with_place
from app.saga.state import Result

TRUNK_SEEN_WITHIN = timedelta(seconds=30)
"""How long Twilio may answer 404 below a trunk that it has just made; seconds are reported (terraform-provider-twilio
issue 124, and code that sleeps 3 s). Beyond it a 404 is true: the trunk is gone, or the region has no such resource."""

LONGEST_PAUSE_S = 8.0
"""Seconds between two tries until then, at most: the step ends within a minute of its first 404."""

_NOT_THERE = frozenset({ErrorCode.TWILIO_TRUNK_GONE, ErrorCode.TWILIO_UNSUPPORTED})

Made = TypeVar("Made")


def look_up_number(ctx: StepContext) -> Result:
    """Find the number and check that we may use it; its present routing is stored, to be restored later.

    In a bulk it is found in a list that may be a minute old: what that says against the number is read once more.
    With the number goes the agent's place on a trunk that numbers share.
    """
    listed = ctx.tools.numbers.find(ctx.phone_number, ctx.last_call_at) if ctx.shares_lists else None
    if listed is not None:
        with suppress(RejectedError):
            return _looked_up(ctx, listed)
    number = _owned_number(ctx)
    if number is None:
        raise _not_in_account()
    return _looked_up(ctx, number)


def _refuse_without_voice(number: CarrierNumber) -> None:
    if not number.is_voice:
        raise RejectedError(ErrorCode.NUMBER_NOT_VOICE, "The number cannot take voice calls, or is set to receive fax.")


def _looked_up(ctx: StepContext, number: CarrierNumber) -> Result:
    _refuse_without_voice(number)
    own_trunk = ctx.ids.get(TRUNK)
    if ctx.adopted and number.routing.trunk_sid != own_trunk:
        where = f"on {number.routing.taken_by}" if number.routing.is_taken else "on no trunk"
        detail = f"The number is {where} by now: look at the path again."
        raise RejectedError(ErrorCode.NUMBER_MOVED, detail)
    _refuse_foreign_routing(ctx, number.routing, own_trunk)
    found = Result(number.sid, previous_routing=asdict(number.routing), voice_host=number.routing.voice_host)
    return with_place(ctx, found)


def _owned_number(ctx: StepContext) -> CarrierNumber | None:
    """Find the number in the account's list; None when three reads do not show it."""
    found: list[CarrierNumber] = []

    def list_sids() -> list[str]:
        try:
            found.append(ctx.tools.carrier.find_number(ctx.phone_number))
        except RejectedError as error:
            if error.code is not ErrorCode.NUMBER_NOT_IN_ACCOUNT:
                raise
        return [number.sid for number in found]

    ctx.find_with_retries(list_sids)
    return found[0] if found else None


def _not_in_account() -> RejectedError:
    return RejectedError(ErrorCode.NUMBER_NOT_IN_ACCOUNT, "The Twilio account does not own this number.")


def read_number(ctx: StepContext) -> CarrierNumber:
    """Read the number as it is now; `RejectedError(number_not_in_account)` only when the account's list agrees."""
    number = _number_with_text(ctx)
    if number.sid != ctx.ids[NUMBER]:
        raise _not_in_account()
    return number


def _number_with_text(ctx: StepContext) -> CarrierNumber:
    """Read the number in the same way; where it has left the account and come back, under the SID that it has now."""
    number_sid = ctx.ids[NUMBER]
    try:
        return ctx.tools.carrier.get_number(number_sid)
    except RejectedError as error:
        if error.code is not ErrorCode.NUMBER_NOT_IN_ACCOUNT:
            raise
    listed = _owned_number(ctx)
    if listed is None:
        raise _not_in_account()
    return listed


def _refuse_foreign_routing(ctx: StepContext, routing: NumberRouting, own_trunk: str | None) -> None:
    if ctx.takeover or (own_trunk and routing.trunk_sid == own_trunk) or not routing.is_taken:
        return
    detail = (
        f"The number is on {routing.taken_by}: only with takeover is it moved here, and deprovisioning restores its "
        "routing."
    )
    raise RoutedElsewhereError(ErrorCode.NUMBER_ALREADY_ROUTED, detail, routing)


def find_trunks(ctx: StepContext) -> list[str]:
    """List the trunks that carry this agent's tag."""
    return trunks_with(ctx, ctx.spec.label.tag)


def trunks_with(ctx: StepContext, tag: str) -> list[str]:
    """List the trunks that carry a tag."""
    return [trunk.sid for trunk in ctx.tools.carrier.list_trunks() if trunk.tag == tag]


def has_own_trunk(ctx: StepContext) -> bool:
    """Tell whether trunk and URL may be the agent's alone: it has no place on a shared one.

    That is so too where none was taken yet, and an older release may have asked for a trunk of its own.
    """
    return ctx.trunk_id is None and not ctx.former_ids


def create_trunk(ctx: StepContext) -> Result:
    """Take a place on a trunk that numbers share, made if there is none with room; or create one of the agent's own.

    In a repair its own encrypts where LiveKit's end of the line does.
    """
    if ctx.is_pooled:
        return shared(ctx, _SHARED_TRUNK)
    spec = ctx.spec.trunk
    if ctx.keeps_path and not spec.is_secure:
        spec = replace(spec, is_secure=ctx.livekit_encrypts())
        ctx.check_time()
    return Result(ctx.tools.carrier.create_trunk(spec).sid)


def _create_shared_trunk(ctx: StepContext) -> str:
    """Create a trunk for numbers to share; where the account may have no other, make one of the agent's own."""
    try:
        return ctx.tools.carrier.create_trunk(ctx.spec.trunk).sid
    except RejectedError as error:
        if error.code is not ErrorCode.TWILIO_TRUNK_LIMIT or not _share_own_trunk(ctx):
            raise
    return ctx.former_ids[TRUNK]


def _share_own_trunk(ctx: StepContext) -> bool:
    """Make the trunk that a rehome would leave behind one that numbers share: mark it and its URL as the pool's.

    The URL first, so that whoever finds the trunk by its new tag finds it whole. False when there is none, it is not
    whole, or a number of somebody else is on it.
    """
    carrier, spec, trunk_sid = ctx.tools.carrier, ctx.spec, ctx.former_ids.get(TRUNK)
    is_own = trunk_sid and ctx.former_trunk_id is None
    trunk = carrier.get_trunk(trunk_sid) if trunk_sid and is_own else None
    if trunk is None or not set(carrier.list_trunk_numbers(trunk.sid)) <= {ctx.ids[NUMBER]}:
        return False
    ctx.check_time()
    urls = carrier.list_origination_urls(trunk.sid)
    url = next((one for one in urls if one.sid == ctx.former_ids.get(ORIGINATION_URL)), None)
    if url is None:
        return False
    ctx.check_time()
    if not carrier.update_origination_url(url, corrected_url(url, spec, is_secure=spec.profile.is_secure)):
        return False
    ctx.check_time()
    return carrier.update_trunk(trunk, corrected_trunk(trunk, spec, livekit_encrypts=False))


def leave_place(ctx: StepContext) -> Result:
    """Say whether a rehome's own trunk has become one that numbers share: then the agent keeps its place on it."""
    trunk_sid = ctx.former_ids.get(TRUNK)
    if trunk_sid is None or ctx.former_trunk_id or not ctx.tools.pool.is_shared(trunk_sid):
        return Result(None)
    return Result(trunk_sid, given=tuple(ctx.former_ids.values()))


def repair_trunk(ctx: StepContext, trunk_sid: str) -> bool:
    """Make the trunk as it should be; False when it is certainly gone, or the agent's place is on another one."""
    carrier, spec = ctx.tools.carrier, ctx.spec
    place = place_of(ctx) if ctx.is_pooled else None
    if place is not None and place.ids.get(TRUNK) != trunk_sid:
        return False
    now = carrier.get_trunk(trunk_sid)
    if now is not None:
        is_by_hand = now.is_secure and not spec.profile.is_secure
        encrypts = is_by_hand and ctx.livekit_encrypts()
        wanted = ctx.to_write(now, corrected_trunk(now, spec, livekit_encrypts=encrypts, former=ctx.former))
        ctx.check_time()
        if carrier.update_trunk(now, wanted):
            return True
    ctx.confirm_gone(lambda: _trunk_by_sid(ctx, trunk_sid), trunk_sid)
    if place is not None:
        ctx.tools.pool.forget(place.trunk_id, TRUNK, trunk_sid)
    return False


def _trunk_by_sid(ctx: StepContext, trunk_sid: str) -> list[str]:
    trunk = ctx.tools.carrier.get_trunk(trunk_sid)
    return [trunk.sid] if trunk else []


def delete_trunk(ctx: StepContext, trunk_sid: str) -> None:
    """Delete the trunk when it is empty: Twilio silently detaches every number that is on it.

    Our own number may be on it again, by an attach request that landed after its undo: it is detached first. A trunk
    that numbers share stays.
    """
    if is_shared(ctx, trunk_sid):
        leave_trunk(ctx, trunk_sid)
        return
    _delete_once_empty(ctx, trunk_sid, ctx.ids.get(NUMBER))


def _delete_once_empty(ctx: StepContext, trunk_sid: str, own: str | None) -> None:
    """Delete the trunk once no number is on it; `own` is the one that is taken off it, if it is there."""
    landed_late = False

    def numbers_on() -> list[str]:
        nonlocal landed_late
        numbers = ctx.tools.carrier.list_trunk_numbers(trunk_sid)
        if own in numbers:
            landed_late = True
            ctx.tools.carrier.detach_number(trunk_sid, own)
        return numbers

    if not ctx.wait_until(lambda: not numbers_seen(numbers_on)):
        raise _in_use(trunk_sid)
    ctx.check_time()
    if own and landed_late:
        _restore_routing(ctx, own, read_number(ctx).routing)
    delete_empty_trunk(ctx, trunk_sid)


def numbers_seen(list_numbers: Callable[[], list[str]]) -> list[str]:
    """Read a trunk's numbers three times, or until there are some: one wrong empty list would detach somebody's."""
    return list_numbers() or list_numbers() or list_numbers()


def delete_empty_trunk(ctx: StepContext, trunk_sid: str) -> None:
    """Delete a trunk that was just seen to be empty; its origination URLs go with it."""
    if not ctx.tools.carrier.delete_trunk(trunk_sid):
        ctx.confirm_gone(lambda: _trunk_by_sid(ctx, trunk_sid), trunk_sid)


def delete_former_trunk(ctx: StepContext) -> list[str]:
    """Delete what a rehome leaves behind, once the number rings by its new trunk; return the ids that are gone.

    The trunk goes with its URL, in one call (Twilio: reference of `DELETE /v1/Trunks/{sid}`): before it the way back
    is open, after it there is none. A number on it, be it ours, is never taken off it here.
    """
    trunk_sid = ctx.former_ids[TRUNK]
    if ctx.tools.pool.is_shared(trunk_sid):
        return []
    ctx.check_time()
    _delete_once_empty(ctx, trunk_sid, own=None)
    return list(ctx.former_ids.values())


def is_shared(ctx: StepContext, sid: str) -> bool:
    """Tell whether a trunk or URL is not this agent's to delete: a row of the pool names it, or did.

    One that its path only points to may be on a row no longer: three calls in a row have found it to be gone.
    """
    kind = TRUNK if sid == ctx.ids.get(TRUNK) else ORIGINATION_URL if sid == ctx.ids.get(ORIGINATION_URL) else None
    is_pointed_to = ctx.trunk_id is not None and kind is not None and sid not in ctx.ledger.get(kind, ())
    return is_pointed_to or ctx.tools.pool.is_shared(sid)


def _in_use(trunk_sid: str) -> RejectedError:
    return RejectedError(
        ErrorCode.TWILIO_TRUNK_IN_USE, f"Trunk {trunk_sid} still has numbers: detach them, then retry."
    )


def delete_unused_trunk(ctx: StepContext, trunk_sid: str) -> None:
    """Delete a trunk that no row names; `RejectedError(twilio_trunk_in_use)` where somebody's number is on it."""
    if numbers_seen(lambda: ctx.tools.carrier.list_trunk_numbers(trunk_sid)):
        raise _in_use(trunk_sid)
    ctx.check_time()
    delete_empty_trunk(ctx, trunk_sid)


_SHARED_TRUNK = Maker(
    lambda ctx: trunks_with(ctx, ctx.spec.trunk.tag),
    _create_shared_trunk,
    delete_unused_trunk,
)


def leave_trunk(ctx: StepContext, trunk_sid: str) -> None:
    """Look once more whether our number is on a trunk that stays, where an attach request may have landed late."""
    own = ctx.ids.get(NUMBER)
    if own and ctx.is_uncertain:
        detach_number(replace(ctx, ids={**ctx.ids, TRUNK: trunk_sid}), own)


def find_origination_urls(ctx: StepContext) -> list[str]:
    """List the enabled URLs of our trunk that lead to our SIP URI; of one that was adopted, those with our tag."""
    urls = ctx.tools.carrier.list_origination_urls(ctx.ids[TRUNK])
    spec = ctx.spec
    is_theirs = TRUNK in spec.adopted
    return [
        url.sid
        for url in urls
        if url.is_enabled
        and leads_to(url.sip_url, spec.profile)
        and (url.tag == spec.origination_url.tag or not is_theirs)
    ]


def create_origination_url(ctx: StepContext) -> Result:
    """Create the URL; on a trunk that numbers share, if it has none yet."""
    if ctx.is_pooled:
        return shared(ctx, Maker(find_origination_urls, _create_url, delete_url, _correct_url))
    return Result(_create_url(ctx))


def _create_url(ctx: StepContext) -> str:
    trunk = ctx.spec.adopted.get(TRUNK)
    if trunk is not None and trunk.is_shared:
        detail = f"Trunk {trunk.id} is shared with other numbers: put an origination URL to LiveKit on it by hand."
        raise RejectedError(ErrorCode.PATH_NOT_VERIFIED, detail)
    create = ctx.tools.carrier.create_origination_url
    return _on_trunk(ctx, lambda: create(ctx.ids[TRUNK], ctx.spec.origination_url).sid)


def _on_trunk(ctx: StepContext, call: Callable[[], Made]) -> Made:
    """Make a call below our trunk. A 404 is tried again while Twilio may not show the trunk yet; then it is for good.

    For good is what three calls in a row were answered with: one 404 may be wrong, and two in a row were seen. A shared
    trunk that is gone for good is forgotten: the next number makes another.
    """
    is_new = ctx.tried_for < TRUNK_SEEN_WITHIN
    for fraction in (0.0,) if is_new else ABSENCE_CHECK_PAUSES:
        if fraction:
            ctx.tools.sleep(fraction * ctx.tools.timing.provider_timeout.total_seconds())
        ctx.check_time()
        try:
            return call()
        except RejectedError as error:
            if error.code not in _NOT_THERE:
                raise
            refusal = error
    if is_new:
        raise TransientError(ErrorCode.PROVIDER_UNAVAILABLE, refusal.detail, retry_within_s=LONGEST_PAUSE_S)
    if ctx.trunk_id is not None and refusal.code is ErrorCode.TWILIO_TRUNK_GONE:
        ctx.tools.pool.forget(ctx.trunk_id, TRUNK, ctx.ids[TRUNK])
    raise refusal


def repair_origination_url(ctx: StepContext, url_sid: str) -> bool:
    """Make the URL as it should be; False when it is certainly gone, or the agent's place has another one."""
    place = place_of(ctx) if ctx.is_pooled else None
    if place is not None and place.ids.get(ORIGINATION_URL) != url_sid:
        return False
    if _correct_url(ctx, url_sid):
        return True
    ctx.confirm_gone(lambda: _urls_of(ctx, ctx.ids[TRUNK]), url_sid)
    if place is not None:
        ctx.tools.pool.forget(place.trunk_id, ORIGINATION_URL, url_sid)
    return False


def _correct_url(ctx: StepContext, url_sid: str) -> bool:
    carrier, spec = ctx.tools.carrier, ctx.spec
    now = next((url for url in carrier.list_origination_urls(ctx.ids[TRUNK]) if url.sid == url_sid), None)
    if now is None:
        return False
    wanted = corrected_url(now, spec, is_secure=spec.profile.is_secure)
    if wanted.sip_url != now.sip_url and not spec.profile.is_secure and ctx.twilio_encrypts():
        wanted = corrected_url(now, spec, is_secure=True)
    wanted = ctx.to_write(now, wanted)
    ctx.check_time()
    return carrier.update_origination_url(now, wanted)


def _urls_of(ctx: StepContext, trunk_sid: str) -> list[str]:
    return [url.sid for url in ctx.tools.carrier.list_origination_urls(trunk_sid)]


def delete_origination_url(ctx: StepContext, url_sid: str) -> None:
    """Delete the URL; that of a trunk that numbers share stays."""
    if not is_shared(ctx, url_sid):
        delete_url(ctx, url_sid)


def delete_url(ctx: StepContext, url_sid: str) -> None:
    """Delete the URL, whosever it is."""
    trunk_sid = ctx.parents.get(url_sid) or ctx.ids[TRUNK]
    if not ctx.tools.carrier.delete_origination_url(trunk_sid, url_sid):
        ctx.confirm_gone(lambda: _urls_of(ctx, trunk_sid), url_sid)


def find_attachment(ctx: StepContext) -> list[str]:
    """Return the number's SID when it is on our trunk; a number that the account no longer owns is on none."""
    try:
        number = read_number(ctx)
    except RejectedError as error:
        if error.code is ErrorCode.NUMBER_NOT_IN_ACCOUNT:
            return []
        raise
    return [number.sid] if number.routing.trunk_sid == ctx.ids[TRUNK] else []


def attach_number(ctx: StepContext) -> Result:
    """Attach the number, unless somebody has routed it meanwhile: Twilio silently moves it from any other trunk.

    In a rehome it is moved from the agent's own trunk by one write, so that a caller always reaches somebody. What the
    look-up of a moment ago has seen is believed, or in a bulk a list of a moment ago that says the same; else its
    routing is read once more. Verification reads it back, with the rest of the path.
    """
    return _on_trunk(ctx, lambda: _attach(ctx, ctx.ids[NUMBER], ctx.ids[TRUNK]))


def _attach(ctx: StepContext, number_sid: str, trunk_sid: str) -> Result:
    now = ctx.previous_routing if ctx.is_number_fresh else None
    if ctx.shares_lists:
        listed = ctx.tools.numbers.get(number_sid, ctx.last_call_at)
        # Where it differs from the look-up, either may be the older one.
        now = listed.routing if listed and listed.routing == ctx.previous_routing else None
    now = now or _still_the_number(ctx).routing
    if now.trunk_sid == trunk_sid:
        return Result(number_sid)
    if ctx.former_ids:
        if now.trunk_sid != ctx.former_ids[TRUNK]:
            where = f"is on {now.taken_by}" if now.is_taken else "is on no trunk"
            raise RejectedError(ErrorCode.NUMBER_MOVED, f"The number {where}, and no longer where this agent has it.")
        ctx.check_time()
        ctx.tools.carrier.move_number(number_sid, trunk_sid)
        return Result(number_sid)
    _refuse_foreign_routing(ctx, now, own_trunk=trunk_sid)
    ctx.check_time()
    try:
        ctx.tools.carrier.attach_number(trunk_sid, number_sid, now)
    except RejectedError as error:
        # What was seen a moment ago may be gone: that is the better reason, or another try.
        if error.code in {ErrorCode.NUMBER_NOT_IN_ACCOUNT, ErrorCode.TWILIO_REJECTED}:
            ctx.check_time()
            _still_the_number(ctx)
        raise
    # Its routing changed after the first read: the newer one is to be restored.
    is_taken = now.is_taken and now != ctx.previous_routing
    return Result(number_sid, previous_routing=asdict(now) if is_taken else None)


def _still_the_number(ctx: StepContext) -> CarrierNumber:
    """Read the number, as `read_number`; released and bought again since it was looked up, it is looked up once more.

    A bulk's look-up may be a minute old, and a provisioning may wait longer for its turn. On a path that stands such a
    number is not the one that was connected.
    """
    if ctx.keeps_path:
        return read_number(ctx)
    number = _number_with_text(ctx)
    if number.sid != ctx.ids[NUMBER]:
        _refuse_without_voice(number)
        raise NumberReplacedError(number)
    return number


def move_number_back(ctx: StepContext) -> Result:
    """Move the number back to the agent's own trunk, by one write; it stays where that trunk is gone, or its URL.

    A number that is elsewhere by now is left alone.
    """
    carrier, number_sid, former = ctx.tools.carrier, ctx.ids[NUMBER], ctx.former_ids.get(TRUNK)
    try:
        now = read_number(ctx).routing
    except RejectedError as error:
        if error.code is ErrorCode.NUMBER_NOT_IN_ACCOUNT:
            return Result(None)
        raise
    if former is None or now.trunk_sid != ctx.ids[TRUNK]:
        return Result(None)
    # One empty list may be wrong, and would leave the old trunk to nobody.
    urls = ctx.find_with_retries(lambda: _urls_of(ctx, former))
    if former == ctx.ids[TRUNK] or ctx.former_ids.get(ORIGINATION_URL) not in urls:
        is_gone = carrier.get_trunk(former) is None
        return Result(number_sid, removed=tuple(ctx.former_ids.values()) if is_gone else ())
    ctx.check_time()
    carrier.move_number(number_sid, former)
    if not ctx.wait_until(lambda: read_number(ctx).routing.trunk_sid == former):
        raise TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "Twilio still shows the number on the shared trunk.")
    return Result(None)


def detach_number(ctx: StepContext, number_sid: str) -> None:
    """Detach the number and restore its routing; leave it alone when somebody has moved it since.

    It may be on a trunk of the agent's that only the ledger knows, where a rehome was to take it away, and on another
    one of the pool's, where an update was: those that numbers share are ours alone.
    """
    carrier = ctx.tools.carrier
    try:
        now = read_number(ctx).routing
    except RejectedError as error:
        if error.code is ErrorCode.NUMBER_NOT_IN_ACCOUNT:
            return
        raise
    own = {ctx.ids.get(TRUNK), *ctx.ledger.get(TRUNK, ())}
    is_own = now.trunk_sid in own or (now.trunk_sid is not None and ctx.tools.pool.is_shared(now.trunk_sid))
    trunk_sid = now.trunk_sid if is_own else None
    if trunk_sid:
        ctx.check_time()
        carrier.detach_number(trunk_sid, number_sid)

        def is_detached() -> bool:
            nonlocal now
            now = read_number(ctx).routing
            return now.trunk_sid != trunk_sid

        if not ctx.wait_until(is_detached):
            raise TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "Twilio still shows the number on our trunk.")
    _restore_routing(ctx, number_sid, now)


def _restore_routing(ctx: StepContext, number_sid: str, now: NumberRouting) -> None:
    """Restore the number's earlier routing, unless somebody has routed it since; `now` was read a moment ago."""
    if ctx.previous_routing is not None and not now.is_taken:
        ctx.check_time()
        ctx.tools.carrier.restore_routing(number_sid, ctx.previous_routing, now)
