"""Queues an operation's chain: after the commit, best effort, and never for long."""

import threading
import time

import structlog
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from app.provisioning.transitions import Plan
from tasks.provisioning import chain_of

log = structlog.get_logger(__name__)

PAUSE_AFTER_FAILURE_S = 2.0
"""Seconds without a try after the broker did not answer: a hung one must not hold up every request in turn."""


class ChainPublisher:
    """Publishes to Celery; whatever is not published is found by the sweeper."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._silent_until = 0.0

    def publish(self, plan: Plan) -> bool:
        """Queue the chain; False when there is nothing to queue or the broker did not take it."""
        with self._lock:
            is_silent = time.monotonic() < self._silent_until
        if not plan.steps or is_silent:
            return False
        try:
            chain_of(plan).apply_async(retry=False)
        except (OperationalError, RedisError, OSError) as error:
            log.warning("publish_failed", operation_id=str(plan.operation_id), error=type(error).__name__)
            with self._lock:
                self._silent_until = time.monotonic() + PAUSE_AFTER_FAILURE_S
            return False
        return True


publisher = ChainPublisher()
