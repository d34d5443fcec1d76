"""The reads behind the API: pages, one operation with its trail, the version for polls; and the purge of old rows."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Engine, Float, Select, and_, delete, func, or_, select, text, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased, selectinload

from app.db.agent_search import NEWEST, find_agents
from app.db.engine import Sessions
from app.db.models import Agent, Audit, Bulk, Event, Operation, Resource, Workspace
from app.db.visibility import seen_workspace
from app.db.webhooks import WebhookDelivery
from app.domain.errors import UNTIMED_CODES
from app.domain.events import DeliveryStatus, EventName
from app.domain.operations import OperationStatus, PhoneStatus

if TYPE_CHECKING:
    from app.db.access import ApiKey

MAX_TIMELINE = 200
"""Events shown of one operation, the latest: one that waits for a person for days writes more."""

PURGE_BATCH = 5_000
"""Rows deleted by one statement: a tenth of a second, so that no backlog meets the statement timeout."""


def autocommitting(sessions: Sessions) -> Engine:
    """Return the sessions' engine for single reads: no BEGIN and ROLLBACK around them, two round trips less."""
    engine = sessions().get_bind()
    if not isinstance(engine, Engine):
        raise TypeError("the sessions are bound to a connection")
    return engine.execution_options(isolation_level="AUTOCOMMIT")


def purge_rows(sessions: Sessions, are_expired: ColumnElement[bool], *key: InstrumentedAttribute[Any]) -> int:
    """Delete the rows that match, a batch at a time; return how many. `key` is the table's primary key.

    Any number of processes may do it at the same time.
    """
    count = 0
    while True:
        old = select(*key).where(are_expired).limit(PURGE_BATCH).with_for_update(skip_locked=True).cte("old")
        statement = delete(key[0].class_).where(tuple_(*key).in_(select(old)))
        with sessions.begin() as session:
            result = session.execute(statement.execution_options(synchronize_session=False))
            deleted = int(result.rowcount)  # type: ignore[attr-defined]  # of every DELETE
        count += deleted
        if deleted < PURGE_BATCH:
            return count


Row = TypeVar("Row", bound="Agent | Operation | Bulk | WebhookDelivery | Workspace | ApiKey")

_STATUS_VERSION = text("""
    SELECT agents.xmin::text, latest.id::text, latest.xmin::text,
           (SELECT string_agg(xmin::text, ',' ORDER BY position) FROM operation_steps WHERE operation_id = latest.id),
           (SELECT max(id) FROM events WHERE operation_id = latest.id),
           (SELECT string_agg(external_id, ',' ORDER BY external_id) FROM resources
             WHERE resources.agent_id = agents.id AND deleted_at IS NULL),
           (SELECT count(*) FROM agents AS members
             WHERE members.trunk_id = agents.trunk_id
               AND (cast(:workspace AS uuid) IS NULL OR members.workspace_id = :workspace))
      FROM agents
      LEFT JOIN LATERAL (
            SELECT id, xmin FROM (
                (SELECT id, xmin, created_at FROM operations WHERE agent_id = agents.id
                  ORDER BY created_at DESC, id DESC LIMIT 1)
                UNION ALL
                (SELECT id, xmin, created_at FROM operations WHERE target_agent_id = agents.id
                  ORDER BY created_at DESC, id DESC LIMIT 1)) newest
             ORDER BY created_at DESC, id DESC LIMIT 1) latest ON true
     WHERE agents.id = :agent_id AND agents.deleted_at IS NULL
       AND (cast(:workspace AS uuid) IS NULL OR agents.workspace_id = :workspace)
""")
"""`xmin` is the transaction that wrote a row's present version: it changes with every update, and with nothing else.

The number of those who share the trunk is in it, since they come and go without a change of this agent.
"""


@dataclass(frozen=True, slots=True)
class Position:
    """The last row of a page, from which the next one goes on."""

    created_at: datetime
    id: uuid.UUID


IdRange = tuple[uuid.UUID, uuid.UUID]
"""The lowest and the highest id that begin with the same digits."""


def list_agents(
    session: Session,
    *,
    status: PhoneStatus | None,
    after: Position | None,
    limit: int,
    external_id: str | None = None,
    name: str | None = None,
    number: str | None = None,
    ids: IdRange | None = None,
    search: str | None = None,
) -> Sequence[Agent]:
    """Return up to `limit` agents that are not deleted, the newest first; `search` as in `app.db.agent_search`."""
    conditions: list[ColumnElement[bool]] = [Agent.deleted_at.is_(None)]
    if status is not None:
        conditions.append(Agent.phone_provisioning_status == status)
    if external_id is not None:
        conditions.append(Agent.external_id == external_id)
    if name is not None:
        conditions.append(Agent.name == name)
    if number is not None:
        conditions.append(Agent.twilio_phone_number == number)
    if ids is not None:
        conditions.append(Agent.id.between(*ids))
    if not search:
        return session.scalars(page_of(select(Agent).where(*conditions), Agent, after, limit)).all()
    if after is not None:
        conditions.append(tuple_(Agent.created_at, Agent.id) < (after.created_at, after.id))
    return find_agents(session, search, conditions, NEWEST, limit)


def list_operations(
    session: Session,
    *,
    status: OperationStatus | None,
    agent_id: uuid.UUID | None,
    after: Position | None,
    limit: int,
    ids: IdRange | None = None,
) -> Sequence[Operation]:
    """Return up to `limit` operations with their steps, of agents that are not deleted, the newest first."""
    query = select(Operation).options(selectinload(Operation.steps)).where(_agent_exists())
    if status is not None:
        query = query.where(Operation.status == status)
    if agent_id is not None:
        query = query.where(or_(Operation.agent_id == agent_id, Operation.target_agent_id == agent_id))
    if ids is not None:
        query = query.where(Operation.id.between(*ids))
    return session.scalars(page_of(query, Operation, after, limit)).all()


def list_deliveries(
    session: Session, endpoint_id: uuid.UUID, *, status: DeliveryStatus | None, after: Position | None, limit: int
) -> Sequence[WebhookDelivery]:
    """Return up to `limit` deliveries of one webhook, the newest first."""
    query = select(WebhookDelivery).where(WebhookDelivery.endpoint_id == endpoint_id)
    if status is not None:
        query = query.where(WebhookDelivery.status == status)
    return session.scalars(page_of(query, WebhookDelivery, after, limit)).all()


def get_agent(session: Session, agent_id: uuid.UUID) -> Agent | None:
    """Return the agent unless it is deleted."""
    return session.scalar(select(Agent).where(Agent.id == agent_id, Agent.deleted_at.is_(None)))


def get_agent_and_members(session: Session, agent_id: uuid.UUID) -> tuple[Agent, int] | None:
    """Return the agent unless it is deleted, and how many agents have a place on its shared trunk, itself included."""
    member = aliased(Agent)
    members = select(func.count()).where(member.trunk_id == Agent.trunk_id).scalar_subquery()
    query = select(Agent, members).where(Agent.id == agent_id, Agent.deleted_at.is_(None))
    row = session.execute(query).one_or_none()
    return None if row is None else (row[0], row[1])


def count_members(session: Session, trunk_id: uuid.UUID) -> int:
    """Return how many agents have a place on this shared trunk."""
    return session.scalars(select(func.count()).where(Agent.trunk_id == trunk_id)).one()


def get_operation(session: Session, operation_id: uuid.UUID) -> Operation | None:
    """Return the operation with its steps, unless its agent is deleted."""
    query = select(Operation).options(selectinload(Operation.steps))
    return session.scalar(query.where(Operation.id == operation_id, _agent_exists()))


def latest_operation(session: Session, agent_id: uuid.UUID) -> Operation | None:
    """Return the agent's newest operation with its steps: its own, or the move that hands it a number."""
    newest_first = (Operation.created_at.desc(), Operation.id.desc())
    newest = [
        select(Operation.id).where(whose == agent_id).order_by(*newest_first).limit(1).scalar_subquery()
        for whose in (Operation.agent_id, Operation.target_agent_id)
    ]
    query = select(Operation).options(selectinload(Operation.steps)).where(Operation.id.in_(newest))
    return session.scalar(query.order_by(*newest_first).limit(1))


def get_audit(session: Session, audit_id: uuid.UUID) -> Audit | None:
    """Return the audit, whatever its status."""
    return session.get(Audit, audit_id)


def latest_report(session: Session) -> Audit | None:
    """Return the newest audit that is over, of the workspace that is seen; of everybody where all are."""
    query = select(Audit).where(Audit.finished_at.is_not(None), _is_of_seen_workspace())
    return session.scalar(query.order_by(Audit.created_at.desc(), Audit.id.desc()).limit(1))


def events_of(session: Session, operation_id: uuid.UUID) -> Sequence[Event]:
    """Return the operation's latest `MAX_TIMELINE` events, oldest first."""
    query = select(Event).where(Event.operation_id == operation_id).order_by(Event.id.desc()).limit(MAX_TIMELINE)
    return session.scalars(query).all()[::-1]


def waited_for_turn(session: Session, operation_id: uuid.UUID) -> timedelta:
    """Return how long the operation's steps have waited for a provider that took no more requests, or none."""
    rests = and_(Event.event == EventName.STEP_RESTS, Event.detail["code"].astext.in_(UNTIMED_CODES))
    came_late = and_(
        Event.event.in_((EventName.STEP_STARTED, EventName.STEP_UNDOING)), Event.detail["waited_s"].astext.is_not(None)
    )
    rest_s = func.coalesce(Event.detail["rest_s"].astext.cast(Float), 0)
    seconds = func.sum(rest_s + Event.detail["waited_s"].astext.cast(Float))
    waited_s = session.scalar(select(seconds).where(Event.operation_id == operation_id, or_(rests, came_late)))
    return timedelta(seconds=waited_s or 0)


def live_resources(session: Session, agent_id: uuid.UUID) -> Sequence[Resource]:
    """Return what the ledger still knows at the providers for this agent, oldest first."""
    query = select(Resource).where(Resource.agent_id == agent_id, Resource.deleted_at.is_(None))
    return session.scalars(query.order_by(Resource.seen_at, Resource.external_id)).all()


def status_version(connection: Connection, agent_id: uuid.UUID) -> str | None:
    """Return a text that changes whenever anything changes that phone-status shows; None for no such agent."""
    row = connection.execute(_STATUS_VERSION, {"agent_id": agent_id, "workspace": seen_workspace()}).one_or_none()
    return None if row is None else "|".join("" if part is None else str(part) for part in row)


def _agent_exists() -> ColumnElement[bool]:
    return select(Agent.id).where(Agent.id == Operation.agent_id, Agent.deleted_at.is_(None)).exists()


def page_of(query: Select[Row], row: type[Row], after: Position | None, limit: int) -> Select[Row]:
    """Limit a query to the rows after `after`, the newest first."""
    if after is not None:
        query = query.where(tuple_(row.created_at, row.id) < (after.created_at, after.id))
    return query.order_by(row.created_at.desc(), row.id.desc()).limit(limit)


def latest_audit(session: Session) -> Audit | None:
    """Return the newest audit, over or not, of whom `latest_report` is."""
    query = select(Audit).where(_is_of_seen_workspace())
    return session.scalar(query.order_by(Audit.created_at.desc(), Audit.id.desc()).limit(1))


def _is_of_seen_workspace() -> ColumnElement[bool]:
    # Where all workspaces are seen, an audit of one of them is not the audit of all.
    return Audit.workspace_id.is_not_distinct_from(seen_workspace())


def count_ignored(session: Session, kicks: int) -> int:
    """Return how many operations were published `kicks` times or more and never began."""
    waiting = (Operation.status == OperationStatus.QUEUED, Operation.idle_kicks >= kicks)
    return session.scalar(select(func.count()).select_from(Operation).where(*waiting)) or 0
