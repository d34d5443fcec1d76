"""Who did it: every request that changes something leaves its actor in the same transaction, and no other does."""

import io
import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update
from werkzeug.test import TestResponse

from app.access import REFUSED_SIGN_INS_PER_MINUTE, ConsoleSessions, Scope
from app.db.access import KEPT, Activity, ApiKey, list_activity, purge_activity
from app.db.models import Agent
from app.domain.events import Action, Channel, Origin
from app.domain.findings import Finding, FindingCode, Health
from app.domain.workspaces import ENVIRONMENT_ACCOUNT, ENVIRONMENT_PROJECT
from app.numbers.adoption import Adoption, AdoptionService
from app.numbers.maintenance import MaintenanceService, VerifyResult
from app.path.adoption import Chain, chain_of
from tests.cli.test_command_list import ALL as ALL_COMMANDS
from tests.support.accounts import (
    CARRIER,
    CARRIERS,
    PROJECT,
    PROJECT_KEY,
    PROJECT_SECRET,
    PROJECT_URL,
    PROJECTS,
    SID,
    TOKEN,
    accepting,
    with_accounts,
)
from tests.support.api import NOBODY, NUMBER, OTHER_NUMBER, Api
from tests.support.console import BrowserClient
from tests.support.line import Line

READS_ONLY = {"care.verify_phone", "console.verify", "console.plan", "console.adopt_plan"}
READS_ONLY |= {"carrier-accounts.check_carrier_account", "voice-projects.check_voice_project"}
READS_ONLY |= {"console.check_carrier_account", "console.check_voice_project"}
"""Endpoints that a POST asks to look, and that change nothing that anybody asked for."""

URL = "https://hooks.example.com/in"
NEW = "marked-new-secret"
ADOPTED_NUMBER = "+15145550009"
FROM = {"environ_base": {"REMOTE_ADDR": "192.0.2.7"}}


def told(api: Api, **about: Any) -> list[Activity]:
    """Return what is remembered, the newest first."""
    with api.wiring.sessions() as session:
        return list(list_activity(session, subject_id=about.get("about"), limit=1000))


def key_named(api: Api, name: str) -> ApiKey:
    with api.wiring.sessions() as session:
        return session.scalars(select(ApiKey).where(ApiKey.name == name)).one()


class _Drifted(MaintenanceService):
    """Always finds that the trunk is gone: nothing is asked of a provider."""

    def verify(self, agent_id: Any) -> VerifyResult:
        return VerifyResult({}, [Finding(FindingCode.TRUNK_GONE, agent_id=str(agent_id))], Health.DRIFTED, None)  # type: ignore[arg-type]


class _Found(AdoptionService):
    """Always finds a path that can be adopted."""

    def preview(self, agent_id: Any, phone_number: str, projects: Any = None) -> Adoption:
        with self.sessions() as session:
            agent = session.get_one(Agent, agent_id)
        line = Line.whole()
        found = chain_of(line.observed(), replace(line.spec, agent_id=str(agent_id)))
        assert isinstance(found, Chain)
        return Adoption(agent, replace(found, spec=replace(found.spec, phone_number=phone_number)), agent.name)


@pytest.fixture
def drifting(api: Api) -> Iterator[Api]:
    """The application with every path drifted, so that a repair is one, and accounts whose secrets may be changed."""
    providers = accepting()
    providers.accepted |= {(SID, SID, NEW), (PROJECT_URL, PROJECT_KEY, NEW)}
    with with_accounts(api, providers):
        before = api.wiring.maintenance, api.wiring.adoption
        api.wiring.maintenance, api.wiring.adoption = _Drifted(**vars(before[0])), _Found(**vars(before[1]))
        yield api
        api.wiring.maintenance, api.wiring.adoption = before


@dataclass
class Watched:
    """Sends requests, and looks after each at what is remembered of it."""

    api: Api
    channel: Channel
    actor: str
    key_name: str
    send: Callable[..., TestResponse]
    done: set[str] = field(default_factory=set)

    def __call__(self, action: Action, path: str, *rest: Any, **more: Any) -> TestResponse:
        before = len(told(self.api))
        response = self.send(path, *rest, **more)
        assert response.status_code < 400, response.text
        newest, *_ = rows = told(self.api)
        assert len(rows) == before + 1, path
        key = key_named(self.api, self.key_name)
        assert (newest.action, newest.channel, newest.actor) == (action, self.channel, self.actor)
        assert (newest.key_id, newest.address) == (key.id, "192.0.2.7")
        assert newest.request_id == response.headers["X-Request-ID"]
        endpoint, _ = self.api.app.url_map.bind("localhost").match(response.request.path, response.request.method)
        self.done.add(endpoint)
        return response


def unsafe_endpoints(api: Api) -> set[str]:
    return {
        rule.endpoint
        for rule in api.app.url_map.iter_rules()
        if (rule.methods or set()) - {"GET", "HEAD", "OPTIONS"} and rule.endpoint not in READS_ONLY
    }


def test_every_call_of_the_api_that_changes_something_is_remembered_with_its_actor(drifting: Api) -> None:
    api = drifting
    api.key = api.new_key(Scope.ADMIN, name="root")

    def send(path: str, body: Any = None, *, method: str = "POST") -> TestResponse:
        return api.call(method, path, body, **FROM)

    did = Watched(api, Channel.API, "root", "root", send)
    agent, other, third = (
        did(Action.AGENT_CREATE, "/api/agents", {"name": name}).json["id"] for name in ("one", "two", "three")
    )
    ours, phone = f"/api/agents/{agent}", {"phoneNumber": NUMBER}
    did(Action.AGENT_CHANGE, f"/api/agents/{third}", {"name": "more"}, method="PATCH")
    operation = did(Action.PROVISION, f"{ours}/provision-phone", phone).json["operationId"]
    did(Action.OPERATION_RETRY, f"/api/operations/{operation}/retry")
    did(Action.DEPROVISION, f"{ours}/deprovision-phone", method="DELETE")
    afresh = did(Action.PROVISION, f"/api/operations/{operation}/retry").json["operationId"]
    api.succeed(afresh)
    did(Action.TEST_CALL, f"{ours}/test-calls")
    repair = did(Action.REPAIR, f"{ours}/repair", {}).json["operationId"]
    api.succeed(repair)
    api.succeed(did(Action.AGENT_CHANGE, ours, {"livekitAgentName": "desk"}, method="PATCH").json["operationId"])
    api.succeed(did(Action.MOVE, f"{ours}/move-phone", {"toAgentId": other}).json["operationId"])
    did(Action.BULK_CREATE, "/api/trunks/consolidate")
    did(Action.DEPROVISION, f"{ours}/deprovision-phone", method="DELETE")
    did(Action.AGENT_DELETE, f"/api/agents/{third}", method="DELETE")
    fourth = did(Action.AGENT_CREATE, "/api/agents", {"name": "four"}).json["id"]
    did(Action.ADOPT, f"/api/agents/{fourth}/adopt-phone", {"phoneNumber": ADOPTED_NUMBER})
    items = {"items": [{"phoneNumber": OTHER_NUMBER, "agentId": other}]}
    bulk = f"/api/provisionings/{did(Action.BULK_CREATE, '/api/provisionings', items).json['bulkId']}"
    did(Action.BULK_CANCEL, f"{bulk}/cancel")
    did(Action.BULK_RESUME, f"{bulk}/resume")
    did(Action.AGENT_CREATE, "/api/agents", {"name": "five", "externalId": "five"})
    declared = {"agents": [{"externalId": "five", "phoneNumber": "+15145550033"}]}
    did(Action.DECLARATION_APPLY, "/api/declarations", declared)
    did(Action.AUDIT_START, "/api/audit", {"fix": True})
    webhook = f"/api/webhooks/{did(Action.WEBHOOK_CREATE, '/api/webhooks', {'url': URL}).json['id']}"
    did(Action.WEBHOOK_CHANGE, webhook, {"description": "Pager"}, method="PATCH")
    did(Action.WEBHOOK_ROTATE_SECRET, f"{webhook}/rotate-secret")
    delivery = did(Action.WEBHOOK_TEST, f"{webhook}/test").json["id"]
    did(Action.WEBHOOK_REDELIVER, f"{webhook}/deliveries/{delivery}/redeliver")
    did(Action.WEBHOOK_DELETE, webhook, method="DELETE")
    team = did(Action.WORKSPACE_CREATE, "/api/workspaces", {"slug": "acme", "name": "Acme"}).json["id"]
    did(Action.WORKSPACE_CHANGE, f"/api/workspaces/{team}", {"name": "Acme Inc."}, method="PATCH")
    did(Action.WORKSPACE_DELETE, f"/api/workspaces/{team}", method="DELETE")
    for path, account in ((CARRIERS, CARRIER), (PROJECTS, PROJECT)):
        one = f"{path}/{did(Action.ACCOUNT_CREATE, path, account).json['id']}"
        did(Action.ACCOUNT_CHANGE, one, {"name": "Other"}, method="PATCH")
        did(Action.ACCOUNT_ROTATE, f"{one}/rotate", {"secret": NEW})
        did(Action.ACCOUNT_DELETE, one, method="DELETE")
    made = did(Action.KEY_CREATE, "/api/keys", {"name": "more"}).json["id"]
    did(Action.KEY_REVOKE, f"/api/keys/{made}", method="DELETE")
    did(Action.SIGN_IN_LINK, "/api/sign-in-links")

    assert did.done == {one for one in unsafe_endpoints(api) if not one.startswith("console.")}
    assert told(api, about=uuid.UUID(agent))[-1].action == Action.AGENT_CREATE


def test_every_button_of_the_console_is_remembered_with_its_actor(drifting: Api) -> None:
    api = drifting
    browser = BrowserClient(api)
    browser.client.environ_base["REMOTE_ADDR"] = "192.0.2.7"
    key = api.new_key(Scope.ADMIN, name="Ada")

    def send(path: str, page: str = "/audit", **fields: Any) -> TestResponse:
        return browser.post(path, page, **fields)

    did = Watched(api, Channel.CONSOLE, "Ada (console)", "Ada", send)
    did(Action.SIGN_IN, "/sign-in", "/sign-in", key=key)
    ours, second, third, fourth = (
        did(Action.AGENT_CREATE, "/", "/", name=name).headers["Location"] for name in ("one", "two", "three", "four")
    )
    other = second.rpartition("/")[2]
    did(Action.AGENT_CHANGE, f"{third}/edit", name="more", livekitAgentName="three", version="1")
    did(Action.AGENT_DELETE, f"{third}/delete")
    did(Action.PROVISION, f"{ours}/provision", typed=NUMBER)
    operation = str(api.publisher.plans[-1].operation_id)
    did(Action.OPERATION_RETRY, f"/operations/{operation}/retry")
    api.succeed(operation)
    did(Action.TEST_CALL, f"{ours}/test-call")
    did(Action.REPAIR, f"{ours}/repair")
    api.succeed(str(api.publisher.plans[-1].operation_id))
    did(Action.MOVE, f"{ours}/move", to=other)
    api.succeed(str(api.publisher.plans[-1].operation_id))
    did(Action.BULK_CREATE, "/trunks/consolidate")
    did(Action.DEPROVISION, f"{ours}/deprovision")
    did(Action.ADOPT, f"{fourth}/adopt", typed=ADOPTED_NUMBER)
    file = (io.BytesIO(f"phoneNumber,agentId\n{OTHER_NUMBER},{other}\n".encode()), "numbers.csv")
    bulk = did(Action.BULK_CREATE, "/bulks", file=file).headers["Location"]
    did(Action.BULK_CANCEL, f"{bulk}/cancel")
    did(Action.BULK_RESUME, f"{bulk}/resume")
    did(Action.AUDIT_START, "/audit", fix="on")
    did(Action.WEBHOOK_CREATE, "/webhooks", url=URL, description="")
    webhook = f"/webhooks/{api.wiring.webhooks.all()[0].id}"
    did(Action.WEBHOOK_CHANGE, f"{webhook}/edit", url=URL, description="Pager")
    did(Action.WEBHOOK_CHANGE, f"{webhook}/disable")
    did(Action.WEBHOOK_CHANGE, f"{webhook}/enable")
    did(Action.WEBHOOK_ROTATE_SECRET, f"{webhook}/rotate")
    did(Action.WEBHOOK_TEST, f"{webhook}/ping")
    delivery = api.wiring.webhooks.deliveries(api.wiring.webhooks.all()[0].id, status=None, after=None, limit=1)[0].id
    did(Action.WEBHOOK_REDELIVER, f"{webhook}/deliveries/{delivery}/redeliver")
    did(Action.WEBHOOK_DELETE, f"{webhook}/delete")
    team = did(Action.WORKSPACE_CREATE, "/workspaces", slug="acme", name="Acme").headers["Location"]
    accounts = {"carrierAccountId": str(ENVIRONMENT_ACCOUNT), "voiceProjectId": str(ENVIRONMENT_PROJECT)}
    did(Action.WORKSPACE_CHANGE, team, name="Acme Inc.", **accounts)
    did(Action.WORKSPACE_DELETE, f"{team}/delete")
    for path, account in (("/carrier-accounts", CARRIER), ("/voice-projects", PROJECT)):
        one = did(Action.ACCOUNT_CREATE, path, **account).headers["Location"]
        did(Action.ACCOUNT_ROTATE, f"{one}/rotate", secret=NEW, username="", oldValidForS="0")
        did(Action.ACCOUNT_DELETE, f"{one}/delete")
    did(Action.KEY_CREATE, "/keys", name="more", scope="read")
    did(Action.KEY_REVOKE, f"/keys/{key_named(api, 'more').id}/revoke")
    did(Action.SIGN_OUT, "/sign-out")

    only_looks = {"console.check_bulk"}
    assert did.done == {one for one in unsafe_endpoints(api) if one.startswith("console.")} - only_looks


def test_who_cancels_another_s_provisioning_stands_in_its_trail(api: Api) -> None:
    agent = api.agent()
    api.provision(agent)
    second = replace(api, key=api.new_key(Scope.WRITE, name="B"))

    request_id = second.deprovision(agent).headers["X-Request-ID"]

    operation = api.get(f"/api/operations?agentId={agent}").json["items"][0]["id"]
    timeline = api.get(f"/api/operations/{operation}").json["timeline"]
    who = {each["event"]: each["detail"].get("requested_by") for each in timeline}
    assert (who["operation_queued"], who["operation_cancel_requested"]) == ("tests", "B")
    cancelled = next(each["detail"] for each in timeline if each["event"] == "operation_cancel_requested")
    b = str(key_named(api, "B").id)
    assert cancelled == {"requested_by": "B", "key_id": b, "request_id": request_id}
    assert "127.0.0.1" not in json.dumps(timeline)


def test_a_cancel_of_what_needs_a_person_stands_in_its_trail_too(api: Api) -> None:
    agent = api.agent()
    operation = api.provision(agent).json["operationId"]
    api.get_stuck(operation)

    api.deprovision(agent)

    timeline = api.get(f"/api/operations/{operation}").json["timeline"]
    assert timeline[-1]["event"] == "operation_cancel_requested"
    assert told(api)[0].action == Action.DEPROVISION


def test_a_failure_that_is_cleared_is_remembered_though_no_operation_tells_of_it(api: Api) -> None:
    agent = api.agent()
    api.fail(api.provision(agent).json["operationId"], "number_not_in_account", "Not ours.")

    assert api.deprovision(agent).status_code == 200

    newest = told(api)[0]
    assert (newest.action, newest.subject_id, newest.detail) == (Action.DEPROVISION, uuid.UUID(agent), {})


def test_what_changes_nothing_is_not_remembered(api: Api) -> None:
    agent, other = api.agent(), api.agent("other")
    api.provision(agent)
    again = {"headers": {"Idempotency-Key": "k"}}
    api.post("/api/agents", {"name": "c"}, **again)
    before = len(told(api))

    assert api.post("/api/agents", {"name": "c"}, **again).status_code == 201
    assert api.provision(other).status_code == 409
    assert api.delete(f"/api/agents/{agent}").status_code == 409
    assert api.delete(f"/api/agents/{NOBODY}").status_code == 404
    assert api.deprovision(other).status_code == 200
    assert api.post("/api/agents", {"name": ""}).status_code == 422
    assert api.client.post("/api/agents", json={"name": "x"}).status_code == 401

    assert len(told(api)) == before


def test_operations_that_a_bulk_opens_name_the_key_that_asked_for_the_bulk(api: Api) -> None:
    items = [{"phoneNumber": NUMBER, "agent": "desk"}]
    asked = api.post("/api/provisionings", {"items": items}).headers["X-Request-ID"]
    before = len(told(api))

    assert api.wiring.sweeper.dispatcher.advance() == 1

    operation = api.get("/api/operations").json["items"][0]["id"]
    queued = api.get(f"/api/operations/{operation}").json["timeline"][0]["detail"]
    who = {"requested_by": "tests", "key_id": str(key_named(api, "tests").id), "request_id": asked}
    assert queued == {"kind": "provision", "takeover": False} | who
    assert len(told(api)) == before


def test_a_refused_sign_in_is_remembered_without_the_key(api: Api) -> None:
    browser = BrowserClient(api)
    wrong = "tl_" + "A" * 43

    browser.sign_in(wrong)
    browser.sign_in(api.new_key(name="nothing"))

    forbidden, unknown = told(api)
    assert [unknown.detail, forbidden.detail] == [{"reason": "unauthenticated"}, {"reason": "forbidden"}]
    assert {unknown.action, forbidden.action} == {Action.SIGN_IN_REFUSED}
    assert unknown.address == browser.client.environ_base["REMOTE_ADDR"]
    assert (unknown.actor, unknown.key_id, unknown.channel) == (None, None, Channel.CONSOLE)
    assert wrong not in str(vars(unknown))


def test_a_flood_of_refused_sign_ins_does_not_fill_the_table(api: Api) -> None:
    sessions = ConsoleSessions(api.wiring.sessions)
    for _ in range(REFUSED_SIGN_INS_PER_MINUTE + 1):
        sessions.record_refusal(Origin(channel=Channel.CONSOLE), "unauthenticated")
    assert api.count("activity") == REFUSED_SIGN_INS_PER_MINUTE

    with api.wiring.sessions.begin() as session:
        session.execute(update(Activity).values(at=func.now() - timedelta(minutes=2)))
    sessions.record_refusal(Origin(channel=Channel.CONSOLE), "unauthenticated")
    assert api.count("activity") == REFUSED_SIGN_INS_PER_MINUTE + 1


def test_rows_are_deleted_when_they_have_had_their_day(api: Api) -> None:
    api.agent("old")
    with api.wiring.sessions.begin() as session:
        session.execute(update(Activity).values(at=func.now() - KEPT - timedelta(hours=1)))
    api.agent("new")

    assert purge_activity(api.wiring.sessions) == 1
    assert api.count("activity") == 1


LOOKING = {
    *("doctor", "agents list", "agents show", "numbers list", "provision watch", "status", "verify"),
    *("operations list", "operations show", "activity", "webhooks list", "keys list", "sweep"),
    *("workspaces list", "workspaces show"),
    *(f"{group} {verb}" for group in ("accounts", "projects") for verb in ("list", "show", "check")),
    *("trunks list", "plan", "export"),
    "credentials rewrap",  # the same secrets, sealed by another key
    "webhooks listen",  # lasts as long as somebody looks: its endpoint is made and deleted by the API's own calls
}
"""Commands that change nothing that anybody asked for."""


def test_every_command_that_changes_something_is_remembered(drifting: Api, tmp_path: Path) -> None:
    api, runner, done = drifting, drifting.app.test_cli_runner(), set()

    def did(action: Action, command: str, *arguments: str, typed: str = "") -> uuid.UUID:
        runner.invoke(args=[*command.split(), *arguments], input=typed)
        newest = told(api)[0]
        found = (newest.action, newest.channel, newest.actor, newest.key_id, newest.address)
        assert found == (action, Channel.COMMAND_LINE, f"trunkline {command}", None, None)
        done.add(command)
        assert newest.subject_id is not None
        return newest.subject_id

    agent, other = (str(did(Action.AGENT_CREATE, "agents create", name)) for name in ("one", "two"))
    did(Action.PROVISION, "provision number", agent, NUMBER, "--no-wait")
    operation = str(api.publisher.plans[-1].operation_id)
    did(Action.OPERATION_RETRY, "operations retry", operation)
    api.succeed(operation)
    did(Action.TEST_CALL, "call", agent, "--no-wait")
    did(Action.REPAIR, "repair", agent, "--no-wait")
    api.succeed(str(api.publisher.plans[-1].operation_id))
    did(Action.MOVE, "move", agent, other, "--no-wait")
    api.succeed(str(api.publisher.plans[-1].operation_id))
    did(Action.BULK_CREATE, "trunks consolidate", "--no-wait")
    did(Action.DEPROVISION, "deprovision", agent, "--yes", "--no-wait")
    fourth = str(did(Action.AGENT_CREATE, "agents create", "four"))
    did(Action.ADOPT, "adopt", fourth, ADOPTED_NUMBER, "--yes", "--no-wait")
    file = tmp_path / "numbers.csv"
    for command, number in (("import", "+15145550001"), ("provision import", "+15145550002")):
        file.write_text(f"phoneNumber,agent\n{number},desk\n", encoding="utf-8")
        bulk = str(did(Action.BULK_CREATE, command, str(file), "--no-wait"))
    did(Action.BULK_CANCEL, "provision cancel", bulk)
    did(Action.BULK_RESUME, "provision resume", bulk, "--no-wait")
    api.agent("five", externalId="five")
    file = tmp_path / "numbers.yaml"
    file.write_text("agents:\n- externalId: five\n  phoneNumber: +15145550033\n", encoding="utf-8")
    did(Action.DECLARATION_APPLY, "apply", "-f", str(file), "--yes", "--no-wait")
    did(Action.AUDIT_START, "audit", "--fix")
    third = str(did(Action.AGENT_CREATE, "agents create", "three"))
    did(Action.AGENT_CHANGE, "agents set", third, "--name", "more")
    did(Action.AGENT_DELETE, "agents delete", third, "--yes")
    did(Action.KEY_CREATE, "keys create", "ops")
    did(Action.KEY_REVOKE, "keys revoke", "ops")
    project = ("--url", PROJECT_URL, "--api-key", PROJECT_KEY, "--sip-uri", PROJECT["sipUri"])
    for group, given, secret in (
        ("accounts", ("--account-sid", SID), TOKEN),
        ("projects", project, PROJECT_SECRET),
    ):
        did(Action.ACCOUNT_CREATE, f"{group} add", "Acme", *given, typed=f"{secret}\n")
        did(Action.ACCOUNT_CHANGE, f"{group} change", "Acme", "--rate", "12")
        did(Action.ACCOUNT_ROTATE, f"{group} rotate", "Acme", typed=f"{NEW}\n")
        did(Action.ACCOUNT_DELETE, f"{group} delete", "Acme", "--yes")
    did(Action.WORKSPACE_CREATE, "workspaces create", "acme")
    did(Action.WORKSPACE_CHANGE, "workspaces change", "acme", "--name", "Acme")
    did(Action.WORKSPACE_DELETE, "workspaces delete", "acme", "--yes")
    api.wiring.webhooks.create("https://hooks.example.com/in", None, None)
    did(Action.WEBHOOK_TEST, "webhooks trigger", "ping")

    assert done == set(ALL_COMMANDS) - LOOKING


def test_keys_made_and_revoked_at_the_command_line_are_remembered(api: Api) -> None:
    runner = api.app.test_cli_runner()
    runner.invoke(args=["keys", "create", "ops", "--scope", "read"])
    runner.invoke(args=["keys", "revoke", "ops"])
    runner.invoke(args=["keys", "revoke", "nobody"])

    revoked, created = told(api)
    assert (created.action, created.detail) == (Action.KEY_CREATE, {"name": "ops", "scopes": ["read"]})
    assert (revoked.action, revoked.subject_id) == (Action.KEY_REVOKE, created.subject_id)
    assert {each.channel for each in (created, revoked)} == {Channel.COMMAND_LINE}
    assert (created.key_id, created.address) == (None, None)


def test_the_command_shows_what_is_remembered(api: Api) -> None:
    agent = api.agent("desk")
    BrowserClient(api).sign_in("nonsense")
    runner = api.app.test_cli_runner()

    shown = runner.invoke(args=["activity"]).stdout.splitlines()
    found = json.loads(runner.invoke(args=["activity", "--about", agent, "--json"]).stdout)["items"]

    assert "anonymous" in shown[1]
    assert "session.refuse" in shown[1]
    assert all(part in shown[2] for part in ("tests", "api", "127.0.0.1", "agent.create", agent))
    assert [(one["action"], one["subjectId"], one["actor"]) for one in found] == [("agent.create", agent, "tests")]
    assert found[0]["keyId"] == str(key_named(api, "tests").id)
