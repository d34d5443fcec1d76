"""What is put in place of Celery's and kombu's own code does what that does, and what it is there for."""

import base64
import json
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from celery import Celery
from kombu.transport import virtual

from app.domain.operations import STEPS, Direction, OperationKind, steps_towards
from app.saga.chain_plan import Plan
from tests.support.broker import keys_of
from tests.support.saga import ManualClock

Lead = Callable[[str], None]

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")
DOWN = tuple(step.name for step in STEPS)
UP = tuple(step.name for step in steps_towards(Direction.UNDO))
COMMANDS = 5

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
def test_a_filled_in_template_is_what_celery_would_send(celery_app: Celery, broker: redis.Redis, plan: Plan) -> None:
    from tasks.publisher import ChainPublisher  # noqa: PLC0415
    from tasks.steps import chain_of  # noqa: PLC0415  # reads the settings

    chain_of(plan).apply_async(retry=False)
    by_celery = sent(broker)
    assert ChainPublisher().publish(plan) is True
    by_us = sent(broker)
    assert renamed(by_us, plan.operation_id) == renamed(by_celery, plan.operation_id)
    assert sum(map(len, by_us.values())) >= 1


def test_no_two_messages_share_an_id(celery_app: Celery) -> None:
    from tasks.publisher import TEMPLATES  # noqa: PLC0415  # reads the settings

    plan = PLANS["provision"]
    ids = []
    for _ in range(2):
        ((_, message),) = TEMPLATES.messages_of(plan)
        opened = _opened(json.loads(message))
        ids.append(set(UUID.findall(json.dumps(opened))) - {str(plan.operation_id)})
    assert len(ids[0]) == len(ids[1]) > len(STEPS)
    assert not ids[0] & ids[1]


def test_a_channel_builds_one_client_for_each_pool(celery_app: Celery, broker_at: Lead, redis_url: str) -> None:
    from tasks.celery_patches import Transport  # noqa: PLC0415

    broker_at(redis_url)
    built: list[redis.Redis] = []
    with celery_app.connection() as connection:
        assert isinstance(connection.transport, Transport)
        assert connection.as_uri().startswith("redis://")
        channel = connection.default_channel
        make = channel.Client

        def build(**options: object) -> redis.Redis:
            built.append(make(**options))
            return built[-1]

        channel.Client = build
        for round_number in (1, 2):
            for _ in range(COMMANDS):
                channel._put("queue", {"properties": {"priority": 0}})
            assert len(built) == round_number
            channel._disconnect_pools()
        assert channel._size("queue") == 2 * COMMANDS


@dataclass
class Timer:
    """A call that the loop repeats."""

    every_s: float
    is_cancelled: bool = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Hub:
    """Celery's loop: runs what is to be done soon at once, and what is to be done later when it is told to."""

    def __init__(self) -> None:
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.timers: list[Timer] = []

    def call_soon(self, call: Callable[..., None], *args: object) -> None:
        call(*args)

    def call_later(self, delay_s: float, call: Callable[[], None]) -> None:
        self.later.append((delay_s, call))

    def call_repeatedly(self, delay_s: float, call: Callable[..., None], *args: object) -> Timer:
        self.timers.append(Timer(delay_s))
        return self.timers[-1]


class Dispatcher:
    """Counts what would be published."""

    on_send_buffered: Callable[[], None]
    flushes = 0

    def flush(self) -> None:
        self.flushes += 1


def test_events_of_one_moment_share_a_message_and_later_ones_get_another(
    celery_app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.celery_patches import EVENTS_S, EventBatching  # noqa: PLC0415

    clock = ManualClock()
    monkeypatch.setattr("tasks.celery_patches.time", SimpleNamespace(monotonic=clock))
    consumer = SimpleNamespace(hub=Hub(), event_dispatcher=Dispatcher())
    step = EventBatching(consumer)
    step.start(consumer)

    for share in (0, 0.5, 0.9, 1):  # of the wait, since the first
        clock.now = 1000 + share * EVENTS_S
        consumer.event_dispatcher.on_send_buffered()
        assert len(consumer.hub.later) == (2 if share == 1 else 1)
    assert consumer.event_dispatcher.flushes == 0

    for delay_s, flush in consumer.hub.later:
        assert delay_s == EVENTS_S
        flush()
    assert consumer.event_dispatcher.flushes == 2
    step.close(consumer)
    assert consumer.event_dispatcher.flushes == 3


def test_credit_that_was_lost_with_acknowledgements_is_freed_once_nothing_is_held(celery_app: Celery) -> None:
    from tasks.celery_patches import LostCreditCheck  # noqa: PLC0415

    qos = virtual.QoS(SimpleNamespace(), prefetch_count=2)
    qos.restore_at_shutdown = False
    qos.append("message", "one")
    qos.append("message", "two")
    state = SimpleNamespace(reserved_requests={"a task"}, active_requests=set())
    consumer = SimpleNamespace(
        hub=Hub(),
        controller=SimpleNamespace(state=state),
        task_consumer=SimpleNamespace(channel=SimpleNamespace(qos=qos)),
    )
    check = LostCreditCheck(consumer).check
    for _ in range(3):
        check(consumer)
        assert not qos.can_consume()  # a task is under way: its message counts
    state.reserved_requests.clear()
    check(consumer)
    assert not qos.can_consume()  # it may be acknowledged this very moment
    check(consumer)
    assert qos.can_consume()


def test_the_check_begins_anew_after_each_reconnection_and_runs_once(celery_app: Celery) -> None:
    from tasks.celery_patches import CREDIT_CHECK_S, LostCreditCheck  # noqa: PLC0415

    consumer = SimpleNamespace(hub=Hub())
    step = LostCreditCheck(consumer)
    for _ in range(2):
        step.start(consumer)
        (timer,) = [timer for timer in consumer.hub.timers if not timer.is_cancelled]
        assert timer.every_s == CREDIT_CHECK_S
    step.stop(consumer)
    assert all(timer.is_cancelled for timer in consumer.hub.timers)


def test_workers_run_both_steps(celery_app: Celery) -> None:
    from tasks.celery_patches import EventBatching, LostCreditCheck  # noqa: PLC0415

    assert {EventBatching, LostCreditCheck} <= celery_app.steps["consumer"]
