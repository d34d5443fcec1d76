"""Two workspaces and an operator: nobody sees, changes or learns of what is another workspace's."""

import functools
import itertools
import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, event, select
from sqlalchemy.engine.interfaces import CacheStats
from werkzeug.test import TestResponse

from app.access import KeyService, Scope
from app.db.access import Activity, ApiKey
from app.db.models import Agent, Audit, TestCall
from app.db.visibility import NOBODY, Owned, seeing, seen_workspace
from app.db.webhooks import WebhookEndpoint
from app.domain.errors import ErrorCode
from app.domain.events import MAX_ENDPOINTS
from app.domain.findings import AuditStatus
from app.domain.workspaces import DEFAULT_WORKSPACE, WORKSPACE_HEADER
from app.providers.errors import RejectedError
from app.wiring import profile_of
from tests.support.accounts import CARRIER, CARRIERS, PROJECT, PROJECTS, accepting, with_accounts
from tests.support.api import NUMBER, Api
from tests.support.console import BrowserClient, signed_in
from tests.support.routes import ROUTES, May, Who
from tests.support.trunks import add_shared_trunk


def _header(slug: str) -> Mapping[str, str]:
    return {WORKSPACE_HEADER: slug}


def _names(api: Api, **more: object) -> set[str]:
    return {one["name"] for one in api.get("/api/agents", **more).json["items"]}


def test_a_workspaces_key_sees_only_its_own_agents(api: Api) -> None:
    acme, globex = api.in_workspace("acme"), api.in_workspace("globex")
    acme.agent("from acme")
    globex.agent("from globex")
    api.agent("from default")
    assert _names(acme) == {"from acme"}
    assert _names(globex) == {"from globex"}
    assert _names(api) == {"from acme", "from globex", "from default"}


def test_an_operator_that_names_a_workspace_works_in_it_alone(api: Api) -> None:
    api.in_workspace("acme").agent("from acme")
    api.agent("from default")
    assert _names(api, headers=_header("acme")) == {"from acme"}
    made = api.post("/api/agents", {"name": "by an operator"}, headers=_header("acme"))
    assert _names(api, headers=_header("acme")) == {"from acme", "by an operator"}
    assert _names(api, headers=_header("default")) == {"from default"}
    assert api.get("/api/trunks", headers=_header("acme")).status_code == 403
    with api.wiring.sessions() as session:
        trail = session.scalars(select(Activity).where(Activity.subject_id == uuid.UUID(made.json["id"]))).one()
    assert trail.workspace_id not in {None, DEFAULT_WORKSPACE}


def test_what_an_operator_makes_without_a_name_is_the_default_workspaces(api: Api) -> None:
    agent_id = uuid.UUID(api.agent())
    with api.wiring.sessions() as session:
        assert session.get_one(Agent, agent_id).workspace_id == DEFAULT_WORKSPACE
        trail = session.scalars(select(Activity).where(Activity.subject_id == agent_id)).one()
        assert trail.workspace_id == DEFAULT_WORKSPACE


@pytest.mark.parametrize("slug", ["globex", "nowhere", "", "ACME", "x" * 300, "acme'--"])
def test_another_workspace_is_as_unknown_as_one_that_is_not_there(api: Api, slug: str) -> None:
    acme = api.in_workspace("acme")
    api.in_workspace("globex")
    assert acme.get("/api/agents", headers=_header("acme")).status_code == 200
    refused = acme.get("/api/agents", headers=_header(slug))
    assert (refused.status_code, refused.json["code"]) == (404, "workspace_not_found")
    if slug != "globex":
        assert api.get("/api/agents", headers=_header(slug)).json["code"] == "workspace_not_found"


def test_a_request_sees_nothing_before_its_key_is_checked(own_api: Api) -> None:
    seen = []
    own_api.app.before_request_funcs[None].insert(0, lambda: seen.append(seen_workspace()))
    own_api.get("/api/agents")
    own_api.client.get("/healthz")
    assert seen == [NOBODY, NOBODY]
    assert seen_workspace() is None


def test_nobody_sees_nothing(api: Api) -> None:
    agent_id = uuid.UUID(api.agent())
    with seeing(NOBODY), api.wiring.sessions() as session:
        assert session.get(Agent, agent_id) is None
        assert not session.scalars(select(ApiKey)).all()


def test_a_console_session_sees_what_its_key_sees(api: Api) -> None:
    acme, globex = api.in_workspace("acme"), api.in_workspace("globex")
    agent_id, other = acme.agent("from acme"), globex.agent("from globex")
    browser = BrowserClient(acme)
    browser.sign_in()
    page = browser.get("/").text
    assert "from acme" in page
    assert "from globex" not in page
    assert "/trunks" not in page
    assert browser.get(f"/agents/{agent_id}").status_code == 200
    assert browser.get(f"/agents/{other}").status_code == 404
    assert browser.get("/trunks").status_code == 403
    assert "/trunks" in signed_in(api, Scope.READ).get("/").text
    with api.wiring.sessions() as session:
        signed_in_at = session.scalars(select(Activity).where(Activity.action == "session.start")).first()
        assert signed_in_at is not None
        key = session.scalars(select(ApiKey).where(ApiKey.workspace_id == signed_in_at.workspace_id)).one()
        assert key.last_used_at is not None


def test_a_number_of_another_workspace_is_in_use_without_a_name(api: Api) -> None:
    acme, globex = api.in_workspace("acme"), api.in_workspace("globex")
    holder, other = acme.agent("the holder"), globex.agent()
    assert acme.provision(holder, NUMBER).status_code == 202
    refused = globex.provision(other, NUMBER)
    assert (refused.status_code, refused.json["code"]) == (409, "number_in_use")
    assert holder not in refused.text
    assert "the holder" not in refused.text


def test_the_use_of_a_workspaces_key_is_recorded(api: Api) -> None:
    acme = api.in_workspace("acme", Scope.READ)
    assert acme.get("/api/agents").status_code == 200
    with api.wiring.sessions() as session:
        row = session.scalars(select(ApiKey).where(ApiKey.workspace_id.is_not(None))).one()
    assert row.last_used_at is not None


def test_an_idempotency_key_is_one_request_in_one_workspace(api: Api) -> None:
    api.in_workspace("acme")
    body, key = {"name": "desk"}, {"Idempotency-Key": "once"}
    made = api.post("/api/agents", body, headers={**key, **_header("acme")})
    again = api.post("/api/agents", body, headers={**key, **_header("acme")})
    elsewhere = api.post("/api/agents", body, headers={**key, **_header("default")})
    assert (made.status_code, again.json) == (201, made.json)
    assert (elsewhere.status_code, elsewhere.json["code"]) == (422, "idempotency_key_reused")


def test_a_workspace_has_webhooks_without_regard_to_those_of_others(api: Api) -> None:
    with api.wiring.sessions.begin() as session:
        for number in range(MAX_ENDPOINTS):
            url = f"https://93.184.215.14/{number}"
            session.add(WebhookEndpoint(url=url, sealed_secret="x", workspace_id=DEFAULT_WORKSPACE))
    assert api.in_workspace("acme").post("/api/webhooks", {"url": "https://93.184.215.14/"}).status_code == 201
    admin = replace(api, key=api.new_key(Scope.ADMIN))
    assert admin.post("/api/webhooks", {"url": "https://93.184.215.14/"}).json["code"] == "webhook_limit"


@pytest.mark.parametrize("is_in_workspace", [False, True])
def test_no_statement_is_compiled_anew_for_a_request(api: Api, is_in_workspace: bool) -> None:
    caller = api.in_workspace("acme") if is_in_workspace else api
    agent_id = caller.agent()
    paths = ("/api/agents", f"/api/agents/{agent_id}/phone-status", "/api/operations", "/api/provisionings")
    for path in paths:
        caller.get(path)
    compiled: list[str] = []

    def count(_c: object, _cursor: object, statement: str, _p: object, context: Any, _many: object) -> None:
        if context.compiled is not None and context.cache_hit is not CacheStats.CACHE_HIT:
            compiled.append(statement)

    event.listen(api.wiring.engine, "before_cursor_execute", count)
    try:
        for path in paths:
            assert caller.get(path).status_code == 200
    finally:
        event.remove(api.wiring.engine, "before_cursor_execute", count)
    assert not compiled


def test_a_key_knows_its_workspace(api: Api) -> None:
    keys = KeyService(api.wiring.sessions)
    of_acme, of_operator = keys.authenticate(api.in_workspace("acme").key), keys.authenticate(api.key)
    assert of_acme is not None
    assert of_operator is not None
    assert (of_acme.workspace, of_acme.is_operator) == ("acme", False)
    assert (of_operator.workspace, of_operator.is_operator) == (None, True)


OWNED_TABLES = sorted(model.__tablename__ for model in Owned.__subclasses__())

_MENTION = re.compile(
    rf"\b(?:FROM|JOIN|UPDATE|,)\s+({'|'.join(OWNED_TABLES)})\b(?![.(])"
    r"(?:\s+(?:AS\s+)?(?!ON|SET|WHERE|JOIN|LEFT|ORDER|GROUP|LIMIT|FOR)(\w+))?"
)
"""A table whose rows belong to workspaces, where a statement reads or writes it, and its alias."""


_TRUSTED = re.compile(
    # A row that the session has made or seen, once more.
    r"WHERE \w+\.id = %\((pk_1|id|\w+_id)\)s(::UUID)?( FOR .*)?$"
    # Whose key or session it is.
    r"|api_keys\.key_hash = |\.token_hash = "
    # The operations of an agent, or of a bulk, that is seen.
    r"|LATERAL .* latest ON true|^UPDATE bulk_items .* FROM operations "
    # Wakes what waits for an account, whosever it is, and tells nobody.
    r"|^WITH waiting AS ",
    re.DOTALL,
)


@functools.cache
def unfiltered(statement: str) -> list[str]:
    """Return the names under which a statement reads such rows without saying whose."""
    if _TRUSTED.search(statement):
        return []
    names = [alias or table for table, alias in _MENTION.findall(statement)]
    bare = re.search(r"[^.\w]workspace_id = ", statement)
    return [name for name in names if not re.search(rf"\b{name}\.workspace_id = ", statement) and not bare]


@contextmanager
def watched(engine: Engine) -> Iterator[list[str]]:
    """Collect the statements that show a workspace's request rows of others."""
    found: list[str] = []

    def look(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if seen_workspace() is not None and (names := unfiltered(statement)):
            found.append(f"{names}: {statement}")

    event.listen(engine, "before_cursor_execute", look)
    try:
        yield found
    finally:
        event.remove(engine, "before_cursor_execute", look)


def test_the_watch_tells_a_statement_that_is_not_filtered() -> None:
    assert unfiltered("SELECT 1 FROM agents WHERE agents.id = 1") == ["agents"]
    assert unfiltered("SELECT 1 FROM agents AS a JOIN bulks ON true WHERE a.workspace_id = 1") == ["bulks"]
    assert unfiltered("SELECT 1 FROM operations, agents WHERE agents.workspace_id = 1") == ["operations"]
    assert not unfiltered("SELECT 1 FROM agents AS a WHERE a.workspace_id = 1")
    assert not unfiltered("INSERT INTO agents (id) SELECT 1 FROM bulk_items")


_NAME = "acme-made"
"""In every name and text of what is acme's."""


@dataclass
class World:
    """The application with callers of every kind, and the things of `acme`."""

    api: Api
    acme: Api
    callers: dict[Who, Api]
    browsers: dict[Who, BrowserClient]
    numbers: Iterator[str] = field(default_factory=lambda: (f"+1514556{n:04}" for n in range(10_000)))

    webhooks: list[str] = field(default_factory=list)
    counter: Iterator[int] = field(default_factory=itertools.count)

    latest_agent: str = ""

    tokens: dict[Who, str] = field(default_factory=dict)
    """CSRF tokens of those who are signed in: one is valid for as long as its cookie."""

    def agent(self) -> str:
        self.latest_agent = self.acme.agent(_NAME)
        return self.latest_agent

    def call(self) -> str:
        """A test call of the agent that was made last."""
        with self.api.wiring.sessions.begin() as session:
            agent = session.get_one(Agent, uuid.UUID(self.latest_agent))
            row = TestCall(
                id=uuid.uuid4(),
                agent_id=agent.id,
                workspace_id=agent.workspace_id,
                phone_number="+15145560000",
                caller="+12025550100",
            )
            session.add(row)
            return str(row.id)

    def operation(self) -> str:
        operation_id = self.acme.provision(self.agent(), next(self.numbers)).json["operationId"]
        self.acme.fail(operation_id, "twilio_rejected", _NAME)
        return str(operation_id)

    def bulk(self) -> str:
        items = [{"phoneNumber": next(self.numbers), "agent": _NAME}]
        return str(self.acme.post("/api/provisionings", {"items": items}).json["bulkId"])

    def audit(self) -> str:
        audit_id = str(self.acme.post("/api/audit", {}).json["auditId"])
        with self.api.wiring.sessions.begin() as session:
            audit = session.get_one(Audit, uuid.UUID(audit_id))
            audit.status, audit.findings, audit.finished_at = AuditStatus.DONE, [], datetime.now(UTC)
        return audit_id

    def webhook(self) -> str:
        for one in self.webhooks[1:]:
            self.acme.delete(f"/api/webhooks/{one}")  # there may not be too many
        made = self.acme.post("/api/webhooks", {"url": f"https://93.184.215.14/{_NAME}"})
        assert made.status_code == 201, made.text
        self.webhooks[1:] = [str(made.json["id"])]
        return self.webhooks[-1]

    def delivery(self) -> str:
        return str(self.acme.post(f"/api/webhooks/{self.webhooks[-1]}/test").json["id"])

    def key(self) -> str:
        return str(self.acme.post("/api/keys", {"name": _NAME}).json["id"])

    def account(self, path: str, body: Mapping[str, object]) -> str:
        made = self.acme.post(path, {**body, "name": _NAME})
        assert made.status_code == 201, made.text
        return str(made.json["id"])

    def trunk(self) -> str:
        wiring = self.api.wiring
        return str(add_shared_trunk(wiring.sessions, profile_of(wiring.settings), shard=next(self.counter)))

    def things(self, rule: str) -> dict[str, str]:
        """Make what a rule's placeholders stand for."""
        makers: Mapping[str, Callable[[], str]] = {
            "agent_id": self.agent,
            "call_id": self.call,
            "to_agent_id": self.agent,
            "operation_id": self.operation,
            "bulk_id": self.bulk,
            "audit_id": self.audit,
            "webhook_id": self.webhook,
            "delivery_id": self.delivery,
            "trunk_id": self.trunk,
            "key_id": self.key,
            "account_id": lambda: self.account(CARRIERS, CARRIER),
            "project_id": lambda: self.account(PROJECTS, PROJECT),
            "workspace_id": lambda: str(self.acme.get("/api/workspaces").json["items"][0]["id"]),
            "number": lambda: next(self.numbers),
            "slug": lambda: f"made-{next(self.counter)}",
        }
        return {name: make() for name, make in makers.items() if f"<{name}>" in rule or f"{{{name}}}" in rule}

    def send(self, who: Who, route: str, given: Mapping[str, str]) -> TestResponse:
        """Send the route's request as this caller."""
        method, rule = route.split(" ", 1)
        files = {"name": "swagger-ui.css", "filename": "console.css"}
        path = re.sub(r"<(?:\w+:)?(\w+)>", lambda found: (files | given)[found[1]], rule)
        entry = ROUTES[route]
        headers = {WORKSPACE_HEADER: "acme"} if who is Who.OPERATOR_THERE else {}
        if path.startswith(("/api/", "/metrics")):
            body = None if entry.json is None else json.loads(_filled(json.dumps(entry.json), given))
            caller = self.callers[who]
            if who is not Who.NOBODY:
                return caller.call(method, path, body, headers=headers)
            return caller.client.open(path, method=method, json=body)
        browser = self.browsers[who]
        if method == "GET":
            return browser.get(path, headers=headers)
        page = "/sign-in" if who is Who.NOBODY or path.startswith("/sign") else "/audit"
        form = {name: _filled(value, given) for name, value in entry.form.items()}
        if page == "/audit" and who not in self.tokens:
            self.tokens[who] = browser.token(page)
        data = {"csrf_token": self.tokens[who] if page == "/audit" else browser.token(page), **form}
        return browser.client.post(path, data=data, headers={"Accept": "text/html", **headers})


def _filled(text: str, given: Mapping[str, str]) -> str:
    for name, value in given.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def _no_such_number(_number: str) -> None:
    raise RejectedError(ErrorCode.NUMBER_NOT_IN_ACCOUNT, "The Twilio account has no such number.")


@pytest.fixture
def world(own_api: Api) -> Iterator[World]:
    own_api.carrier.find_number = _no_such_number  # type: ignore[method-assign, assignment]
    own_api.carrier.list_trunks = lambda *_: []  # type: ignore[method-assign, assignment]
    for name in ("list_inbound_trunks", "list_dispatch_rules"):
        setattr(own_api.platform, name, lambda *_, **__: [])
    acme = own_api.in_workspace("acme")
    operator = replace(own_api, key=own_api.new_key(Scope.ADMIN))
    callers = {
        Who.NOBODY: replace(own_api, key=""),
        Who.OTHER: own_api.in_workspace("globex"),
        Who.READ: own_api.in_workspace("acme", Scope.READ),
        Who.WRITE: own_api.in_workspace("acme", Scope.WRITE),
        Who.ADMIN: acme,
        Who.OPERATOR: operator,
        Who.OPERATOR_THERE: operator,
    }
    browsers = {who: BrowserClient(caller) for who, caller in callers.items()}
    for who, browser in browsers.items():
        if who is not Who.NOBODY:
            browser.sign_in()
    with with_accounts(own_api, accepting()):
        yield World(own_api, acme, callers, browsers)


def test_every_route_is_in_the_table(api: Api) -> None:
    known = {
        f"{method} {rule.rule}"
        for rule in api.app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert known == set(ROUTES), "tests/support/routes.py says who may use which route"


@pytest.mark.filterwarnings("ignore:The HMAC key")  # of the tests' LiveKit secret
def test_every_route_gives_each_caller_what_the_table_says(world: World) -> None:
    for who in (Who.ADMIN, Who.OTHER, Who.OPERATOR):
        audit = world.callers[who].post("/api/audit", {}).json["auditId"]
        with world.api.wiring.sessions.begin() as session:
            row = session.get_one(Audit, uuid.UUID(audit))
            row.status, row.findings, row.finished_at = AuditStatus.DONE, [], datetime.now(UTC)
    standing = world.things(
        "<agent_id><call_id><operation_id><bulk_id><audit_id><webhook_id><delivery_id><key_id><workspace_id>"
    )
    wrong = []
    # Signing out ends what the others need.
    for route, entry in sorted(ROUTES.items(), key=lambda one: one[0] == "POST /sign-out"):
        method, rule = route.split(" ", 1)
        is_there = False
        for who in Who:
            if not is_there:
                given = world.things(f"{rule} {entry.json} {entry.form}")
            with watched(world.api.wiring.engine) as statements:
                response = world.send(who, route, given)
            text = response.text
            response.close()
            # What was looked at, or refused, is there for the next.
            is_there = method == "GET" or who is Who.NOBODY or response.status_code in {401, 403, 404}
            expected = entry.expected(who, rule)
            if response.status_code != expected:
                wrong.append(f"{route} by {who}: {response.status_code}, not {expected}")
            told = {value for value in (_NAME, *standing.values()) if value in text} - {*given.values()}
            if who in {Who.NOBODY, Who.OTHER} and entry.may is not May.EVERYBODY and told:
                wrong.append(f"{route} tells {who} {told}")
            wrong += [f"{route} by {who} reads {' '.join(one.split())}" for one in statements]
    assert not wrong, "\n".join(wrong)


def test_a_malformed_id_is_one_of_nothing(api: Api) -> None:
    admin = replace(api, key=api.new_key(Scope.ADMIN))
    rules = {rule.rule: rule.methods or set() for rule in api.app.url_map.iter_rules() if rule.rule.startswith("/api/")}
    wrong = []
    for rule, methods in rules.items():
        path = re.sub(r"<\w+>", "null,null", rule)
        for method in methods - {"HEAD", "OPTIONS"} if path != rule else ():
            status = admin.call(method, path, {}).status_code
            if status not in {404, 422}:
                wrong.append(f"{method} {rule}: {status}")
    assert not wrong
