"""Every place where Trunkline replaces internals of Celery 5.6.3 and kombu 5.7.0: what, why, the gain, when it goes.

The first three patches save CPU, and without them everything works the same. `./run.py bench patches` measures each of
them with and without, round by round in turn; the figures below are its medians of 8 rounds on two cores. A patch
that saves less than 3 % of the CPU of the process that has it is deleted. The last patch corrects a fault.
"""

import base64
import json
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import structlog
from celery import Celery, bootsteps
from celery.canvas import Signature
from kombu.connection import Connection
from kombu.transport import TRANSPORT_ALIASES, _transport_cache, redis, virtual
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from app.saga.chain_plan import Plan

log = structlog.get_logger(__name__)


def install_transport() -> None:
    """Use `Transport` wherever a `redis://` or `rediss://` URL is opened from here on."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:{Transport.__name__}"
        _transport_cache.pop(scheme, None)  # kombu keeps what a scheme once meant


def install_worker_steps(app: Celery) -> None:
    """Have the workers of this application run the steps below."""
    app.steps["consumer"].update((EventBatching, LostCreditCheck))


# Message templates
#
# Replaces: celery/canvas.py `_chain.apply_async`, for plans; kombu/transport/redis.py `Channel._put`.
# Why: for each operation Celery builds, freezes and serialises a chain with its group and error callbacks, and the text
#   is the same each time but for the ids in it. Here Celery writes it once for each kind of plan; a test compares both.
# Gain: 0.2 ms of CPU for a published plan instead of 1.5; 2.2 ms for a POST in a web process instead of 3.8.
# Goes when: what Celery itself takes for a plan is less than 3 % of a POST.

TEMPLATES_KEPT = 256
"""Kinds of plans kept in memory, some 10 KB each: one for every set of steps left and every epoch that occurs."""

_OPERATION = uuid.UUID("0f0e0d0c-0b0a-4090-8807-060504030201")
"""Stands for the operation's id in a template."""

_BODY = "00000000-0000-4000-8000-000000000000"
"""Stands for the message's body in its envelope."""

_BODY_SLOT = -1
"""The slot of the body: the last, behind the ids, whose number is known only when all messages were read."""

_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class _RecordingChannel(virtual.Channel):
    """Records what is published on it, with the key of the list that kombu's Redis transport would push it on."""

    do_restore = False

    def _put(self, queue: str, message: dict[str, Any], **_: object) -> None:
        priority = message["properties"]["priority"]
        key = f"{queue}{redis.Channel.sep}{priority}" if priority else queue
        self.connection.published.append((key, message))

    def _size(self, _queue: str) -> int:
        return 0

    def _purge(self, _queue: str) -> int:
        return 0


class _RecordingTransport(virtual.Transport):
    """A transport without a broker."""

    Channel = _RecordingChannel
    driver_type = driver_name = "recording"

    def __init__(self, client: Connection, **options: Any) -> None:
        super().__init__(client, **options)
        self.published: list[tuple[str, dict[str, Any]]] = []

    def driver_version(self) -> str:
        return "0"


@dataclass(frozen=True, slots=True)
class _Template:
    """One message with slots; a slot is the index of the id that goes there, and the operation's is 0."""

    key: str
    body: tuple[str | int, ...]
    envelope: tuple[str | int, ...]

    def fill(self, ids: list[str]) -> bytes:
        """Return the message as kombu's Redis transport writes it."""
        body = base64.b64encode(_join(self.body, ids).encode()).decode()
        return _join(self.envelope, [*ids, body]).encode()


class MessageTemplates:
    """Writes the messages of a plan's chain from templates, which Celery makes at the first plan of each kind."""

    def __init__(self, chain_of: Callable[[Plan], Signature]) -> None:
        self._chain_of = chain_of
        self._templates = lru_cache(TEMPLATES_KEPT)(self._make)

    def messages_of(self, plan: Plan) -> Iterator[tuple[str, bytes]]:
        """Yield (key of a Redis list, message) for everything that publishing the plan's chain sends."""
        templates, count = self._templates(replace(plan, operation_id=_OPERATION))
        ids = [str(plan.operation_id), *(str(uuid.uuid4()) for _ in range(count))]
        for template in templates:
            yield template.key, template.fill(ids)

    def _make(self, plan: Plan) -> tuple[tuple[_Template, ...], int]:
        """Have Celery publish the plan; return its messages as templates, and how many ids of tasks they have."""
        with Connection(transport=_RecordingTransport) as connection:
            # Both: a chain hands on the connection only, a group asks the pool for a producer unless it has one.
            self._chain_of(plan).apply_async(connection=connection, producer=connection.Producer(), retry=False)
            published = connection.transport.published
        slots = {str(_OPERATION): 0}
        split = []
        for key, message in published:
            body = base64.b64decode(message["body"]).decode()
            split.append((key, _split(body, slots), _split(json.dumps({**message, "body": _BODY}), slots)))
        last = len(slots)
        templates = tuple(
            _Template(key, body, tuple(last if part == _BODY_SLOT else part for part in envelope))
            for key, body, envelope in split
        )
        return templates, last - 1


def push_messages(app: Celery, messages: Iterable[tuple[str, bytes]]) -> None:
    """Push messages on their lists in one round trip, as kombu's Redis transport does one by one."""
    with _client(app, app.conf.broker_url).pipeline(transaction=False) as pipe:
        for key, message in messages:
            pipe.lpush(key, message)
        pipe.execute()


@lru_cache(1)
def _client(app: Celery, url: str) -> Redis:
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


def _split(text: str, slots: dict[str, int]) -> tuple[str | int, ...]:
    """Cut a text at its ids; ids that are new get the next slots."""
    parts: list[str | int] = []
    end = 0
    for match in _UUID.finditer(text):
        slot = _BODY_SLOT if match[0] == _BODY else slots.setdefault(match[0], len(slots))
        parts += [text[end : match.start()], slot]
        end = match.end()
    return (*parts, text[end:])


def _join(parts: tuple[str | int, ...], ids: list[str]) -> str:
    return "".join([part if isinstance(part, str) else ids[part] for part in parts])


# One Redis client per pool
#
# Replaces: kombu/transport/redis.py `Channel._create_client`.
# Why: kombu makes a client for nearly every command, and redis-py 8.1 copies a table of 169 response callbacks into
#   each. A client only holds a reference to its pool, and threads may share it.
# Gain: 8.1 ms of CPU for an operation in a worker's main thread instead of 10.1: 4.4 % of all that the worker spends.
# Goes when: kombu keeps a client itself, or redis-py makes one without that copy.


class Channel(redis.Channel):
    """A channel that makes a client once for each pool; a connection that was lost brings a new pool."""

    _kept: tuple[Any, Any] | None = None

    def _create_client(self, asynchronous: bool = False) -> Any:
        if asynchronous:
            return super()._create_client(asynchronous=True)
        if self._kept is None or self._kept[0] is not self.pool:
            self._kept = self.pool, super()._create_client()
        return self._kept[1]


class Transport(redis.Transport):
    """The transport of such channels."""

    Channel = Channel


# Event batching
#
# Replaces: celery/worker/consumer/consumer.py `Consumer.on_send_event_buffered`.
# Why: Celery publishes the events of tasks, which Flower shows, after each turn of its loop.
# Gain: 8.1 ms of CPU for an operation in a worker's main thread instead of 10.7: 6.0 % of all that the worker spends.
#   1.5 messages for an operation instead of 11.6 for the broker and Flower to handle.
# Goes when: Celery has a setting for how long events wait, or nothing reads the events.

EVENTS_S = 0.2
"""Seconds that an event may wait for others, to share a message with them: nobody sees the delay in Flower."""


class EventBatching(bootsteps.StartStopStep):
    """Publishes task events at most every `EVENTS_S`."""

    requires = ("celery.worker.consumer.events:Events",)

    def __init__(self, consumer: Any, **_: object) -> None:
        self.enabled = bool(consumer.hub)
        self._next_flush = 0.0

    def start(self, consumer: Any) -> None:
        """Take the place of the consumer's method; called again after each reconnection, for a new dispatcher."""
        hub, flush = consumer.hub, consumer.event_dispatcher.flush

        def on_send_buffered() -> None:
            now = time.monotonic()
            if now >= self._next_flush:
                self._next_flush = now + EVENTS_S
                # The timer belongs to the loop's own thread, and this is called from any.
                hub.call_soon(hub.call_later, EVENTS_S, flush)

        consumer.event_dispatcher.on_send_buffered = on_send_buffered

    def close(self, consumer: Any) -> None:
        """Publish what is left when the worker ends; not called at a reconnection, when there is no broker."""
        if consumer.event_dispatcher:
            consumer.event_dispatcher.flush()


# Lost credit
#
# Corrects: kombu/transport/virtual/base.py `QoS._delivered` and `_dirty`, from which `QoS.can_consume` counts.
# Why: seen after the broker was killed and frozen: a worker idle for minutes, 137 messages queued, its BRPOP paused
#   (soak, seed 3). How kombu lost count was not traced. What is freed is delivered again after the visibility timeout,
#   to a step that is done by then.
# Gain: none in CPU; a worker that would take nothing until its restart takes messages again.
# Goes when: a release of kombu survives such soaks without it.

CREDIT_CHECK_S = 5.0
"""Seconds between two checks whether the consumer may take messages; the credit is freed at the second in a row."""


class LostCreditCheck(bootsteps.StartStopStep):
    """Frees the consumer's credit where no message is held, yet as many as may be held count as unacknowledged."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **_: object) -> None:
        self.enabled = bool(consumer.hub)
        self._was_stuck = False
        self._timer: Any = None

    def start(self, consumer: Any) -> None:
        """Start checking; called again after each reconnection."""
        self.stop(consumer)
        self._timer = consumer.hub.call_repeatedly(CREDIT_CHECK_S, self.check, consumer)

    def stop(self, _consumer: Any) -> None:
        """Stop checking."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def check(self, consumer: Any) -> None:
        """Free the credit at the second check in a row that finds a worker which holds nothing and may take nothing."""
        state = consumer.controller.state
        qos: Any = consumer.task_consumer.channel.qos if consumer.task_consumer else None
        is_idle = not (state.reserved_requests or state.active_requests)
        is_stuck = qos is not None and is_idle and not qos.can_consume()
        if is_stuck and self._was_stuck:
            log.warning("consumer_credit_freed", lost=len(qos._delivered))  # noqa: SLF001 - kombu has no other way
            qos._delivered.clear()  # noqa: SLF001
            qos._dirty.clear()  # noqa: SLF001
        self._was_stuck = is_stuck and not self._was_stuck
