"""Consolidation: moves all numbers that are on trunks of their own to trunks that numbers share, as one bulk.

The bulk's items are rehomes: each number moves by one write and rings throughout, and its old trunk goes after that. So
an account that has reached its limit of trunks gets them back, and goes on with numbers as the shared trunks have room.
"""

import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, and_, exists, false, func, or_, select
from sqlalchemy.orm import Session

from app.bulk.service import BulkService
from app.db.engine import Sessions
from app.db.models import Agent, Bulk, BulkItem, Operation
from app.domain.events import Origin
from app.domain.operations import (
    MAX_ITEMS,
    OPEN_STATUSES,
    TRUNK,
    BulkKind,
    ItemStatus,
    PhoneStatus,
    TrunkMode,
)
from app.domain.workspaces import ENVIRONMENT, AccountIds
from app.path.spec import Profile
from app.trunks.listing import places_of

if TYPE_CHECKING:
    from app.accounts.clients import Toolboxes


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Agents with a trunk of their own that are not moved, and why."""

    reason: str
    """`dedicated`, `adopted`, `busy`, `waiting` or `beyond_limit`."""
    count: int
    detail: str
    """One sentence for a person."""


@dataclass(frozen=True, slots=True)
class ConsolidationPlan:
    """What a consolidation would do now; counts of the rows, without a call to a provider."""

    agents: int
    """Agents that would move."""
    pool_trunks: int
    """Shared trunks of the present profiles that exist."""
    free_places: int
    """Numbers that these have room for."""
    trunks_needed: int
    """Shared trunks that would be added; where the account may have no other, one of the agents' own becomes one."""
    trunk_limit: int
    """Trunks that the Twilio accounts may have."""
    left_out: tuple[LeftOut, ...]

    @property
    def trunks_freed(self) -> int:
        """Trunks that the account has fewer once all have moved."""
        return max(self.agents - self.trunks_needed, 0)

    @property
    def message(self) -> str:
        """One sentence for a person."""
        if not self.agents:
            return "Nothing to do: no agent that can move now has a trunk of its own."
        return (
            f"{self.agents:,} numbers move to shared trunks: {self.trunks_needed:,} more of those are needed, and the "
            f"account has {self.trunks_freed:,} trunks fewer in the end."
        )


_LEFT_OUT = (
    ("dedicated", "Their trunkMode is dedicated: they keep a trunk of their own."),
    ("adopted", "Their path was adopted: their number stays on the trunk that it was found on."),
    ("busy", "An operation is open for them: consolidate again once it has ended."),
    ("waiting", "An earlier consolidation has them already."),
)


@dataclass(frozen=True)
class ConsolidationService:
    """Opens rehomes for all accounts; each number stays in its own."""

    sessions: Sessions
    bulks: BulkService
    toolboxes: "Toolboxes"
    max_numbers: int
    """Numbers on one shared trunk."""

    def plan(self) -> ConsolidationPlan:
        """Return what `start` would do now."""
        with self.sessions() as session:
            return self._plan(session)

    def start(self, *, origin: Origin) -> tuple[ConsolidationPlan, Bulk | None]:
        """Open the bulk; None where no agent can move now.

        An agent that is asked for twice, by two of these at once, moves once: the other item finds it moved.
        """
        with self.sessions() as session:
            plan = self._plan(session)
            movable = _movable(session)
        if not movable:
            return plan, None
        return plan, self.bulks.open_for_agents(BulkKind.REHOME, movable, origin=origin)

    def _plan(self, session: Session) -> ConsolidationPlan:
        busy, waiting, shared = _is_busy(), _is_waiting(), and_(Agent.trunk_mode == TrunkMode.SHARED, ~_is_adopted())
        pair = (Agent.carrier_account_id, Agent.voice_project_id)
        counts = session.execute(
            select(
                *pair,
                func.count().filter(shared, ~busy, ~waiting).label("movable"),
                func.count().filter(Agent.trunk_mode == TrunkMode.DEDICATED, ~_is_adopted()).label("dedicated"),
                func.count().filter(_is_adopted()).label("adopted"),
                func.count().filter(shared, busy, ~waiting).label("busy"),
                func.count().filter(shared, waiting).label("waiting"),
            )
            .where(_has_own_trunk())
            .group_by(*pair)
        ).all()
        movable = sum(row.movable for row in counts)
        agents = left = min(movable, MAX_ITEMS)
        # The environment's pool is shown in any case, as it is where there is no other.
        pools = {self._pool_of(ENVIRONMENT): 0}
        for row in counts:
            pool = self._pool_of(AccountIds(row.carrier_account_id, row.voice_project_id))
            pools[pool] = pools.get(pool, 0) + min(row.movable, left)
            left -= min(row.movable, left)
        trunks = free = needed = 0
        for (account_id, profile), count in pools.items():
            places = places_of(session, account_id, profile, self.max_numbers)
            room = places.free + places.free_on_unmade
            trunks, free = trunks + places.trunks, free + room
            needed += math.ceil(max(count - room, 0) / self.max_numbers)
        left_out = (
            *(LeftOut(reason, sum(getattr(row, reason) for row in counts), detail) for reason, detail in _LEFT_OUT),
            LeftOut("beyond_limit", movable - agents, f"A bulk has {MAX_ITEMS:,} items: consolidate again."),
        )
        limit = sum(self.toolboxes.account(one).trunk_limit for one in {account_id for account_id, _ in pools})
        return ConsolidationPlan(agents, trunks, free, needed, limit, tuple(one for one in left_out if one.count))

    def _pool_of(self, ids: AccountIds) -> tuple[uuid.UUID, Profile]:
        """Return what the trunks of a pool have in common: the account, and the profile."""
        return ids.carrier_account_id, self.toolboxes.project(ids.voice_project_id).profile


def _has_own_trunk() -> ColumnElement[bool]:
    return and_(
        Agent.phone_provisioning_status == PhoneStatus.PROVISIONED,
        Agent.deleted_at.is_(None),
        Agent.trunk_id.is_(None),
        Agent.twilio_trunk_sid.is_not(None),
    )


def _is_adopted() -> ColumnElement[bool]:
    """Match agents that have adopted the trunk which their number is on."""
    return func.coalesce(Agent.adopted[TRUNK]["id"].astext == Agent.twilio_trunk_sid, false())


def _is_busy() -> ColumnElement[bool]:
    takes_part = or_(Operation.agent_id == Agent.id, Operation.target_agent_id == Agent.id)
    return exists().where(takes_part, Operation.status.in_(OPEN_STATUSES))


def _is_waiting() -> ColumnElement[bool]:
    """Match agents that an open bulk of rehomes has, whether or not their item has begun."""
    return exists().where(
        BulkItem.agent_id == Agent.id,
        BulkItem.status.in_((ItemStatus.PENDING, ItemStatus.RUNNING)),
        Bulk.id == BulkItem.bulk_id,
        Bulk.kind == BulkKind.REHOME,
    )


def _movable(session: Session) -> Sequence[tuple[uuid.UUID, str]]:
    query = (
        select(Agent.id, Agent.twilio_phone_number)
        .where(_has_own_trunk(), Agent.trunk_mode == TrunkMode.SHARED, ~_is_adopted(), ~_is_busy(), ~_is_waiting())
        .order_by(Agent.created_at, Agent.id)
        .limit(MAX_ITEMS)
    )
    return [(agent_id, number or "") for agent_id, number in session.execute(query)]
