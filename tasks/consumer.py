"""Celery's consumer, reporting what its tasks do in fewer messages."""

import time

from celery.worker import consumer

EVENTS_S = 0.2
"""Seconds that events of tasks wait for others to share a message with; Celery sends after each turn of its loop."""


class Consumer(consumer.Consumer):
    """Publishes task events at most every `EVENTS_S`: they were a quarter of what the worker's main thread does."""

    _next_flush = 0.0

    def on_send_event_buffered(self) -> None:
        """Have the loop publish what is buffered, soon; called from any thread."""
        now = time.monotonic()
        if self.hub and now >= self._next_flush:
            self._next_flush = now + EVENTS_S
            # The timer belongs to the loop's own thread.
            self.hub.call_soon(self.hub.call_later, EVENTS_S, self._flush_events)

    def stop(self) -> None:
        """Publish what is left, and stop."""
        self._flush_events()
        super().stop()
