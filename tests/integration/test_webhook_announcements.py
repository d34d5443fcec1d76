"""Each change of a number queues one webhook event, in its own transaction, for the endpoints that subscribe to it."""

import json
import uuid
from typing import Any

from sqlalchemy import select

from app.db.engine import Sessions
from app.db.webhooks import WebhookDelivery, WebhookEndpoint
from app.domain.errors import ErrorCode
from app.domain.events import PHONE_EVENTS, Origin, WebhookEvent
from app.domain.operations import TRUNK, OperationStatus, PhoneStatus
from app.providers.errors import RejectedError, TransientError
from tests.support.saga import DO_CALL, E164, UNDO_CALL, Saga
from tests.support.sandbox_app import NUMBER, SandboxApp

FOREVER = 10**6


def subscribe(sessions: Sessions, *events: WebhookEvent) -> uuid.UUID:
    """Register an endpoint for these events, or for all."""
    endpoint = WebhookEndpoint(url="https://example.com/", sealed_secret="whsec_AAAA", events=list(events) or None)
    with sessions.begin() as session:
        session.add(endpoint)
    return endpoint.id


def pending_events(sessions: Sessions) -> list[tuple[str, dict[str, Any]]]:
    """Return (type, data) of all pending deliveries, in order."""
    with sessions() as session:
        payloads = [json.loads(each) for each in session.scalars(select(WebhookDelivery.payload))]
    payloads.sort(key=lambda payload: payload["timestamp"])
    return [(payload["type"], payload["data"]) for payload in payloads]


def test_provisioning_and_deprovisioning_queue_their_events(saga: Saga, number_sid: str) -> None:
    subscribe(saga.sessions)
    agent_id = saga.provisioned()
    up = saga.deprovision(agent_id)
    saga.drive(up)

    (first, second) = pending_events(saga.sessions)

    assert first[0] == WebhookEvent.PROVISIONED
    about = {"agentId": str(agent_id), "agentName": "support", "phoneNumber": E164, "operationKind": "provision"}
    assert first[1].items() >= (about | {"phoneProvisioningStatus": PhoneStatus.PROVISIONED}).items()
    assert "error" not in first[1]
    assert second[0] == WebhookEvent.DEPROVISIONED
    about |= {"operationId": str(up), "operationKind": "deprovision"}
    assert second[1].items() >= (about | {"phoneProvisioningStatus": PhoneStatus.NOT_PROVISIONED}).items()


def test_a_failed_provisioning_queues_its_error_once_nothing_is_left(saga: Saga, number_sid: str) -> None:
    subscribe(saga.sessions)
    saga.world.log.plan(DO_CALL[TRUNK], before=RejectedError(ErrorCode.TWILIO_TRUNK_LIMIT, "Full."))
    operation_id = saga.provision()
    saga.drive(operation_id)

    ((event, data),) = pending_events(saga.sessions)

    assert (event, data["operationId"]) == (WebhookEvent.FAILED, str(operation_id))
    assert data["error"] == {"code": "twilio_trunk_limit", "detail": "Full."}
    assert data["phoneProvisioningStatus"] == PhoneStatus.FAILED


def test_a_provisioning_that_was_cancelled_was_deprovisioned(saga: Saga, number_sid: str) -> None:
    subscribe(saga.sessions)
    agent_id = saga.agent()
    operation_id = saga.provision(agent_id=agent_id)
    saga.advance(operation_id, until=TRUNK)
    saga.service.deprovision(agent_id, origin=Origin())
    saga.drive(operation_id)

    ((event, data),) = pending_events(saga.sessions)

    assert (event, data["error"]["code"]) == (WebhookEvent.DEPROVISIONED, ErrorCode.CANCELLED)


def test_an_undo_that_keeps_failing_queues_one_event(saga: Saga, number_sid: str) -> None:
    agent_id = saga.provisioned()
    subscribe(saga.sessions)
    saga.world.log.plan(UNDO_CALL[TRUNK], before=TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "Busy."), times=FOREVER)
    operation_id = saga.deprovision(agent_id)
    saga.drive_until(operation_id, OperationStatus.NEEDS_ATTENTION)
    for _ in range(3):
        saga.expire_leases(operation_id)
        saga.advance(operation_id)

    ((event, data),) = pending_events(saga.sessions)

    assert (event, data["error"]["code"]) == (WebhookEvent.NEEDS_ATTENTION, ErrorCode.PROVIDER_UNAVAILABLE)
    assert data["phoneProvisioningStatus"] == PhoneStatus.DEPROVISIONING


def test_an_endpoint_gets_its_events_and_none_while_it_is_disabled(saga: Saga, number_sid: str) -> None:
    wanted = subscribe(saga.sessions, WebhookEvent.DEPROVISIONED)
    subscribe(saga.sessions, WebhookEvent.FAILED)
    disabled = subscribe(saga.sessions)
    with saga.sessions.begin() as session:
        session.get_one(WebhookEndpoint, disabled).disabled_at = saga.snapshot(saga.provision()).now
    agent_id = saga.agent()
    other = "+15145550009"
    saga.world.carrier.own_number(other)
    saga.drive(saga.provision(agent_id=agent_id, e164=other))
    saga.drive(saga.deprovision(agent_id))

    with saga.sessions() as session:
        rows = session.execute(select(WebhookDelivery.endpoint_id, WebhookDelivery.event)).all()
    assert [tuple(row) for row in rows] == [(wanted, WebhookEvent.DEPROVISIONED)]


def _cut(live: SandboxApp) -> None:
    account, number = live.wiring.settings.twilio_account_sid, live.agent.twilio_phone_number_sid
    live.console.twilio("POST", f"/2010-04-01/Accounts/{account}/IncomingPhoneNumbers/{number}.json", TrunkSid="")


def test_a_drift_queues_one_event_and_another_only_after_a_fix(live: SandboxApp) -> None:
    subscribe(live.wiring.sessions)
    live.audit()
    assert pending_events(live.wiring.sessions) == []
    _cut(live)
    for _ in range(2):
        live.audit()
        live.wiring.maintenance.verify(live.agent_id)

    ((event, data),) = pending_events(live.wiring.sessions)

    assert (event, data["phoneNumber"], data["operationId"]) == (WebhookEvent.DRIFTED, NUMBER, None)
    (finding,) = data["findings"]
    assert (finding["code"], finding["severity"], finding["callers"]) == ("number_detached", "critical", "all")
    assert finding["resource"] == {"kind": "twilio_number", "id": live.agent.twilio_phone_number_sid}
    live.audit(fix=True)
    assert len(pending_events(live.wiring.sessions)) == 1
    _cut(live)
    live.wiring.maintenance.verify(live.agent_id)
    assert [event for event, _ in pending_events(live.wiring.sessions)] == [WebhookEvent.DRIFTED] * 2


def test_calls_that_begin_to_fail_on_a_path_that_has_drifted_are_told_once(live: SandboxApp) -> None:
    subscribe(live.wiring.sessions)
    rule = str(live.agent.livekit_dispatch_rule_id)
    live.console.livekit("UpdateSIPDispatchRule", sip_dispatch_rule_id=rule, update={"name": "by hand"})
    live.audit()
    _cut(live)
    for _ in range(2):
        live.audit()
        live.wiring.maintenance.verify(live.agent_id)

    told = [[one["code"] for one in data["findings"]] for _, data in pending_events(live.wiring.sessions)]

    assert told == [["mark_lost"], ["number_detached", "mark_lost"]]


def test_a_repair_that_fails_needs_attention(live: SandboxApp) -> None:
    subscribe(live.wiring.sessions, WebhookEvent.NEEDS_ATTENTION)
    live.wiring.platform.delete_dispatch_rule(str(live.agent.livekit_dispatch_rule_id))
    live.sandbox.fault("livekit.create_dispatch_rule", "reject", status=400, code="invalid_argument", message="no")
    operation = live.wiring.maintenance.repair(live.agent_id, takeover=False, origin=Origin()).operation
    assert operation is not None
    live.drive()

    ((_, data),) = pending_events(live.wiring.sessions)

    assert (data["operationId"], data["operationKind"]) == (str(operation.id), "repair")


def test_a_move_takes_the_number_from_one_agent_and_gives_it_to_another(live: SandboxApp) -> None:
    subscribe(live.wiring.sessions)
    other = live.wiring.agents.create("back office", "back-office", {}).id
    live.wiring.maintenance.move(live.agent_id, other, origin=Origin())
    live.drive()

    agents_by_event = {
        event: (data["agentId"], data["phoneNumber"]) for event, data in pending_events(live.wiring.sessions)
    }

    assert agents_by_event == {
        WebhookEvent.DEPROVISIONED: (str(live.agent_id), NUMBER),
        WebhookEvent.PROVISIONED: (str(other), NUMBER),
    }


def test_a_failed_move_queues_an_event_of_the_agent_that_did_not_get_the_number(live: SandboxApp) -> None:
    subscribe(live.wiring.sessions)
    other = live.wiring.agents.create("back office", "back-office", {}).id
    live.sandbox.fault("livekit.update_dispatch_rule", "reject", status=400, code="invalid_argument", message="no")
    live.wiring.maintenance.move(live.agent_id, other, origin=Origin())
    live.drive()

    ((event, data),) = pending_events(live.wiring.sessions)

    assert (event, data["agentId"], data["phoneProvisioningStatus"]) == (
        WebhookEvent.FAILED,
        str(other),
        PhoneStatus.NOT_PROVISIONED,
    )


def test_there_are_seven_events_to_subscribe_to() -> None:
    assert [event.value.removeprefix("phone.") for event in PHONE_EVENTS] == [
        "provisioned",
        "failed",
        "deprovisioned",
        "drifted",
        "needs_attention",
        "unreachable",
        "reachable",
    ]
