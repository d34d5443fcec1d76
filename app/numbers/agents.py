"""Agents without regard to their numbers: create, get, delete."""

import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, func, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.accounts.choice import choice_for
from app.bulk.items import BulkItemRef
from app.db.access import record_activity
from app.db.engine import Sessions
from app.db.models import Agent, BulkItem, Operation
from app.db.queries import PURGE_BATCH
from app.domain.errors import ErrorCode, RefusedError, agent_not_found
from app.domain.events import INTERNAL, Action, Origin
from app.domain.operations import OPEN_STATUSES, PhoneStatus, TrunkMode
from app.domain.options import NO_OPTIONS, AgentOptions, options_json
from app.domain.workspaces import AccountIds

ERASED = "(deleted)"
"""Replaces the names of a deleted agent: its row is kept for the audit trail, what its owner wrote is not."""


UNIQUE_EXTERNAL_ID = "uq_agents_external_id"


@dataclass(frozen=True)
class AgentService:
    """Creates, reads and deletes agents."""

    sessions: Sessions

    def create(
        self,
        name: str,
        livekit_agent_name: str | None,
        metadata: dict[str, Any],
        *,
        external_id: str | None = None,
        options: AgentOptions = NO_OPTIONS,
        trunk_mode: TrunkMode = TrunkMode.SHARED,
        carrier_account_id: uuid.UUID | None = None,
        voice_project_id: uuid.UUID | None = None,
        origin: Origin = INTERNAL,
    ) -> Agent:
        """Insert an agent; LiveKit dispatches calls to `livekit_agent_name`, by default the name.

        Its accounts are those of its workspace where it names no other; 422 for one that is not for this workspace. 409
        `external_id_in_use`.
        """
        with self.sessions.begin() as session:
            choice = choice_for(
                session,
                [carrier_account_id] if carrier_account_id else (),
                [voice_project_id] if voice_project_id else (),
            )
            accounts = choice.of(carrier_account_id, voice_project_id)
            agent = Agent(
                id=uuid.uuid4(),
                name=name,
                livekit_agent_name=livekit_agent_name or name,
                agent_metadata=metadata,
                options=options_json(options),
                trunk_mode=trunk_mode,
                carrier_account_id=accounts.carrier_account_id,
                voice_project_id=accounts.voice_project_id,
                phone_provisioning_status=PhoneStatus.NOT_PROVISIONED,
            )
            session.add(agent)
            session.flush()
            if external_id is not None:
                give_external_id(session, agent, external_id)
            session.refresh(agent)
            record_activity(session, origin, Action.AGENT_CREATE, agent.id, agent.workspace_id)
            return agent

    def get(self, agent_id: uuid.UUID) -> Agent:
        """Return the agent; 404 `agent_not_found` when it does not exist or was deleted."""
        with self.sessions.begin() as session:
            agent = session.scalar(select(Agent).where(Agent.id == agent_id, Agent.deleted_at.is_(None)))
        if agent is None:
            raise agent_not_found(agent_id)
        return agent

    def delete(self, agent_id: uuid.UUID, *, origin: Origin = INTERNAL, bulk_item: BulkItemRef | None = None) -> None:
        """Delete the agent and erase its names, metadata and options; 409 while it has a number or an open operation.

        What its operations have wanted of it is erased too. `bulk_item` is the bulk's item that it is for.
        """
        with self.sessions.begin() as session:
            delete_agent(session, agent_id, origin)
            if bulk_item is not None:
                bulk_item.finish(session)

    def erase_deleted(self) -> int:
        """Erase what an older release kept of deleted agents; return how many rows were changed."""
        is_left = or_(
            Agent.name != ERASED,
            Agent.livekit_agent_name != ERASED,
            Agent.agent_metadata != {},
            Agent.options != {},
            Agent.external_id.is_not(None),
        )
        erased: dict[str, Any] = {"name": ERASED, "livekit_agent_name": ERASED, "agent_metadata": {}, "options": {}}
        erased |= {"health_findings": [], "external_id": None}
        batch = select(Agent.id).where(Agent.deleted_at.is_not(None), is_left).limit(PURGE_BATCH)
        with self.sessions.begin() as session:
            statement = update(Agent).where(Agent.id.in_(batch.with_for_update(skip_locked=True).cte("batch").select()))
            done = session.execute(statement.values(erased).execution_options(synchronize_session=False))
            return int(done.rowcount)  # type: ignore[attr-defined]  # of every UPDATE


def delete_agent(session: Session, agent_id: uuid.UUID, origin: Origin) -> None:
    """Delete an agent in the caller's transaction, as `AgentService.delete` does."""
    agent = session.scalar(select(Agent).where(Agent.id == agent_id, Agent.deleted_at.is_(None)).with_for_update())
    if agent is None:
        raise agent_not_found(agent_id)
    if agent.phone_provisioning_status is PhoneStatus.PROVISIONED:
        raise RefusedError(ErrorCode.AGENT_HAS_PHONE, "The agent has a number: deprovision it first.")
    refuse_busy(session, agent_id)
    agent.deleted_at = func.now()
    agent.name = agent.livekit_agent_name = ERASED
    agent.agent_metadata, agent.options, agent.health_findings, agent.external_id = {}, {}, [], None
    of_operations = update(Operation).where(Operation.agent_id == agent_id, Operation.wanted.is_not(None))
    session.execute(of_operations.values(wanted=None, former_options=None))
    of_items = update(BulkItem).where(BulkItem.agent_id == agent_id, BulkItem.wanted.is_not(None))
    session.execute(of_items.values(wanted=None).execution_options(synchronize_session=False))
    record_activity(session, origin, Action.AGENT_DELETE, agent_id, agent.workspace_id)


def give_external_id(session: Session, agent: Agent, external_id: str | None) -> None:
    """Write the id that a client knows the agent by; 409 `external_id_in_use`, which names the agent that has it."""
    try:
        with session.begin_nested():
            agent.external_id = external_id
            session.flush()
    except IntegrityError as error:
        if constraint_of(error) != UNIQUE_EXTERNAL_ID:
            raise
        raise external_id_in_use(session, agent.workspace_id, external_id) from error


def external_id_in_use(session: Session, workspace_id: uuid.UUID, external_id: str | None) -> RefusedError:
    """Build the 409 for an id that another agent of the workspace has."""
    holds_it = (Agent.workspace_id == workspace_id, Agent.external_id == external_id, Agent.deleted_at.is_(None))
    holder = session.scalar(select(Agent.id).where(*holds_it))
    detail = f"Agent {holder} has the externalId {external_id} already."
    return RefusedError(ErrorCode.EXTERNAL_ID_IN_USE, detail, more={"agentId": str(holder)} if holder else None)


def constraint_of(error: IntegrityError) -> str | None:
    """Return the name of the constraint or unique index that a statement has violated."""
    return getattr(getattr(error.orig, "diag", None), "constraint_name", None)


def is_open_for(agent_id: uuid.UUID) -> ColumnElement[bool]:
    """Match the agent's open operations, and an open move of another agent's number to it."""
    takes_part = or_(Operation.agent_id == agent_id, Operation.target_agent_id == agent_id)
    return and_(takes_part, Operation.status.in_(OPEN_STATUSES))


def refuse_busy(session: Session, agent_id: uuid.UUID) -> None:
    """Raise 409 `operation_in_progress` while an operation is open for the agent."""
    busy = session.scalar(select(Operation.id).where(is_open_for(agent_id)))
    if busy:
        raise RefusedError(ErrorCode.OPERATION_IN_PROGRESS, f"Operation {busy} is still open for this agent.")


def accounts_of(sessions: Sessions, agent_id: uuid.UUID) -> AccountIds:
    """Read where the agent's path is built, which never changes; 404 `agent_not_found`."""
    wanted = select(Agent.carrier_account_id, Agent.voice_project_id)
    with sessions() as session:
        row = session.execute(wanted.where(Agent.id == agent_id, Agent.deleted_at.is_(None))).one_or_none()
    if row is None:
        raise agent_not_found(agent_id)
    return AccountIds(*row)


def lock_agent(session: Session, agent_id: uuid.UUID) -> tuple[Agent, datetime]:
    """Lock the agent's row and read the database's time; 404 `agent_not_found`."""
    row = session.execute(
        select(Agent, func.clock_timestamp())
        .where(Agent.id == agent_id, Agent.deleted_at.is_(None))
        .with_for_update(of=Agent)
    ).one_or_none()
    if row is None:
        raise agent_not_found(agent_id)
    return row[0], row[1]
