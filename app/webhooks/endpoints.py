"""Webhook endpoints: register, change, rotate the secret, test, read the delivery log."""

import base64
import secrets
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.db.access import record_activity
from app.db.engine import Sessions
from app.db.queries import Position, list_deliveries, purge_rows
from app.db.visibility import home_workspace
from app.db.webhooks import WebhookDelivery, WebhookEndpoint, WebhookOldSecret
from app.domain.errors import ErrorCode, RefusedError, webhook_delivery_not_found, webhook_not_found
from app.domain.events import (
    INTERNAL,
    MAX_ENDPOINTS,
    Action,
    DeliveryStatus,
    DisabledReason,
    Origin,
    WebhookEvent,
    example_data,
    payload_of,
)
from app.sealing import Sealer
from app.webhooks.announcements import WebhookPublisher
from app.webhooks.deliveries import (
    lock_endpoint,
    old_secret_field,
    previous_secret_field,
    secret_field,
)
from app.webhooks.sending import Sender, UrlRefusedError

log = structlog.get_logger(__name__)

SECRET_PREFIX = "whsec_"  # noqa: S105  # what a secret begins with
SECRET_BYTES = 32
"""Bytes of randomness: Standard Webhooks asks for 24 to 64."""

OLD_SECRET_LIVES = timedelta(hours=24)
"""How long messages are also signed with the old secret after a rotation: a day to deploy the new one."""

MAX_OLDER_SECRETS = 9
"""Valid secrets older than the previous one: each signs every message, and header sizes are limited."""


@dataclass(frozen=True)
class EndpointWithSecret:
    """An endpoint and its new secret, which is stored sealed only."""

    endpoint: WebhookEndpoint
    secret: str


@dataclass(frozen=True)
class WebhookService:
    """What a client may do with webhook endpoints."""

    sessions: Sessions
    publisher: WebhookPublisher
    sender: Sender
    sealer: Sealer

    def create(
        self, url: str, events: Sequence[str] | None, description: str | None, *, origin: Origin = INTERNAL
    ) -> EndpointWithSecret:
        """Register an endpoint for the events (None: all); 422 for a URL that is not allowed.

        No other call shows the secret.
        """
        self._check(url)
        with self.sessions.begin() as session:
            # Held until the commit: of two concurrent requests the second counts the first.
            session.execute(select(func.pg_advisory_xact_lock(func.hashtext("trunkline webhooks"))))
            own = select(func.count()).where(WebhookEndpoint.workspace_id == home_workspace())
            if (session.scalar(own) or 0) >= MAX_ENDPOINTS:
                raise RefusedError(ErrorCode.WEBHOOK_LIMIT, f"There are {MAX_ENDPOINTS} webhooks already: delete one.")
            wanted = list(events) if events is not None else None
            endpoint_id, secret = uuid.uuid4(), _new_secret()
            sealed = self.sealer.seal(secret, secret_field(endpoint_id))
            endpoint = WebhookEndpoint(
                id=endpoint_id, url=url, events=wanted, description=description, sealed_secret=sealed
            )
            session.add(endpoint)
            session.flush()
            session.refresh(endpoint)
            record_activity(session, origin, Action.WEBHOOK_CREATE, endpoint.id, endpoint.workspace_id)
        log.info("webhook_created", endpoint_id=str(endpoint.id))
        return EndpointWithSecret(endpoint, secret)

    def all(self) -> list[WebhookEndpoint]:
        """Return every endpoint, the oldest first."""
        with self.sessions() as session:
            return list(session.scalars(select(WebhookEndpoint).order_by(WebhookEndpoint.created_at)))

    def get(self, webhook_id: uuid.UUID) -> WebhookEndpoint:
        """Return one endpoint; 404 `webhook_not_found`."""
        with self.sessions() as session:
            endpoint = session.get(WebhookEndpoint, webhook_id)
        if endpoint is None:
            raise webhook_not_found(webhook_id)
        return endpoint

    def change(
        self, webhook_id: uuid.UUID, changes: Mapping[str, Any], *, origin: Origin = INTERNAL
    ) -> WebhookEndpoint:
        """Change `url`, `events`, `description` or `enabled`; enabling resumes pending deliveries."""
        if "url" in changes:
            self._check(changes["url"])
        with self.sessions.begin() as session:
            endpoint, now = lock_endpoint(session, webhook_id)
            if endpoint is None:
                raise webhook_not_found(webhook_id)
            for name in changes.keys() - {"enabled"}:
                setattr(endpoint, name, changes[name])
            is_enabled = changes.get("enabled")
            if is_enabled is True:
                endpoint.disabled_at = endpoint.disabled_reason = endpoint.failing_since = None
                endpoint.wake_at, endpoint.idle_kicks = now, 0
            elif is_enabled is False and endpoint.disabled_at is None:
                endpoint.disabled_at, endpoint.disabled_reason = now, DisabledReason.REQUESTED
            # Only the names of the fields: a URL may have a password in its path.
            about = {"fields": sorted(changes)}
            record_activity(session, origin, Action.WEBHOOK_CHANGE, webhook_id, endpoint.workspace_id, **about)
        return endpoint

    def delete(self, webhook_id: uuid.UUID, *, origin: Origin = INTERNAL) -> None:
        """Delete an endpoint with its secret and log; pending deliveries are dropped."""
        with self.sessions.begin() as session:
            endpoint = session.get(WebhookEndpoint, webhook_id, with_for_update=True)
            if endpoint is None:
                raise webhook_not_found(webhook_id)
            session.delete(endpoint)
            record_activity(session, origin, Action.WEBHOOK_DELETE, webhook_id, endpoint.workspace_id)
        log.info("webhook_deleted", endpoint_id=str(webhook_id))

    def rotate_secret(self, webhook_id: uuid.UUID, *, origin: Origin = INTERNAL) -> EndpointWithSecret:
        """Give the endpoint a new secret; for a day every message is signed with the old one as well.

        Each old secret stays valid for its day, also across further rotations. 409 `webhook_limit` with too many.
        """
        with self.sessions.begin() as session:
            endpoint, now = lock_endpoint(session, webhook_id)
            if endpoint is None:
                raise webhook_not_found(webhook_id)
            self._keep_previous(session, endpoint, now)
            current = self.sealer.open(endpoint.sealed_secret, secret_field(webhook_id))
            endpoint.sealed_previous_secret = self.sealer.seal(current, previous_secret_field(webhook_id))
            endpoint.previous_secret_until = now + OLD_SECRET_LIVES
            secret = _new_secret()
            endpoint.sealed_secret = self.sealer.seal(secret, secret_field(webhook_id))
            record_activity(session, origin, Action.WEBHOOK_ROTATE_SECRET, webhook_id, endpoint.workspace_id)
        log.info("webhook_secret_rotated", endpoint_id=str(webhook_id))
        return EndpointWithSecret(endpoint, secret)

    def purge_secrets(self) -> int:
        """Erase expired secrets; return how many."""
        expired = WebhookEndpoint.previous_secret_until <= func.now()
        with self.sessions.begin() as session:
            erased = session.execute(
                update(WebhookEndpoint)
                .where(expired)
                .values(sealed_previous_secret=None, previous_secret_until=None)
                .execution_options(synchronize_session=False)
            )
            count = int(erased.rowcount)  # type: ignore[attr-defined]  # of every UPDATE
        return count + purge_rows(self.sessions, WebhookOldSecret.valid_until <= func.now(), WebhookOldSecret.id)

    def test(
        self, webhook_id: uuid.UUID, event: WebhookEvent = WebhookEvent.PING, *, origin: Origin = INTERNAL
    ) -> WebhookDelivery:
        """Queue a `ping`, or an example of another event, for the endpoint; 409 `webhook_disabled`."""
        with self.sessions.begin() as session:
            endpoint, now = _lock_enabled(session, webhook_id)
            delivery = WebhookDelivery(
                id=uuid.uuid4(),
                endpoint_id=webhook_id,
                event=event,
                payload=payload_of(event, example_data(event, webhook_id)),
                status=DeliveryStatus.PENDING,
                attempts=0,
                next_at=now,
                created_at=now,
            )
            session.add(delivery)
            record_activity(session, origin, Action.WEBHOOK_TEST, webhook_id, endpoint.workspace_id)
        self.publisher.publish_webhooks(webhook_id)
        return delivery

    def deliveries(
        self, webhook_id: uuid.UUID, *, status: DeliveryStatus | None, after: Position | None, limit: int
    ) -> Sequence[WebhookDelivery]:
        """Return up to `limit` deliveries of the endpoint, the newest first; 404 `webhook_not_found`."""
        self.get(webhook_id)
        with self.sessions() as session:
            return list_deliveries(session, webhook_id, status=status, after=after, limit=limit)

    def delivery(self, webhook_id: uuid.UUID, delivery_id: uuid.UUID) -> WebhookDelivery:
        """Return one delivery; 404 `webhook_not_found` or `webhook_delivery_not_found`."""
        self.get(webhook_id)
        with self.sessions() as session:
            found = session.get(WebhookDelivery, delivery_id)
        if found is None or found.endpoint_id != webhook_id:
            raise webhook_delivery_not_found(delivery_id)
        return found

    def redeliver(self, webhook_id: uuid.UUID, delivery_id: uuid.UUID, *, origin: Origin = INTERNAL) -> WebhookDelivery:
        """Queue a delivery again, whatever its status, with all its attempts; 409 `webhook_disabled`."""
        with self.sessions.begin() as session:
            endpoint, now = _lock_enabled(session, webhook_id)
            delivery = session.get(WebhookDelivery, delivery_id)
            if delivery is None or delivery.endpoint_id != webhook_id:
                raise webhook_delivery_not_found(delivery_id)
            delivery.status, delivery.attempts = DeliveryStatus.PENDING, 0
            delivery.next_at, delivery.finished_at = now, None
            about = {"delivery_id": str(delivery_id)}
            record_activity(session, origin, Action.WEBHOOK_REDELIVER, webhook_id, endpoint.workspace_id, **about)
        self.publisher.publish_webhooks(webhook_id)
        return delivery

    def _keep_previous(self, session: Session, endpoint: WebhookEndpoint, now: datetime) -> None:
        """Store the previous secret among the older ones if it is still valid; needs the endpoint's lock."""
        until = endpoint.previous_secret_until
        if endpoint.sealed_previous_secret is None or until is None or until <= now:
            return
        valid = (WebhookOldSecret.endpoint_id == endpoint.id, WebhookOldSecret.valid_until > now)
        if (session.scalar(select(func.count()).where(*valid)) or 0) >= MAX_OLDER_SECRETS:
            detail = f"{MAX_OLDER_SECRETS + 1} old secrets are still valid: wait until one of them expires."
            raise RefusedError(ErrorCode.WEBHOOK_LIMIT, detail)
        old_id = uuid.uuid4()
        secret = self.sealer.open(endpoint.sealed_previous_secret, previous_secret_field(endpoint.id))
        sealed = self.sealer.seal(secret, old_secret_field(old_id))
        session.add(WebhookOldSecret(id=old_id, endpoint_id=endpoint.id, sealed_secret=sealed, valid_until=until))

    def _check(self, url: str) -> None:
        try:
            self.sender.check_url(url)
        except UrlRefusedError as error:
            detail = f"The URL {error}."
            raise RefusedError(ErrorCode.VALIDATION_FAILED, detail, errors={"url": [str(error)]}) from error


def _lock_enabled(session: Session, webhook_id: uuid.UUID) -> tuple[WebhookEndpoint, datetime]:
    endpoint, now = lock_endpoint(session, webhook_id)
    if endpoint is None:
        raise webhook_not_found(webhook_id)
    if endpoint.disabled_at is not None:
        raise RefusedError(ErrorCode.WEBHOOK_DISABLED, "The webhook is disabled: enable it first.")
    return endpoint, now


def _new_secret() -> str:
    return SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
