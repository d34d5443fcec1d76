"""The outbox of webhooks: its rows are the queue, and threads send each endpoint's deliveries in order."""

import random
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy import ColumnElement, and_, delete, func, or_, select, update
from sqlalchemy.orm import Session

from app.db.engine import Sessions
from app.db.webhooks import WebhookDelivery, WebhookEndpoint, WebhookOldSecret
from app.domain.events import MAX_ENDPOINTS, DeliveryStatus, DisabledReason
from app.sealing import Field, Sealer, SealError
from app.webhooks.announcements import WebhookPublisher
from app.webhooks.sending import Sender, SendError, WebhookResponse

log = structlog.get_logger(__name__)

RETRIES = tuple(
    timedelta(**span)
    for span in (
        {"seconds": 5},
        {"minutes": 5},
        {"minutes": 30},
        {"hours": 2},
        {"hours": 5},
        {"hours": 10},
        {"hours": 10},
    )
)
"""Pauses after each failed attempt: the schedule of Standard Webhooks, 28 hours in all."""

JITTER = (0.9, 1.2)
"""Random factor of each pause, so that a receiver that recovers does not get everything at once."""

LEASE = timedelta(seconds=45)
"""How long a worker may spend on one attempt: name resolution, 15 s for the request, and a margin."""

MAX_PARALLEL = 4
"""Concurrent attempts for one endpoint, all processes together; each process makes one at a time."""

GIVE_UP_AFTER = timedelta(days=5)
"""How long an endpoint may fail without a success before it is disabled; one delivery must have been given up too."""

PAUSE_AFTER_FAILURE = timedelta(seconds=1)
"""Pause of an endpoint after a failed attempt, so that a dead one costs one attempt a second."""

GONE = 410


@dataclass(frozen=True)
class Attempt:
    """The right to send one delivery until its lease ends, with all that sending needs."""

    delivery_id: uuid.UUID
    endpoint_id: uuid.UUID
    token: uuid.UUID
    number: int
    """Counts the attempts of this delivery from 1."""
    event: str
    message_id: str
    payload: str
    url: str = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)
    """The secrets to sign with: during a rotation the old ones too."""


def is_due() -> ColumnElement[bool]:
    """Match the pending deliveries that are due and not leased."""
    now, delivery = func.clock_timestamp(), WebhookDelivery
    is_free = or_(delivery.lease_until.is_(None), delivery.lease_until <= now)
    return and_(delivery.status == DeliveryStatus.PENDING, delivery.next_at <= now, is_free)


def claim_delivery(sessions: Sessions, endpoint_id: uuid.UUID, sealer: Sealer) -> Attempt | None:
    """Lease the endpoint's longest due delivery; None when there is none, or enough are in progress.

    `SealError`, with nothing leased, when a secret cannot be opened.
    """
    with sessions.begin() as session:
        endpoint, now = lock_endpoint(session, endpoint_id)
        if endpoint is None or endpoint.disabled_at is not None:
            return None
        own = WebhookDelivery.endpoint_id == endpoint_id
        leased = (own, WebhookDelivery.status == DeliveryStatus.PENDING, WebhookDelivery.lease_until > now)
        if (session.scalar(select(func.count()).where(*leased)) or 0) >= MAX_PARALLEL:
            return None
        due = select(WebhookDelivery.id).where(own, is_due())
        row = session.scalar(
            update(WebhookDelivery)
            .where(WebhookDelivery.id == due.order_by(WebhookDelivery.next_at).limit(1).scalar_subquery())
            .values(
                attempts=WebhookDelivery.attempts + 1,
                lease_token=uuid.uuid4(),
                lease_until=now + LEASE,
                last_attempt_at=now,
            )
            .returning(WebhookDelivery)
        )
        if row is None or row.lease_token is None:
            return None
        if endpoint.idle_kicks:
            endpoint.idle_kicks, endpoint.wake_at = 0, now + PAUSE_AFTER_FAILURE
        return Attempt(
            row.id,
            endpoint_id,
            row.lease_token,
            row.attempts,
            row.event,
            row.message_id,
            row.payload,
            endpoint.url,
            _valid_secrets(session, endpoint, now, sealer),
        )


def save_attempt(
    sessions: Sessions,
    attempt: Attempt,
    response: WebhookResponse | None,
    reason: str | None,
    spread: Callable[[float, float], float] = random.uniform,
) -> DisabledReason | None:
    """Store the result of an attempt, unless its lease was lost; return why this disables the endpoint, if it does."""
    with sessions.begin() as session:
        endpoint, now = lock_endpoint(session, attempt.endpoint_id)
        row = session.get(WebhookDelivery, attempt.delivery_id)
        if endpoint is None or row is None or row.lease_token != attempt.token:
            return None
        row.lease_token = row.lease_until = None
        row.response_status, row.response_body = (response.status, response.body) if response else (None, None)
        row.error = reason
        if is_received(response):
            row.status, row.finished_at, row.next_at = DeliveryStatus.DELIVERED, now, None
            endpoint.failing_since = None
            return None
        endpoint.failing_since = endpoint.failing_since or now
        retry_after = timedelta(seconds=(response.retry_after_s if response else None) or 0)
        endpoint.wake_at = now + max(retry_after, PAUSE_AFTER_FAILURE)
        is_gone = response is not None and response.status == GONE
        if not is_gone and row.attempts <= len(RETRIES):
            row.next_at = now + max(RETRIES[row.attempts - 1] * spread(*JITTER), retry_after)
            return None
        row.status, row.finished_at, row.next_at = DeliveryStatus.FAILED, now, None
        if not is_gone and now - endpoint.failing_since < GIVE_UP_AFTER:
            return None
        endpoint.disabled_at = now
        endpoint.disabled_reason = DisabledReason.GONE if is_gone else DisabledReason.FAILING
        return endpoint.disabled_reason


def is_received(response: WebhookResponse | None) -> bool:
    """Tell whether the receiver accepted the message: any 2xx."""
    return response is not None and response.status // 100 == 2  # noqa: PLR2004  # HTTP's own name


def secret_field(endpoint_id: uuid.UUID) -> Field:
    """Name the field of an endpoint's secret, for the seal."""
    return Field(WebhookEndpoint.__tablename__, "secret", endpoint_id)


def previous_secret_field(endpoint_id: uuid.UUID) -> Field:
    """Name the field of the secret before it."""
    return Field(WebhookEndpoint.__tablename__, "previous_secret", endpoint_id)


def old_secret_field(old_secret_id: uuid.UUID) -> Field:
    """Name the field of a secret from before that."""
    return Field(WebhookOldSecret.__tablename__, "secret", old_secret_id)


def _valid_secrets(session: Session, endpoint: WebhookEndpoint, now: datetime, sealer: Sealer) -> tuple[str, ...]:
    """Return the secrets to sign with: the present one, and every older one that is still valid."""
    current = sealer.open(endpoint.sealed_secret, secret_field(endpoint.id))
    is_rotating = endpoint.previous_secret_until is not None and endpoint.previous_secret_until > now
    if not is_rotating or endpoint.sealed_previous_secret is None:
        return (current,)  # the older ones expired before it
    previous = sealer.open(endpoint.sealed_previous_secret, previous_secret_field(endpoint.id))
    older = select(WebhookOldSecret).where(
        WebhookOldSecret.endpoint_id == endpoint.id, WebhookOldSecret.valid_until > now
    )
    rows = session.scalars(older.order_by(WebhookOldSecret.valid_until))
    return (current, previous, *(sealer.open(row.sealed_secret, old_secret_field(row.id)) for row in rows))


def lock_endpoint(session: Session, endpoint_id: uuid.UUID) -> tuple[WebhookEndpoint | None, datetime]:
    """Lock the endpoint's row, always before any of its deliveries, and read the database's time."""
    lock = select(WebhookEndpoint).where(WebhookEndpoint.id == endpoint_id)
    # Not FOR UPDATE: inserting a delivery refers to this row, and must not wait.
    endpoint = session.scalar(lock.with_for_update(key_share=True))
    return endpoint, session.scalars(select(func.clock_timestamp())).one()


BATCH = 50
"""Endpoints published in one pass of one sweeper."""

REPUBLISH_PAUSE_CAP_S = 30
"""Longest pause in seconds between messages while no worker takes one; doubled from 1 s, or messages would pile up."""

DOUBLINGS = 8
"""Doublings after which the pause is at its cap in any case; bounds the exponent."""

MAX_SEND_S = 10.0
"""Seconds after which a thread starts no further attempt; the next sweep publishes what is left."""

THREADS = MAX_ENDPOINTS
"""Sending threads of one process: one for each endpoint of a workspace, so that no receiver of it waits for another."""

KEEP_FOR = timedelta(days=30)
"""How long an ended delivery stays in the log."""

PURGE_BATCH = 200
"""Old deliveries that one pass deletes."""


@dataclass(frozen=True)
class DeliveryService:
    """Delivers webhooks at least once, with the same `webhook-id` on every attempt."""

    sessions: Sessions
    publisher: WebhookPublisher
    sender: Sender
    sealer: Sealer
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    clock: Callable[[], float] = time.monotonic
    _threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(THREADS, "webhook"))
    """Threads start when needed: a process that sends nothing has none."""
    _in_progress: set[uuid.UUID] = field(default_factory=set)
    """Endpoints that a thread of this process is sending to."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closing: threading.Event = field(default_factory=threading.Event)

    def sweep(self) -> int:
        """Publish every endpoint that has deliveries due, and delete old ones; return how many were published."""
        with self.sessions.begin() as session:
            has_due = select(WebhookDelivery.id).where(WebhookDelivery.endpoint_id == WebhookEndpoint.id, is_due())
            # A CTE runs once (see app/sql/take_due_operations.sql).
            due = (
                select(WebhookEndpoint.id)
                .where(WebhookEndpoint.disabled_at.is_(None), WebhookEndpoint.wake_at <= func.now(), has_due.exists())
                .order_by(WebhookEndpoint.wake_at)
                .limit(BATCH)
                .with_for_update(skip_locked=True, key_share=True)
                .cte("due")
            )
            pause_s = func.least(
                REPUBLISH_PAUSE_CAP_S, func.power(2, func.least(WebhookEndpoint.idle_kicks, DOUBLINGS))
            )
            taken = session.scalars(
                update(WebhookEndpoint)
                .where(WebhookEndpoint.id.in_(select(due.c.id)))
                .values(wake_at=func.now() + timedelta(seconds=1) * pause_s, idle_kicks=WebhookEndpoint.idle_kicks + 1)
                .returning(WebhookEndpoint.id)
                .execution_options(synchronize_session=False)
            ).all()
            old = (
                select(WebhookDelivery.id).where(WebhookDelivery.finished_at < func.now() - KEEP_FOR).limit(PURGE_BATCH)
            )
            session.execute(delete(WebhookDelivery).where(WebhookDelivery.id.in_(old.scalar_subquery())))
        for endpoint_id in taken:
            self.publisher.publish_webhooks(endpoint_id)
        return len(taken)

    def start(self, endpoint_id: uuid.UUID) -> Future[int] | None:
        """Deliver in the endpoint's own thread, without waiting; None when this process is already sending to it.

        What the thread does not get to stays due, and the next sweep publishes it.
        """
        with self._lock:
            if endpoint_id in self._in_progress or self._closing.is_set():
                return None
            self._in_progress.add(endpoint_id)
            return self._threads.submit(self._deliver_in_thread, endpoint_id)

    def close(self) -> None:
        """Start no further attempt, and wait for those in progress."""
        with self._lock:
            self._closing.set()
        self._threads.shutdown()

    def _deliver_in_thread(self, endpoint_id: uuid.UUID) -> int:
        try:
            return self.deliver(endpoint_id)
        except Exception:  # the outermost frame of a thread: nothing else would log it
            log.exception("webhook_thread_broke", endpoint_id=str(endpoint_id))
            return 0
        finally:
            with self._lock:
                self._in_progress.discard(endpoint_id)

    def deliver(self, endpoint_id: uuid.UUID) -> int:
        """Send the endpoint's due deliveries in order until one fails or none is left; return how many were delivered.

        Does nothing while enough workers send to this endpoint: the next sweep publishes it again.
        """
        delivered, until = 0, self.clock() + MAX_SEND_S
        while self.clock() < until and not self._closing.is_set():
            try:
                attempt = claim_delivery(self.sessions, endpoint_id, self.sealer)
            except SealError as error:
                # Not the receiver's fault: what is due waits for the key.
                log.error("webhook_secret_not_opened", endpoint_id=str(endpoint_id), detail=str(error))  # noqa: TRY400
                break
            if attempt is None or not self._send(attempt):
                break
            delivered += 1
        return delivered

    def _send(self, attempt: Attempt) -> bool:
        started, response, reason = self.clock(), None, None
        try:
            response = self.sender.send(attempt.url, self._headers(attempt), attempt.payload.encode())
        except SendError as error:
            reason = error.reason
        disabled = save_attempt(self.sessions, attempt, response, reason)
        self._log_attempt(attempt, response, reason, self.clock() - started, disabled)
        return is_received(response)

    def _headers(self, attempt: Attempt) -> dict[str, str]:
        from standardwebhooks import Webhook  # noqa: PLC0415  # 50 ms that only a worker needs to spend

        at = self.now()
        signatures = [Webhook(secret).sign(attempt.message_id, at, attempt.payload) for secret in attempt.secrets]
        return {
            "Content-Type": "application/json",
            "User-Agent": "Trunkline-Webhooks",
            "webhook-id": attempt.message_id,
            "webhook-timestamp": str(int(at.timestamp())),
            "webhook-signature": " ".join(signatures),
        }

    @staticmethod
    def _log_attempt(
        attempt: Attempt,
        response: WebhookResponse | None,
        reason: str | None,
        took_s: float,
        disabled: DisabledReason | None,
    ) -> None:
        """Log ids and the result, but neither URL nor body, which may hold the receiver's secrets."""
        fields = {
            "endpoint_id": str(attempt.endpoint_id),
            "delivery_id": str(attempt.delivery_id),
            "webhook_event": attempt.event,
            "attempt": attempt.number,
            "took_s": round(took_s, 3),
        }
        if response is not None and is_received(response):
            log.info("webhook_delivered", status=response.status, **fields)
        else:
            log.warning("webhook_failed", status=response.status if response else None, reason=reason, **fields)
        if disabled:
            log.error("webhook_endpoint_disabled", endpoint_id=str(attempt.endpoint_id), reason=disabled)
