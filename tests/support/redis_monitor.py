"""Records every command that Redis gets while a test runs: Celery's messages, and the events that Flower shows."""

import base64
import binascii
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import redis

_BASE64 = re.compile(r"[A-Za-z0-9+/]{16,}={0,2}")
"""How kombu encodes the body of a message."""

END_MARK = "end of the recording"


class RedisMonitor:
    """Records with MONITOR; `text` is all that was recorded, with decoded message bodies beside it."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)
        self._commands: list[str] = []
        self._has_begun = threading.Event()
        self._listener = threading.Thread(target=self._listen)

    def start(self) -> None:
        """Return when every further command is recorded."""
        self._listener.start()
        assert self._has_begun.wait(10), "Redis does not answer"

    def stop(self) -> None:
        """Record what has been sent until now, and no more."""
        self._client.echo(END_MARK)
        self._listener.join(10)
        self._client.close()

    @property
    def text(self) -> str:
        """Everything recorded."""
        heard = "\n".join(self._commands)
        return "\n".join([heard, *_decoded(heard)])

    def _listen(self) -> None:
        with self._client.monitor() as monitor:
            self._has_begun.set()
            for command in monitor.listen():
                self._commands.append(command["command"])
                if END_MARK in command["command"]:
                    return


@contextmanager
def monitored_redis(url: str) -> Iterator[RedisMonitor]:
    """Record the commands of a Redis while the block runs."""
    monitor = RedisMonitor(url)
    monitor.start()
    try:
        yield monitor
    finally:
        monitor.stop()


def _decoded(text: str) -> Iterator[str]:
    for found in _BASE64.findall(text):
        try:
            yield base64.b64decode(found, validate=True).decode(errors="replace")
        except binascii.Error:
            continue
