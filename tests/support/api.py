"""The application for API tests: real rows, a publisher that records, providers that only respond to a ping."""

import functools
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from apiflask import APIFlask
from flask.testing import FlaskClient
from sqlalchemy import Connection, TextClause, delete, select, text, update
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import Session
from werkzeug.test import TestResponse

from app import create_app
from app.access import KeyService, Scope
from app.db.models import Agent, Base, CarrierAccount, Operation, OperationStep, Resource, VoiceProject, Workspace
from app.db.visibility import seeing
from app.domain.operations import OperationStatus, PhoneStatus, StepState
from app.domain.workspaces import DEFAULT_WORKSPACE, ENVIRONMENT_ACCOUNT, ENVIRONMENT_PROJECT
from app.path.observed import CarrierNumber, CarrierTrunk, DispatchRule, InboundTrunk
from app.saga.chain_plan import Plan
from app.settings import Settings
from app.wiring import Wiring, build
from tests.support.servers import PostgresServer, ValkeyServer

NUMBER = "+15145551234"
OTHER_NUMBER = "+15145551235"

NOWHERE = "redis://127.0.0.1:1/0"
"""A URL without a Redis."""

NOBODY = "00000000-0000-4000-8000-000000000000"
"""An id that no row has."""

IDS = {
    "twilio_phone_number_sid": "PN" + "1" * 32,
    "twilio_trunk_sid": "TK" + "2" * 32,
    "twilio_origination_url_sid": "OU" + "3" * 32,
    "livekit_inbound_trunk_id": "ST_abcdefghijkl",
    "livekit_dispatch_rule_id": "SDR_abcdefghijkl",
}


@dataclass
class RecordingPublisher:
    """Records every plan and publishes none."""

    plans: list[Plan] = field(default_factory=list)
    audits: list[uuid.UUID] = field(default_factory=list)
    webhooks: list[uuid.UUID] = field(default_factory=list)
    retirements: list[uuid.UUID] = field(default_factory=list)
    calls: list[uuid.UUID] = field(default_factory=list)
    adoptions: list[uuid.UUID] = field(default_factory=list)
    on_publish: Callable[[Plan], Any] = lambda _plan: None
    """Called at once with each plan, like a very quick worker."""

    def publish_audit(self, audit_id: uuid.UUID) -> bool:
        self.audits.append(audit_id)
        return True

    def publish_call(self, call_id: uuid.UUID) -> bool:
        self.calls.append(call_id)
        return True

    def publish_retirement(self, trunk_id: uuid.UUID) -> bool:
        self.retirements.append(trunk_id)
        return True

    def publish_adoptions(self, bulk_id: uuid.UUID) -> bool:
        self.adoptions.append(bulk_id)
        return True

    def publish_webhooks(self, endpoint_id: uuid.UUID) -> bool:
        self.webhooks.append(endpoint_id)
        return True

    def publish(self, plan: Plan) -> bool:
        self.plans.append(plan)
        self.on_publish(plan)
        return True


@dataclass
class PingOnlyProvider:
    """A provider that responds to pings as configured, and has nothing."""

    error: Exception | None = None
    pings: int = 0
    before: Callable[[], Any] = lambda: None
    trunks: int = 0
    """Trunks that the account has, as Twilio lists them."""

    def list_numbers(self, unreadable: object = None) -> list[CarrierNumber]:
        return []

    def list_inbound_trunks(self, unreadable: object = None) -> list[InboundTrunk]:
        return []

    def list_dispatch_rules(self, unreadable: object = None) -> list[DispatchRule]:
        return []

    def list_trunks(self, unreadable: object = None) -> list[CarrierTrunk]:
        self.ping()
        return [CarrierTrunk(f"TK{number:032x}", "theirs", False, None) for number in range(self.trunks)]

    def find_number(self, e164: str) -> CarrierNumber:
        raise AssertionError("nobody looks a number up here")

    def ping(self) -> None:
        self.pings += 1
        self.before()
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        pass


@dataclass
class Api:
    """A client with a key, and the rows behind it."""

    app: APIFlask
    wiring: Wiring
    publisher: RecordingPublisher
    carrier: PingOnlyProvider
    platform: PingOnlyProvider
    key: str

    @property
    def client(self) -> FlaskClient:
        """A client without a key."""
        return self.app.test_client()

    def call(self, method: str, path: str, json: Any = None, **more: Any) -> TestResponse:
        """Send a request with the key; `headers` add to it."""
        headers = {"Authorization": f"Bearer {self.key}"} | more.pop("headers", {})
        if json is not None:
            more["json"] = json
        return self.client.open(path, method=method, headers=headers, **more)

    def get(self, path: str, **more: Any) -> TestResponse:
        return self.call("GET", path, **more)

    def post(self, path: str, json: Any = None, **more: Any) -> TestResponse:
        return self.call("POST", path, json, **more)

    def delete(self, path: str, **more: Any) -> TestResponse:
        return self.call("DELETE", path, **more)

    def agent(self, name: str = "desk", **more: Any) -> str:
        """Create an agent and return its id."""
        answer = self.post("/api/agents", {"name": name, **more})
        assert answer.status_code == 201, answer.text
        return str(answer.json["id"])

    def provision(self, agent_id: str, number: str = NUMBER, **more: Any) -> TestResponse:
        return self.post(f"/api/agents/{agent_id}/provision-phone", {"phoneNumber": number}, **more)

    def deprovision(self, agent_id: str, **more: Any) -> TestResponse:
        return self.delete(f"/api/agents/{agent_id}/deprovision-phone", **more)

    def status(self, agent_id: str, **more: Any) -> TestResponse:
        return self.get(f"/api/agents/{agent_id}/phone-status", **more)

    def new_key(self, *scopes: Scope, name: str = "other") -> str:
        return KeyService(self.wiring.sessions).create(name, scopes)[1]

    def in_workspace(self, slug: str, *scopes: Scope) -> "Api":
        """Return the application with a new key of this workspace, admin unless said otherwise."""
        with self.wiring.sessions.begin() as session:
            workspace = session.scalar(select(Workspace).where(Workspace.slug == slug))
            workspace = workspace or Workspace(id=uuid.uuid4(), slug=slug, name=slug)
            session.add(workspace)
        with seeing(workspace.id):
            key = KeyService(self.wiring.sessions).create(f"{slug} {uuid.uuid4().hex[:6]}", scopes or [Scope.ADMIN])[1]
        return replace(self, key=key)

    def revoke_key(self, name: str) -> None:
        keys = KeyService(self.wiring.sessions)
        keys.revoke(next(row.id for row in keys.all() if row.name == name))

    def begin(self, operation_id: str) -> None:
        """Write what a worker writes when it takes the first step."""
        with self.wiring.sessions.begin() as session:
            operation = session.get_one(Operation, operation_id)
            operation.status, operation.started_at = OperationStatus.RUNNING, operation.created_at

    def succeed(self, operation_id: str) -> None:
        """Write what a worker writes when the last step is verified."""
        with self.wiring.sessions.begin() as session:
            operation = session.get_one(Operation, operation_id)
            agent = session.get_one(Agent, operation.agent_id)
            operation.status, operation.finished_at = OperationStatus.SUCCEEDED, operation.created_at
            agent.phone_provisioning_status = PhoneStatus.PROVISIONED
            for column, value in IDS.items():
                setattr(agent, column, value)
            for step in self._steps(session, operation_id):
                step.state = StepState.DONE

    def fail(self, operation_id: str, code: str, detail: str) -> None:
        """Write what a worker writes at the end of a rollback."""
        with self.wiring.sessions.begin() as session:
            operation = session.get_one(Operation, operation_id)
            agent = session.get_one(Agent, operation.agent_id)
            operation.status, operation.finished_at = OperationStatus.FAILED, operation.created_at
            operation.error_code, operation.error_detail = code, detail
            agent.phone_provisioning_status, agent.twilio_phone_number = PhoneStatus.FAILED, None

    def get_stuck(self, operation_id: str) -> None:
        """Write what a worker writes when a trunk cannot be deleted."""
        with self.wiring.sessions.begin() as session:
            operation = session.get_one(Operation, operation_id)
            agent = session.get_one(Agent, operation.agent_id)
            operation.status, agent.phone_provisioning_status = (
                OperationStatus.NEEDS_ATTENTION,
                PhoneStatus.ROLLING_BACK,
            )
            operation.error_code, operation.error_detail = "twilio_rejected", "Twilio refused delete_trunk."
            session.add(
                Resource(
                    provider="twilio",
                    kind="twilio_trunk",
                    external_id=IDS["twilio_trunk_sid"],
                    agent_id=agent.id,
                    operation_id=operation.id,
                )
            )
            for step in self._steps(session, operation_id):
                step.state = StepState.UNDOING if step.name == "twilio_trunk" else StepState.UNDONE

    def count(self, table: str) -> int:
        with self.wiring.sessions() as session:
            return int(session.scalar(text(f"SELECT count(*) FROM {table}")))  # noqa: S608 - our own names

    def _steps(self, session: Any, operation_id: str) -> list[OperationStep]:
        return list(session.query(OperationStep).filter_by(operation_id=operation_id))


def make_settings(database_url: str, redis_url: str = NOWHERE) -> Settings:
    """Return settings that reach nothing but the database."""
    return Settings(
        _env_file=None,
        database_url=database_url,
        redis_url=redis_url,
        twilio_account_sid="AC" + "0" * 32,
        twilio_auth_token="sandbox",
        livekit_url="http://127.0.0.1:1",
        livekit_api_key="key",
        livekit_api_secret="secret",
        livekit_sip_uri="sip:abc.sip.livekit.cloud",
    )


def empty_tables(wiring: Wiring) -> None:
    """Delete every row but those that a migration makes: a tenth of what a new database costs."""
    with wiring.engine.begin() as connection:
        delete_rows(connection)


def delete_rows(connection: Connection | Session, *kept: type[Base]) -> None:
    """Delete every row but those that a migration makes, and those of `kept`, none of which is in another workspace."""
    connection.execute(_emptying(kept))


@functools.cache
def _emptying(kept: tuple[type[Base], ...]) -> TextClause:
    """Return all the statements as one: forty requests take three times as long."""
    made = {Workspace: DEFAULT_WORKSPACE, CarrierAccount: ENVIRONMENT_ACCOUNT, VoiceProject: ENVIRONMENT_PROJECT}
    own = {model.__table__ for model in (*made, *kept)}
    defaults = {"carrier_account_id": ENVIRONMENT_ACCOUNT, "voice_project_id": ENVIRONMENT_PROJECT}
    statements = [
        *(table.delete() for table in reversed(Base.metadata.sorted_tables) if table not in own),
        # Workspaces and their accounts name each other.
        update(CarrierAccount).values(workspace_id=None),
        update(VoiceProject).values(workspace_id=None),
        update(Workspace).values(defaults),
        *(delete(model).where(model.id != row_id) for model, row_id in made.items()),
    ]
    written = (one.compile(dialect=postgresql.dialect(), compile_kwargs={"literal_binds": True}) for one in statements)
    return text(f"DO $$ BEGIN {''.join(f'{one}; ' for one in written)} END $$")


@pytest.fixture(scope="session")
def api_database_url(postgres_server: PostgresServer, template_database: str) -> str:
    """The URL of a migrated database that the API tests of one xdist worker share."""
    postgres_server.create_database("api_tests", template_database)
    return postgres_server.url("api_tests")


@contextmanager
def running_api(database_url: str, redis_url: str) -> Iterator[Api]:
    """Yield a new application, without a key."""
    publisher, carrier, platform = RecordingPublisher(), PingOnlyProvider(), PingOnlyProvider()
    settings = make_settings(database_url, redis_url)
    wiring = build(settings, publisher=publisher, carrier=carrier, platform=platform)
    try:
        yield Api(create_app(wiring), wiring, publisher, carrier, platform, key="")
    finally:
        wiring.close()


def emptied(api: Api) -> Api:
    """Return the application on empty tables, with a key that may read and write."""
    empty_tables(api.wiring)
    for part in (api.publisher, api.carrier, api.platform):
        vars(part).update(vars(type(part)()))
    key = KeyService(api.wiring.sessions).create("tests", [Scope.READ, Scope.WRITE])[1]
    return replace(api, key=key)


@pytest.fixture(scope="session")
def shared_api(api_database_url: str, valkey_server: ValkeyServer) -> Iterator[Api]:
    """The application that the API tests of one xdist worker share: to build it takes longer than most of them."""
    with running_api(api_database_url, valkey_server.url) as api:
        yield api


@pytest.fixture
def api(shared_api: Api) -> Api:
    """The shared application on empty tables; do not change it."""
    return emptied(shared_api)


@pytest.fixture
def own_api(api_database_url: str, valkey_server: ValkeyServer) -> Iterator[Api]:
    """An application for this test alone, with empty caches."""
    with running_api(api_database_url, valkey_server.url) as api:
        yield emptied(api)
