"""The read side of bulks: pages of bulks and of items."""

import uuid
from dataclasses import dataclass

from app.bulk import queries
from app.db.engine import Sessions
from app.db.models import COUNTS, Bulk, BulkItem
from app.db.queries import Position
from app.domain.errors import bulk_not_found
from app.domain.statuses import BulkStatus, ItemStatus
from app.views.bulk_schemas import item_cursor
from app.views.operations import Failure
from app.views.reader import cut

LINKED = ("items", "report", "cancel", "resume")


@dataclass(frozen=True, slots=True)
class BulkView:
    """One bulk as it is shown."""

    row: Bulk

    def __getattr__(self, name: str) -> object:
        return getattr(self.row, name)

    @property
    def counts(self) -> dict[str, int]:
        """How many items stand where."""
        return {name: getattr(self.row, name) for name in COUNTS}

    @property
    def progress(self) -> float:
        """The part of the items that is over; never 1 before the last one is."""
        done = self.row.succeeded + self.row.failed + self.row.cancelled
        return done * 10_000 // self.row.total / 10_000

    @property
    def links(self) -> dict[str, str]:
        """Where the rest is."""
        url = bulk_url(self.row.id)
        return {"status": url} | {name: f"{url}/{name}" for name in LINKED}


@dataclass(frozen=True, slots=True)
class ItemView:
    """One item as it is shown."""

    row: BulkItem

    def __getattr__(self, name: str) -> object:
        return getattr(self.row, name)

    @property
    def error(self) -> Failure | None:
        """Why it failed."""
        return Failure(self.row.error_code, self.row.error_detail or "") if self.row.error_code else None


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
    """Reads bulks and their items; each call is one transaction that writes nothing."""

    sessions: Sessions

    def bulks(self, *, limit: int, status: BulkStatus | None = None, cursor: Position | None = None) -> BulkPage:
        """Return one page of bulks, the newest first."""
        with self.sessions() as session:
            page = cut(queries.list_bulks(session, status=status, after=cursor, limit=limit + 1), limit)
        return BulkPage([BulkView(row) for row in page.items], page.next_cursor)

    def items(self, bulk_id: uuid.UUID, *, limit: int, status: ItemStatus | None = None, cursor: int = 0) -> ItemPage:
        """Return one page of items in their order; `RefusedError` 404."""
        with self.sessions() as session:
            if session.get(Bulk, bulk_id) is None:
                raise bulk_not_found(bulk_id)
            rows = queries.list_items(session, bulk_id, status=status, after=cursor, limit=limit + 1)
        shown = [ItemView(row) for row in rows[:limit]]
        return ItemPage(shown, item_cursor(rows[limit - 1].position) if len(rows) > limit else None)


def bulk_url(bulk_id: uuid.UUID) -> str:
    """Return where a bulk is found."""
    return f"/api/provisionings/{bulk_id}"
