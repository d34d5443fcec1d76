"""A dead receiver, a killed worker and an empty queue lose no webhook, with real processes on all sides."""

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest
import redis
from sqlalchemy import func, select, update

from app.db.webhooks import WebhookDelivery, WebhookEndpoint
from app.dev.localstack.processes import free_port
from app.dev.localstack.servers import ValkeyServer
from app.domain.events import DeliveryStatus
from tests.e2e.assignments import SHARED_TIMINGS, new_assignment
from tests.e2e.rows import wait_until_finished
from tests.support.receiver import LOOPBACK, receiver
from tests.support.sandbox import Sandbox
from tests.support.scripted_server import Hang
from tests.support.servers import running_valkey
from tests.support.stack import Stack, eventually, running_stack, services_of

NUMBERS = 5


@pytest.fixture
def broker() -> Iterator[ValkeyServer]:
    with running_valkey() as server:
        yield server


@pytest.fixture
def stack(make_database: Callable[[], str], broker: ValkeyServer, sandbox: Sandbox) -> Iterator[Stack]:
    """A stack of this test's own, whose webhooks may go to loopback."""
    with running_stack(make_database(), broker.url, sandbox, SHARED_TIMINGS, start=False) as stack:
        stack.environ["WEBHOOK_ALLOWED_NETWORKS"] = LOOPBACK
        stack.start()
        yield stack


def deliveries(stack: Stack) -> list[WebhookDelivery]:
    with stack.sessions() as session:
        return list(session.scalars(select(WebhookDelivery).order_by(WebhookDelivery.created_at)))


def make_everything_due(stack: Stack) -> None:
    """Make every delay and lease end now: the schedule of retries takes hours."""
    before = func.now() - timedelta(seconds=1)
    with stack.sessions.begin() as session:
        session.execute(update(WebhookEndpoint).values(wake_at=before))  # first, as everybody locks them
        pending = update(WebhookDelivery).where(WebhookDelivery.status == DeliveryStatus.PENDING)
        session.execute(pending.values(next_at=before, lease_until=before))


def all_delivered(stack: Stack, count: int) -> bool:
    statuses = [each.status for each in deliveries(stack)]
    return statuses == [DeliveryStatus.DELIVERED] * count


def test_a_dead_receiver_loses_nothing(stack: Stack, broker: ValkeyServer, sandbox: Sandbox) -> None:
    port = free_port()
    with services_of(stack.environ) as wiring:
        secret = wiring.webhooks.create(f"http://127.0.0.1:{port}/hook", None, None).secret
    assignments = [new_assignment(stack, sandbox) for _ in range(NUMBERS)]

    # Nothing listens at the address.
    operations = [stack.api.provision(each.agent_id, each.number) for each in assignments]
    wait_until_finished(stack, operations)
    eventually(lambda: all(each.error for each in deliveries(stack)), "every message is tried")
    assert {(each.status, each.error) for each in deliveries(stack)} == {(DeliveryStatus.PENDING, "connection_failed")}
    assert len(deliveries(stack)) == NUMBERS

    # A receiver takes the first message, and the worker is killed before it has the response.
    with receiver(port, secret) as first_receiver:
        first_receiver.server.answer(*[Hang()] * NUMBERS)
        make_everything_due(stack)
        eventually(lambda: first_receiver.server.seen, "a message is under way")
        stack.worker.kill()
        assert first_receiver.messages()
    with redis.Redis.from_url(broker.url) as client:
        client.flushall()
    make_everything_due(stack)
    stack.start_worker()

    with receiver(port, secret) as second_receiver:
        eventually(
            lambda: [make_everything_due(stack), all_delivered(stack, NUMBERS)][1], lambda: str(deliveries(stack))
        )
        messages = second_receiver.messages()
        assert {each.id for each in messages} == {each.message_id for each in deliveries(stack)}
        assert sorted({each.data["operationId"] for each in messages}) == sorted(operations)

        # From here on nothing fails: one message, delivered once.
        second_receiver.server.seen.clear()
        wait_until_finished(stack, [stack.api.deprovision(assignments[0].agent_id)])
        eventually(lambda: all_delivered(stack, NUMBERS + 1), lambda: str(deliveries(stack)))
        (message,) = second_receiver.messages()
        assert (message.type, message.data["phoneNumber"]) == ("phone.deprovisioned", assignments[0].number)
    for name in ("web", "worker", "sweeper"):
        assert secret not in stack.log(name)
        assert assignments[0].number not in stack.log(name)
