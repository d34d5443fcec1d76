"""Tries everything that this process needs, side by side and with little patience, and remembers the answer a while.

Ready means that requests are taken: the database answers with the schema of this code. A broker or a provider that is
away costs no request and loses nothing, so that it decides only where it is asked for. Behind a load balancer it would
take every process off the air at once.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector
from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError
from sqlalchemy import text

from app.observability import counters
from app.observability.metrics import gauge
from app.providers.errors import ProviderError
from app.wiring import Wiring

PATIENCE_S = 3.0
"""Seconds until a check that decides counts as failed: below the timeout of common load balancers."""

GLANCE_S = 0.5
"""Seconds that a check which does not decide is waited for: a probe of Kubernetes gives up after 1 s by default."""

PROVIDER_TTL_S = 15.0
"""Seconds that a provider's good answer is believed: /readyz needs no key, and must not spend our rate limit there."""

FAILURE_TTL_S = 2.0
"""Seconds that a bad answer is believed: recovery should show soon."""

MIGRATIONS = Path(__file__).parents[2] / "migrations" / "versions"
"""Files named by their revision, which is a number: reading the names spares a web process Alembic's 12 MB."""


class NotReadyError(Exception):
    """A check failed; the message is ours and may be shown to anybody."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found; `took_ms` in milliseconds."""

    name: str
    ok: bool
    detail: str | None
    took_ms: float


@dataclass
class Probe:
    """One check: `run` raises when the thing is not there; a good answer is believed for `ttl_s` seconds."""

    name: str
    run: Callable[[], None]
    ttl_s: float = 0.0
    decides: bool = True
    """Whether this process is not ready without it."""
    lock: Lock = field(default_factory=Lock)
    latest: "Future[Finding] | None" = None
    latest_at: float = 0.0
    before: Finding | None = None
    """What the try before the latest found."""

    def find(self) -> Finding:
        """Run the check; never raises."""
        started = time.perf_counter()
        detail = None
        try:
            self.run()
        except (NotReadyError, ProviderError) as error:
            detail = str(error)
        except Exception as error:  # noqa: BLE001 - whatever a driver raises, the thing is not there
            # An exception's text may name hosts and users: the type says enough to whoever asks from outside.
            detail = f"unreachable ({type(error).__name__})"
        return Finding(self.name, detail is None, detail, round((time.perf_counter() - started) * 1000, 1))


class Readiness:
    """The checks of one process. A check that hangs is never started twice."""

    def __init__(
        self,
        probes: Sequence[Probe],
        *,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._probes = probes
        self._clock = clock
        self._patience_s = patience_s
        self.started = Counter[str]()
        """How often each check was started."""
        self._threads = ThreadPoolExecutor(len(probes), thread_name_prefix="readiness")

    def findings(self, *, deep: bool = False) -> list[Finding]:
        """Return what every check finds, within about `PATIENCE_S`.

        A check that does not decide is waited for only with `deep`; else what it found before stands in.
        """
        started = time.monotonic()
        running = [(probe, self._running(probe)) for probe in self._probes]
        found = []
        for probe, future in running:
            is_waited_for = deep or probe.decides
            patience_s = self._patience_s if is_waited_for else min(GLANCE_S, self._patience_s)
            left_s = started + patience_s - time.monotonic()
            found.append(self._finding(probe, future, left_s, None if is_waited_for else probe.before))
        return found

    def is_ready(self, findings: Iterable[Finding], *, deep: bool = False) -> bool:
        """Say whether all is there that decides; with `deep`, everything does."""
        decides = {probe.name: deep or probe.decides for probe in self._probes}
        return all(finding.ok for finding in findings if decides[finding.name])

    def _running(self, probe: Probe) -> "Future[Finding]":
        with probe.lock:
            if probe.latest is None or (probe.latest.done() and self._is_stale(probe, probe.latest.result())):
                self.started[probe.name] += 1
                probe.latest_at = self._clock()
                probe.before = probe.latest.result() if probe.latest else None
                probe.latest = self._threads.submit(probe.find)
            return probe.latest

    def _is_stale(self, probe: Probe, finding: Finding) -> bool:
        ttl_s = probe.ttl_s if finding.ok else min(probe.ttl_s, FAILURE_TTL_S)
        return self._clock() - probe.latest_at >= ttl_s

    def _finding(self, probe: Probe, future: "Future[Finding]", left_s: float, instead: Finding | None) -> Finding:
        try:
            return future.result(max(left_s, 0))
        except FutureTimeoutError:
            if instead is not None:
                return instead
            detail = f"no answer within {self._patience_s:g} s"
            return Finding(probe.name, ok=False, detail=detail, took_ms=self._patience_s * 1000)


@dataclass(frozen=True, eq=False)
class ReadinessCollector(Collector):
    """Tells Prometheus what the checks find: what does not decide is seen nowhere else."""

    readiness: Readiness

    def describe(self) -> Iterable[Family]:
        """Name nothing in advance, so that registering runs no check."""
        return ()

    def collect(self) -> Iterable[Family]:
        """Yield one family."""
        found: Mapping[tuple[str], float] = {(each.name,): each.ok for each in self.readiness.findings()}
        yield gauge(counters.CHECK_OK, found, found)


def make_readiness(wiring: Wiring) -> Readiness:
    """Build the checks of everything that the wiring reaches."""
    return Readiness(
        [
            Probe("database", lambda: _check_database(wiring)),
            Probe("migrations", lambda: check_migrations(wiring)),
            Probe("broker", lambda: check_broker(wiring), decides=False),
            Probe("twilio", wiring.carrier.ping, PROVIDER_TTL_S, decides=False),
            Probe("livekit", wiring.platform.ping, PROVIDER_TTL_S, decides=False),
        ]
    )


def _check_database(wiring: Wiring) -> None:
    with wiring.engine.connect() as connection:
        connection.execute(text("SELECT 1"))


def check_broker(wiring: Wiring) -> None:
    """Raise `NotReadyError` where Redis refuses a write, and what the driver raises where it does not answer."""
    try:
        wiring.try_broker()
    except OutOfMemoryError:
        raise NotReadyError("Redis takes no writes: it is full") from None
    except ReadOnlyError:
        raise NotReadyError("Redis takes no writes: it is a read-only replica") from None
    except ResponseError as error:
        raise NotReadyError(f"Redis refuses a write ({type(error).__name__})") from None


def newest_migration() -> str:
    """Return the revision that this code was written for."""
    return max(path.name.partition("_")[0] for path in MIGRATIONS.glob("[0-9]*_*.py"))


def check_migrations(wiring: Wiring) -> None:
    """Raise `NotReadyError` unless the database is as this code expects it."""
    head = newest_migration()
    with wiring.engine.connect() as connection:
        if connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
            raise NotReadyError("the database is empty: run the migrations")
        found = connection.scalar(text("SELECT version_num FROM alembic_version"))
    if found != head:
        raise NotReadyError(f"the database is at revision {found}, the code at {head}")
