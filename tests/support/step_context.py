"""A context for running a single step without rows, over providers in memory."""

import uuid
from typing import Any

from app.domain.operations import TrunkMode
from app.saga.context import StepContext, Toolbox
from tests.support.pool import MemoryPool
from tests.support.providers import World
from tests.support.saga import E164, PROFILE, TIMING, ManualClock

AGENT = uuid.UUID("00000000-0000-4000-8000-000000000001")


def make_context(world: World | None = None, **changes: Any) -> StepContext:
    """Return the context of a first try of a provisioning without takeover; `changes` replace fields."""
    world, clock = world or World.new(), ManualClock()
    pool = MemoryPool()
    tools = Toolbox(world.carrier, world.platform, "test", PROFILE, TIMING, pool, sleep=clock.sleep, clock=clock)
    values: dict[str, Any] = {
        "tools": tools,
        "agent_id": AGENT,
        "operation_id": uuid.uuid4(),
        "phone_number": E164,
        "takeover": False,
        "agent_name": "support",
        "job_metadata": "{}",
        "ids": {},
        "parents": {},
        "ledger": {},
        "previous_routing": None,
        "is_uncertain": False,
        "trunk_mode": TrunkMode.DEDICATED,
        "started": clock.now,
    }
    return StepContext(**(values | changes))
