"""Writes webhook events to the outbox, in the transaction that they are about; what publishes them."""

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from sqlalchemy.orm import Session

from app.db.engine import read_sql
from app.db.models import Agent
from app.domain.events import WebhookEvent, payload_of
from app.domain.findings import Finding, finding_json, worst_first


class WebhookPublisher(Protocol):
    """Publishes the message that an endpoint has deliveries due; the rows do not depend on its arrival."""

    def publish_webhooks(self, endpoint_id: uuid.UUID) -> bool:
        """Queue it within seconds; return whether the broker accepted it. Never raises."""


def announce_sql(given: str) -> str:
    """Return the statement that queues events, from a table expression that has them in a column `change`."""
    return read_sql(__file__, "insert_deliveries.sql", given=given)


_ANNOUNCE = announce_sql("(SELECT %(change)s::jsonb AS change) AS given")


def lines_of(announcements: Sequence[tuple[WebhookEvent, Mapping[str, Any]]]) -> list[dict[str, str]]:
    """Return the list `announcements` for events and the data of their payloads, each about an agent."""
    return [
        {"event": event, "payload": payload_of(event, data), "agent": data["agentId"]} for event, data in announcements
    ]


TOLD = ("code", "severity", "callers", "sentence", "detail", "resource")
"""What an event tells of a finding."""


def announce(session: Session, events: Sequence[tuple[WebhookEvent, Mapping[str, Any]]]) -> None:
    """Queue events in the caller's transaction."""
    if events:
        change = {"announcements": lines_of(events)}
        session.connection().exec_driver_sql(_ANNOUNCE, {"change": json.dumps(change)})


def announce_drift(session: Session, drifted: Mapping[Agent, Iterable[Finding]]) -> None:
    """Queue an event for each agent whose path has begun to drift, or whose calls have begun to fail."""
    announce(session, [(WebhookEvent.DRIFTED, _drift(agent, findings)) for agent, findings in drifted.items()])


def _drift(agent: Agent, findings: Iterable[Finding]) -> dict[str, Any]:
    return {
        "agentId": str(agent.id),
        "agentName": agent.name,
        "phoneProvisioningStatus": agent.phone_provisioning_status,
        "phoneNumber": agent.twilio_phone_number,
        "operationId": None,
        "findings": [{name: finding_json(one)[name] for name in TOLD} for one in worst_first(findings)],
    }
