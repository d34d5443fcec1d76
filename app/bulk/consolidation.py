"""Consolidation: moves all numbers that are on trunks of their own to trunks that numbers share, as one bulk.

The bulk's items are rehomes: each number moves by one write and rings throughout, and its old trunk goes after that. So
an account that has reached its limit of trunks gets them back, and goes on with numbers as the shared trunks have room.
"""

import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, exists, func, or_, select
from sqlalchemy.orm import Session

from app.bulk.service import BulkService
from app.db.engine import Sessions
from app.db.models import Agent, Bulk, BulkItem, Operation
from app.domain.events import Origin
from app.domain.operations import (
    MAX_ITEMS,
    OPEN_STATUSES,
    BulkKind,
    ItemStatus,
    PhoneStatus,
    TrunkMode,
)
from app.domain.workspaces import ENVIRONMENT_ACCOUNT
from app.path.spec import Profile
from app.trunks.listing import places_of


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Agents with a trunk of their own that are not moved, and why."""

    reason: str
    """`dedicated`, `busy`, `waiting` or `beyond_limit`."""
    count: int
    detail: str
    """One sentence for a person."""


@dataclass(frozen=True, slots=True)
class ConsolidationPlan:
    """What a consolidation would do now; counts of the rows, without a call to a provider."""

    agents: int
    """Agents that would move."""
    pool_trunks: int
    """Shared trunks of the present profile that exist."""
    free_places: int
    """Numbers that these have room for."""
    trunks_needed: int
    """Shared trunks that would be added; where the account may have no other, one of the agents' own becomes one."""
    trunk_limit: int
    """Trunks that the Twilio account may have."""
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


@dataclass(frozen=True)
class ConsolidationService:
    """Opens rehomes for a whole account."""

    sessions: Sessions
    bulks: BulkService
    profile: Profile
    max_numbers: int
    """Numbers on one shared trunk."""
    trunk_limit: int

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
        busy, waiting, shared = _is_busy(), _is_waiting(), Agent.trunk_mode == TrunkMode.SHARED
        counts = session.execute(
            select(
                func.count().filter(shared, ~busy, ~waiting).label("movable"),
                func.count().filter(~shared).label("dedicated"),
                func.count().filter(shared, busy, ~waiting).label("busy"),
                func.count().filter(shared, waiting).label("waiting"),
            ).where(_has_own_trunk())
        ).one()
        places = places_of(session, ENVIRONMENT_ACCOUNT, self.profile, self.max_numbers)
        free = places.free + places.free_on_unmade
        agents = min(counts.movable, MAX_ITEMS)
        left_out = (
            LeftOut("dedicated", counts.dedicated, "Their trunkMode is dedicated: they keep a trunk of their own."),
            LeftOut("busy", counts.busy, "An operation is open for them: consolidate again once it has ended."),
            LeftOut("waiting", counts.waiting, "An earlier consolidation has them already."),
            LeftOut("beyond_limit", counts.movable - agents, f"A bulk has {MAX_ITEMS:,} items: consolidate again."),
        )
        needed = math.ceil(max(agents - free, 0) / self.max_numbers)
        found = tuple(one for one in left_out if one.count)
        return ConsolidationPlan(agents, places.trunks, free, needed, self.trunk_limit, found)


def _has_own_trunk() -> ColumnElement[bool]:
    return and_(
        Agent.phone_provisioning_status == PhoneStatus.PROVISIONED,
        Agent.deleted_at.is_(None),
        Agent.trunk_id.is_(None),
        Agent.twilio_trunk_sid.is_not(None),
    )


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
        .where(_has_own_trunk(), Agent.trunk_mode == TrunkMode.SHARED, ~_is_busy(), ~_is_waiting())
        .order_by(Agent.created_at, Agent.id)
        .limit(MAX_ITEMS)
    )
    return [(agent_id, number or "") for agent_id, number in session.execute(query)]
