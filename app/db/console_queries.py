"""The reads behind the console: pages that stay quick with a million agents, each read through an index."""

import re
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, func, literal, or_, select, text, tuple_, union_all
from sqlalchemy.orm import Session, selectinload

from app.db.models import Agent, Operation
from app.db.queries import Position
from app.db.visibility import seen_workspace
from app.domain.calls import Reachability
from app.domain.errors import ErrorCode
from app.domain.findings import Health, Severity
from app.domain.operations import OPEN_STATUSES, OperationStatus, PhoneStatus

COUNTED_TO = 1000
"""Rows up to which a figure is exact: beyond it "1000+" is enough, and counting a million takes long."""

SEARCHED_ROWS = 2000
"""Agents that a search reads one by one, the newest: some 30 ms; a word in every fortieth name fills a page."""

_CALLS_FAIL = (
    Agent.health_state == Health.DRIFTED,  # its index has the few that are left to look at
    Agent.health_findings.contains([{"severity": Severity.CRITICAL}]),
)

CALLS_FAIL = "calls_fail"
"""The name of their count."""

_NEWEST_AGENT = (Agent.created_at.desc(), Agent.id.desc())
_NEWEST_OPERATION = (Operation.created_at.desc(), Operation.id.desc())

MOVING_STATUSES = (PhoneStatus.PENDING, PhoneStatus.PROVISIONING, PhoneStatus.ROLLING_BACK, PhoneStatus.DEPROVISIONING)
"""Statuses of agents whose number is being changed."""

_PHONE = re.compile(r"\+?[0-9]{3,15}", re.ASCII)
_PUNCTUATION = str.maketrans("", "", " ().-/")

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


@dataclass(frozen=True, slots=True)
class AgentFilter:
    """Which agents to show; `search` is words of a name, the beginning or end of a number, or an agent's id."""

    statuses: Collection[PhoneStatus] = ()
    health: Health | None = None
    search: str = ""
    calls_fail: bool = False
    """Only those of whose calls some or all fail, by the last check."""
    is_unreachable: bool = False
    """Only those whose last test calls came to nothing."""
    trunk_id: uuid.UUID | None = None
    """Only those that have a place on this shared trunk."""


def list_agents(session: Session, wanted: AgentFilter, *, after: Position | None, limit: int) -> Sequence[Agent]:
    """Return up to `limit` agents, the newest first."""
    conditions: list[ColumnElement[bool]] = [Agent.deleted_at.is_(None)]
    if wanted.health is not None:
        conditions.append(Agent.health_state == wanted.health)
    if wanted.calls_fail:
        conditions += _CALLS_FAIL
    if wanted.is_unreachable:
        conditions.append(Agent.reachability == Reachability.UNREACHABLE)
    if wanted.trunk_id is not None:
        conditions.append(Agent.trunk_id == wanted.trunk_id)
    if after is not None:
        conditions.append(tuple_(Agent.created_at, Agent.id) < (after.created_at, after.id))
    if wanted.search:
        return _search(session, wanted, conditions, limit)
    if not wanted.statuses:
        return session.scalars(select(Agent).where(*conditions).order_by(*_NEWEST_AGENT).limit(limit)).all()
    # One index scan for each status, merged: with IN the planner may walk every agent instead.
    pages = [
        select(Agent.id)
        .where(*conditions, Agent.phone_provisioning_status == status)
        .order_by(*_NEWEST_AGENT)
        .limit(limit)
        for status in wanted.statuses
    ]
    return session.scalars(
        select(Agent).where(Agent.id.in_(_merged(pages))).order_by(*_NEWEST_AGENT).limit(limit)
    ).all()


def _search(
    session: Session, wanted: AgentFilter, conditions: Sequence[ColumnElement[bool]], limit: int
) -> Sequence[Agent]:
    """Search the newest first, which is enough for a common word; then search through the index of words.

    With one query for both the planner takes an unknown word for a common one and reads every agent: 12 s with a
    million.
    """
    matches = [_found_by(wanted.search)]
    if wanted.statuses:
        matches.append(Agent.phone_provisioning_status.in_(wanted.statuses))
    newest = select(Agent.id).where(*conditions).order_by(*_NEWEST_AGENT).limit(SEARCHED_ROWS).subquery()
    page = select(Agent).order_by(*_NEWEST_AGENT).limit(limit)
    found = session.scalars(page.join(newest, newest.c.id == Agent.id).where(*matches)).all()
    if len(found) == limit:
        return found
    matching = select(Agent.id, Agent.created_at).where(*conditions, *matches)
    led = matching.cte().prefix_with("MATERIALIZED", dialect="postgresql")
    first = select(led.c.id).order_by(led.c.created_at.desc(), led.c.id.desc()).limit(limit)
    return session.scalars(page.where(Agent.id.in_(first))).all()


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
        query.where(Operation.id.in_(_merged(pages))).order_by(*_NEWEST_OPERATION).limit(limit),
    ).all()


def history_of(session: Session, agent_id: uuid.UUID, *, limit: int) -> Sequence[Operation]:
    """Return the agent's newest operations, those included that moved a number to it."""
    pages = [
        select(Operation.id).where(whose == agent_id).order_by(*_NEWEST_OPERATION).limit(limit)
        for whose in (Operation.agent_id, Operation.target_agent_id)
    ]
    query = select(Operation).options(selectinload(Operation.steps))
    return session.scalars(
        query.where(Operation.id.in_(_merged(pages))).order_by(*_NEWEST_OPERATION).limit(limit)
    ).all()


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
    wanted[CALLS_FAIL] = select(literal(1)).select_from(Agent).where(*living, *_CALLS_FAIL)
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


def _merged(pages: Sequence[Select[Any]]) -> Select[Any]:
    found = union_all(*(_whole(page) for page in pages)).subquery()
    return select(found.c.id)


def _whole(page: Select[Any]) -> Select[Any]:
    """Wrap a limited query, so that UNION ALL does not take its LIMIT for the union's own."""
    inner = page.subquery()
    return select(inner.c.id)


def _found_by(search: str) -> ColumnElement[bool]:
    """Match by the shape of what was typed: an id, a number, else words of the name, each by its beginning."""
    try:
        return Agent.id == uuid.UUID(search)
    except ValueError:
        pass
    digits = search.translate(_PUNCTUATION)
    if _PHONE.fullmatch(digits):
        number = Agent.twilio_phone_number
        if digits.startswith("+"):
            return number.like(f"{digits}%")
        return or_(func.reverse(number).like(f"{digits[::-1]}%"), _has_words(search))
    return _has_words(search)


def _has_words(search: str) -> ColumnElement[bool]:
    words = " & ".join(f"{word}:*" for word in re.findall(r"\w+", search))
    return func.to_tsvector(text("'simple'"), Agent.name).bool_op("@@")(func.to_tsquery(text("'simple'"), words))
