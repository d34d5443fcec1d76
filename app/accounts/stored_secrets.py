"""Every secret in the database: counts them by how they are stored, and wraps them by a new key."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.accounts.credentials import old_secret_field, secret_field
from app.db.engine import Sessions
from app.db.models import CarrierAccount, VoiceProject
from app.db.webhooks import WebhookEndpoint, WebhookOldSecret
from app.sealing import Field, Sealer, SealError, is_sealed
from app.webhooks import deliveries

log = structlog.get_logger(__name__)

_FIELDS: Sequence[tuple[Any, str, Callable[[Any], Field]]] = (
    (WebhookEndpoint, "sealed_secret", lambda row: deliveries.secret_field(row.id)),
    (WebhookEndpoint, "sealed_previous_secret", lambda row: deliveries.previous_secret_field(row.id)),
    (WebhookOldSecret, "sealed_secret", lambda row: deliveries.old_secret_field(row.id)),
    (CarrierAccount, "sealed_secret", secret_field),
    (CarrierAccount, "sealed_old_secret", old_secret_field),
    (VoiceProject, "sealed_secret", secret_field),
    (VoiceProject, "sealed_old_secret", old_secret_field),
)
"""Class of rows, attribute, and the field that its text is sealed under."""


class StoredSecrets(NamedTuple):
    """How many secrets are stored: in all, in clear, sealed by an older key, sealed by one that is not ours."""

    total: int
    in_clear: int
    outdated: int
    unreadable: int


@dataclass(frozen=True)
class StoredSecretService:
    """What is done with all stored secrets at once."""

    sessions: Sessions
    sealer: Sealer

    def rewrap(self) -> int:
        """Wrap every stored secret by the newest key, and seal those in clear; return how many were changed.

        `SealError`, with nothing changed, when one cannot be opened.
        """
        changed = 0
        with self.sessions.begin() as session:
            for row, column, field in _all(session, locks=True):
                stored = getattr(row, column)
                again = self.sealer.rewrapped(stored, field)
                if again != stored:
                    setattr(row, column, again)
                    changed += 1
        log.info("stored_secrets_rewrapped", count=changed)
        return changed

    def count(self) -> StoredSecrets:
        """Count the stored secrets by how they are stored."""
        total = in_clear = outdated = unreadable = 0
        with self.sessions() as session:
            for row, column, field in _all(session):
                stored = getattr(row, column)
                total += 1
                in_clear += not is_sealed(stored)
                try:
                    outdated += is_sealed(stored) and self.sealer.rewrapped(stored, field) != stored
                except SealError:
                    unreadable += 1
        return StoredSecrets(total, in_clear, outdated, unreadable)


def _all(session: Session, *, locks: bool = False) -> Iterator[tuple[Any, str, Field]]:
    """Yield each stored secret: its row, the attribute that holds it, and its field."""
    for model, column, field_of in _FIELDS:
        found = select(model).where(getattr(model, column).is_not(None)).order_by(model.id)
        for row in session.scalars(found.with_for_update(key_share=True) if locks else found).all():
            yield row, column, field_of(row)
