"""How long a message may be under way before the sweep takes it for lost."""

from datetime import timedelta

from app.db.models import Operation

HINT_GRACE = timedelta(seconds=5)
"""How long the message for the next step may take before the sweep takes it for lost: far above a queue's delay."""

BULK_HINT_GRACE = timedelta(seconds=30)
"""The same for a bulk: its messages wait behind each other. 200 operations at 20 provider calls a second, some eight
messages each, put 8 s between two steps; publishing what merely waits would double the queue."""


def hint_grace(operation: Operation) -> timedelta:
    """Return how long a message for this operation may take."""
    return HINT_GRACE if operation.bulk_id is None else BULK_HINT_GRACE
