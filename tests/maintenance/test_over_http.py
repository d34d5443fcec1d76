"""Audit, verify, repair, move and dry run over HTTP."""

from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app import create_app
from app.access import KeyService, Scope
from app.domain.events import Origin
from tests.support.sandbox_app import NUMBER, SandboxApp


class Client:
    """A client with an API key of its own."""

    def __init__(self, live: SandboxApp) -> None:
        self._client: FlaskClient = create_app(live.wiring).test_client()
        _, self._key = KeyService(live.wiring.sessions).create("client", [Scope.WRITE])

    def call(self, method: str, path: str, body: Any = None) -> TestResponse:
        """Send a request as JSON."""
        headers = {"Authorization": f"Bearer {self._key}"}
        return self._client.open(path, method=method, headers=headers, json=body)


@pytest.fixture
def client(live: SandboxApp) -> Client:
    return Client(live)


def test_verify_names_the_checks_and_phone_status_shows_the_health(live: SandboxApp, client: Client) -> None:
    agent = f"/api/agents/{live.agent_id}"
    whole = client.call("POST", f"{agent}/verify")
    assert (whole.status_code, whole.json["health"]["state"]) == (200, "IN_SYNC")
    assert all(check["ok"] for check in whole.json["checks"])
    live.wiring.platform.delete_dispatch_rule(str(live.agent.livekit_dispatch_rule_id))
    broken = client.call("POST", f"{agent}/verify").json
    assert {check["name"] for check in broken["checks"] if not check["ok"]} == {"dispatch_rule"}
    health = client.call("GET", f"{agent}/phone-status").json["health"]
    assert (health["state"], [finding["code"] for finding in health["findings"]]) == ("DRIFTED", ["rule_gone"])


def test_repair_queues_an_operation_or_says_that_nothing_is_wrong(live: SandboxApp, client: Client) -> None:
    agent = f"/api/agents/{live.agent_id}"
    assert client.call("POST", f"{agent}/repair", {}).status_code == 200
    live.wiring.platform.delete_dispatch_rule(str(live.agent.livekit_dispatch_rule_id))
    queued = client.call("POST", f"{agent}/repair", {})
    assert queued.status_code == 202
    live.drive()
    operation = client.call("GET", f"/api/operations/{queued.json['operationId']}").json
    assert (operation["kind"], operation["status"]) == ("repair", "succeeded")
    assert live.rings() == "front-desk"


def test_move_phone_shows_on_both_agents(live: SandboxApp, client: Client) -> None:
    other = client.call("POST", "/api/agents", {"name": "other"}).json["id"]
    queued = client.call("POST", f"/api/agents/{live.agent_id}/move-phone", {"toAgentId": other})
    assert queued.status_code == 202
    waiting = client.call("GET", f"/api/agents/{other}/phone-status").json
    assert (waiting["phoneProvisioningStatus"], waiting["operation"]["kind"]) == ("PENDING", "move")
    live.drive()
    assert client.call("GET", f"/api/agents/{other}/phone-status").json["phoneNumber"] == NUMBER
    assert client.call("GET", f"/api/agents/{live.agent_id}/phone-status").json["hasPhone"] is False
    assert client.call("POST", f"/api/agents/{live.agent_id}/verify").json["code"] == "agent_has_no_phone"


def test_a_dry_run_returns_calls_and_obstacles(live: SandboxApp, client: Client) -> None:
    path = f"/api/agents/{live.agent_id}/provision-phone?dryRun=true"
    busy = client.call("POST", path, {"phoneNumber": NUMBER}).json
    assert (busy["dryRun"], busy["wouldSucceed"]) == (True, False)
    live.wiring.provisioning.deprovision(live.agent_id, origin=Origin())
    live.drive()
    free = client.call("POST", path, {"phoneNumber": NUMBER}).json
    # The shared trunk and its URL stand: neither is made or read.
    assert (free["wouldSucceed"], len(free["calls"])) == (True, 7)
    (warning,) = free["obstacles"]
    assert (warning["blocks"], "example.com" in warning["detail"]) == (False, True)
    assert live.publisher.plans == []


def test_an_audit_is_requested_and_read(live: SandboxApp, client: Client) -> None:
    assert client.call("GET", "/api/audit").json["code"] == "audit_not_found"
    live.wiring.platform.delete_dispatch_rule(str(live.agent.livekit_dispatch_rule_id))
    asked = client.call("POST", "/api/audit", {"fix": True})
    assert asked.status_code == 202
    (audit_id,) = live.publisher.audits
    live.wiring.audits.run_audit(audit_id)
    live.drive()
    report = client.call("GET", "/api/audit").json
    assert (report["id"], report["status"], report["agentsChecked"]) == (str(audit_id), "done", 1)
    assert [finding["code"] for finding in report["findings"]] == ["rule_gone"]
    assert live.rings() == "front-desk"
