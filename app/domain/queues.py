"""The names of the Celery queues."""

from enum import StrEnum


class QueueName(StrEnum):
    """A Celery queue, which is a set of lists in Redis."""

    PROVISION = "provision"
    BULK = "bulk"
    ROLLBACK = "rollback"
    OPS = "ops"

    @property
    def lists(self) -> tuple[str, ...]:
        """The Redis lists that hold its messages: one for each priority (kombu transport/redis.py `_q_for_pri`)."""
        return (self.value, *(f"{self.value}\x06\x16{priority}" for priority in (3, 6, 9)))
