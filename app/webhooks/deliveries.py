"""Sends what the outbox holds: the sweeper gives hints, a thread takes one endpoint's deliveries in turn."""

import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

import structlog
from sqlalchemy import delete, func, select, update

from app.db.engine import Sessions
from app.db.webhooks import WebhookDelivery, WebhookEndpoint
from app.domain.webhooks import MAX_ENDPOINTS, DisabledReason
from app.webhooks.outbox import Attempt, claim, is_due, is_received, keep
from app.webhooks.sending import Answer, Sender, SendError

log = structlog.get_logger(__name__)

BATCH = 50
"""Endpoints that one pass of one sweeper gives hints about."""

KICK_CAP_S = 30
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
            pause_s = func.least(KICK_CAP_S, func.power(2, func.least(WebhookEndpoint.idle_kicks, DOUBLINGS)))
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
