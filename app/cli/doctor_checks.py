"""What `doctor` checks first: the settings, the stores, and who works on them; and what a check is."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from psycopg import Connection as PsycopgConnection
from redis.exceptions import RedisError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.access import KeyService
from app.audit.service import INTERVAL
from app.cli.context import hint, reason_of
from app.db import queries
from app.observability import metrics
from app.settings import Settings, SettingsError, load_settings
from app.web.readiness import NotReadyError, check_broker, check_migrations
from app.wiring import Wiring


class Verdict(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    """It works now, and a person should look."""
    FAILED = "failed"
    """Numbers cannot be connected like this."""
    SKIPPED = "skipped"
    """What it needs is wrong already."""


@dataclass(frozen=True)
class Finding:
    """What a check found, in plain words, and how to mend it."""

    verdict: Verdict
    detail: str
    mend: str = ""


@dataclass(frozen=True)
class Check:
    """One thing that must hold. It is skipped where a setting that it needs, or a check before it, is wrong."""

    name: str
    run: Callable[[Wiring], Finding]
    variables: tuple[str, ...] = ()
    """The settings that it needs."""
    after: str = ""
    """The check without which it makes no sense."""


@dataclass(frozen=True)
class Result:
    """A finding under the name of its check."""

    name: str
    finding: Finding


def ok(detail: str) -> Finding:
    """Build the finding that all is well."""
    return Finding(Verdict.OK, detail)


class Examination:
    """One run of the checks, in order; `problems` is setting -> what is wrong with it."""

    def __init__(self, wiring: Wiring, problems: Mapping[str, str]) -> None:
        self._wiring, self._problems = wiring, problems
        self._broken: set[str] = set()

    def run(self, check: Check) -> Result:
        """Run one check, unless what it needs is wrong already."""
        first = [variable for variable in check.variables if variable in self._problems]
        first += [check.after] if check.after in self._broken else []
        if first:
            finding = Finding(Verdict.SKIPPED, f"not checked: {', '.join(first)} first")
        else:
            finding = check.run(self._wiring)
        if finding.verdict in {Verdict.FAILED, Verdict.SKIPPED}:
            self._broken.add(check.name)
        return Result(check.name, finding)


STAND_INS = {
    "database_url": "postgresql://nobody@127.0.0.1:1/none",
    "redis_url": "redis://127.0.0.1:1/0",
    "twilio_account_sid": "AC" + "0" * 32,
    "twilio_auth_token": "none",
    "livekit_url": "ws://127.0.0.1:1",
    "livekit_api_key": "none",
    "livekit_api_secret": "none",
    "livekit_sip_uri": "sip:none.sip.livekit.cloud",
    "flower_basic_auth": "none:none",
}
"""Well-formed, and never used: whatever needs a setting that is wrong is not checked. The others have defaults."""

API_KEY = frozenset({"twilio_api_key_sid", "twilio_api_key_secret"})

REMEDIES = {
    "DATABASE_URL": "The URL of PostgreSQL 15 or newer: postgresql://user:password@host:5432/name",
    "REDIS_URL": "The URL of Redis 7.2 or newer, or Valkey: redis://:password@host:6379/0",
    "TWILIO_ACCOUNT_SID": "Copy it from the first page of the Twilio console (Account Info): AC, then 32 of 0-9, a-f.",
    "TWILIO_AUTH_TOKEN": "Copy it from the first page of the Twilio console (Account Info), or use an API key.",
    "TWILIO_API_KEY_SID": "Create an API key in the Twilio console (API keys & tokens): SK, then 32 of 0-9, a-f.",
    "TWILIO_API_KEY_SECRET": "Twilio shows it once, when the API key is created: create another key if it is lost.",
    "LIVEKIT_URL": "Copy it from the LiveKit project's settings: wss://your-project.livekit.cloud, or your own server.",
    "LIVEKIT_API_KEY": "Create a key in the LiveKit project's settings (API keys), or copy your server's.",
    "LIVEKIT_API_SECRET": "LiveKit shows it when the API key is created.",
    "LIVEKIT_SIP_URI": "Copy it from the LiveKit project's settings (SIP URI): sip:abc123.sip.livekit.cloud",
}
"""Variable -> where a person gets its value."""

ELSEWHERE = "See its line in .env.example."

TRIES = 4
"""Readings: a setting that goes with another can be judged only once that one is well-formed."""


def read_settings() -> tuple[Settings, dict[str, str]]:
    """Return the settings with stand-ins for what is wrong, and variable -> what is wrong with it."""
    problems: dict[str, str] = {}
    for _ in range(TRIES):
        try:
            return load_settings(**_instead(problems)), problems
        except SettingsError as error:
            problems |= dict(_parted(line) for line in error.problems)
    raise SettingsError([f"{variable}: {problem}" for variable, problem in problems.items()])


def results_of(settings: Settings, problems: Mapping[str, str]) -> list[Result]:
    """Return a result for every setting that is wrong, or the one that says that none is."""
    if not problems:
        count = len(Settings.model_fields)
        return [Result("settings", ok(f"all {count} are well-formed; the instance is {settings.instance_name}"))]
    return [
        Result("settings", Finding(Verdict.FAILED, f"{variable}: {problem}", REMEDIES.get(variable, ELSEWHERE)))
        for variable, problem in problems.items()
    ]


def _instead(problems: Mapping[str, str]) -> dict[str, object]:
    fields = Settings.model_fields
    names = {variable.lower() for variable in problems} & fields.keys()
    if names & API_KEY:
        # One half of a key without the other: none at all, and a token.
        names |= API_KEY | {"twilio_auth_token"}
    return {name: STAND_INS[name] if name in STAND_INS else fields[name].default for name in names}


def _parted(line: str) -> tuple[str, str]:
    variable, _, problem = line.partition(": ")
    return variable, problem


OLDEST_POSTGRESQL = 15
"""The major version that the README asks for."""

POOLERS_WORDS = ("startup parameter", "command-line options")
"""How poolers refuse what a session is to begin with: PgBouncer, Neon and Supabase; RDS Proxy."""

USE_POOLER = "Set DATABASE_POOLER=true, or point DATABASE_URL directly at PostgreSQL."

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
            return Finding(Verdict.FAILED, f"a connection pooler refused: {reason}", USE_POOLER)
        mend = "Check DATABASE_URL (host, port, user, password, name), and that PostgreSQL runs and accepts this host."
        return Finding(Verdict.FAILED, reason, mend)
    if is_pooled and not is_for_pooler:
        return Finding(Verdict.FAILED, "the connection goes through a pooler", USE_POOLER)
    if version < OLDEST_POSTGRESQL:
        mend = f"Use PostgreSQL {OLDEST_POSTGRESQL} or newer."
        return Finding(Verdict.FAILED, f"PostgreSQL {version} is too old", mend)
    return ok(f"PostgreSQL {version} responds{' through a pooler' if is_pooled else ''}")


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
        mend = "Raise maxmemory, or set REDIS_URL to the primary. Until then operations wait; none is lost."
        return Finding(Verdict.FAILED, str(error), mend)
    except (RedisError, OSError) as error:
        mend = "Check REDIS_URL, and that Redis runs and accepts this host. Until then operations wait; none is lost."
        return Finding(Verdict.FAILED, reason_of(error), mend)
    return ok("Redis responds and accepts writes")


def _clock(wiring: Wiring) -> Finding:
    with wiring.engine.connect() as connection:
        theirs = connection.scalar(text("SELECT clock_timestamp()"))
    skew_s = math.fabs((datetime.now(UTC) - theirs).total_seconds()) if theirs else 0.0
    if skew_s > SKEW_S:
        detail = f"this host's clock and the database's are {skew_s:.0f} s apart"
        return Finding(Verdict.WARNING, detail, "Synchronise both with NTP: LiveKit refuses tokens with a wrong time.")
    return ok("agrees with the database's clock")


def _sweeper(wiring: Wiring) -> Finding:
    mend = f"Start the Procfile's sweeper under your supervisor: {hint('sweep')}"
    with wiring.sessions() as session:
        _, overdue_s = metrics.open_operation_ages(session)
        audit = queries.latest_audit(session)
    if overdue_s > OVERDUE_S:
        return Finding(Verdict.WARNING, f"no sweeper seems to run: an operation is {overdue_s:.0f} s overdue", mend)
    if audit is None:
        return ok("nothing is overdue; the first audit runs once a number has been connected for ten minutes")
    age = datetime.now(UTC) - audit.created_at
    if age > 2 * INTERVAL:
        return Finding(Verdict.WARNING, f"no sweeper seems to run: the last audit was {_ago(age)} ago", mend)
    return ok(f"runs; the last audit was {_ago(age)} ago")


def _workers(wiring: Wiring) -> Finding:
    mend = "Start the Procfile's worker, bulk and cleanup under your supervisor, and check their logs."
    with wiring.sessions() as session:
        ignored = queries.count_ignored(session, IGNORED_KICKS)
        audit = queries.latest_audit(session)
    if ignored:
        return Finding(Verdict.WARNING, f"no worker starts what is queued: {ignored} operations wait", mend)
    if audit is None:
        return ok("nothing is queued")
    if audit.started_at is None and datetime.now(UTC) - audit.created_at > UNTOUCHED:
        waits = f"an audit has waited since {audit.created_at:%H:%M} UTC"
        return Finding(Verdict.WARNING, f"no worker starts what is queued: {waits}", mend)
    return ok("start what is queued" if audit.started_at else "nothing has waited long")


def _keys(wiring: Wiring) -> Finding:
    live = [key for key in KeyService(wiring.sessions).all() if key.revoked_at is None]
    return ok(f"{len(live)} in use" if live else f"none yet; API clients need one: {hint('keys create NAME')}")


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
