"""The filled-in messages are what Celery itself would send, but for ids that are new each time."""

import base64
import json
import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from celery import Celery

from app.domain.statuses import Direction, OperationKind
from app.domain.steps import STEPS, steps_towards
from app.saga.chain_plan import Plan
from tests.support.broker import keys_of

Lead = Callable[[str], None]

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")
DOWN = tuple(step.name for step in STEPS)
UP = tuple(step.name for step in steps_towards(Direction.UNDO))
PLANS = {
    "provision": Plan(uuid.uuid4(), 0, OperationKind.PROVISION, Direction.DO, DOWN),
    "two messages": Plan(uuid.uuid4(), 0, OperationKind.REPAIR, Direction.DO, DOWN[1:]),
    "one step": Plan(uuid.uuid4(), 2, OperationKind.MOVE, Direction.DO, DOWN[-1:]),
    "rollback": Plan(uuid.uuid4(), 1, OperationKind.PROVISION, Direction.UNDO, UP),
    "deprovision": Plan(uuid.uuid4(), 0, OperationKind.DEPROVISION, Direction.UNDO, UP),
}


@pytest.fixture
def broker(broker_at: Lead, redis_url: str) -> Iterator[redis.Redis]:
    """A database of its own, where nobody reads."""
    url = redis_url.removesuffix("/0") + "/8"
    broker_at(url)
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        yield client
        client.flushdb()


def sent(broker: redis.Redis) -> dict[str, list[Any]]:
    """Return and remove the messages of each queue, oldest first."""
    queues = {}
    for name in (*keys_of("provision"), *keys_of("bulk"), "rollback", "ops"):
        raw = broker.lrange(name, 0, -1)[::-1]
        broker.delete(name)
        queues[name] = [_opened(json.loads(each)) for each in raw]
    return queues


def _opened(message: dict[str, Any]) -> dict[str, Any]:
    return {**message, "body": json.loads(base64.b64decode(message["body"]))}


def renamed(queues: dict[str, list[Any]], operation_id: uuid.UUID) -> str:
    """Write the queues down with every id but the operation's replaced by the order of its first appearance."""
    seen: dict[str, str] = {str(operation_id): "the operation"}
    return UUID.sub(lambda match: seen.setdefault(match[0], f"id {len(seen)}"), json.dumps(queues, sort_keys=True))


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_filled_in_message_is_what_celery_would_send(celery_app: Celery, broker: redis.Redis, plan: Plan) -> None:
    from tasks.provisioning import chain_of  # noqa: PLC0415  # reads the settings
    from tasks.publisher import ChainPublisher  # noqa: PLC0415

    chain_of(plan).apply_async(retry=False)
    by_celery = sent(broker)
    assert ChainPublisher().publish(plan) is True
    by_us = sent(broker)
    assert renamed(by_us, plan.operation_id) == renamed(by_celery, plan.operation_id)
    assert sum(map(len, by_us.values())) >= 1


def test_no_two_messages_share_an_id(celery_app: Celery) -> None:
    from tasks.letters import letters  # noqa: PLC0415  # reads the settings

    plan = PLANS["provision"]
    ids = []
    for _ in range(2):
        ((_, message),) = letters(plan)
        opened = _opened(json.loads(message))
        ids.append(set(UUID.findall(json.dumps(opened))) - {str(plan.operation_id)})
    assert len(ids[0]) == len(ids[1]) > len(STEPS)
    assert not ids[0] & ids[1]
