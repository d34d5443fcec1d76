"""Reads what a declaration is compared with: agents as they will be once all that is under way has succeeded."""

import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from app.db.models import IS_OPEN, Agent, Bulk, BulkItem, Operation
from app.db.visibility import seeing
from app.declared.planner import FIELDS, Standing
from app.domain.operations import (
    COLUMNS,
    OPEN_BULKS,
    ItemKind,
    ItemStatus,
    OperationKind,
    OperationStatus,
)
from app.domain.workspaces import AccountIds
from app.saga.context import adopted_now

GOING_BACK = (OperationStatus.ROLLING_BACK, OperationStatus.NEEDS_ATTENTION)
"""An operation that takes back what it did, unless it takes down anyway."""


@dataclass(slots=True)
class _Coming:
    """An agent, and what is under way for it put over it."""

    row: Any
    values: dict[str, Any]
    number: str | None
    is_busy: bool = False
    is_leaving: bool = False


def read_standing(session: Session, workspace_id: uuid.UUID) -> list[Standing]:
    """Return the agents of a workspace that have an external id, by that."""
    # In this order, so that what ends meanwhile is seen twice, never missed: the rows then say what was put over them.
    items, operations = _waiting_items(session, workspace_id), _open_operations(session, workspace_id)
    ids = [getattr(Agent, column) for column in COLUMNS.values()]
    wanted = (
        select(
            Agent.id,
            Agent.external_id,
            Agent.name,
            Agent.livekit_agent_name,
            Agent.agent_metadata.label("agent_metadata"),
            Agent.options,
            Agent.trunk_mode,
            Agent.carrier_account_id,
            Agent.voice_project_id,
            Agent.twilio_phone_number,
            Agent.adopted,
            *ids,
        )
        .where(Agent.workspace_id == workspace_id, Agent.external_id.is_not(None), Agent.deleted_at.is_(None))
        .order_by(Agent.external_id)
    )
    coming = {row.id: _Coming(row, _values(row), row.twilio_phone_number) for row in session.execute(wanted)}
    for operation in operations:
        _put_operation(operation, coming)
    for item, of in items:
        _put_item(item, item.kind_in(of), coming)
    return [_standing(one) for one in coming.values()]


def holders_of(
    session: Session, numbers: Collection[str], workspace_id: uuid.UUID, known: Iterable[uuid.UUID]
) -> dict[str, uuid.UUID | None]:
    """Return which of these numbers agents beside the known ones have: an agent's id, None in another workspace."""
    if not numbers:
        return {}
    wanted = select(Agent.twilio_phone_number, Agent.id, Agent.workspace_id)
    wanted = wanted.where(Agent.twilio_phone_number.in_(numbers))
    # A number has one agent in the whole installation.
    with seeing(None):
        found = session.execute(wanted).all()
    others = set(known)
    return {
        number: agent_id if whose == workspace_id else None
        for number, agent_id, whose in found
        if number and agent_id not in others
    }


def _values(row: Any) -> dict[str, Any]:
    found = {name: getattr(row, name) for name in FIELDS if name != "metadata"}
    return {**found, "metadata": row.agent_metadata, "trunk_mode": row.trunk_mode.value}


def _standing(one: _Coming) -> Standing:
    row = one.row
    return Standing(
        row.id,
        row.external_id,
        {name: one.values[name] for name in FIELDS},
        AccountIds(row.carrier_account_id, row.voice_project_id),
        number=one.number,
        claims=row.twilio_phone_number,
        is_busy=one.is_busy,
        is_adopted=bool(adopted_now(row.adopted, {step: getattr(row, column) for step, column in COLUMNS.items()})),
        is_leaving=one.is_leaving,
    )


def _open_operations(session: Session, workspace_id: uuid.UUID) -> Sequence[Any]:
    wanted = select(
        Operation.agent_id,
        Operation.target_agent_id,
        Operation.kind,
        Operation.status,
        Operation.phone_number,
        Operation.wanted,
    )
    # The list of statuses as the partial indexes have it, which only a constant uses.
    wanted = wanted.where(Operation.workspace_id == workspace_id, text(IS_OPEN))
    return session.execute(wanted).all()


def _put_operation(row: Any, coming: Mapping[uuid.UUID, _Coming]) -> None:
    """Put over the agents what an open operation leads to."""
    is_going_back = row.status in GOING_BACK and row.kind is not OperationKind.DEPROVISION
    one, target = _busy(row, coming)
    match row.kind:
        case OperationKind.PROVISION | OperationKind.ADOPT:
            _put_number(one, None if is_going_back else row.phone_number)
        case OperationKind.DEPROVISION:
            _put_number(one, None)
        case OperationKind.MOVE:
            _put_number(one, row.phone_number if is_going_back else None)
            _put_number(target, None if is_going_back else row.phone_number)
        case OperationKind.UPDATE if one is not None and not is_going_back:
            one.values |= row.wanted or {}


def _waiting_items(session: Session, workspace_id: uuid.UUID) -> Sequence[Any]:
    """Return the items of bulks that wait, each with its bulk's kind: those that have begun have operations."""
    wanted = (
        select(BulkItem, Bulk.kind)
        .join(Bulk, Bulk.id == BulkItem.bulk_id)
        .join(Agent, Agent.id == BulkItem.agent_id)
        .where(Bulk.status.in_(OPEN_BULKS), BulkItem.status == ItemStatus.PENDING, Agent.workspace_id == workspace_id)
        .order_by(Bulk.created_at, Bulk.id, BulkItem.position)
    )
    # An operator's bulk may have items of several workspaces.
    with seeing(None):
        return session.execute(wanted).all()


def _put_item(item: BulkItem, kind: ItemKind, coming: Mapping[uuid.UUID, _Coming]) -> None:
    """Put over the agents what an item that waits leads to."""
    one, target = _busy(item, coming)
    match kind:
        case ItemKind.PROVISION | ItemKind.ADOPT:
            _put_number(one, item.phone_number)
        case ItemKind.DEPROVISION:
            _put_number(one, None)
        case ItemKind.MOVE:
            _put_number(one, None)
            _put_number(target, item.phone_number)
        case ItemKind.UPDATE if one is not None:
            one.values |= item.wanted or {}
        case ItemKind.DELETE if one is not None:
            one.is_leaving = True


def _busy(row: Any, coming: Mapping[uuid.UUID, _Coming]) -> tuple[_Coming | None, _Coming | None]:
    """Note that the agents of an operation or item are busy; return them."""
    found = coming.get(row.agent_id), coming.get(row.target_agent_id)
    for one in found:
        if one is not None:
            one.is_busy = True
    return found


def _put_number(one: _Coming | None, number: str | None) -> None:
    if one is not None:
        one.number = number
