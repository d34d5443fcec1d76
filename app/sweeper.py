"""The sweeper: publishes operations whose message was lost, and opens those of bulks.

Needs only PostgreSQL; any number of replicas may run.
"""

import math
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import structlog
from sqlalchemy import ColumnElement, and_, case, func, select, text, update
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.audit.service import AuditService
from app.bulk.dispatcher import BATCH as BULK_BATCH
from app.bulk.dispatcher import BulkDispatcher
from app.db.engine import Sessions
from app.db.models import Operation
from app.domain.statuses import OPEN_STATUSES, OperationKind, OperationStatus
from app.numbers.service import ProvisioningService
from app.webhooks.deliveries import DeliveryService

log = structlog.get_logger(__name__)

PASS_INTERVAL_S = 1.0
"""Seconds between two passes: what the loss of a message costs at least."""

BATCH = 50
"""Operations published by one pass of one sweeper: more than a second's work for a broker that is just back."""

REPUBLISH_PAUSE = timedelta(seconds=5)
"""Pause after the first publication that moved nothing; doubled each time, or duplicates would make a storm."""

REPUBLISH_PAUSE_CAP = timedelta(seconds=30)
"""Longest pause: after a long outage an operation moves again at most this late."""

MOVING = timedelta(seconds=30)
"""How long ago a provisioning may have begun for the queue to count as moving: what waits in it is not lost then.

Otherwise a queue longer than a few seconds' work would be published again and again, and grow by the copies.
"""

DOUBLINGS = 8
"""Doublings after which the pause is certainly at its cap; keeps the power small."""

PURGE_INTERVAL_S = 3600.0
"""Seconds between two purges of one sweeper: what is purged is a day old, so that an hour more is nothing."""


@dataclass(frozen=True)
class Sweeper:
    """One sweeper; `run` until told to stop."""

    sessions: Sessions
    service: ProvisioningService
    audits: AuditService
    bulks: BulkDispatcher
    deliveries: DeliveryService
    purges: tuple[Callable[[], int], ...] = ()
    """What deletes rows that have had their day and says how many; harmless when every replica does it."""
    clock: Callable[[], float] = time.monotonic

    def sweep(self) -> int:
        """Publish every operation that is due, up to a batch; return how many were due."""
        due = self._take_due()
        for operation_id in due:
            published = self.service.republish(operation_id)
            log.warning("operation_swept", operation_id=str(operation_id), published=published)
        for audit_id in self.audits.take_due():
            self.service.publisher.publish_audit(audit_id)
        self.deliveries.sweep()
        return len(due)

    def run(self, stop: threading.Event) -> None:
        """Sweep once a second until `stop` is set, through outages of the database."""
        log.info("sweeper_started")
        purged_at = -math.inf
        while not stop.is_set():
            due = opened = 0
            try:
                due = self.sweep()
                opened = self.bulks.advance()
                if self.clock() - purged_at >= PURGE_INTERVAL_S:
                    self._purge()
                    purged_at = self.clock()
            except (OperationalError, InterfaceError, DBAPIError, PoolTimeoutError) as error:
                log.error("sweep_failed", error=type(error).__name__)  # noqa: TRY400  # an outage is not a defect
            if due < BATCH and opened < BULK_BATCH:
                stop.wait(PASS_INTERVAL_S)
        log.info("sweeper_stopped")

    def _purge(self) -> None:
        for purge in self.purges:
            count = purge()
            if count:
                log.info("rows_purged", count=count)

    def _take_due(self) -> list[uuid.UUID]:
        """Take operations that no other sweeper takes, and push their next look back by the growing pause."""
        with self.sessions.begin() as session:
            # A WITH, because it is run once: PostgreSQL may run a subquery again for each row, each time past the
            # rows that are taken by now, and so take more than a batch.
            due = (
                select(Operation.id)
                .where(Operation.status.in_(OPEN_STATUSES), Operation.wake_at <= func.now(), ~_waits_its_turn())
                .order_by(Operation.wake_at)
                .limit(BATCH)
                .with_for_update(skip_locked=True)
                .cte("due")
            )
            pause = func.least(
                REPUBLISH_PAUSE_CAP, REPUBLISH_PAUSE * func.power(2, func.least(Operation.idle_kicks, DOUBLINGS))
            )
            taken = session.execute(
                update(Operation)
                .where(Operation.id.in_(select(due.c.id)))
                .values(wake_at=func.now() + pause, idle_kicks=Operation.idle_kicks + 1)
                .returning(Operation.id)
                .execution_options(synchronize_session=False)
            )
            return list(taken.scalars())


def _waits_its_turn() -> ColumnElement[bool]:
    """Match a provisioning that nobody has begun while the newest of those that have just begun was opened before it.

    A queue is first in, first out: a message is lost only if one that was sent after it has arrived, or if none does.
    """
    is_single = Operation.bulk_id.is_(None)
    begun = [
        select(func.max(Operation.created_at))
        .where(
            Operation.kind == OperationKind.PROVISION,
            Operation.status == OperationStatus.RUNNING,
            Operation.started_at > func.now() - MOVING,
            is_of_queue,
        )
        .scalar_subquery()
        for is_of_queue in (is_single, ~is_single)
    ]
    return and_(
        Operation.kind == OperationKind.PROVISION,
        Operation.status == OperationStatus.QUEUED,
        Operation.created_at > func.coalesce(case((is_single, begun[0]), else_=begun[1]), text("'infinity'")),
    )
