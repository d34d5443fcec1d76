"""The rows of API keys, console sessions, idempotent requests and activity."""

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Identity, Index, Text, func, select, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship, selectinload

from app.db.engine import Sessions
from app.db.models import Base, Workspace
from app.db.queries import purge_rows
from app.db.visibility import Owned, seen_workspace
from app.domain.events import Action, Channel, Origin


class ApiKey(Owned, Base):
    """A bearer key: only the SHA-256 of its text is kept (hex, 64 chars)."""

    __tablename__ = "api_keys"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    workspace_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("workspaces.id"), default=seen_workspace)
    """Whose rows it sees; null: an operator's, which sees all."""
    name: Mapped[str]
    key_hash: Mapped[str] = mapped_column(unique=True)
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    last_used_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]

    workspace: Mapped[Workspace | None] = relationship(lazy="raise")


class ConsoleSession(Base):
    """A browser that is signed in, or was: of its cookie's token only the SHA-256 is kept (hex, 64 chars)."""

    __tablename__ = "sessions"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    token_hash: Mapped[str] = mapped_column(unique=True)
    key_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("api_keys.id"), index=True)
    address: Mapped[str | None]
    """Where it signed in from."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)
    last_seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    ended_at: Mapped[datetime | None]
    """When somebody signed out, signed in anew, or revoked the key."""


class SignInLink(Base):
    """A link that signs a browser in; deleted by whoever uses it. Of its token only the SHA-256 is kept."""

    __tablename__ = "sign_in_links"

    token_hash: Mapped[str] = mapped_column(primary_key=True)
    key_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("api_keys.id"), index=True)
    expires_at: Mapped[datetime]


class IdempotencyKey(Base):
    """The first response to an `Idempotency-Key`, per API key, for 24 hours; without a status it is still running."""

    __tablename__ = "idempotency_keys"

    api_key_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("api_keys.id"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    request_hash: Mapped[str]
    status: Mapped[int | None]
    headers: Mapped[dict[str, Any] | None]
    body: Mapped[dict[str, Any] | None]
    locked_until: Mapped[datetime]
    """Until when a request without a response counts as running; after that its process has died."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now(), index=True)


KEPT = timedelta(days=400)
"""How long a row is kept: a yearly review still sees the whole year. Addresses are personal data, so not for ever."""


class Activity(Owned, Base):
    """One request that changed something, or a sign-in; never changed."""

    __tablename__ = "activity"
    __table_args__ = (
        Index("ix_activity_subject_id", "subject_id", "id"),
        Index("ix_activity_at", "at", postgresql_using="brin"),
        Index("ix_activity_workspace_page", "workspace_id", "id", postgresql_where=text("workspace_id IS NOT NULL")),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    workspace_id: Mapped[uuid.UUID | None]
    """Whose trail it is in, that of what was changed; null: the installation's. No foreign key, as for the subject."""
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    action: Mapped[str]
    subject_id: Mapped[uuid.UUID | None]
    """What was changed; no foreign key, since this row is kept longer."""
    channel: Mapped[str]
    actor: Mapped[str | None]
    """The key's name, or the command; null where no key was given."""
    key_id: Mapped[uuid.UUID | None]
    address: Mapped[str | None]
    request_id: Mapped[str | None]
    detail: Mapped[dict[str, Any]] = mapped_column(default=dict)

    workspace: Mapped[Workspace | None] = relationship(
        lazy="raise", viewonly=True, primaryjoin="foreign(Activity.workspace_id) == Workspace.id"
    )


def record_activity(
    session: Session,
    origin: Origin,
    action: Action,
    subject_id: uuid.UUID | None,
    workspace_id: uuid.UUID | None,
    **detail: Any,
) -> None:
    """Record in the caller's transaction who requested this; internal requests are not recorded.

    `workspace_id` is that of what was changed, None for the installation's.
    """
    if origin.channel is Channel.INTERNAL:
        return
    session.add(
        Activity(
            action=action,
            subject_id=subject_id,
            workspace_id=workspace_id,
            channel=origin.channel,
            actor=origin.requested_by,
            key_id=origin.key_id,
            address=origin.address,
            request_id=origin.request_id,
            detail=detail,
        )
    )


def list_activity(
    session: Session,
    *,
    limit: int,
    subject_id: uuid.UUID | None = None,
    key_id: uuid.UUID | None = None,
    before: int = 0,
) -> Sequence[Activity]:
    """Return up to `limit` rows with their workspaces, the newest first.

    Only those about `subject_id`, of the key `key_id`, and older than the row `before`, where these are given.
    """
    query = select(Activity).options(selectinload(Activity.workspace))
    if subject_id is not None:
        query = query.where(Activity.subject_id == subject_id)
    if key_id is not None:
        query = query.where(Activity.key_id == key_id)
    if before:
        query = query.where(Activity.id < before)
    return session.scalars(query.order_by(Activity.id.desc()).limit(limit)).all()


def purge_activity(sessions: Sessions) -> int:
    """Delete the rows older than `KEPT`; return how many."""
    return purge_rows(sessions, Activity.at < func.now() - KEPT, Activity.id)
