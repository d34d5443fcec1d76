"""Tells webhooks what became of a number: rows of the outbox, in the transaction that made it so.

Each call is one statement, and inserts nothing where nobody listens.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.db.models import Agent, Operation
from app.domain.events import WebhookEvent, payload_of
from app.domain.findings import Finding
from app.domain.statuses import OperationKind, OperationStatus

_Kind, _Status = OperationKind, OperationStatus

ENDS = {
    (_Kind.PROVISION, _Status.SUCCEEDED): WebhookEvent.PROVISIONED,
    (_Kind.PROVISION, _Status.FAILED): WebhookEvent.FAILED,
    # It was asked to deprovision, and has.
    (_Kind.PROVISION, _Status.CANCELLED): WebhookEvent.DEPROVISIONED,
    (_Kind.DEPROVISION, _Status.SUCCEEDED): WebhookEvent.DEPROVISIONED,
    (_Kind.MOVE, _Status.SUCCEEDED): WebhookEvent.DEPROVISIONED,
    # Nothing tries again by itself: the path stays as it was found.
    (_Kind.REPAIR, _Status.FAILED): WebhookEvent.NEEDS_ATTENTION,
}
"""What the end of an operation is to the agent that it began with; an end that changes nothing for it is none."""

ENDS_OF_TARGET = {
    (_Kind.MOVE, _Status.SUCCEEDED): WebhookEvent.PROVISIONED,
    (_Kind.MOVE, _Status.FAILED): WebhookEvent.FAILED,
}
"""The same for the agent that a move hands the number to."""

_INSERT = text("""
    INSERT INTO webhook_deliveries (id, endpoint_id, event, payload, status, attempts, next_at)
    SELECT gen_random_uuid(), id, :event, :payload, 'pending', 0, now()
      FROM webhook_endpoints
     WHERE disabled_at IS NULL AND (events IS NULL OR :event = ANY (events))
""")


def announce_end(session: Session, operation: Operation, agent: Agent) -> None:
    """Tell of an operation that has just ended; `agent` is the one that it began with."""
    end = (operation.kind, operation.status)
    if end in ENDS:
        _announce(session, ENDS[end], _of_operation(operation, agent))
    if operation.target is not None and end in ENDS_OF_TARGET:
        _announce(session, ENDS_OF_TARGET[end], _of_operation(operation, operation.target))


def announce_attention(session: Session, operation: Operation, agent: Agent) -> None:
    """Tell of an operation that has just come to need a person."""
    _announce(session, WebhookEvent.NEEDS_ATTENTION, _of_operation(operation, agent))


def announce_drift(session: Session, agent: Agent, findings: Iterable[Finding]) -> None:
    """Tell of a path that was in sync, or never looked at, and is found changed."""
    found = [{"code": one.code, "severity": one.kind.severity, "sentence": one.kind.sentence} for one in findings]
    data = _of_agent(agent) | {"phoneNumber": agent.twilio_phone_number, "operationId": None, "findings": found}
    _announce(session, WebhookEvent.DRIFTED, data)


def _of_operation(operation: Operation, agent: Agent) -> dict[str, Any]:
    error = {"code": operation.error_code, "detail": operation.error_detail} if operation.error_code else None
    about = {"phoneNumber": operation.phone_number, "operationId": str(operation.id), "operationKind": operation.kind}
    return _of_agent(agent) | about | ({"error": error} if error else {})


def _of_agent(agent: Agent) -> dict[str, Any]:
    status = agent.phone_provisioning_status
    return {"agentId": str(agent.id), "agentName": agent.name, "phoneProvisioningStatus": status}


def _announce(session: Session, event: WebhookEvent, data: Mapping[str, Any]) -> None:
    session.execute(_INSERT, {"event": event.value, "payload": payload_of(event, data)})
