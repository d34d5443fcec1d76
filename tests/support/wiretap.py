"""Everything that passes through Redis while a test runs: Celery's messages, and the events that Flower shows."""

import base64
import binascii
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import redis

_BASE64 = re.compile(r"[A-Za-z0-9+/]{16,}={0,2}")
"""How kombu writes a message's body."""

LAST_WORDS = "end of the wiretap"


class Wiretap:
    """Listens with MONITOR; `text` is all that was heard, message bodies decoded beside it."""

    def __init__(self, url: str) -> None:
        self._client = redis.Redis.from_url(url)
        self._heard: list[str] = []
        self._is_listening = threading.Event()
        self._listener = threading.Thread(target=self._listen)

    def start(self) -> None:
        """Return when every further command is heard."""
        self._listener.start()
        assert self._is_listening.wait(10), "Redis does not answer"

    def stop(self) -> None:
        """Hear what has been sent until now, and no more."""
        self._client.echo(LAST_WORDS)
        self._listener.join(10)
        self._client.close()

    @property
    def text(self) -> str:
        """Everything heard."""
        heard = "\n".join(self._heard)
        return "\n".join([heard, *_decoded(heard)])

    def _listen(self) -> None:
        with self._client.monitor() as monitor:
            self._is_listening.set()
            for command in monitor.listen():
                self._heard.append(command["command"])
                if LAST_WORDS in command["command"]:
                    return


@contextmanager
def wiretap(url: str) -> Iterator[Wiretap]:
    """Listen to a Redis while the block runs."""
    tap = Wiretap(url)
    tap.start()
    try:
        yield tap
    finally:
        tap.stop()


def _decoded(text: str) -> Iterator[str]:
    for found in _BASE64.findall(text):
        try:
            yield base64.b64decode(found, validate=True).decode(errors="replace")
        except binascii.Error:
            continue
