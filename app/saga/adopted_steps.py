"""What steps do with objects that somebody else made, on the path of an agent that has adopted them.

To adopt one is to put our mark on it, to give it back is to take the mark off: a name, and the mark in a LiveKit
trunk's metadata, are all that is written. What other numbers use too is never marked, never changed but for our number
on it, and never deleted; nor is what others have begun to use since it was adopted.
"""

from collections.abc import Callable
from typing import TypeVar

from app.domain.errors import ErrorCode
from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK, NUMBER, ORIGINATION_URL, STEP_BY_NAME, TRUNK
from app.path.adoption_marks import (
    marked_inbound_trunk,
    marked_rule,
    marked_trunk,
    marked_url,
    unmarked_inbound_trunk,
    unmarked_rule,
    unmarked_trunk,
    unmarked_url,
)
from app.path.observed import CarrierTrunk, DispatchRule, InboundTrunk, OriginationUrl, normalised
from app.path.spec import Adopted, PathSpec
from app.providers.errors import RejectedError, TransientError
from app.saga.context import StepContext
from app.saga.livekit_steps import delete_dispatch_rule, delete_inbound_trunk, name_what_conflicts
from app.saga.twilio_steps import delete_origination_url, delete_trunk, leave_trunk, numbers_seen

Record = TypeVar("Record", CarrierTrunk, OriginationUrl, InboundTrunk, DispatchRule)


def mark_trunk(ctx: StepContext, adopted: Adopted) -> bool:
    """Name the Twilio trunk by our tag; False when it is gone."""
    return _mark(ctx, adopted, _trunk, ctx.tools.carrier.update_trunk, marked_trunk, lambda one: (one.tag,))


def unmark_trunk(ctx: StepContext, adopted: Adopted) -> None:
    """Give the Twilio trunk its former name back."""
    _unmark(ctx, adopted, _trunk, ctx.tools.carrier.update_trunk, unmarked_trunk)


def mark_origination_url(ctx: StepContext, adopted: Adopted) -> bool:
    """Name the origination URL by our tag; False when it is gone."""
    return _mark(ctx, adopted, _url, ctx.tools.carrier.update_origination_url, marked_url, lambda one: (one.tag,))


def unmark_origination_url(ctx: StepContext, adopted: Adopted) -> None:
    """Give the origination URL its former name back."""
    _unmark(ctx, adopted, _url, ctx.tools.carrier.update_origination_url, unmarked_url)


def mark_inbound_trunk(ctx: StepContext, adopted: Adopted) -> bool:
    """Put our mark into the LiveKit trunk's name and metadata; False when it is gone."""
    update = _naming_conflicts(ctx, ctx.tools.platform.update_inbound_trunk)
    return _mark(ctx, adopted, _inbound_trunk, update, marked_inbound_trunk, lambda one: (one.name, one.metadata))


def unmark_inbound_trunk(ctx: StepContext, adopted: Adopted) -> None:
    """Give the LiveKit trunk its former name and metadata back."""
    _unmark(ctx, adopted, _inbound_trunk, ctx.tools.platform.update_inbound_trunk, unmarked_inbound_trunk)


def mark_dispatch_rule(ctx: StepContext, adopted: Adopted) -> bool:
    """Name the dispatch rule by our tag; False when it is gone."""
    update = _naming_conflicts(ctx, ctx.tools.platform.update_dispatch_rule)
    return _mark(ctx, adopted, _rule, update, marked_rule, lambda one: (one.name,))


def unmark_dispatch_rule(ctx: StepContext, adopted: Adopted) -> None:
    """Give the dispatch rule its former name back."""
    _unmark(ctx, adopted, _rule, ctx.tools.platform.update_dispatch_rule, unmarked_rule)


def _mark(
    ctx: StepContext,
    adopted: Adopted,
    read: Callable[[StepContext, str], Record | None],
    update: Callable[[Record, Record], bool],
    marked: Callable[[Record, PathSpec], Record],
    texts: Callable[[Record], tuple[str, ...]],
) -> bool:
    now = read(ctx, adopted.id)
    if now is not None:
        found, seen = texts(now), (adopted.name, adopted.metadata)
        if not ctx.has_own_mark(*found) and found != seen[: len(found)]:
            # What it was given since the look would be forgotten with the former name.
            detail = f"Somebody has renamed the {STEP_BY_NAME[ctx.step].label} meanwhile: look at the path again."
            raise RejectedError(ErrorCode.PATH_NOT_VERIFIED, detail)
        ctx.check_time()
        if update(now, marked(now, ctx.spec)):
            return True
    _confirm_gone(ctx, adopted.id, read)
    return False


def _unmark(
    ctx: StepContext,
    adopted: Adopted,
    read: Callable[[StepContext, str], Record | None],
    update: Callable[[Record, Record], bool],
    unmarked: Callable[[Record, PathSpec, Adopted], Record],
) -> None:
    now = read(ctx, adopted.id)
    if now is not None:
        wanted = unmarked(now, ctx.spec, adopted)
        ctx.check_time()
        if wanted == now or update(now, wanted):
            return
    _confirm_gone(ctx, adopted.id, read)


def _confirm_gone(ctx: StepContext, resource_id: str, read: Callable[[StepContext, str], object | None]) -> None:
    ctx.confirm_gone(lambda: [resource_id] if read(ctx, resource_id) is not None else [], resource_id)


def _naming_conflicts(ctx: StepContext, update: Callable[[Record, Record], bool]) -> Callable[[Record, Record], bool]:
    """Return the update, whose refusal names what is in its way: LiveKit looks for conflicts at every update."""

    def named(now: Record, wanted: Record) -> bool:
        try:
            return update(now, wanted)
        except RejectedError as error:
            raise name_what_conflicts(ctx, error) from None

    return named


def _trunk(ctx: StepContext, trunk_sid: str) -> CarrierTrunk | None:
    return ctx.tools.carrier.get_trunk(trunk_sid)


def _url(ctx: StepContext, url_sid: str) -> OriginationUrl | None:
    trunk_sid = ctx.parents.get(url_sid) or ctx.ids[TRUNK]
    urls = ctx.tools.carrier.list_origination_urls(trunk_sid)
    return next((url for url in urls if url.sid == url_sid), None)


def _inbound_trunk(ctx: StepContext, trunk_id: str) -> InboundTrunk | None:
    return ctx.tools.platform.get_inbound_trunk(trunk_id)


def _rule(ctx: StepContext, rule_id: str) -> DispatchRule | None:
    return ctx.tools.platform.get_dispatch_rule(rule_id)


# What a deprovisioning does that removes the path.


def _adopted_as(ctx: StepContext, kind: str, resource_id: str) -> Adopted | None:
    """Return what was adopted as this object; None where it is of our own making."""
    adopted = ctx.spec.adopted.get(kind)
    return adopted if adopted is not None and adopted.id == resource_id else None


def remove_trunk(ctx: StepContext, trunk_sid: str) -> None:
    """Delete the Twilio trunk; one that was adopted only if nobody else's calls go over it, incoming or outgoing."""
    adopted = _adopted_as(ctx, TRUNK, trunk_sid)
    if adopted is None:
        delete_trunk(ctx, trunk_sid)
    elif adopted.is_shared:
        leave_trunk(ctx, trunk_sid)
    elif _is_of_others(ctx, trunk_sid):
        leave_trunk(ctx, trunk_sid)
        unmark_trunk(ctx, adopted)
    else:
        delete_trunk(ctx, trunk_sid)


def _is_of_others(ctx: StepContext, trunk_sid: str) -> bool:
    carrier = ctx.tools.carrier
    numbers = numbers_seen(lambda: [one for one in carrier.list_trunk_numbers(trunk_sid) if one != ctx.ids.get(NUMBER)])
    ctx.check_time()
    trunk = carrier.get_trunk(trunk_sid)
    # With a domain it takes outgoing calls, and a deleted domain stays reserved for a month (twilio.md, section 2).
    return bool(numbers) or (trunk is not None and bool(trunk.raw.get("domain_name")))


def remove_origination_url(ctx: StepContext, url_sid: str) -> None:
    """Delete the origination URL; one that was adopted goes with its trunk, or stays with it."""
    adopted = _adopted_as(ctx, ORIGINATION_URL, url_sid)
    if adopted is None:
        delete_origination_url(ctx, url_sid)
    elif not adopted.is_shared:
        unmark_origination_url(ctx, adopted)


def remove_inbound_trunk(ctx: StepContext, trunk_id: str) -> None:
    """Delete the LiveKit trunk; take the number off one that was adopted and that has others.

    The last number of a shared one stays on it: without any it would take the calls of every number.
    """
    adopted = _adopted_as(ctx, INBOUND_TRUNK, trunk_id)
    now = ctx.tools.platform.get_inbound_trunk(trunk_id) if adopted is not None else None
    if adopted is None or (now is not None and not adopted.is_shared and not _others_on(ctx, now)):
        delete_inbound_trunk(ctx, trunk_id)
        return
    if now is None:
        _confirm_gone(ctx, trunk_id, _inbound_trunk)
        return
    if not adopted.is_shared:
        unmark_inbound_trunk(ctx, adopted)
    if _others_on(ctx, now):
        _take_number_off(ctx, now)


def _others_on(ctx: StepContext, trunk: InboundTrunk) -> list[str]:
    return [number for number in trunk.numbers if normalised(number) != normalised(ctx.phone_number)]


def _take_number_off(ctx: StepContext, trunk: InboundTrunk) -> None:
    others = _others_on(ctx, trunk)
    own = [number for number in trunk.numbers if number not in others]
    ctx.check_time()
    if not own or not ctx.tools.platform.take_numbers_off(trunk.id, own):
        return

    def is_off() -> bool:
        now = ctx.tools.platform.get_inbound_trunk(trunk.id)
        return now is None or not set(own) & set(now.numbers)

    if not ctx.wait_until(is_off):
        raise TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "LiveKit still shows the number on its trunk.")


def remove_dispatch_rule(ctx: StepContext, rule_id: str) -> None:
    """Delete the dispatch rule; one that was adopted only if it takes no other number's calls."""
    adopted = _adopted_as(ctx, DISPATCH_RULE, rule_id)
    if adopted is None:
        delete_dispatch_rule(ctx, rule_id)
    elif not adopted.is_shared:
        now = ctx.tools.platform.get_dispatch_rule(rule_id)
        if now is not None and _takes_others(ctx, now):
            unmark_dispatch_rule(ctx, adopted)
        else:
            delete_dispatch_rule(ctx, rule_id)


def _takes_others(ctx: StepContext, rule: DispatchRule) -> bool:
    """Tell whether a rule takes the calls of other numbers, now."""
    if rule.numbers and set(rule.numbers) <= {ctx.phone_number}:
        return False
    if not rule.trunk_ids:
        return True
    ours = ctx.ids.get(INBOUND_TRUNK)
    for trunk_id in dict.fromkeys(rule.trunk_ids):
        ctx.check_time()
        trunk = ctx.tools.platform.get_inbound_trunk(trunk_id)
        if trunk is not None and (trunk_id != ours or _others_on(ctx, trunk)):
            return True
    return False
