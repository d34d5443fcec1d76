"""What must be true of shared trunks, whatever happened: rows and provider agree, and nothing is there twice."""

from collections import Counter

from sqlalchemy import func, select

from app.db.models import Agent, Trunk
from app.domain.operations import PhoneStatus, TrunkState
from app.path.marks import POOL_PREFIX, pool_tag
from tests.support.saga import MAX_NUMBERS, Saga

INSTANCE = "test"


def trunk_rows(saga: Saga) -> list[Trunk]:
    """Return the rows of trunks that are not gone, oldest first."""
    with saga.sessions.begin() as session:
        rows = session.scalars(select(Trunk).where(Trunk.state != TrunkState.GONE).order_by(Trunk.shard))
        return list(rows)


def pool_trunks(saga: Saga, instance: str = INSTANCE) -> list[str]:
    """Return the sids of the trunks at the provider that have a tag of the instance's pool."""
    return [one.sid for one in saga.world.carrier.trunks.values() if one.tag.startswith(f"{POOL_PREFIX}/{instance}/")]


def assert_pool(saga: Saga, max_numbers: int = MAX_NUMBERS, instance: str = INSTANCE) -> None:
    """Check every row of the pool against the provider, and every member against its row."""
    rows, carrier = trunk_rows(saga), saga.world.carrier
    named = {row.twilio_trunk_sid for row in rows if row.twilio_trunk_sid}
    assert sorted(pool_trunks(saga, instance)) == sorted(named)
    for row in rows:
        urls = [url.sid for url in carrier.urls.values() if url.trunk_sid == row.twilio_trunk_sid]
        assert urls == ([row.twilio_origination_url_sid] if row.twilio_origination_url_sid else [])
        if row.twilio_trunk_sid:
            assert carrier.trunks[row.twilio_trunk_sid].tag == pool_tag(instance, row.id)
        assert row.state is not TrunkState.ACTIVE or (row.twilio_trunk_sid and urls)
    with saga.sessions.begin() as session:
        agents = session.scalars(select(Agent).where(Agent.twilio_phone_number.is_not(None))).all()
        placed = session.scalar(select(func.count()).where(Agent.trunk_id.is_not(None)))
    members = Counter(agent.trunk_id for agent in agents if agent.trunk_id)
    assert members.total() == placed  # no place without a number
    assert all(count <= max_numbers for count in members.values())
    sids = {row.id: row.twilio_trunk_sid for row in rows}
    for agent in agents:
        if agent.phone_provisioning_status is PhoneStatus.PROVISIONED and agent.trunk_id:
            assert agent.twilio_trunk_sid == sids[agent.trunk_id]
            assert saga.world.routing(agent.twilio_phone_number_sid or "").trunk_sid == agent.twilio_trunk_sid
