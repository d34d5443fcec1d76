"""What Celery is told: plain queues, readable names, a queue of its own for clean-up, messages of ids only."""

import uuid

import pytest
from celery import Celery, group
from celery.canvas import Signature, _chain
from celery.exceptions import QueueNotFound

from app.domain.operations import STEPS, Direction, OperationKind, steps_towards
from app.domain.queues import QueueName
from app.saga.chain_plan import Plan
from tests.support.broker import keys_of

DOWN = [step.name for step in STEPS]
UP = [step.name for step in reversed(STEPS) if step.is_undone]

NAMES = {
    *(f"{way}.{name}" for way in ("provision", "repair", "move", "rehome", "update", "adopt") for name in DOWN),
    *(f"{way}.{name}" for way in ("rollback", "deprovision") for name in UP),
    "rollback.begin",
    "upkeep.audit",
    "upkeep.call",
    "upkeep.kick",
    "upkeep.retire_trunk",
    "upkeep.start_adoptions",
    "webhooks.deliver",
}


def test_every_task_has_a_name_that_says_what_it_does(celery_app: Celery) -> None:
    assert {name for name in celery_app.tasks if not name.startswith("celery.")} == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_every_task_goes_to_a_queue_that_a_worker_reads(celery_app: Celery, name: str) -> None:
    queues = {
        "provision": "provision",
        "repair": "provision",
        "move": "provision",
        "rehome": "provision",
        "update": "provision",
        "adopt": "provision",
        "upkeep": "ops",
        "webhooks": "ops",
    }
    queue = queues.get(name.split(".", 1)[0], "rollback")
    assert celery_app.amqp.router.route({}, name)["queue"].name == queue


def test_there_are_four_queues_and_a_wrong_name_makes_no_fifth(celery_app: Celery) -> None:
    assert list(celery_app.amqp.queues) == ["provision", "bulk", "rollback", "ops"]
    assert {queue.exchange.type for queue in celery_app.amqp.queues.values()} == {"direct"}
    with pytest.raises(QueueNotFound):
        celery_app.amqp.router.route({"queue": "provisoin"}, "provision.twilio_trunk")


def test_the_settings_that_the_saga_was_measured_with_hold(celery_app: Celery) -> None:
    conf = celery_app.conf
    assert (conf.result_backend, conf.task_ignore_result) == (None, True)
    assert (conf.task_acks_late, conf.task_reject_on_worker_lost) == (True, False)
    assert conf.broker_transport_options["socket_timeout"] <= 2
    assert conf.broker_transport_options["socket_connect_timeout"] <= 1
    assert conf.broker_connection_max_retries is None
    assert (conf.task_serializer, conf.accept_content) == ("json", ["json"])


@pytest.mark.parametrize(
    ("kind", "direction", "prefix"),
    [
        (OperationKind.PROVISION, Direction.UNDO, "rollback"),
        (OperationKind.DEPROVISION, Direction.UNDO, "deprovision"),
    ],
)
def test_a_chain_carries_ids_only_and_nothing_from_step_to_step(
    celery_app: Celery, kind: OperationKind, direction: Direction, prefix: str
) -> None:
    from tasks.steps import chain_of  # noqa: PLC0415  # reads the settings

    names = tuple(step.name for step in steps_towards(direction))
    plan = Plan(uuid.uuid4(), 3, kind, direction, names)
    chain = chain_of(plan)
    assert [each.task for each in chain.tasks] == [f"{prefix}.{name}" for name in names]
    assert {each.immutable for each in chain.tasks} == {True}
    assert {each.args for each in chain.tasks} == {(str(plan.operation_id), 3)}
    (errback,) = chain.options["link_error"]
    assert (errback.task, errback.args) == ("rollback.begin", (str(plan.operation_id),))


@pytest.mark.parametrize("done", range(len(STEPS) + 1))
@pytest.mark.parametrize("kind", [OperationKind.PROVISION, OperationKind.REPAIR, OperationKind.MOVE])
def test_on_the_way_down_two_branches_run_side_by_side_and_both_end_where_they_meet(
    celery_app: Celery, kind: OperationKind, done: int
) -> None:
    from tasks.steps import chain_of  # noqa: PLC0415  # reads the settings

    left = tuple(DOWN[done:])
    if not left:
        return
    lines = _lines(chain_of(Plan(uuid.uuid4(), 0, kind, Direction.DO, left)))
    for line in lines:
        assert line == [f"{kind}.{name}" for name in left if f"{kind}.{name}" in line]
        assert line[-1] == f"{kind}.verification"
    assert {name for line in lines for name in line} == {f"{kind}.{name}" for name in left}
    assert len(lines) == (2 if {"twilio_origination_url", "livekit_dispatch_rule"} <= set(left) else 1)


@pytest.mark.parametrize("is_bulk", [False, True])
def test_only_the_first_step_waits_behind_what_has_begun(celery_app: Celery, is_bulk: bool) -> None:
    from tasks.steps import FIRST_STEP_PRIORITY, chain_of  # noqa: PLC0415  # reads the settings

    plan = Plan(uuid.uuid4(), 0, OperationKind.PROVISION, Direction.DO, tuple(DOWN), is_bulk)
    assert _priorities(chain_of(plan)) == {"provision.twilio_number": FIRST_STEP_PRIORITY}
    assert not celery_app.conf.task_inherit_parent_priority


def _priorities(signature: Signature) -> dict[str, int]:
    """Every task of a canvas that names a priority."""
    if isinstance(signature, group | _chain):
        return {task: priority for member in signature.tasks for task, priority in _priorities(member).items()}
    return {signature.task: signature.options["priority"]} if "priority" in signature.options else {}


def _lines(signature: Signature) -> list[list[str]]:
    """Every way through a canvas, as the names of its tasks; each task must carry the error callback."""
    if isinstance(signature, group):
        return [line for member in signature.tasks for line in _lines(member)]
    if isinstance(signature, _chain):
        lines: list[list[str]] = [[]]
        for member in signature.tasks:
            lines = [before + after for before in lines for after in _lines(member)]
        return lines
    return [[signature.task]]


def _queues(signature: Signature) -> set[str | None]:
    """Every queue that the tasks of a canvas name themselves; None for one that is routed by its name."""
    if isinstance(signature, group | _chain):
        return {queue for member in signature.tasks for queue in _queues(member)}
    return {signature.options.get("queue")}


@pytest.mark.parametrize("done", range(len(STEPS)))
def test_every_step_down_of_a_bulk_waits_in_the_queue_of_bulks(celery_app: Celery, done: int) -> None:
    from tasks.steps import chain_of  # noqa: PLC0415  # reads the settings

    plan = Plan(uuid.uuid4(), 0, OperationKind.PROVISION, Direction.DO, tuple(DOWN[done:]), is_bulk=True)
    assert _queues(chain_of(plan)) == {"bulk"}


def test_the_way_up_of_a_bulk_is_clean_up_like_any_other(celery_app: Celery) -> None:
    from tasks.steps import chain_of  # noqa: PLC0415  # reads the settings

    plan = Plan(uuid.uuid4(), 1, OperationKind.PROVISION, Direction.UNDO, tuple(UP), is_bulk=True)
    assert _queues(chain_of(plan)) == {None}


def test_every_list_of_a_queue_is_counted() -> None:
    assert [list(queue.lists) for queue in QueueName] == [keys_of(queue) for queue in QueueName]
