"""Several at once: deliveries of one step, a cancellation and a slow create, clients and one number."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from celery import Celery
from redis import Redis

from app.domain.operations import OperationStatus, PhoneStatus, TrunkMode
from app.domain.queues import QueueName
from tests.e2e.assignments import SHARED_TIMINGS, new_assignment
from tests.e2e.cases import DO_POINTS, CallPoint
from tests.e2e.invariants import Assignment, ForeignObjects, check, check_created_once
from tests.e2e.rows import rows_of, step_states, wait_until_finished
from tests.support.sandbox import Sandbox
from tests.support.stack import Stack, eventually

CLIENTS = 50
DELIVERIES = 5

WRITES = tuple(point for point in DO_POINTS if point.mark in {"agent", "number_sid"})
"""The four creates and the attachment."""

LATE_S = SHARED_TIMINGS.provider_timeout * 1.15
"""Seconds after which a write is applied whose sender has timed out: within the quiet period of 1.2 timeouts."""


def test_one_step_delivered_again_and_again_makes_one_trunk(
    stack: Stack, sandbox: Sandbox, foreign_objects: ForeignObjects
) -> None:
    assignment = new_assignment(stack, sandbox, TrunkMode.DEDICATED)
    held = sandbox.fault("twilio.create_trunk", "hold_before", contains=assignment.agent_id)
    operation_id = stack.api.provision(assignment.agent_id, assignment.number)
    eventually(lambda: sandbox.held(held), "the create is held")
    with Celery(broker=stack.environ["REDIS_URL"]) as celery:
        arguments = [operation_id, 0]
        for _ in range(DELIVERIES):
            celery.send_task("provision.twilio_trunk", arguments, queue="provision")
    with Redis.from_url(stack.environ["REDIS_URL"]) as broker:
        # What a worker has taken and not finished is in kombu's hash; only the task whose call is held stays there.
        waiting = QueueName.PROVISION.lists
        eventually(lambda: not broker.exists(*waiting) and broker.hlen("unacked") == 1, "all are refused")
    sandbox.release(held)
    wait_until_finished(stack, [operation_id])
    check(stack.sessions, sandbox, assignment, PhoneStatus.PROVISIONED)
    check_created_once(sandbox, assignment)


def test_the_whole_chain_published_many_times_at_once_runs_once(
    stack: Stack, sandbox: Sandbox, foreign_objects: ForeignObjects
) -> None:
    assignment = new_assignment(stack, sandbox, TrunkMode.DEDICATED)
    stack.worker.pause()
    operation_id = stack.api.provision(assignment.agent_id, assignment.number)
    for _ in range(DELIVERIES):
        stack.api.retry(operation_id)
    stack.worker.resume()
    wait_until_finished(stack, [operation_id])
    check(stack.sessions, sandbox, assignment, PhoneStatus.PROVISIONED)
    check_created_once(sandbox, assignment)


def test_a_cancellation_during_a_write_leaves_nothing(
    stack: Stack, sandbox: Sandbox, foreign_objects: ForeignObjects, subtests: pytest.Subtests
) -> None:
    """For every write: held until after the cancellation, before or after it is applied."""
    cancelled = [
        start_slow_write(stack, sandbox, write, kind) for write in WRITES for kind in ("hold_before", "hold_after")
    ]
    eventually(lambda: all(each["held"] for each in sandbox.faults()), "every write is under way")
    for each in cancelled:
        stack.api.deprovision(each.assignment.agent_id)
    for each in cancelled:
        sandbox.release(each.fault)
    check_cancelled(stack, sandbox, cancelled, subtests)


def test_a_write_that_is_applied_after_a_timeout_and_a_cancellation_leaves_nothing(
    stack: Stack, sandbox: Sandbox, foreign_objects: ForeignObjects, subtests: pytest.Subtests
) -> None:
    """The rollback is published the moment the call times out: it must wait until nothing can be applied any more."""
    cancelled = [start_slow_write(stack, sandbox, write, "slow") for write in WRITES]
    eventually(lambda: all(each["hits"] for each in sandbox.faults()), "every write is under way")
    for each in cancelled:
        stack.api.deprovision(each.assignment.agent_id)
    waiting = {each.operation_id: each.write.step for each in cancelled}
    with Celery(broker=stack.environ["REDIS_URL"]) as celery:

        def all_republished() -> bool:
            states = step_states(stack.sessions, list(waiting))
            for operation_id, step in list(waiting.items()):
                if states[operation_id, step] != "RUNNING":
                    del waiting[operation_id]
                    celery.send_task("upkeep.kick", [operation_id], queue="ops")
            return not waiting

        eventually(all_republished, "every call times out")
    check_cancelled(stack, sandbox, cancelled, subtests)


@dataclass(frozen=True)
class CancelledWrite:
    """An operation that is cancelled while a write of it is at the provider."""

    write: CallPoint
    kind: str
    assignment: Assignment
    fault: str
    operation_id: str


def start_slow_write(stack: Stack, sandbox: Sandbox, write: CallPoint, kind: str) -> CancelledWrite:
    """Start an operation with a slow write, for an agent with a trunk of its own."""
    assignment = new_assignment(stack, sandbox, TrunkMode.DEDICATED)
    mark = assignment.agent_id if write.mark == "agent" else assignment.before["sid"]
    fault = sandbox.fault(write.operation, kind, contains=mark, seconds=LATE_S)
    return CancelledWrite(write, kind, assignment, fault, stack.api.provision(assignment.agent_id, assignment.number))


def check_cancelled(stack: Stack, sandbox: Sandbox, cancelled: list[CancelledWrite], subtests: pytest.Subtests) -> None:
    """Wait for the end of all, and check each."""
    wait_until_finished(stack, [each.operation_id for each in cancelled])
    for each in cancelled:
        with subtests.test(f"{each.write.operation}, {each.kind}"):
            check(stack.sessions, sandbox, each.assignment, PhoneStatus.NOT_PROVISIONED)
            assert rows_of(stack.sessions, each.assignment.agent_id).operation.status is OperationStatus.CANCELLED


def test_of_fifty_agents_that_request_one_number_at_once_one_gets_it(stack: Stack, sandbox: Sandbox) -> None:
    assignments = [new_assignment(stack, sandbox) for _ in range(CLIENTS)]
    wanted = assignments[0].number
    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = list(clients.map(lambda each: stack.api.post_number(each.agent_id, wanted), assignments))
    outcomes = Counter((status, body.get("code")) for status, body in answers)
    assert outcomes == {(202, None): 1, (409, "number_in_use"): CLIENTS - 1}
    winner = next(each for each, (status, _) in zip(assignments, answers, strict=True) if status == 202)
    wait_until_finished(stack, [body["operationId"] for status, body in answers if status == 202])
    connected = Assignment(winner.agent_id, wanted, winner.name, assignments[0].before)
    check(stack.sessions, sandbox, connected, PhoneStatus.PROVISIONED)
    assert len(sandbox.state()["trunks"]) == 1


def test_of_fifty_posts_for_one_agent_at_once_one_is_taken(stack: Stack, sandbox: Sandbox) -> None:
    assignment = new_assignment(stack, sandbox, TrunkMode.DEDICATED)
    with ThreadPoolExecutor(CLIENTS) as clients:
        answers = list(
            clients.map(lambda _: stack.api.post_number(assignment.agent_id, assignment.number), range(CLIENTS))
        )
    assert Counter(status for status, _ in answers) == {202: 1, 409: CLIENTS - 1}
    codes = {body["code"] for status, body in answers if status == 409}
    assert codes <= {"operation_in_progress", "agent_has_phone"}
    wait_until_finished(stack, [body["operationId"] for status, body in answers if status == 202])
    check(stack.sessions, sandbox, assignment, PhoneStatus.PROVISIONED)
    check_created_once(sandbox, assignment)
