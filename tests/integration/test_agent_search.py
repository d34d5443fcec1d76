"""A search finds an agent by whatever people know of it, and nobody else."""

import uuid
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from app.db import queries
from app.db.agent_lists import AgentFilter, list_agents
from app.db.engine import make_engine, make_sessions
from app.db.models import Agent, Operation, Resource, Trunk
from app.db.visibility import seeing
from app.domain.operations import OperationKind, OperationStatus, PhoneStatus, TrunkState
from app.workspaces import WorkspaceService
from tests.support.servers import PostgresServer

AGENT_ID = uuid.UUID("7c1f5a52-3c0e-4c42-9a53-0f3a1d0b6c11")
OPERATION_ID = uuid.UUID("b2d2c8a8-8c2e-4a5c-9f0e-6f2a5d1f7e42")
OWN_TRUNK, SHARED_TRUNK, URL = "TK" + "1" * 32, "TK" + "2" * 32, "OU" + "3" * 32
INBOUND, RULE, ADOPTED_RULE = "ST_4Zp8oTqKcJ2m", "SDR_9hXb3LwNfR7d", "SDR_adoptedBy2"


@pytest.fixture(scope="module")
def engine(postgres_server: PostgresServer, template_database: str) -> Iterator[Engine]:
    postgres_server.create_database("agent_search", template_database)
    engine = make_engine(postgres_server.url("agent_search"))
    yield engine
    engine.dispose()
    postgres_server.drop_database("agent_search")


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with make_sessions(engine)() as session:
        fill(session)
        yield session
        session.rollback()


def agent(session: Session, name: str, number: str | None = None, **more: object) -> Agent:
    made = Agent(name=name, livekit_agent_name="x", twilio_phone_number=number, **more)
    session.add(made)
    session.flush()
    return made


def operation(session: Session, owner: Agent, number: str, **more: object) -> Operation:
    values = {"kind": OperationKind.PROVISION, "status": OperationStatus.SUCCEEDED, "phone_number": number} | more
    made = Operation(agent_id=owner.id, workspace_id=owner.workspace_id, **values)
    session.add(made)
    session.flush()
    return made


def fill(session: Session) -> None:
    """Store one agent for each way to be found; every name begins with another letter."""
    shared = Trunk(profile={}, profile_hash="x", shard=1, state=TrunkState.CREATING, twilio_trunk_sid=SHARED_TRUNK)
    session.add(shared)
    session.flush()
    agent(session, "Accueil Montréal", "+15145551234", id=AGENT_ID, trunk_id=shared.id)
    band = agent(session, "Bandage 100 % O'Hara_x", external_id="crm/42-Ünit")
    operation(session, band, "+14165550000", id=OPERATION_ID)
    failed = agent(session, "Café", phone_provisioning_status=PhoneStatus.FAILED)
    operation(session, failed, "+13015559876", status=OperationStatus.FAILED)
    later = agent(session, "Doctor", "+442071838750")
    operation(session, later, "+13015559876", status=OperationStatus.FAILED)
    own = agent(session, "Ärzte Straße Søndre Łódź ЁЛКА", twilio_trunk_sid=OWN_TRUNK, livekit_dispatch_rule_id=RULE)
    made = operation(session, own, "+14165550001")
    for provider, kind, external_id in (
        ("twilio", "twilio_trunk", OWN_TRUNK),
        ("twilio", "twilio_origination_url", URL),
        ("livekit", "livekit_inbound_trunk", INBOUND),
        ("livekit", "livekit_dispatch_rule", RULE),
    ):
        row = {"provider": provider, "kind": kind, "external_id": external_id, "agent_id": own.id}
        session.add(Resource(operation_id=made.id, **row))
    agent(session, "Foster", adopted={}, livekit_dispatch_rule_id=ADOPTED_RULE)
    agent(session, "Gone desk", deleted_at=text("now()"))
    session.flush()


ACCUEIL, BANDAGE, CAFE, DOCTOR, OWN, FOSTER = (
    "Accueil Montréal",
    "Bandage 100 % O'Hara_x",
    "Café",
    "Doctor",
    "Ärzte Straße Søndre Łódź ЁЛКА",
    "Foster",
)

CASES = {
    "montreal": [ACCUEIL],
    "MONTRÉAL": [ACCUEIL],
    "ntré": [ACCUEIL],
    "montreal accu": [ACCUEIL],
    "accueil boston": [],
    "cafe\u0301": [CAFE],
    "strasse": [OWN],
    "sondre": [OWN],
    "lodz": [OWN],
    "ёлк": [OWN],
    "arzt": [OWN],
    "ge": [BANDAGE],
    "x": [BANDAGE],
    "100 %": [BANDAGE],
    "o'hara": [BANDAGE],
    "%": [],
    "_": [],
    "\\": [],
    "zz' | 'a": [],
    "+15145551234": [ACCUEIL],
    "+1 (514) 555-1234": [ACCUEIL],
    "+1514": [ACCUEIL],
    "+5145": [],
    "555-1234": [ACCUEIL],
    "5145551": [ACCUEIL],
    "2071838": [DOCTOR],
    "3015559876": [CAFE],
    "+1301": [CAFE],
    "crm/42": [BANDAGE],
    "CRM/42-unit": [BANDAGE],
    str(AGENT_ID): [ACCUEIL],
    "7c1f5a52": [ACCUEIL],
    "7C1F5A52-3c0e": [ACCUEIL],
    "7c1f5a5": [],
    str(OPERATION_ID): [BANDAGE],
    "b2d2c8a8": [BANDAGE],
    OWN_TRUNK: [OWN],
    SHARED_TRUNK: [ACCUEIL],
    URL: [OWN],
    INBOUND: [OWN],
    RULE: [OWN],
    ADOPTED_RULE: [FOSTER],
    "gone": [],
    "TK" + "f" * 32: [],
}


@pytest.mark.parametrize("typed", CASES)
def test_an_agent_is_found_by_what_people_know_of_it(session: Session, typed: str) -> None:
    found = list_agents(session, AgentFilter(search=typed), after=None, limit=51)
    of_api = queries.list_agents(session, status=None, after=None, limit=51, search=typed)

    assert [one.name for one in found] == [one.name for one in of_api] == CASES[typed]


def test_what_a_common_word_finds_in_the_first_rows_is_what_the_index_finds(session: Session) -> None:
    every = [one.name for one in list_agents(session, AgentFilter(search="1"), after=None, limit=51)]
    first = [one.name for one in list_agents(session, AgentFilter(search="1"), after=None, limit=2)]

    assert set(every) == {ACCUEIL, BANDAGE, DOCTOR}
    assert first == every[:2]


def test_a_search_sees_only_its_workspace(engine: Engine, session: Session) -> None:
    other = WorkspaceService(make_sessions(engine)).create("elsewhere", "Elsewhere")
    with seeing(other.id):
        for typed in (ACCUEIL, str(AGENT_ID), str(OPERATION_ID), OWN_TRUNK, SHARED_TRUNK, "3015559876"):
            assert list_agents(session, AgentFilter(search=typed), after=None, limit=51) == []
