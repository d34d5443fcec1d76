"""kombu's Redis transport with one client kept per pool of connections.

kombu 5.7 builds a redis-py client for every command that it sends (`transport/redis.py`, `_create_client`), and
redis-py 8 copies a table of 170 answers' readers into each: a third of the CPU of a worker's main thread (measured),
which receives, acknowledges and reports every task. A client is only a face of its pool and safe to share.

A module of its own because it replaces a part of kombu: it goes when kombu keeps its client.
"""

from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis


class Channel(redis.Channel):
    """A channel that asks for a client once for each pool; a connection that was lost brings a new pool."""

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


def install() -> None:
    """Use it wherever a `redis://` or `rediss://` URL is opened from here on."""
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:{Transport.__name__}"
