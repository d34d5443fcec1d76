"""Agents to look at, and what people do at Twilio's own console."""

from datetime import timedelta

from sqlalchemy import delete, func, select, text

from app.db.access import ApiKey, ConsoleSession
from app.db.models import Base
from app.db.webhooks import WebhookDelivery, WebhookEndpoint
from app.domain.events import DeliveryStatus, WebhookEvent
from tests.support.sandbox import Sandbox
from tests.support.stack import Stack, eventually
from tests.support.stage import Console


def provisioned(stack: Stack, name: str, number: str) -> str:
    """Bring an agent's number up over the API; return the agent's id."""
    agent_id = stack.api.agent(name)
    stack.api.provision(agent_id, number)
    eventually(lambda: stack.api.phone(agent_id)["hasPhone"], "the number is provisioned")
    return agent_id


def take_off_trunk(stack: Stack, sandbox: Sandbox, agent_id: str) -> None:
    """Take the agent's number off its trunk behind our back."""
    ids = stack.api.phone(agent_id)
    Console(sandbox).twilio("DELETE", f"/v1/Trunks/{ids['twilioTrunkSid']}/PhoneNumbers/{ids['twilioPhoneNumberSid']}")


def a_bulk(stack: Stack) -> str:
    """Have a bulk run into trouble, row by row; return its id."""
    numbers = ["+15005550001", "+15005550002", "no number at all", "+15005550004"]
    items = [{"phoneNumber": number, "agent": f"Desk {place}"} for place, number in enumerate(numbers)]
    bulk_id = str(stack.api.call("POST", "/api/provisionings", {"items": items})[1]["bulkId"])
    look = f"/api/provisionings/{bulk_id}"
    eventually(lambda: stack.api.call("GET", look)[1]["status"] == "failed", "the bulk is over")
    return bulk_id


def a_webhook(stack: Stack) -> str:
    """Have a webhook of which one delivery is still to be tried and one was given up; return its id."""
    events = [WebhookEvent.FAILED, WebhookEvent.NEEDS_ATTENTION]
    with stack.sessions.begin() as session:
        now = session.scalars(select(func.now())).one()
        endpoint = WebhookEndpoint(url="https://hooks.example.com/trunkline?team=reception", events=events)
        endpoint.description, endpoint.secret, endpoint.failing_since = "Pager", "whsec_", now
        endpoint.wake_at = now + timedelta(hours=1)
        session.add(endpoint)
        session.flush()
        about = {"endpoint_id": endpoint.id, "payload": "{}"}
        waits = {"status": DeliveryStatus.PENDING, "next_at": now + timedelta(minutes=30), "error": "connection_failed"}
        session.add(WebhookDelivery(event=events[0], attempts=3, **about, **waits))
        over = {"status": DeliveryStatus.FAILED, "finished_at": now, "response_status": 503}
        session.add(WebhookDelivery(event=events[1], attempts=8, **about, **over))
        return str(endpoint.id)


def forget_all(stack: Stack) -> None:
    """Delete every row but keys and sessions: agents of an earlier test are gone from the sandbox too."""
    with stack.sessions.begin() as session:
        # Whoever is at work takes this lock first: it ends, and we do not meet half-way.
        session.execute(text("LOCK TABLE operations IN ACCESS EXCLUSIVE MODE"))
        for table in reversed(Base.metadata.sorted_tables):
            if table not in (ApiKey.__table__, ConsoleSession.__table__):
                session.execute(delete(table))
