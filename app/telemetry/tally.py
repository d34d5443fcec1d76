"""Counters and histograms of all processes together: counted in memory, handed to one hash in Redis.

Prometheus scrapes one address and sees the whole installation, whichever process answers. A lost Redis starts the
counters at 0 again, which Prometheus takes for a restart; a killed process loses what it counted since it last spoke.
"""

import atexit
import threading
from bisect import bisect_left
from collections.abc import Mapping

import structlog
from redis import Redis
from redis.exceptions import RedisError

from app.telemetry.catalogue import BUCKETS_S, Metric

log = structlog.get_logger(__name__)

KEY = "trunkline-metrics"
"""The hash: `metric|label|...` or, of a histogram, `metric|label|...|bucket` and `...|sum`."""

FLUSH_S = 2.0
"""Seconds between two hand-overs, well below any scrape interval: one round trip, for all that was counted since."""

REDIS_TIMEOUT_S = 0.5
"""Seconds that Redis may take; nobody waits for it but the thread that hands over, and a scrape."""

_ADD = "for i = 1, #ARGV, 2 do redis.call('HINCRBYFLOAT', KEYS[1], ARGV[i], ARGV[i + 1]) end"
"""One command for any number of fields: packing a hundred commands costs more CPU than all that is counted."""

SUM = "sum"
LARGEST = "inf"

BUCKETS = (*(format(bound, "g") for bound in BUCKETS_S), LARGEST)
"""The names of a histogram's buckets, each with what is above the one before it."""


class Tally:
    """Counts in this process, and reads what all have counted; costs a few microseconds a count.

    With no Redis it counts nothing. Handing over starts with the first count, in the process that counts: after a fork.
    """

    def __init__(self, client: Redis | None) -> None:
        self._client = client
        self._add = client.register_script(_ADD) if client else None
        self._lock = threading.Lock()
        self._counts: dict[str, float] = {}
        self._new = threading.Event()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_heard = True

    def count(self, metric: Metric, *labels: str) -> None:
        """Count one; `labels` in the metric's order."""
        self._take({"|".join((metric.name, *labels)): 1})

    def observe(self, metric: Metric, *labels: str, seconds: float) -> None:
        """Put one duration into its bucket."""
        series = "|".join((metric.name, *labels))
        self._take({f"{series}|{BUCKETS[bisect_left(BUCKETS_S, seconds)]}": 1, f"{series}|{SUM}": seconds})

    def read(self) -> Mapping[str, float]:
        """Return every field and what all processes have counted; raise `RedisError` where Redis does not answer."""
        if self._client is None:
            return {}
        self.flush()
        return {str(field): float(value) for field, value in self._client.hgetall(KEY).items()}

    def flush(self) -> None:
        """Hand over what was counted; what Redis does not take is kept for the next time."""
        with self._lock:
            counts, self._counts = self._counts, {}
        if not counts or self._add is None:
            return
        try:
            self._add([KEY], [part for field, value in counts.items() for part in (field, format(value, ".9g"))])
        except (RedisError, OSError) as error:
            self._keep(counts)
            if self._is_heard:
                log.warning("tally_off", error=type(error).__name__)
            self._is_heard = False
        else:
            self._is_heard = True

    def close(self) -> None:
        """Hand over the last counts and end the thread."""
        self._end.set()
        self._new.set()
        if self._thread is not None:
            self._thread.join()
        self.flush()
        if self._client is not None:
            self._client.close()

    def _take(self, counts: Mapping[str, float]) -> None:
        if self._client is None:
            return
        self._keep(counts)
        if self._thread is None:
            self._start()
        if not self._new.is_set():
            self._new.set()

    def _keep(self, counts: Mapping[str, float]) -> None:
        with self._lock:
            for field, value in counts.items():
                self._counts[field] = self._counts.get(field, 0) + value

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._hand_over, name="tally", daemon=True)
                self._thread.start()
                atexit.register(self.flush)

    def _hand_over(self) -> None:
        """Sleep until there is something to say, and then say it every `FLUSH_S` at most."""
        while not self._end.is_set():
            self._new.wait()
            self._end.wait(FLUSH_S)
            self._new.clear()
            self.flush()


def make_tally(redis_url: str) -> Tally:
    """Build the tally of one process; connects at the first hand-over."""
    limit = REDIS_TIMEOUT_S
    return Tally(Redis.from_url(redis_url, socket_timeout=limit, socket_connect_timeout=limit, decode_responses=True))
