"""Bulk provisioning: the states of a bulk and of its items, and the sizes that are accepted."""

from enum import StrEnum

MAX_ITEMS = 10_000
"""Items of one bulk: some 2 MiB of JSON, read, checked and stored within seconds."""


class BulkStatus(StrEnum):
    """`bulks.status`: where the whole stands."""

    QUEUED = "queued"
    """No item has begun."""
    RUNNING = "running"
    CANCELLING = "cancelling"
    """Nothing more begins; what had begun runs to its end."""
    SUCCEEDED = "succeeded"
    """Every item succeeded."""
    FAILED = "failed"
    """Over, and at least one item did not succeed."""
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Say whether nothing happens any more, unless the bulk is resumed."""
        return self not in OPEN_BULKS


OPEN_BULKS = frozenset({BulkStatus.QUEUED, BulkStatus.RUNNING, BulkStatus.CANCELLING})


class ItemStatus(StrEnum):
    """`bulk_items.status`: where one number stands; the last three are those of its operation."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
