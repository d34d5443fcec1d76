"""The installation itself, for its operators: versions, settings without secrets, and when its schedules last ran."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from urllib.parse import urlsplit

from pydantic import SecretStr
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from app.audit.service import INTERVAL as AUDIT_INTERVAL
from app.db.engine import Sessions
from app.db.models import Agent, CarrierAccount, VoiceProject
from app.db.queries import latest_report
from app.domain.operations import PhoneStatus
from app.domain.version import VERSION
from app.observability.metrics import open_operation_ages
from app.settings import Settings

LIBRARIES = ("celery", "flask", "gunicorn", "livekit-api", "psycopg", "redis", "sqlalchemy", "twilio")
"""Libraries whose version a report of a defect should name."""

HIDDEN = frozenset({"flower_basic_auth", "livekit_api_key", "twilio_api_key_sid"})
"""Settings that are text, and of which nothing is shown beyond that they are set."""

OVERDUE = timedelta(minutes=1)
"""How late something may be before its schedule counts as standing still: a sweeper comes by every second."""


@dataclass(frozen=True, slots=True)
class SettingLine:
    """One setting as it may be shown."""

    name: str
    value: str
    is_default: bool


@dataclass(frozen=True, slots=True)
class Schedule:
    """Something that runs by itself."""

    name: str
    every: str
    last_at: datetime | None
    """When it last ran, where rows say so."""
    detail: str
    is_late: bool = False


@dataclass(frozen=True, slots=True)
class SystemFacts:
    """What the page of the system shows beside the checks."""

    versions: Sequence[tuple[str, str]]
    settings: Sequence[SettingLine]
    schedules: Sequence[Schedule]


@dataclass(frozen=True)
class SystemReader:
    """Reads the facts of this process and of the rows that all processes share."""

    sessions: Sessions
    settings: Settings

    def read(self) -> SystemFacts:
        """Return all of it; nothing of it is a secret."""
        with self.sessions() as session:
            database = str(session.scalar(text("SHOW server_version")))
            schema = str(session.scalar(text("SELECT version_num FROM alembic_version")))
            schedules = _schedules(session)
        versions = [("Trunkline", VERSION), ("Schema", schema), ("PostgreSQL", database)]
        versions += [("Python", platform.python_version()), *((name, version(name)) for name in LIBRARIES)]
        return SystemFacts(versions, setting_lines(self.settings), schedules)


def setting_lines(settings: Settings) -> Sequence[SettingLine]:
    """Return every setting by its variable's name; of a secret only whether it is set, of a URL no password."""
    given = settings.model_fields_set
    return [
        SettingLine(name.upper(), _shown(name, getattr(settings, name)), name not in given)
        for name in sorted(type(settings).model_fields)
    ]


def _shown(name: str, value: object) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, SecretStr) or name in HIDDEN:
        return "(set, not shown)"
    return str(value).lower() if isinstance(value, bool) else _without_password(str(value))


def _without_password(value: str) -> str:
    """Leave user, password and query out of a URL: a query may hold a password too."""
    if "://" not in value:
        return value
    parts = urlsplit(value)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def _schedules(session: Session) -> Sequence[Schedule]:
    now = datetime.now(UTC)
    report, columns = latest_report(session), (CarrierAccount.checked_at, VoiceProject.checked_at)
    audited_at = report.finished_at if report else None
    times = [session.scalar(select(func.max(column))) for column in columns]
    checked_at = max((at for at in times if at is not None), default=None)
    return [
        _sweeps(session),
        Schedule(
            "Audit",
            "every 10 minutes",
            audited_at,
            "" if audited_at else "none yet: the first runs once a number has been connected for ten minutes",
            is_late=audited_at is not None and now - audited_at > 2 * AUDIT_INTERVAL,
        ),
        Schedule("Check of credentials", "every minute, of those that are refused", checked_at, ""),
        _monitors(session, now),
    ]


def _sweeps(session: Session) -> Schedule:
    _, overdue_s = open_operation_ages(session)
    is_late = overdue_s > OVERDUE.total_seconds()
    detail = f"an operation is {overdue_s:,.0f} s overdue: no sweeper seems to run" if is_late else "nothing is overdue"
    return Schedule("Sweep of what is due", "every second", None, detail, is_late)


def _monitors(session: Session, now: datetime) -> Schedule:
    has_monitor = text("options -> 'monitor' IS NOT NULL")
    wanted = (has_monitor, Agent.phone_provisioning_status == PhoneStatus.PROVISIONED, Agent.deleted_at.is_(None))
    due_at = session.scalar(select(func.min(Agent.monitor_due_at)).where(*wanted))
    detail = f"the next is due {due_at:%Y-%m-%d %H:%M} UTC" if due_at else "none is due"
    is_late = due_at is not None and now - due_at > OVERDUE
    return Schedule("Test calls of monitors", "as each agent says", None, detail, is_late)
