"""The checks of `doctor` on settings, PostgreSQL, Redis and processes, and the types that every check uses."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from psycopg import Connection as PsycopgConnection
from redis.exceptions import RedisError
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.access import KeyService
from app.accounts.checks import CheckOutcome, CheckStatus, ok
from app.audit.service import INTERVAL
from app.cli.context import command_line
from app.cli.installation import reason_of
from app.db import queries
from app.observability import metrics
from app.settings import Settings, SettingsError, load_settings
from app.web.readiness import NotReadyError, check_broker, check_migrations
from app.wiring import Wiring


@dataclass(frozen=True)
class Check:
    """One check. It is skipped if a setting that it needs is wrong or a check that it depends on failed."""

    name: str
    run: Callable[[Wiring], CheckOutcome]
    variables: tuple[str, ...] = ()
    """The settings that it needs."""
    after: tuple[str, ...] = ()
    """The checks that it depends on."""


@dataclass(frozen=True)
class CheckResult:
    """An outcome with the name of its check."""

    name: str
    outcome: CheckOutcome


class CheckRun:
    """Runs checks in order and remembers which failed; `problems` is setting -> what is wrong with it."""

    def __init__(self, wiring: Wiring, problems: Mapping[str, str]) -> None:
        self._wiring, self._problems = wiring, problems
        self._failed: set[str] = set()

    def run_check(self, check: Check) -> CheckResult:
        """Run one check, or skip it if something that it depends on failed."""
        failed = [variable for variable in check.variables if variable in self._problems]
        failed += [name for name in check.after if name in self._failed]
        if failed:
            outcome = CheckOutcome(CheckStatus.SKIPPED, f"not checked: fix {', '.join(failed)} first")
        else:
            outcome = check.run(self._wiring)
        if outcome.status in {CheckStatus.FAILED, CheckStatus.SKIPPED}:
            self._failed.add(check.name)
        return CheckResult(check.name, outcome)


PLACEHOLDERS = {
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
"""Well-formed values for settings that are wrong. Never used: checks that need such a setting are skipped.

Settings that are not listed have defaults.
"""

API_KEY = frozenset({"twilio_api_key_sid", "twilio_api_key_secret"})

FIXES = {
    "DATABASE_URL": "The URL of PostgreSQL 15 or newer: postgresql://user:password@host:5432/name",
    "REDIS_URL": "The URL of Redis 7.2 or newer, or Valkey: redis://:password@host:6379/0",
    "TWILIO_ACCOUNT_SID": "Copy it from the first page of the Twilio console (Account Info): AC, then 32 of 0-9, a-f.",
    "TWILIO_AUTH_TOKEN": "Copy it from the first page of the Twilio console (Account Info), or use an API key.",
    "TWILIO_API_KEY_SID": "Create an API key in the Twilio console (API keys & tokens): SK, then 32 of 0-9, a-f.",
    "TWILIO_API_KEY_SECRET": "Twilio shows it once, when the API key is created: create another key if it is lost.",
    "CREDENTIAL_KEYS": "Make one with: openssl rand -base64 32. After a change keep the old ones behind it.",
    "LIVEKIT_URL": "Copy it from the LiveKit project's settings: wss://your-project.livekit.cloud, or your own server.",
    "LIVEKIT_API_KEY": "Create a key in the LiveKit project's settings (API keys), or copy your server's.",
    "LIVEKIT_API_SECRET": "LiveKit shows it when the API key is created.",
    "LIVEKIT_SIP_URI": "Copy it from the LiveKit project's settings (SIP URI): sip:abc123.sip.livekit.cloud",
}
"""Variable -> where to get its value."""

DEFAULT_FIX = "See its line in .env.example."

MAX_READS = 4
"""Attempts to load the settings: a setting that depends on another is validated only once that one is valid."""


def read_settings() -> tuple[Settings, dict[str, str]]:
    """Return the settings with placeholders for wrong ones, and variable -> what is wrong with it."""
    problems: dict[str, str] = {}
    for _ in range(MAX_READS):
        try:
            return load_settings(**_placeholders_for(problems)), problems
        except SettingsError as error:
            problems |= dict(_split_problem(line) for line in error.problems)
    raise SettingsError([f"{variable}: {problem}" for variable, problem in problems.items()])


def settings_results(settings: Settings, problems: Mapping[str, str]) -> list[CheckResult]:
    """Return a failed result for every wrong setting, or one passed result if none is wrong."""
    if not problems:
        count = len(Settings.model_fields)
        return [CheckResult("settings", ok(f"all {count} are well-formed; the instance is {settings.instance_name}"))]
    return [
        CheckResult(
            "settings", CheckOutcome(CheckStatus.FAILED, f"{variable}: {problem}", FIXES.get(variable, DEFAULT_FIX))
        )
        for variable, problem in problems.items()
    ]


def _placeholders_for(problems: Mapping[str, str]) -> dict[str, object]:
    fields = Settings.model_fields
    names = {variable.lower() for variable in problems} & fields.keys()
    if names & API_KEY:
        # Half of an API key: use neither half, and a placeholder token.
        names |= API_KEY | {"twilio_auth_token"}
    return {name: PLACEHOLDERS[name] if name in PLACEHOLDERS else fields[name].default for name in names}


def _split_problem(line: str) -> tuple[str, str]:
    variable, _, problem = line.partition(": ")
    return variable, problem


OLDEST_POSTGRESQL = 15
"""The major version that the README requires."""

POOLER_ERRORS = ("startup parameter", "command-line options")
"""Parts of the errors with which poolers refuse our session options: PgBouncer, Neon and Supabase; RDS Proxy."""

USE_POOLER = "Set DATABASE_POOLER=true, or point DATABASE_URL directly at PostgreSQL."

SKEW_S = 30.0
"""Seconds between this clock and the database's beyond which LiveKit may refuse tokens, which carry a time."""

OVERDUE_S = 60.0
"""Seconds that an operation may be overdue: the sweeper runs every second, and reaches each operation within 30 s."""

AUDIT_START_LIMIT = timedelta(minutes=1)
"""How long a requested audit may wait for a worker: its message is published four times in this time."""

IGNORED_REPUBLISHES = 3
"""Publications of one operation after which a running worker would have started it."""


def _database(wiring: Wiring) -> CheckOutcome:
    is_for_pooler = wiring.settings.database_pooler
    try:
        with wiring.engine.connect() as connection:
            version = int(connection.scalar(text("SHOW server_version_num")) or 0) // 10_000
            is_pooled = _is_pooled(connection)
    except (DBAPIError, PoolTimeoutError) as error:
        reason = reason_of(error)
        if not is_for_pooler and any(part in reason.lower() for part in POOLER_ERRORS):
            return CheckOutcome(CheckStatus.FAILED, f"a connection pooler refused: {reason}", USE_POOLER)
        fix = "Check DATABASE_URL (host, port, user, password, name), and that PostgreSQL runs and accepts this host."
        return CheckOutcome(CheckStatus.FAILED, reason, fix)
    if is_pooled and not is_for_pooler:
        return CheckOutcome(CheckStatus.FAILED, "the connection goes through a pooler", USE_POOLER)
    if version < OLDEST_POSTGRESQL:
        fix = f"Use PostgreSQL {OLDEST_POSTGRESQL} or newer."
        return CheckOutcome(CheckStatus.FAILED, f"PostgreSQL {version} is too old", fix)
    return ok(f"PostgreSQL {version} responds{' through a pooler' if is_pooled else ''}")


def _is_pooled(connection: Connection) -> bool:
    """Return whether a pooler is in between: the serving process is not the one whose id we got on connecting."""
    driver = connection.connection.driver_connection
    if not isinstance(driver, PsycopgConnection):
        raise TypeError("the engine's driver is not psycopg")
    return bool(driver.info.backend_pid != connection.scalar(text("SELECT pg_backend_pid()")))


def _migrations(wiring: Wiring) -> CheckOutcome:
    try:
        check_migrations(wiring)
    except NotReadyError as error:
        return CheckOutcome(CheckStatus.FAILED, str(error), "Run: alembic upgrade head")
    return ok("the schema is the one that this code expects")


def _broker(wiring: Wiring) -> CheckOutcome:
    try:
        check_broker(wiring)
    except NotReadyError as error:
        fix = "Raise maxmemory, or set REDIS_URL to the primary. Until then operations wait; none is lost."
        return CheckOutcome(CheckStatus.FAILED, str(error), fix)
    except (RedisError, OSError) as error:
        fix = "Check REDIS_URL, and that Redis runs and accepts this host. Until then operations wait; none is lost."
        return CheckOutcome(CheckStatus.FAILED, reason_of(error), fix)
    return ok("Redis responds and accepts writes")


def _clock(wiring: Wiring) -> CheckOutcome:
    with wiring.engine.connect() as connection:
        theirs = connection.scalar(text("SELECT clock_timestamp()"))
    skew_s = math.fabs((datetime.now(UTC) - theirs).total_seconds()) if theirs else 0.0
    if skew_s > SKEW_S:
        detail = f"this host's clock and the database's are {skew_s:.0f} s apart"
        return CheckOutcome(
            CheckStatus.WARNING, detail, "Synchronise both with NTP: LiveKit refuses tokens with a wrong time."
        )
    return ok("agrees with the database's clock")


def _sweeper(wiring: Wiring) -> CheckOutcome:
    fix = f"Start the Procfile's sweeper under your supervisor: {command_line('sweep')}"
    with wiring.sessions() as session:
        _, overdue_s = metrics.open_operation_ages(session)
        audit = queries.latest_audit(session)
    if overdue_s > OVERDUE_S:
        return CheckOutcome(
            CheckStatus.WARNING, f"no sweeper seems to run: an operation is {overdue_s:.0f} s overdue", fix
        )
    if audit is None:
        return ok("nothing is overdue; the first audit runs once a number has been connected for ten minutes")
    age = datetime.now(UTC) - audit.created_at
    if age > 2 * INTERVAL:
        return CheckOutcome(CheckStatus.WARNING, f"no sweeper seems to run: the last audit was {_ago(age)} ago", fix)
    return ok(f"runs; the last audit was {_ago(age)} ago")


def _workers(wiring: Wiring) -> CheckOutcome:
    fix = "Start the Procfile's worker, bulk and cleanup under your supervisor, and check their logs."
    with wiring.sessions() as session:
        ignored = queries.count_ignored(session, IGNORED_REPUBLISHES)
        audit = queries.latest_audit(session)
    if ignored:
        return CheckOutcome(CheckStatus.WARNING, f"no worker starts what is queued: {ignored} operations wait", fix)
    if audit is None:
        return ok("nothing is queued")
    if audit.started_at is None and datetime.now(UTC) - audit.created_at > AUDIT_START_LIMIT:
        wait_option = f"an audit has waited since {audit.created_at:%H:%M} UTC"
        return CheckOutcome(CheckStatus.WARNING, f"no worker starts what is queued: {wait_option}", fix)
    return ok("start what is queued" if audit.started_at else "nothing has waited long")


def _keys(wiring: Wiring) -> CheckOutcome:
    live = [key for key in KeyService(wiring.sessions).all() if key.revoked_at is None]
    return ok(f"{len(live)} in use" if live else f"none yet; API clients need one: {command_line('keys create NAME')}")


def _stored_secrets(wiring: Wiring) -> CheckOutcome:
    counts = wiring.stored_secrets.count()
    if counts.unreadable:
        detail = f"{counts.unreadable} stored secrets open with none of CREDENTIAL_KEYS"
        return CheckOutcome(CheckStatus.FAILED, detail, "Add the key that they were sealed with to CREDENTIAL_KEYS.")
    if counts.in_clear:
        fix = "Set CREDENTIAL_KEYS (openssl rand -base64 32) for every process, restart, then run: "
        detail = f"{counts.in_clear} secrets are stored in clear"
        return CheckOutcome(CheckStatus.WARNING, detail, fix + command_line("credentials rewrap"))
    if counts.outdated:
        detail = f"{counts.outdated} secrets are sealed by an older one of CREDENTIAL_KEYS"
        return CheckOutcome(CheckStatus.WARNING, detail, f"Run: {command_line('credentials rewrap')}")
    return ok(f"{counts.total} sealed" if counts.total else "none")


def _ago(age: timedelta) -> str:
    minutes, seconds = divmod(int(age.total_seconds()), 60)
    return f"{minutes} min" if minutes else f"{seconds} s"


STORE_CHECKS = (
    Check("database", _database, ("DATABASE_URL",)),
    Check("migrations", _migrations, after=("database",)),
    Check("broker", _broker, ("REDIS_URL",)),
    Check("clock", _clock, after=("database",)),
    Check("stored secrets", _stored_secrets, ("CREDENTIAL_KEYS",), after=("migrations",)),
)

PROCESS_CHECKS = (
    Check("sweeper", _sweeper, after=("migrations",)),
    Check("workers", _workers, after=("migrations",)),
    Check("API keys", _keys, after=("migrations",)),
)
