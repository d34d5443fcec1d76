"""Shared trunks with real processes: many first posts at once, and the end of a trunk while a number comes."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from celery import Celery
from sqlalchemy import func, select, update

from app.db.models import Trunk
from app.domain.operations import PhoneStatus, TrunkState
from tests.e2e.assignments import new_assignment
from tests.e2e.invariants import ForeignObjects, check, check_all, check_pool
from tests.e2e.rows import rows_of, wait_until_finished
from tests.support.sandbox import Sandbox
from tests.support.stack import Stack, eventually

CLIENTS = 50


def trunks(stack: Stack) -> list[Trunk]:
    with stack.sessions.begin() as session:
        return list(session.scalars(select(Trunk).where(Trunk.state != TrunkState.GONE)))


def test_fifty_first_posts_at_once_make_one_trunk(
    stack: Stack, sandbox: Sandbox, foreign_objects: ForeignObjects
) -> None:
    assignments = [new_assignment(stack, sandbox) for _ in range(CLIENTS)]
    seen = max(each["seq"] for each in sandbox.requests())  # somebody else's trunk is made too
    stack.worker.pause()
    with ThreadPoolExecutor(CLIENTS) as clients:
        operations = list(clients.map(lambda one: stack.api.provision(one.agent_id, one.number), assignments))
    stack.worker.resume()
    wait_until_finished(stack, operations)
    check_all(stack.sessions, sandbox, assignments, PhoneStatus.PROVISIONED)
    (trunk,) = trunks(stack)
    assert {rows_of(stack.sessions, each.agent_id).agent.trunk_id for each in assignments} == {trunk.id}
    made = [each["operation"] for each in sandbox.requests(seen)]
    assert [made.count(f"twilio.{call}") for call in ("create_trunk", "create_origination_url")] == [1, 1]
    check_pool(stack.sessions, sandbox)


def test_a_number_that_comes_while_a_trunk_is_deleted_gets_another(
    stack: Stack, sandbox: Sandbox, foreign_objects: ForeignObjects
) -> None:
    last, next_one = new_assignment(stack, sandbox), new_assignment(stack, sandbox)
    wait_until_finished(stack, [stack.api.provision(last.agent_id, last.number)])
    wait_until_finished(stack, [stack.api.deprovision(last.agent_id)])
    (old,) = trunks(stack)
    with stack.sessions.begin() as session:
        session.execute(update(Trunk).values(emptied_at=func.now() - timedelta(days=2)))
    held = sandbox.fault("twilio.delete_trunk", "hold_before")
    with Celery(broker=stack.environ["REDIS_URL"]) as celery:
        for _ in range(3):  # one of them has the lease
            celery.send_task("upkeep.retire_trunk", [str(old.id)], queue="ops")
    eventually(lambda: sandbox.held(held), "the delete is held")
    wait_until_finished(stack, [stack.api.provision(next_one.agent_id, next_one.number)])
    sandbox.release(held)
    eventually(lambda: old.id not in {one.id for one in trunks(stack)}, "the old trunk is gone")
    check(stack.sessions, sandbox, next_one, PhoneStatus.PROVISIONED)
    check(stack.sessions, sandbox, last, PhoneStatus.NOT_PROVISIONED)
    (new,) = trunks(stack)
    assert rows_of(stack.sessions, next_one.agent_id).agent.trunk_id == new.id
    assert old.twilio_trunk_sid not in {one["sid"] for one in sandbox.state()["trunks"]}
    check_pool(stack.sessions, sandbox)
