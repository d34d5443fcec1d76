"""Queues an operation's chain after the commit, best effort and within seconds."""

import atexit
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from threading import Event

import structlog
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from app.numbers.service import Publisher
from app.saga.chain_plan import Plan
from tasks import app, upkeep, webhooks
from tasks.celery_patches import MessageTemplates, push_messages
from tasks.steps import chain_of

log = structlog.get_logger(__name__)

BATCH = 50
"""Plans published in one round trip: some 250 KB, and more than 16 clients post during the round trip before."""

FLUSH_S = 3.0
"""Seconds that a process waits for its last plans when it ends: just above the timeouts of a broker that hangs."""

PAUSE_AFTER_FAILURE_S = 2.0
"""Seconds without a try after the broker did not answer: one that hangs must not delay every request in turn."""

TEMPLATES = MessageTemplates(chain_of)


class ChainPublisher(Publisher):
    """Publishes to Celery; the sweeper finds what was not published."""

    def __init__(self) -> None:
        self._silent_until = 0.0

    def publish(self, plan: Plan) -> bool:
        """Queue the chain; False when there is nothing to queue or the broker did not take it."""
        return bool(plan.steps) and self.publish_all([plan])

    def publish_all(self, plans: Sequence[Plan]) -> bool:
        """Queue the chains of several plans in one round trip; False when the broker did not take them."""

        def send() -> None:
            push_messages(app, [message for plan in plans for message in TEMPLATES.messages_of(plan)])

        return self._try(send, operation_ids=[str(plan.operation_id) for plan in plans])

    def publish_audit(self, audit_id: uuid.UUID) -> bool:
        """Queue an audit; False when the broker did not take it."""
        signature = upkeep.audit.si(str(audit_id))
        return self._try(lambda: signature.apply_async(retry=False), audit_id=str(audit_id))

    def publish_retirement(self, trunk_id: uuid.UUID) -> bool:
        """Queue the end of a shared trunk; False when the broker did not take it."""
        signature = upkeep.retire_trunk.si(str(trunk_id))
        return self._try(lambda: signature.apply_async(retry=False), trunk_id=str(trunk_id))

    def publish_adoptions(self, bulk_id: uuid.UUID) -> bool:
        """Queue the start of adoptions; False when the broker did not take it."""
        signature = upkeep.start_adoptions.si(str(bulk_id))
        return self._try(lambda: signature.apply_async(retry=False), bulk_id=str(bulk_id))

    def publish_call(self, call_id: uuid.UUID) -> bool:
        """Queue a test call; False when the broker did not take it."""
        signature = upkeep.call.si(str(call_id))
        return self._try(lambda: signature.apply_async(retry=False), test_call_id=str(call_id))

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


class BackgroundPublisher(Publisher):
    """Takes plans at once and publishes them from a thread of its own, so that no HTTP response waits for the broker.

    Plans that a killed process had not yet published are found by the sweeper.
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

    def publish_retirement(self, trunk_id: uuid.UUID) -> bool:
        """Queue it now: only the sweeper does."""
        return self._publisher.publish_retirement(trunk_id)

    def publish_adoptions(self, bulk_id: uuid.UUID) -> bool:
        """Queue it now: only the sweeper does."""
        return self._publisher.publish_adoptions(bulk_id)

    def publish_call(self, call_id: uuid.UUID) -> bool:
        """Queue it now: it is asked for by hand."""
        return self._publisher.publish_call(call_id)

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
        """Start the thread at the first plan, which is after any fork; at its end the process flushes."""
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


publisher = ChainPublisher()
background = BackgroundPublisher(publisher)
