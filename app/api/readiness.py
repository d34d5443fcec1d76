"""Tries everything that this process needs, side by side and with little patience, and remembers the answer a while."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import structlog
from sqlalchemy import text

from app.providers.errors import ProviderError
from app.wiring import Wiring

log = structlog.stdlib.get_logger()

PATIENCE_S = 3.0
"""Seconds until a check counts as failed: below the timeout of common load balancers."""

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
    lock: Lock = field(default_factory=Lock)
    latest: "Future[Finding] | None" = None
    latest_at: float = 0.0

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

    def findings(self) -> list[Finding]:
        """Return what every check finds, within about `PATIENCE_S`."""
        deadline = time.monotonic() + self._patience_s
        running = [(probe, self._running(probe)) for probe in self._probes]
        return [self._finding(probe, future, deadline - time.monotonic()) for probe, future in running]

    def _running(self, probe: Probe) -> "Future[Finding]":
        with probe.lock:
            if probe.latest is None or (probe.latest.done() and self._is_stale(probe, probe.latest.result())):
                self.started[probe.name] += 1
                probe.latest_at = self._clock()
                probe.latest = self._threads.submit(probe.find)
            return probe.latest

    def _is_stale(self, probe: Probe, finding: Finding) -> bool:
        ttl_s = probe.ttl_s if finding.ok else min(probe.ttl_s, FAILURE_TTL_S)
        return self._clock() - probe.latest_at >= ttl_s

    def _finding(self, probe: Probe, future: "Future[Finding]", left_s: float) -> Finding:
        try:
            return future.result(max(left_s, 0))
        except FutureTimeoutError:
            detail = f"no answer within {self._patience_s:g} s"
            return Finding(probe.name, ok=False, detail=detail, took_ms=self._patience_s * 1000)


def make_readiness(wiring: Wiring) -> Readiness:
    """Build the checks of everything that the wiring reaches."""
    return Readiness(
        [
            Probe("database", lambda: _check_database(wiring)),
            Probe("migrations", lambda: check_migrations(wiring)),
            Probe("broker", wiring.broker_ping),
            Probe("twilio", wiring.carrier.ping, PROVIDER_TTL_S),
            Probe("livekit", wiring.platform.ping, PROVIDER_TTL_S),
        ]
    )


def _check_database(wiring: Wiring) -> None:
    with wiring.engine.connect() as connection:
        connection.execute(text("SELECT 1"))


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
