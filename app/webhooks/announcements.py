"""Tells webhooks what became of a number: rows of the outbox, in the transaction that made it so."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from app.db.models import Agent
from app.domain.events import WebhookEvent, payload_of
from app.domain.findings import Finding

ANNOUNCE = """
    INSERT INTO webhook_deliveries (id, endpoint_id, event, payload, status, attempts, next_at)
    SELECT gen_random_uuid(), endpoint.id, line ->> 'event', line ->> 'payload', 'pending', 0, now()
      FROM jsonb_array_elements(%(announcements)s::jsonb) AS line
      JOIN webhook_endpoints AS endpoint
        ON endpoint.disabled_at IS NULL AND (endpoint.events IS NULL OR line ->> 'event' = ANY (endpoint.events))
"""
"""Nothing is written where nobody listens."""


def values_of(announcements: Sequence[tuple[WebhookEvent, Mapping[str, Any]]]) -> dict[str, object]:
    """Return the values of `ANNOUNCE` for events and what their payloads tell."""
    lines = [{"event": event, "payload": payload_of(event, data)} for event, data in announcements]
    return {"announcements": json.dumps(lines)}


def announce_drift(session: Session, agent: Agent, findings: Iterable[Finding]) -> None:
    """Tell of a path that was in sync, or never looked at, and is found changed."""
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
