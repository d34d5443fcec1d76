"""Redis and PostgreSQL on their worst days, under real processes; each test runs on servers that it may break."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest

from app.dev.localstack.host import StackError
from app.dev.localstack.processes import poll_until
from app.dev.localstack.servers import PostgresServer, ValkeyServer
from app.domain.operations import PhoneStatus, TrunkMode
from tests.e2e.assignments import SHARED_TIMINGS, new_assignment
from tests.e2e.invariants import Assignment, ForeignObjects, check_all
from tests.e2e.rows import rows_of, wait_until_finished
from tests.e2e.scenarios import lose_every_message
from tests.support.sandbox import ControlledSandbox, Sandbox
from tests.support.servers import migrate, running_postgres, running_valkey
from tests.support.stack import Stack, eventually, running_stack

ACCEPT_S = 5
"""Seconds in which a POST is answered whatever Redis does: two socket timeouts of 2 s, and room."""

QUEUED = 80
"""Operations that wait for the first worker: more than it has threads, so that all of them publish at once."""


@dataclass(frozen=True)
class Breakable:
    """A stack on servers of its own, and what it runs on."""

    stack: Stack
    sandbox: Sandbox
    broker: ValkeyServer
    database: PostgresServer

    def assignments(self, count: int) -> list[Assignment]:
        """Create agents with trunks of their own, and numbers."""
        return [new_assignment(self.stack, self.sandbox, TrunkMode.DEDICATED) for _ in range(count)]

    def provision(self, assignments: list[Assignment]) -> list[str]:
        """Request all their numbers."""
        return [self.stack.api.provision(each.agent_id, each.number) for each in assignments]

    def hold(self, kind: str, assignment: Assignment) -> str:
        """Hold the creation of this agent's trunk, before or after it is applied."""
        return self.sandbox.fault("twilio.create_trunk", kind, contains=assignment.agent_id)

    def await_held(self, fault_id: str) -> None:
        """Wait until the held request is there."""
        eventually(lambda: self.sandbox.held(fault_id), "the request is held")

    def all_provisioned(self, assignments: list[Assignment], operation_ids: list[str]) -> None:
        """Wait for the end, and check it."""
        wait_until_finished(self.stack, operation_ids)
        check_all(self.stack.sessions, self.sandbox, assignments, PhoneStatus.PROVISIONED)

    def creates(self, assignment: Assignment) -> int:
        """Count the trunks that were made for this agent."""
        requests = self.sandbox.requests(operation="twilio.create_trunk")
        return sum(assignment.agent_id in str(request["body"]) for request in requests)


@pytest.fixture(scope="module")
def breakable_servers(sandbox_server: ControlledSandbox) -> Iterator[Breakable]:
    with running_postgres() as database, running_valkey(durable=True) as broker:
        database.create_database("trunkline")
        migrate(database.url())
        with running_stack(database.url(), broker.url, sandbox_server.control, SHARED_TIMINGS) as stack:
            yield Breakable(stack, sandbox_server.control, broker, database)


@pytest.fixture
def breakable(breakable_servers: Breakable, sandbox: Sandbox, foreign_objects: ForeignObjects) -> Iterator[Breakable]:
    """The servers to break, over an emptied sandbox; afterwards everything runs again."""
    breakable_servers.stack.empty_pool()
    yield breakable_servers
    for server in (breakable_servers.broker, breakable_servers.database):
        with suppress(StackError):
            server.resume()
        if not server.process.is_alive:
            server.start()
    if not breakable_servers.stack.worker.is_alive:
        breakable_servers.stack.start_worker()


@pytest.fixture
def stack(breakable: Breakable) -> Stack:
    """The stack whose log lines are shown when a test fails."""
    return breakable.stack


def test_redis_flushed_in_mid_flight_loses_no_operation(breakable: Breakable, stack: Stack) -> None:
    under_way, queued = breakable.assignments(4), breakable.assignments(4)
    operations = lose_every_message(stack, breakable.sandbox, under_way, queued)
    breakable.all_provisioned(under_way + queued, operations)


def test_a_worker_lives_through_the_death_of_redis_with_a_task_in_flight(breakable: Breakable, stack: Stack) -> None:
    pid, assignments = stack.worker.pid, breakable.assignments(3)
    held = breakable.hold("hold_after", assignments[0])
    operations = breakable.provision(assignments)
    breakable.await_held(held)
    breakable.broker.kill()
    eventually(lambda: "Cannot connect to redis" in stack.log("worker"), "the worker notices")
    breakable.sandbox.release(held)
    eventually(lambda: rows_of(stack.sessions, assignments[0].agent_id).state("twilio_trunk") == "DONE", "it is stored")
    late = breakable.assignments(1)
    operations += breakable.provision(late)
    breakable.broker.start()
    breakable.all_provisioned(assignments + late, operations)
    assert stack.worker.is_alive
    assert stack.worker.pid == pid
    assert breakable.creates(assignments[0]) == 1


@pytest.mark.parametrize("is_fresh", [False, True], ids=["connected before", "just started"])
def test_a_post_is_answered_within_seconds_while_redis_hangs(
    breakable: Breakable, stack: Stack, is_fresh: bool
) -> None:
    if is_fresh:
        stack.web.kill()
        stack.start_web()
    else:
        wait_until_finished(stack, breakable.provision(breakable.assignments(1)))
    assignments = breakable.assignments(2)
    breakable.broker.pause()
    operations, took_s = [], []
    for each in assignments:
        began = time.monotonic()
        operations += breakable.provision([each])
        took_s.append(time.monotonic() - began)
    breakable.broker.resume()
    assert max(took_s) < ACCEPT_S, took_s
    breakable.all_provisioned(assignments, operations)


@pytest.mark.parametrize("is_killed", [False, True], ids=["restarted", "killed"])
def test_postgresql_going_away_in_mid_flight_costs_no_operation(
    breakable: Breakable, stack: Stack, is_killed: bool
) -> None:
    breakable.sandbox.latency(twilio_ms=50, livekit_ms=50)
    assignments = breakable.assignments(6)
    held = [breakable.hold(kind, each) for kind, each in zip(("hold_before", "hold_after"), assignments, strict=False)]
    operations = breakable.provision(assignments)
    for each in held:
        breakable.await_held(each)
    if is_killed:
        breakable.database.kill()
    else:
        breakable.database.stop()
    for each in held:
        breakable.sandbox.release(each)  # the responses arrive while the database is down
    eventually(lambda: "OperationalError" in stack.log("worker"), "the worker notices")
    breakable.database.start()
    breakable.all_provisioned(assignments, operations)


def test_a_worker_that_is_told_to_stop_finishes_its_call(breakable: Breakable, stack: Stack) -> None:
    assignment, *_ = assignments = breakable.assignments(1)
    held = breakable.hold("hold_after", assignment)
    operations = breakable.provision(assignments)
    breakable.await_held(held)
    os.kill(stack.worker.pid, signal.SIGTERM)
    eventually(lambda: "Warm shutdown" in stack.log("worker"), "the worker begins its shutdown")
    assert stack.worker.is_alive
    breakable.sandbox.release(held)
    assert poll_until(lambda: not stack.worker.is_alive, 20)
    assert rows_of(stack.sessions, assignment.agent_id).state("twilio_trunk") == "DONE"
    stack.start_worker()
    breakable.all_provisioned(assignments, operations)
    list_calls = breakable.sandbox.requests(operation="twilio.list_trunks")
    assert (breakable.creates(assignment), list_calls) == (1, [])


def test_what_was_asked_for_while_no_worker_ran_is_done_when_one_starts(breakable: Breakable, stack: Stack) -> None:
    stack.worker.kill()
    assignments = breakable.assignments(QUEUED)
    operations = breakable.provision(assignments)
    stack.start_worker()
    breakable.all_provisioned(assignments, operations)
