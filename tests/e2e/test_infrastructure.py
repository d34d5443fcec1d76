"""Redis and PostgreSQL on their worst days, under real processes; each test runs on servers that it may break."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest

from app.dev.localstack.machine import StackError
from app.dev.localstack.processes import poll_until
from app.dev.localstack.servers import PostgresServer, ValkeyServer
from app.domain.statuses import PhoneStatus
from tests.e2e.invariants import Foreigners, Subject, check
from tests.e2e.rows import finished, rows_of
from tests.e2e.scenarios import lose_every_message
from tests.e2e.subjects import SHARED, new_subject
from tests.support.sandbox import ControlledSandbox, Sandbox
from tests.support.servers import migrate, running_postgres, running_valkey
from tests.support.stack import Stack, eventually, running_stack

ACCEPT_S = 5
"""Seconds in which a POST is answered whatever Redis does: two socket timeouts of 2 s, and room."""

QUEUED = 80
"""Operations that wait for the first worker: more than it has threads, so that all of them publish at once."""


@dataclass(frozen=True)
class Fragile:
    """A stack on servers of its own, and what it runs on."""

    stack: Stack
    sandbox: Sandbox
    broker: ValkeyServer
    database: PostgresServer

    def subjects(self, count: int) -> list[Subject]:
        """Make agents and numbers."""
        return [new_subject(self.stack, self.sandbox) for _ in range(count)]

    def provision(self, subjects: list[Subject]) -> list[str]:
        """Ask for all their numbers."""
        return [self.stack.api.provision(each.agent_id, each.number) for each in subjects]

    def hold(self, kind: str, subject: Subject) -> str:
        """Hold the creation of this agent's trunk, before or after it is applied."""
        return self.sandbox.fault("twilio.create_trunk", kind, contains=subject.agent_id)

    def await_held(self, fault_id: str) -> None:
        """Wait until the held request is there."""
        eventually(lambda: self.sandbox.held(fault_id), "the request is held")

    def all_provisioned(self, subjects: list[Subject], operation_ids: list[str]) -> None:
        """Wait for the end, and check it."""
        finished(self.stack, operation_ids)
        for each in subjects:
            check(self.stack.sessions, self.sandbox, each, PhoneStatus.PROVISIONED)

    def creates(self, subject: Subject) -> int:
        """Count the trunks that were made for this agent."""
        requests = self.sandbox.requests(operation="twilio.create_trunk")
        return sum(subject.agent_id in str(request["body"]) for request in requests)


@pytest.fixture(scope="module")
def fragile_servers(sandbox_server: ControlledSandbox) -> Iterator[Fragile]:
    with running_postgres() as database, running_valkey(durable=True) as broker:
        database.create_database("trunkline")
        migrate(database.url())
        with running_stack(database.url(), broker.url, sandbox_server.control, SHARED) as stack:
            yield Fragile(stack, sandbox_server.control, broker, database)


@pytest.fixture
def fragile(fragile_servers: Fragile, sandbox: Sandbox, foreigners: Foreigners) -> Iterator[Fragile]:
    """The servers to break, over an emptied sandbox; whatever the test has left broken is mended."""
    yield fragile_servers
    for server in (fragile_servers.broker, fragile_servers.database):
        with suppress(StackError):
            server.resume()
        if not server.process.is_alive:
            server.start()
    if not fragile_servers.stack.worker.is_alive:
        fragile_servers.stack.start_worker()


@pytest.fixture
def stack(fragile: Fragile) -> Stack:
    """For the log lines of a test that fails."""
    return fragile.stack


def test_redis_flushed_in_mid_flight_loses_no_operation(fragile: Fragile, stack: Stack) -> None:
    under_way, queued = fragile.subjects(4), fragile.subjects(4)
    operations = lose_every_message(stack, fragile.sandbox, under_way, queued)
    fragile.all_provisioned(under_way + queued, operations)


def test_a_worker_lives_through_the_death_of_redis_with_a_task_in_flight(fragile: Fragile, stack: Stack) -> None:
    pid, subjects = stack.worker.pid, fragile.subjects(3)
    held = fragile.hold("hold_after", subjects[0])
    operations = fragile.provision(subjects)
    fragile.await_held(held)
    fragile.broker.kill()
    eventually(lambda: "Cannot connect to redis" in stack.log("worker"), "the worker notices")
    fragile.sandbox.release(held)
    eventually(lambda: rows_of(stack.sessions, subjects[0].agent_id).state("twilio_trunk") == "DONE", "it is stored")
    late = fragile.subjects(1)
    operations += fragile.provision(late)
    fragile.broker.start()
    fragile.all_provisioned(subjects + late, operations)
    assert stack.worker.is_alive
    assert stack.worker.pid == pid
    assert fragile.creates(subjects[0]) == 1


@pytest.mark.parametrize("is_fresh", [False, True], ids=["connected before", "just started"])
def test_a_post_is_answered_within_seconds_while_redis_hangs(fragile: Fragile, stack: Stack, is_fresh: bool) -> None:
    if is_fresh:
        stack.web.kill()
        stack.start_web()
    else:
        finished(stack, fragile.provision(fragile.subjects(1)))
    subjects = fragile.subjects(2)
    fragile.broker.pause()
    operations, took_s = [], []
    for each in subjects:
        began = time.monotonic()
        operations += fragile.provision([each])
        took_s.append(time.monotonic() - began)
    fragile.broker.resume()
    assert max(took_s) < ACCEPT_S, took_s
    fragile.all_provisioned(subjects, operations)


@pytest.mark.parametrize("is_killed", [False, True], ids=["restarted", "killed"])
def test_postgresql_going_away_in_mid_flight_costs_no_operation(
    fragile: Fragile, stack: Stack, is_killed: bool
) -> None:
    fragile.sandbox.latency(twilio_ms=50, livekit_ms=50)
    subjects = fragile.subjects(6)
    held = [fragile.hold(kind, each) for kind, each in zip(("hold_before", "hold_after"), subjects, strict=False)]
    operations = fragile.provision(subjects)
    for each in held:
        fragile.await_held(each)
    if is_killed:
        fragile.database.kill()
    else:
        fragile.database.stop()
    for each in held:
        fragile.sandbox.release(each)  # the answers meet a database that is not there
    eventually(lambda: "OperationalError" in stack.log("worker"), "the worker notices")
    fragile.database.start()
    fragile.all_provisioned(subjects, operations)


def test_a_worker_that_is_told_to_stop_finishes_its_call(fragile: Fragile, stack: Stack) -> None:
    subject, *_ = subjects = fragile.subjects(1)
    held = fragile.hold("hold_after", subject)
    operations = fragile.provision(subjects)
    fragile.await_held(held)
    os.kill(stack.worker.pid, signal.SIGTERM)
    eventually(lambda: "Warm shutdown" in stack.log("worker"), "the worker has heard it")
    assert stack.worker.is_alive
    fragile.sandbox.release(held)
    assert poll_until(lambda: not stack.worker.is_alive, 20)
    assert rows_of(stack.sessions, subject.agent_id).state("twilio_trunk") == "DONE"
    stack.start_worker()
    fragile.all_provisioned(subjects, operations)
    looks = fragile.sandbox.requests(operation="twilio.list_trunks")
    assert (fragile.creates(subject), looks) == (1, [])


def test_what_was_asked_for_while_no_worker_ran_is_done_when_one_starts(fragile: Fragile, stack: Stack) -> None:
    stack.worker.kill()
    subjects = fragile.subjects(QUEUED)
    operations = fragile.provision(subjects)
    stack.start_worker()
    fragile.all_provisioned(subjects, operations)
