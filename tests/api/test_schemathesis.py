"""Generated requests against the app's own OpenAPI document: no 500, nothing undocumented, no bad data let in.

The whole application answers over HTTP: real PostgreSQL and Valkey, providers in the sandbox, work done at once. Of the
cases that follow from the document alone, each call is sent one of each way to keep it or to break it. With
`SCHEMATHESIS_EXAMPLES=6` all five thousand are sent, and six random cases of each call, in some three minutes. More:
`SCHEMATHESIS_EXAMPLES=300 SCHEMATHESIS_SEED=7 python -m pytest -rP tests/api/test_schemathesis.py`.
"""

import itertools
import os
import re
import sys
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import schemathesis
from schemathesis import Case, HookContext
from schemathesis.config import SchemathesisConfig
from schemathesis.core.parameters import ParameterLocation
from schemathesis.engine import events, from_schema
from schemathesis.engine.recorder import ScenarioRecorder
from schemathesis.generation import GenerationMode
from schemathesis.generation.meta import CoveragePhaseData, CoverageScenario
from schemathesis.specs.openapi.schemas import OpenApiSchema

from app import create_app
from app.access import KeyService, Scope
from app.api.responses import REPLAYED
from app.bulk.items import Item
from app.db.models import Agent, CarrierAccount, Operation, VoiceProject
from app.domain.events import Origin
from app.domain.operations import OperationStatus
from app.domain.workspaces import DEFAULT_SLUG, DEFAULT_WORKSPACE, WORKSPACE_HEADER
from app.settings import Settings
from app.views.agent_schemas import AGENT_ID, CURSOR
from app.views.bulk_schemas import item_cursor
from app.views.number_schemas import NUMBER_CURSOR
from app.views.reader import activity_cursor
from app.wiring import Wiring, build
from tests.support.sandbox import Sandbox
from tests.support.sandbox_app import NUMBER, SandboxApp, without_pauses
from tests.support.served_app import InstantWorker, served

IS_SHORT = "SCHEMATHESIS_EXAMPLES" not in os.environ
"""Whether only one of each kind of the cases that follow from the document is sent."""

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "0"))
"""Random cases of each call; without, those of test_schemathesis_workspaces.py are all there are."""

SEED = int(os.environ.get("SCHEMATHESIS_SEED", "1"))

CONNECTED = ("+15145551241", "+15145551242", "+15145551243")
"""Numbers that agents have from the start; NUMBER, the document's own example, is free."""

NOT_OURS = "+15145551249"
"""A number that the account does not own: its operation has failed and can be retried."""

STANDING = ("+15145551251", "+15145551252")
"""Numbers of agents that no call disconnects: of these, `verify`, `repair` and `test-calls` are asked."""

FREE = tuple(f"+1514555130{count}" for count in range(10))
"""Numbers that `provision-phone` connects, and that no other call names."""

CLEAN_AGENTS = 6
"""Agents without a number: generated calls give them some, and delete them."""

ONE_IN = 3
"""Of the calls so many are sent what is alike for all of them, in the short form: bad headers, and other methods."""

OTHER_METHOD = CoverageScenario.UNSPECIFIED_HTTP_METHOD

SPARE = 5 if IS_SHORT else 20
"""Workspaces, keys and accounts that generated calls delete."""

WEBHOOKS = 20
"""Endpoints: one is kept, generated calls delete the others."""

KNOWN = 0.7
"""Share of ids that exist, of cursors that are ours, of Idempotency-Keys not used before; the others are refused."""

KEYS = 2000
"""Idempotency-Keys to take from: far more than a run needs, so that few meet twice."""

DEPENDS_ON_STATE = {"idempotency_key_reused", "number_not_in_account"}
"""422s that a valid request may meet."""

BEYOND_SCHEMA = {"cursor", "phoneNumber", "metadata", "url", "name", "livekitAgentName", "description", "search"}
BEYOND_SCHEMA |= {
    "externalId",
    "carrierAccountId",
    "voiceProjectId",
    "baseUrl",
    "sipUri",
    "rate",
    "allowedAddresses",
    "roomPresets",
    "path",
    "username",
    "options",
}
"""Fields with rules that no JSON Schema can tell: ours, possible in its country, a number that comes back, a public
address, something to see, a network, another field's host, options that go together, each id once, adopted."""

NEEDS_KEYS = {f"POST /api/{name}" for name in ("carrier-accounts", "voice-projects")}
NEEDS_KEYS |= {"POST /api/carrier-accounts/{account_id}/rotate", "POST /api/voice-projects/{project_id}/rotate"}
"""Calls that store a secret. There is nothing to seal it with here: what is generated would be tried at Twilio."""

ITEM_BY_ITEM = "POST /api/provisionings"
"""What is wrong with an item is told in that item's own row: the request is accepted."""


@dataclass
class Rows:
    """An application with rows that generated requests can hit."""

    wiring: Wiring
    agents: list[str]
    connected: list[str]
    """Those of them that have a number."""
    targets: list[str]
    """Agents that only a body names: nothing takes them away before a number is moved to them."""
    standing: list[str]
    free: list[str]
    """Agents that `provision-phone` gives a number to: nothing takes them away either."""
    called: list[str]
    """An agent and a test call to it."""
    spare_agents: list[str]
    operations: list[str]
    failed: list[str]
    """Those of them that can be retried."""
    bulks: list[str]
    webhooks: list[str]
    """The first has a delivery; the others are there to be deleted."""
    deliveries: list[str]
    workspaces: list[str]
    keys: list[str]
    accounts: list[str]
    projects: list[str]
    """All four are there to be deleted, as the spare agents are."""


@dataclass
class Report:
    """What a run met."""

    answers: Counter[tuple[str, int]] = field(default_factory=Counter)
    unsound: dict[str, str] = field(default_factory=dict)
    """Call and check -> the first answer that did not pass it."""

    def add(self, recorder: ScenarioRecorder) -> None:
        for case_id, interaction in recorder.interactions.items():
            operation, response = recorder.cases[case_id].value.operation, interaction.response
            # Methods that the document does not have are tried as well: what they answer is not the call's answer.
            if response is not None and interaction.request.method == operation.method.upper():
                self.answers[operation.label, response.status_code] += 1
        for case_id, check in ((case_id, check) for case_id, checks in recorder.checks.items() for check in checks):
            if check.failure_info is not None and not _is_fair(recorder, case_id, check.name):
                told, label = check.failure_info, recorder.cases[case_id].value.operation.label
                text = f"{told.failure.title}. {told.failure.message}\n{told.code_sample}"
                self.unsound.setdefault(f"{label}: {check.name}", text)


def _is_fair(recorder: ScenarioRecorder, case_id: str, check: str) -> bool:
    """Say whether what a check found is as it should be: for a reason that a schema cannot tell."""
    if check == "ensure_resource_availability":
        # An answer given again may tell of an agent that was deleted since.
        parent = recorder.find_parent(case_id=case_id)
        first = recorder.find_response(case_id=parent.id) if parent else None
        return first is not None and REPLAYED.lower() in first.headers
    if check == "negative_data_rejection" and recorder.cases[case_id].value.operation.label == ITEM_BY_ITEM:
        return True
    response = recorder.interactions[case_id].response
    if check != "positive_data_acceptance" or response is None or response.status_code not in {412, 422}:
        return False
    if response.status_code == 412 or "text/csv" in str(response.request.headers.get("Content-Type")):
        return True  # The document cannot say which version is the present one, nor what CSV looks like.
    problem = response.json()
    errors = {_field(name) for name in problem.get("errors", ())}
    return problem["code"] in DEPENDS_ON_STATE or bool(errors and errors <= BEYOND_SCHEMA)


def _field(name: str) -> str:
    """Return the field of the body, or of the item of its list, that an error is about."""
    return re.split(r"[.\[/]", re.sub(r"^(/agents/\d+/|agents\[\d+\]\.|agents\.\d+\.)", "", name))[0]


@pytest.fixture
def rows(database_url: str, redis_url: str, sandbox: Sandbox) -> Iterator[Rows]:
    """The application on the sandbox: agents with and without a number, operations that ended well and badly."""
    given = {name.lower(): value for name, value in sandbox.settings().items()}
    worker = InstantWorker()
    settings = Settings(_env_file=None, database_url=database_url, redis_url=redis_url, **given)
    wiring = without_pauses(build(settings, publisher=worker))
    worker.live = SandboxApp(wiring, worker, sandbox)
    for number in (NUMBER, *CONNECTED, *STANDING, *FREE):
        sandbox.number(number)
    connected = [_connected_agent(wiring, number) for number in CONNECTED]
    _connected_agent(wiring, NOT_OURS)
    with wiring.sessions() as session:
        operations = list(session.query(Operation))
    with wiring.sessions.begin() as session:
        session.add(Agent(id=AGENT_ID, name="the one in the document", livekit_agent_name="desk"))
    clean = [str(wiring.agents.create(f"agent {count}", None, {}).id) for count in range(2 * CLEAN_AGENTS)]
    standing = [_connected_agent(wiring, number) for number in STANDING]
    free = [str(wiring.agents.create(f"free {count}", None, {}).id) for count in range(len(FREE))]
    spare_agents = [str(wiring.agents.create(f"spare {count}", None, {}).id) for count in range(SPARE)]
    call = wiring.calls.request(uuid.UUID(standing[0]), origin=Origin())
    agents = [str(operation.agent_id) for operation in operations] + clean[:CLEAN_AGENTS]
    bulk = wiring.bulk.accept([Item(1, phone_number=NOT_OURS, agent_id=operations[0].agent_id)], origin=Origin())
    webhooks = [wiring.webhooks.create("https://example.com/hooks", None, None).endpoint.id for _ in range(WEBHOOKS)]
    delivery = wiring.webhooks.test(webhooks[0])
    workspaces = [str(wiring.workspaces.create(f"spare-{count}", "Spare").id) for count in range(SPARE)]
    keys = [str(KeyService(wiring.sessions).create("spare", [Scope.READ])[0].id) for _ in range(SPARE)]
    accounts, projects = _add_accounts(wiring)
    yield Rows(
        wiring,
        agents,
        connected,
        clean[CLEAN_AGENTS:],
        standing,
        free,
        [standing[0], str(call.id)],
        spare_agents,
        [str(each.id) for each in operations],
        [str(each.id) for each in operations if each.status is OperationStatus.FAILED],
        [str(bulk.id)],
        [str(each) for each in webhooks],
        [str(delivery.id)],
        workspaces,
        keys,
        accounts,
        projects,
    )
    wiring.close()


def _connected_agent(wiring: Wiring, number: str) -> str:
    """Create an agent and connect a number to it; return its id."""
    agent = wiring.agents.create(f"agent of {number}", None, {})
    wiring.provisioning.provision(agent.id, number, takeover=False, origin=Origin())
    return str(agent.id)


def _add_accounts(wiring: Wiring) -> tuple[list[str], list[str]]:
    """Add accounts and projects of the default workspace, which open what the sandbox has."""
    settings = wiring.settings
    account = {"account_sid": settings.twilio_account_sid, "username": settings.twilio_account_sid}
    account |= {"sealed_secret": settings.twilio_password, "base_url": settings.twilio_base_url}
    project = {"url": settings.livekit_url, "username": settings.livekit_api_key}
    project |= {
        "sealed_secret": settings.livekit_api_secret.get_secret_value(),
        "sip_uri": str(settings.livekit_sip_uri),
    }
    owner = {"name": "spare", "workspace_id": DEFAULT_WORKSPACE}
    with wiring.sessions.begin() as session:
        accounts = [CarrierAccount(**owner, **account) for _ in range(SPARE)]
        projects = [VoiceProject(**owner, **project) for _ in range(SPARE)]
        session.add_all([*accounts, *projects])
        session.flush()
        return [str(row.id) for row in accounts], [str(row.id) for row in projects]


def _config(rows: Rows) -> SchemathesisConfig:
    _, key = KeyService(rows.wiring.sessions).create("generated", [Scope.ADMIN])
    values = {"agent": rows.agents, "connected": rows.connected, "operation": rows.operations}
    values |= {"bulk": rows.bulks, "webhook": rows.webhooks[:1], "spare": rows.webhooks[1:]}
    values |= {"workspace": rows.workspaces[:1], "spare workspace": rows.workspaces[1:], "spare key": rows.keys}
    values |= {"changes": [activity_cursor(2**40)], "account": rows.accounts, "project": rows.projects}
    values |= {"delivery": rows.deliveries, "cursor": [CURSOR], "items": [item_cursor(0)]}
    values["numbers"] = [NUMBER_CURSOR]
    values |= {"standing": rows.standing, "free": rows.free, "called": rows.called[:1], "call": rows.called[1:]}
    values["key"] = [f"key-{count}" for count in range(KEYS)]
    taken = {"path.agent_id": "agent", "path.operation_id": "operation", "query.cursor": "cursor"}
    taken |= {f"path.{name}_id": name for name in ("bulk", "webhook", "delivery", "workspace", "account", "project")}
    taken["path.key_id"] = "spare key"
    taken["header.Idempotency-Key"] = "key"
    values["slug"] = [DEFAULT_SLUG]
    taken["header.Trunkline-Workspace"] = "slug"
    values |= {"spare agent": rows.spare_agents, "failed": rows.failed}
    return SchemathesisConfig.from_dict(
        {
            "seed": SEED,
            "headers": {"Authorization": f"Bearer {key}"},
            "continue-on-failure": True,
            "cache": {"enabled": False},
            "phases": {name: {"enabled": not IS_SHORT} for name in ("fuzzing", "stateful")},
            "generation": {
                "max-examples": max(EXAMPLES, 1),
                "deterministic": True,
                "database": "none",
                "no-shrink": True,
            },
            "dictionaries": {name: {"values": found} for name, found in values.items()},
            "operations": [
                *(
                    {
                        "include-path": f"/api/agents/{{agent_id}}/{call}",
                        "parameters": {"path.agent_id": {"dictionary": name, "probability": 0.95}},
                    }
                    for name, calls in {
                        "connected": ["move-phone"],
                        "standing": ["verify", "repair", "test-calls"],
                    }.items()
                    for call in calls
                ),
                {
                    "include-path": "/api/agents/{agent_id}/provision-phone",
                    "parameters": {"path.agent_id": {"dictionary": "free", "probability": 0.95}},
                },
                {
                    "include-path": "/api/agents/{agent_id}/test-calls/{call_id}",
                    "parameters": {
                        "path.agent_id": {"dictionary": "called", "probability": 0.95},
                        "path.call_id": {"dictionary": "call", "probability": 0.95},
                    },
                },
                {
                    "include-path": "/api/operations/{operation_id}/retry",
                    "parameters": {"path.operation_id": {"dictionary": "failed", "probability": KNOWN}},
                },
                {
                    "include-path": "/api/agents/{agent_id}",
                    "include-method": "DELETE",
                    "parameters": {"path.agent_id": {"dictionary": "spare agent", "probability": KNOWN}},
                },
                {
                    "include-path": "/api/webhooks/{webhook_id}",
                    "include-method": "DELETE",
                    "parameters": {"path.webhook_id": {"dictionary": "spare", "probability": KNOWN}},
                },
                {
                    "include-path": "/api/workspaces/{workspace_id}",
                    "include-method": "DELETE",
                    "parameters": {"path.workspace_id": {"dictionary": "spare workspace", "probability": KNOWN}},
                },
                {
                    "include-path": "/api/activity",
                    "parameters": {"query.cursor": {"dictionary": "changes", "probability": KNOWN}},
                },
                {
                    "include-path": "/api/numbers",
                    "parameters": {
                        "query.cursor": {"dictionary": "numbers", "probability": KNOWN},
                        "query.carrierAccountId": {"dictionary": "account", "probability": KNOWN},
                    },
                },
                {
                    "include-path": "/api/provisionings/{bulk_id}/items",
                    "parameters": {"query.cursor": {"dictionary": "items", "probability": KNOWN}},
                },
            ],
            "parameters": {where: {"dictionary": name, "probability": KNOWN} for where, name in taken.items()},
        }
    )


_E164 = re.compile(r"\+[1-9][0-9]{6,14}")


def _is_uuid(value: object) -> bool:
    try:
        return str(uuid.UUID(str(value))) == value
    except ValueError:
        return False


def _send_one_of_each(schema: OpenApiSchema) -> None:
    """Of the cases that follow from the document, send each call the first that keeps, or breaks, it in one way."""
    calls: dict[tuple[object, ...], set[str]] = defaultdict(set)  # which have met a way, in a place

    @schema.hook
    def filter_case(_context: HookContext, case: Case) -> bool:
        if case.meta is None or not isinstance(case.meta.phase.data, CoveragePhaseData):
            return True
        found, call = case.meta.phase.data, case.operation.label
        met = calls[found.scenario, found.parameter_location]
        if call in met:
            return False
        met.add(call)
        is_of_all_calls = found.parameter_location is ParameterLocation.HEADER or found.scenario is OTHER_METHOD
        return not is_of_all_calls or len(met) % ONE_IN == 1


def _name_what_exists(schema: OpenApiSchema, rows: Rows) -> None:
    """Have valid requests name what there is where the document has its example, and no Idempotency-Key twice."""
    kept = {"agent_id": [AGENT_ID], "bulk_id": rows.bulks, "webhook_id": rows.webhooks[:1], "key_id": rows.keys}
    kept |= {"workspace_id": rows.workspaces[:1], "account_id": rows.accounts, "project_id": rows.projects}
    kept |= {"operation_id": rows.failed, "delivery_id": rows.deliveries, "call_id": rows.called[1:]}
    spare = kept | {"agent_id": rows.spare_agents, "webhook_id": rows.webhooks[1:], "workspace_id": rows.workspaces[1:]}
    agents = {"move-phone": rows.connected, "provision-phone": rows.free, "deprovision-phone": rows.standing[1:]}
    agents |= dict.fromkeys(("verify", "repair", "test-calls", "{call_id}"), rows.standing[:1])
    turns, targets = Counter[str](), itertools.cycle(rows.targets)

    @schema.hook
    def map_case(_context: HookContext, case: Case) -> Case:
        if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE:
            return case
        operation = case.operation
        turn, call = turns[operation.label], operation.path.rpartition("/")[2]
        turns[operation.label] += 1
        if "Idempotency-Key" in (case.headers or {}):
            case.headers["Idempotency-Key"] = f"once-{turns.total()}"
        is_plain = turn % 2 == 0
        if is_plain:
            # Some calls are an operator's, who names no workspace; only what was adopted has a path to be kept.
            (case.headers or {}).pop(WORKSPACE_HEADER, None)
            (case.query or {}).pop("path", None)
        if call == "move-phone" and isinstance(case.body, dict):
            case.body = {**case.body, "toAgentId": next(targets)}
        ids = spare if operation.method == "delete" else kept
        ids = ids | ({"agent_id": agents[call]} if call in agents else {})
        for name, value in (case.path_parameters or {}).items():
            if (is_plain or value == AGENT_ID) and name in ids:
                case.path_parameters[name] = ids[name][turn // 2 % len(ids[name])]
        return case


def _run(url: str, rows: Rows) -> Report:
    report, config = Report(), _config(rows)
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json", config=config)
    targets, numbers = itertools.cycle(rows.targets), itertools.cycle(FREE)

    @schema.hook
    def map_body(context: HookContext, body: Any) -> Any:
        """Connect numbers that there are, and move them to agents that exist."""
        if (
            context.operation.path.endswith("/provision-phone")
            and isinstance(body, dict)
            and _E164.fullmatch(str(body.get("phoneNumber")))
        ):
            return {**body, "phoneNumber": next(numbers)}
        if (
            context.operation.path.endswith("/move-phone")
            and isinstance(body, dict)
            and _is_uuid(body.get("toAgentId"))
        ):
            return {**body, "toAgentId": next(targets)}
        return body

    if IS_SHORT:
        _send_one_of_each(schema)
        _name_what_exists(schema, rows)

    report.answers.update(dict.fromkeys(((found.ok().label, 0) for found in schema.get_all_operations()), 0))
    for event in from_schema(schema).execute():
        if isinstance(event, events.FatalError):
            raise event.exception
        if isinstance(event, events.NonFatalError):
            report.unsound[f"{event.label}: error"] = repr(event.value)
        elif isinstance(event, events.ScenarioFinished):
            report.add(event.recorder)
    return report


MANY = 50
"""Examples of each call from which on all of them succeed some time."""

RARE = {"POST /api/agents", "POST /api/agents/{agent_id}/adopt-phone"}
"""What few examples seldom hit: options that go together, and a number that rings by hand."""


def test_every_generated_request_gets_an_answer_that_the_document_has(rows: Rows) -> None:
    with served(create_app(rows.wiring)) as url:
        report = _run(url, rows)

    lines = [f"{call} {status}: {count}" for (call, status), count in sorted(report.answers.items()) if count]
    sys.stdout.write("\n".join([f"seed {SEED}: {report.answers.total()} answers", *lines, ""]))
    assert not report.unsound, "\n\n".join(f"{where}: {what}" for where, what in report.unsound.items())
    calls = {call for call, _ in report.answers}
    calls -= RARE if EXAMPLES < MANY else set()
    succeeded = {call for call, status in report.answers if 200 <= status < 300}
    assert succeeded & calls == calls - NEEDS_KEYS
