"""A provisioned path that somebody changes at the providers: real adapters and services, the sandbox in this process.

The sandbox is served over HTTP as always, and a test may look into its state and call a number in no time.
"""

import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, TypeVar

import pytest
from google.protobuf.message import Message
from livekit.protocol import sip
from sqlalchemy import delete, select
from werkzeug.serving import WSGIRequestHandler, make_server

from app.db.models import Agent, Audit, Bulk, BulkItem, Event, Operation, OperationStep, Resource, Trunk
from app.dev.localstack.servers import PostgresServer
from app.dev.sandbox.application import SandboxApp as SandboxServer
from app.dev.sandbox.application import create_sandbox
from app.dev.sandbox.call import trace_call
from app.domain.findings import Finding
from app.domain.operations import COLUMNS, DISPATCH_RULE, INBOUND_TRUNK, NUMBER, ORIGINATION_URL, TRUNK, TrunkMode
from app.domain.sip_uris import TWILIO_SIGNALLING
from app.numbers.maintenance import spec_from_row
from app.path.call import Call
from app.path.observed import Observed
from app.path.spec import PathSpec
from app.saga.observing import read_path
from app.settings import load_settings
from app.wiring import Wiring, build
from tests.support.saga import RecordingPublisher
from tests.support.sandbox import Sandbox
from tests.support.sandbox_app import NUMBER as PHONE_NUMBER
from tests.support.sandbox_app import SandboxApp, add_foreign_path, without_pauses
from tests.support.toolboxes import GivenToolboxes, tools_of, with_parts, with_tools

AGENT = "front-desk"
PRESET = "studio"
"""The room preset that the sandbox has."""

CALLER, OTHER_CALLER = "+15005550006", "+13105550100"
SOURCES = tuple(block.removesuffix("/30") for block in TWILIO_SIGNALLING)
ROLLS = (0.0, 0.35, 0.7, 0.99)

UNKNOWN_FIELD = b"\xa2\x38\x05hello"
"""Field 900 of a later release, a text, as protobuf writes it."""

Info = TypeVar("Info", sip.SIPInboundTrunkInfo, sip.SIPDispatchRuleInfo)


class _QuietHandler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *_: object) -> None:
        """Log nothing."""


class OwnSandbox(Sandbox):
    """The control API of a sandbox in this process, and its state."""

    def __init__(self, base_url: str, server: SandboxServer) -> None:
        super().__init__(base_url)
        self.inside = server.sandbox
        self.provisioned: dict[str, Provisioned] = {}
        """What `new_path` has made, by what it was asked for."""

    def objects(self) -> dict[str, object]:
        """Return every object at both providers by its id, as a value that can be compared."""
        store = self.inside.store
        with store.lock:
            found: dict[str, object] = {}
            for table in (store.numbers, store.trunks, store.origination_urls):
                found |= {sid: dict(row, date_updated="") for sid, row in table.rows.items()}
            for table in (store.livekit_trunks, store.livekit_rules):
                found |= {key: row.SerializeToString(deterministic=True) for key, row in table.rows.items()}
            return found


@contextmanager
def sandbox_in_this_process() -> Iterator[OwnSandbox]:
    """Serve a sandbox from a thread."""
    app = create_sandbox()
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_QuietHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield OwnSandbox(f"http://127.0.0.1:{server.port}", app)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        app.close()


class ChangedPath(SandboxApp):
    """An agent whose number is provisioned, and what somebody does to its path at the providers' consoles."""

    sandbox: OwnSandbox

    def beside(self, number: str) -> "ChangedPath":
        """Provision another agent's number; return its path, which shares the trunk of the first."""
        self.sandbox.number(number)
        other = ChangedPath(self.wiring, self.publisher, self.sandbox, number=number)
        other.provision()
        return other

    def ours(self, kind: str) -> str:
        """Return the id of our resource of a kind (step name)."""
        with self.wiring.sessions() as session:
            return str(session.scalar(select(getattr(Agent, COLUMNS[kind])).where(Agent.id == self.agent_id)))

    @property
    def trunk_path(self) -> str:
        """The URL of our Twilio trunk."""
        return f"/v1/Trunks/{self.ours(TRUNK)}"

    @property
    def url_path(self) -> str:
        """The URL of our origination URL."""
        return f"{self.trunk_path}/OriginationUrls/{self.ours(ORIGINATION_URL)}"

    @property
    def number_path(self) -> str:
        """The URL of our number."""
        account = self.wiring.settings.twilio_account_sid
        return f"/2010-04-01/Accounts/{account}/IncomingPhoneNumbers/{self.ours(NUMBER)}.json"

    def change_number(self, **fields: str) -> None:
        """Change fields of our number."""
        self.console.twilio("POST", self.number_path, **fields)

    def change_trunk(self, **fields: str) -> None:
        """Change fields of our Twilio trunk."""
        self.console.twilio("POST", self.trunk_path, **fields)

    def change_url(self, **fields: str) -> None:
        """Change fields of our origination URL."""
        self.console.twilio("POST", self.url_path, **fields)

    def add_url(self, sip_url: str, **fields: str) -> str:
        """Add an origination URL to our trunk; return its sid."""
        usual = {"FriendlyName": "theirs", "Priority": "10", "Weight": "10", "Enabled": "true"}
        row = self.console.twilio("POST", f"{self.trunk_path}/OriginationUrls", SipUrl=sip_url, **{**usual, **fields})
        return str(row["sid"])

    def add_trunk(self, *sip_urls: str, **fields: str) -> str:
        """Add a foreign Twilio trunk; return its sid."""
        sid = str(self.console.twilio("POST", "/v1/Trunks", FriendlyName="theirs too", **fields)["sid"])
        for sip_url in sip_urls:
            row = {"FriendlyName": "theirs", "Priority": "10", "Weight": "10", "Enabled": "true", "SipUrl": sip_url}
            self.console.twilio("POST", f"/v1/Trunks/{sid}/OriginationUrls", **row)
        return sid

    def inbound(self) -> sip.SIPInboundTrunkInfo:
        """Return our LiveKit trunk."""
        return self._copy(self.sandbox.inside.store.livekit_trunks.rows[self.ours(INBOUND_TRUNK)])

    def rule(self) -> sip.SIPDispatchRuleInfo:
        """Return our dispatch rule."""
        return self._copy(self.sandbox.inside.store.livekit_rules.rows[self.ours(DISPATCH_RULE)])

    @staticmethod
    def _copy(info: Info) -> Info:
        return type(info).FromString(info.SerializeToString())

    def change_inbound(self, change: Callable[[sip.SIPInboundTrunkInfo], object]) -> None:
        """Change our LiveKit trunk, and leave all of it that is not changed."""
        info = self.inbound()
        change(info)
        self._sip(
            "UpdateSIPInboundTrunk", sip.UpdateSIPInboundTrunkRequest(sip_trunk_id=info.sip_trunk_id, replace=info)
        )

    def change_rule(self, change: Callable[[sip.SIPDispatchRuleInfo], object]) -> None:
        """Change our dispatch rule, and leave all of it that is not changed."""
        info = self.rule()
        change(info)
        request = sip.UpdateSIPDispatchRuleRequest(sip_dispatch_rule_id=info.sip_dispatch_rule_id, replace=info)
        self._sip("UpdateSIPDispatchRule", request)

    def add_inbound(self, **fields: Any) -> str:
        """Add a foreign LiveKit trunk; return its id."""
        info = sip.SIPInboundTrunkInfo(name="theirs", **fields)
        made = self._sip("CreateSIPInboundTrunk", sip.CreateSIPInboundTrunkRequest(trunk=info))
        return sip.SIPInboundTrunkInfo.FromString(made).sip_trunk_id

    def add_rule(self, *trunk_ids: str, agent: str = "theirs", **fields: Any) -> str:
        """Add a foreign dispatch rule, individual unless `rule` says otherwise; return its id."""
        usual = {"rule": {"dispatch_rule_individual": {"room_prefix": "theirs"}}}
        info = sip.SIPDispatchRuleInfo(name="theirs", trunk_ids=trunk_ids, **{**usual, **fields})
        info.room_config.agents.add(agent_name=agent)
        made = self._sip("CreateSIPDispatchRule", sip.CreateSIPDispatchRuleRequest(dispatch_rule=info))
        return sip.SIPDispatchRuleInfo.FromString(made).sip_dispatch_rule_id

    def put(self, kind: str, row_id: str, row: object) -> str:
        """Store an object as it is, also one that the provider's API would refuse; return its id."""
        store = self.sandbox.inside.store
        with store.transaction():
            store.put(kind, row_id, row)
        return row_id

    def put_number(self, **fields: object) -> None:
        """Set fields of our number that Twilio's API does not change."""
        store = self.sandbox.inside.store
        self.put("numbers", self.ours(NUMBER), store.numbers.rows[self.ours(NUMBER)] | fields)

    def put_rule(self, change: Callable[[sip.SIPDispatchRuleInfo], object], rule_id: str = "") -> str:
        """Store our rule, or another one like it, as an older server would have taken it."""
        info = self.rule()
        info.sip_dispatch_rule_id = rule_id or info.sip_dispatch_rule_id
        change(info)
        return self.put("livekit_rules", info.sip_dispatch_rule_id, info)

    def _sip(self, method: str, request: Message) -> bytes:
        return self.console.sip(method, request.SerializeToString())

    def with_profile(self, **changes: Any) -> None:
        """Have the installation's profile changed from here on."""
        tools = tools_of(self.wiring.runner)
        profile = replace(tools.profile, **changes)
        if profile.is_secure:
            profile = replace(profile, sip_uri=profile.sip_uri.over_tls())
        tools = replace(tools, profile=profile)
        maintenance = with_tools(self.wiring.maintenance, tools)
        self.wiring = with_parts(
            self.wiring,
            runner=with_tools(self.wiring.runner, tools),
            maintenance=maintenance,
            adoption=with_tools(self.wiring.adoption, tools),
            audits=replace(with_tools(self.wiring.audits, tools), maintenance=maintenance),
        )

    def have_profile(self, profile: Mapping[str, Any], trunk_limit: int = 100) -> None:
        """Have the installation's profile, but for what is given, and an account that may have so many trunks."""
        self.with_profile(**{"room_presets": frozenset({PRESET}), **profile})
        planning = self.wiring.planning
        toolboxes = GivenToolboxes(tools_of(planning), planning.toolboxes, trunk_limit)
        self.wiring = with_parts(self.wiring, planning=replace(planning, toolboxes=toolboxes))

    @property
    def spec(self) -> PathSpec:
        """The path as it should be."""
        return spec_from_row(tools_of(self.wiring.maintenance), self.agent)

    def observed(self) -> Observed:
        """Read the path as a verification does."""
        return read_path(self.wiring.carrier, self.wiring.platform, self.spec)

    def calls(self, *callers: str) -> dict[Call, dict[str, Any]]:
        """Call the number: these callers and two others, from each region of Twilio, with several draws of a URL."""
        inside, found = self.sandbox.inside, {}
        with inside.store.lock:
            for caller, source, roll in product((CALLER, OTHER_CALLER, *callers), SOURCES, ROLLS):
                call = Call(caller, source, roll)
                found[call] = trace_call(inside, self.number, caller, source=source, roll=roll)
        return found

    def findings(self) -> list[Finding]:
        """Verify."""
        return self.wiring.maintenance.verify(self.agent_id).findings


def reaches(call: Mapping[str, Any]) -> bool:
    """Tell whether a call of the sandbox gets through to our agent."""
    return bool(call["reaches"]) and AGENT in call["agents"]


@pytest.fixture(scope="module")
def changing(postgres_server: PostgresServer, template_database: str) -> Iterator[tuple[OwnSandbox, Wiring]]:
    """A sandbox and a wiring for all tests of a module."""
    name = f"changes_{uuid.uuid4().hex}"
    postgres_server.create_database(name, template_database)
    with sandbox_in_this_process() as sandbox, pytest.MonkeyPatch.context() as patch:
        stores = {"DATABASE_URL": postgres_server.url(name), "REDIS_URL": "redis://127.0.0.1:1/0"}
        limits = {"INSTANCE_NAME": "stage", "ORPHAN_GRACE_S": "0", "TWILIO_RATE": "off", "LIVEKIT_RATE": "off"}
        for key, value in {**sandbox.settings(), **stores, **limits}.items():
            patch.setenv(key, value)
        wiring = without_pauses(build(load_settings(), publisher=RecordingPublisher()))
        yield sandbox, wiring
        wiring.close()
    postgres_server.drop_database(name)


TABLES = (Audit, BulkItem, Event, Resource, OperationStep, Operation, Bulk, Agent, Trunk)
"""What an operation writes, in an order in which it can be deleted."""


@dataclass(frozen=True)
class Provisioned:
    """A path as it was when its number was provisioned: a copy of it takes a third of the time of another one."""

    path: ChangedPath
    profile: Mapping[str, Any]
    objects: list[tuple[str, str, Any]]
    """Kind, id and row of every object at the providers, which are values that nobody changes."""
    copies: str
    """What the names of the tables with its rows begin with."""

    @classmethod
    def keep(cls, path: ChangedPath, profile: Mapping[str, Any]) -> "Provisioned":
        """Keep all of it."""
        tables, copies = path.sandbox.inside.store.tables, f"kept_{len(path.sandbox.provisioned)}_"
        with path.wiring.sessions.begin() as session:
            for table in TABLES:
                name = table.__tablename__
                session.connection().exec_driver_sql(f"CREATE TABLE {copies}{name} AS TABLE {name}")
        objects = [(kind, row_id, row) for kind, table in tables.items() for row_id, row in table.rows.items()]
        return cls(copy(path), profile, objects, copies)

    def again(self, wiring: Wiring) -> ChangedPath:
        """Return the path as it was, with the rows and the objects at the providers."""
        path, store = copy(self.path), self.path.sandbox.inside.store
        _empty(path.sandbox, wiring)
        with store.transaction():
            for kind, row_id, row in self.objects:
                store.put(kind, row_id, row)
        with wiring.sessions.begin() as session:
            # Without foreign keys: rows refer to each other both ways.
            session.connection().exec_driver_sql("SET LOCAL session_replication_role = replica")
            for table in TABLES:
                name = table.__tablename__
                session.connection().exec_driver_sql(f"INSERT INTO {name} TABLE {self.copies}{name}")
        path.wiring = wiring
        path.have_profile(self.profile)
        return path


def new_path(
    sandbox: OwnSandbox, wiring: Wiring, *, trunk_mode: TrunkMode = TrunkMode.SHARED, **profile: Any
) -> ChangedPath:
    """Return a provisioned path of an agent, and a foreign trunk, number and LiveKit path beside it.

    `profile` are fields of the installation's profile that are not the usual ones.
    """
    asked_for = f"{trunk_mode} {sorted(profile.items())}"
    if asked_for in sandbox.provisioned:
        return sandbox.provisioned[asked_for].again(wiring)
    path = new_agent(sandbox, wiring, trunk_mode=trunk_mode, **profile)
    path.provision()
    sandbox.provisioned[asked_for] = Provisioned.keep(path, profile)
    return path


def new_agent(
    sandbox: OwnSandbox,
    wiring: Wiring,
    *,
    trunk_limit: int = 100,
    trunk_mode: TrunkMode = TrunkMode.SHARED,
    **profile: Any,
) -> ChangedPath:
    """Return the same of a new agent, before anything is provisioned."""
    _empty(sandbox, wiring)
    path = ChangedPath(wiring, _publisher(wiring), sandbox, trunk_mode=trunk_mode)
    sandbox.number(PHONE_NUMBER, voiceUrl="https://example.com/voice")
    add_foreign_path(path)
    path.have_profile(profile, trunk_limit)
    return path


def _empty(sandbox: OwnSandbox, wiring: Wiring) -> None:
    """Have no rows, and nothing at the providers."""
    sandbox.reset()
    sandbox.switch(roomPresets=[PRESET])
    with wiring.sessions.begin() as session:
        for table in TABLES:
            session.execute(delete(table))
    _publisher(wiring).plans.clear()


def _publisher(wiring: Wiring) -> RecordingPublisher:
    publisher = wiring.publisher
    assert isinstance(publisher, RecordingPublisher)
    return publisher


def set_by_hand(path: ChangedPath) -> None:
    """Set everything on our four objects that our spec does not name, as an operator does at the consoles."""
    fields = {"CnamLookupEnabled": "true", "TransferMode": "enable-all"}
    path.change_trunk(DisasterRecoveryUrl="https://example.com/down", **fields)
    path.console.twilio("POST", f"{path.trunk_path}/Recording", Mode="record-from-answer", Trim="trim-silence")
    path.change_inbound(_set_on_trunk)
    path.change_rule(_set_on_rule)


def _set_on_trunk(info: sip.SIPInboundTrunkInfo) -> None:
    info.krisp_enabled = True
    info.headers["X-Team"] = "support"
    info.headers_to_attributes["X-Ticket"] = "ticket"
    info.attributes_to_headers["queue"] = "X-Queue"
    info.include_headers = sip.SIPHeaderOptions.SIP_ALL_HEADERS
    info.max_call_duration.FromSeconds(1800)
    info.ringing_timeout.FromSeconds(60)
    info.MergeFromString(UNKNOWN_FIELD)


def _set_on_rule(info: sip.SIPDispatchRuleInfo) -> None:
    info.hide_phone_number = True
    info.krisp_enabled = True
    info.attributes["team"] = "support"
    info.metadata = '{"tier": "gold"}'
    info.room_config.agents.add(agent_name="recorder", metadata="all of it")
    info.room_config.empty_timeout = 77
    info.MergeFromString(UNKNOWN_FIELD)


def by_hand(path: ChangedPath) -> dict[tuple[str, str], object]:
    """Return what `set_by_hand` sets, by our object's id and a name, as far as the objects exist."""
    store, found = path.sandbox.inside.store, dict[tuple[str, str], object]()
    if trunk := store.trunks.get(path.ours(TRUNK)):
        for name in ("cnam_lookup_enabled", "transfer_mode", "disaster_recovery_url", "recording"):
            found[trunk["sid"], name] = trunk[name]
    for info in (
        store.livekit_trunks.get(path.ours(INBOUND_TRUNK)),
        store.livekit_rules.get(path.ours(DISPATCH_RULE)),
    ):
        if info is None:
            continue
        external_id = getattr(info, "sip_trunk_id", "") or info.sip_dispatch_rule_id
        found[external_id, "unknown field"] = UNKNOWN_FIELD in info.SerializeToString()
        for name in _BY_HAND[type(info)]:
            value = getattr(info, name)
            found[external_id, name] = dict(value) if hasattr(value, "items") else str(value)
    if rule := store.livekit_rules.get(path.ours(DISPATCH_RULE)):
        agents = [str(agent) for agent in rule.room_config.agents if agent.agent_name not in {AGENT, "back-office"}]
        found[rule.sip_dispatch_rule_id, "second agent"] = agents
        found[rule.sip_dispatch_rule_id, "room_config.empty_timeout"] = rule.room_config.empty_timeout
    return found


_BY_HAND = {
    sip.SIPInboundTrunkInfo: (
        "krisp_enabled",
        "headers",
        "headers_to_attributes",
        "attributes_to_headers",
        "include_headers",
        "max_call_duration",
        "ringing_timeout",
    ),
    sip.SIPDispatchRuleInfo: ("hide_phone_number", "krisp_enabled", "attributes", "metadata"),
}
"""Kind of object -> the fields that `set_by_hand` sets."""
