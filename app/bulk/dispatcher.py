"""Starts the items of bulks, a limited number at a time, and ends items whose operation has ended.

The items are the queue: a killed sweeper leaves them as they are, and an item is taken in the transaction that opens
its operation. Every sweeper runs it at every pass. Needs only PostgreSQL.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import structlog
from sqlalchemy import func, select, update

from app.bulk import queries
from app.bulk.items import BulkItemRef, ItemTakenError
from app.bulk.service import update_counts
from app.db.engine import Sessions
from app.db.models import BulkItem
from app.domain.errors import RefusedError
from app.domain.events import Origin
from app.domain.operations import BulkKind, ItemStatus
from app.numbers.maintenance import MaintenanceService
from app.numbers.service import ProvisioningService

log = structlog.get_logger(__name__)

WINDOW = 200
"""Operations open at once for all bulks together. At 50 a second that is two passes' worth and two seconds of work in
reserve, so that no worker idles; few enough for a cancel to take effect, and for the broker to hold them all."""

BATCH = 100
"""Operations opened in one pass, so that the sweep of lost messages waits a second or two at most."""

LEASE = timedelta(seconds=15)
"""How long one sweeper has a bulk to itself: a batch takes a second or two. When it takes longer, or the sweeper is
killed, another goes on; two at once do no harm, since an item is taken only while it is pending."""


@dataclass(frozen=True)
class _Batch:
    """The items of one bulk that one pass starts."""

    kind: BulkKind
    origin: Origin
    items: Sequence[BulkItem]


@dataclass(frozen=True)
class BulkDispatcher:
    """The part of the sweeper that runs bulks."""

    sessions: Sessions
    provisioning: ProvisioningService
    maintenance: MaintenanceService
    window: int = WINDOW

    def advance(self) -> int:
        """Start the next items of every open bulk; return how many were started or refused."""
        with self.sessions() as session:
            found = queries.open_bulks(session)
        share = max(1, self.window // max(1, sum(1 for _, pending in found if pending)))
        done = 0
        for bulk_id, _ in found:
            batch = self._take_batch(bulk_id, share, BATCH - done)
            if batch is not None:
                for item in batch.items:
                    self._start(item, batch)
                self._release_bulk(bulk_id)
                done += len(batch.items)
        return done

    def _take_batch(self, bulk_id: uuid.UUID, share: int, left: int) -> _Batch | None:
        """Update the items, and take those that may start now; None for none, or while another sweeper has the bulk."""
        with self.sessions.begin() as session:
            bulk = queries.lock_bulk(session, bulk_id, skip_locked=True)
            now = session.scalars(select(func.now())).one()
            if bulk is None or (bulk.lease_until and bulk.lease_until > now):
                return None
            queries.copy_ended_operations(session, bulk_id)
            room = min(share - queries.count_running(session, bulk_id), left)
            items = queries.pending_items(session, bulk_id, room) if room > 0 else ()
            if items:
                bulk.lease_until, bulk.started_at = now + LEASE, bulk.started_at or now
            update_counts(session, bulk)
            requested_by = Origin(bulk.created_by, bulk.request_id, key_id=bulk.key_id)
            return _Batch(bulk.kind, requested_by, items) if items else None

    def _release_bulk(self, bulk_id: uuid.UUID) -> None:
        with self.sessions.begin() as session:
            bulk = queries.lock_bulk(session, bulk_id)
            if bulk is not None:
                bulk.lease_until = None
                update_counts(session, bulk)

    def _start(self, item: BulkItem, batch: _Batch) -> None:
        """Open the item's operation as a single request would, or fail the item with that request's error."""
        if item.agent_id is None or item.phone_number is None:
            raise ValueError("a pending item has both: a CHECK of the table")
        bulk_item = BulkItemRef(item.bulk_id, item.position)
        try:
            if batch.kind is BulkKind.PROVISION:
                self.provisioning.provision(
                    item.agent_id, item.phone_number, takeover=item.takeover, origin=batch.origin, bulk_item=bulk_item
                )
            else:
                self.maintenance.open_for_bulk(
                    batch.kind, item.agent_id, item.phone_number, bulk_item, origin=batch.origin
                )
        except ItemTakenError:
            log.info("bulk_item_taken", bulk_id=str(item.bulk_id), position=item.position)
        except RefusedError as error:
            self._fail(item, error)

    def _fail(self, item: BulkItem, error: RefusedError) -> None:
        with self.sessions.begin() as session:
            session.execute(
                update(BulkItem)
                .where(
                    BulkItem.bulk_id == item.bulk_id,
                    BulkItem.position == item.position,
                    BulkItem.status == ItemStatus.PENDING,
                )
                .values(status=ItemStatus.FAILED, error_code=error.code, error_detail=error.detail)
                .execution_options(synchronize_session=False)
            )
