"""Queues an operation's chain: after the commit, best effort, and never for long."""

import atexit
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from functools import lru_cache
from queue import SimpleQueue
from threading import Event

import structlog
from kombu.exceptions import OperationalError
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.retry import Retry

from app.saga.chain_plan import Plan
from tasks import app, upkeep, webhooks
from tasks.letters import letters

log = structlog.get_logger(__name__)

BATCH = 50
"""Plans published in one round trip: some 250 KB, and what 16 clients post while the broker takes the batch before."""

FLUSH_S = 3.0
"""Seconds that a process which ends gives its last plans: a bit over the limit of a broker that hangs."""

PAUSE_AFTER_FAILURE_S = 2.0
"""Seconds without a try after the broker did not answer: a hung one must not hold up every request in turn."""


class ChainPublisher:
    """Publishes to Celery; whatever is not published is found by the sweeper."""

    def __init__(self) -> None:
        self._silent_until = 0.0

    def publish(self, plan: Plan) -> bool:
        """Queue the chain; False when there is nothing to queue or the broker did not take it."""
        return bool(plan.steps) and self.publish_all([plan])

    def publish_all(self, plans: Sequence[Plan]) -> bool:
        """Queue the chains of several plans in one round trip; False when the broker did not take them."""

        def send() -> None:
            with _client(app.conf.broker_url).pipeline(transaction=False) as pipe:
                for plan in plans:
                    for queue, message in letters(plan):
                        # What kombu's Redis transport does; a test compares the two.
                        pipe.lpush(queue, message)
                pipe.execute()

        return self._try(send, operation_ids=[str(plan.operation_id) for plan in plans])

    def publish_audit(self, audit_id: uuid.UUID) -> bool:
        """Queue an audit; False when the broker did not take it."""
        signature = upkeep.audit.si(str(audit_id))
        return self._try(lambda: signature.apply_async(retry=False), audit_id=str(audit_id))

    def publish_webhooks(self, endpoint_id: uuid.UUID) -> bool:
        """Queue the hint that a webhook has something to be told; False when the broker did not take it."""
        signature = webhooks.deliver.si(str(endpoint_id))
        return self._try(lambda: signature.apply_async(retry=False), endpoint_id=str(endpoint_id))

    def _try(self, send: Callable[[], object], **ids: object) -> bool:
        if time.monotonic() < self._silent_until:
            return False
        try:
            send()
        except (OperationalError, RedisError, OSError) as error:
            log.warning("publish_failed", error=type(error).__name__, **ids)
            self._silent_until = time.monotonic() + PAUSE_AFTER_FAILURE_S
            return False
        return True


class BackgroundPublisher:
    """Takes plans at once and publishes them from a thread of its own: no answer waits for a broker, however it hangs.

    What a process that is killed still holds is found by the sweeper, as everything else that is not published.
    """

    def __init__(self, publisher: ChainPublisher) -> None:
        self._publisher = publisher
        self._plans: SimpleQueue[Plan | Event] = SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def publish(self, plan: Plan) -> bool:
        """Take the plan; False when there is nothing to queue."""
        if not plan.steps:
            return False
        self._plans.put(plan)
        self._start()
        return True

    def publish_audit(self, audit_id: uuid.UUID) -> bool:
        """Queue an audit now: it is asked for by hand."""
        return self._publisher.publish_audit(audit_id)

    def publish_webhooks(self, endpoint_id: uuid.UUID) -> bool:
        """Queue the hint now: a message is tested or sent again by hand."""
        return self._publisher.publish_webhooks(endpoint_id)

    def flush(self) -> None:
        """Wait until all that was taken is published, or `FLUSH_S` are over."""
        reached = Event()
        if self._thread is not None:
            self._plans.put(reached)
            reached.wait(FLUSH_S)

    def _start(self) -> None:
        """Start the thread at the first plan: after any fork. A process that ends flushes first."""
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
                    self._thread.start()
                    atexit.register(self.flush)

    def _run(self) -> None:
        while True:
            taken = [self._plans.get()]
            while len(taken) < BATCH and not self._plans.empty():
                taken.append(self._plans.get())
            plans = [one for one in taken if isinstance(one, Plan)]
            try:
                if plans:
                    self._publisher.publish_all(plans)
            except Exception:
                # The thread goes on: the sweeper publishes these.
                log.exception("publisher_broke", operation_ids=[str(plan.operation_id) for plan in plans])
            for one in taken:
                if isinstance(one, Event):
                    one.set()


@lru_cache(1)
def _client(url: str) -> Redis:
    """Return the process's own connections to the broker: each thread takes one for as long as a push lasts."""
    options = app.conf.broker_transport_options
    return Redis.from_url(
        url,
        **(app.conf.broker_use_ssl or {}),
        socket_timeout=options["socket_timeout"],
        socket_connect_timeout=options["socket_connect_timeout"],
        socket_keepalive=True,
        # Once more on a connection that turns out to be closed, never after a silence: a second message is harmless.
        retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
    )


publisher = ChainPublisher()
background = BackgroundPublisher(publisher)
