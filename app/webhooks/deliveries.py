"""The outbox of webhooks: its rows as a queue, and the threads that send one endpoint's deliveries in turn."""

import random
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

import structlog
from sqlalchemy import ColumnElement, and_, delete, func, or_, select, update
from sqlalchemy.orm import Session

from app.db.engine import Sessions
from app.db.webhooks import WebhookDelivery, WebhookEndpoint, WebhookOldSecret
from app.domain.events import MAX_ENDPOINTS, DeliveryStatus, DisabledReason
from app.webhooks.sending import Answer, Sender, SendError

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
"""Rests after each failed try: the schedule that receivers of Standard Webhooks know, 28 hours in all."""

JITTER = (0.9, 1.2)
"""What a rest is multiplied by, at random: a receiver that comes back is not met by everything at once."""

LEASE = timedelta(seconds=45)
"""How long a worker may be at one try: name resolution, 15 s for the request, and a margin. Then another takes it."""

PARALLEL = 4
"""Tries of one endpoint at a time, all processes together; in each process there is one."""

GIVE_UP_AFTER = timedelta(days=5)
"""How long an endpoint may fail without one success before it is disabled; a delivery must have been given up too."""

PAUSE_AFTER_FAILURE = timedelta(seconds=1)
"""How long an endpoint is left alone after a failed try, so that a dead one costs a try a second and not a flood."""

GONE = 410


@dataclass(frozen=True)
class Attempt:
    """The right to try one delivery until its lease ends, and all that is needed for it."""

    delivery_id: uuid.UUID
    endpoint_id: uuid.UUID
    token: uuid.UUID
    number: int
    """The how many-eth try it is, from 1."""
    event: str
    message_id: str
    payload: str
    url: str = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)
    """What to sign with: during a rotation the old ones too."""


def is_due() -> ColumnElement[bool]:
    """Match the deliveries that nobody tries and whose time has come."""
    now, delivery = func.clock_timestamp(), WebhookDelivery
    is_free = or_(delivery.lease_until.is_(None), delivery.lease_until <= now)
    return and_(delivery.status == DeliveryStatus.PENDING, delivery.next_at <= now, is_free)


def claim(sessions: Sessions, endpoint_id: uuid.UUID) -> Attempt | None:
    """Take the endpoint's delivery that is due the longest; None where there is none, or enough are under way."""
    with sessions.begin() as session:
        endpoint, now = lock_endpoint(session, endpoint_id)
        if endpoint is None or endpoint.disabled_at is not None:
            return None
        own = WebhookDelivery.endpoint_id == endpoint_id
        held = (own, WebhookDelivery.status == DeliveryStatus.PENDING, WebhookDelivery.lease_until > now)
        if (session.scalar(select(func.count()).where(*held)) or 0) >= PARALLEL:
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
            _valid_secrets(session, endpoint, now),
        )


def keep(
    sessions: Sessions,
    attempt: Attempt,
    answer: Answer | None,
    reason: str | None,
    spread: Callable[[float, float], float] = random.uniform,
) -> DisabledReason | None:
    """Write what came of a try, unless its lease was lost; return why the endpoint is disabled by it, if it is."""
    with sessions.begin() as session:
        endpoint, now = lock_endpoint(session, attempt.endpoint_id)
        row = session.get(WebhookDelivery, attempt.delivery_id)
        if endpoint is None or row is None or row.lease_token != attempt.token:
            return None
        row.lease_token = row.lease_until = None
        row.response_status, row.response_body = (answer.status, answer.body) if answer else (None, None)
        row.error = reason
        if is_received(answer):
            row.status, row.finished_at, row.next_at = DeliveryStatus.DELIVERED, now, None
            endpoint.failing_since = None
            return None
        endpoint.failing_since = endpoint.failing_since or now
        wish = timedelta(seconds=(answer.retry_after_s if answer else None) or 0)
        endpoint.wake_at = now + max(wish, PAUSE_AFTER_FAILURE)
        is_gone = answer is not None and answer.status == GONE
        if not is_gone and row.attempts <= len(RETRIES):
            row.next_at = now + max(RETRIES[row.attempts - 1] * spread(*JITTER), wish)
            return None
        row.status, row.finished_at, row.next_at = DeliveryStatus.FAILED, now, None
        if not is_gone and now - endpoint.failing_since < GIVE_UP_AFTER:
            return None
        endpoint.disabled_at = now
        endpoint.disabled_reason = DisabledReason.GONE if is_gone else DisabledReason.FAILING
        return endpoint.disabled_reason


def is_received(answer: Answer | None) -> bool:
    """Say whether the receiver took the message: 2xx, and nothing else."""
    return answer is not None and answer.status // 100 == 2  # noqa: PLR2004  # HTTP's own name


def _valid_secrets(session: Session, endpoint: WebhookEndpoint, now: datetime) -> tuple[str, ...]:
    """Return what to sign with: the secret, and every older one whose day is not over."""
    is_rotating = endpoint.previous_secret_until is not None and endpoint.previous_secret_until > now
    if not is_rotating or endpoint.previous_secret is None:
        return (endpoint.secret,)  # the older ones ended before it
    older = select(WebhookOldSecret.secret).where(
        WebhookOldSecret.endpoint_id == endpoint.id, WebhookOldSecret.valid_until > now
    )
    return (endpoint.secret, endpoint.previous_secret, *session.scalars(older.order_by(WebhookOldSecret.valid_until)))


def lock_endpoint(session: Session, endpoint_id: uuid.UUID) -> tuple[WebhookEndpoint | None, datetime]:
    """Take the endpoint's row lock, always before any of its deliveries', and the database's time."""
    lock = select(WebhookEndpoint).where(WebhookEndpoint.id == endpoint_id)
    # Not FOR UPDATE: what is being announced refers to the row, and must not wait for us.
    endpoint = session.scalar(lock.with_for_update(key_share=True))
    return endpoint, session.scalars(select(func.clock_timestamp())).one()


BATCH = 50
"""Endpoints that one pass of one sweeper gives hints about."""

REPUBLISH_PAUSE_CAP_S = 30
"""Seconds between hints while no worker comes; doubled from one second, or lost workers would find a flood."""

DOUBLINGS = 8
"""Doublings after which the pause is certainly at its cap; keeps the power small."""

DRAIN_S = 10.0
"""Seconds after which a thread begins no further try: the sweep then decides anew what is due."""

THREADS = MAX_ENDPOINTS
"""Threads of one process that send: one for each endpoint there can be, so that no receiver waits for another's."""

KEPT = timedelta(days=30)
"""How long a delivery that is over stays in the log."""

PURGED = 200
"""Old deliveries that one pass removes."""


class Publisher(Protocol):
    """Sends the hint that an endpoint has something due; the rows do not depend on its arrival."""

    def publish_webhooks(self, endpoint_id: uuid.UUID) -> bool:
        """Queue it, best effort and within seconds; say whether the broker took it. Never raises."""


@dataclass(frozen=True)
class DeliveryService:
    """Delivers webhooks at least once; the same `webhook-id` on every try."""

    sessions: Sessions
    publisher: Publisher
    sender: Sender
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    clock: Callable[[], float] = time.monotonic
    _threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(THREADS, "webhook"))
    """Begun as they are needed: a process that sends nothing has none."""
    _at_work: set[uuid.UUID] = field(default_factory=set)
    """Endpoints that a thread of this process is at."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closing: threading.Event = field(default_factory=threading.Event)

    def sweep(self) -> int:
        """Give a hint about every endpoint that has something due; return how many there were."""
        with self.sessions.begin() as session:
            something = select(WebhookDelivery.id).where(WebhookDelivery.endpoint_id == WebhookEndpoint.id, is_due())
            # A WITH: run once (see the sweeper's).
            due = (
                select(WebhookEndpoint.id)
                .where(WebhookEndpoint.disabled_at.is_(None), WebhookEndpoint.wake_at <= func.now(), something.exists())
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
            old = select(WebhookDelivery.id).where(WebhookDelivery.finished_at < func.now() - KEPT).limit(PURGED)
            session.execute(delete(WebhookDelivery).where(WebhookDelivery.id.in_(old.scalar_subquery())))
        for endpoint_id in taken:
            self.publisher.publish_webhooks(endpoint_id)
        return len(taken)

    def start(self, endpoint_id: uuid.UUID) -> Future[int] | None:
        """Deliver in a thread of the endpoint's own, and wait for nothing; None where this process is at it already.

        What a thread did not come to is due, and the sweep comes again.
        """
        with self._lock:
            if endpoint_id in self._at_work or self._closing.is_set():
                return None
            self._at_work.add(endpoint_id)
            return self._threads.submit(self._deliver_apart, endpoint_id)

    def close(self) -> None:
        """Begin no further try, and wait for those under way."""
        with self._lock:
            self._closing.set()
        self._threads.shutdown()

    def _deliver_apart(self, endpoint_id: uuid.UUID) -> int:
        try:
            return self.deliver(endpoint_id)
        except Exception:  # the edge of a thread: nobody else would tell
            log.exception("webhook_thread_broke", endpoint_id=str(endpoint_id))
            return 0
        finally:
            with self._lock:
                self._at_work.discard(endpoint_id)

    def deliver(self, endpoint_id: uuid.UUID) -> int:
        """Try the endpoint's due deliveries in turn until one fails or none is left; return how many arrived.

        Does nothing while enough workers are at this endpoint: the sweep comes again.
        """
        arrived, until = 0, self.clock() + DRAIN_S
        while self.clock() < until and not self._closing.is_set():
            attempt = claim(self.sessions, endpoint_id)
            if attempt is None or not self._try(attempt):
                break
            arrived += 1
        return arrived

    def _try(self, attempt: Attempt) -> bool:
        started, answer, reason = self.clock(), None, None
        try:
            answer = self.sender.send(attempt.url, self._headers(attempt), attempt.payload.encode())
        except SendError as error:
            reason = error.reason
        disabled = keep(self.sessions, attempt, answer, reason)
        self._tell(attempt, answer, reason, self.clock() - started, disabled)
        return is_received(answer)

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
    def _tell(
        attempt: Attempt, answer: Answer | None, reason: str | None, took_s: float, disabled: DisabledReason | None
    ) -> None:
        """Log ids and what happened; neither URL nor body, which may hold secrets of the receiver's."""
        about = {
            "endpoint_id": str(attempt.endpoint_id),
            "delivery_id": str(attempt.delivery_id),
            "webhook_event": attempt.event,
            "attempt": attempt.number,
            "took_s": round(took_s, 3),
        }
        if answer is not None and is_received(answer):
            log.info("webhook_delivered", status=answer.status, **about)
        else:
            log.warning("webhook_failed", status=answer.status if answer else None, reason=reason, **about)
        if disabled:
            log.error("webhook_endpoint_disabled", endpoint_id=str(attempt.endpoint_id), reason=disabled)
