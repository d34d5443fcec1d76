"""Runs one step, forward or undo, so that a kill at any instruction is harmless: claim, act, persist.

The claim writes the intent before any call; the call runs without a transaction; the outcome is kept only under the
lease that the claim took, while the ledger keeps every id that anybody learns of.
"""

import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import Enum, auto
from functools import cached_property

import structlog

from app.db.engine import Sessions
from app.domain.errors import ErrorCode
from app.domain.statuses import Direction
from app.providers.errors import ProviderError, RejectedError, TransientError, UnknownOutcomeError
from app.providers.rate_limiter import Caller, calling
from app.saga.claims import Claim, Refusal, claim_step
from app.saga.context import Result, Toolbox
from app.saga.first_tries import FirstTries
from app.saga.instrumentation import LOST, UNWATCHED, StepRun, StepWatch
from app.saga.outcomes import keep_failure, keep_rest, keep_result
from app.saga.steps import STEP_BY_NAME, Step

log = structlog.get_logger(__name__)

BACKOFF_BASE_S = 0.5
"""Seconds of the first back-off; doubled at each try."""

BACKOFF_CAP_S = 30.0
"""Seconds of the longest back-off: what a provider's return may go unnoticed, and an undo's cadence for ever after.

Half of the minute in which everything has ended once the providers respond; the other half is for what is to be done.
"""


class Verdict(Enum):
    """What the task does next."""

    GO_ON = auto()
    """The step is finished: the chain goes on."""
    OTHER_BRANCH = auto()
    """The step is finished, and what comes next waits for the other branch too: that one goes on, this chain ends."""
    STOP = auto()
    """Not ours to do: the chain ends here, in silence."""
    REST = auto()
    """Try again after `rest`."""
    TURNED = auto()
    """The operation is on its way back: the chain fails, and its error callback publishes that way."""


@dataclass(frozen=True)
class Outcome:
    """How one run of a step ended."""

    verdict: Verdict
    rest: timedelta = timedelta()


_VERDICTS = {
    "done": Verdict.GO_ON,
    "parted": Verdict.OTHER_BRANCH,
    "rests": Verdict.REST,
    "attention": Verdict.REST,
    "turned": Verdict.TURNED,
}


@dataclass(frozen=True)
class Runner:
    """Runs steps for any operation; safe to use from many threads."""

    sessions: Sessions
    tools: Toolbox
    jitter: Callable[[float, float], float] = random.uniform
    watch: StepWatch = UNWATCHED

    def run(self, operation_id: uuid.UUID, epoch: int, step_name: str, direction: Direction) -> Outcome:
        """Run one step once. A second call, at the same time or later, finds it claimed or done and does nothing."""
        began = time.perf_counter()
        claim = self._claim(operation_id, epoch, STEP_BY_NAME[step_name], direction)
        if not isinstance(claim, Claim):
            return Outcome(_VERDICTS.get(claim, Verdict.STOP))
        with self.watch.run(claim, time.perf_counter() - began) as run:
            return self._carry_out(claim, run)

    def _carry_out(self, claim: Claim, run: StepRun) -> Outcome:
        # Until a look has shown that an earlier try left nothing, any failure leaves that question open.
        is_clear = not claim.may_have_happened
        caller = Caller(claim.lane, until=claim.context.last_call_at, stall_s=self.tools.timing.stall.total_seconds())
        try:
            with calling(caller):
                found = self._look(claim)
                if claim.may_have_happened and not found:
                    _check_stall(caller)
                    is_clear = True
                result = self._act(claim, found)
                if claim.direction is Direction.UNDO and claim.may_have_happened:
                    _check_stall(caller)
        except ProviderError as error:
            if error.code is ErrorCode.PROVIDER_BUSY:
                log.info("step_waits_for_its_turn", detail=error.detail)
                return self._keep_wait(claim, run, error, caller, is_clear=is_clear)
            log.warning("step_call_failed", kind=type(error).__name__, code=error.code, detail=error.detail)
            # While a provider stands still, whatever it was asked before may still land, however long ago that was.
            is_open = isinstance(error, UnknownOutcomeError) or (claim.may_have_happened and caller.has_stalled)
            is_open = is_open and claim.step.undo is not None
            return self._keep_error(claim, run, error, is_clear=is_clear and not is_open, is_open=is_open)
        except Exception:
            log.exception("step_broke")
            detail = "The step met an error of ours; the worker's log has it."
            defect = RejectedError(ErrorCode.INTERNAL_STEP_ERROR, detail)
            return self._keep_error(claim, run, defect, is_clear=False, is_open=claim.step.undo is not None)
        kept = self._first_tries.keep(claim, result) or keep_result(self.sessions, claim, result)
        run.outcome = "done" if kept == "parted" else kept
        took_s = round(self.tools.clock() - claim.context.started, 3)
        if kept == LOST:
            log.warning("step_lost_its_lease", resource_id=result.resource_id, took_s=took_s)
        else:
            log.info("step_finished", resource_id=result.resource_id, took_s=took_s)
        return Outcome(_VERDICTS.get(kept, Verdict.STOP))

    @cached_property
    def _first_tries(self) -> FirstTries:
        return FirstTries(self.sessions, self.tools)

    def _claim(self, operation_id: uuid.UUID, epoch: int, step: Step, direction: Direction) -> Claim | Refusal:
        claim = self._first_tries.claim(operation_id, epoch, step) if direction is Direction.DO else None
        return claim or claim_step(self.sessions, self.tools, operation_id, epoch, step, direction)

    def _look(self, claim: Claim) -> list[str]:
        """Say what stands: what a repair or a move has just made right, or what an earlier try left behind."""
        step, context, find = claim.step, claim.context, claim.step.find
        if claim.mends and step.mend and claim.resource_id and step.mend(context, claim.resource_id):
            return [claim.resource_id]
        if find is None or claim.is_move or not (claim.may_have_happened or claim.mends):
            return []
        # On the way back what is known may not be all; on the way down one that is found is enough.
        known = _known(claim) if claim.direction is Direction.UNDO and step.makes else set()
        return context.find_any(lambda: find(context), known)

    def _act(self, claim: Claim, found: list[str]) -> Result:
        if claim.is_move and claim.step.makes:
            return self._hand_over(claim, found)
        return self._do(claim, found) if claim.direction is Direction.DO else self._undo(claim, found)

    def _hand_over(self, claim: Claim, found: list[str]) -> Result:
        """Keep what was handed over in place. A move makes nothing: what is gone is a repair's, once it went back."""
        if claim.resource_id in found:
            return Result(claim.resource_id)
        if claim.direction is Direction.UNDO:
            return Result(None)
        name = claim.step.name.replace("_", " ")
        detail = f"The {name} is gone. The path is repaired now: move the number again after that."
        raise RejectedError(ErrorCode.PATH_NOT_VERIFIED, detail)

    def _do(self, claim: Claim, found: list[str]) -> Result:
        """Adopt what an earlier try left behind, the oldest of it, and delete the others; else make it."""
        gone = (claim.resource_id,) if claim.mends and claim.step.makes and claim.resource_id not in found else ()
        if not found:
            claim.context.check_time()
            made = claim.step.do(claim.context)
            return replace(made, removed=tuple(filter(None, (*made.removed, *gone))))
        kept, *twins = found
        if gone and claim.step.mend:
            claim.step.mend(claim.context, kept)
        for twin in twins if claim.step.makes and claim.step.undo else ():
            claim.context.check_time()
            claim.step.undo(claim.context, twin)  # type: ignore[misc]  # the loop above has looked
        return Result(kept, removed=tuple(filter(None, (*twins, *gone))))

    def _undo(self, claim: Claim, found: list[str]) -> Result:
        """Undo all that the row, the ledger and, after an unknown outcome, the provider's own list know of."""
        step, context = claim.step, claim.context
        if not step.undo:
            return Result(None)
        if step.changes:
            targets = [context.ids[step.changes]] if step.changes in context.ids else []
        else:
            targets = sorted({*_known(claim), *found})
            if claim.may_have_happened:
                context.absent.update(_known(claim) - set(found))
        for target in targets:
            context.check_time()
            step.undo(context, target)
            context.removed.append(target)
        return Result(None, removed=tuple(targets))

    def _keep_error(
        self, claim: Claim, run: StepRun, error: ProviderError, *, is_clear: bool, is_open: bool
    ) -> Outcome:
        """Keep a failure, or a rest; `is_open`: something of the step may still land."""
        run.error_code = error.code
        settles_in = self.tools.timing.settle if is_open else None
        if isinstance(error, RejectedError) and claim.direction is Direction.DO:
            run.outcome = keep_failure(self.sessions, claim, error, is_clear=is_clear, settles_in=settles_in)
            return Outcome(_VERDICTS.get(run.outcome, Verdict.STOP))
        rest = max(self._rest_after(claim, error), self.tools.timing.quiet if is_open else timedelta())
        run.outcome = keep_rest(self.sessions, self.tools, claim, error, rest, is_clear=is_clear, settles_in=settles_in)
        if run.outcome == "attention":
            log.error("operation_needs_attention", code=error.code)
        return Outcome(_VERDICTS.get(run.outcome, Verdict.STOP), rest=rest)

    def _keep_wait(
        self, claim: Claim, run: StepRun, error: ProviderError, caller: Caller, *, is_clear: bool
    ) -> Outcome:
        """Rest until there is room again; no failure, and no try either where nothing was sent."""
        asked_s = error.retry_after_s or BACKOFF_BASE_S
        rest = timedelta(seconds=self.jitter(asked_s, 2 * asked_s))
        is_clear, was_tried = is_clear and not caller.has_called, caller.has_called
        kept = keep_rest(self.sessions, self.tools, claim, error, rest, is_clear=is_clear, was_tried=was_tried)
        run.outcome = "waits" if kept == "rests" else kept
        return Outcome(_VERDICTS.get(kept, Verdict.STOP), rest=rest)

    def _rest_after(self, claim: Claim, error: ProviderError) -> timedelta:
        """Back off with full jitter (AWS: "Exponential Backoff and Jitter"), never sooner than the provider asks."""
        if isinstance(error, RejectedError):
            return timedelta(seconds=self.jitter(BACKOFF_CAP_S / 2, BACKOFF_CAP_S))
        if isinstance(error, UnknownOutcomeError):
            return self.tools.timing.quiet
        ceiling = min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2 ** min(claim.attempt - 1, 16))
        return timedelta(seconds=max(self.jitter(0, ceiling), error.retry_after_s or 0))


def _known(claim: Claim) -> set[str]:
    """Return the ids of the step's resources that the row and the ledger know."""
    return {*claim.context.ledger.get(claim.step.name, ()), *([claim.resource_id] if claim.resource_id else [])}


def _check_stall(caller: Caller) -> None:
    """Raise where what was just seen may be from before a stand-still ended: that nothing is there proves nothing."""
    if caller.has_stalled:
        detail = "The provider answers late: what it was asked before may still land."
        raise TransientError(ErrorCode.PROVIDER_UNAVAILABLE, detail)
