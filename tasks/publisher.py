"""Queues an operation's chain: after the commit, best effort, and never for long."""

import threading
import time
import uuid

import structlog
from celery.canvas import Signature
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from app.provisioning.transitions import Plan
from tasks import upkeep, webhooks
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
        return bool(plan.steps) and self._send(chain_of(plan), operation_id=str(plan.operation_id))

    def publish_audit(self, audit_id: uuid.UUID) -> bool:
        """Queue an audit; False when the broker did not take it."""
        return self._send(upkeep.audit.si(str(audit_id)), audit_id=str(audit_id))

    def publish_webhooks(self, endpoint_id: uuid.UUID) -> bool:
        """Queue the hint that a webhook has something to be told; False when the broker did not take it."""
        return self._send(webhooks.deliver.si(str(endpoint_id)), endpoint_id=str(endpoint_id))

    def _send(self, signature: Signature, **ids: str) -> bool:
        with self._lock:
            if time.monotonic() < self._silent_until:
                return False
        try:
            signature.apply_async(retry=False)
        except (OperationalError, RedisError, OSError) as error:
            log.warning("publish_failed", error=type(error).__name__, **ids)
            with self._lock:
                self._silent_until = time.monotonic() + PAUSE_AFTER_FAILURE_S
            return False
        return True


publisher = ChainPublisher()
