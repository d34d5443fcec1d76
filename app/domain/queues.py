"""The names of the queues: what Celery reads, and what is counted."""

from enum import StrEnum


class QueueName(StrEnum):
    """A list of messages in Redis."""

    PROVISION = "provision"
    BULK = "bulk"
    ROLLBACK = "rollback"
    OPS = "ops"
