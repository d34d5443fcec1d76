"""Pages of agents: by what filters, and in which orders; each is read through an index."""

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    SQLColumnExpression,
    and_,
    case,
    func,
    literal,
    literal_column,
    or_,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.orm import Session

from app.db.agent_search import NEWEST, Key, find_agents
from app.db.models import Agent
from app.db.queries import Position
from app.domain.calls import Reachability
from app.domain.findings import Health, Severity
from app.domain.operations import PhoneStatus

CALLS_THAT_FAIL = (
    Agent.health_state == Health.DRIFTED,  # its index has the few that are left to look at
    Agent.health_findings.contains([{"severity": Severity.CRITICAL}]),
)

MOVING_STATUSES = (PhoneStatus.PENDING, PhoneStatus.PROVISIONING, PhoneStatus.ROLLING_BACK, PhoneStatus.DEPROVISIONING)
"""Statuses of agents whose number is being changed."""

_STATES = (
    PhoneStatus.FAILED,
    PhoneStatus.ROLLING_BACK,
    PhoneStatus.DEPROVISIONING,
    PhoneStatus.PROVISIONING,
    PhoneStatus.PENDING,
    PhoneStatus.PROVISIONED,
    PhoneStatus.NOT_PROVISIONED,
)
"""Statuses in the order of a list: what failed, what is in progress, what rings, what is empty."""


@dataclass(frozen=True, slots=True)
class AgentFilter:
    """Which agents to show; `search` is what somebody typed."""

    statuses: Collection[PhoneStatus] = ()
    health: Health | None = None
    search: str = ""
    calls_fail: bool = False
    """Only those of whose calls some or all fail, by the last check."""
    is_unreachable: bool = False
    """Only those whose last test calls came to nothing."""
    trunk_id: uuid.UUID | None = None
    """Only those that have a place on this shared trunk."""


class AgentOrder(StrEnum):
    """The orders of the list; `-` turns one round."""

    NEWEST = "newest"
    NAME = "name"
    NAME_BACK = "-name"
    NUMBER = "number"
    NUMBER_BACK = "-number"
    STATE = "state"
    STATE_BACK = "-state"
    CHANGED = "changed"
    CHANGED_BACK = "-changed"
    """What was changed last comes first."""

    @property
    def by(self) -> str:
        """What it orders by."""
        return self.value.removeprefix("-")

    @property
    def is_back(self) -> bool:
        """Whether it begins at the end."""
        return self.value.startswith("-")


_PLACES = {status: place for place, status in enumerate(_STATES)}

_ORDERED_BY: Mapping[str, SQLColumnExpression[Any]] = {
    AgentOrder.NAME: func.search_fold(Agent.name),
    AgentOrder.NUMBER: func.coalesce(Agent.twilio_phone_number, literal_column("'none'")),
    AgentOrder.STATE: case(
        {status.value: place for status, place in _PLACES.items()}, value=Agent.phone_provisioning_status
    ),
    AgentOrder.CHANGED: Agent.updated_at,
}
"""What a list is ordered by -> the expression, which is its index's; agents without a number come after the others."""


def list_agents(
    session: Session,
    wanted: AgentFilter,
    *,
    after: Position | None,
    limit: int,
    order: AgentOrder = AgentOrder.NEWEST,
) -> Sequence[Agent]:
    """Return up to `limit` agents in an order, those after the row of a position."""
    conditions = _conditions(wanted)
    if order.by == AgentOrder.STATE and not wanted.search:
        return _by_state(session, wanted, conditions, after, limit, is_back=order.is_back)
    conditions += _goes_on(session, order, after)
    if order is AgentOrder.NEWEST and wanted.statuses and not wanted.search:
        # One index scan for each status, merged: with IN the planner may walk every agent instead.
        pages = [_page_of(conditions, status, limit) for status in wanted.statuses]
        conditions = [Agent.id.in_(merged(pages))]
    elif wanted.statuses:
        conditions.append(Agent.phone_provisioning_status.in_(wanted.statuses))
    if wanted.search:
        return find_agents(session, wanted.search, conditions, _keys(order), limit)
    by = [key.of(key.column) for key in _keys(order)]
    return session.scalars(select(Agent).where(*conditions).order_by(*by).limit(limit)).all()


def merged(pages: Sequence[Select[Any]]) -> Select[Any]:
    """Return the ids of all these pages of ids."""
    found = union_all(*(_whole(page) for page in pages)).subquery()
    return select(found.c.id)


def _whole(page: Select[Any]) -> Select[Any]:
    """Wrap a limited query, so that UNION ALL does not take its LIMIT for the union's own."""
    inner = page.subquery()
    return select(inner.c.id)


def _conditions(wanted: AgentFilter) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [Agent.deleted_at.is_(None)]
    if wanted.health is not None:
        conditions.append(Agent.health_state == wanted.health)
    if wanted.calls_fail:
        conditions += CALLS_THAT_FAIL
    if wanted.is_unreachable:
        conditions.append(Agent.reachability == Reachability.UNREACHABLE)
    if wanted.trunk_id is not None:
        conditions.append(Agent.trunk_id == wanted.trunk_id)
    return conditions


def _page_of(conditions: Sequence[ColumnElement[bool]], status: PhoneStatus, limit: int) -> Select[Any]:
    of_status = select(Agent.id).where(*conditions, Agent.phone_provisioning_status == status)
    return of_status.order_by(*(key.of(key.column) for key in NEWEST)).limit(limit)


def _by_state(
    session: Session,
    wanted: AgentFilter,
    conditions: Sequence[ColumnElement[bool]],
    after: Position | None,
    limit: int,
    *,
    is_back: bool,
) -> Sequence[Agent]:
    """Return a page of one status after the other, the newest of each first."""
    statuses = sorted(wanted.statuses or _STATES, key=_PLACES.__getitem__, reverse=is_back)
    reached = None
    if after is not None:
        reached = session.scalar(select(Agent.phone_provisioning_status).where(Agent.id == after.id))
        statuses = statuses[statuses.index(reached) :] if reached in statuses else []
    if not statuses:
        return ()
    pages = []
    for status in statuses:
        goes_on = (_is_older(after),) if after is not None and status is reached else ()
        pages.append(_page_of([*conditions, *goes_on], status, limit))
    by = [key.of(key.column) for key in _keys(AgentOrder.STATE_BACK if is_back else AgentOrder.STATE)]
    return session.scalars(select(Agent).where(Agent.id.in_(merged(pages))).order_by(*by).limit(limit)).all()


def _keys(order: AgentOrder) -> Sequence[Key]:
    if order is AgentOrder.NEWEST:
        return NEWEST
    first = Key(_ORDERED_BY[order.by], order.is_back)
    return (first, *NEWEST) if order.by == AgentOrder.STATE else (first, Key(Agent.id, order.is_back))


def _is_older(after: Position) -> ColumnElement[bool]:
    return tuple_(Agent.created_at, Agent.id) < (after.created_at, after.id)


def _goes_on(session: Session, order: AgentOrder, after: Position | None) -> Sequence[ColumnElement[bool]]:
    """Return what holds of the agents after this one as it stands now: its name may have changed since its page."""
    if after is None:
        return ()
    if order is AgentOrder.NEWEST:
        return (_is_older(after),)
    key = _ORDERED_BY[order.by]
    value = session.scalar(select(key).where(Agent.id == after.id))
    if value is None:
        return (literal(value=False),)
    if order.by == AgentOrder.STATE:
        return (or_(key < value if order.is_back else key > value, and_(key == value, _is_older(after))),)
    here, there = tuple_(key, Agent.id), (value, after.id)
    return (here < there if order.is_back else here > there,)
