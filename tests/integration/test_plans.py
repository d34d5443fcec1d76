"""The statements of every request and step use indexes, also when they were planned while the tables were empty."""

import re
import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from app.db.engine import make_engine
from app.db.models import IS_OPEN
from app.domain.operations import STEPS
from app.numbers import service
from app.saga import rows
from app.trunks import pool
from app.webhooks import announcements
from tests.support.servers import ROOT, PostgresServer

STATEMENTS = {
    "accept": service._ACCEPT,
    "read": rows._READ,
    "write": rows._write_sql("steps", "left", "agents", "ledger", "deleted", "announcements"),
    "hand over": rows._HAND_OVER,
    "follow": rows._FOLLOW,
    "announce": announcements._ANNOUNCE,
    "held place": pool._HELD_PLACE,
    "choose trunk": pool._CHOOSE_TRUNK,
    "take place": pool._TAKE_PLACE,
    "find room": pool._FIND_ROOM,
}

SMALL_TABLE = "webhook_endpoints"
"""Always a few rows, without a useful index."""

READ_WHOLE = {"find room": "trunks"}
"""Statements that may read a whole table: where all trunks are full, all are looked at, those that are gone as well."""

MOMENT, ID = timedelta(seconds=1), uuid.uuid4()

VALUES = {
    **dict.fromkeys(
        ("operation", "agent", "bulk", "key_id", "id", "holder", "heir", "token", "trunk", "workspace", "account"), ID
    ),
    **dict.fromkeys(("grace", "lands"), MOMENT),
    **dict.fromkeys(("number", "requested_by", "request_id", "traceparent", "channel", "address", "action"), "x"),
    **dict.fromkeys(("change", "detail", "trail", "target"), Jsonb({})),
    "free": [STEPS[0].name],
    "steps": [STEPS[0].name],
    "version": "1",
    "now": None,
    "position": 1,
    "step": STEPS[0].name,
    "hash": "x",
    "most": 500,
    "takeover": False,
}


@pytest.fixture(scope="module")
def emptied(postgres_server: PostgresServer, template_database: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection of ours to a database that was analysed while it was empty."""
    database = f"plans_{uuid.uuid4().hex}"
    postgres_server.create_database(database, template_database)
    engine = make_engine(postgres_server.url(database))
    pooled = engine.raw_connection()
    connection = pooled.driver_connection
    assert isinstance(connection, psycopg.Connection)
    connection.autocommit = True
    connection.execute("VACUUM ANALYZE")
    yield connection
    connection.autocommit = False
    pooled.close()
    engine.dispose()
    postgres_server.drop_database(database)


@pytest.mark.parametrize("name", STATEMENTS)
def test_a_plan_made_while_the_tables_were_empty_reads_no_whole_table(
    emptied: psycopg.Connection[Any], name: str
) -> None:
    """PostgreSQL keeps a plan for the connection, while the tables grow."""
    plan = "\n".join(row[0] for row in emptied.execute(f"EXPLAIN {STATEMENTS[name]}", VALUES).fetchall())
    for small in (SMALL_TABLE, READ_WHOLE.get(name, SMALL_TABLE)):
        plan = plan.replace(f"Seq Scan on {small} ", "")
    assert "Seq Scan" not in plan, plan


OPEN_BULKS = "status IN ('queued', 'running', 'cancelling')"
"""Of bulks, which are few: no index is for them."""


def test_every_list_of_open_statuses_is_that_of_the_indexes() -> None:
    """Only a constant uses a partial index, so that SQL files repeat it."""
    files = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "app").rglob("*.sql")}
    files["overview.sql"] = files["overview.sql"].replace(OPEN_BULKS, "")
    lists = {name: re.findall(r"(?<!\.)\bstatus (IN \([^)]*\))", text) for name, text in files.items()}
    assert {name: set(found) for name, found in lists.items() if found} == {
        name: {IS_OPEN.removeprefix("status ")}
        for name in ("accept.sql", "write.sql", "wake_waiting.sql", "take_due_calls.sql", "overview.sql")
    }
