"""The saga without Celery: real rows, providers in memory, and a driver that does what workers and sweeper do."""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
import structlog
from sqlalchemy import ColumnElement, delete, func, select, text, update

from app.accounts.clients import Toolboxes
from app.audit.retiring import RetiringService
from app.audit.service import AuditService
from app.bulk.dispatcher import BulkDispatcher
from app.bulk.service import BulkService
from app.db.engine import Sessions, make_engine, make_sessions
from app.db.models import (
    Agent,
    Audit,
    Bulk,
    BulkItem,
    CarrierAccount,
    Event,
    Operation,
    OperationStep,
    Resource,
    TestCall,
    Trunk,
    VoiceProject,
    Workspace,
)
from app.db.webhooks import WebhookEndpoint
from app.dev.localstack.servers import PostgresServer
from app.domain.events import EventName, Origin
from app.domain.operations import (
    COLUMNS,
    DISPATCH_RULE,
    INBOUND_TRUNK,
    NUMBER,
    NUMBER_ATTACHMENT,
    ORIGINATION_URL,
    TRUNK,
    VERIFICATION,
    Direction,
    OperationStatus,
    PhoneStatus,
    TrunkMode,
    TrunkState,
)
from app.domain.sip_uris import parse_sip_uri
from app.domain.workspaces import DEFAULT_WORKSPACE, ENVIRONMENT_ACCOUNT, ENVIRONMENT_PROJECT, AccountIds
from app.numbers.adoption import AdoptionService
from app.numbers.agents import AgentService
from app.numbers.changing import ChangeService
from app.numbers.maintenance import MaintenanceService
from app.numbers.service import ProvisioningService
from app.numbers.test_calls import CallService
from app.observability.tracing import NO_TELEMETRY
from app.path.marks import is_pool_tag, pool_tag
from app.path.spec import Profile
from app.saga.chain_plan import Plan
from app.saga.rows import Rows
from app.saga.runner import Outcome, Runner
from app.saga.state import Timing, Verdict
from app.sealing import Sealer
from app.sweeper import Sweeper
from app.trunks.pool import Pool, TrunkPool
from app.webhooks.deliveries import DeliveryService
from app.webhooks.sending import AddressRule, Sender
from tests.support.providers import WorkerDiedError, World
from tests.support.toolboxes import Worlds, toolboxes_in_memory, tools_of, with_tools

E164 = "+15145551234"
CALLER = "+12025550100"
"""Who places test calls."""
SIP_URI = "sip:abc.sip.livekit.cloud;transport=tcp"
MAX_NUMBERS = 500
"""Numbers on one shared trunk."""

PROFILE = Profile(parse_sip_uri(SIP_URI))
VOICE_URL = "https://example.com/voice"
ORIGIN = Origin(requested_by="tests", request_id="request-1")
TIMING = Timing(provider_timeout=timedelta(seconds=10), budget=timedelta(seconds=900))

DO_CALL = {
    NUMBER: "carrier.find_number",
    TRUNK: "carrier.create_trunk",
    ORIGINATION_URL: "carrier.create_origination_url",
    INBOUND_TRUNK: "platform.create_inbound_trunk",
    DISPATCH_RULE: "platform.create_dispatch_rule",
    NUMBER_ATTACHMENT: "carrier.attach_number",
    VERIFICATION: "carrier.list_origination_urls",
}
"""The main call of each step when it is done."""

UNDO_CALL = {
    NUMBER_ATTACHMENT: "carrier.detach_number",
    DISPATCH_RULE: "platform.delete_dispatch_rule",
    INBOUND_TRUNK: "platform.delete_trunk",
    ORIGINATION_URL: "carrier.delete_origination_url",
    TRUNK: "carrier.delete_trunk",
}
"""The main call of each step when it is undone."""

WRITES = tuple(call for step, call in DO_CALL.items() if step not in {NUMBER, VERIFICATION})
MAKERS = (TRUNK, ORIGINATION_URL, INBOUND_TRUNK, DISPATCH_RULE)
SHARED = (TRUNK, ORIGINATION_URL)
"""What an agent with a place on a shared trunk does not have of its own."""

DATABASE = "sagas"

EXPIRE_LEASES = """
    WITH written AS (UPDATE operations SET idle_kicks = idle_kicks WHERE finished_at IS NULL)
    UPDATE operation_steps SET lease_until = least(lease_until, now() - interval '1 h'),
                               unsettled_until = CASE WHEN unsettled_until IS NOT NULL
                                                      THEN least(unsettled_until, now() - interval '1 h') END
"""
"""SQL that ends every lease, pause and quiet period, and also writes each operation's row, as every change of steps
does. A quiet period that was not there stays so: least() would make one of null."""

ROUNDS = 60
"""Publications after which an operation that has not ended is stuck."""

FINISHED = {Verdict.DONE, Verdict.OTHER_BRANCH}
"""The verdicts after which the branches, run one after the other, go on."""


@dataclass
class RecordingPublisher:
    """Records every plan and sends none."""

    plans: list[Plan] = field(default_factory=list)
    audits: list[uuid.UUID] = field(default_factory=list)
    webhooks: list[uuid.UUID] = field(default_factory=list)
    retirements: list[uuid.UUID] = field(default_factory=list)
    calls: list[uuid.UUID] = field(default_factory=list)
    adoptions: list[uuid.UUID] = field(default_factory=list)
    accepts: bool = True

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
        return self.accepts


@dataclass
class ManualClock:
    """A monotonic clock that advances by sleeping, and records the sleeps."""

    now: float = 1000.0
    sleeps: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds


@dataclass(frozen=True)
class OperationSnapshot:
    """Every row of one operation, as committed."""

    operation: Operation
    agent: Agent
    rows: dict[str, OperationStep]
    events: list[Event]
    ledger: dict[str, Resource]
    now: Any

    def event_details(self, event: EventName, step: str | None = None) -> list[dict[str, Any]]:
        """Return the details of all events of this name."""
        return [each.detail for each in self.events if each.event == event and step in {None, each.step}]


@dataclass
class Saga:
    """One database and in-memory providers; the methods do what clients, workers and time do."""

    sessions: Sessions
    rows: Rows
    world: World
    clock: ManualClock
    publisher: RecordingPublisher
    runner: Runner
    service: ProvisioningService
    sweeper: Sweeper
    worlds: Worlds
    """Of the accounts beside the environment's."""
    toolboxes: Toolboxes
    trunk_mode: TrunkMode = TrunkMode.DEDICATED
    """Of the agents that are made for a test: with a trunk of their own every step makes something."""

    def agent(self, name: str = "support", *, accounts: AccountIds | None = None) -> uuid.UUID:
        agents = AgentService(self.sessions)
        agent_id = agents.create(name, None, {"language": "fr"}, trunk_mode=self.trunk_mode).id
        if accounts is not None:
            with self.sessions.begin() as session:
                session.execute(update(Agent).where(Agent.id == agent_id).values(accounts._asdict()))
        return agent_id

    def provision(self, *, takeover: bool = False, e164: str = E164, agent_id: uuid.UUID | None = None) -> uuid.UUID:
        """Open a provisioning, by default of a new agent; return the operation's id."""
        agent_id = agent_id or self.agent()
        return self.service.provision(agent_id, e164, takeover=takeover, origin=ORIGIN).id

    def provisioned(self, **options: Any) -> uuid.UUID:
        """Provision to the end; return the agent's id."""
        operation_id = self.provision(**options)
        self.drive(operation_id)
        snapshot = self.snapshot(operation_id)
        assert snapshot.agent.phone_provisioning_status is PhoneStatus.PROVISIONED
        return snapshot.agent.id

    def deprovision(self, agent_id: uuid.UUID) -> uuid.UUID:
        operation = self.service.deprovision(agent_id, origin=ORIGIN)
        assert operation is not None
        return operation.id

    def run(self, operation_id: uuid.UUID, step: str, direction: Direction | None = None) -> Outcome:
        """Run one step as a current message would."""
        operation = self.snapshot(operation_id).operation
        return self.runner.run_step(operation_id, operation.epoch, step, direction or operation.direction)

    def plan(self, operation_id: uuid.UUID) -> Plan:
        """Publish the operation again, and return its plan."""
        assert self.service.republish(operation_id) is self.publisher.accepts
        return self.publisher.plans[-1]

    def run_chain(self, plan: Plan, *, until: str | None = None) -> Outcome | None:
        """Run a chain as Celery does: step after step, one branch after the other, until one does not go on."""
        outcome = None
        for name in plan.steps:
            try:
                outcome = self.runner.run_step(plan.operation_id, plan.epoch, name, plan.direction)
            except WorkerDiedError:
                return None
            if outcome.verdict not in FINISHED or name == until:
                break
        return outcome

    def advance(self, operation_id: uuid.UUID, *, until: str | None = None) -> Outcome | None:
        """Publish once and run that chain; return the last outcome, or None when the worker died."""
        return self.run_chain(self.plan(operation_id), until=until)

    def drive(self, operation_id: uuid.UUID) -> None:
        """Publish again, with every lease and pause ended in between, until the operation has ended."""
        for _ in range(ROUNDS):
            if self.status(operation_id).is_final:
                return
            self.expire_leases(operation_id)
            self.expire_trunk_leases()
            self.advance(operation_id)
        raise AssertionError(f"stuck: {self.status(operation_id)}")

    def drive_until(self, operation_id: uuid.UUID, status: OperationStatus) -> OperationSnapshot:
        for _ in range(ROUNDS):
            if self.status(operation_id) is status:
                return self.snapshot(operation_id)
            self.expire_leases(operation_id)
            self.expire_trunk_leases()
            self.advance(operation_id)
        raise AssertionError(f"never {status}: {self.status(operation_id)}")

    def drive_to(self, operation_id: uuid.UUID, is_there: Callable[[], bool]) -> None:
        """Publish until `is_there()`, with leases ended in between but not after."""
        for _ in range(ROUNDS):
            self.advance(operation_id)
            if is_there():
                return
            self.expire_leases(operation_id)
        raise AssertionError(f"never there: {self.status(operation_id)}")

    def expire_leases(self, operation_id: uuid.UUID) -> None:
        """Move the operation's leases and pauses into the past; only the database's clock counts for them."""
        self._expire_leases(OperationStep.operation_id == operation_id)

    def expire_leases_of(self, agent_id: uuid.UUID) -> None:
        """The same for every operation of an agent."""
        self._expire_leases(OperationStep.operation_id.in_(select(Operation.id).where(Operation.agent_id == agent_id)))

    def expire_trunk_leases(self) -> None:
        """The same for the shared trunks."""
        past = func.clock_timestamp() - timedelta(hours=1)
        with self.sessions.begin() as session:
            session.execute(
                update(Trunk).values(
                    lease_until=func.least(Trunk.lease_until, past),
                    unsettled_until=func.least(Trunk.unsettled_until, past),
                )
            )

    def _expire_leases(self, which: ColumnElement[bool]) -> None:
        now = func.clock_timestamp()
        past = now - timedelta(hours=1)
        with self.sessions.begin() as session:
            session.execute(
                update(OperationStep)
                .where(which, func.greatest(OperationStep.lease_until, OperationStep.unsettled_until) > now)
                .values(
                    lease_until=func.least(OperationStep.lease_until, past),
                    unsettled_until=func.least(OperationStep.unsettled_until, past),
                )
                .execution_options(synchronize_session=False)
            )
            # As everybody does who changes steps.
            session.execute(update(Operation).values(idle_kicks=Operation.idle_kicks))

    def expire_trunks(self) -> None:
        """Move the leases of shared trunks into the past, and what may land there."""
        past = func.clock_timestamp() - timedelta(hours=1)
        ended = {"lease_until": func.least(Trunk.lease_until, past)}
        ended["unsettled_until"] = func.least(Trunk.unsettled_until, past)
        with self.sessions.begin() as session:
            session.execute(update(Trunk).values(ended))

    def age(self, operation_id: uuid.UUID, by: timedelta) -> None:
        """Move the start of the operation and of its steps that far into the past."""
        with self.sessions.begin() as session:
            for row, id_column in ((Operation, Operation.id), (OperationStep, OperationStep.operation_id)):
                session.execute(update(row).where(id_column == operation_id).values(started_at=row.started_at - by))

    def status(self, operation_id: uuid.UUID) -> OperationStatus:
        with self.sessions.begin() as session:
            return session.get_one(Operation, operation_id).status

    def snapshot(self, operation_id: uuid.UUID) -> OperationSnapshot:
        with self.sessions.begin() as session:
            operation = session.get_one(Operation, operation_id)
            rows = session.scalars(select(OperationStep).where(OperationStep.operation_id == operation_id)).all()
            events = session.scalars(select(Event).where(Event.operation_id == operation_id).order_by(Event.id)).all()
            ledger = session.scalars(select(Resource).where(Resource.agent_id == operation.agent_id)).all()
            return OperationSnapshot(
                operation,
                session.get_one(Agent, operation.agent_id),
                {row.name: row for row in rows},
                list(events),
                {entry.external_id: entry for entry in ledger},
                session.scalar(text("SELECT clock_timestamp()")),
            )

    def status_of(self, agent_id: uuid.UUID) -> PhoneStatus:
        with self.sessions.begin() as session:
            return session.get_one(Agent, agent_id).phone_provisioning_status

    def assert_provisioned(self, agent_id: uuid.UUID, number_sid: str) -> None:
        """Exactly one path exists, beside what numbers share, and rows, ledger and providers agree about it."""
        with self.sessions.begin() as session:
            agent = session.get_one(Agent, agent_id)
            live = session.scalars(select(Resource).where(Resource.deleted_at.is_(None))).all()
            place = session.get(Trunk, agent.trunk_id) if agent.trunk_id else None
        path = {
            TRUNK: [agent.twilio_trunk_sid],
            ORIGINATION_URL: [agent.twilio_origination_url_sid],
            INBOUND_TRUNK: [agent.livekit_inbound_trunk_id],
            DISPATCH_RULE: [agent.livekit_dispatch_rule_id],
        }
        shared = {} if place is None else {kind: path[kind] for kind in SHARED}
        assert agent.phone_provisioning_status is PhoneStatus.PROVISIONED
        assert agent.twilio_phone_number_sid == number_sid
        own = [one for one in live if one.agent_id == agent_id]
        assert {entry.kind: [entry.external_id] for entry in own} == {
            kind: ids for kind, ids in path.items() if kind not in shared
        }
        assert len(own) == len(path) - len(shared)
        if place is not None:
            assert {TRUNK: [place.twilio_trunk_sid], ORIGINATION_URL: [place.twilio_origination_url_sid]} == shared
        self.assert_nothing_else()
        assert self.world.routing(number_sid).trunk_sid == agent.twilio_trunk_sid

    def assert_clean(self, agent_id: uuid.UUID, status: PhoneStatus) -> None:
        """Nothing of the agent's is left at the providers, in its row or in the ledger."""
        with self.sessions.begin() as session:
            agent = session.get_one(Agent, agent_id)
            live = session.scalars(
                select(Resource.external_id).where(Resource.deleted_at.is_(None), Resource.agent_id == agent_id)
            ).all()
        assert list(live) == []
        assert agent.phone_provisioning_status is status
        columns = (
            agent.twilio_phone_number,
            agent.twilio_phone_number_sid,
            agent.twilio_trunk_sid,
            agent.twilio_origination_url_sid,
            agent.livekit_inbound_trunk_id,
            agent.livekit_dispatch_rule_id,
            agent.previous_routing,
            agent.trunk_id,
        )
        assert columns == (None,) * len(columns)
        self.assert_nothing_else()

    def assert_nothing_else(self) -> None:
        """Each object with our mark is one that an agent's row names, or the pool's, and none is there twice.

        A shared trunk stays without numbers. One that is yet to be made may be there already, found by its tag.
        """
        with self.sessions.begin() as session:
            agents = session.scalars(select(Agent)).all()
            pool = session.scalars(select(Trunk).where(Trunk.state != TrunkState.GONE)).all()
        ours, carrier = self.world.ours(), self.world.carrier
        for kind, column in COLUMNS.items():
            if kind in ours:
                shared = {getattr(row, column) for row in pool} if kind in SHARED else set()
                named = sorted(filter(None, {getattr(agent, column) for agent in agents} - shared))
                assert ours[kind] == named, f"{kind}: there are {ours[kind]}, rows name {named}"
        made: dict[str, list[str]] = {pool_tag("test", row.id): [] for row in pool}
        for trunk in carrier.trunks.values():
            if is_pool_tag("test", trunk.tag):
                assert trunk.tag in made, f"no row has the shared trunk {trunk}"
                made[trunk.tag].append(trunk.sid)
        for row in pool:
            sids = made[pool_tag("test", row.id)]
            urls = [url.sid for url in carrier.urls.values() if url.trunk_sid in sids]
            assert len(sids) <= 1, f"shared trunk {row.id} was made twice: {sids}"
            assert len(urls) <= 1, f"the URL of shared trunk {row.id} was made twice: {urls}"
            assert row.twilio_trunk_sid in {None, *sids}
            assert row.twilio_origination_url_sid in {None, *urls}
            members = {agent.twilio_phone_number_sid for agent in agents if agent.trunk_id == row.id}
            on_it = {sid for sid, number in carrier.numbers.items() if number.routing.trunk_sid in sids}
            assert on_it <= members, f"shared trunk {row.id} has numbers of others: {on_it - members}"


def wire(sessions: Sessions, timing: Timing = TIMING, max_numbers: int = MAX_NUMBERS) -> Saga:
    """Wire a saga with new in-memory providers; back-off takes its upper bound, so that it is predictable."""
    world, clock, publisher = World.new(), ManualClock(), RecordingPublisher()
    worlds = Worlds()
    toolboxes = toolboxes_in_memory(sessions, world, worlds, PROFILE, timing, max_numbers=max_numbers, clock=clock)
    rows = Rows(sessions, timing.lands)
    service = ProvisioningService(sessions, publisher, rows, sleep=clock.sleep, clock=clock)
    runner = Runner(rows, toolboxes, jitter=lambda _low, high: high)
    maintenance = MaintenanceService(sessions, publisher, rows, toolboxes)
    audits = AuditService(sessions, toolboxes, maintenance, timedelta(hours=1), BulkService(sessions, rows))
    deliveries = DeliveryService(sessions, publisher, Sender(AddressRule()), Sealer())
    retiring = RetiringService(sessions, toolboxes)
    calls = CallService(sessions, publisher, toolboxes, CALLER, AddressRule(), NO_TELEMETRY.counters)
    adoption = AdoptionService(sessions, publisher, rows, toolboxes)
    changes = ChangeService(sessions, publisher, rows, toolboxes)
    agents = AgentService(sessions)
    dispatcher = BulkDispatcher(sessions, service, maintenance, adoption, agents, changes, publisher)
    sweeper = Sweeper(sessions, service, audits, dispatcher, deliveries, calls, retiring)
    return Saga(sessions, rows, world, clock, publisher, runner, service, sweeper, worlds, toolboxes)


def with_pool(saga: Saga, pool: Pool) -> Saga:
    """Return the same saga over another pool of shared trunks."""
    return replace(saga, runner=with_tools(saga.runner, replace(tools_of(saga.runner), pool=pool)))


def with_max_numbers(saga: Saga, count: int) -> Saga:
    """Return the same saga with at most so many numbers on a shared trunk."""
    return with_pool(
        saga, TrunkPool(saga.sessions, ENVIRONMENT_ACCOUNT, PROFILE, count, lease=TIMING.lease, lands=TIMING.lands)
    )


@pytest.fixture(scope="session")
def plain_logs() -> None:
    """Log in one line: structlog's default renders every frame of an error with its locals, which takes seconds."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(),
        ]
    )


@pytest.fixture(scope="session")
def saga_sessions(postgres_server: PostgresServer, template_database: str) -> Iterator[Sessions]:
    """One database for all sagas of this xdist worker: a copy for each test would take longer than the test."""
    postgres_server.create_database(DATABASE, template_database)
    engine = make_engine(postgres_server.url(DATABASE))
    yield make_sessions(engine)
    engine.dispose()


@pytest.fixture
def saga(saga_sessions: Sessions, plain_logs: None) -> Saga:
    """A saga over an empty database and empty providers."""
    with saga_sessions.begin() as session:
        of_operations = (BulkItem, Event, Resource, OperationStep, Operation, Bulk)
        for table in (WebhookEndpoint, TestCall, *of_operations, Agent, Trunk, Audit):
            session.execute(delete(table))
        for account, environment in ((CarrierAccount, ENVIRONMENT_ACCOUNT), (VoiceProject, ENVIRONMENT_PROJECT)):
            session.execute(delete(account).where(account.id != environment))
        session.execute(delete(Workspace).where(Workspace.id != DEFAULT_WORKSPACE))
    return wire(saga_sessions)


@pytest.fixture
def number_sid(saga: Saga) -> str:
    """A number of the account that its owner routed to a voice URL."""
    return saga.world.carrier.own_number(E164, voice_url=VOICE_URL)
