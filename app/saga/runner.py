"""Runs one step, forward or undo, so that a kill at any instruction is harmless: claim, call, keep.

The claim writes the intent before any call; the calls run without a transaction; the outcome is kept only under the
lease that the claim took, while the ledger keeps every id that anybody learns of. Killed before the claim is written,
nothing has happened; killed after it, the lease ends, the sweeper publishes the operation, and whoever claims the step
next finds the intent and looks before it does anything. What to do when is decided by `machine`, never here.
"""

import random
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import partial

import structlog

from app.domain.errors import WAITING_CODES, ErrorCode
from app.domain.operations import Direction
from app.path.changes import Changes
from app.path.spec import Adopted
from app.providers.callers import Caller, calling
from app.providers.errors import ProviderError, RejectedError, TransientError, UnknownOutcomeError
from app.saga import machine
from app.saga.chain_plan import Plan, plan_of
from app.saga.context import Claim, NumberReplacedError, RoutedElsewhereError, ToolboxSource, claim_of
from app.saga.instrumentation import NOT_INSTRUMENTED, WAITS, StepInstrumentation, StepRun
from app.saga.rows import Rows
from app.saga.state import Change, Failure, FoundNumber, Result, Saga, Verdict
from app.saga.steps import ACTIONS, Actions

log = structlog.get_logger(__name__)

BACKOFF_BASE_S = 0.5
"""Seconds of the first back-off; doubled at each try."""

BACKOFF_CAP_S = 30.0
"""Seconds of the longest back-off: what a provider's return may go unnoticed, and an undo's cadence for ever after.

Half of the minute in which everything has ended once the providers respond; the other half is for what is to be done.
"""

REFUSED_SHARE = 0.25
"""Share of the time that an operation has waited for a credential until it looks again by itself: what is not woken
after a day comes back within hours, and writes some dozens of rows until then instead of a thousand."""

REFUSED_CAP_S = 900.0
"""Seconds of the longest such pause, before jitter doubles it."""


@dataclass(frozen=True)
class Outcome:
    """How one run of a step ended."""

    verdict: Verdict
    rest: timedelta = timedelta()
    """Until the next try, where the verdict is RESTS."""
    shortcut: Plan | None = None
    """What is left where the step has finished others with it: the chain that it came with has too much in it."""


@dataclass(frozen=True)
class Runner:
    """Runs steps for any operation; safe to use from many threads."""

    rows: Rows
    toolboxes: ToolboxSource
    jitter: Callable[[float, float], float] = random.uniform
    instrumentation: StepInstrumentation = NOT_INSTRUMENTED

    def run_step(self, operation_id: uuid.UUID, epoch: int, name: str, direction: Direction) -> Outcome:
        """Run one step once. A second call, at the same time or later, finds it claimed or done and does nothing."""
        began, token, timing = time.perf_counter(), uuid.uuid4(), self.toolboxes.timing
        claimed = self.rows.change(
            operation_id, lambda saga, now: machine.claim(saga, name, direction, epoch, timing, now, token)
        )
        if claimed is None:
            return Outcome(Verdict.STALE)
        change, loaded = claimed
        if change.verdict is not Verdict.CLAIMED:
            return Outcome(change.verdict)
        claim = claim_of(change, loaded, name, self.toolboxes.of(loaded.saga.agent.accounts))
        if direction is Direction.DO:
            claim = replace(claim, context=replace(claim.context, remember=partial(self._remember, claim)))
        with self.instrumentation.run(claim, time.perf_counter() - began) as run:
            return self._carry_out(claim, ACTIONS[name], run)

    def _carry_out(self, claim: Claim, actions: Actions, run: StepRun) -> Outcome:
        # Until a look has shown that an earlier try left nothing, any failure leaves that question open.
        is_clear = not claim.may_have_happened
        caller = Caller(
            claim.call_priority,
            last_start_at=claim.context.last_call_at,
            stall_s=self.toolboxes.timing.stall.total_seconds(),
        )
        try:
            with calling(caller):
                found = self._look(claim, actions)
                if claim.may_have_happened and not found:
                    _check_stall(caller)
                    is_clear = True
                result = self._act(claim, actions, found)
                if claim.direction is Direction.UNDO and claim.may_have_happened:
                    _check_stall(caller)
        except ProviderError as failed:
            error = claim.context.tools.refused(failed)
            # While a provider stands still, whatever it was asked before may still land, however long ago that was.
            is_open = isinstance(error, UnknownOutcomeError) or (claim.may_have_happened and caller.has_stalled)
            is_open = is_open and (claim.step.is_undone or bool(claim.operation.leaves))
            if error.code is ErrorCode.CREDENTIALS_REFUSED:
                log.warning("step_waits_for_credential", detail=error.detail)
                return self._keep_refusal(claim, run, error, is_clear=is_clear and not is_open, is_open=is_open)
            if error.code in WAITING_CODES:
                log.info("step_waits_for_its_turn", code=error.code, detail=error.detail)
                return self._keep_wait(claim, run, error, caller, is_clear=is_clear)
            log.warning("step_call_failed", kind=type(error).__name__, code=error.code, detail=error.detail)
            return self._keep_error(claim, run, error, is_clear=is_clear and not is_open, is_open=is_open)
        except Exception:
            log.exception("step_broke")
            defect = RejectedError(
                ErrorCode.INTERNAL_STEP_ERROR, "The step met an error of ours; the worker's log has it."
            )
            return self._keep_error(claim, run, defect, is_clear=False, is_open=claim.step.is_undone)
        return self._keep_result(claim, run, result)

    def _look(self, claim: Claim, actions: Actions) -> list[str]:
        """Say what stands: what a repair or a move has just made right, or what an earlier try left behind."""
        context, find, rules = claim.context, actions.find, claim.rules
        if claim.takes_back or claim.only_marks:
            return []
        if rules.keeps_path and actions.repair and claim.resource_id and actions.repair(context, claim.resource_id):
            return [claim.resource_id]
        if (
            find is None
            or not actions.is_own(context)
            or not rules.makes
            or not (claim.may_have_happened or rules.keeps_path)
        ):
            return []
        # On the way back what is known may not be all; on the way down one that is found is enough.
        known = claim.known if claim.direction is Direction.UNDO and claim.step.makes else set()
        return context.find_with_retries(lambda: find(context), known)

    def _act(self, claim: Claim, actions: Actions, found: list[str]) -> Result:
        if claim.takes_back:
            return actions.take_back(claim.context) if actions.take_back else Result(None)
        if claim.only_marks and claim.step.is_undone:
            return self._mark(claim, actions)
        if not claim.rules.makes and claim.step.makes and not claim.leaves:
            return self._hand_over(claim, found)
        return self._do(claim, actions, found) if claim.direction is Direction.DO else self._undo(claim, actions, found)

    def _mark(self, claim: Claim, actions: Actions) -> Result:
        """Put our mark on what somebody else made, or take it off; what other numbers use too has none."""
        context, resource_id = claim.context, claim.resource_id
        if actions.mark is None or actions.unmark is None or resource_id is None:
            return Result(None if claim.direction is Direction.UNDO else resource_id)
        # What a repair has made since the adoption had no name before.
        adopted = context.spec.adopted.get(claim.step.name, Adopted(resource_id, context.phone_number))
        context.check_time()
        if claim.direction is Direction.UNDO:
            if not adopted.is_shared:
                actions.unmark(context, adopted)
            return Result(None, given=(resource_id,))
        if not adopted.is_shared and not actions.mark(context, adopted):
            detail = f"The {claim.step.label} is gone: look at the path again."
            raise RejectedError(ErrorCode.PATH_NOT_VERIFIED, detail)
        return Result(resource_id, is_others=adopted.is_shared)

    def _hand_over(self, claim: Claim, found: list[str]) -> Result:
        """Keep what was handed over in place. A move makes nothing: what is gone is a repair's, once it went back."""
        if claim.resource_id in found:
            return Result(claim.resource_id, trunk_id=_shared_trunk(claim))
        if claim.direction is Direction.UNDO:
            return Result(None)
        name = claim.step.name.replace("_", " ")
        detail = f"The {name} is gone. The path is repaired now: try again after that."
        raise RejectedError(ErrorCode.PATH_NOT_VERIFIED, detail)

    def _do(self, claim: Claim, actions: Actions, found: list[str]) -> Result:
        """Adopt what an earlier try left behind, the oldest of it, made right, and delete the others; else make it."""
        is_gone = claim.rules.keeps_path and claim.step.makes and claim.resource_id not in found
        adopted = claim.context.spec.adopted.get(claim.step.name)
        # What others use too is left, not gone.
        is_gone = is_gone and not (adopted is not None and adopted.is_shared)
        gone = (claim.resource_id,) if is_gone and claim.resource_id else ()
        if not found:
            claim.context.check_time()
            made = actions.do(claim.context)
            return replace(made, removed=(*made.removed, *gone))
        kept, *duplicates = found
        if kept != claim.resource_id and actions.repair:
            claim.context.check_time()
            actions.repair(claim.context, kept)
        undo = actions.undo if claim.step.makes else None
        for duplicate in duplicates if undo else ():
            claim.context.check_time()
            undo(claim.context, duplicate)  # type: ignore[misc]  # the loop above has looked
        return Result(kept, removed=(*(duplicates if undo else ()), *gone), trunk_id=_shared_trunk(claim))

    def _undo(self, claim: Claim, actions: Actions, found: list[str]) -> Result:
        """Undo all that the row, the ledger and, after an unknown outcome, the provider's own list know of."""
        context = claim.context
        if actions.undo is None:
            return Result(None)
        if claim.step.changes:
            targets = [context.ids[claim.step.changes]] if claim.step.changes in context.ids else []
        else:
            targets = sorted({*claim.known, *found})
            if claim.may_have_happened:
                context.unlisted_ids.update(claim.known - set(found))
        for target in targets:
            context.check_time()
            actions.undo(context, target)
            context.removed.append(target)
        return Result(None, removed=tuple(targets))

    def _keep(self, claim: Claim, run: StepRun, decide: Callable[[Saga, datetime], Change]) -> Change:
        kept = self.rows.change(claim.context.operation_id, decide)
        if kept is None:
            raise LookupError(f"operation {claim.context.operation_id} vanished while its step ran")
        change, _ = kept
        # In logs and metrics a finished step is finished, whichever branch goes on.
        run.outcome = Verdict.DONE if change.verdict is Verdict.OTHER_BRANCH else change.verdict
        return change

    def _remember(self, claim: Claim, changes: Changes) -> None:
        """Store what the step is about to change, while it holds its lease; `TransientError` where it does not."""
        stored = self.rows.change(
            claim.context.operation_id, lambda saga, now: machine.remember(saga, claim.lease, changes, now)
        )
        if stored is None or stored[0].verdict is Verdict.LOST:
            raise TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "The step has lost its lease.")

    def _elapsed(self, claim: Claim) -> timedelta:
        return timedelta(seconds=claim.context.tools.clock() - claim.context.started)

    def _keep_result(self, claim: Claim, run: StepRun, result: Result) -> Outcome:
        change = self._keep(claim, run, lambda saga, now: machine.keep(saga, claim.lease, result, now))
        verdict = change.verdict
        took_s = round(self._elapsed(claim).total_seconds(), 3)
        if verdict is Verdict.LOST:
            log.warning("step_lost_its_lease", resource_id=result.resource_id, took_s=took_s)
        else:
            log.info("step_finished", resource_id=result.resource_id, took_s=took_s)
        # Beside a later step another branch may be under way: its messages are not sent twice.
        is_shorter = verdict is Verdict.DONE and bool(result.finished) and not claim.step.needs
        return Outcome(verdict, shortcut=plan_of(change.after) if is_shorter else None)

    def _keep_error(
        self, claim: Claim, run: StepRun, error: ProviderError, *, is_clear: bool, is_open: bool
    ) -> Outcome:
        """Keep a failure, or a rest; `is_open`: something of the step may still land."""
        run.error_code = error.code
        failure = Failure(
            error.code,
            error.detail,
            is_for_good=isinstance(error, RejectedError),
            is_clear=is_clear,
            settles_in=self.toolboxes.timing.settle if is_open else None,
            removed=tuple(claim.context.removed),
            found_routing=asdict(error.routing) if isinstance(error, RoutedElsewhereError) else None,
            found_number=FoundNumber(error.number.sid, asdict(error.number.routing))
            if isinstance(error, NumberReplacedError)
            else None,
        )
        if failure.is_for_good and claim.direction is Direction.DO:
            failed = self._keep(claim, run, lambda saga, now: machine.fail(saga, claim.lease, failure, now))
            return Outcome(failed.verdict)
        pause = max(self._pause_after(claim, error), self.toolboxes.timing.quiet if is_open else timedelta())
        outcome = self._keep_rest(claim, run, failure, pause)
        if outcome.verdict is Verdict.ATTENTION:
            log.error("operation_needs_attention", code=error.code)
        return outcome

    def _keep_wait(
        self, claim: Claim, run: StepRun, error: ProviderError, caller: Caller, *, is_clear: bool
    ) -> Outcome:
        """Rest until there is room again; no failure, and no try either where nothing was sent."""
        asked_s = error.retry_after_s or BACKOFF_BASE_S
        failure = Failure(
            error.code,
            error.detail,
            is_clear=is_clear and not caller.has_called,
            was_tried=caller.has_called,
            # Not for a trunk that nobody can make: those who wait for it give up with those who try.
            waited_s=round(self._elapsed(claim).total_seconds(), 3) if error.code is ErrorCode.PROVIDER_BUSY else None,
            removed=tuple(claim.context.removed),
        )
        outcome = self._keep_rest(claim, run, failure, timedelta(seconds=self.jitter(asked_s, 2 * asked_s)))
        run.outcome = WAITS if outcome.verdict is Verdict.RESTS else run.outcome
        return outcome

    def _keep_refusal(
        self, claim: Claim, run: StepRun, error: ProviderError, *, is_clear: bool, is_open: bool
    ) -> Outcome:
        """Rest until the account's credential is accepted, which wakes the step; the longer, the longer it takes.

        No further try is counted, but one is: the step may have done something before the refusal.
        """
        failure = Failure(
            error.code,
            error.detail,
            is_clear=is_clear,
            settles_in=self.toolboxes.timing.settle if is_open else None,
            was_tried=False,
            was_begun=True,
            waited_s=round(self._elapsed(claim).total_seconds(), 3),
            removed=tuple(claim.context.removed),
        )
        waited_s = claim.loaded.saga.waited.total_seconds()
        asked_s = max(error.retry_after_s or 0, min(waited_s * REFUSED_SHARE, REFUSED_CAP_S))
        pause = timedelta(seconds=self.jitter(asked_s, 2 * asked_s))
        outcome = self._keep_rest(claim, run, failure, max(pause, self.toolboxes.timing.quiet) if is_open else pause)
        run.outcome = WAITS if outcome.verdict is Verdict.RESTS else run.outcome
        return outcome

    def _keep_rest(self, claim: Claim, run: StepRun, failure: Failure, pause: timedelta) -> Outcome:
        timing = self.toolboxes.timing
        rested = self._keep(claim, run, lambda saga, now: machine.rest(saga, claim.lease, failure, pause, timing, now))
        return Outcome(rested.verdict, pause)

    def _pause_after(self, claim: Claim, error: ProviderError) -> timedelta:
        """Back off with full jitter (AWS: "Exponential Backoff and Jitter"), never sooner than the provider asks."""
        if isinstance(error, RejectedError):
            return timedelta(seconds=self.jitter(BACKOFF_CAP_S / 2, BACKOFF_CAP_S))
        if isinstance(error, UnknownOutcomeError):
            return self.toolboxes.timing.quiet
        longest_s = min(BACKOFF_CAP_S, error.retry_within_s or BACKOFF_CAP_S)
        ceiling = min(longest_s, BACKOFF_BASE_S * 2 ** min(claim.lease.attempt - 1, 16))
        return timedelta(seconds=max(self.jitter(0, ceiling), error.retry_after_s or 0))


def _shared_trunk(claim: Claim) -> uuid.UUID | None:
    """Return the shared trunk that what this step has found is, or is on; None where it is the agent's own."""
    return None if ACTIONS[claim.step.name].is_own(claim.context) else claim.context.trunk_id


def _check_stall(caller: Caller) -> None:
    """Raise where what was just seen may be from before a stand-still ended: that nothing is there proves nothing."""
    if caller.has_stalled:
        detail = "The provider answers late: what it was asked before may still land."
        raise TransientError(ErrorCode.PROVIDER_UNAVAILABLE, detail)
