"""What PostgreSQL knows."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import product

from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector
from sqlalchemy.orm import Session

from app.db import counts
from app.db.engine import Sessions
from app.domain.bulks import BulkStatus, ItemStatus
from app.domain.findings import FindingCode, Health
from app.domain.queues import QueueName
from app.domain.statuses import OPEN_STATUSES, OperationKind, OperationStatus, PhoneStatus
from app.domain.webhooks import DeliveryStatus
from app.metrics.families import Labels, gauge
from app.telemetry import catalogue

OPERATION_QUEUES = (QueueName.PROVISION, QueueName.BULK, QueueName.ROLLBACK)
"""Where operations wait; `ops` has none."""


@dataclass(frozen=True, eq=False)
class RowCollector(Collector):
    """Counts rows; every status is shown, those that do not occur as 0."""

    sessions: Sessions

    def describe(self) -> Iterable[Family]:
        """Name nothing in advance, so that registering does not need a database."""
        return ()

    def collect(self) -> Iterable[Family]:
        """Yield one family after another."""
        with self.sessions() as session:
            yield from _operations(session)
            yield from _agents(session)
            yield from _bulks(session)
            yield from _webhooks(session)


def _operations(session: Session) -> Iterable[Family]:
    found = {(kind.value, status.value): count for kind, status, count in counts.count_operations(session)}
    yield gauge(catalogue.OPERATIONS, found, _all(OperationKind, OperationStatus))
    ages = {(status.value, age): count for status, age, count in counts.count_open_operations(session)}
    yield gauge(catalogue.OPEN_OPERATIONS, ages, product(sorted(OPEN_STATUSES), counts.Age))
    oldest_s, overdue_s = counts.open_operation_ages(session)
    yield gauge(catalogue.OLDEST_OPEN, {(): oldest_s})
    yield gauge(catalogue.WAKE_DELAY, {(): overdue_s})
    queued = {(name.value,): age for name, age in counts.oldest_queued(session).items()}
    yield gauge(catalogue.OLDEST_QUEUED, queued, [(name,) for name in OPERATION_QUEUES])


def _agents(session: Session) -> Iterable[Family]:
    statuses: Counter[Labels] = Counter()
    health: Counter[Labels] = Counter()
    for status, state, count in counts.count_agents(session):
        statuses[status,] += count
        if status is PhoneStatus.PROVISIONED:
            health[state,] += count
    yield gauge(catalogue.AGENTS, statuses, _all(PhoneStatus))
    yield gauge(catalogue.AGENTS_HEALTH, health, _all(Health))
    findings = Counter((code,) for code in counts.newest_findings(session))
    yield gauge(catalogue.AUDIT_FINDINGS, findings, _all(FindingCode))
    age = counts.audit_age(session)
    yield gauge(catalogue.AUDIT_AGE, {(): age or 0}, () if age is None else ((),))


def _bulks(session: Session) -> Iterable[Family]:
    bulks = {(status,): count for status, count in counts.count_bulks(session)}
    yield gauge(catalogue.BULKS, bulks, _all(BulkStatus))
    yield gauge(
        catalogue.BULK_ITEMS,
        {(status.value,): count for status, count in counts.count_open_items(session).items()},
        _all(ItemStatus),
    )


def _webhooks(session: Session) -> Iterable[Family]:
    found = counts.count_deliveries(session)
    yield gauge(catalogue.DELIVERIES, {(status,): count for status, count, _ in found}, _all(DeliveryStatus))
    oldest = {status: age for status, _, age in found}
    yield gauge(catalogue.OLDEST_DELIVERY, {(): oldest.get(DeliveryStatus.PENDING, 0)})
    served, disabled = counts.count_webhooks(session)
    yield gauge(catalogue.WEBHOOKS, {("served",): served, ("disabled",): disabled}, (("served",), ("disabled",)))


def _all(*enums: type[StrEnum]) -> Iterable[Labels]:
    return product(*([member.value for member in enum] for enum in enums))
