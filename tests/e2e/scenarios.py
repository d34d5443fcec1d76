"""Scenarios that must succeed with every protection on, and must fail with one of them switched off."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import redis

from app.db.models import Operation
from app.domain.events import Origin
from app.domain.operations import STEPS, Direction, TrunkMode
from app.wiring import Wiring
from tests.e2e.invariants import Assignment
from tests.e2e.rows import step_states
from tests.support.broker import keys_of
from tests.support.saga import FINISHED
from tests.support.sandbox import Sandbox
from tests.support.stack import Stack, eventually

TRUNK = "twilio_trunk"


def lose_every_message(
    stack: Stack, sandbox: Sandbox, under_way: Sequence[Assignment], queued: Sequence[Assignment]
) -> list[str]:
    """Flush Redis while some operations run and others wait for a worker; return the operations' ids."""
    sandbox.latency(twilio_ms=100, livekit_ms=100)
    operations = [stack.api.provision(each.agent_id, each.number) for each in under_way]
    eventually(lambda: "DONE" in step_states(stack.sessions, operations).values(), "the first steps are done")
    stack.worker.pause()
    operations += [stack.api.provision(each.agent_id, each.number) for each in queued]
    with redis.Redis.from_url(stack.environ["REDIS_URL"]) as client:
        assert any(client.llen(key) for key in keys_of("provision")), "nothing was queued"
        client.flushall()
    stack.worker.resume()
    sandbox.latency()
    return operations


def open_operation(wiring: Wiring, sandbox: Sandbox, number: str) -> tuple[Assignment, Operation]:
    """Create an agent with a trunk of its own, and a number, and request it, without any worker."""
    agent = wiring.agents.create(f"agent-{number[-4:]}", None, {}, trunk_mode=TrunkMode.DEDICATED)
    assignment = Assignment(str(agent.id), number, agent.name, sandbox.number(number))
    return assignment, wiring.provisioning.provision(agent.id, number, takeover=False, origin=Origin())


def run_until_done(wiring: Wiring, operation: Operation, *steps: str) -> None:
    """Run these steps (all by default) in this process, one after the other, waiting out every retry delay."""
    for step in steps or [each.name for each in STEPS]:

        def is_done(name: str = step) -> bool:
            return wiring.runner.run_step(operation.id, 0, name, Direction.DO).verdict in FINISHED

        eventually(is_done, f"{step} is done")


def deliver_twice(wiring: Wiring, sandbox: Sandbox, number: str) -> Assignment:
    """Run the step that creates the trunk a second time while the first call is at the provider; then run the rest."""
    assignment, operation = open_operation(wiring, sandbox, number)
    run_until_done(wiring, operation, STEPS[0].name)
    held = sandbox.fault("twilio.create_trunk", "hold_before", contains=assignment.agent_id)
    with ThreadPoolExecutor(2) as workers:
        first = workers.submit(wiring.runner.run_step, operation.id, 0, TRUNK, Direction.DO)
        eventually(lambda: sandbox.held(held), "the create is held")
        second = workers.submit(wiring.runner.run_step, operation.id, 0, TRUNK, Direction.DO)
        second.result()
        sandbox.release(held)
        first.result()
    run_until_done(wiring, operation)
    return assignment


def lose_a_response(wiring: Wiring, sandbox: Sandbox, number: str) -> Assignment:
    """Lose the response to the trunk's creation, and run the rest."""
    assignment, operation = open_operation(wiring, sandbox, number)
    sandbox.fault("twilio.create_trunk", "apply_then_drop", contains=assignment.agent_id)
    run_until_done(wiring, operation)
    return assignment
