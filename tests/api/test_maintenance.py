"""Verify, repair, move, plan, audit and rate limit over HTTP, against the sandbox; the worker is the test itself."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text

from app import create_app
from app.access import KeyService, Scope
from app.dev.sandbox import ACCOUNT_SID
from app.domain.errors import ErrorCode
from app.providers.errors import TransientError
from app.saga.chain_plan import Plan
from app.settings import Settings
from app.wiring import Wiring, build
from tests.support.api import NOBODY, NUMBER, OTHER_NUMBER, Api, RecordingPublisher, empty_tables, make_settings
from tests.support.saga import FINISHED
from tests.support.sandbox import Sandbox
from tests.support.sandbox_app import ProviderConsole, without_pauses
from tests.support.servers import ValkeyServer

WAIT = {"Prefer": "wait=20"}


def _build(database_url: str, redis_url: str, sandbox: Sandbox, **more: Any) -> Api:
    theirs = {name.lower(): value for name, value in sandbox.settings().items()}
    ours = {"database_url": database_url, "redis_url": redis_url, "orphan_grace_s": 0}
    publisher = RecordingPublisher()
    wiring = without_pauses(build(Settings(_env_file=None, **theirs, **ours, **more), publisher=publisher))
    publisher.on_publish = lambda plan: _work(wiring, plan)
    empty_tables(wiring)
    key = KeyService(wiring.sessions).create("tests", [Scope.READ, Scope.WRITE])[1]
    return Api(create_app(wiring), wiring, publisher, wiring.carrier, wiring.platform, key)  # type: ignore[arg-type]


def _work(wiring: Wiring, plan: Plan) -> None:
    """Do what a worker does with a chain."""
    for name in plan.steps:
        if wiring.runner.run_step(plan.operation_id, plan.epoch, name, plan.direction).verdict not in FINISHED:
            return


@pytest.fixture
def real(api_database_url: str, valkey_server: ValkeyServer, sandbox: Sandbox) -> Iterator[Api]:
    sandbox.number(NUMBER)
    api = _build(api_database_url, valkey_server.url, sandbox)
    yield api
    api.wiring.close()


@pytest.fixture
def agent_id(real: Api) -> str:
    found = real.agent()
    assert real.provision(found, headers=WAIT).status_code == 200
    return found


def _detach(real: Api, agent_id: str) -> None:
    """Do at Twilio's console what people do."""
    ids = real.status(agent_id).json
    real.wiring.carrier.detach_number(ids["twilioTrunkSid"], ids["twilioPhoneNumberSid"])


def test_a_path_in_sync_verifies(real: Api, agent_id: str) -> None:
    response = real.post(f"/api/agents/{agent_id}/verify")

    assert (response.status_code, response.json["success"]) == (200, True)
    assert [check["ok"] for check in response.json["checks"]] == [True] * 5
    assert real.status(agent_id).json["health"] == response.json["health"]
    assert response.json["health"]["state"] == "IN_SYNC"


def test_a_drift_is_named_and_repaired(real: Api, agent_id: str, sandbox: Sandbox) -> None:
    before = real.status(agent_id)
    _detach(real, agent_id)

    response = real.post(f"/api/agents/{agent_id}/verify").json

    failed = [check for check in response["checks"] if not check["ok"]]
    assert [check["name"] for check in failed] == ["number_on_trunk"]
    assert failed[0]["detail"] == "The number is on no trunk."
    shown = real.status(agent_id, headers={"If-None-Match": before.headers["ETag"]})
    assert (shown.status_code, shown.json["health"]["findings"][0]["code"]) == (200, "number_detached")
    repaired = real.post(f"/api/agents/{agent_id}/repair", headers=WAIT)
    assert (repaired.status_code, repaired.json["message"]) == (200, "The path was repaired.")
    assert sandbox.call(NUMBER)["reaches"]
    again = real.post(f"/api/agents/{agent_id}/repair", {})
    assert (again.status_code, again.json["message"]) == (200, "All is well: nothing to repair.")


def _add_foreign_url(real: Api, agent_id: str, sandbox: Sandbox) -> str:
    """Put somebody's URL before ours; return its path at Twilio."""
    trunk = real.status(agent_id).json["twilioTrunkSid"]
    path = f"/v1/Trunks/{trunk}/OriginationUrls"
    theirs = {"FriendlyName": "theirs", "SipUrl": "sip:elsewhere.example.com", "Enabled": "true"}
    return f"{path}/{ProviderConsole(sandbox).twilio('POST', path, Priority='1', Weight='1', **theirs)['sid']}"


def test_calls_that_fail_by_what_is_not_ours_are_never_nothing_to_repair(
    real: Api, agent_id: str, sandbox: Sandbox
) -> None:
    path = _add_foreign_url(real, agent_id, sandbox)
    sid, before = path.rpartition("/")[2], real.count("operations")

    verified = real.post(f"/api/agents/{agent_id}/verify").json
    refused = real.post(f"/api/agents/{agent_id}/repair")
    audited = real.post("/api/audit", {"fix": True}).json["auditId"]
    real.wiring.audits.run_audit(uuid.UUID(audited))

    (finding,) = verified["health"]["findings"]
    assert (verified["success"], finding["code"]) == (False, "origination_url_overridden")
    assert (finding["severity"], finding["callers"], finding["fix"]) == ("critical", "all", "none")
    assert [check["name"] for check in verified["checks"] if not check["ok"]] == ["origination_url"]
    assert (refused.status_code, refused.json["code"]) == (409, "not_ours_to_repair")
    assert sid in refused.json["detail"]
    assert "Ask whose the other URL is" in refused.json["detail"]
    (reported,) = real.get(f"/api/audit/{audited}").json["findings"]
    assert reported["fixed"] == "not repaired: not_ours_to_repair"
    assert real.count("operations") == before
    ProviderConsole(sandbox).twilio("DELETE", path)
    assert real.post(f"/api/agents/{agent_id}/repair").json["message"] == "All is well: nothing to repair."


def test_a_repair_mends_what_is_ours_and_then_names_what_is_not(real: Api, agent_id: str, sandbox: Sandbox) -> None:
    sid = _add_foreign_url(real, agent_id, sandbox).rpartition("/")[2]
    _detach(real, agent_id)

    response = real.post(f"/api/agents/{agent_id}/repair", headers=WAIT)

    assert (response.status_code, response.json["code"]) == (502, "path_not_verified")
    assert sid in response.json["detail"]
    left = real.post(f"/api/agents/{agent_id}/verify").json["health"]["findings"]
    assert [finding["code"] for finding in left] == ["origination_url_overridden"]


def test_a_warning_that_no_repair_can_change_is_named(real: Api, agent_id: str, sandbox: Sandbox) -> None:
    rule = real.status(agent_id).json["livekitDispatchRuleId"]
    whole = ProviderConsole(sandbox).livekit("ListSIPDispatchRule")["items"][0]
    fields = {name: whole[name] for name in ("name", "trunk_ids", "room_config")}
    ProviderConsole(sandbox).rule(rule, room_preset="lobby", **fields)

    response = real.post(f"/api/agents/{agent_id}/repair")

    assert (response.status_code, response.json["success"]) == (200, True)
    assert response.json["message"].startswith(
        "Nothing that a repair can change. Our dispatch rule names a room preset"
    )
    assert f"(Dispatch rule {rule})" in response.json["message"]


def test_a_finding_that_an_earlier_release_stored_is_told(real: Api, agent_id: str) -> None:
    _detach(real, agent_id)
    real.post(f"/api/agents/{agent_id}/verify")
    with real.wiring.engine.begin() as connection:
        connection.execute(text("UPDATE agents SET health_findings = health_findings #- '{0,callers}'"))

    (finding,) = real.status(agent_id).json["health"]["findings"]

    assert (finding["code"], finding["severity"], finding["callers"]) == ("number_detached", "critical", None)


def test_a_number_that_was_released_is_the_422_that_the_document_has(
    real: Api, agent_id: str, sandbox: Sandbox
) -> None:
    sid = real.status(agent_id).json["twilioPhoneNumberSid"]
    ProviderConsole(sandbox).twilio("DELETE", f"/2010-04-01/Accounts/{ACCOUNT_SID}/IncomingPhoneNumbers/{sid}.json")

    response = real.post(f"/api/agents/{agent_id}/repair")

    assert (response.status_code, response.json["code"], response.json["status"]) == (422, "number_not_in_account", 422)


def test_a_repair_without_a_wish_to_wait_is_accepted(real: Api, agent_id: str) -> None:
    _detach(real, agent_id)

    response = real.post(f"/api/agents/{agent_id}/repair")

    assert (response.status_code, response.json["status"]) == (202, "PROVISIONED")
    assert real.get(f"/api/operations/{response.json['operationId']}").json["kind"] == "repair"


@pytest.mark.parametrize("call", ["verify", "repair"])
def test_an_agent_without_a_number_has_nothing_to_look_at(real: Api, call: str) -> None:
    response = real.post(f"/api/agents/{real.agent()}/{call}")

    assert (response.status_code, response.json["code"]) == (409, "agent_has_no_phone")
    assert real.post(f"/api/agents/{NOBODY}/{call}").json["code"] == "agent_not_found"


def test_a_provider_that_is_away_is_a_503(api: Api) -> None:
    agent_id = api.agent()
    api.succeed(api.provision(agent_id).json["operationId"])

    def get_number(_sid: str) -> None:
        raise TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "Twilio does not answer.", retry_after_s=6.2)

    api.carrier.get_number = get_number  # type: ignore[attr-defined]

    response = api.post(f"/api/agents/{agent_id}/verify")

    assert (response.status_code, response.json["code"]) == (503, "provider_unavailable")
    assert response.headers["Retry-After"] == "7"


def test_a_number_moves_to_another_agent(real: Api, agent_id: str, sandbox: Sandbox) -> None:
    target = real.agent("second")

    response = real.post(f"/api/agents/{agent_id}/move-phone", {"toAgentId": target}, headers=WAIT)

    moved = {"success": True, "phoneNumber": NUMBER, "fromAgentId": agent_id, "toAgentId": target}
    assert (response.status_code, response.json) == (200, moved)
    assert sandbox.call(NUMBER)["agentName"] == "second"
    for each, has_phone in ((agent_id, False), (target, True)):
        shown = real.status(each).json
        assert (shown["hasPhone"], shown["operation"]["kind"]) == (has_phone, "move")
        assert shown["operation"]["targetAgentId"] == target
        assert len(real.get(f"/api/operations?agentId={each}").json["items"]) == (1 if has_phone else 2)


@pytest.mark.parametrize("body", [{}, {"toAgentId": "x"}, {"toAgentId": NOBODY, "more": 1}])
def test_a_move_needs_an_agent(real: Api, agent_id: str, body: dict[str, Any]) -> None:
    assert real.post(f"/api/agents/{agent_id}/move-phone", body).status_code == 422


def test_a_dry_run_tells_and_writes_nothing(real: Api, sandbox: Sandbox) -> None:
    agent_id, before = real.agent(), sandbox.state()
    url = f"/api/agents/{agent_id}/provision-phone"
    options: dict[str, Any] = {"headers": {"Idempotency-Key": "one"}}

    plan = real.post(f"{url}?dryRun=true", {"phoneNumber": NUMBER}, **options).json

    assert (plan["dryRun"], plan["wouldSucceed"], plan["obstacles"]) == (True, True, [])
    assert plan["trunks"] == {"used": 0, "limit": 100, "free": 100}
    assert {call["step"] for call in plan["calls"]} >= {"twilio_trunk", "livekit_dispatch_rule"}
    assert (real.count("operations"), real.count("idempotency_keys"), sandbox.state()) == (0, 0, before)
    missing = real.post(f"{url}?dryRun=true", {"phoneNumber": OTHER_NUMBER}).json
    assert (missing["wouldSucceed"], missing["obstacles"][0]["code"]) == (False, "number_not_in_account")
    assert real.post(url, {"phoneNumber": NUMBER}, **options).status_code == 202


@pytest.mark.parametrize("query", ["dryRun=1", "dryRun=yes", "dryRun=true&dryRun=false", "dry_run=true", "dryRun="])
def test_a_dry_run_that_we_cannot_read_is_not_the_real_thing(real: Api, query: str) -> None:
    response = real.post(f"/api/agents/{real.agent()}/provision-phone?{query}", {"phoneNumber": NUMBER})

    assert (response.status_code, real.count("operations")) == (422, 0)


def test_an_audit_is_asked_for_and_read(real: Api, agent_id: str) -> None:
    assert real.get("/api/audit").json["code"] == "audit_not_found"
    _detach(real, agent_id)

    asked = real.post("/api/audit")

    assert (asked.status_code, asked.headers["Location"]) == (202, asked.json["statusUrl"])
    assert [str(one) for one in real.publisher.audits] == [asked.json["auditId"]]
    assert real.get(asked.json["statusUrl"]).json["status"] == "queued"
    real.wiring.audits.run_audit(real.publisher.audits[0])
    report = real.get("/api/audit").json
    assert (report["id"], report["status"], report["agentsChecked"]) == (asked.json["auditId"], "done", 1)
    assert [finding["code"] for finding in report["findings"]] == ["number_detached"]
    assert report["findings"][0]["agentId"] == agent_id
    assert real.get("/api/audit/nonsense").json["code"] == "audit_not_found"


def test_the_audit_command_says_by_its_exit_code_what_is_left(real: Api, agent_id: str) -> None:
    run = real.app.test_cli_runner().invoke
    assert run(args=["audit"]).exit_code == 0
    _detach(real, agent_id)

    found = run(args=["audit", "--json"])
    shown = run(args=["audit"])
    fixed = run(args=["audit", "--fix", "--json"])

    assert (found.exit_code, shown.exit_code, fixed.exit_code) == (3, 3, 0)
    assert [finding["code"] for finding in json.loads(found.stdout)["findings"]] == ["number_detached"]
    assert "1 agents checked, 1 findings." in shown.stdout
    assert json.loads(fixed.stdout)["findings"][0]["fixed"].startswith("repair ")
    assert run(args=["audit"]).exit_code == 0


def test_a_key_that_writes_too_fast_is_told_when_to_come_back(
    api_database_url: str, valkey_server: ValkeyServer, sandbox: Sandbox
) -> None:
    api = _build(api_database_url, valkey_server.url, sandbox, rate_limit="2/minute")
    responses = [api.post("/api/agents", {"name": "a"}) for _ in range(3)]

    assert [response.status_code for response in responses] == [201, 201, 429]
    assert responses[2].json["code"] == "rate_limited"
    assert 1 <= int(responses[2].headers["Retry-After"]) <= 60
    assert api.get("/api/agents").status_code == 200
    api.key = api.new_key(Scope.WRITE)
    assert api.post("/api/agents", {"name": "a"}).status_code == 201
    api.wiring.close()


def test_without_redis_every_write_passes(api_database_url: str, sandbox: Sandbox) -> None:
    api = _build(api_database_url, "redis://127.0.0.1:1/0", sandbox, rate_limit="1/minute")

    assert [api.post("/api/agents", {"name": "a"}).status_code for _ in range(3)] == [201] * 3
    api.wiring.close()


FROM_ELSEWHERE = [
    {},
    *({name: "192.0.2.7"} for name in ("Forwarded", "X-Forwarded-For", "X-Real-IP", "True-Client-IP", "X-Client-IP")),
    *({name: "192.0.2.7"} for name in ("CF-Connecting-IP", "X-Envoy-External-Address", "Via", "X-Forwarded-Host")),
    {"X-Forwarded-Proto": "https"},
]
"""What a proxy on this machine may say of whom it speaks for; some say nothing."""


@pytest.mark.parametrize("headers", FROM_ELSEWHERE, ids=str)
def test_metrics_are_for_holders_of_a_key_wherever_they_come_from(api: Api, headers: dict[str, str]) -> None:
    for peer in ("127.0.0.1", "::1", "192.0.2.7"):
        whence = {"REMOTE_ADDR": peer}
        assert api.client.get("/metrics", headers=headers, environ_base=whence).status_code == 401
        assert api.get("/metrics", headers=headers, environ_base=whence).status_code == 200


def test_metrics_are_for_everybody_where_the_settings_say_so(
    api_database_url: str, valkey_server: ValkeyServer, sandbox: Sandbox
) -> None:
    api = _build(api_database_url, valkey_server.url, sandbox, metrics_public=True)

    assert api.client.get("/metrics").status_code == 200
    api.wiring.close()


def test_flower_is_never_open_to_others_without_a_password() -> None:
    given = make_settings("postgresql://nobody@127.0.0.1/none").model_dump(
        exclude={"flower_address", "flower_basic_auth"}
    )

    assert Settings(_env_file=None, **given, flower_address="0.0.0.0", flower_basic_auth="a:b").flower_basic_auth  # noqa: S104
    with pytest.raises(ValueError, match="FLOWER_ADDRESS is not loopback"):
        Settings(_env_file=None, **given, flower_address="0.0.0.0")  # noqa: S104
