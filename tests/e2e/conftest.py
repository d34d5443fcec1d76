"""The running stack that tests share unless they kill something, and the fixtures of every e2e test."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.dev.localstack.servers import PostgresServer
from tests.e2e.assignments import SHARED_TIMINGS, new_assignment, next_number
from tests.e2e.invariants import Assignment, ForeignObjects
from tests.support.sandbox import ControlledSandbox, Sandbox
from tests.support.servers import running_valkey
from tests.support.stack import Stack, running_stack, services_of

_databases = itertools.count(1)


@pytest.fixture(scope="session")
def make_database(postgres_server: PostgresServer, template_database: str) -> Callable[[], str]:
    """Make a migrated database on the shared server; return its URL."""

    def make() -> str:
        name = f"e2e_{next(_databases)}"
        postgres_server.create_database(name, template_database)
        return postgres_server.url(name)

    return make


@pytest.fixture(scope="session")
def shared_stack(make_database: Callable[[], str], sandbox_server: ControlledSandbox) -> Iterator[Stack]:
    """Web, worker and sweeper, started once per xdist worker.

    Their Valkey is their own: the worker would take what another test puts into a queue.
    """
    with (
        running_valkey() as broker,
        running_stack(make_database(), broker.url, sandbox_server.control, SHARED_TIMINGS) as stack,
    ):
        yield stack


@pytest.fixture
def stack(shared_stack: Stack, sandbox: Sandbox) -> Stack:
    """The shared stack over an emptied sandbox; do not kill its processes."""
    shared_stack.empty_pool()
    return shared_stack


@pytest.fixture
def foreign_objects(sandbox: Sandbox) -> Iterator[ForeignObjects]:
    """Somebody else's objects in the same accounts, which must be unchanged at the end of the test."""
    nowhere = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", "REDIS_URL": "redis://127.0.0.1:1/0"}
    with services_of({**sandbox.settings(), **nowhere}) as wiring:
        theirs = ForeignObjects(wiring, sandbox, next_number())
    yield theirs
    theirs.check()


@pytest.fixture
def assignment(stack: Stack, sandbox: Sandbox) -> Assignment:
    """One agent, and one free number whose calls go to a voice URL so far."""
    return new_assignment(stack, sandbox)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Show the processes' last log lines where a test has failed."""
    report = yield
    for value in getattr(item, "funcargs", {}).values():
        if report.failed and isinstance(value, Stack):
            report.sections.append(("processes of the stack", value.log_tails()))
            break
    return report
