"""Queries of bulks and their items, one statement each."""

import uuid
from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import ARRAY, ColumnElement, Select, Uuid, any_, bindparam, case, exists, func, select, update
from sqlalchemy.orm import Session, aliased

from app.db.access import Activity
from app.db.engine import read_sql
from app.db.models import Agent, Bulk, BulkItem, Operation
from app.db.queries import Position, page_of
from app.db.visibility import home_workspace
from app.domain.errors import ErrorCode
from app.domain.events import Action
from app.domain.operations import (
    FINAL_STATUSES,
    OPEN_BULKS,
    BulkKind,
    BulkStatus,
    ItemKind,
    ItemStatus,
    OperationKind,
    OperationStatus,
    TrunkMode,
)

_INSERT_AGENTS = read_sql(__file__, "insert_agents.sql")
_INSERT_ITEMS = read_sql(__file__, "insert_items.sql")

NOT_CANCELLED = (OperationKind.DEPROVISION, OperationKind.MOVE)
"""Kinds of operations that nothing calls off, not even before they begin."""

_Earlier = aliased(BulkItem)


def lock_bulk(session: Session, bulk_id: uuid.UUID, *, skip_locked: bool = False) -> Bulk | None:
    """Lock the bulk's row; opening an operation of the bulk does not wait for this lock."""
    query = select(Bulk).where(Bulk.id == bulk_id).with_for_update(key_share=True, skip_locked=skip_locked)
    return session.scalar(query.execution_options(populate_existing=True))


def open_bulks(session: Session) -> Sequence[tuple[uuid.UUID, int]]:
    """Return (id, pending items) of every open bulk, the oldest first."""
    query = select(Bulk.id, Bulk.pending).where(Bulk.status.in_(OPEN_BULKS)).order_by(Bulk.created_at, Bulk.id)
    return [(bulk_id, pending) for bulk_id, pending in session.execute(query)]


def list_open_bulks(session: Session, limit: int) -> Sequence[Bulk]:
    """Return up to `limit` open bulks, the oldest first."""
    query = select(Bulk).where(Bulk.status.in_(OPEN_BULKS)).order_by(Bulk.created_at, Bulk.id)
    return session.scalars(query.limit(limit)).all()


def file_names(session: Session, bulk_ids: Collection[uuid.UUID]) -> Mapping[uuid.UUID, str]:
    """Return the names of the files that these bulks were uploaded in, from the trail, where it has one."""
    name = Activity.detail["name"].astext.label("name")
    query = select(Activity.subject_id, name).where(Activity.action == Action.BULK_CREATE, name.is_not(None))
    found = session.execute(query.where(Activity.subject_id.in_(bulk_ids)))
    return {row.subject_id: row.name for row in found}


def count_pending(session: Session, carrier_account_id: uuid.UUID) -> Mapping[TrunkMode, int]:
    """Count the pending items that put numbers on trunks of an account, by the kind of trunk that they need."""
    needed = case((Bulk.kind == BulkKind.REHOME, TrunkMode.SHARED.value), else_=Agent.trunk_mode).label("needed")
    query = (
        select(needed, func.count())
        .select_from(BulkItem)
        .join(Bulk, Bulk.id == BulkItem.bulk_id)
        .join(Agent, Agent.id == BulkItem.agent_id)
        .where(
            Agent.carrier_account_id == carrier_account_id,
            Bulk.status.in_(OPEN_BULKS),
            BulkItem.status == ItemStatus.PENDING,
            func.coalesce(BulkItem.kind, Bulk.kind).in_([ItemKind.PROVISION.value, ItemKind.REHOME.value]),
        )
    )
    return {TrunkMode(mode): count for mode, count in session.execute(query.group_by(needed))}


def workspaces_of(session: Session, agent_ids: Collection[uuid.UUID]) -> Collection[uuid.UUID]:
    """Return the workspaces that these agents are of."""
    wanted = bindparam("agent_ids", list(agent_ids), type_=ARRAY(Uuid))
    return session.scalars(select(Agent.workspace_id).where(Agent.id == any_(wanted)).distinct()).all()


def existing_agents(
    session: Session, agent_ids: Collection[uuid.UUID]
) -> Mapping[uuid.UUID, tuple[uuid.UUID, TrunkMode]]:
    """Return which of these agents exist, with their carrier account and trunk mode."""
    wanted = bindparam("agent_ids", list(agent_ids), type_=ARRAY(Uuid))
    query = select(Agent.id, Agent.carrier_account_id, Agent.trunk_mode).where(
        Agent.id == any_(wanted), Agent.deleted_at.is_(None)
    )
    return {agent_id: (account_id, mode) for agent_id, account_id, mode in session.execute(query)}


def external_ids(session: Session, wanted: Collection[str]) -> Mapping[str, uuid.UUID]:
    """Return which of these external ids agents of the present workspace have, and which agents."""
    if not wanted:
        return {}
    query = select(Agent.external_id, Agent.id).where(
        Agent.workspace_id == home_workspace(), Agent.external_id.in_(wanted), Agent.deleted_at.is_(None)
    )
    return {found: agent_id for found, agent_id in session.execute(query) if found is not None}


def count_items(session: Session, bulk_id: uuid.UUID) -> Mapping[ItemStatus, int]:
    """Count the items in each status."""
    query = (
        select(BulkItem.status, func.count().label("item_count"))
        .where(BulkItem.bulk_id == bulk_id)
        .group_by(BulkItem.status)
    )
    return {row.status: row.item_count for row in session.execute(query)}


def pending_items(session: Session, bulk_id: uuid.UUID, limit: int) -> Sequence[BulkItem]:
    """Return the next pending items, without those that wait for others."""
    query = select(BulkItem).where(BulkItem.bulk_id == bulk_id, BulkItem.status == ItemStatus.PENDING)
    query = query.where(~_waits_for(_Earlier.status != ItemStatus.SUCCEEDED))
    return session.scalars(query.order_by(BulkItem.position).limit(limit)).all()


def count_running(session: Session, bulk_id: uuid.UUID) -> int:
    """Count the open operations of the bulk, without those that need attention."""
    query = (
        select(func.count())
        .select_from(BulkItem)
        .join(Operation, Operation.id == BulkItem.operation_id)
        .where(BulkItem.bulk_id == bulk_id, BulkItem.status == ItemStatus.RUNNING)
        .where(Operation.status.not_in([*FINAL_STATUSES, OperationStatus.NEEDS_ATTENTION]))
    )
    return session.scalars(query).one()


def count_queued(session: Session, bulk_id: uuid.UUID) -> int:
    """Count the operations of the bulk that no worker has started."""
    return session.scalars(_queued(bulk_id).with_only_columns(func.count())).one()


def queued_operations(session: Session, bulk_id: uuid.UUID) -> Sequence[uuid.UUID]:
    """Return the operations of the bulk that no worker has started, in locking order."""
    return session.scalars(_queued(bulk_id).order_by(Operation.id)).all()


def _queued(bulk_id: uuid.UUID) -> Select[uuid.UUID]:
    query = select(Operation.id).join(BulkItem, BulkItem.operation_id == Operation.id)
    return query.where(
        BulkItem.bulk_id == bulk_id,
        BulkItem.status == ItemStatus.RUNNING,
        Operation.status == OperationStatus.QUEUED,
        Operation.kind.not_in(NOT_CANCELLED),
    )


def _waits_for(is_so: ColumnElement[bool]) -> ColumnElement[bool]:
    """Match items that wait for one of which this is so."""
    is_earlier = (_Earlier.bulk_id == BulkItem.bulk_id, _Earlier.position == any_(BulkItem.waits_for))
    return exists().where(BulkItem.waits_for.is_not(None), *is_earlier, is_so)


def cancel_blocked(session: Session, bulk_id: uuid.UUID) -> None:
    """Cancel the pending items that wait for one which did not succeed, and those that wait for these."""
    did_not = _Earlier.status.in_([ItemStatus.FAILED, ItemStatus.CANCELLED])
    blocked = update(BulkItem).where(
        BulkItem.bulk_id == bulk_id, BulkItem.status == ItemStatus.PENDING, _waits_for(did_not)
    )
    values = {
        "status": ItemStatus.CANCELLED,
        "error_code": ErrorCode.CANCELLED,
        "error_detail": "An item that had to come first did not succeed.",
    }
    blocked = blocked.values(values).returning(BulkItem.position).execution_options(synchronize_session=False)
    while session.scalars(blocked).all():
        pass


def lock_queued(session: Session, operation_ids: Collection[uuid.UUID]) -> Sequence[uuid.UUID]:
    """Lock those of the operations that are still queued, and return their ids.

    Waits for a worker that is claiming one of them, and leaves its operation out; later workers wait for this lock.
    """
    wanted = bindparam("operation_ids", list(operation_ids), type_=ARRAY(Uuid))
    query = (
        select(Operation.id)
        .where(Operation.id == any_(wanted), Operation.status == OperationStatus.QUEUED)
        .order_by(Operation.id)
        .with_for_update()
    )
    return session.scalars(query).all()


def copy_ended_operations(session: Session, bulk_id: uuid.UUID) -> None:
    """Copy status and error of ended operations to their items; final statuses of both have the same names."""
    session.execute(
        update(BulkItem)
        .where(BulkItem.bulk_id == bulk_id, BulkItem.status == ItemStatus.RUNNING)
        .where(Operation.id == BulkItem.operation_id, Operation.status.in_(FINAL_STATUSES))
        .values(status=Operation.status, error_code=Operation.error_code, error_detail=Operation.error_detail)
        .execution_options(synchronize_session=False)
    )


def list_items(
    session: Session, bulk_id: uuid.UUID, *, status: ItemStatus | None = None, after: int = 0, limit: int | None = None
) -> Sequence[BulkItem]:
    """Return the items after position `after`, in order."""
    query = select(BulkItem).where(BulkItem.bulk_id == bulk_id, BulkItem.position > after)
    if status is not None:
        query = query.where(BulkItem.status == status)
    return session.scalars(query.order_by(BulkItem.position).limit(limit)).all()


def list_bulks(session: Session, *, status: BulkStatus | None, after: Position | None, limit: int) -> Sequence[Bulk]:
    """Return up to `limit` bulks, the newest first."""
    query = select(Bulk)
    if status is not None:
        query = query.where(Bulk.status == status)
    return session.scalars(page_of(query, Bulk, after, limit)).all()


def insert_agents(session: Session, rows: Sequence[Mapping[str, object]]) -> None:
    """Insert many agents of the present workspace that have no number; `metadata` and `options` are JSON text."""
    if rows:
        session.connection().exec_driver_sql(_INSERT_AGENTS, {"workspace": home_workspace(), **_columns(rows)})


def insert_items(session: Session, bulk_id: uuid.UUID, rows: Sequence[Mapping[str, object]]) -> None:
    """Insert the items of a bulk."""
    session.connection().exec_driver_sql(_INSERT_ITEMS, {"bulk_id": bulk_id, **_columns(rows)})


def _columns(rows: Sequence[Mapping[str, object]]) -> dict[str, list[object]]:
    return {name: [row[name] for row in rows] for name in rows[0]}
