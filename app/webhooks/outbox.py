"""The rows of deliveries as a queue: who may try which one now, and what a try leaves behind."""

import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, func, or_, select, update
from sqlalchemy.orm import Session

from app.db.engine import Sessions
from app.db.webhooks import WebhookDelivery, WebhookEndpoint, WebhookOldSecret
from app.domain.webhooks import DeliveryStatus, DisabledReason
from app.webhooks.sending import Answer

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
