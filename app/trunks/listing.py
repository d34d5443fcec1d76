"""Which Twilio trunks the installation has, shared and of one agent's own, and how many places they have left."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from app.db.engine import read_sql
from app.db.queries import Position
from app.domain.findings import Health
from app.domain.operations import TrunkMode, TrunkState
from app.path.spec import Profile
from app.trunks.pool import profile_hash

_LIST_TRUNKS = read_sql(__file__, "list_trunks.sql")
_COUNT_PLACES = read_sql(__file__, "count_places.sql")


@dataclass(frozen=True, slots=True)
class TrunkRow:
    """One trunk; `agent_id` has the one that a dedicated trunk belongs to, which has neither profile nor shard."""

    id: uuid.UUID
    """Of the row in `trunks`, or of the agent."""
    created_at: datetime
    mode: TrunkMode
    state: TrunkState
    twilio_trunk_sid: str | None
    profile: dict[str, Any] | None
    shard: int | None
    health_state: Health
    health_checked_at: datetime | None
    health_findings: list[dict[str, Any]]
    emptied_at: datetime | None
    agent_id: uuid.UUID | None
    members: int


def list_trunks(
    session: Session,
    *,
    limit: int,
    mode: TrunkMode | None = None,
    state: TrunkState | None = None,
    after: Position | None = None,
    trunk_id: uuid.UUID | None = None,
) -> Sequence[TrunkRow]:
    """Return up to `limit` trunks, the newest first; those that are gone only if asked for by state or id."""
    values = {
        "mode": mode and mode.value,
        "state": state and state.value,
        "id": trunk_id,
        "after_at": after and after.created_at,
        "after_id": after and after.id,
        "limit": limit,
    }
    found = session.connection().exec_driver_sql(_LIST_TRUNKS, values).mappings()
    return [
        TrunkRow(
            **{
                **row,
                "mode": TrunkMode(row["mode"]),
                "state": TrunkState(row["state"]),
                "health_state": Health(row["health_state"]),
            }
        )
        for row in found
    ]


@dataclass(frozen=True, slots=True)
class Places:
    """What is left on the shared trunks of one profile."""

    trunks: int
    unmade: int
    """Those of them that Twilio does not have yet."""
    free_on_unmade: int
    free: int
    """Places on the others."""


def places_of(session: Session, carrier_account_id: uuid.UUID, profile: Profile, max_numbers: int) -> Places:
    """Count the places that new numbers of this profile may take on an account's trunks, made or being made."""
    values = {"account": carrier_account_id, "hash": profile_hash(profile), "most": max_numbers}
    row = session.connection().exec_driver_sql(_COUNT_PLACES, values).one()
    return Places(row.trunks, row.unmade, int(row.free_on_unmade), int(row.free))
