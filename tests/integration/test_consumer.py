"""What tasks did is told in few messages, and soon."""

import time

from celery import Celery
from kombu.asynchronous import Hub

EVENTS = 10


class Dispatcher:
    """Counts what would be published."""

    flushes = 0

    def flush(self) -> None:
        self.flushes += 1


def test_events_of_one_moment_share_a_message_and_later_ones_get_another(celery_app: Celery) -> None:
    from tasks.consumer import EVENTS_S, Consumer  # noqa: PLC0415  # reads the settings

    assert celery_app.conf.worker_consumer == f"{Consumer.__module__}:{Consumer.__name__}"
    consumer, dispatcher, hub = Consumer.__new__(Consumer), Dispatcher(), Hub()
    consumer.hub, consumer.event_dispatcher = hub, dispatcher
    try:
        for told in (1, 2):
            for _ in range(EVENTS):
                consumer.on_send_event_buffered()
            ends = time.monotonic() + 3 * EVENTS_S
            while time.monotonic() < ends:
                next(hub.loop)
            assert dispatcher.flushes == told
    finally:
        hub.close()
