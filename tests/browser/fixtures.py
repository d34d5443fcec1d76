"""Rows for the browser tests, and changes made directly at Twilio."""

from datetime import timedelta
from typing import Any

from sqlalchemy import delete, func, select, text

from app.db.access import ApiKey, ConsoleSession
from app.db.webhooks import WebhookDelivery, WebhookEndpoint
from app.domain.events import DeliveryStatus, WebhookEvent
from app.domain.texts import MAX_NAME
from tests.support.api import delete_rows as delete_rows_of
from tests.support.sandbox import Sandbox
from tests.support.sandbox_app import ProviderConsole
from tests.support.stack import Stack, eventually


def provisioned(stack: Stack, name: str, number: str, **more: Any) -> str:
    """Create an agent and provision its number through the API; return the agent's id."""
    agent_id = stack.api.agent(name, **more)
    stack.api.provision(agent_id, number)
    eventually(lambda: stack.api.phone(agent_id)["hasPhone"], "the number is provisioned")
    return agent_id


def take_off_trunk(stack: Stack, sandbox: Sandbox, agent_id: str) -> None:
    """Detach the agent's number from its trunk directly at Twilio."""
    ids = stack.api.phone(agent_id)
    ProviderConsole(sandbox).twilio(
        "DELETE", f"/v1/Trunks/{ids['twilioTrunkSid']}/PhoneNumbers/{ids['twilioPhoneNumberSid']}"
    )


def take_half_of_the_calls(stack: Stack, sandbox: Sandbox, agent_id: str) -> None:
    """Add somebody's origination URL beside ours."""
    path = f"/v1/Trunks/{stack.api.phone(agent_id)['twilioTrunkSid']}/OriginationUrls"
    theirs = {"FriendlyName": "theirs", "SipUrl": "sip:elsewhere.example.com", "Enabled": "true"}
    ProviderConsole(sandbox).twilio("POST", path, Priority="10", Weight="10", **theirs)


def change_what_stops_no_call(stack: Stack, sandbox: Sandbox, agent_id: str) -> None:
    """Rename our rule, and add somebody's rule that matches every call that no other takes."""
    rule, console = stack.api.phone(agent_id)["livekitDispatchRuleId"], ProviderConsole(sandbox)
    console.livekit("UpdateSIPDispatchRule", sip_dispatch_rule_id=rule, update={"name": "by hand"})
    kind = {"dispatch_rule_individual": {"room_prefix": "all"}}
    console.livekit("CreateSIPDispatchRule", dispatch_rule={"name": "all", "rule": kind})


def create_failed_bulk(stack: Stack) -> str:
    """Create a bulk whose rows all fail, and wait until it has finished; return its id."""
    numbers = ["+15005550001", "+15005550002", "no number at all", "+15005550004"]
    items = [{"phoneNumber": number, "agent": str(index) * MAX_NAME} for index, number in enumerate(numbers)]
    bulk_id = str(stack.api.call("POST", "/api/provisionings", {"items": items})[1]["bulkId"])
    path = f"/api/provisionings/{bulk_id}"
    eventually(lambda: stack.api.call("GET", path)[1]["status"] == "failed", "the bulk is over")
    return bulk_id


def create_failing_webhook(stack: Stack) -> str:
    """Create a webhook with one pending and one failed delivery; return its id."""
    events = [WebhookEvent.FAILED, WebhookEvent.NEEDS_ATTENTION]
    with stack.sessions.begin() as session:
        now = session.scalars(select(func.now())).one()
        endpoint = WebhookEndpoint(url="https://hooks.example.com/trunkline?team=reception", events=events)
        endpoint.description, endpoint.sealed_secret, endpoint.failing_since = "Pager", "whsec_", now
        endpoint.wake_at = now + timedelta(hours=1)
        session.add(endpoint)
        session.flush()
        about = {"endpoint_id": endpoint.id, "payload": "{}"}
        waits = {"status": DeliveryStatus.PENDING, "next_at": now + timedelta(minutes=30), "error": "connection_failed"}
        session.add(WebhookDelivery(event=events[0], attempts=3, **about, **waits))
        over = {"status": DeliveryStatus.FAILED, "finished_at": now, "response_status": 503}
        session.add(WebhookDelivery(event=events[1], attempts=8, **about, **over))
        return str(endpoint.id)


def delete_rows(stack: Stack) -> None:
    """Delete every row but operators' keys and their sessions, since the sandbox was emptied too."""
    with stack.sessions.begin() as session:
        # Workers lock this table first, so this waits for them and avoids a deadlock.
        session.execute(text("LOCK TABLE operations IN ACCESS EXCLUSIVE MODE"))
        theirs = select(ApiKey.id).where(ApiKey.workspace_id.is_not(None))
        session.execute(delete(ConsoleSession).where(ConsoleSession.key_id.in_(theirs)))
        session.execute(delete(ApiKey).where(ApiKey.workspace_id.is_not(None)))
        delete_rows_of(session, ApiKey, ConsoleSession)
