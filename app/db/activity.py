"""What was asked for and by whom: one row for each request that changed something, in the same transaction."""

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Identity, Index, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.db.engine import Sessions
from app.db.models import Base
from app.db.queries import purge_rows
from app.domain.activity import Action, Channel, Origin

KEPT = timedelta(days=400)
"""How long a row is kept: a yearly review still sees the whole year. Addresses are personal data, so not for ever."""


class Activity(Base):
    """One request that changed something, or a sign-in; never changed."""

    __tablename__ = "activity"
    __table_args__ = (
        Index("ix_activity_subject_id", "subject_id", "id"),
        Index("ix_activity_at", "at", postgresql_using="brin"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    action: Mapped[str]
    subject_id: Mapped[uuid.UUID | None]
    """What was changed; no foreign key, since the row outlives it."""
    channel: Mapped[str]
    actor: Mapped[str | None]
    """The key's name, or the command; null for a stranger."""
    key_id: Mapped[uuid.UUID | None]
    address: Mapped[str | None]
    request_id: Mapped[str | None]
    detail: Mapped[dict[str, Any]] = mapped_column(default=dict)


def record_activity(
    session: Session, origin: Origin, action: Action, subject_id: uuid.UUID | None, **detail: Any
) -> None:
    """Remember in the caller's transaction who asked for this; nothing where nobody did."""
    if origin.channel is Channel.INTERNAL:
        return
    session.add(
        Activity(
            action=action,
            subject_id=subject_id,
            channel=origin.channel,
            actor=origin.requested_by,
            key_id=origin.key_id,
            address=origin.address,
            request_id=origin.request_id,
            detail=detail,
        )
    )


def list_activity(session: Session, *, subject_id: uuid.UUID | None, limit: int) -> Sequence[Activity]:
    """Return up to `limit` rows, the newest first; only those about `subject_id` where it is given."""
    query = select(Activity) if subject_id is None else select(Activity).where(Activity.subject_id == subject_id)
    return session.scalars(query.order_by(Activity.id.desc()).limit(limit)).all()


def purge_activity(sessions: Sessions) -> int:
    """Delete the rows that have had their day; return how many."""
    return purge_rows(sessions, Activity.at < func.now() - KEPT, Activity.id)
