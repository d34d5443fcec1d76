"""What tasks did is told in few messages, and soon."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from celery import Celery
from kombu.transport import virtual

from tests.support.saga import ManualClock


class Hub:
    """Celery's loop: runs what is to be done soon at once, and what is to be done later when it is told to."""

    def __init__(self) -> None:
        self.later: list[tuple[float, Callable[[], None]]] = []

    def call_soon(self, call: Callable[..., None], *args: object) -> None:
        call(*args)

    def call_later(self, delay_s: float, call: Callable[[], None]) -> None:
        self.later.append((delay_s, call))


class Dispatcher:
    """Counts what would be published."""

    flushes = 0

    def flush(self) -> None:
        self.flushes += 1


def test_events_of_one_moment_share_a_message_and_later_ones_get_another(
    celery_app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.consumer import EVENTS_S, Consumer  # noqa: PLC0415  # reads the settings

    assert celery_app.conf.worker_consumer == f"{Consumer.__module__}:{Consumer.__name__}"
    clock, hub, dispatcher = ManualClock(), Hub(), Dispatcher()
    monkeypatch.setattr("tasks.consumer.time", SimpleNamespace(monotonic=clock))
    consumer = Consumer.__new__(Consumer)
    consumer.hub, consumer.event_dispatcher = hub, dispatcher

    for share in (0, 0.5, 0.9, 1):  # of the wait, since the first
        clock.now = 1000 + share * EVENTS_S
        consumer.on_send_event_buffered()
        assert len(hub.later) == (2 if share == 1 else 1)
    assert dispatcher.flushes == 0

    for delay_s, flush in hub.later:
        assert delay_s == EVENTS_S
        flush()
    assert dispatcher.flushes == 2


def test_credit_that_was_lost_with_acknowledgements_is_freed_once_nothing_is_held(celery_app: Celery) -> None:
    from celery.worker import state  # noqa: PLC0415

    from tasks.consumer import Consumer  # noqa: PLC0415  # reads the settings

    qos = virtual.QoS(SimpleNamespace(), prefetch_count=2)
    qos.restore_at_shutdown = False
    qos.append("message", "one")
    qos.append("message", "two")
    consumer = Consumer.__new__(Consumer)
    consumer.task_consumer = SimpleNamespace(channel=SimpleNamespace(qos=qos))

    class Held:
        """A request, as far as Celery's set of them looks at it."""

        id = "held"

    held = Held()
    state.reserved_requests.add(held)
    for _ in range(3):
        consumer.free_lost_credit()
        assert not qos.can_consume()  # a task is under way: its message counts
    state.reserved_requests.discard(held)
    consumer.free_lost_credit()
    assert not qos.can_consume()  # it may be acknowledged this very moment
    consumer.free_lost_credit()
    assert qos.can_consume()
