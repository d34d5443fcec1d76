"""Writes webhook events to the outbox, in the transaction that they are about."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from app.db.engine import read_sql
from app.db.models import Agent
from app.domain.events import WebhookEvent, payload_of
from app.domain.findings import Finding

ANNOUNCE = read_sql(__file__, "insert_deliveries.sql")
"""Inserts the deliveries of events; its values are from `values_of`."""


def values_of(announcements: Sequence[tuple[WebhookEvent, Mapping[str, Any]]]) -> dict[str, object]:
    """Return the values of `ANNOUNCE` for events and the data of their payloads."""
    lines = [{"event": event, "payload": payload_of(event, data)} for event, data in announcements]
    return {"announcements": json.dumps(lines)}


def announce_drift(session: Session, agent: Agent, findings: Iterable[Finding]) -> None:
    """Queue the event that a path has begun to drift."""
    data = {
        "agentId": str(agent.id),
        "agentName": agent.name,
        "phoneProvisioningStatus": agent.phone_provisioning_status,
        "phoneNumber": agent.twilio_phone_number,
        "operationId": None,
        "findings": [
            {"code": one.code, "severity": one.kind.severity, "sentence": one.kind.sentence} for one in findings
        ],
    }
    session.connection().exec_driver_sql(ANNOUNCE, values_of([(WebhookEvent.DRIFTED, data)]))
