"""The use cases of a bulk: accept, look, cancel, resume. Its operations are opened by the sweeper, a few at a time."""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import structlog
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.bulk import queries
from app.bulk.items import BulkItemRef, Item
from app.db.access import record_activity
from app.db.engine import Sessions
from app.db.models import Bulk, BulkItem, Operation
from app.domain.errors import ErrorCode, bulk_not_found
from app.domain.events import INTERNAL, Action, Origin
from app.domain.statuses import BulkStatus, ItemStatus
from app.saga import machine
from app.saga.rows import Rows

log = structlog.get_logger(__name__)

NOT_RESUMABLE = (ErrorCode.VALIDATION_FAILED, ErrorCode.AGENT_NOT_FOUND)
"""Why an item was refused on arrival: the request itself is wrong, so resuming would fail the same way."""


CANCEL_BATCH = 100
"""Queued operations that one transaction cancels: it holds their locks for a few tenths of a second (measured)."""

_WITHOUT_NUMBER = (ItemStatus.FAILED, ItemStatus.CANCELLED)
_RESET = {"status": ItemStatus.PENDING, "operation_id": None, "error_code": None, "error_detail": None}


@dataclass(frozen=True)
class Cancellation:
    """What came of a request to cancel a bulk; unless it was resumed meanwhile, the three figures make up its total."""

    bulk: Bulk
    cancelled_now: int

    @property
    def still_running(self) -> int:
        """Items that had begun: they run to their end."""
        return self.bulk.running

    @property
    def already_done(self) -> int:
        """Items that were over before."""
        over = self.bulk.total - self.bulk.pending - self.bulk.running
        return max(over - self.cancelled_now, 0)  # what a resume has taken up meanwhile is over no longer


@dataclass(frozen=True)
class BulkService:
    """Everything that a client may do with a bulk."""

    sessions: Sessions
    rows: Rows

    def accept(self, items: Sequence[Item], *, origin: Origin) -> Bulk:
        """Store the bulk whole, in one transaction: its items, and the agents that they ask for.

        An item that cannot work is failed at once and says why; the others wait for the sweeper.
        """
        with self.sessions.begin() as session:
            bulk = Bulk(id=uuid.uuid4(), total=len(items), pending=len(items), status=BulkStatus.QUEUED)
            bulk.created_by, bulk.key_id, bulk.request_id = origin.requested_by, origin.key_id, origin.request_id
            session.add(bulk)
            session.flush()
            wanted = {item.agent_id for item in items if item.agent_id is not None}
            existing = queries.existing_agents(session, wanted)
            made = {item.position: _agent_row(item) for item in items if item.new_agent and not item.problem}
            queries.insert_agents(session, list(made.values()))
            queries.insert_items(session, bulk.id, [_item_row(item, existing, made) for item in items])
            update_counts(session, bulk)
            record_activity(session, origin, Action.BULK_CREATE, bulk.id, total=bulk.total)
            session.flush()
            session.refresh(bulk)
        log.info("bulk_accepted", bulk_id=str(bulk.id), total=bulk.total, failed=bulk.failed)
        return bulk

    def get(self, bulk_id: uuid.UUID) -> Bulk:
        """Return the bulk; 404 `bulk_not_found`."""
        with self.sessions() as session:
            bulk = session.get(Bulk, bulk_id)
        if bulk is None:
            raise bulk_not_found(bulk_id)
        return bulk

    def items(self, bulk_id: uuid.UUID) -> Sequence[BulkItem]:
        """Return every item, in the order of the request; 404 `bulk_not_found`."""
        self.get(bulk_id)
        with self.sessions() as session:
            return queries.list_items(session, bulk_id)

    def not_begun(self, bulk: Bulk) -> int:
        """Return how many of its items `cancel` would cancel now."""
        with self.sessions() as session:
            return bulk.pending + queries.count_queued(session, bulk.id)

    def cancel(self, bulk_id: uuid.UUID, *, origin: Origin = INTERNAL) -> Cancellation:
        """Cancel every item for which no provider was called yet; the others run to their end. May be called again.

        An item whose operation waits in a queue counts as not begun: the operation ends here and now. Where this is
        killed between two transactions, the next call goes on.
        """
        with self.sessions.begin() as session:
            bulk = _locked(session, bulk_id)
            at = session.scalars(select(func.now())).one()
            cancelled = _cancel_pending(session, bulk, at)
            queued = queries.queued_operations(session, bulk_id)
            if cancelled:
                record_activity(session, origin, Action.BULK_CANCEL, bulk_id, cancelled=cancelled)
            _copy_and_count(session, bulk)
        for first in range(0, len(queued), CANCEL_BATCH):
            before = bulk.cancelled_at
            with self.sessions.begin() as session:
                # The operations' locks before anything else, as the runner has it.
                locked = queries.lock_queued(session, queued[first : first + CANCEL_BATCH])
                bulk = _locked(session, bulk_id)
                if bulk.cancelled_at != before:
                    break  # resumed meanwhile, or cancelled by another request, which goes on from here
                for operation_id in locked:
                    self._end(session, operation_id, origin)
                if locked:
                    bulk.cancelled_at = at
                    record_activity(session, origin, Action.BULK_CANCEL, bulk_id, cancelled=len(locked))
                cancelled += len(locked)
                _copy_and_count(session, bulk)
        log.info("bulk_cancelled", bulk_id=str(bulk_id), cancelled=cancelled, running=bulk.running)
        return Cancellation(bulk, cancelled)

    def _end(self, session: Session, operation_id: uuid.UUID, origin: Origin) -> None:
        """End an operation that nobody has begun, as a request to deprovision would; the session holds its lock."""
        loaded, why = self.rows.read(operation_id, session), "The bulk was cancelled before this operation began."
        if loaded is not None:
            self.rows.write(machine.cancel(loaded.saga, origin, loaded.now, why), loaded.version, session)

    def resumable(self, bulk_id: uuid.UUID) -> int:
        """Return about how many items `resume` would let wait again; 404 `bulk_not_found`."""
        bulk = self.get(bulk_id)
        return bulk.failed + bulk.cancelled

    def resume(self, bulk_id: uuid.UUID, *, origin: Origin = INTERNAL) -> Bulk:
        """Let every item wait again that failed or was cancelled, but for those that never can work.

        The agents are those of the first time: nothing is made twice. With nothing to resume it changes nothing.
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
                record_activity(session, origin, Action.BULK_RESUME, bulk_id, resumed=len(resumed))
            update_counts(session, bulk)
        log.info("bulk_resumed", bulk_id=str(bulk_id), resumed=len(resumed))
        return bulk


def _cancel_pending(session: Session, bulk: Bulk, at: datetime) -> int:
    """Cancel the items that have no operation; from here on no sweeper opens one for them."""
    cancelled = session.scalars(
        update(BulkItem)
        .where(BulkItem.bulk_id == bulk.id, BulkItem.status == ItemStatus.PENDING)
        .values(
            status=ItemStatus.CANCELLED,
            error_code=ErrorCode.CANCELLED,
            error_detail="The bulk was cancelled before this item began.",
        )
        .returning(BulkItem.position)
        .execution_options(synchronize_session=False)
    ).all()
    if cancelled:
        bulk.cancelled_at = at
    return len(cancelled)


def _copy_and_count(session: Session, bulk: Bulk) -> None:
    """Let the items follow their operations, and count them."""
    queries.copy_ended_operations(session, bulk.id)
    update_counts(session, bulk)


def requeue_item(sessions: Sessions, operation: Operation) -> BulkItemRef | None:
    """Let the item wait again whose operation this was, now that it has ended; None where it is no item's."""
    if operation.bulk_id is None:
        return None
    with sessions.begin() as session:
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
    """Count the items and say where the bulk stands; in a transaction that holds its lock."""
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


def _agent_row(item: Item) -> dict[str, Any]:
    if item.new_agent is None:
        raise ValueError("the item asks for no agent")
    return {
        "id": uuid.uuid4(),
        "name": item.new_agent.name,
        "livekit_agent_name": item.new_agent.livekit_agent_name,
        "metadata": json.dumps(item.new_agent.metadata),
    }


def _item_row(item: Item, existing: set[uuid.UUID], made: dict[int, dict[str, Any]]) -> dict[str, Any]:
    agent_id = made[item.position]["id"] if item.position in made else item.agent_id
    code, detail = (ErrorCode.VALIDATION_FAILED if item.problem else None), item.problem
    if item.agent_id is not None and item.agent_id not in existing:
        agent_id = None
        if not item.problem:
            code, detail = ErrorCode.AGENT_NOT_FOUND, f"There is no agent {item.agent_id}."
    return {
        "position": item.position,
        "agent_id": agent_id,
        "phone_number": item.phone_number,
        "takeover": item.takeover,
        "status": (ItemStatus.FAILED if code else ItemStatus.PENDING).value,
        "error_code": code.value if code else None,
        "error_detail": detail,
    }
