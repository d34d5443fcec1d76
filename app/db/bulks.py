"""The rows of bulk provisioning: one per bulk, one per item."""

import uuid
from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.models import Base, status_column
from app.domain.bulks import OPEN_BULKS, BulkStatus, ItemStatus

IS_OPEN = "status IN (" + ", ".join(f"'{status}'" for status in sorted(OPEN_BULKS)) + ")"
"""SQL for a bulk that a sweeper must look at."""

IS_LIVE = "status IN ('pending', 'running')"
"""SQL for an item that waits or runs: two of them may not want the same number or agent."""

COUNTS = tuple(status.value for status in ItemStatus)
"""The columns that count a bulk's items, named as the states they count."""


class Bulk(Base):
    """Many numbers asked for in one request; the counts are those of its items as last looked at."""

    __tablename__ = "bulks"
    __table_args__ = (
        CheckConstraint(" + ".join(COUNTS) + " = total", name="counts"),
        CheckConstraint("total > 0", name="total"),
        Index("ix_bulks_open", "created_at", "id", postgresql_where=text(IS_OPEN)),
        Index("ix_bulks_page", "created_at", "id"),
    )

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    status: Mapped[BulkStatus] = mapped_column(status_column(BulkStatus, "status"), default=BulkStatus.QUEUED)
    created_by: Mapped[str | None]
    key_id: Mapped[uuid.UUID | None]
    """The API key that asked; no foreign key, as in every trail."""
    request_id: Mapped[str | None]
    total: Mapped[int]
    pending: Mapped[int] = mapped_column(default=0)
    running: Mapped[int] = mapped_column(default=0)
    succeeded: Mapped[int] = mapped_column(default=0)
    failed: Mapped[int] = mapped_column(default=0)
    cancelled: Mapped[int] = mapped_column(default=0)
    lease_until: Mapped[datetime | None]
    """No other sweeper opens operations for it before this moment."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    """When its first operation was opened."""
    cancelled_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class BulkItem(Base):
    """One number of a bulk, the agent it is for, and the operation that connects it."""

    __tablename__ = "bulk_items"
    __table_args__ = (
        CheckConstraint(
            "status <> 'pending' OR (agent_id IS NOT NULL AND phone_number IS NOT NULL AND operation_id IS NULL)",
            name="pending_can_begin",
        ),
        CheckConstraint("status NOT IN ('running', 'succeeded') OR operation_id IS NOT NULL", name="has_operation"),
        CheckConstraint("status <> 'failed' OR error_code IS NOT NULL", name="failed_says_why"),
        Index("ix_bulk_items_status", "bulk_id", "status", "position"),
        Index("uq_bulk_items_live_number", "bulk_id", "phone_number", unique=True, postgresql_where=text(IS_LIVE)),
        Index("uq_bulk_items_live_agent", "bulk_id", "agent_id", unique=True, postgresql_where=text(IS_LIVE)),
        Index("uq_bulk_items_operation_id", "operation_id", unique=True),
    )

    bulk_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("bulks.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    """From 1, in the order of the request."""
    agent_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("agents.id"))
    phone_number: Mapped[str | None]
    """As it was sent, even where it is no number."""
    takeover: Mapped[bool] = mapped_column(default=False)
    status: Mapped[ItemStatus] = mapped_column(status_column(ItemStatus, "status"))
    operation_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("operations.id"))
    error_code: Mapped[str | None]
    error_detail: Mapped[str | None]
