"""Starts the items of bulks, a limited number at a time, and ends items whose operation has ended.

The items are the queue: a killed sweeper leaves them as they are, and an item is taken in the transaction that opens
its operation. Every sweeper runs it at every pass. Needs only PostgreSQL, but for adoptions and updates: whether a path
can be adopted, and what stands for an option, is seen at the providers, so that a worker starts them, under the same
lease of the bulk.
"""

import time
import uuid
from collections.abc import Callable, Sequence
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
from app.domain.operations import BulkKind, ItemKind, ItemStatus
from app.numbers.adoption import AdoptionService, Projects
from app.numbers.agents import AgentService
from app.numbers.changing import ChangeService, made_of
from app.numbers.maintenance import MaintenanceService
from app.numbers.service import ProvisioningService, Publisher
from app.path.observed import Observed
from app.providers.callers import Caller, CallPriority, calling
from app.providers.errors import RejectedError, TransientError, UnknownOutcomeError

log = structlog.get_logger(__name__)

WINDOW = 200
"""Operations open at once for all bulks together. At 50 a second that is two passes' worth and two seconds of work in
reserve, so that no worker idles; few enough for a cancel to take effect, and for the broker to hold them all."""

BATCH = 100
"""Operations opened in one pass, so that the sweep of lost messages waits a second or two at most."""

LEASE = timedelta(seconds=15)
"""How long one sweeper has a bulk to itself: a batch takes a second or two. When it takes longer, or the sweeper is
killed, another goes on; two at once do no harm, since an item is taken only while it is pending."""


ADOPTING = timedelta(seconds=60)
"""How long one worker has a bulk of adoptions to itself, and how long it starts items: a path takes half a dozen reads,
a quarter of a second at a provider's usual pace, so that a batch is started in half of it."""

ADOPTED_AT_ONCE = 50
"""Adoptions that one worker starts, with one list of each voice project: at its end that is half a minute old."""


@dataclass(frozen=True)
class _Batch:
    """The items of one bulk that one pass starts."""

    kind: BulkKind
    origin: Origin
    items: Sequence[BulkItem]

    @property
    def reads_providers(self) -> bool:
        """Whether one of them is not started without a look at the providers."""
        return any(item.kind_in(self.kind) in {ItemKind.ADOPT, ItemKind.UPDATE} for item in self.items)


@dataclass(frozen=True)
class BulkDispatcher:
    """The part of the sweeper that runs bulks."""

    sessions: Sessions
    provisioning: ProvisioningService
    maintenance: MaintenanceService
    adoption: AdoptionService
    agents: AgentService
    changes: ChangeService
    publisher: Publisher
    window: int = WINDOW
    clock: Callable[[], float] = time.monotonic

    def advance(self) -> int:
        """Start the next items of every open bulk; return how many were started or refused."""
        with self.sessions() as session:
            found = queries.open_bulks(session)
        share = max(1, self.window // max(1, sum(1 for _, pending in found if pending)))
        done = 0
        for bulk_id, _ in found:
            batch = self._take_batch(bulk_id, share, BATCH - done)
            if batch is not None and batch.reads_providers:
                self.publisher.publish_adoptions(bulk_id)
            elif batch is not None:
                for item in batch.items:
                    self._start(item, batch)
                self._release_bulk(bulk_id)
                done += len(batch.items)
        return done

    def start_adoptions(self, bulk_id: uuid.UUID) -> int:
        """Start the next items of such a bulk, as a worker that may read; return how many were started or refused.

        Where a provider does not respond, what is left waits for the end of the lease.
        """
        batch = self._take_batch(bulk_id, self.window, ADOPTED_AT_ONCE, is_worker=True)
        if batch is None or batch.kind not in {BulkKind.ADOPT, BulkKind.MIXED}:
            return 0
        ends_at, projects, done = self.clock() + ADOPTING.total_seconds(), dict[uuid.UUID, Observed](), 0
        with calling(Caller(CallPriority.BULK, last_start_at=ends_at, is_raised_once_begun=False)):
            for item in batch.items:
                if self.clock() >= ends_at:
                    break
                try:
                    self._start(item, batch, projects)
                except (TransientError, UnknownOutcomeError) as error:
                    log.warning("adoptions_wait", bulk_id=str(bulk_id), code=error.code)
                    return done
                except RejectedError as error:
                    self._fail(item, RefusedError(error.code, error.detail))
                done += 1
        self._release_bulk(bulk_id)
        return done

    def _take_batch(self, bulk_id: uuid.UUID, share: int, left: int, *, is_worker: bool = False) -> _Batch | None:
        """Update the items, and take those that may start now; None for none, or while another has the bulk.

        The worker that a sweeper has asked to start adoptions takes over from it.
        """
        with self.sessions.begin() as session:
            bulk = queries.lock_bulk(session, bulk_id, skip_locked=True)
            now = session.scalars(select(func.now())).one()
            longest = LEASE if is_worker else timedelta()
            if bulk is None or (bulk.lease_until and bulk.lease_until > now + longest):
                return None
            queries.copy_ended_operations(session, bulk_id)
            if bulk.kind is BulkKind.MIXED:
                queries.cancel_blocked(session, bulk_id)
            room = min(share - queries.count_running(session, bulk_id), left)
            items = queries.pending_items(session, bulk_id, room) if room > 0 else ()
            if items:
                lease = ADOPTING + LEASE if is_worker else LEASE
                bulk.lease_until, bulk.started_at = now + lease, bulk.started_at or now
            update_counts(session, bulk)
            requested_by = Origin(bulk.created_by, bulk.request_id, key_id=bulk.key_id)
            return _Batch(bulk.kind, requested_by, items) if items else None

    def _release_bulk(self, bulk_id: uuid.UUID) -> None:
        with self.sessions.begin() as session:
            bulk = queries.lock_bulk(session, bulk_id)
            if bulk is not None:
                bulk.lease_until = None
                update_counts(session, bulk)

    def _start(self, item: BulkItem, batch: _Batch, projects: Projects | None = None) -> None:
        """Open the item's operation as a single request would, or fail the item with that request's error."""
        if item.agent_id is None or item.phone_number is None:
            raise ValueError("a pending item has both: a CHECK of the table")
        try:
            self._open(item, item.agent_id, item.phone_number, batch, projects)
        except ItemTakenError:
            log.info("bulk_item_taken", bulk_id=str(item.bulk_id), position=item.position)
        except RefusedError as error:
            self._fail(item, error)

    def _open(self, item: BulkItem, agent_id: uuid.UUID, number: str, batch: _Batch, projects: Projects | None) -> None:
        kind, ref, origin = item.kind_in(batch.kind), BulkItemRef(item.bulk_id, item.position), batch.origin
        match kind:
            case ItemKind.PROVISION:
                self.provisioning.provision(agent_id, number, takeover=item.takeover, origin=origin, bulk_item=ref)
            case ItemKind.ADOPT:
                self.adoption.adopt(agent_id, number, origin=origin, bulk_item=ref, projects=projects)
            case ItemKind.REPAIR | ItemKind.REHOME:
                self.maintenance.open_for_bulk(batch.kind, agent_id, number, ref, origin=origin)
            case ItemKind.DEPROVISION:
                self.provisioning.deprovision_item(agent_id, number, ref, origin=origin)
            case ItemKind.MOVE:
                to = item.target_agent_id
                if to is None:
                    raise ValueError("a move has a target")
                self.maintenance.move(agent_id, to, origin=origin, phone_number=number, bulk_item=ref)
            case ItemKind.UPDATE:
                self.changes.change(agent_id, made_of(item.wanted or {}), origin=origin, bulk_item=ref)
            case ItemKind.DELETE:
                self.agents.delete(agent_id, origin=origin, bulk_item=ref)

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
