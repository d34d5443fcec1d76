"""A Twilio trunk that numbers share: taking a place on it, and making the trunk and its origination URL once.

Whoever needs what is not there makes it, alone, under the lease of the trunk's row (`app.trunks.pool`); everybody else
rests and holds no thread. Nothing here belongs to one agent: no ledger knows it, and no undo deletes it.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from app.domain.errors import ErrorCode
from app.domain.operations import ORIGINATION_URL, STEP_BY_NAME, TRUNK
from app.providers.callers import current_caller
from app.providers.errors import ProviderError, RejectedError, TransientError, UnknownOutcomeError
from app.saga.context import StepContext
from app.saga.state import Result
from app.trunks.pool import Place

log = structlog.get_logger(__name__)


def place_of(ctx: StepContext) -> Place:
    """Return the place on a shared trunk of the agent that has the number, after taking one if it has none.

    In a move that is the agent that gives it away: the place goes with the number, at the end.
    """
    holder = ctx.source_agent_id or ctx.agent_id
    place = ctx.pool.take_place(holder, ctx.operation_id, ctx.step, ctx.lease_token, leaving=ctx.former_trunk_id)
    if place is None:
        raise TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "Another worker has this step by now.")
    return place


def with_place(ctx: StepContext, result: Result) -> Result:
    """Take the agent's place on a shared trunk along with its number, and finish the steps of a trunk that stands.

    They would make no call, and cost two messages and six transactions. A number that leaves a trunk of its own takes
    its place in their own time: that trunk may become the shared one.
    """
    if ctx.keeps_path or ctx.former_ids or not ctx.is_pooled:
        return result
    place = place_of(ctx)
    is_standing = {TRUNK, ORIGINATION_URL} <= place.ids.keys()
    return replace(result, trunk_id=place.trunk_id, finished=place.ids if is_standing else {})


@dataclass(frozen=True)
class Maker:
    """How the trunk, or its URL, is made; each function gets a context with the place's tag."""

    find: Callable[[StepContext], list[str]]
    """List what an earlier try may have made."""
    create: Callable[[StepContext], str]
    delete: Callable[[StepContext, str], None]
    """Delete one too many; refused where somebody uses it."""
    correct: Callable[[StepContext, str], bool] = lambda *_: True
    """Make one that was found as it should be, where `find` knows it by less than our mark; False when it is gone."""


def shared(ctx: StepContext, maker: Maker) -> Result:
    """Return the trunk, or the URL, of the agent's place; make it if it is not there."""
    place = place_of(ctx)
    if ctx.step != TRUNK and place.ids.get(TRUNK) != ctx.ids[TRUNK]:
        raise RejectedError(ErrorCode.TWILIO_TRUNK_GONE, "The trunk was deleted meanwhile, and made anew.")
    if ctx.step not in place.ids:
        _make(replace(ctx, trunk_id=place.trunk_id), place.trunk_id, maker)
        place = place_of(ctx)
    if ctx.step not in place.ids:
        raise _being_made(ctx, place)
    others = {} if ctx.keeps_path or ctx.step != TRUNK else {ORIGINATION_URL: place.ids.get(ORIGINATION_URL, "")}
    finished = {name: sid for name, sid in others.items() if sid}
    is_given = ctx.step == TRUNK and place.ids[TRUNK] == ctx.former_ids.get(TRUNK)
    given = tuple(ctx.former_ids.values()) if is_given else ()
    return Result(place.ids[ctx.step], trunk_id=place.trunk_id, finished=finished, given=given)


def _make(ctx: StepContext, trunk_id: uuid.UUID, maker: Maker) -> None:
    pool, step, caller = ctx.tools.pool, ctx.step, current_caller()
    making = pool.begin_making(trunk_id, step)
    if making is None:
        return
    is_clear = not making.may_have_happened
    try:
        found = ctx.find_with_retries(lambda: maker.find(ctx)) if making.may_have_happened else []
        if not found and caller.has_stalled:
            raise TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "The provider answers late: ask it again.")
        is_clear = not found
        ctx.check_time()
        sid = found[0] if found else maker.create(ctx)
        if found and not maker.correct(ctx, sid):
            raise TransientError(ErrorCode.PROVIDER_UNAVAILABLE, f"The {step} that was found is gone again.")
    except ProviderError as error:
        # While a provider stands still, whatever it was asked before may still land, however long ago that was.
        is_open = isinstance(error, UnknownOutcomeError) or (making.may_have_happened and caller.has_stalled)
        settles_in = ctx.tools.timing.settle if is_open else None
        pool.end_making(trunk_id, making.token, is_clear=is_clear and not is_open, settles_in=settles_in)
        if isinstance(error, UnknownOutcomeError):
            # Of the step itself nothing is open: what may land is the trunk's.
            raise TransientError(error.code, error.detail) from error
        raise
    parent_sid = None if step == TRUNK else ctx.ids[TRUNK]
    was_there = bool(found) or sid == ctx.former_ids.get(step)
    kept = pool.keep_made(trunk_id, making.token, step, sid, parent_sid, was_there=was_there)
    if kept is None:
        raise TransientError(ErrorCode.PROVIDER_UNAVAILABLE, f"The trunk changed while its {step} was being made.")
    for twin in {sid, *found} - {kept}:
        _delete_twin(ctx, maker, twin)


def _delete_twin(ctx: StepContext, maker: Maker, sid: str) -> None:
    """Delete one too many: no row names it, and none will. What cannot be deleted now is left to the audit."""
    try:
        maker.delete(ctx, sid)
    except ProviderError as error:
        log.warning("shared_trunk_twin_left", kind=ctx.step, external_id=sid, code=error.code)


def _being_made(ctx: StepContext, place: Place) -> TransientError:
    label = STEP_BY_NAME[ctx.step].label
    detail = f"The {label} that this number shares is being made, or a request for it has no answer yet."
    return TransientError(ErrorCode.TRUNK_BEING_MADE, detail, retry_after_s=place.wait_s)
