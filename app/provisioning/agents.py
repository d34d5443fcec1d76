"""The use cases of an agent as such: create, get, delete."""

import uuid
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from app.db.engine import Sessions
from app.db.models import Agent
from app.domain.errors import ErrorCode, RefusedError, agent_not_found
from app.domain.statuses import PhoneStatus
from app.provisioning.transitions import refuse_busy


@dataclass(frozen=True)
class AgentService:
    """Agents without regard to their numbers."""

    sessions: Sessions

    def create(self, name: str, livekit_agent_name: str | None, metadata: dict[str, Any]) -> Agent:
        """Insert an agent; LiveKit dispatches to `livekit_agent_name`, which is the name where none is given."""
        with self.sessions.begin() as session:
            agent = Agent(
                id=uuid.uuid4(),
                name=name,
                livekit_agent_name=livekit_agent_name or name,
                agent_metadata=metadata,
                phone_provisioning_status=PhoneStatus.NOT_PROVISIONED,
            )
            session.add(agent)
            session.flush()
            session.refresh(agent)
            return agent

    def get(self, agent_id: uuid.UUID) -> Agent:
        """Return the agent; 404 `agent_not_found` when there is none or it was deleted."""
        with self.sessions.begin() as session:
            agent = session.scalar(select(Agent).where(Agent.id == agent_id, Agent.deleted_at.is_(None)))
        if agent is None:
            raise agent_not_found(agent_id)
        return agent

    def delete(self, agent_id: uuid.UUID) -> None:
        """Delete the agent; 409 while it holds a number or an operation is open for it."""
        with self.sessions.begin() as session:
            agent = session.scalar(
                select(Agent).where(Agent.id == agent_id, Agent.deleted_at.is_(None)).with_for_update()
            )
            if agent is None:
                raise agent_not_found(agent_id)
            if agent.phone_provisioning_status is PhoneStatus.PROVISIONED:
                raise RefusedError(ErrorCode.AGENT_HAS_PHONE, "The agent has a number: deprovision it first.")
            refuse_busy(session, agent_id)
            agent.deleted_at = func.now()
