"""One change of an operation is written whole or not at all, whoever else writes it and whatever dies meanwhile."""

import os
import signal
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from app.db.engine import Sessions, make_engine, make_sessions
from app.db.models import Agent
from app.db.webhooks import WebhookEndpoint
from app.dev.localstack.processes import poll_until
from app.dev.localstack.servers import PostgresServer
from app.domain.errors import ErrorCode
from app.domain.events import Action, Channel, EventName, Origin
from app.domain.findings import Health
from app.domain.operations import (
    NUMBER,
    NUMBER_ATTACHMENT,
    TRUNK,
    VERIFICATION,
    Direction,
    OperationKind,
    OperationStatus,
    PhoneStatus,
)
from app.numbers.agents import lock_agent
from app.numbers.maintenance import MOVED_STEPS
from app.saga import machine, state
from app.saga.rows import Rows, agent_row
from app.saga.state import Asked, Change, Lease, LedgerEntry, Result, Verdict
from tests.integration.test_service_races import at_once
from tests.support.saga import E164, FINISHED, ORIGIN, TIMING, Saga, wire

THREADS = 4
"""More would be outrun for as long as a change is tried, now and then."""

CHANGES = 30
"""Of each thread."""

RETRY_S = 0.005
"""Between two retries of one thread: far more often than people are, but a worker is not outrun for ever."""

TABLES = ("operations", "operation_steps", "agents", "resources", "events", "activity", "webhook_deliveries")
"""Everything that a change may write."""

DEADLINE_S = 20.0
OTHER_ORIGIN = Origin("tests", "request-2", channel=Channel.API)


def contents(sessions: Sessions) -> dict[str, list[str]]:
    """Return every row that a change may write."""
    with sessions() as session:
        return {
            table: list(session.scalars(text(f"SELECT one::text FROM {table} AS one ORDER BY 1")))  # noqa: S608
            for table in TABLES
        }


# Many writers.


def count_up(operation_id: uuid.UUID, rows: list[Rows]) -> state.Saga:
    """Have threads change one operation at once, each through rows of its own; return what has become of it."""

    def once_more(saga: state.Saga, now: datetime) -> Change:
        change = Change(saga, now)
        change.set_operation(idle_kicks=saga.operation.idle_kicks + 1)
        change.set_step(TRUNK, attempts=saga.steps[TRUNK].attempts + 1)
        change.set_agent(previous_routing={"count": (saga.agent.previous_routing or {"count": 0})["count"] + 1})
        change.ledger.append(LedgerEntry(TRUNK, f"TK{uuid.uuid4().hex}"))
        change.tell(EventName.OPERATION_RETRIED)
        return change

    def count(mine: Rows) -> None:
        for _ in range(CHANGES):
            assert mine.change(operation_id, once_more)

    with ThreadPoolExecutor(len(rows)) as pool:
        list(pool.map(count, rows))
    loaded = rows[0].read(operation_id)
    assert loaded is not None
    return loaded.saga


def assert_counted(saga: state.Saga, sessions: Sessions) -> None:
    total = THREADS * CHANGES
    assert saga.operation.idle_kicks == saga.steps[TRUNK].attempts == len(saga.ledger) == total
    assert saga.agent.previous_routing == {"count": total}
    with sessions() as session:
        written = text("SELECT count(*) FROM events WHERE operation_id = :id AND event = 'operation_retried'")
        assert session.scalar(written, {"id": saga.operation.id}) == total


@pytest.mark.parametrize("is_shared", [False, True], ids=["processes", "threads"])
def test_no_change_of_many_threads_is_lost(saga: Saga, is_shared: bool) -> None:
    shared = Rows(saga.sessions)
    rows = [shared if is_shared else Rows(saga.sessions) for _ in range(THREADS)]
    assert_counted(count_up(saga.provision(), rows), saga.sessions)


def test_a_worker_and_many_who_retry_lose_nothing(saga: Saga, number_sid: str) -> None:
    """Others write the operation all the while that its steps are run."""
    operation_id, is_over = saga.provision(), threading.Event()

    def retry() -> int:
        others, done = Rows(saga.sessions), 0
        while not is_over.wait(RETRY_S):
            others.change(operation_id, _retry)
            done += 1
        return done

    with ThreadPoolExecutor(2) as pool:
        retries = [pool.submit(retry) for _ in range(2)]
        try:
            saga.drive(operation_id)
        finally:
            is_over.set()
        assert all(one.result(DEADLINE_S) for one in retries)
    saga.assert_provisioned(saga.snapshot(operation_id).agent.id, number_sid)


def _retry(saga: state.Saga, now: datetime) -> Change | None:
    return None if saga.operation.status.is_final else machine.retry(saga, ORIGIN, now)


# One change that touches everything.


def end_of_a_move(saga: Saga) -> tuple[Change, str]:
    """Return the last change of a move, with something in every part of it, and the version that it is made of."""
    source_id, target_id = saga.provisioned(), saga.agent("other")
    with saga.sessions.begin() as session:
        session.add(WebhookEndpoint(url="https://example.invalid", sealed_secret="s"))
    operation_id = move(saga, source_id, target_id)
    with saga.sessions.begin() as session:
        set_done = text("UPDATE operation_steps SET state = 'DONE' WHERE operation_id = :id AND name <> :last")
        session.execute(set_done, {"id": operation_id, "last": VERIFICATION})
    claimed = saga.rows.change(
        operation_id,
        lambda found, now: machine.claim(found, VERIFICATION, Direction.DO, 0, TIMING, now, uuid.uuid4()),
    )
    assert claimed is not None
    row = claimed[0].steps[VERIFICATION]
    assert row.lease_token is not None
    lease = Lease(VERIFICATION, Direction.DO, row.lease_token, row.attempts)
    loaded = saga.rows.read(operation_id)
    assert loaded is not None
    removed = (loaded.saga.ledger[0].external_id,)
    change = machine.keep(loaded.saga, lease, Result(None, removed=removed), loaded.now)
    assert change.hands_over
    assert change.announcements
    change.ledger.append(LedgerEntry(TRUNK, "TKlate"))
    change.activity.append(Asked(OTHER_ORIGIN, Action.MOVE, source_id, {}))
    return change, loaded.version


def move(saga: Saga, source_id: uuid.UUID, target_id: uuid.UUID) -> uuid.UUID:
    """Open a move as the service does; return the operation's id."""
    with saga.sessions.begin() as session:
        source, target = session.get_one(Agent, source_id), session.get_one(Agent, target_id)
        now = session.scalar(text("SELECT clock_timestamp()"))
        change = machine.open_operation(
            OperationKind.MOVE, agent_row(source), now, OTHER_ORIGIN, target=agent_row(target), only=MOVED_STEPS
        )
        return saga.rows.open(change, session).operation.id


def test_a_change_of_an_old_version_writes_nothing_at_all(saga: Saga, number_sid: str) -> None:
    change, version = end_of_a_move(saga)
    with saga.sessions.begin() as session:
        session.execute(text("UPDATE operations SET idle_kicks = idle_kicks"))
    before = contents(saga.sessions)
    assert saga.rows.write(change, version) is None
    assert contents(saga.sessions) == before


def test_the_same_change_of_the_present_version_writes_every_table(saga: Saga, number_sid: str) -> None:
    change, version = end_of_a_move(saga)
    before = contents(saga.sessions)
    assert saga.rows.write(change, version) is not None
    after = contents(saga.sessions)
    assert [table for table in TABLES if after[table] == before[table]] == []


@contextmanager
def dying_at(
    sessions: Sessions, table: str, *, how: str = "pg_terminate_backend(pg_backend_pid())", is_kept: bool = False
) -> Iterator[None]:
    """Have a connection die when it writes this table, or when it commits a write of it."""
    table, _, at_commit = table.partition(" ")
    timing = "AFTER INSERT OR UPDATE" if at_commit else "BEFORE INSERT OR UPDATE"
    kind, defer = ("CONSTRAINT TRIGGER", "DEFERRABLE INITIALLY DEFERRED") if at_commit else ("TRIGGER", "")
    with sessions.begin() as session:
        session.execute(
            text(
                f"CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS "
                f"$$ BEGIN PERFORM {how}; PERFORM pg_sleep(5); RETURN NEW; END $$"
            )
        )
        session.execute(text(f"CREATE {kind} dying {timing} ON {table} {defer} FOR EACH ROW EXECUTE FUNCTION die()"))
    try:
        yield
    finally:
        if not is_kept:
            with sessions.begin() as session:
                session.execute(text("DROP FUNCTION die() CASCADE"))


@pytest.mark.parametrize("table", [*TABLES, "agents at commit", "events at commit"])
def test_a_connection_that_dies_meanwhile_leaves_nothing_or_all(saga: Saga, number_sid: str, table: str) -> None:
    change, version = end_of_a_move(saga)
    before = contents(saga.sessions)
    with dying_at(saga.sessions, table), pytest.raises(DBAPIError):
        saga.rows.write(change, version)
    assert contents(saga.sessions) == before
    assert saga.rows.write(change, version) is not None


def test_a_backend_that_is_killed_leaves_nothing_or_all(own_postgres: PostgresServer, plain_logs: None) -> None:
    engine = make_engine(own_postgres.url())
    own = wire(make_sessions(engine))
    own.world.carrier.own_number(E164)
    change, version = end_of_a_move(own)
    before = contents(own.sessions)

    def kill() -> None:
        find = text("SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
        found: list[int] = []

        def is_asleep() -> bool:
            with own.sessions() as session:
                found.extend(session.scalars(find))
            return bool(found)

        assert poll_until(is_asleep, DEADLINE_S)
        os.kill(found[0], signal.SIGKILL)

    # The last table of the transaction, which has two statements before it.
    with ThreadPoolExecutor(1) as pool, dying_at(own.sessions, "activity", how="pg_sleep(20)", is_kept=True):
        killer = pool.submit(kill)
        with pytest.raises(DBAPIError):
            own.rows.write(change, version)
        killer.result(DEADLINE_S)

    def is_back() -> bool:
        try:
            return contents(own.sessions) == before
        except DBAPIError:
            return False

    assert poll_until(is_back, DEADLINE_S)
    engine.dispose()


# One number, one open operation.


@contextmanager
def watched(sessions: Sessions, sql: str, *values: int) -> Iterator[None]:
    """Read one figure again and again meanwhile; it is always one of `values`."""
    seen, is_over = set(), threading.Event()

    def read() -> None:
        with sessions() as session:
            while not is_over.is_set():
                seen.add(session.scalar(text(sql)))
                session.rollback()

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        try:
            yield
        finally:
            is_over.set()
            reading.result(DEADLINE_S)
    assert seen <= set(values), f"{sql}: {seen}"
    assert seen


NUMBERED = "SELECT count(*) FROM agents WHERE twilio_phone_number IS NOT NULL"
OPEN = "SELECT count(*) FROM operations WHERE finished_at IS NULL"


def test_a_number_that_is_handed_over_is_always_one_agents(saga: Saga, number_sid: str) -> None:
    holder, heir = saga.provisioned(), saga.agent("heir")
    with watched(saga.sessions, NUMBERED, 1):
        for _ in range(5):
            saga.world.platform.rules.clear()  # what a move changes in place is not what this is about
            hand_over(saga, move(saga, holder, heir))
            holder, heir = heir, holder
    with saga.sessions() as session:
        owners = set(session.scalars(text("SELECT agent_id FROM resources WHERE deleted_at IS NULL")))
    assert owners == {holder}
    assert saga.status_of(holder) is PhoneStatus.PROVISIONED
    assert saga.status_of(heir) is PhoneStatus.NOT_PROVISIONED


def hand_over(saga: Saga, operation_id: uuid.UUID) -> None:
    """Do every step of a move without a provider."""
    loaded = saga.rows.read(operation_id)
    assert loaded is not None
    for name in loaded.saga.left:
        token = uuid.uuid4()
        claimed = saga.rows.change(
            operation_id,
            lambda found, now, name=name, token=token: machine.claim(found, name, Direction.DO, 0, TIMING, now, token),
        )
        assert claimed is not None
        lease, row = Lease(name, Direction.DO, token, 1), claimed[0].steps[name]
        kept = saga.rows.change(
            operation_id,
            lambda found, now, lease=lease, row=row: machine.keep(found, lease, Result(row.resource_id), now),
        )
        assert kept is not None
        assert kept[0].verdict in FINISHED


def test_where_an_operation_ends_and_another_begins_one_is_always_open(saga: Saga, number_sid: str) -> None:
    agent_id = saga.provisioned()
    with saga.sessions.begin() as session:
        agent, now = lock_agent(session, agent_id)
        saga.rows.open(machine.open_operation(OperationKind.REPAIR, agent_row(agent), now, ORIGIN), session)
    with watched(saga.sessions, OPEN, 1):
        ends = at_once([lambda: saga.deprovision(agent_id) for _ in range(THREADS)])
    assert set(ends) <= {"ok", ErrorCode.OPERATION_IN_PROGRESS}
    saga.drive(saga.deprovision(agent_id))
    saga.assert_clean(agent_id, PhoneStatus.NOT_PROVISIONED)


# What a process remembers.


def test_a_process_knows_what_another_operation_has_put_into_the_ledger_meanwhile(saga: Saga, number_sid: str) -> None:
    """A worker of the provisioning comes back while the path is taken down: with what no list shows to be ours."""
    agent_id = saga.provisioned()
    with saga.sessions() as session:
        provisioning = session.scalars(text("SELECT id FROM operations")).one()
    deprovisioning = saga.deprovision(agent_id)
    assert saga.run(deprovisioning, NUMBER_ATTACHMENT).verdict is Verdict.DONE
    late, lease = saga.world.carrier.own_trunk("renamed"), Lease(TRUNK, Direction.DO, uuid.uuid4(), 1)
    kept = Rows(saga.sessions).change(provisioning, lambda found, now: machine.keep(found, lease, Result(late), now))
    assert kept is not None
    assert kept[0].verdict is Verdict.LOST
    # Without a rest in between, which would have others write the operation.
    saga.advance(deprovisioning)
    assert late not in saga.world.carrier.trunks
    saga.assert_clean(agent_id, PhoneStatus.NOT_PROVISIONED)


# What a process remembers.


@pytest.mark.parametrize("slept_s", [60, -60], ids=["this machine slept", "the server's clock is behind"])
def test_a_lease_is_never_counted_from_a_clock_that_has_parted(saga: Saga, number_sid: str, slept_s: float) -> None:
    operation_id = saga.provision()
    saga.advance(operation_id, until=NUMBER)
    remembered = saga.rows._remembered[operation_id]
    saga.rows._remembered[operation_id] = replace(remembered, clock_s=remembered.clock_s + slept_s)

    def claim(of: state.Saga, now: datetime) -> Change:
        return machine.claim(of, TRUNK, Direction.DO, 0, TIMING, now, uuid.uuid4())

    claimed = saga.rows.change(operation_id, claim)

    assert claimed is not None
    assert claimed[0].verdict is Verdict.CLAIMED
    snapshot = saga.snapshot(operation_id)
    lease_until = snapshot.rows[TRUNK].lease_until
    assert lease_until is not None
    assert abs(lease_until - snapshot.now - TIMING.lease) < timedelta(seconds=5)


def test_the_health_that_an_audit_wrote_meanwhile_ends_with_a_repair(saga: Saga, number_sid: str) -> None:
    agent_id = saga.provisioned()
    with saga.sessions.begin() as session:
        agent, now = lock_agent(session, agent_id)
        opening = machine.open_operation(
            OperationKind.REPAIR, agent_row(agent), now, Origin(), only=frozenset({NUMBER_ATTACHMENT, VERIFICATION})
        )
        repair = saga.rows.open(opening, session).operation.id
    saga.advance(repair, until=NUMBER_ATTACHMENT)
    with saga.sessions.begin() as session:
        session.execute(text("UPDATE agents SET health_state = 'DRIFTED', health_findings = '[{\"code\": \"x\"}]'"))
    # Nobody else writes the operation, so that the process goes on from memory.
    saga.advance(repair)
    assert saga.status(repair) is OperationStatus.SUCCEEDED
    agent = saga.snapshot(repair).agent
    assert (agent.health_state, agent.health_findings) == (Health.IN_SYNC, [])
