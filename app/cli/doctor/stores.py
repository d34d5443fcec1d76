"""Checks of what Trunkline keeps its rows and messages in, and of who works on them."""

import math
from datetime import UTC, datetime, timedelta

from psycopg import Connection as PsycopgConnection
from redis.exceptions import RedisError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.access import KeyService
from app.api.readiness import NotReadyError, check_broker, check_migrations
from app.cli.context import hint, reason_of
from app.cli.doctor.checks import Check, Finding, Verdict, ok
from app.db import counts, queries
from app.provisioning.audit import INTERVAL
from app.wiring import Wiring

OLDEST_POSTGRESQL = 15
"""The major version that the README asks for."""

POOLERS_WORDS = ("startup parameter", "command-line options")
"""How poolers refuse what a session is to begin with: PgBouncer, Neon and Supabase; RDS Proxy."""

USE_POOLER = "Set DATABASE_POOLER=true, or name PostgreSQL itself in DATABASE_URL."

SKEW_S = 30.0
"""Seconds between this clock and the database's from which LiveKit may refuse tokens: they are dated."""

OVERDUE_S = 60.0
"""Seconds that an operation may be overdue: a sweeper looks every second, and at most half a minute apart at each."""

UNTOUCHED = timedelta(minutes=1)
"""How long an audit that was asked for may wait for a worker: its message is repeated four times in that."""

IGNORED_KICKS = 3
"""Publications of one operation after which a worker would have begun it."""


def _database(wiring: Wiring) -> Finding:
    is_for_pooler = wiring.settings.database_pooler
    try:
        with wiring.engine.connect() as connection:
            version = int(connection.scalar(text("SHOW server_version_num")) or 0) // 10_000
            is_pooled = _is_pooled(connection)
    except (DBAPIError, PoolTimeoutError) as error:
        reason = reason_of(error)
        if not is_for_pooler and any(word in reason.lower() for word in POOLERS_WORDS):
            return Finding(Verdict.FAILED, f"a connection pooler answers: {reason}", USE_POOLER)
        mend = "Check DATABASE_URL (host, port, user, password, name), and that PostgreSQL runs and lets this host in."
        return Finding(Verdict.FAILED, reason, mend)
    if is_pooled and not is_for_pooler:
        return Finding(Verdict.FAILED, "a connection pooler stands before PostgreSQL", USE_POOLER)
    if version < OLDEST_POSTGRESQL:
        mend = f"Use PostgreSQL {OLDEST_POSTGRESQL} or newer."
        return Finding(Verdict.FAILED, f"PostgreSQL {version} is too old", mend)
    return ok(f"PostgreSQL {version} answers{' through a pooler' if is_pooled else ''}")


def _is_pooled(connection: Connection) -> bool:
    """Say whether another process serves us than the one that we connected to: it tells its number at the start."""
    driver = connection.connection.driver_connection
    if not isinstance(driver, PsycopgConnection):
        raise TypeError("the engine's driver is not psycopg")
    return bool(driver.info.backend_pid != connection.scalar(text("SELECT pg_backend_pid()")))


def _migrations(wiring: Wiring) -> Finding:
    try:
        check_migrations(wiring)
    except NotReadyError as error:
        return Finding(Verdict.FAILED, str(error), "Run: alembic upgrade head")
    return ok("the schema is the one that this code expects")


def _broker(wiring: Wiring) -> Finding:
    try:
        check_broker(wiring)
    except NotReadyError as error:
        mend = "Give Redis memory (maxmemory), or name the primary in REDIS_URL. Until then nothing moves, or is lost."
        return Finding(Verdict.FAILED, str(error), mend)
    except (RedisError, OSError) as error:
        mend = "Check REDIS_URL, and that Redis runs and lets this host in. Until then nothing moves, or is lost."
        return Finding(Verdict.FAILED, reason_of(error), mend)
    return ok("Redis answers and takes writes")


def _clock(wiring: Wiring) -> Finding:
    with wiring.engine.connect() as connection:
        theirs = connection.scalar(text("SELECT clock_timestamp()"))
    skew_s = math.fabs((datetime.now(UTC) - theirs).total_seconds()) if theirs else 0.0
    if skew_s > SKEW_S:
        detail = f"this host's clock and the database's are {skew_s:.0f} s apart"
        return Finding(Verdict.WARNING, detail, "Let NTP set both: LiveKit refuses tokens from a wrong time.")
    return ok("agrees with the database's")


def _sweeper(wiring: Wiring) -> Finding:
    mend = f"Start the Procfile's sweeper under your supervisor: {hint('sweep')}"
    with wiring.sessions() as session:
        _, overdue_s = counts.open_operation_ages(session)
        audit = queries.latest_audit(session)
    if overdue_s > OVERDUE_S:
        return Finding(Verdict.WARNING, f"no sweeper seems to run: an operation is {overdue_s:.0f} s overdue", mend)
    if audit is None:
        return ok("nothing is overdue; one leaves its first trace when a number has been connected for ten minutes")
    age = datetime.now(UTC) - audit.created_at
    if age > 2 * INTERVAL:
        return Finding(Verdict.WARNING, f"no sweeper seems to run: the last audit was {_ago(age)} ago", mend)
    return ok(f"runs; the last audit was {_ago(age)} ago")


def _workers(wiring: Wiring) -> Finding:
    mend = "Start the Procfile's worker, bulk and cleanup under your supervisor, and look at their logs."
    with wiring.sessions() as session:
        ignored = queries.count_ignored(session, IGNORED_KICKS)
        audit = queries.latest_audit(session)
    if ignored:
        return Finding(Verdict.WARNING, f"no worker begins what is queued: {ignored} operations wait", mend)
    if audit is None:
        return ok("nothing waits for one")
    if audit.started_at is None and datetime.now(UTC) - audit.created_at > UNTOUCHED:
        waits = f"an audit waits since {audit.created_at:%H:%M} UTC"
        return Finding(Verdict.WARNING, f"no worker takes what is queued: {waits}", mend)
    return ok("take what is queued" if audit.started_at else "nothing waits long for one")


def _keys(wiring: Wiring) -> Finding:
    live = [key for key in KeyService(wiring.sessions).all() if key.revoked_at is None]
    return ok(f"{len(live)} in use" if live else f"none yet; a client of the API needs one: {hint('keys create NAME')}")


def _ago(age: timedelta) -> str:
    minutes, seconds = divmod(int(age.total_seconds()), 60)
    return f"{minutes} min" if minutes else f"{seconds} s"


STORE_CHECKS = (
    Check("database", _database, ("DATABASE_URL",)),
    Check("migrations", _migrations, after="database"),
    Check("broker", _broker, ("REDIS_URL",)),
    Check("clock", _clock, after="database"),
)

PROCESS_CHECKS = (
    Check("sweeper", _sweeper, after="migrations"),
    Check("workers", _workers, after="migrations"),
    Check("API keys", _keys, after="migrations"),
)
