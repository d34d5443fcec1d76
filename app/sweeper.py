"""The sweeper: publishes operations whose message was lost, starts the items of bulks, and ends old rows and trunks.

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
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.audit.retiring import RetiringService
from app.audit.service import AuditService
from app.bulk.dispatcher import BATCH as BULK_BATCH
from app.bulk.dispatcher import BulkDispatcher
from app.db.engine import Sessions, read_sql
from app.db.models import IS_OPEN
from app.numbers.service import ProvisioningService
from app.numbers.test_calls import CallService
from app.webhooks.deliveries import DeliveryService

log = structlog.get_logger(__name__)

_TAKE_DUE = read_sql(__file__, "take_due_operations.sql", is_open=IS_OPEN)

DATABASE_ERRORS = (OperationalError, InterfaceError, DBAPIError, PoolTimeoutError)
"""How an outage of the database shows."""

PASS_INTERVAL_S = 1.0
"""Seconds between two passes: the least delay that a lost message costs."""

BATCH = 50
"""Operations published in one pass of one sweeper: more than a second's work for a broker that just restarted."""

REPUBLISH_PAUSE = timedelta(seconds=5)
"""Pause after the first publication without progress; doubled each time, or duplicate messages would pile up."""

REPUBLISH_PAUSE_CAP = timedelta(seconds=30)
"""Longest pause: the longest delay of an operation after a long outage."""

MOVING = timedelta(seconds=30)
"""A queue in which a provisioning started within this time counts as moving: what waits in it is not lost.

Otherwise a queue of more than a few seconds' work would be published again and again, and grow by the copies.
"""

DOUBLINGS = 8
"""Doublings after which the pause is at its cap in any case; bounds the exponent."""

PURGE_INTERVAL_S = 3600.0
"""Seconds between two purges of one sweeper: the rows are at least a day old, so an hour does not matter."""


ACCOUNTS_INTERVAL_S = 10.0
"""Seconds between two looks of one sweeper for unverified accounts, each of which is tried once a minute."""

TRUNKS_INTERVAL_S = 60.0
"""Seconds between two looks of one sweeper for shared trunks without numbers: they stay for a day."""


@dataclass(frozen=True)
class Sweeper:
    """One sweeper; `run` sweeps until it is stopped."""

    sessions: Sessions
    service: ProvisioningService
    audits: AuditService
    dispatcher: BulkDispatcher
    deliveries: DeliveryService
    calls: CallService
    retiring: RetiringService
    purges: tuple[Callable[[], int], ...] = ()
    """Functions that delete expired rows and return how many; every replica may run them."""
    recheck_accounts: Callable[[], int] = lambda: 0
    """Tries the credentials of unverified accounts again; returns how many are accepted now."""
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
        for call_id in self.calls.take_due():
            self.calls.publisher.publish_call(call_id)
        return len(due)

    def sweep_trunks(self) -> None:
        """Publish the shared trunks that are to be deleted: no number has used them for a day."""
        for trunk_id in self.retiring.take_due():
            self.service.publisher.publish_retirement(trunk_id)

    def sweep_accounts(self) -> None:
        """Try the credentials of unverified accounts again."""
        try:
            self.recheck_accounts()
        except DATABASE_ERRORS as error:
            log.error("sweep_failed", error=type(error).__name__)  # noqa: TRY400  # an outage is not a defect

    def run(self, stop: threading.Event) -> None:
        """Sweep once a second until `stop` is set, through outages of the database."""
        log.info("sweeper_started")
        purged_at = trunks_at = accounts_at = -math.inf
        watch: threading.Thread | None = None
        while not stop.is_set():
            due = opened = 0
            try:
                due = self.sweep()
                opened = self.dispatcher.advance()
                if self.clock() - trunks_at >= TRUNKS_INTERVAL_S:
                    self.sweep_trunks()
                    trunks_at = self.clock()
                if self.clock() - accounts_at >= ACCOUNTS_INTERVAL_S and not (watch and watch.is_alive()):
                    # A thread of its own: a provider that does not respond must not hold up what is due.
                    watch = threading.Thread(target=self.sweep_accounts, name="accounts", daemon=True)
                    watch.start()
                    accounts_at = self.clock()
                if self.clock() - purged_at >= PURGE_INTERVAL_S:
                    self._purge()
                    purged_at = self.clock()
            except DATABASE_ERRORS as error:
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
        """Take the operations that are due and that no other sweeper takes."""
        values = {
            "batch": BATCH,
            "moving": MOVING,
            "pause": REPUBLISH_PAUSE,
            "pause_cap": REPUBLISH_PAUSE_CAP,
            "doublings": DOUBLINGS,
        }
        with self.sessions.begin() as session:
            return list(session.connection().exec_driver_sql(_TAKE_DUE, values).scalars())
