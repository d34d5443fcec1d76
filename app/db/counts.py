"""The reads behind the metrics: how many rows stand where, and how old the oldest is."""

from collections.abc import Sequence
from enum import StrEnum

from sqlalchemy import ColumnElement, Float, Row, case, cast, func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.db.audits import Audit
from app.db.bulks import Bulk
from app.db.models import Agent, Operation
from app.db.webhooks import WebhookDelivery, WebhookEndpoint
from app.domain.bulks import OPEN_BULKS, ItemStatus
from app.domain.findings import AuditStatus
from app.domain.queues import QueueName
from app.domain.statuses import OPEN_STATUSES, OperationKind, OperationStatus
from app.domain.webhooks import DeliveryStatus


class Age(StrEnum):
    """How long ago something was asked for."""

    UNDER_A_MINUTE = "under_1m"
    MINUTES = "1m_to_15m"
    OVER_BUDGET = "15m_to_1h"
    """More than an operation may spend on retries, unless OPERATION_BUDGET_S says otherwise."""
    OVER_AN_HOUR = "over_1h"


def _seconds_since(moment: ColumnElement[object] | InstrumentedAttribute[object]) -> ColumnElement[float]:
    return cast(func.extract("epoch", func.now() - moment), Float)


def _age_of_oldest(moment: InstrumentedAttribute[object]) -> ColumnElement[float]:
    return func.greatest(func.coalesce(_seconds_since(func.min(moment)), 0), 0)


def count_operations(session: Session) -> Sequence[Row[OperationKind, OperationStatus, int]]:
    """Return (kind, status, how many) for every pair that occurs."""
    query = select(Operation.kind, Operation.status, func.count()).group_by(Operation.kind, Operation.status)
    return session.execute(query).all()


def count_open_operations(session: Session) -> Sequence[Row[OperationStatus, str, int]]:
    """Return (status, age, how many) for every pair that occurs among the operations that are not over."""
    seconds = _seconds_since(Operation.created_at)
    age = case(
        (seconds < 60, Age.UNDER_A_MINUTE.value),  # noqa: PLR2004  # the label says it
        (seconds < 900, Age.MINUTES.value),  # noqa: PLR2004
        (seconds < 3600, Age.OVER_BUDGET.value),  # noqa: PLR2004
        else_=Age.OVER_AN_HOUR.value,
    ).label("age")
    query = select(Operation.status, age, func.count()).where(Operation.status.in_(OPEN_STATUSES))
    return session.execute(query.group_by(Operation.status, "age")).all()


def open_operation_ages(session: Session) -> tuple[float, float]:
    """Return, in seconds, the age of the oldest open operation, and how long the most overdue one has gone unwoken."""
    ages = select(_age_of_oldest(Operation.created_at), _age_of_oldest(Operation.wake_at))
    oldest, overdue = session.execute(ages.where(Operation.status.in_(OPEN_STATUSES))).one()
    return float(oldest), float(overdue)


def oldest_queued(session: Session) -> dict[QueueName, float]:
    """Return, in seconds, the age of the oldest operation that no worker has begun, for each queue where one waits."""
    queue = case(
        (Operation.kind == OperationKind.DEPROVISION, QueueName.ROLLBACK.value),
        (Operation.bulk_id.is_not(None), QueueName.BULK.value),
        else_=QueueName.PROVISION.value,
    ).label("queue")
    query = select(queue, _age_of_oldest(Operation.created_at)).where(Operation.status == OperationStatus.QUEUED)
    return {QueueName(name): float(age) for name, age in session.execute(query.group_by("queue"))}


def count_agents(session: Session) -> Sequence[Row[str, str, int]]:
    """Return (phone provisioning status, health, how many agents) for every pair that occurs; deleted ones left out."""
    pair = Agent.phone_provisioning_status, Agent.health_state
    return session.execute(select(*pair, func.count()).where(Agent.deleted_at.is_(None)).group_by(*pair)).all()


def newest_findings(session: Session) -> Sequence[str]:
    """Return the code of every finding of the newest audit that was done."""
    query = select(Audit.findings).where(Audit.status == AuditStatus.DONE)
    found = session.scalar(query.order_by(Audit.created_at.desc(), Audit.id.desc()).limit(1))
    return [str(finding["code"]) for finding in found or ()]


def audit_age(session: Session) -> float | None:
    """Return the seconds since the last audit that was done ended; None before the first."""
    return session.scalar(select(_seconds_since(func.max(Audit.finished_at))).where(Audit.status == AuditStatus.DONE))


def count_deliveries(session: Session) -> Sequence[Row[DeliveryStatus, int, float]]:
    """Return (status, how many, age of the oldest in seconds) for every status that occurs."""
    status = WebhookDelivery.status
    query = select(status, func.count(), _age_of_oldest(WebhookDelivery.created_at)).group_by(status)
    return session.execute(query).all()


def count_webhooks(session: Session) -> tuple[int, int]:
    """Return how many webhooks are served, and how many are disabled."""
    is_disabled = WebhookEndpoint.disabled_at.is_not(None)
    query = select(func.count().filter(~is_disabled), func.count().filter(is_disabled)).select_from(WebhookEndpoint)
    served, disabled = session.execute(query).one()
    return served, disabled


def count_bulks(session: Session) -> Sequence[Row[str, int]]:
    """Return (status, how many bulks) for every status that occurs."""
    return session.execute(select(Bulk.status, func.count()).group_by(Bulk.status)).all()


def count_open_items(session: Session) -> dict[ItemStatus, int]:
    """Return how many items of the bulks that are not over stand where, as last looked at."""
    sums = [func.coalesce(func.sum(getattr(Bulk, status.value)), 0) for status in ItemStatus]
    return dict(zip(ItemStatus, session.execute(select(*sums).where(Bulk.status.in_(OPEN_BULKS))).one(), strict=True))
