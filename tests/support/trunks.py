"""Rows of Twilio trunks that numbers share, for tests that only look at them."""

import uuid
from typing import Any

from app.db.engine import Sessions
from app.db.models import Agent, Trunk
from app.domain.operations import PhoneStatus, TrunkState
from app.path.spec import Profile
from app.trunks.pool import profile_hash, profile_json

URL_SID = "OU" + "9" * 32


def add_shared_trunk(sessions: Sessions, profile: Profile, members: int = 0, **values: Any) -> uuid.UUID:
    """Insert a trunk with this many agents on it; ACTIVE unless `values` say otherwise. Return its id."""
    trunk_id = uuid.uuid4()
    shown = {"state": TrunkState.ACTIVE, "twilio_trunk_sid": f"TK{trunk_id.hex}", "twilio_origination_url_sid": URL_SID}
    with sessions.begin() as session:
        row = {"profile": profile_json(profile), "profile_hash": profile_hash(profile), "shard": 1} | shown | values
        session.add(Trunk(id=trunk_id, **row))
    for count in range(members):
        add_member(sessions, trunk_id, f"member {count}", row["twilio_trunk_sid"])
    return trunk_id


def add_member(sessions: Sessions, trunk_id: uuid.UUID | None, name: str, twilio_trunk_sid: str | None) -> uuid.UUID:
    """Insert an agent with a place on a shared trunk, or with one of its own; return its id."""
    agent_id = uuid.uuid4()
    with sessions.begin() as session:
        session.add(
            Agent(
                id=agent_id,
                name=name,
                livekit_agent_name=name,
                trunk_id=trunk_id,
                twilio_trunk_sid=twilio_trunk_sid,
                phone_provisioning_status=PhoneStatus.PROVISIONED,
                twilio_phone_number=f"+1514{agent_id.int % 10**7:07d}",
            )
        )
    return agent_id
