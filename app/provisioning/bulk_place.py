"""The place of an item in its bulk: taken by one operation, in the statement that opens it (`acceptance`)."""

import uuid
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.bulks import BulkItem
from app.domain.bulks import ItemStatus


class PlaceTakenError(Exception):
    """The item no longer waits: another sweeper opened its operation, or it was cancelled."""


@dataclass(frozen=True, slots=True)
class BulkPlace:
    """One item of a bulk."""

    bulk_id: uuid.UUID
    position: int

    def check(self, session: Session) -> None:
        """Raise `PlaceTakenError` unless the item still waits."""
        item = (BulkItem.bulk_id == self.bulk_id, BulkItem.position == self.position)
        if session.scalar(select(BulkItem.status).where(*item)) is not ItemStatus.PENDING:
            raise PlaceTakenError
