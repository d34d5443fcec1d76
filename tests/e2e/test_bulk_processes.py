"""Bulks with real processes: killed in the middle, cancelled, resumed; every number is connected exactly once."""

import itertools
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import pytest
import redis
from sqlalchemy import func, select, update

from app.db.models import Operation
from app.dev.localstack.servers import ValkeyServer
from app.path.spec import TrunkSpec
from app.sweeper import MOVING
from tests.e2e.assignments import SHARED_TIMINGS, next_number
from tests.support.sandbox import ControlledSandbox, Sandbox, running_sandbox
from tests.support.servers import running_valkey
from tests.support.stack import Stack, Timings, eventually, running_stack, services_of

SIZE = 16

BULK_TIMEOUT_S = 180.0
"""Seconds for a whole bulk: 10 as a rule, a kill included; its numbers share two cores with all other tests."""

_names = itertools.count(1)

NewStack = Callable[..., AbstractContextManager[Stack]]


@pytest.fixture(scope="module")
def sandbox_server() -> Iterator[ControlledSandbox]:
    """A sandbox that no other stack asks for anything: its requests are counted."""
    with running_sandbox() as server:
        yield server


@pytest.fixture(scope="module")
def broker() -> Iterator[ValkeyServer]:
    with running_valkey() as server:
        yield server


@pytest.fixture
def new_stack(make_database: Callable[[], str], broker: ValkeyServer, sandbox: Sandbox) -> NewStack:
    """Make a stack over the emptied sandbox and an emptied broker."""

    def make(timings: Timings = SHARED_TIMINGS, *, start: bool = True) -> AbstractContextManager[Stack]:
        with redis.Redis.from_url(broker.url) as client:
            client.flushall()
        return running_stack(make_database(), broker.url, sandbox, timings, start=start)

    return make


def item(number: str) -> dict[str, Any]:
    return {"agent": {"name": f"bulk-{next(_names)}"}, "phoneNumber": number}


def numbers(count: int) -> list[str]:
    return [next_number() for _ in range(count)]


def start(stack: Stack, wanted: list[str]) -> str:
    """Post a bulk; return its status URL."""
    status, body = stack.api.call("POST", "/api/provisionings", {"items": [item(number) for number in wanted]})
    assert status == 202, body
    return str(body["statusUrl"])


def read_bulk(stack: Stack, url: str) -> dict[str, Any]:
    status, body = stack.api.call("GET", url)
    assert status == 200, body
    return dict(body)


def wait_until_bulk_finished(stack: Stack, url: str) -> dict[str, Any]:
    """Return the bulk once it has finished."""
    eventually(
        lambda: read_bulk(stack, url)["finishedAt"], lambda: f"the bulk ends: {read_bulk(stack, url)}", BULK_TIMEOUT_S
    )
    return read_bulk(stack, url)


LEASES_END = timedelta(seconds=4)
"""After which nothing is held that a worker with a provider timeout of 1 s held: its leases, and a sweeper's margin."""


def wait_out_a_kill(stack: Stack, url: str) -> dict[str, Any]:
    """Return the bulk once it has finished; a sweeper looks within four seconds for what the dead worker had.

    By itself it gives a bulk's messages half a minute, each time that one step of an operation goes on, and what waits
    in the queue as long after the last start.
    """
    started = update(Operation).where(Operation.started_at.is_not(None))
    with stack.sessions.begin() as session:
        session.execute(started.values(started_at=Operation.started_at - MOVING))

    def is_finished() -> bool:
        soon = func.now() + LEASES_END
        late = select(Operation.id).where(Operation.wake_at > soon).with_for_update(skip_locked=True)
        with stack.sessions.begin() as session:
            session.execute(update(Operation).where(Operation.id.in_(late)).values(wake_at=soon))
        return bool(read_bulk(stack, url)["finishedAt"])

    eventually(is_finished, lambda: f"the bulk ends: {read_bulk(stack, url)}", BULK_TIMEOUT_S)
    return read_bulk(stack, url)


def items(stack: Stack, url: str) -> list[dict[str, Any]]:
    return list(stack.api.call("GET", f"{url}/items?limit=200")[1]["items"])


def assert_each_is_connected_once(sandbox: Sandbox, wanted: list[str]) -> None:
    """Each number reaches its agent, over a trunk that all share, and one LiveKit trunk and one rule of its own."""
    assert all(sandbox.call(number)["reaches"] for number in wanted)
    state = sandbox.state()
    assert (len(state["trunks"]), len(state["originationUrls"])) == (1, 1)
    assert (len(state["livekitTrunks"]), len(state["livekitRules"])) == (len(wanted), len(wanted))


def test_a_bulk_survives_the_death_of_its_worker_and_its_sweeper(new_stack: NewStack, sandbox: Sandbox) -> None:
    wanted = numbers(SIZE)
    sandbox.numbers(wanted)
    sandbox.latency(twilio_ms=30, livekit_ms=20)
    with new_stack(Timings(provider_timeout=1)) as stack:
        url = start(stack, wanted)
        eventually(lambda: read_bulk(stack, url)["counts"]["running"], "items begin")
        eventually(lambda: len(sandbox.state()["livekitTrunks"]) >= 3, "the first trunks are made")
        stack.worker.kill()
        stack.sweeper.kill()
        stack.start_sweeper()
        stack.start_worker()

        assert wait_out_a_kill(stack, url)["status"] == "succeeded"
        assert_each_is_connected_once(sandbox, wanted)
        assert len({each["operationId"] for each in items(stack, url)}) == SIZE


def test_a_bulk_that_is_cancelled_before_a_sweeper_runs_can_be_resumed(new_stack: NewStack, sandbox: Sandbox) -> None:
    wanted = numbers(6)
    sandbox.numbers(wanted[:-1])
    with new_stack(start=False) as stack:
        stack.start_web()
        url = start(stack, wanted)
        status, cancelled = stack.api.call("POST", f"{url}/cancel")
        assert (status, cancelled["status"], cancelled["counts"]["cancelled"]) == (202, "cancelled", 6)
        stack.start_worker()
        stack.start_sweeper()
        assert stack.api.call("POST", f"{url}/resume")[0] == 202
        done = wait_until_bulk_finished(stack, url)
        assert (done["status"], done["counts"]["succeeded"], done["counts"]["failed"]) == ("failed", 5, 1)
        assert items(stack, url)[-1]["error"]["code"] == "number_not_in_account"

        sandbox.numbers(wanted[-1:])
        assert stack.api.call("POST", f"{url}/resume")[0] == 202
        assert wait_until_bulk_finished(stack, url)["status"] == "succeeded"
        assert_each_is_connected_once(sandbox, wanted)


MANY = int(os.environ.get("BULK_NUMBERS", "60"))
"""Numbers whose calls are counted. By hand more: `BULK_NUMBERS=200`."""

CALLS = {"twilio": 1, "livekit": 2}
"""Calls for a number of a bulk: its attachment; its LiveKit trunk and its rule."""

MOST_SHARED_CALLS = 15
"""Calls for all numbers together, at each provider: 6 and 2 as a rule, some again where a busy machine splits them."""


def test_a_bulk_takes_one_call_of_twilio_and_two_of_livekit_for_a_number(new_stack: NewStack, sandbox: Sandbox) -> None:
    wanted = numbers(MANY)
    sandbox.numbers(wanted)
    with new_stack() as stack:
        sandbox.forget_requests()
        assert wait_until_bulk_finished(stack, start(stack, wanted))["status"] == "succeeded"
        requests = sandbox.requests()
    calls = Counter(each["provider"] for each in requests)
    by_operation = Counter(each["operation"] for each in requests)
    shared = {provider: calls[provider] - each * MANY for provider, each in CALLS.items()}
    assert max(shared.values()) <= MOST_SHARED_CALLS, by_operation
    assert_each_is_connected_once(sandbox, wanted)


def test_a_number_that_somebody_routes_while_its_bulk_runs_stays_where_it_is(
    new_stack: NewStack, sandbox: Sandbox
) -> None:
    wanted = numbers(5)
    sandbox.numbers(wanted)
    *others, moved = wanted
    with (
        new_stack() as stack,
        services_of(stack.environ) as somebody,
    ):
        held = sandbox.fault("livekit.create_inbound_trunk", "429", times=None, contains=moved)
        url = start(stack, wanted)
        eventually(lambda: read_bulk(stack, url)["counts"]["succeeded"] == len(others), "the others are connected")
        foreign = somebody.carrier.create_trunk(TrunkSpec("somebody-else")).sid
        number = somebody.carrier.find_number(moved)
        somebody.carrier.attach_number(foreign, number.sid, number.routing)
        sandbox.delete_fault(held)
        assert wait_until_bulk_finished(stack, url)["counts"]["failed"] == 1
        assert items(stack, url)[-1]["error"]["code"] == "number_already_routed"
        assert somebody.carrier.get_number(number.sid).routing.trunk_sid == foreign
    assert all(sandbox.call(other)["reaches"] for other in others)
