"""Retires the shared trunks that no number has used for a day: refused to newcomers, read, deleted.

The sweeper looks for them and publishes each; a worker takes it down. Members are looked for under the lock of the
trunk's row, as they are when a place is taken: whoever comes first, the one or the other, wins. From then on the trunk
is RETIRING and gives no place. Its lease and its quiet period are those of its making: whatever a worker that died has
asked for has landed before anybody looks again, so that a trunk which goes back to its numbers is not deleted late.
"""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import delete, exists, func, select, update

from app.audit.trunks import foreign_numbers
from app.db.engine import Sessions, read_sql
from app.db.models import Agent, Trunk
from app.domain.findings import FindingCode
from app.domain.operations import TrunkState
from app.domain.workspaces import ENVIRONMENT_PROJECT, AccountIds
from app.numbers.maintenance import save_trunk_health
from app.path.marks import pool_tag
from app.providers.callers import Caller, CallPriority, calling
from app.providers.errors import ProviderError
from app.saga.context import StepContext, context_without_rows
from app.saga.twilio_steps import delete_empty_trunk, numbers_seen, trunks_with

if TYPE_CHECKING:
    from app.saga.context import ToolboxSource

log = structlog.get_logger(__name__)

EMPTY_FOR = timedelta(days=1)
"""How long a trunk stays without numbers: one that is needed again tomorrow is not made again, and it costs nothing."""

KEPT_FOR = timedelta(days=90)
"""How long the row of a trunk that is gone is kept, for those who ask what became of it."""

BATCH = 50
"""Trunks published at once."""

_MARK_EMPTY = read_sql(__file__, "mark_empty.sql")
_DUE = read_sql(__file__, "due_retirements.sql")
_FOREIGN = json.dumps([{"code": FindingCode.TRUNK_FOREIGN_NUMBER}])


@dataclass(frozen=True)
class _Retirement:
    """The right to take a trunk down until the lease ends."""

    trunk_id: uuid.UUID
    token: uuid.UUID
    sid: str | None
    accounts: AccountIds
    """Its carrier account, and any voice project: nothing of that one is read."""


@dataclass
class _Strangers(Exception):  # noqa: N818  # no error: the trunk is used
    """A trunk is not empty."""

    trunk_sid: str
    number_sids: Sequence[str]


@dataclass(frozen=True)
class RetiringService:
    """Finds and retires the trunks of the pool that nobody uses."""

    sessions: Sessions
    toolboxes: "ToolboxSource"

    def take_due(self) -> list[uuid.UUID]:
        """Note which trunks are empty since when, and return those that are due to go."""
        values = {"empty_for": EMPTY_FOR, "lands": self.toolboxes.timing.lands, "foreign": _FOREIGN, "batch": BATCH}
        with self.sessions.begin() as session:
            session.connection().exec_driver_sql(_MARK_EMPTY)
            return list(session.connection().exec_driver_sql(_DUE, values).scalars())

    def retire(self, trunk_id: uuid.UUID) -> None:
        """Delete the trunk, unless it is used or another worker has it; a second call does no harm."""
        claim = self._claim(trunk_id)
        if claim is None:
            return
        timing, tools = self.toolboxes.timing, self.toolboxes.of(claim.accounts)
        ctx = context_without_rows(tools)
        caller = Caller(CallPriority.BULK, last_start_at=ctx.last_call_at, stall_s=timing.stall.total_seconds())
        try:
            with calling(caller), tools.noting():
                self._delete(ctx, claim)
        except _Strangers as found:
            self._give_back(claim, found)
        except ProviderError as error:
            # What was asked for may still land: nobody looks, and nobody gets a place on it, before that.
            log.warning("trunk_not_retired", trunk_id=str(trunk_id), code=error.code, detail=error.detail)
            settled = func.clock_timestamp() + timing.settle
            self._end(claim, state=TrunkState.RETIRING, unsettled_until=settled)
        else:
            self._end(claim, state=TrunkState.GONE, gone_at=func.clock_timestamp(), intent=None)
            log.info("trunk_retired", trunk_id=str(trunk_id), twilio_trunk_sid=claim.sid)

    def purge(self) -> int:
        """Delete the rows of trunks that are gone for `KEPT_FOR`; return how many."""
        is_old = Trunk.gone_at < func.now() - KEPT_FOR
        is_named = exists().where(Agent.trunk_id == Trunk.id)
        with self.sessions.begin() as session:
            gone = delete(Trunk).where(Trunk.state == TrunkState.GONE, is_old, ~is_named).returning(Trunk.id)
            return len(session.scalars(gone).all())

    def _claim(self, trunk_id: uuid.UUID) -> _Retirement | None:
        timing, token = self.toolboxes.timing, uuid.uuid4()
        with self.sessions.begin() as session:
            row = session.get(Trunk, trunk_id, with_for_update=True)
            now = session.scalars(select(func.clock_timestamp())).one()
            if row is None or row.state is TrunkState.GONE or not row.emptied_at or row.emptied_at > now - EMPTY_FOR:
                return None
            is_held = row.lease_token is not None and row.lease_until and row.lease_until + timing.lands > now
            if is_held or (row.unsettled_until and row.unsettled_until > now):
                return None
            # A statement of its own, once the row is locked: it sees everybody who was faster.
            if session.scalar(select(exists().where(Agent.trunk_id == trunk_id))):
                return None
            row.state, row.lease_token, row.lease_until = TrunkState.RETIRING, token, now + timing.lease
            accounts = AccountIds(row.carrier_account_id, ENVIRONMENT_PROJECT)
            return _Retirement(trunk_id, token, row.twilio_trunk_sid, accounts)

    def _delete(self, ctx: StepContext, claim: _Retirement) -> None:
        """Delete every trunk with its tag, first those that no row names; `_Strangers` at the first with numbers."""
        own = {claim.sid} if claim.sid else set()
        tag = pool_tag(self.toolboxes.instance, claim.trunk_id)
        found = ctx.find_with_retries(lambda: trunks_with(ctx, tag), own)
        for trunk_sid in (*sorted(set(found) - own), *own):
            ctx.check_time()
            numbers = numbers_seen(lambda sid=trunk_sid: ctx.tools.carrier.list_trunk_numbers(sid))  # type: ignore[misc]
            if numbers:
                raise _Strangers(trunk_sid, numbers)
            ctx.check_time()
            delete_empty_trunk(ctx, trunk_sid)

    def _give_back(self, claim: _Retirement, found: _Strangers) -> None:
        """Let numbers onto the trunk again, which is not ours alone, for another day at least."""
        log.warning("trunk_has_foreign_numbers", trunk_id=str(claim.trunk_id), twilio_trunk_sid=found.trunk_sid)
        with self.sessions.begin() as session:
            ours = session.scalars(
                select(Agent.twilio_phone_number_sid).where(Agent.twilio_phone_number_sid.in_(found.number_sids))
            )
            strangers = sorted(set(found.number_sids) - set(ours))
            row = session.get_one(Trunk, claim.trunk_id, with_for_update=True)
            if row.lease_token != claim.token:
                return
            is_whole = row.twilio_trunk_sid and row.twilio_origination_url_sid
            row.state = TrunkState.ACTIVE if is_whole else TrunkState.CREATING
            row.lease_token = row.lease_until = row.unsettled_until = None
            row.emptied_at = session.scalar(select(func.clock_timestamp()))
            if strangers:
                session.flush()
                save_trunk_health(session, {claim.trunk_id: [foreign_numbers(found.trunk_sid, strangers)]})

    def _end(self, claim: _Retirement, **values: object) -> None:
        mine = (Trunk.id == claim.trunk_id, Trunk.lease_token == claim.token)
        free = {"lease_token": None, "lease_until": None, "unsettled_until": None}
        with self.sessions.begin() as session:
            session.execute(update(Trunk).where(*mine).values(free | values))
