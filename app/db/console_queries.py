"""The reads behind the console: pages that stay quick with a million agents, each read through an index."""

import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, func, literal, select, text, tuple_, union_all
from sqlalchemy.orm import Session, selectinload

from app.db.agent_lists import CALLS_THAT_FAIL, merged
from app.db.models import Agent, Operation
from app.db.queries import Position
from app.db.visibility import seen_workspace
from app.domain.errors import ErrorCode
from app.domain.findings import Health
from app.domain.operations import OPEN_STATUSES, OperationStatus, PhoneStatus

COUNTED_TO = 1000
"""Rows up to which a figure is exact: beyond it "1000+" is enough, and counting a million takes long."""

CALLS_FAIL = "calls_fail"
"""The name of their count."""

_NEWEST_OPERATION = (Operation.created_at.desc(), Operation.id.desc())

_LAST_OPERATIONS = text("""
    SELECT asked.id, newest.id
      FROM unnest(cast(:agent_ids AS uuid[])) asked (id)
     CROSS JOIN LATERAL (
            SELECT id FROM (
                (SELECT id, created_at FROM operations
                  WHERE agent_id = asked.id AND (cast(:workspace AS uuid) IS NULL OR workspace_id = :workspace)
                  ORDER BY created_at DESC, id DESC LIMIT 1)
                UNION ALL
                (SELECT id, created_at FROM operations
                  WHERE target_agent_id = asked.id AND (cast(:workspace AS uuid) IS NULL OR workspace_id = :workspace)
                  ORDER BY created_at DESC, id DESC LIMIT 1)) own_and_incoming
             ORDER BY created_at DESC, id DESC LIMIT 1) newest
""")


def last_operations(session: Session, agent_ids: Sequence[uuid.UUID]) -> Mapping[uuid.UUID, Operation]:
    """Return each agent's newest operation, its own or the move that hands it a number, without steps."""
    found = session.execute(_LAST_OPERATIONS, {"agent_ids": list(agent_ids), "workspace": seen_workspace()})
    newest: dict[uuid.UUID, uuid.UUID] = {row[0]: row[1] for row in found}
    rows = {row.id: row for row in session.scalars(select(Operation).where(Operation.id.in_(newest.values())))}
    return {agent_id: rows[operation_id] for agent_id, operation_id in newest.items()}


def list_operations(
    session: Session,
    statuses: Collection[OperationStatus],
    *,
    after: Position | None,
    limit: int,
    code: ErrorCode | None = None,
) -> Sequence[Operation]:
    """Return up to `limit` operations in any of these statuses with agent and steps, the newest first.

    With a code only those that ended with this error: the newest of each status are read one by one until it is found.
    """
    living = select(Agent.id).where(Agent.id == Operation.agent_id, Agent.deleted_at.is_(None)).exists()
    conditions: list[ColumnElement[bool]] = [living]
    if code is not None:
        conditions.append(Operation.error_code == code)
    if after is not None:
        conditions.append(tuple_(Operation.created_at, Operation.id) < (after.created_at, after.id))
    pages = [
        select(Operation.id).where(*conditions, Operation.status == status).order_by(*_NEWEST_OPERATION).limit(limit)
        for status in statuses
    ]
    query = select(Operation).options(selectinload(Operation.steps), selectinload(Operation.agent))
    return session.scalars(
        query.where(Operation.id.in_(merged(pages))).order_by(*_NEWEST_OPERATION).limit(limit),
    ).all()


def history_of(session: Session, agent_id: uuid.UUID, *, limit: int) -> Sequence[Operation]:
    """Return the agent's newest operations, those included that moved a number to it."""
    pages = [
        select(Operation.id).where(whose == agent_id).order_by(*_NEWEST_OPERATION).limit(limit)
        for whose in (Operation.agent_id, Operation.target_agent_id)
    ]
    query = select(Operation).options(selectinload(Operation.steps))
    return session.scalars(query.where(Operation.id.in_(merged(pages))).order_by(*_NEWEST_OPERATION).limit(limit)).all()


def count_up_to(session: Session) -> Mapping[str, int]:
    """Return how many agents are in each phone status, how many drifted or miss calls, and the operations by status.

    No figure exceeds `COUNTED_TO` + 1.
    """
    living = (Agent.deleted_at.is_(None),)
    wanted: dict[str, Select[Any]] = {
        status.value: select(literal(1)).select_from(Agent).where(*living, Agent.phone_provisioning_status == status)
        for status in PhoneStatus
    }
    wanted[Health.DRIFTED] = select(literal(1)).select_from(Agent).where(*living, Agent.health_state == Health.DRIFTED)
    wanted[CALLS_FAIL] = select(literal(1)).select_from(Agent).where(*living, *CALLS_THAT_FAIL)
    for status in (*OPEN_STATUSES, OperationStatus.FAILED):
        wanted[status.value] = select(literal(1)).select_from(Operation).where(Operation.status == status)
    counts = [
        select(literal(name), func.count()).select_from(query.limit(COUNTED_TO + 1).subquery())
        for name, query in wanted.items()
    ]
    return {name: count for name, count in session.execute(union_all(*counts))}  # noqa: C416 - a Row is no pair


def names_of(session: Session, agent_ids: Collection[uuid.UUID]) -> Mapping[uuid.UUID, str]:
    """Return the names of these agents, deleted ones too."""
    rows = session.execute(select(Agent.id, Agent.name).where(Agent.id.in_(agent_ids)))
    return {agent_id: name for agent_id, name in rows}  # noqa: C416 - a Row is no pair
