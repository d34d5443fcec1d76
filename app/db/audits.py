"""The audits: asked for as rows, so that each is run once, and kept as reports."""

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import Index, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.db.models import Base, status_column
from app.domain.findings import AuditStatus


class Audit(Base):
    """One comparison of all rows with both providers: asked for, run by one worker, kept as a report."""

    __tablename__ = "audits"
    __table_args__ = (Index("ix_audits_created_at", "created_at"),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    status: Mapped[AuditStatus] = mapped_column(status_column(AuditStatus, "status"), default=AuditStatus.QUEUED)
    fix: Mapped[bool] = mapped_column(default=False)
    requested_by: Mapped[str | None]
    key_id: Mapped[uuid.UUID | None]
    """The API key that asked; no foreign key, as in every trail."""
    lease_until: Mapped[datetime | None]
    """Nobody else runs it before this moment, nor is it published again."""
    agents_checked: Mapped[int] = mapped_column(default=0)
    findings: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, default=list)
    error_detail: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
