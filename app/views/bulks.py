"""Reads bulks and their items for display, and returns the report of a bulk as a file."""

import uuid
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from app.bulk import queries
from app.bulk.files import report_text
from app.db.engine import Sessions
from app.db.models import COUNTS, Bulk, BulkItem
from app.db.queries import Position
from app.domain.errors import bulk_not_found
from app.domain.operations import BulkKind, BulkStatus, ItemKind, ItemStatus
from app.views.bulk_schemas import item_cursor
from app.views.operations import Failure, failure_of
from app.views.reader import cut

LINKED = ("items", "report", "cancel", "resume")


@dataclass(frozen=True, slots=True)
class BulkView:
    """One bulk as it is shown."""

    id: uuid.UUID
    kind: BulkKind
    status: BulkStatus
    total: int
    pending: int
    running: int
    succeeded: int
    failed: int
    cancelled: int
    created_by: str | None
    created_at: datetime
    started_at: datetime | None
    cancelled_at: datetime | None
    finished_at: datetime | None

    @classmethod
    def of(cls, row: Bulk) -> "BulkView":
        """Return the view of a row."""
        return cls(
            id=row.id,
            kind=row.kind,
            status=row.status,
            total=row.total,
            pending=row.pending,
            running=row.running,
            succeeded=row.succeeded,
            failed=row.failed,
            cancelled=row.cancelled,
            created_by=row.created_by,
            created_at=row.created_at,
            started_at=row.started_at,
            cancelled_at=row.cancelled_at,
            finished_at=row.finished_at,
        )

    @property
    def counts(self) -> dict[str, int]:
        """Number of items by status."""
        return {name: getattr(self, name) for name in COUNTS}

    @property
    def progress(self) -> float:
        """Fraction of the items that are final; below 1 until the last one is."""
        final = self.succeeded + self.failed + self.cancelled
        return final * 10_000 // self.total / 10_000

    @property
    def links(self) -> dict[str, str]:
        """The bulk's other URLs."""
        url = bulk_url(self.id)
        return {"status": url} | {name: f"{url}/{name}" for name in LINKED}


@dataclass(frozen=True, slots=True)
class ItemView:
    """One item as it is shown."""

    position: int
    kind: ItemKind
    phone_number: str | None
    agent_id: uuid.UUID | None
    to_agent_id: uuid.UUID | None
    """Of a move: the agent that gets the number."""
    status: ItemStatus
    operation_id: uuid.UUID | None
    error: Failure | None
    """Why it failed."""

    @classmethod
    def of(cls, row: BulkItem, bulk: BulkKind) -> "ItemView":
        """Return the view of a row, of such a bulk."""
        return cls(
            row.position,
            row.kind_in(bulk),
            row.phone_number,
            row.agent_id,
            row.target_agent_id,
            row.status,
            row.operation_id,
            failure_of(row),
        )


@dataclass(frozen=True, slots=True)
class BulkPage:
    """One page of bulks."""

    items: list[BulkView]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class ItemPage:
    """One page of items."""

    items: list[ItemView]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class BulkReader:
    """Reads bulks and their items; each call is one read-only transaction."""

    sessions: Sessions

    def bulks(self, *, limit: int, status: BulkStatus | None = None, cursor: Position | None = None) -> BulkPage:
        """Return one page of bulks, the newest first."""
        with self.sessions() as session:
            page = cut(queries.list_bulks(session, status=status, after=cursor, limit=limit + 1), limit)
        return BulkPage([BulkView.of(row) for row in page.items], page.next_cursor)

    def file_names(self, bulk_ids: Collection[uuid.UUID]) -> Mapping[uuid.UUID, str]:
        """Return the names of the files that these bulks were uploaded in; a bulk of the API has none."""
        with self.sessions() as session:
            return queries.file_names(session, bulk_ids)

    def items(self, bulk_id: uuid.UUID, *, limit: int, status: ItemStatus | None = None, cursor: int = 0) -> ItemPage:
        """Return one page of items in the order of the request; `RefusedError` 404."""
        with self.sessions() as session:
            bulk = session.get(Bulk, bulk_id)
            if bulk is None:
                raise bulk_not_found(bulk_id)
            rows = queries.list_items(session, bulk_id, status=status, after=cursor, limit=limit + 1)
        shown = [ItemView.of(row, bulk.kind) for row in rows[:limit]]
        return ItemPage(shown, item_cursor(rows[limit - 1].position) if len(rows) > limit else None)


def bulk_url(bulk_id: uuid.UUID) -> str:
    """Return the path of a bulk."""
    return f"/api/provisionings/{bulk_id}"


def report_download(bulk_id: uuid.UUID, items: Iterable[BulkItem]) -> tuple[str, dict[str, str]]:
    """Return a bulk's report as CSV, with the headers that make a browser save it as a file."""
    headers = {
        "Content-Disposition": f'attachment; filename="provisioning-{bulk_id}.csv"',
        "Content-Type": "text/csv; charset=utf-8; header=present",
    }
    return report_text(items), headers
