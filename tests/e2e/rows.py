"""Reads rows for the checks: an agent, its latest operation and the ledger, in one transaction."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select

from app.db.engine import Sessions
from app.db.models import Agent, Operation, OperationStep, Resource, Trunk
from app.domain.operations import OperationStatus
from tests.support.stack import TIMEOUT_S, Stack, eventually


@dataclass(frozen=True)
class AgentRows:
    """Everything that the database has of one agent."""

    agent: Agent
    operations: list[Operation]
    steps: list[OperationStep]
    """Those of the latest operation."""
    ledger: list[Resource]
    trunk: Trunk | None
    """The shared trunk that it has a place on."""

    @property
    def operation(self) -> Operation:
        """The latest operation."""
        return self.operations[-1]

    def state(self, step: str) -> str:
        """The state of one step of the latest operation; empty where it has none such."""
        return next((row.state.value for row in self.steps if row.name == step), "")


def rows_of(sessions: Sessions, agent_id: str) -> AgentRows:
    """Read one agent."""
    key = uuid.UUID(agent_id)
    with sessions.begin() as session:
        agent = session.get_one(Agent, key)
        operations = list(
            session.scalars(select(Operation).where(Operation.agent_id == key).order_by(Operation.created_at))
        )
        latest = operations[-1].id if operations else None
        steps = select(OperationStep).where(OperationStep.operation_id == latest).order_by(OperationStep.position)
        ledger = select(Resource).where(Resource.agent_id == key).order_by(Resource.seen_at)
        trunk = session.get_one(Trunk, agent.trunk_id) if agent.trunk_id else None
        return AgentRows(agent, operations, list(session.scalars(steps)), list(session.scalars(ledger)), trunk)


def statuses(sessions: Sessions, operation_ids: Sequence[str]) -> dict[str, OperationStatus]:
    """Return operation id -> status, for many at once."""
    keys = [uuid.UUID(each) for each in operation_ids]
    with sessions.begin() as session:
        found = session.execute(select(Operation.id, Operation.status).where(Operation.id.in_(keys)))
        return {str(key): status for key, status in found}


def step_states(sessions: Sessions, operation_ids: Sequence[str]) -> dict[tuple[str, str], str]:
    """Return (operation id, step) -> state, for many at once."""
    keys = [uuid.UUID(each) for each in operation_ids]
    columns = (OperationStep.operation_id, OperationStep.name, OperationStep.state)
    with sessions.begin() as session:
        found = session.execute(select(*columns).where(OperationStep.operation_id.in_(keys)))
        return {(str(key), name): state.value for key, name, state in found}


def failed_and_waiting(sessions: Sessions, operation_ids: Sequence[str], step: str) -> set[str]:
    """Return the operations whose `step` has failed at least once and waits for its retry, without a lease."""
    keys = [uuid.UUID(each) for each in operation_ids]
    with sessions.begin() as session:
        found = session.scalars(
            select(OperationStep.operation_id).where(
                OperationStep.operation_id.in_(keys),
                OperationStep.name == step,
                OperationStep.lease_token.is_(None),
                OperationStep.error_code.is_not(None),
            )
        )
        return {str(key) for key in found}


def wait_until_finished(stack: Stack, operation_ids: Sequence[str], within_s: float = TIMEOUT_S) -> None:
    """Wait until all these operations have ended."""

    def all_final() -> bool:
        return all(status.is_final for status in statuses(stack.sessions, operation_ids).values())

    eventually(all_final, lambda: f"every operation ends; {statuses(stack.sessions, operation_ids)}", within_s)
