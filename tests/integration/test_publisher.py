"""Publishing on a real broker: what lies in which queue, and how long a broker that does not answer may cost."""

import socket
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import redis
from celery import Celery
from kombu import Consumer, Message

from app.dev.localstack.servers import ValkeyServer
from app.domain.operations import Direction, OperationKind, steps_towards
from app.saga.chain_plan import Plan
from tests.support.broker import messages

LIMIT_S = 4.0
"""Seconds that a request may lose to a broker that is down."""

AT_ONCE_S = 0.2
QUEUES = ("provision", "bulk", "rollback", "ops")

DOWN = Plan(
    uuid.uuid4(),
    0,
    OperationKind.PROVISION,
    Direction.DO,
    tuple(step.name for step in steps_towards(Direction.DO)),
)
UNDO = tuple(step.name for step in steps_towards(Direction.UNDO))
ROLLBACK = Plan(uuid.uuid4(), 1, OperationKind.PROVISION, Direction.UNDO, UNDO)
DEPROVISION = Plan(uuid.uuid4(), 0, OperationKind.DEPROVISION, Direction.UNDO, UNDO)
BULK = Plan(uuid.uuid4(), 0, OperationKind.PROVISION, Direction.DO, ("verification",), is_bulk=True)
LAST = Plan(uuid.uuid4(), 0, OperationKind.PROVISION, Direction.DO, ("verification",))

BRANCHES = ["celery.group"]
"""What follows the first step of a way down: the two branches, as one group."""

Lead = Callable[[str], None]


@pytest.fixture
def redis_url(redis_url: str) -> Iterator[str]:
    """A database of its own: workers of other tests may be listening on the shared one."""
    url = redis_url.removesuffix("/0") + "/9"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        yield url
        client.flushdb()


@pytest.fixture
def publisher(celery_app: Celery) -> object:
    from tasks.publisher import ChainPublisher  # noqa: PLC0415  # reads the settings

    return ChainPublisher()


def took(publisher: object, plan: Plan) -> tuple[bool, float]:
    start = time.monotonic()
    return publisher.publish(plan), time.monotonic() - start


@pytest.mark.parametrize(
    ("plan", "queue", "prefix"),
    [(DOWN, "provision", "provision"), (ROLLBACK, "rollback", "rollback"), (DEPROVISION, "rollback", "deprovision")],
    ids=["provision", "rollback", "deprovision"],
)
def test_a_plan_is_one_message_in_its_own_queue(
    publisher: object, broker_at: Lead, redis_url: str, plan: Plan, queue: str, prefix: str
) -> None:
    broker_at(redis_url)
    assert publisher.publish(plan) is True
    first, *rest = [f"{prefix}.{step}" for step in plan.steps]
    if plan is DOWN:
        rest = BRANCHES
    waiting = {name: messages(redis_url, name) for name in QUEUES}
    expected = {
        "task": first,
        "args": [str(plan.operation_id), plan.epoch],
        "rest": rest,
        "errbacks": ["rollback.begin"],
    }
    assert waiting == {name: [expected] if name == queue else [] for name in QUEUES}


def test_a_hint_about_a_webhook_is_one_message_with_its_id_only(
    publisher: object, broker_at: Lead, redis_url: str
) -> None:
    broker_at(redis_url)
    endpoint_id = uuid.uuid4()
    assert publisher.publish_webhooks(endpoint_id) is True
    (message,) = messages(redis_url, "ops")
    assert (message["task"], message["args"]) == ("webhooks.deliver", [str(endpoint_id)])


def test_a_plan_of_one_step_has_its_error_callback_too(publisher: object, broker_at: Lead, redis_url: str) -> None:
    broker_at(redis_url)
    assert publisher.publish(LAST) is True
    (message,) = messages(redis_url, "provision")
    assert (message["task"], message["errbacks"]) == ("provision.verification", ["rollback.begin"])


def test_a_plan_without_steps_is_not_published(publisher: object, broker_at: Lead, redis_url: str) -> None:
    broker_at(redis_url)
    assert publisher.publish(Plan(uuid.uuid4(), 0, OperationKind.PROVISION, Direction.DO, ())) is False
    assert [messages(redis_url, name) for name in QUEUES] == [[], [], [], []]


def test_a_flush_does_not_take_the_queues_away(publisher: object, broker_at: Lead, redis_url: str) -> None:
    broker_at(redis_url)
    assert publisher.publish(DOWN) is True
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
    assert publisher.publish(DOWN) is True
    assert len(messages(redis_url, "provision")) == 1


@pytest.fixture
def silent_port() -> Iterator[socket.socket]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def refused_url(silent_port: socket.socket) -> str:
    """A port that nobody listens on any more."""
    port = silent_port.getsockname()[1]
    silent_port.close()
    return f"redis://127.0.0.1:{port}/0"


def test_a_broker_that_refuses_costs_next_to_nothing(publisher: object, broker_at: Lead, refused_url: str) -> None:
    broker_at(refused_url)
    published, seconds = took(publisher, DOWN)
    assert not published
    assert seconds < LIMIT_S / 2


def test_a_broker_that_hangs_costs_seconds_once(publisher: object, broker_at: Lead, silent_port: socket.socket) -> None:
    broker_at(f"redis://127.0.0.1:{silent_port.getsockname()[1]}/0")
    published, seconds = took(publisher, DOWN)
    assert not published
    assert seconds < LIMIT_S
    published, seconds = took(publisher, DOWN)
    assert not published
    assert seconds < AT_ONCE_S


def test_a_broker_that_freezes_on_an_open_connection_costs_no_more(
    publisher: object, broker_at: Lead, own_valkey: ValkeyServer
) -> None:
    broker_at(own_valkey.url)
    assert publisher.publish(DOWN) is True
    own_valkey.pause()
    published, seconds = took(publisher, DOWN)
    own_valkey.resume()
    assert not published
    assert seconds < LIMIT_S


def test_the_silence_after_a_failure_lasts_two_seconds(
    publisher: object, broker_at: Lead, refused_url: str, redis_url: str
) -> None:
    broker_at(refused_url)
    assert publisher.publish(DOWN) is False
    assert 1 < publisher._silent_until - time.monotonic() <= 2
    broker_at(redis_url)
    assert publisher.publish(DOWN) is False
    assert messages(redis_url, "provision") == []
    publisher._silent_until = time.monotonic()
    assert publisher.publish(DOWN) is True
    assert len(messages(redis_url, "provision")) == 1


def test_a_worker_takes_from_the_first_queue_of_its_list_that_has_a_message(
    publisher: object, celery_app: Celery, broker_at: Lead, redis_url: str
) -> None:
    broker_at(redis_url)
    for plan in (BULK, BULK, BULK, LAST, LAST, LAST):
        assert publisher.publish(plan) is True
    seen: list[str] = []

    def take(_body: object, message: Message) -> None:
        seen.append(message.delivery_info["routing_key"])
        message.ack()

    with celery_app.connection_for_read() as connection:
        queues = [celery_app.amqp.queues[name] for name in ("provision", "bulk")]
        with Consumer(connection, queues, callbacks=[take], prefetch_count=1):
            for _ in range(6):
                connection.drain_events(timeout=5)
    assert seen == ["provision"] * 3 + ["bulk"] * 3


@pytest.fixture
def background(publisher: object) -> object:
    from tasks.publisher import BackgroundPublisher  # noqa: PLC0415  # reads the settings

    return BackgroundPublisher(publisher)


def test_a_broker_that_hangs_keeps_nobody_waiting_in_the_background(
    background: object, broker_at: Lead, silent_port: socket.socket
) -> None:
    broker_at(f"redis://127.0.0.1:{silent_port.getsockname()[1]}/0")
    for _ in range(3):
        published, seconds = took(background, DOWN)
        assert published
        assert seconds < AT_ONCE_S


def test_what_was_taken_is_published_in_its_order_before_the_process_ends(
    background: object, broker_at: Lead, redis_url: str
) -> None:
    broker_at(redis_url)
    plans = [replace(DOWN, operation_id=uuid.uuid4()) for _ in range(120)]
    for plan in plans:
        assert background.publish(plan) is True
    background.flush()
    sent = [message["args"][0] for message in messages(redis_url, "provision")]
    assert sent == [str(plan.operation_id) for plan in plans]


def test_the_thread_survives_a_plan_that_cannot_be_written(background: object, broker_at: Lead, redis_url: str) -> None:
    broker_at(redis_url)
    background.publish(replace(DOWN, steps=("no_such_step",)))
    background.flush()
    background.publish(DOWN)
    background.flush()
    assert len(messages(redis_url, "provision")) == 1
