"""Verifies what bulks have built, many paths with the same reads.

Alone, the verification of a number takes one request of Twilio and two of LiveKit: as many again as were needed to
build its path. LiveKit's lists take many numbers and trunks, and Twilio's list of a trunk shows all that are on it.
So a message for the verification of a bulk's provisioning only looks whether enough of them wait, and whoever finds
that reads for all. Only the reads are shared: each operation is claimed and kept by the rules of `machine`, under a
lease of its own, as if it were alone. What does not prove right is verified once more, alone, with the patience that
a single one has: read-back pauses, duplicates, a shared trunk that somebody has changed.

Nothing is lost with a worker that dies: what it had claimed is published by the sweeper when the lease ends, and what
nobody has claimed when its message is overdue; neither has anything at a provider that could be left over.
"""

import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import structlog

from app.domain.errors import WAITING_CODES, ErrorCode
from app.domain.findings import Finding, finding_json
from app.domain.operations import LAST, Direction, OperationKind
from app.domain.workspaces import AccountIds
from app.path.compare import compare, is_broken
from app.path.observed import CarrierTrunk, Observed, OriginationUrl
from app.path.spec import as_built
from app.providers.callers import Caller, CallPriority, calling
from app.providers.errors import ProviderError
from app.saga import machine
from app.saga.context import Claim, StepContext, claim_of
from app.saga.observing import read_built_paths
from app.saga.rows import Unverified
from app.saga.runner import Outcome, Runner
from app.saga.state import Change, Failure, Result, Verdict

log = structlog.get_logger(__name__)

MOST = 200
"""Paths verified at once: all that bulks have open (`app.bulk.dispatcher.WINDOW`). Their rows take a second to write,
of a lease of 30."""

ENOUGH = 100
"""Paths that are not kept waiting for more: LiveKit's two lists are a fiftieth of a request for each, then."""

LONGEST_WAIT_S = 5.0
"""Seconds that a path waits for others, while there are others on their way: at ten numbers a second fifty come
together, and LiveKit's two lists are a twenty-fifth of a request for each."""

NOT_RIGHT = "Read together with other paths, it does not prove right: it is read by itself now."


@dataclass(frozen=True)
class BatchRunner(Runner):
    """Runs steps; those that verify a bulk's provisioning on a shared trunk together with others of its accounts."""

    _reading: dict[AccountIds, threading.Lock] = field(default_factory=dict)
    """Held by the one thread of this process that verifies for the others of the same accounts."""

    def run_step(self, operation_id: uuid.UUID, epoch: int, name: str, direction: Direction) -> Outcome:
        """Run one step once; a verification that waits for others ends here, and is kept by whoever reads for all."""
        accounts = self._accounts_of_bulk(operation_id) if name == LAST and direction is Direction.DO else None
        if accounts is not None:
            rest = self._verify_together(operation_id, accounts)
            if rest is not None:
                return Outcome(Verdict.RESTS if rest else Verdict.STALE, rest)
        return super().run_step(operation_id, epoch, name, direction)

    def _accounts_of_bulk(self, operation_id: uuid.UUID) -> AccountIds | None:
        """Return the accounts of a bulk's provisioning; None for any other operation."""
        saga = self.rows.look(operation_id)
        if saga is None or not saga.operation.bulk_id or saga.operation.kind is not OperationKind.PROVISION:
            return None
        return saga.agent.accounts

    def _verify_together(self, operation_id: uuid.UUID, accounts: AccountIds) -> timedelta | None:
        """Verify all that wait, if it is time; return when this message is to look again, zero: never.

        None: the operation does not wait for others. The message of the one that waits longest comes back for all; so
        does that of whoever has verified some, for those that came meanwhile.
        """
        waiting, reading = self.rows.read_unverified(accounts), self._reading.setdefault(accounts, threading.Lock())
        is_ours = operation_id in waiting.ids
        leads = waiting.ids[:1] == (operation_id,)
        while _is_time(waiting) and reading.acquire(blocking=False):
            try:
                pause = self._verify(waiting.ids[:MOST])
            finally:
                reading.release()
            if pause is not None:
                return pause if is_ours else None
            leads = True
            # Whoever found the lock taken has left: what he came for is seen here.
            waiting = self.rows.read_unverified(accounts)
        if not is_ours:
            return None
        return timedelta(seconds=max(LONGEST_WAIT_S - waiting.waited_s, 0.1)) if leads and waiting.ids else timedelta()

    def _verify(self, operation_ids: Sequence[uuid.UUID]) -> timedelta | None:
        """Verify these, as far as nobody else does; return a pause where the providers take no more requests."""
        began, timing = time.perf_counter(), self.toolboxes.timing
        claims = [claim for one in operation_ids if (claim := self._claim(one))]
        if not claims:
            return timedelta(seconds=LONGEST_WAIT_S)
        first = claims[0].context
        caller = Caller(CallPriority.BULK, last_start_at=first.last_call_at, stall_s=timing.stall.total_seconds())
        found: Mapping[uuid.UUID, list[Finding]] = {}
        pause, left = None, (ErrorCode.PATH_NOT_VERIFIED, NOT_RIGHT)
        try:
            with calling(caller):
                found = self._read([claim.context for claim in claims])
        except ProviderError as failed:
            error = first.tools.refused(failed)
            log.warning("batch_call_failed", kind=type(error).__name__, code=error.code, detail=error.detail)
            left = ErrorCode.PATH_NOT_VERIFIED, error.detail
            if error.code in WAITING_CODES:
                left = error.code, error.detail
                asked_s = error.retry_after_s or 1.0
                pause = timedelta(seconds=self.jitter(asked_s, 2 * asked_s))
        except Exception:
            # One of them may be to blame: alone, it fails alone.
            log.exception("batch_broke")
        for claim in claims:
            with self.instrumentation.run(claim, time.perf_counter() - began) as run:
                findings = found.get(claim.context.operation_id)
                if findings is not None and not is_broken(findings) and not claim.context.is_uncertain:
                    self._keep_result(claim, run, Result(None, findings=tuple(map(finding_json, findings))))
                else:
                    run.outcome = self._leave(claim, *left, pause)
        log.info("batch_verified", claimed=len(claims), took_s=round(time.perf_counter() - began, 3))
        return pause

    def _claim(self, operation_id: uuid.UUID) -> Claim | None:
        timing, token = self.toolboxes.timing, uuid.uuid4()
        claimed = self.rows.change(
            operation_id,
            lambda saga, now: _announced(
                machine.claim(saga, LAST, Direction.DO, saga.operation.epoch, timing, now, token)
            ),
        )
        if claimed is None or claimed[0].verdict is not Verdict.CLAIMED:
            return None
        return claim_of(*claimed, LAST, self.toolboxes.of(claimed[1].saga.agent.accounts))

    def _read(self, contexts: Sequence[StepContext]) -> dict[uuid.UUID, list[Finding]]:
        """Read all paths at once, and return what differs, by operation; a trunk only if nobody has for a minute."""
        tools, on_trunk = contexts[0].tools, dict[uuid.UUID, list[StepContext]]()
        for ctx in contexts:
            if ctx.trunk_id is not None:
                on_trunk.setdefault(ctx.trunk_id, []).append(ctx)
        trunks: dict[str, CarrierTrunk] = {}
        urls: dict[str, Sequence[OriginationUrl]] = {}
        unchecked: list[uuid.UUID] = []
        for trunk_id, members in on_trunk.items():
            if tools.pool.is_checked(trunk_id):
                built = as_built(members[0].spec, Observed())
                trunks.update(built.trunks)
                urls.update(built.urls)
            else:
                unchecked.append(trunk_id)
        observed = read_built_paths(
            tools.carrier,
            tools.platform,
            [ctx.spec for ctx in contexts],
            Observed(trunks=trunks, urls=urls),
            contexts[0].check_time,
        )
        found = {ctx.operation_id: compare(ctx.spec, observed) for ctx in contexts}
        for trunk_id in unchecked:
            of_trunk = [finding for ctx in on_trunk[trunk_id] for finding in found[ctx.operation_id]]
            if not any(finding.is_about_trunk for finding in of_trunk):
                tools.pool.keep_checked(trunk_id)
        return found

    def _leave(self, claim: Claim, code: ErrorCode, detail: str, pause: timedelta | None) -> Verdict:
        """Leave an operation to a verification of its own, which the next sweep publishes; after a pause to a batch."""
        failure = Failure(
            code,
            detail,
            is_clear=True,
            was_tried=pause is None,
            waited_s=None if pause is None else round(self._elapsed(claim).total_seconds(), 3),
        )
        timing = self.toolboxes.timing
        kept = self.rows.change(
            claim.context.operation_id,
            lambda saga, now: _announced(
                machine.rest(saga, claim.lease, failure, pause or timedelta(), timing, now), is_alone=pause is None
            ),
        )
        return kept[0].verdict if kept else Verdict.LOST


def _is_time(waiting: Unverified) -> bool:
    """Say whether those that wait are verified now: enough of them, none on its way, or one that waited long enough."""
    return bool(waiting.ids) and (
        len(waiting.ids) >= ENOUGH or not waiting.on_their_way or waiting.waited_s >= LONGEST_WAIT_S
    )


def _announced(change: Change, *, is_alone: bool = False) -> Change:
    """Have the next sweep publish what nobody holds a message for: a rollback, or a verification of its own."""
    is_left = change.verdict is Verdict.ROLLING_BACK or (is_alone and change.verdict is Verdict.RESTS)
    if is_left and not change.operation.status.is_final:
        change.wake()
    return change
