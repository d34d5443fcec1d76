"""Queues an operation's chain: after the commit, best effort, and never for long."""

import time
import uuid
from collections.abc import Callable
from functools import lru_cache

import structlog
from kombu.exceptions import OperationalError
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.retry import Retry

from app.provisioning.plans import Plan
from tasks import app, upkeep, webhooks
from tasks.letters import letters

log = structlog.get_logger(__name__)

PAUSE_AFTER_FAILURE_S = 2.0
"""Seconds without a try after the broker did not answer: a hung one must not hold up every request in turn."""


class ChainPublisher:
    """Publishes to Celery; whatever is not published is found by the sweeper."""

    def __init__(self) -> None:
        self._silent_until = 0.0

    def publish(self, plan: Plan) -> bool:
        """Queue the chain; False when there is nothing to queue or the broker did not take it."""

        def send() -> None:
            client = _client(app.conf.broker_url)
            for queue, message in letters(plan):
                # What kombu's Redis transport does for a queue without priorities; a test compares the two.
                client.lpush(queue, message)

        return bool(plan.steps) and self._try(send, operation_id=str(plan.operation_id))

    def publish_audit(self, audit_id: uuid.UUID) -> bool:
        """Queue an audit; False when the broker did not take it."""
        signature = upkeep.audit.si(str(audit_id))
        return self._try(lambda: signature.apply_async(retry=False), audit_id=str(audit_id))

    def publish_webhooks(self, endpoint_id: uuid.UUID) -> bool:
        """Queue the hint that a webhook has something to be told; False when the broker did not take it."""
        signature = webhooks.deliver.si(str(endpoint_id))
        return self._try(lambda: signature.apply_async(retry=False), endpoint_id=str(endpoint_id))

    def _try(self, send: Callable[[], object], **ids: str) -> bool:
        if time.monotonic() < self._silent_until:
            return False
        try:
            send()
        except (OperationalError, RedisError, OSError) as error:
            log.warning("publish_failed", error=type(error).__name__, **ids)
            self._silent_until = time.monotonic() + PAUSE_AFTER_FAILURE_S
            return False
        return True


@lru_cache(1)
def _client(url: str) -> Redis:
    """Return the process's own connections to the broker: each thread takes one for as long as a push lasts."""
    options = app.conf.broker_transport_options
    return Redis.from_url(
        url,
        socket_timeout=options["socket_timeout"],
        socket_connect_timeout=options["socket_connect_timeout"],
        socket_keepalive=True,
        # Once more on a connection that turns out to be closed, never after a silence: a second message is harmless.
        retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
    )


publisher = ChainPublisher()
