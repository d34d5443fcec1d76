"""The console's reads find what they should, and an index leads each of them."""

import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.orm import Session

from app.db import console_queries as queries
from app.db.agent_lists import MOVING_STATUSES, AgentFilter, AgentOrder, list_agents
from app.db.engine import make_engine, make_sessions
from app.db.models import Agent, Operation
from app.db.queries import Position
from app.domain.findings import Finding, FindingCode, Health, finding_json
from app.domain.operations import OperationKind, OperationStatus, PhoneStatus
from tests.support.servers import PostgresServer

AGENTS = 20_000

FILL = (
    """
    INSERT INTO agents (id, name, livekit_agent_name, metadata, phone_provisioning_status, twilio_phone_number,
                        health_state, created_at)
    SELECT gen_random_uuid(), 'Desk ' || i, 'desk', '{}',
           CASE WHEN i % 500 = 0 THEN 'FAILED' WHEN i % 10 = 3 THEN 'NOT_PROVISIONED' ELSE 'PROVISIONED' END,
           CASE WHEN i % 500 = 0 OR i % 10 = 3 THEN NULL ELSE '+1514' || (5000000 + i) END,
           CASE WHEN i % 700 = 2 THEN 'DRIFTED' ELSE 'IN_SYNC' END, now() - interval '30 days' + i * interval '1 second'
      FROM generate_series(1, :agents) i
    """,
    """
    INSERT INTO operations (id, agent_id, workspace_id, kind, phone_number, takeover, status, epoch, idle_kicks,
                            created_at)
    SELECT gen_random_uuid(), id, workspace_id, 'provision', '+15145551234', false,
           CASE phone_provisioning_status WHEN 'FAILED' THEN 'failed' ELSE 'succeeded' END, 0, 0, created_at
      FROM agents
    """,
    "ANALYZE",
)


@pytest.fixture(scope="module")
def engine(postgres_server: PostgresServer, template_database: str) -> Iterator[Engine]:
    postgres_server.create_database("console_queries", template_database)
    engine = make_engine(postgres_server.url("console_queries"))
    with engine.begin() as connection:
        for statement in FILL:
            connection.execute(text(statement), {"agents": AGENTS} if ":agents" in statement else {})
    yield engine
    engine.dispose()
    postgres_server.drop_database("console_queries")


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with make_sessions(engine)() as session:
        yield session
        session.rollback()


def names(
    session: Session, wanted: AgentFilter, after: Position | None = None, order: AgentOrder = AgentOrder.NEWEST
) -> list[str]:
    return [agent.name for agent in list_agents(session, wanted, after=after, limit=51, order=order)]


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("desk 1234", ["Desk 12349", "Desk 12348", "Desk 12347"]),
        ("+1514501999", ["Desk 19999", "Desk 19998", "Desk 19997"]),
        ("5019998", ["Desk 19998"]),
        ("+1 (514) 501-9998", ["Desk 19998"]),
        ("zebra", []),
        ("999999999", []),
        ("& | :* '", []),
        ("'", []),
    ],
)
def test_search_finds_the_newest_of_many(session: Session, search: str, found: list[str]) -> None:
    assert names(session, AgentFilter(search=search))[:3] == found


def test_search_finds_an_agent_by_its_id_and_keeps_to_the_other_filters(session: Session) -> None:
    agent = list_agents(session, AgentFilter(search="desk 500"), after=None, limit=51)[-1]

    assert names(session, AgentFilter(search=str(agent.id))) == [agent.name]
    assert names(session, AgentFilter(search=str(uuid.uuid4()))) == []
    assert names(session, AgentFilter((PhoneStatus.FAILED,), search="desk 5000")) == ["Desk 15000", "Desk 5000"]
    assert len(names(session, AgentFilter((PhoneStatus.FAILED,), search="desk"))) == AGENTS // 500


def test_pages_go_on_where_the_last_one_ended(session: Session) -> None:
    for wanted in (AgentFilter(), AgentFilter(search="desk"), AgentFilter((PhoneStatus.PROVISIONED,))):
        first = list_agents(session, wanted, after=None, limit=51)
        last = first[49]
        assert names(session, wanted, Position(last.created_at, last.id))[0] == first[50].name


@pytest.mark.parametrize("order", AgentOrder)
@pytest.mark.parametrize("search", ["", "desk 1999", "1999"])
def test_every_order_goes_on_from_page_to_page(session: Session, order: AgentOrder, search: str) -> None:
    wanted = AgentFilter(search=search)
    whole = list_agents(session, wanted, after=None, limit=160, order=order)
    paged: list[Agent] = []
    while len(paged) < len(whole):
        after = Position(paged[-1].created_at, paged[-1].id) if paged else None
        page = list_agents(session, wanted, after=after, limit=40, order=order)
        assert page
        paged += page

    assert [agent.name for agent in paged] == [agent.name for agent in whole][: len(paged)]
    assert len({agent.id for agent in paged}) == len(paged)


def test_orders_are_by_name_number_state_and_change(session: Session) -> None:
    changed = list_agents(session, AgentFilter(), after=None, limit=60)[-1]
    changed.name = "aardvark"
    session.flush()

    def first(order: AgentOrder, search: str = "") -> Agent:
        return list_agents(session, AgentFilter(search=search), after=None, limit=1, order=order)[0]

    for search in ("", "a"):
        assert first(AgentOrder.NAME, search).name == "aardvark"
        assert first(AgentOrder.CHANGED_BACK, search).name == "aardvark"
    assert first(AgentOrder.NAME_BACK).name == "Desk 9999"
    assert first(AgentOrder.NUMBER).twilio_phone_number == "+15145000001"
    assert first(AgentOrder.NUMBER, "desk").twilio_phone_number == "+15145000001"
    assert first(AgentOrder.NUMBER_BACK).twilio_phone_number is None
    assert first(AgentOrder.STATE).name == f"Desk {AGENTS}"
    assert first(AgentOrder.STATE_BACK).phone_provisioning_status is PhoneStatus.NOT_PROVISIONED
    assert first(AgentOrder.STATE_BACK, "desk").phone_provisioning_status is PhoneStatus.NOT_PROVISIONED


def test_the_last_operation_is_each_agent_s_own_or_the_move_towards_it(session: Session) -> None:
    one, other, bare = list_agents(session, AgentFilter(), after=None, limit=3)
    session.execute(text("DELETE FROM operations WHERE agent_id = :id"), {"id": bare.id})
    move = Operation(
        agent_id=one.id,
        workspace_id=one.workspace_id,
        target_agent_id=other.id,
        kind=OperationKind.MOVE,
        phone_number="+15145551234",
        status=OperationStatus.SUCCEEDED,
    )
    session.add(move)
    session.flush()

    found = queries.last_operations(session, [one.id, other.id, bare.id])

    assert {agent_id: operation.id for agent_id, operation in found.items()} == {one.id: move.id, other.id: move.id}
    assert queries.history_of(session, other.id, limit=5)[0].id == move.id
    assert queries.last_operations(session, []) == {}


def test_counts_stop_at_a_thousand(session: Session) -> None:
    found = queries.count_up_to(session)

    assert found["PROVISIONED"] == queries.COUNTED_TO + 1
    assert (found["FAILED"], found["failed"], found["needs_attention"]) == (AGENTS // 500, AGENTS // 500, 0)
    assert found[Health.DRIFTED] == len(range(2, AGENTS + 1, 700))


def test_agents_whose_calls_fail_are_a_part_of_the_drifted(session: Session) -> None:
    one, other = list_agents(session, AgentFilter(health=Health.DRIFTED), after=None, limit=2)
    for agent, code in ((one, FindingCode.RULE_PIN), (other, FindingCode.TRUNK_CHANGED)):
        agent.health_findings = [finding_json(Finding(FindingCode.MARK_LOST)), finding_json(Finding(code))]
    session.flush()

    assert names(session, AgentFilter(calls_fail=True)) == [one.name]
    assert names(session, AgentFilter(calls_fail=True, search=other.name)) == []
    assert queries.count_up_to(session)[queries.CALLS_FAIL] == 1


def test_a_deleted_agent_is_nowhere(session: Session) -> None:
    gone = list_agents(session, AgentFilter(), after=None, limit=1)[0]
    session.execute(text("UPDATE agents SET deleted_at = now() WHERE id = :id"), {"id": gone.id})

    assert gone.name not in names(session, AgentFilter())
    assert gone.name not in names(session, AgentFilter(search=gone.name))
    listed = queries.list_operations(session, [OperationStatus.SUCCEEDED], after=None, limit=5)
    assert gone.id not in {row.agent_id for row in listed}


READS: dict[str, Callable[[Session], Any]] = {
    "first page": lambda session: names(session, AgentFilter()),
    "failed": lambda session: names(session, AgentFilter((PhoneStatus.FAILED,))),
    "moving": lambda session: names(session, AgentFilter(MOVING_STATUSES)),
    "drifted": lambda session: names(session, AgentFilter(health=Health.DRIFTED)),
    "calls fail": lambda session: names(session, AgentFilter(calls_fail=True)),
    "a rare word": lambda session: names(session, AgentFilter(search="12345")),
    "no such word": lambda session: names(session, AgentFilter(search="zebra")),
    "an ending": lambda session: names(session, AgentFilter(search="5012345")),
    "a part of a word": lambda session: names(session, AgentFilter(search="sk 1234")),
    "two letters": lambda session: names(session, AgentFilter(search="zq")),
    "a trunk": lambda session: names(session, AgentFilter(search="TK" + "0" * 32)),
    "a rule": lambda session: names(session, AgentFilter(search="SDR_abcdefgh1234")),
    "the beginning of an id": lambda session: names(session, AgentFilter(search="deadbeef")),
    **{f"by {order}": lambda session, order=order: names(session, AgentFilter(), order=order) for order in AgentOrder},
    "the next page by name": lambda session: names(
        session, AgentFilter(), Position(datetime.now(UTC), session.scalars(_SOME).all()[0]), AgentOrder.NAME
    ),
    "an id": lambda session: names(session, AgentFilter(search=str(uuid.uuid4()))),
    "running": lambda session: queries.list_operations(session, [OperationStatus.RUNNING], after=None, limit=51),
    "failed operations": lambda session: queries.list_operations(
        session, [OperationStatus.FAILED], after=None, limit=51
    ),
    "history": lambda session: queries.history_of(session, uuid.uuid4(), limit=20),
    "last operations": lambda session: queries.last_operations(session, list(session.scalars(_SOME))),
}

_SOME = text("SELECT id FROM agents LIMIT 50")


@pytest.mark.parametrize("read", READS)
def test_no_read_walks_a_whole_table(engine: Engine, session: Session, read: str) -> None:
    plans: list[str] = []

    def explain(_connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.lstrip().startswith(("SELECT", "WITH")) and "EXPLAIN" not in statement and statement != _SOME.text:
            cursor.execute("EXPLAIN " + statement, parameters)
            plans.append("\n".join(line for (line,) in cursor.fetchall()))

    event.listen(engine, "before_cursor_execute", explain)
    try:
        READS[read](session)
    finally:
        event.remove(engine, "before_cursor_execute", explain)

    assert plans
    for plan in plans:
        assert "Seq Scan on agents" not in plan
        assert "Seq Scan on operations" not in plan
