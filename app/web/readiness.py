"""Readiness checks: everything that this process needs, in parallel, with short timeouts and cached results.

Ready means that the database responds and has the schema of this code, or of a newer release. A broker or provider that
is down fails no request and loses nothing, so it counts only on request (`deep`): behind a load balancer it would
otherwise take every process out of service at once.
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

REQUIRED_TIMEOUT_S = 3.0
"""Seconds until a required check counts as failed: below the timeout of common load balancers."""

OPTIONAL_TIMEOUT_S = 0.5
"""Seconds to wait for an optional check: a Kubernetes probe times out after 1 s by default."""

PROVIDER_TTL_S = 15.0
"""Seconds that a success of a provider is cached: /readyz needs no key, and must not use up our rate limit there."""

FAILURE_TTL_S = 2.0
"""Seconds that a failure is cached: recovery should show soon."""

MIGRATIONS = Path(__file__).parents[2] / "migrations" / "versions"
"""Files named by their revision number: reading the names saves a web process the 12 MB of Alembic."""


class NotReadyError(Exception):
    """A check failed; the message is our own text and may be shown to anybody."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check; `took_ms` in milliseconds."""

    name: str
    ok: bool
    detail: str | None
    took_ms: float


@dataclass
class Check:
    """One check: `run` raises if it fails; a success is cached for `ttl_s` seconds."""

    name: str
    run: Callable[[], None]
    ttl_s: float = 0.0
    is_required: bool = True
    """Whether the process is not ready without it."""
    lock: Lock = field(default_factory=Lock)
    latest: "Future[CheckResult] | None" = None
    latest_at: float = 0.0
    previous: CheckResult | None = None
    """The result before the latest run."""

    def result(self) -> CheckResult:
        """Run the check and return its result; never raises."""
        started = time.perf_counter()
        detail = None
        try:
            self.run()
        except (NotReadyError, ProviderError) as error:
            detail = str(error)
        except Exception as error:  # noqa: BLE001 - whatever a driver raises, the check has failed
            # An exception's text may name hosts and users; only its type is shown.
            detail = f"unreachable ({type(error).__name__})"
        return CheckResult(self.name, detail is None, detail, round((time.perf_counter() - started) * 1000, 1))


class Readiness:
    """The checks of one process; a check that hangs is never started a second time."""

    def __init__(
        self,
        checks: Sequence[Check],
        *,
        timeout_s: float = REQUIRED_TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._checks = checks
        self._clock = clock
        self._timeout_s = timeout_s
        self.started = Counter[str]()
        """How often each check was started."""
        self._threads = ThreadPoolExecutor(len(checks), thread_name_prefix="readiness")

    def results(self, *, deep: bool = False) -> list[CheckResult]:
        """Return the result of every check, within about `REQUIRED_TIMEOUT_S`.

        Without `deep` an optional check that takes longer than `OPTIONAL_TIMEOUT_S` has its previous result.
        """
        started = time.monotonic()
        running = [(check, self._running(check)) for check in self._checks]
        results = []
        for check, future in running:
            is_required = deep or check.is_required
            timeout_s = self._timeout_s if is_required else min(OPTIONAL_TIMEOUT_S, self._timeout_s)
            left_s = started + timeout_s - time.monotonic()
            results.append(self._result(check, future, left_s, None if is_required else check.previous))
        return results

    def is_ready(self, results: Iterable[CheckResult], *, deep: bool = False) -> bool:
        """Say whether every required check succeeded; with `deep` all are required."""
        is_required = {check.name: deep or check.is_required for check in self._checks}
        return all(result.ok for result in results if is_required[result.name])

    def _running(self, check: Check) -> "Future[CheckResult]":
        with check.lock:
            if check.latest is None or (check.latest.done() and self._is_stale(check, check.latest.result())):
                self.started[check.name] += 1
                check.latest_at = self._clock()
                check.previous = check.latest.result() if check.latest else None
                check.latest = self._threads.submit(check.result)
            return check.latest

    def _is_stale(self, check: Check, result: CheckResult) -> bool:
        ttl_s = check.ttl_s if result.ok else min(check.ttl_s, FAILURE_TTL_S)
        return self._clock() - check.latest_at >= ttl_s

    def _result(
        self, check: Check, future: "Future[CheckResult]", left_s: float, fallback: CheckResult | None
    ) -> CheckResult:
        try:
            return future.result(max(left_s, 0))
        except FutureTimeoutError:
            if fallback is not None:
                return fallback
            detail = f"no response within {self._timeout_s:g} s"
            return CheckResult(check.name, ok=False, detail=detail, took_ms=self._timeout_s * 1000)


@dataclass(frozen=True, eq=False)
class ReadinessCollector(Collector):
    """Exports the checks to Prometheus: an optional check that fails is seen nowhere else."""

    readiness: Readiness

    def describe(self) -> Iterable[Family]:
        """Declare no metric, so that registering the collector runs no check."""
        return ()

    def collect(self) -> Iterable[Family]:
        """Yield one family."""
        found: Mapping[tuple[str], float] = {(each.name,): each.ok for each in self.readiness.results()}
        yield gauge(counters.CHECK_OK, found, found)


def make_readiness(wiring: Wiring) -> Readiness:
    """Build the checks of everything that the wiring connects to."""
    return Readiness(
        [
            Check("database", lambda: _check_database(wiring)),
            Check("migrations", lambda: check_migrations(wiring)),
            Check("broker", lambda: check_broker(wiring), is_required=False),
            Check("twilio", wiring.carrier.ping, PROVIDER_TTL_S, is_required=False),
            Check("livekit", wiring.platform.ping, PROVIDER_TTL_S, is_required=False),
        ]
    )


def _check_database(wiring: Wiring) -> None:
    with wiring.engine.connect() as connection:
        connection.execute(text("SELECT 1"))


def check_broker(wiring: Wiring) -> None:
    """Raise `NotReadyError` if Redis refuses a write, and the driver's error if it does not respond."""
    try:
        wiring.check_broker()
    except OutOfMemoryError:
        raise NotReadyError("Redis takes no writes: it is full") from None
    except ReadOnlyError:
        raise NotReadyError("Redis takes no writes: it is a read-only replica") from None
    except ResponseError as error:
        raise NotReadyError(f"Redis refuses a write ({type(error).__name__})") from None


def newest_migration() -> str:
    """Return the schema revision that this code needs."""
    return max(path.name.partition("_")[0] for path in MIGRATIONS.glob("[0-9]*_*.py"))


def check_migrations(wiring: Wiring) -> None:
    """Raise `NotReadyError` unless the database has the schema that this code needs, or a newer one.

    A release is installed by migrating first: until its processes are replaced, this code serves on the new schema.
    """
    head = newest_migration()
    with wiring.engine.connect() as connection:
        if connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
            raise NotReadyError("the database is empty: run the migrations")
        # Revisions are numbered, with zeros in front.
        found = connection.scalar(text("SELECT version_num FROM alembic_version"))
    if not found or found < head:
        raise NotReadyError(f"the database is at revision {found}, the code at {head}")
