"""The rows of webhooks: endpoints and the outbox of their deliveries."""

import uuid
from datetime import datetime

from sqlalchemy import Enum, ForeignKey, Index, Text, func, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from app.db.models import ENUM_LENGTH, Base
from app.db.visibility import Owned, workspace_column
from app.domain.events import DeliveryStatus


class WebhookEndpoint(Owned, Base):
    """A URL that events are posted to."""

    __tablename__ = "webhook_endpoints"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    workspace_id: Mapped[uuid.UUID] = workspace_column()
    url: Mapped[str]
    description: Mapped[str | None]
    events: Mapped[list[str] | None] = mapped_column(ARRAY(Text))
    """Null: every event, those of later versions too."""
    sealed_secret: Mapped[str] = mapped_column("secret")
    """Sealed (`app.sealing`), and no hash, which could not sign; it is opened only for the signature."""
    sealed_previous_secret: Mapped[str | None] = mapped_column("previous_secret")
    """The one before it, which signs too until `previous_secret_until`; then the sweeper erases it."""
    previous_secret_until: Mapped[datetime | None]
    disabled_at: Mapped[datetime | None]
    disabled_reason: Mapped[str | None]
    failing_since: Mapped[datetime | None]
    """The first failed try after the last that succeeded."""
    wake_at: Mapped[datetime] = mapped_column(server_default=func.now())
    """Before this moment the sweep publishes no message about it."""
    idle_kicks: Mapped[int] = mapped_column(default=0, server_default=text("0"))
    """How often the sweep published one since a worker last came."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class WebhookOldSecret(Base):
    """A secret from before the previous one that is still valid: the secret was changed twice within a day."""

    __tablename__ = "webhook_old_secrets"

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    endpoint_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("webhook_endpoints.id", ondelete="CASCADE"), index=True)
    sealed_secret: Mapped[str] = mapped_column("secret")
    valid_until: Mapped[datetime]


class WebhookDelivery(Base):
    """One event for one endpoint, written in the transaction that made it so, and tried until it is received."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        Index("ix_webhook_deliveries_due", "endpoint_id", "next_at", postgresql_where=text("status = 'pending'")),
        Index("ix_webhook_deliveries_page", "endpoint_id", "created_at", "id"),
        Index("ix_webhook_deliveries_finished_at", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    endpoint_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("webhook_endpoints.id", ondelete="CASCADE"))
    event: Mapped[str]
    payload: Mapped[str]
    """The body, byte for byte: every try sends the same."""
    status: Mapped[DeliveryStatus] = mapped_column(
        Enum(
            DeliveryStatus,
            native_enum=False,
            create_constraint=True,
            values_callable=lambda members: [member.value for member in members],
            length=ENUM_LENGTH,
            name="status",
        ),
        default=DeliveryStatus.PENDING,
    )
    attempts: Mapped[int] = mapped_column(default=0)
    """Tries since it was queued, or queued again by hand."""
    next_at: Mapped[datetime | None]
    """When the next try is due; null once it is over."""
    lease_token: Mapped[uuid.UUID | None]
    lease_until: Mapped[datetime | None]
    """A worker holds it until this moment."""
    last_attempt_at: Mapped[datetime | None]
    response_status: Mapped[int | None]
    response_body: Mapped[str | None]
    """The first KiB of the last response."""
    error: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]

    @property
    def message_id(self) -> str:
        """`webhook-id`: the same on every try, so that a receiver can tell a repetition."""
        return f"msg_{self.id.hex}"
