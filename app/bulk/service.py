"""Accepts, reads, cancels and resumes bulks. The sweeper starts their items, a few at a time."""

import json
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.accounts.choice import Choice, choice_for
from app.bulk import queries
from app.bulk.items import BulkItemRef, Item, MixedItem
from app.db.access import record_activity
from app.db.engine import Sessions
from app.db.models import Bulk, BulkItem, Operation
from app.db.visibility import home_workspace, seeing
from app.domain.errors import ErrorCode, bulk_not_found
from app.domain.events import INTERNAL, Action, Origin
from app.domain.operations import BulkKind, BulkStatus, ItemStatus, TrunkMode
from app.domain.options import options_json
from app.domain.workspaces import AccountIds
from app.numbers.agents import UNIQUE_EXTERNAL_ID, constraint_of
from app.saga import machine
from app.saga.rows import Rows

log = structlog.get_logger(__name__)

NOT_RESUMABLE = (ErrorCode.VALIDATION_FAILED, ErrorCode.AGENT_NOT_FOUND, ErrorCode.EXTERNAL_ID_IN_USE)
"""The errors of items that were invalid from the start: resuming them would fail the same way."""


CANCEL_BATCH = 100
"""Queued operations that one transaction cancels: it locks them for a few tenths of a second (measured)."""

_WITHOUT_NUMBER = (ItemStatus.FAILED, ItemStatus.CANCELLED)
_OF_ONE_KIND = {"kind": None, "target_agent_id": None, "wanted": None, "waits_for": None}
"""What an item has in a bulk of mixed kinds alone."""

_RESET = {"status": ItemStatus.PENDING, "operation_id": None, "error_code": None, "error_detail": None}


@dataclass(frozen=True)
class Cancellation:
    """The result of a cancel request; unless the bulk was resumed meanwhile, the three figures add up to its total."""

    bulk: Bulk
    cancelled_now: int

    @property
    def still_running(self) -> int:
        """Items that had started: they run to their end."""
        return self.bulk.running

    @property
    def already_done(self) -> int:
        """Items that had ended before."""
        ended = self.bulk.total - self.bulk.pending - self.bulk.running
        return max(ended - self.cancelled_now, 0)  # a resume meanwhile may have restarted some


@dataclass(frozen=True, slots=True)
class Prepared:
    """The items of a bulk beside the rows that decide which of them are refused from the start."""

    items: Sequence[Item]
    choice: Choice
    existing: Mapping[uuid.UUID, tuple[uuid.UUID, TrunkMode]]
    """Those of their agents that exist, with carrier account and trunk mode."""
    taken: Mapping[str, uuid.UUID]
    """Those of their external ids that agents have, and which agents."""

    def refusal_of(self, item: Item) -> tuple[ErrorCode, str] | None:
        """Return code and detail of an item that is refused; None for one that starts."""
        if item.problem:
            return ErrorCode.VALIDATION_FAILED, item.problem
        if item.agent_id is not None and item.agent_id not in self.existing:
            return ErrorCode.AGENT_NOT_FOUND, f"There is no agent {item.agent_id}."
        if item.external_id is not None and item.external_id in self.taken:
            holder = self.taken[item.external_id]
            return ErrorCode.EXTERNAL_ID_IN_USE, f"Agent {holder} has the externalId {item.external_id} already."
        return None

    def account_of(self, item: Item) -> uuid.UUID:
        """Return the carrier account of an item that is not refused."""
        if item.agent_id is not None:
            return self.existing[item.agent_id][0]
        named = item.new_agent.carrier_account_id if item.new_agent else None
        return named or self.choice.default.carrier_account_id


def prepare(session: Session, items: Sequence[Item]) -> Prepared:
    """Read the rows that the items name."""
    existing = queries.existing_agents(session, {item.agent_id for item in items if item.agent_id is not None})
    choice = _choice_for(session, items)
    checked = [_with_accounts(item, choice) for item in items]
    wanted = {item.external_id for item in checked if item.external_id and not item.problem}
    return Prepared(checked, choice, existing, queries.external_ids(session, wanted))


@dataclass(frozen=True)
class BulkService:
    """What a client may do with a bulk."""

    sessions: Sessions
    rows: Rows

    def accept(
        self, items: Sequence[Item], *, origin: Origin, kind: BulkKind = BulkKind.PROVISION, file_name: str = ""
    ) -> Bulk:
        """Store a bulk of provisionings or adoptions, its items and the agents to create, in one transaction.

        An invalid item fails at once and says why; the others wait for the sweeper. The name of the file that they were
        uploaded in stands in the trail.
        """
        try:
            bulk = self._store(items, kind, origin, file_name)
        except IntegrityError as error:
            if constraint_of(error) != UNIQUE_EXTERNAL_ID:
                raise
            # Somebody else gave an agent one of the external ids just now: the item that has it fails alone.
            bulk = self._store(items, kind, origin, file_name)
        log.info("bulk_accepted", bulk_id=str(bulk.id), kind=bulk.kind, total=bulk.total, failed=bulk.failed)
        return bulk

    def _store(self, items: Sequence[Item], kind: BulkKind, origin: Origin, file_name: str) -> Bulk:
        with self.sessions.begin() as session:
            prepared = prepare(session, items)
            of = set(queries.workspaces_of(session, prepared.existing))
            of |= {home_workspace() for item in items if item.new_agent}
            bulk = _add_bulk(session, kind, len(items), of, origin)
            created = {
                item.position: _agent_row(item, prepared.choice)
                for item in prepared.items
                if item.new_agent and prepared.refusal_of(item) is None
            }
            queries.insert_agents(session, list(created.values()))
            queries.insert_items(session, bulk.id, [_item_row(item, prepared, created) for item in prepared.items])
            _accept_bulk(session, bulk, origin, file_name)
        return bulk

    def open_for_agents(
        self, kind: BulkKind, agents: Sequence[tuple[uuid.UUID, str]], *, origin: Origin = INTERNAL
    ) -> Bulk:
        """Store a bulk of another kind: up to `MAX_ITEMS` pairs of an agent's id and its number.

        The dispatcher opens their operations like those of any bulk, a few at a time and in the queue of bulks. An
        agent that has lost the number by then, or is busy, fails its item alone.
        """
        with self.sessions.begin() as session:
            of = queries.workspaces_of(session, [agent_id for agent_id, _ in agents])
            bulk = _add_bulk(session, kind, len(agents), of, origin)
            rows = [_agent_item_row(position, *one) for position, one in enumerate(agents, start=1)]
            queries.insert_items(session, bulk.id, rows)
            _accept_bulk(session, bulk, origin)
        log.info("bulk_accepted", bulk_id=str(bulk.id), kind=bulk.kind, total=bulk.total, failed=bulk.failed)
        return bulk

    def add_mixed(
        self, session: Session, workspace_id: uuid.UUID, items: Sequence[MixedItem], *, origin: Origin
    ) -> Bulk:
        """Store a bulk whose items are of several kinds, for agents of one workspace, in the caller's transaction.

        An item starts once all that it waits for have succeeded; where one of those does not, it is cancelled. The
        caller records who has asked.
        """
        bulk = _add_bulk(session, BulkKind.MIXED, len(items), [workspace_id], origin)
        rows = [_mixed_item_row(position, item) for position, item in enumerate(items, start=1)]
        queries.insert_items(session, bulk.id, rows)
        _count_stored(session, bulk)
        return bulk

    def get(self, bulk_id: uuid.UUID) -> Bulk:
        """Return the bulk; 404 `bulk_not_found`."""
        with self.sessions() as session:
            bulk = session.get(Bulk, bulk_id)
        if bulk is None:
            raise bulk_not_found(bulk_id)
        return bulk

    def items(self, bulk_id: uuid.UUID) -> Sequence[BulkItem]:
        """Return every item, in request order; 404 `bulk_not_found`."""
        self.get(bulk_id)
        with self.sessions() as session:
            return queries.list_items(session, bulk_id)

    def not_begun(self, bulk: Bulk) -> int:
        """Count the items that `cancel` would cancel now."""
        with self.sessions() as session:
            return bulk.pending + queries.count_queued(session, bulk.id)

    def cancel(self, bulk_id: uuid.UUID, *, origin: Origin = INTERNAL) -> Cancellation:
        """Cancel every item for which no provider was called yet; the others run to their end. May be repeated.

        An item whose operation is still queued has not started: the operation is cancelled at once. If this is killed
        between two transactions, the next call goes on.
        """
        with self.sessions.begin() as session:
            bulk = _locked(session, bulk_id)
            at = session.scalars(select(func.now())).one()
            cancelled = _cancel_pending(session, bulk, at)
            queued = queries.queued_operations(session, bulk_id)
            if cancelled:
                record_activity(session, origin, Action.BULK_CANCEL, bulk_id, bulk.workspace_id, cancelled=cancelled)
            _copy_and_count(session, bulk)
        for first in range(0, len(queued), CANCEL_BATCH):
            before = bulk.cancelled_at
            with self.sessions.begin() as session:
                # Lock the operations first, as the runner does.
                locked = queries.lock_queued(session, queued[first : first + CANCEL_BATCH])
                bulk = _locked(session, bulk_id)
                if bulk.cancelled_at != before:
                    break  # resumed meanwhile, or cancelled by another request, which finishes the rest
                for operation_id in locked:
                    self._cancel_operation(session, operation_id, origin)
                if locked:
                    bulk.cancelled_at = at
                    record_activity(
                        session, origin, Action.BULK_CANCEL, bulk_id, bulk.workspace_id, cancelled=len(locked)
                    )
                cancelled += len(locked)
                _copy_and_count(session, bulk)
        log.info("bulk_cancelled", bulk_id=str(bulk_id), cancelled=cancelled, running=bulk.running)
        return Cancellation(bulk, cancelled)

    def _cancel_operation(self, session: Session, operation_id: uuid.UUID, origin: Origin) -> None:
        """Cancel an operation that has not started, as a request to deprovision would; the session holds its lock."""
        loaded, why = self.rows.read(operation_id, session), "The bulk was cancelled before this operation started."
        if loaded is not None:
            self.rows.write(machine.cancel(loaded.saga, origin, loaded.now, why), loaded.version, session)

    def resumable(self, bulk_id: uuid.UUID) -> int:
        """Estimate how many items `resume` would make pending again; 404 `bulk_not_found`."""
        bulk = self.get(bulk_id)
        return bulk.failed + bulk.cancelled

    def resume(self, bulk_id: uuid.UUID, *, origin: Origin = INTERNAL) -> Bulk:
        """Make every failed or cancelled item pending again, except those that were invalid from the start.

        The agents created for the bulk are used again. With nothing to resume it changes nothing.
        """
        with self.sessions.begin() as session:
            bulk = _locked(session, bulk_id)
            queries.copy_ended_operations(session, bulk_id)
            resumed = session.scalars(
                update(BulkItem)
                .where(
                    BulkItem.bulk_id == bulk_id,
                    BulkItem.status.in_(_WITHOUT_NUMBER),
                    func.coalesce(BulkItem.error_code, "").not_in(NOT_RESUMABLE),
                )
                .values(_RESET)
                .returning(BulkItem.position)
                .execution_options(synchronize_session=False)
            ).all()
            if resumed:
                bulk.cancelled_at = bulk.finished_at = None
                record_activity(session, origin, Action.BULK_RESUME, bulk_id, bulk.workspace_id, resumed=len(resumed))
            update_counts(session, bulk)
        log.info("bulk_resumed", bulk_id=str(bulk_id), resumed=len(resumed))
        return bulk


def _add_bulk(session: Session, kind: BulkKind, total: int, workspaces: Collection[uuid.UUID], origin: Origin) -> Bulk:
    """Add the row of a bulk for agents of these workspaces."""
    bulk = Bulk(id=uuid.uuid4(), kind=kind, total=total, pending=total, status=BulkStatus.QUEUED)
    if len(workspaces) <= 1:
        bulk.workspace_id = next(iter(workspaces), home_workspace())
    bulk.created_by, bulk.key_id, bulk.request_id = origin.requested_by, origin.key_id, origin.request_id
    session.add(bulk)
    session.flush()
    return bulk


def _accept_bulk(session: Session, bulk: Bulk, origin: Origin, file_name: str = "") -> None:
    """Count the items that were stored with it, and remember who asked, and with which file."""
    detail = {"kind": bulk.kind, "total": bulk.total} | ({"name": file_name} if file_name else {})
    record_activity(session, origin, Action.BULK_CREATE, bulk.id, bulk.workspace_id, **detail)
    _count_stored(session, bulk)


def _count_stored(session: Session, bulk: Bulk) -> None:
    update_counts(session, bulk)
    session.flush()
    session.refresh(bulk)


def _cancel_pending(session: Session, bulk: Bulk, at: datetime) -> int:
    """Cancel the items that have no operation; no sweeper opens one for them after that."""
    cancelled = session.scalars(
        update(BulkItem)
        .where(BulkItem.bulk_id == bulk.id, BulkItem.status == ItemStatus.PENDING)
        .values(
            status=ItemStatus.CANCELLED,
            error_code=ErrorCode.CANCELLED,
            error_detail="The bulk was cancelled before this item started.",
        )
        .returning(BulkItem.position)
        .execution_options(synchronize_session=False)
    ).all()
    if cancelled:
        bulk.cancelled_at = at
    return len(cancelled)


def _copy_and_count(session: Session, bulk: Bulk) -> None:
    """Copy ended operations to their items, and count the items."""
    queries.copy_ended_operations(session, bulk.id)
    update_counts(session, bulk)


def requeue_item(sessions: Sessions, operation: Operation) -> BulkItemRef | None:
    """Make the item of an ended operation pending again; None when the operation belongs to no bulk."""
    if operation.bulk_id is None:
        return None
    # The bulk may be an operator's, and have items of other workspaces.
    with seeing(None), sessions.begin() as session:
        bulk = _locked(session, operation.bulk_id)
        queries.copy_ended_operations(session, bulk.id)
        position = session.scalar(
            update(BulkItem)
            .where(BulkItem.operation_id == operation.id, BulkItem.status.in_(_WITHOUT_NUMBER))
            .values(_RESET)
            .returning(BulkItem.position)
            .execution_options(synchronize_session=False)
        )
        if position is not None:
            bulk.finished_at = None
        update_counts(session, bulk)
    return None if position is None else BulkItemRef(operation.bulk_id, position)


def update_counts(session: Session, bulk: Bulk) -> None:
    """Count the items and set the bulk's status; in a transaction that holds its lock."""
    counts = queries.count_items(session, bulk.id)
    for status in ItemStatus:
        setattr(bulk, status.value, counts.get(status, 0))
    bulk.status = _status_of(bulk)
    if bulk.status.is_final and bulk.finished_at is None:
        bulk.finished_at = session.scalar(select(func.now()))


def _status_of(bulk: Bulk) -> BulkStatus:
    if bulk.pending or bulk.running:
        if bulk.cancelled_at and not bulk.pending:
            return BulkStatus.CANCELLING
        return BulkStatus.RUNNING if bulk.started_at else BulkStatus.QUEUED
    if bulk.cancelled_at:
        return BulkStatus.CANCELLED
    return BulkStatus.SUCCEEDED if bulk.succeeded == bulk.total else BulkStatus.FAILED


def _locked(session: Session, bulk_id: uuid.UUID) -> Bulk:
    bulk = queries.lock_bulk(session, bulk_id)
    if bulk is None:
        raise bulk_not_found(bulk_id)
    return bulk


def _choice_for(session: Session, items: Sequence[Item]) -> Choice:
    created = [item.new_agent for item in items if item.new_agent and not item.problem]
    return choice_for(
        session,
        {one.carrier_account_id for one in created if one.carrier_account_id},
        {one.voice_project_id for one in created if one.voice_project_id},
    )


def _with_accounts(item: Item, choice: Choice) -> Item:
    """Return the item, invalid where its agent names an account that is not its workspace's to use."""
    if item.problem or item.new_agent is None:
        return item
    problems = choice.problems(item.new_agent.carrier_account_id, item.new_agent.voice_project_id)
    wrong = " ".join(f"agent.{field}: {message}" for field, message in problems.items())
    return replace(item, problem=wrong) if wrong else item


def _agent_row(item: Item, choice: Choice) -> dict[str, Any]:
    if item.new_agent is None:
        raise ValueError("the item has no new agent")
    accounts = choice.of(item.new_agent.carrier_account_id, item.new_agent.voice_project_id)
    values = {
        "name": item.new_agent.name,
        "livekit_agent_name": item.new_agent.livekit_agent_name,
        "metadata": item.new_agent.metadata,
        "options": options_json(item.new_agent.options),
        "trunk_mode": item.new_agent.trunk_mode.value,
    }
    return agent_columns(item.external_id, values, accounts)


def agent_columns(external_id: str | None, values: Mapping[str, Any], accounts: AccountIds) -> dict[str, Any]:
    """Return the row of a new agent, as `queries.insert_agents` takes it, with a new id."""
    as_text = {name: json.dumps(values[name]) for name in ("metadata", "options")}
    return {"id": uuid.uuid4(), "external_id": external_id, **values, **as_text, **accounts._asdict()}


def _agent_item_row(position: int, agent_id: uuid.UUID, phone_number: str) -> dict[str, Any]:
    return {
        "position": position,
        "agent_id": agent_id,
        "phone_number": phone_number,
        "takeover": False,
        "status": ItemStatus.PENDING.value,
        "error_code": None,
        "error_detail": None,
        **_OF_ONE_KIND,
    }


def _mixed_item_row(position: int, item: MixedItem) -> dict[str, Any]:
    return _agent_item_row(position, item.agent_id, item.phone_number) | {
        "takeover": item.takeover,
        "kind": item.kind.value,
        "target_agent_id": item.target_agent_id,
        "wanted": None if item.wanted is None else json.dumps(item.wanted),
        "waits_for": "{" + ",".join(map(str, item.waits_for)) + "}" if item.waits_for else None,
    }


def _item_row(item: Item, prepared: Prepared, created: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
    agent_id = created[item.position]["id"] if item.position in created else item.agent_id
    code, detail = prepared.refusal_of(item) or (None, None)
    return {
        "position": item.position,
        "agent_id": agent_id if agent_id in prepared.existing or item.position in created else None,
        "phone_number": item.phone_number,
        "takeover": item.takeover,
        "status": (ItemStatus.FAILED if code else ItemStatus.PENDING).value,
        "error_code": code.value if code else None,
        "error_detail": detail,
        **_OF_ONE_KIND,
    }
