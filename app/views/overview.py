"""The installation, or a workspace, at a glance: what the overview of console and API shows, in six statements."""

import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import sha256
from typing import Protocol

from sqlalchemy import Row, select
from sqlalchemy.orm import Session

from app.bulk.queries import list_open_bulks
from app.db.engine import Sessions, read_sql
from app.db.models import Audit, Workspace
from app.db.queries import latest_report
from app.db.visibility import home_workspace, seen_workspace
from app.domain.findings import Health, Severity, stored_finding
from app.domain.operations import OPEN_STATUSES, OperationStatus, PhoneStatus
from app.numbers.headroom import Headroom
from app.views.bulks import BulkView

HOURS = 24
"""Hours of operations that are shown, the present one included."""

MAX_BULKS = 10
"""Open bulks that are named, the oldest first; all of them are counted."""

_COUNT = read_sql(__file__, "overview.sql")


class PathState(StrEnum):
    """What the last check of a number's path has found."""

    IN_SYNC = Health.IN_SYNC.value
    CALLS_FAIL = "CALLS_FAIL"
    """Calls of all callers or of some fail."""
    WARNINGS = "WARNINGS"
    """Something differs from what was built, and calls get through."""
    UNKNOWN = Health.UNKNOWN.value
    """It was not checked yet."""


@dataclass(frozen=True, slots=True)
class AgentFigures:
    """How many agents there are; `by_path` counts those whose status is PROVISIONED."""

    by_status: Mapping[PhoneStatus, int]
    by_path: Mapping[PathState, int]
    unreachable: int
    """Of those by path: their last test calls did not get through."""


@dataclass(frozen=True, slots=True)
class HourFigures:
    """How the operations ended that ended in one hour."""

    at: datetime
    """When the hour began."""
    succeeded: int
    failed: int
    cancelled: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.succeeded + self.failed + self.cancelled


@dataclass(frozen=True, slots=True)
class FailureFigure:
    """How many operations failed for one reason."""

    code: str
    count: int


@dataclass(frozen=True, slots=True)
class OpenFigures:
    """The operations that have not ended."""

    by_status: Mapping[OperationStatus, int]
    oldest_queued_at: datetime | None
    """When the oldest was asked for of those that no worker has started."""

    @property
    def queued(self) -> int:
        """How many no worker has started: the depth of the queue."""
        return self.by_status[OperationStatus.QUEUED]


@dataclass(frozen=True, slots=True)
class BulkFigures:
    """The open bulks."""

    count: int
    waiting: int
    """Numbers of theirs that have no operation yet."""
    oldest: Sequence[BulkView]


@dataclass(frozen=True, slots=True)
class AuditFigures:
    """What the last audit that ended has found, without what it has repaired."""

    id: uuid.UUID
    finished_at: datetime
    agents_checked: int
    by_severity: Mapping[Severity, int]


@dataclass(frozen=True, slots=True)
class RateFigures:
    """What a provider takes now of the account in the settings."""

    provider: str
    allowed_per_s: float | None
    """Requests per second; None: no limit is in force."""
    sent_per_s: float
    in_flight: int


@dataclass(frozen=True, slots=True)
class Overview:
    """All figures at one moment."""

    at: datetime
    agents: AgentFigures
    open: OpenFigures
    hours: Sequence[HourFigures]
    failures: Sequence[FailureFigure]
    bulks: BulkFigures
    audit: AuditFigures | None
    headroom: Headroom | None
    """Of the account that the workspace's agents use; None when Twilio does not respond in time."""
    rates: Sequence[RateFigures]
    """For operators, while Redis responds."""

    @property
    def oldest_queued_s(self) -> int:
        """Seconds that the oldest queued operation has waited; 0 when none waits."""
        at = self.open.oldest_queued_at
        return 0 if at is None else max(int((self.at - at).total_seconds()), 0)

    @property
    def version(self) -> str:
        """Tell two apart whose figures differ; seconds that pass, and requests that are sent, are none."""
        bulks = [(one.id, one.status, one.counts) for one in self.bulks.oldest]
        shown = (self.agents, self.open, self.hours, self.failures, bulks, self.bulks.waiting, self.audit)
        return sha256(repr((shown, self.headroom, len(self.rates))).encode()).hexdigest()


class Load(Protocol):
    """What an account takes now."""

    @property
    def allowed_per_s(self) -> float | None:
        """Requests per second that it is sent at most."""

    @property
    def sent_per_s(self) -> float:
        """Requests that it took in the last second."""

    @property
    def in_flight(self) -> int:
        """Requests under way."""


class Limiter(Protocol):
    """What knows how much of an account is used."""

    def load(self) -> Load | None:
        """Return it; None while Redis is away."""


@dataclass(frozen=True)
class OverviewReader:
    """Reads the figures of what is seen."""

    sessions: Sessions
    headroom: Callable[[uuid.UUID], Headroom | None]
    """Carrier account -> its room."""
    limiters: Mapping[str, Limiter]
    """Provider -> the limiter of the account in the settings."""
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    def read(self, *, is_operator: bool) -> Overview:
        """Return the figures of the workspace that is seen, or of all; the rates are for operators."""
        now = self.clock()
        since = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=HOURS - 1)
        with self.sessions() as session:
            values = {"workspace": seen_workspace(), "since": since}
            rows = session.connection().exec_driver_sql(_COUNT, values).all()
            bulks = [BulkView.of(row) for row in list_open_bulks(session, MAX_BULKS)]
            audit = _audit_figures(latest_report(session))
            account = _carrier_account(session)
        parts: dict[str, list[Row[tuple[object, ...]]]] = {}
        for row in rows:
            parts.setdefault(row.part, []).append(row)
        open_bulks, ended = parts.get("bulks", []), parts.get("ended", [])
        return Overview(
            at=now,
            agents=_agent_figures(parts.get("agents", []), parts["unreachable"][0].amount),
            open=_open_figures(parts.get("open", [])),
            hours=_hour_figures(ended, since),
            failures=_failure_figures(ended),
            bulks=BulkFigures(sum(row.amount for row in open_bulks), sum(int(row.detail) for row in open_bulks), bulks),
            audit=audit,
            headroom=self.headroom(account),
            rates=self._rates() if is_operator else (),
        )

    def _rates(self) -> Sequence[RateFigures]:
        loads = {provider: limiter.load() for provider, limiter in self.limiters.items()}
        return [
            RateFigures(provider, load.allowed_per_s, load.sent_per_s, load.in_flight)
            for provider, load in loads.items()
            if load is not None
        ]


def _carrier_account(session: Session) -> uuid.UUID:
    return session.scalars(select(Workspace.carrier_account_id).where(Workspace.id == home_workspace())).one()


def _agent_figures(rows: Sequence[Row[tuple[object, ...]]], unreachable: int) -> AgentFigures:
    statuses, paths = Counter[str](), Counter[str]()
    for row in rows:
        statuses[row.name] += row.amount
        if row.detail is not None:
            paths[row.detail] += row.amount
    return AgentFigures(
        {status: statuses[status.value] for status in PhoneStatus},
        {state: paths[state.value] for state in PathState},
        unreachable,
    )


def _open_figures(rows: Sequence[Row[tuple[object, ...]]]) -> OpenFigures:
    found = {row.name: row for row in rows}
    queued = found.get(OperationStatus.QUEUED.value)
    by_status = {
        status: found[status.value].amount if status.value in found else 0
        for status in OperationStatus
        if status in OPEN_STATUSES
    }
    return OpenFigures(by_status, queued.at if queued else None)


def _hour_figures(rows: Sequence[Row[tuple[object, ...]]], since: datetime) -> Sequence[HourFigures]:
    ended = Counter[tuple[datetime, str]]()
    for row in rows:
        ended[row.at, row.name] += row.amount
    names = (OperationStatus.SUCCEEDED, OperationStatus.FAILED, OperationStatus.CANCELLED)
    begins = [since + timedelta(hours=hour) for hour in range(HOURS)]
    return [HourFigures(at, *(ended[at, name.value] for name in names)) for at in begins]


def _failure_figures(rows: Sequence[Row[tuple[object, ...]]]) -> Sequence[FailureFigure]:
    codes = Counter[str]()
    for row in rows:
        if row.detail is not None:
            codes[row.detail] += row.amount
    return [FailureFigure(code, count) for code, count in sorted(codes.items(), key=lambda one: (-one[1], one[0]))]


def _audit_figures(report: Audit | None) -> AuditFigures | None:
    if report is None or report.finished_at is None:
        return None
    found = [one for one in map(stored_finding, report.findings) if not one.is_fixed]
    counts = Counter(one.severity for one in found)
    by_severity = {severity: counts[severity] for severity in Severity}
    return AuditFigures(report.id, report.finished_at, report.agents_checked, by_severity)
