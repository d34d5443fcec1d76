"""What `enable_seqscan=off` costs and gains on every connection, beside PostgreSQL's default and two alternatives.

`python -m tests.benchmarks.plans` prints JSON. `busy`: CPU of the database's process for accepting a POST, claiming one
step and keeping its result, in milliseconds, at the start and at the end of a run on tables that were analysed while
they were empty. `large`: CPU of the large reads of the console, the metrics and the audit, with and without it.
"""

import argparse
import itertools
import json
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from statistics import median
from typing import Any

import psycopg
from sqlalchemy import Engine, event, func, select
from sqlalchemy.orm import Session

from app.db import agent_lists, console_queries, queries
from app.db.engine import Sessions, Statements, make_engine, make_sessions
from app.db.models import Agent
from app.domain.events import Origin
from app.domain.operations import NUMBER, Direction, OperationStatus, PhoneStatus
from app.numbers import service
from app.observability import metrics
from app.saga import machine
from app.saga.rows import Rows
from app.saga.state import Lease, Result
from tests.benchmarks.processes import cpu_s
from tests.benchmarks.rows import add_agents, add_past, settle
from tests.support.saga import TIMING
from tests.support.servers import migrate, running_postgres

VARIANTS = {
    "seqscan off": "SET enable_seqscan = off",
    "default": "SET enable_seqscan = on",
    "force_custom_plan": "SET enable_seqscan = on; SET plan_cache_mode = force_custom_plan",
    "not prepared": "SET enable_seqscan = on",
}

HOLDERS = """
    UPDATE agents SET phone_provisioning_status = 'PROVISIONED', twilio_phone_number = '+1613' || (2000000 + n)
      FROM (SELECT id, row_number() OVER () AS n FROM agents LIMIT %s) chosen WHERE chosen.id = agents.id
"""


def _agents(session: Session, **wanted: Any) -> object:
    return agent_lists.list_agents(session, agent_lists.AgentFilter(**wanted), after=None, limit=50)


LARGE: dict[str, Callable[[Session], Any]] = {
    "metrics: operations by status": metrics.count_operations,
    "metrics: agents by status": metrics.count_agents,
    "console: figures at the top": console_queries.count_up_to,
    "console: first page": _agents,
    "console: failed numbers": lambda session: _agents(session, statuses=(PhoneStatus.FAILED,)),
    "console: a common word": lambda session: _agents(session, search="Agent"),
    "console: a rare word": lambda session: _agents(session, search="12345"),
    "console: all operations": lambda session: console_queries.list_operations(
        session, list(OperationStatus), after=None, limit=50
    ),
    "API: operations": lambda session: queries.list_operations(
        session, status=None, agent_id=None, after=None, limit=100
    ),
    "audit: agents with a number": lambda session: session.execute(
        select(Agent.id, Agent.twilio_phone_number).where(Agent.twilio_phone_number.is_not(None))
    ).all(),
    "all agents, counted": lambda session: session.scalar(select(func.count(Agent.agent_metadata))),
}

_numbers = itertools.count()

TIMES = 20
"""Runs of a large read whose CPU is taken together: the kernel counts in hundredths of a second."""


@contextmanager
def _engine(url: str, variant: str) -> Iterator[Engine]:
    """Yield an engine of ours whose connections have a variant's settings."""
    engine = make_engine(url)

    def configure(connection: Any, _record: Any) -> None:
        connection.autocommit = True
        connection.execute(VARIANTS[variant])
        # Helper processes would do work that is not seen in the CPU time of the connection's own.
        connection.execute("SET max_parallel_workers_per_gather = 0")
        connection.autocommit = False
        if variant == "not prepared":
            connection.prepare_threshold = None

    event.listen(engine, "connect", configure)
    yield engine
    engine.dispose()


def _backend(engine: Engine) -> int:
    pooled = engine.raw_connection()
    try:
        return int(pooled.driver_connection.info.backend_pid)  # type: ignore[union-attr]  # psycopg's
    finally:
        pooled.close()


def _accept_and_run_one_step(sessions: Sessions, agents: list[str]) -> None:
    statements, rows = Statements(sessions), Rows(sessions, timedelta(seconds=1))
    for agent in agents:
        number = f"+1514{next(_numbers):07}"
        accepted = service.accept(statements, uuid.UUID(agent), number, Origin(), takeover=False)
        if accepted is None:
            raise RuntimeError("the agent was not free")
        token, result = uuid.uuid4(), Result(f"PN{uuid.uuid4().hex}")
        lease = Lease(NUMBER, Direction.DO, token, 1)
        operation_id = accepted[0].id
        rows.change(
            operation_id,
            lambda saga, now, token=token: machine.claim(saga, NUMBER, Direction.DO, 0, TIMING, now, token),
        )
        rows.change(operation_id, lambda saga, now, lease=lease, result=result: machine.keep(saga, lease, result, now))


def busy(url: str, variant: str, count: int) -> dict[str, float]:
    """Return milliseconds of CPU in the first and in the last quarter of `count` operations."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
        agents = add_agents(connection, count)
    share, found = count // 4, []
    with _engine(url, variant) as engine:
        backend = _backend(engine)
        for place in range(4):
            before = cpu_s([backend])
            _accept_and_run_one_step(make_sessions(engine), agents[place * share : (place + 1) * share])
            found.append((cpu_s([backend]) - before) * 1000 / share)
    return {"first quarter": round(found[0], 2), "last quarter": round(found[-1], 2)}


def large(url: str, rounds: int) -> dict[str, dict[str, float]]:
    """Return milliseconds of CPU of each large read, both settings in turn; the median of the rounds."""
    found: dict[str, dict[str, float]] = {}
    with _engine(url, "seqscan off") as off, _engine(url, "default") as default:
        for name, read in LARGE.items():
            times: dict[str, list[float]] = {"seqscan off": [], "default": []}
            for _ in range(rounds):
                times["seqscan off"].append(_cpu_ms(off, read))
                times["default"].append(_cpu_ms(default, read))
            found[name] = {variant: round(median(each), 2) for variant, each in times.items()}
    return found


def _cpu_ms(engine: Engine, read: Callable[[Session], Any]) -> float:
    backend = _backend(engine)
    before = cpu_s([backend])
    for _ in range(TIMES):
        with make_sessions(engine)() as session:
            read(session)
    return (cpu_s([backend]) - before) * 1000 / TIMES


def main() -> None:
    """Measure and print; some minutes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--operations", type=int, default=2000)
    parser.add_argument("--agents", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=3)
    wanted = parser.parse_args()
    with running_postgres(on_disk=True) as server:
        server.create_database("template")
        migrate(server.url("template"))
        server.create_database("filled", "template")
        found: dict[str, Any] = {"busy": {}}
        for place, variant in enumerate(VARIANTS):
            server.create_database(f"busy_{place}", "template")
            found["busy"][variant] = busy(server.url(f"busy_{place}"), variant, wanted.operations)
        with psycopg.connect(server.url("filled").replace("+psycopg", ""), autocommit=True) as connection:
            add_past(connection, wanted.agents)
            connection.execute(HOLDERS, [wanted.agents // 20])
            settle(connection)
        found["large"] = large(server.url("filled"), wanted.rounds)
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
