"""The place of an item in its bulk: taken by one operation, in the transaction that opens it."""

import uuid
from dataclasses import dataclass

from sqlalchemy import update
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

    def take(self, session: Session, operation_id: uuid.UUID) -> None:
        """Make the item run under this operation; `PlaceTakenError` rolls the operation back with it."""
        taken = session.execute(
            update(BulkItem)
            .where(
                BulkItem.bulk_id == self.bulk_id,
                BulkItem.position == self.position,
                BulkItem.status == ItemStatus.PENDING,
            )
            .values(status=ItemStatus.RUNNING, operation_id=operation_id)
            .returning(BulkItem.position)
            .execution_options(synchronize_session=False)
        )
        if taken.one_or_none() is None:
            raise PlaceTakenError
