"""/api/agents: create, list, get, delete."""

import uuid
from typing import Any

from apiflask import APIBlueprint
from flask.typing import ResponseReturnValue
from marshmallow import RAISE

from app.api.answers import agent_url
from app.api.context import door, origin, wiring
from app.api.documented import answers_with
from app.api.idempotency import idempotent
from app.api.schemas import AgentIn, AgentOut, AgentPage, AgentQuery
from app.domain.errors import ErrorCode

blueprint = APIBlueprint("agents", __name__, url_prefix="/api/agents", tag="Agents")


@blueprint.post("")
@idempotent
@blueprint.input(AgentIn)
@blueprint.output(AgentOut, 201, description="The agent.")
@answers_with(headers={201: ["Location"]})
def create_agent(json_data: dict[str, Any]) -> ResponseReturnValue:
    """Create an agent."""
    livekit_name, metadata = json_data.get("livekit_agent_name"), json_data.get("agent_metadata", {})
    agent = wiring().agents.create(json_data["name"], livekit_name, metadata, origin=origin())
    return agent, 201, {"Location": agent_url(agent.id)}  # type: ignore[return-value]  # APIFlask packs the row


@blueprint.get("")
@blueprint.input(AgentQuery, location="query", unknown=RAISE)
@blueprint.output(AgentPage, description="One page.")
@answers_with(ErrorCode.VALIDATION_FAILED)
def list_agents(query_data: dict[str, Any]) -> object:
    """List agents, the newest first."""
    return door().reader.agents(**query_data)


@blueprint.get("/<agent_id>")
@blueprint.output(AgentOut, description="The agent.")
@answers_with(ErrorCode.AGENT_NOT_FOUND)
def get_agent(agent_id: uuid.UUID) -> object:
    """Get one agent."""
    return wiring().agents.get(agent_id)


@blueprint.delete("/<agent_id>")
@blueprint.output({}, 204, description="It is gone.")
@answers_with(ErrorCode.AGENT_NOT_FOUND, ErrorCode.AGENT_HAS_PHONE, ErrorCode.OPERATION_IN_PROGRESS)
def delete_agent(agent_id: uuid.UUID) -> ResponseReturnValue:
    """Delete an agent that holds no number."""
    wiring().agents.delete(agent_id, origin=origin())
    return "", 204
