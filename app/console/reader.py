"""The console's queries; each call is one read-only transaction."""

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from app.db import console_queries as queries
from app.db.agent_lists import AgentFilter, AgentOrder, list_agents
from app.db.engine import Sessions
from app.db.models import Agent, Audit, Operation
from app.db.queries import Position, latest_audit, latest_report
from app.domain.errors import ErrorCode
from app.domain.operations import OperationStatus, PhoneStatus
from app.views.operations import OperationView, PhoneView
from app.views.reader import Reader, cut

PAGE_ROWS = 50
"""Rows of one page: two screens."""

HISTORY_ROWS = 20
"""Operations in an agent's history."""

MAX_MOVE_TARGETS = 50
"""Agents listed when a number is moved; search finds others."""


class Tab(StrEnum):
    """The tabs of Operations."""

    RUNNING = "running"
    ATTENTION = "attention"
    FAILED = "failed"
    DONE = "done"


TAB_STATUSES: Mapping[Tab, Sequence[OperationStatus]] = {
    Tab.RUNNING: (OperationStatus.QUEUED, OperationStatus.RUNNING, OperationStatus.ROLLING_BACK),
    Tab.ATTENTION: (OperationStatus.NEEDS_ATTENTION,),
    Tab.FAILED: (OperationStatus.FAILED,),
    Tab.DONE: (OperationStatus.SUCCEEDED, OperationStatus.CANCELLED),
}
"""Tab -> its statuses; every status is in one tab."""


@dataclass(frozen=True, slots=True)
class NumberRow:
    """One agent of the list, with the last operation on it."""

    agent: Agent
    last: Operation | None

    @property
    def failed_number(self) -> str | None:
        """The number that a failed agent failed with: it has given it up."""
        is_failed = self.agent.phone_provisioning_status is PhoneStatus.FAILED
        return self.last.phone_number if is_failed and self.last is not None else None


@dataclass(frozen=True, slots=True)
class NumbersPage:
    """One page of agents."""

    rows: Sequence[NumberRow]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class OperationRow:
    """One operation of the list, with its agent."""

    operation: OperationView
    agent: Agent


@dataclass(frozen=True, slots=True)
class OperationsPage:
    """One page of operations."""

    rows: Sequence[OperationRow]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class AgentDetails:
    """The data of an agent's page; `names` has the names of the agents in moves."""

    phone: PhoneView
    history: Sequence[Operation]
    names: Mapping[uuid.UUID, str]


@dataclass(frozen=True, slots=True)
class AuditDetails:
    """The newest report, the audit in progress if any, and the names of the agents in the report."""

    report: Audit | None
    under_way: Audit | None
    names: Mapping[uuid.UUID, str]


class ConsoleReader:
    """Reads the data of the pages."""

    def __init__(self, sessions: Sessions, reader: Reader) -> None:
        self._sessions = sessions
        self._reader = reader

    def numbers(
        self, wanted: AgentFilter, cursor: Position | None, order: AgentOrder = AgentOrder.NEWEST
    ) -> NumbersPage:
        """Return one page of agents."""
        with self._sessions() as session:
            page = cut(list_agents(session, wanted, after=cursor, limit=PAGE_ROWS + 1, order=order), PAGE_ROWS)
            last = queries.last_operations(session, [agent.id for agent in page.items])
        return NumbersPage([NumberRow(agent, last.get(agent.id)) for agent in page.items], page.next_cursor)

    def counts(self) -> Mapping[str, int]:
        """Return the counts at the top of the pages: `console_queries.count_up_to`."""
        with self._sessions() as session:
            return queries.count_up_to(session)

    def agent(self, agent_id: uuid.UUID) -> AgentDetails:
        """Return an agent with its path, operation and history; `RefusedError` 404."""
        phone = self._reader.phone(agent_id)
        with self._sessions() as session:
            history = queries.history_of(session, agent_id, limit=HISTORY_ROWS)
            movers = {one for row in history for one in (row.agent_id, row.target_agent_id) if one}
            return AgentDetails(phone, history, queries.names_of(session, movers))

    def operations(self, tab: Tab, cursor: Position | None, code: ErrorCode | None = None) -> OperationsPage:
        """Return one page of a tab; with a code, of the operations that ended with this error."""
        with self._sessions() as session:
            rows = queries.list_operations(session, TAB_STATUSES[tab], after=cursor, limit=PAGE_ROWS + 1, code=code)
            page = cut(rows, PAGE_ROWS)
            return OperationsPage(
                [OperationRow(OperationView.of(row), row.agent) for row in page.items], page.next_cursor
            )

    def free_agents(self, search: str, *, exclude: uuid.UUID) -> Sequence[Agent]:
        """Return agents without a number, newest first."""
        empty = AgentFilter((PhoneStatus.NOT_PROVISIONED, PhoneStatus.FAILED), search=search)
        with self._sessions() as session:
            found = list_agents(session, empty, after=None, limit=MAX_MOVE_TARGETS + 1)
        return [agent for agent in found if agent.id != exclude][:MAX_MOVE_TARGETS]

    def members(self, trunk_id: uuid.UUID, cursor: Position | None) -> NumbersPage:
        """Return one page of the agents that have a place on a shared trunk."""
        wanted = AgentFilter(trunk_id=trunk_id)
        return self.numbers(wanted, cursor)

    def names(self, agent_ids: Collection[uuid.UUID]) -> Mapping[uuid.UUID, str]:
        """Return the names of these agents, including deleted ones."""
        with self._sessions() as session:
            return queries.names_of(session, agent_ids)

    def audit(self) -> AuditDetails:
        """Return the newest report, and the audit in progress if any."""
        with self._sessions() as session:
            newest, report = latest_audit(session), latest_report(session)
            under_way = newest if newest is not None and newest.finished_at is None else None
            return AuditDetails(report, under_way, queries.names_of(session, _agents_in(report)))


def _agents_in(report: Audit | None) -> Collection[uuid.UUID]:
    found = report.findings if report else ()
    return {uuid.UUID(finding["agentId"]) for finding in found if finding["agentId"]}
