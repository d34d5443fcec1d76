"""An account of the first edition, a trunk for each number, is consolidated: callers get through at every moment."""

import threading
from collections.abc import Callable
from typing import Self

from sqlalchemy import update

from app.db.models import Agent
from app.dev.localstack.servers import ValkeyServer
from app.domain.operations import TrunkMode
from tests.e2e.test_bulk_processes import numbers, wait_out_a_kill
from tests.support.sandbox import Sandbox
from tests.support.stack import Stack, Timings, eventually, running_stack

SIZE = 10

BETWEEN_CALLS_S = 0.003
"""Seconds: each number rings some 15 times a second, so within each of the providers' calls that moves it."""


class Callers:
    """Calls every number, one after the other, until told to stop."""

    def __init__(self, sandbox: Sandbox, called: list[str]) -> None:
        self.sandbox, self.called = sandbox, called
        self.calls, self.missed = 0, list[str]()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            for number in self.called:
                answer = self.sandbox.call(number)
                self.calls += 1
                if not answer["reaches"]:
                    self.missed.append(f"{number}: {answer}")
                self._stop.wait(BETWEEN_CALLS_S)


def connect(stack: Stack, wanted: list[str]) -> list[str]:
    """Connect numbers with a trunk of their own each, as the first edition did; return their agents."""
    made = [stack.api.agent(f"desk {number}") for number in wanted]
    set_mode(stack, TrunkMode.DEDICATED)
    for agent_id, number in zip(made, wanted, strict=True):
        stack.api.provision(agent_id, number)
    eventually(lambda: {status_of(stack, one) for one in made} == {"PROVISIONED"}, "all are connected", 120)
    # Agents of the first edition have no mode of their own: they take the default.
    set_mode(stack, TrunkMode.SHARED)
    return made


def set_mode(stack: Stack, mode: TrunkMode) -> None:
    with stack.sessions.begin() as session:
        session.execute(update(Agent).values(trunk_mode=mode))


def status_of(stack: Stack, agent_id: str) -> str:
    return str(stack.api.phone(agent_id)["phoneProvisioningStatus"])


def test_an_account_is_consolidated_while_its_numbers_ring(
    make_database: Callable[[], str], own_valkey: ValkeyServer, sandbox: Sandbox
) -> None:
    wanted = numbers(SIZE)
    sandbox.numbers(wanted)
    with running_stack(make_database(), own_valkey.url, sandbox, Timings(provider_timeout=1)) as stack:
        agents = connect(stack, wanted)
        assert len(sandbox.state()["trunks"]) == SIZE
        status, plan = stack.api.call("POST", "/api/trunks/consolidate?dryRun=true")
        assert (status, plan["agents"], plan["trunksNeeded"], plan["trunksFreed"]) == (200, SIZE, 1, SIZE - 1)
        sandbox.latency(twilio_ms=30, livekit_ms=20)
        with Callers(sandbox, wanted) as callers:
            status, bulk = stack.api.call("POST", "/api/trunks/consolidate")
            assert (status, bulk["total"]) == (202, SIZE)
            eventually(lambda: len(sandbox.state()["trunks"]) < SIZE - 3, "the first have moved")
            stack.worker.kill()
            stack.start_worker()
            finished = wait_out_a_kill(stack, bulk["statusUrl"])
        assert (finished["kind"], finished["status"]) == ("rehome", "succeeded")
        assert callers.missed == []
        assert callers.calls > SIZE
        (trunk,), (url,) = (sandbox.state()[kind] for kind in ("trunks", "originationUrls"))
        assert {number["trunk_sid"] for number in sandbox.state()["numbers"]} == {trunk["sid"]}
        assert url["trunk_sid"] == trunk["sid"]
        phones = [stack.api.phone(agent_id) for agent_id in agents]
        assert {phone["twilioTrunkSid"] for phone in phones} == {trunk["sid"]}
        status, again = stack.api.call("POST", "/api/trunks/consolidate")
        assert (status, again["agents"]) == (200, 0)
