"""What is done both with every protection on, where it must end well, and with one switched off, where it must not."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import redis

from app.db.models import Operation
from app.domain.events import Origin
from app.domain.statuses import Direction
from app.domain.steps import STEPS
from app.wiring import Wiring
from tests.e2e.invariants import Subject
from tests.e2e.rows import step_states
from tests.support.queue import keys_of
from tests.support.saga import FINISHED
from tests.support.sandbox import Sandbox
from tests.support.stack import Stack, eventually

TRUNK = "twilio_trunk"


def lose_every_message(
    stack: Stack, sandbox: Sandbox, under_way: Sequence[Subject], queued: Sequence[Subject]
) -> list[str]:
    """Flush Redis while some operations run and others wait for a worker; return the operations' ids."""
    sandbox.latency(twilio_ms=100, livekit_ms=100)
    operations = [stack.api.provision(each.agent_id, each.number) for each in under_way]
    eventually(lambda: "DONE" in step_states(stack.sessions, operations).values(), "they are under way")
    stack.worker.pause()
    operations += [stack.api.provision(each.agent_id, each.number) for each in queued]
    with redis.Redis.from_url(stack.environ["REDIS_URL"]) as client:
        assert any(client.llen(key) for key in keys_of("provision")), "nothing was queued"
        client.flushall()
    stack.worker.resume()
    sandbox.latency()
    return operations


def open_operation(wiring: Wiring, sandbox: Sandbox, number: str) -> tuple[Subject, Operation]:
    """Make an agent and a number, and ask for it, without any worker."""
    agent = wiring.agents.create(f"agent-{number[-4:]}", None, {})
    subject = Subject(str(agent.id), number, agent.name, sandbox.number(number))
    return subject, wiring.provisioning.provision(agent.id, number, takeover=False, origin=Origin())


def run_until_done(wiring: Wiring, operation: Operation, *steps: str) -> None:
    """Carry out these steps (all) in this process, one after the other, through every rest."""
    for step in steps or [each.name for each in STEPS]:

        def is_done(name: str = step) -> bool:
            return wiring.runner.run_step(operation.id, 0, name, Direction.DO).verdict in FINISHED

        eventually(is_done, f"{step} is done")


def deliver_twice(wiring: Wiring, sandbox: Sandbox, number: str) -> Subject:
    """Run the step that creates the trunk a second time while the first is at the provider; then go on to the end."""
    subject, operation = open_operation(wiring, sandbox, number)
    run_until_done(wiring, operation, STEPS[0].name)
    held = sandbox.fault("twilio.create_trunk", "hold_before", contains=subject.agent_id)
    with ThreadPoolExecutor(2) as workers:
        first = workers.submit(wiring.runner.run_step, operation.id, 0, TRUNK, Direction.DO)
        eventually(lambda: sandbox.held(held), "the create is held")
        second = workers.submit(wiring.runner.run_step, operation.id, 0, TRUNK, Direction.DO)
        second.result()
        sandbox.release(held)
        first.result()
    run_until_done(wiring, operation)
    return subject


def lose_an_answer(wiring: Wiring, sandbox: Sandbox, number: str) -> Subject:
    """Let the answer to the trunk's creation be lost, and go on to the end."""
    subject, operation = open_operation(wiring, sandbox, number)
    sandbox.fault("twilio.create_trunk", "apply_then_drop", contains=subject.agent_id)
    run_until_done(wiring, operation)
    return subject
