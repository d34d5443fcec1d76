"""New agents and numbers."""

import itertools
import uuid
from typing import Any

from app.db.models import Agent
from app.domain.operations import TrunkMode, TrunkState
from app.domain.sip_uris import parse_sip_uri
from app.numbers.agents import AgentService
from app.path.spec import Profile
from tests.e2e.invariants import Assignment
from tests.support.sandbox import Sandbox
from tests.support.stack import Stack, Timings
from tests.support.trunks import add_shared_trunk

SHARED_TIMINGS = Timings(provider_timeout=3)
"""Long enough that no provider call times out on a busy machine, which would add one to what a test counts."""

_numbers = itertools.count(1000)

_shards = itertools.count(-1, -1)


def next_number() -> str:
    """Return a number that no test of this process has used."""
    return f"+1514555{next(_numbers):04d}"


def new_assignment(
    stack: Stack, sandbox: Sandbox, trunk_mode: TrunkMode = TrunkMode.SHARED, **routing: Any
) -> Assignment:
    """Create an agent, and a number for it in the account."""
    number = next_number()
    name = f"agent-{number[-4:]}"
    agent = AgentService(stack.sessions).create(name, None, {}, trunk_mode=trunk_mode)
    routing = routing or {"voiceUrl": f"https://example.com/{number[-4:]}"}
    return Assignment(str(agent.id), number, name, sandbox.number(number, **routing))


def add_unmade_trunk(stack: Stack, sandbox: Sandbox) -> uuid.UUID:
    """Add a shared trunk that is yet to be made, and that nobody is put on while one made in the usual way has room."""
    profile = Profile(parse_sip_uri(sandbox.settings()["LIVEKIT_SIP_URI"]))
    made = {"twilio_trunk_sid": None, "twilio_origination_url_sid": None}
    return add_shared_trunk(stack.sessions, profile, state=TrunkState.CREATING, shard=next(_shards), **made)


def put_on_trunk(stack: Stack, assignment: Assignment, trunk_id: uuid.UUID) -> None:
    """Give an agent a place on this shared trunk, as a worker does that dies then."""
    with stack.sessions.begin() as session:
        session.get_one(Agent, uuid.UUID(assignment.agent_id)).trunk_id = trunk_id
