"""Twilio trunks as API, console and command line show them."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.db.engine import Sessions
from app.db.queries import Position
from app.domain.errors import trunk_not_found
from app.domain.findings import Health
from app.domain.operations import TrunkMode, TrunkState
from app.path.marks import pool_tag, tag_of
from app.path.spec import Profile
from app.trunks.listing import TrunkRow, list_trunks
from app.trunks.pool import profile_json
from app.views.reader import encode_cursor


@dataclass(frozen=True, slots=True)
class TrunkHealth:
    """What was last found at the trunk and its origination URL; for an agent's own, on its whole path."""

    state: Health
    checked_at: datetime | None
    findings: Sequence[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class TrunkView:
    """One trunk."""

    id: uuid.UUID | None
    """None for an agent's own."""
    mode: TrunkMode
    state: TrunkState
    twilio_trunk_sid: str | None
    tag: str
    """Its name at Twilio."""
    profile: dict[str, Any]
    shard: int | None
    members: int
    capacity: int
    agent_id: uuid.UUID | None
    health: TrunkHealth
    created_at: datetime
    emptied_at: datetime | None

    @property
    def share(self) -> float:
        """How full it is, 0 to 1."""
        return min(self.members / self.capacity, 1.0)


@dataclass(frozen=True, slots=True)
class TrunkPage:
    """One page of trunks, newest first; `next_cursor` is None on the last."""

    items: Sequence[TrunkView]
    next_cursor: str | None


@dataclass(frozen=True)
class TrunkReader:
    """Reads trunks; each call is one read-only statement."""

    sessions: Sessions
    instance: str
    profile: Profile
    max_numbers: int

    def trunks(
        self,
        *,
        limit: int,
        mode: TrunkMode | None = None,
        state: TrunkState | None = None,
        cursor: Position | None = None,
    ) -> TrunkPage:
        """Return one page; trunks that are gone only if `state` says so."""
        with self.sessions() as session:
            rows = list_trunks(session, limit=limit + 1, mode=mode, state=state, after=cursor)
        items, more = rows[:limit], len(rows) > limit
        next_cursor = encode_cursor(Position(items[-1].created_at, items[-1].id)) if more else None
        return TrunkPage([self._view(row) for row in items], next_cursor)

    def trunk(self, trunk_id: uuid.UUID) -> TrunkView:
        """Return one shared trunk, also one that is gone; `RefusedError` 404."""
        with self.sessions() as session:
            rows = list_trunks(session, limit=1, mode=TrunkMode.SHARED, trunk_id=trunk_id)
        if not rows:
            raise trunk_not_found(trunk_id)
        return self._view(rows[0])

    def _view(self, row: TrunkRow) -> TrunkView:
        is_own = row.agent_id is not None
        return TrunkView(
            id=None if is_own else row.id,
            mode=row.mode,
            state=row.state,
            twilio_trunk_sid=row.twilio_trunk_sid,
            tag=tag_of(self.instance, row.id) if is_own else pool_tag(self.instance, row.id),
            profile=row.profile or profile_json(self.profile),
            shard=row.shard,
            members=row.members,
            capacity=1 if is_own else self.max_numbers,
            agent_id=row.agent_id,
            health=TrunkHealth(row.health_state, row.health_checked_at, row.health_findings),
            created_at=row.created_at,
            emptied_at=row.emptied_at,
        )
