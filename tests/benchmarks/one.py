"""How long one number takes on an idle stack, beside its critical path and beside a straight script.

On a shared trunk that stands; beside it the first number of a shared trunk, which makes it, and one on a trunk of its
own.
"""

import time
from collections.abc import Callable
from typing import Any

import psycopg

from app.dev.localstack.host import StackError
from app.domain.operations import TrunkMode
from tests.benchmarks.bench import LATENCIES, NO_LATENCY, Bench, Latency, median, percentile
from tests.benchmarks.critical_path import Path, path_of
from tests.benchmarks.installation import ApiClient, Installation, running
from tests.benchmarks.report import Bar, Findings, Row
from tests.benchmarks.rows import add_agents
from tests.benchmarks.straight import Saga

PROVISIONED = "PROVISIONED"

POLL_S = 0.002
"""Seconds between two reads of the agent's row, by primary key: what the benchmark itself may add."""

PATIENCE_S = 60.0
"""Seconds until a number is given up."""

CALLS_BAR = 7
"""Provider calls of one provisioning on a standing shared trunk, at most."""

IN_LINE_BAR = 3
"""Of them Twilio's, of which each waits for the one before."""

MADE_SHARE = 3
"""For every third number one is measured whose trunk has to be made."""

IDLE_BAR_MS = 60
"""Milliseconds that a number may take where the providers take none."""


def measure(bench: Bench) -> Findings:
    """Provision numbers one at a time: ours, the script's, and a client's that waits, in turn."""
    found = Findings()
    with running(bench.stack, "one") as installation, installation.wiring() as wiring:
        saga = Saga.of(wiring)
        bench.stack.sandbox.latency(0, 0)
        Provisioner(bench, installation, 4).run()
        for latency in LATENCIES:
            bench.say("one", latency.name)
            bench.stack.sandbox.latency(latency.twilio_ms, latency.livekit_ms)
            found.rows += _side_by_side(bench, installation, saga, latency)
            found.rows += _with_trunk_made(bench, installation, latency)
        bench.stack.sandbox.latency(0, 0)
    return found


class Provisioner:
    """Provisions numbers through an installation, one after the other, and times each."""

    def __init__(
        self, bench: Bench, installation: Installation, count: int, trunk_mode: TrunkMode = TrunkMode.SHARED
    ) -> None:
        self._client, self._installation = ApiClient(installation), installation
        self.posts_ms: list[float] = []
        """How long each POST of `time_one` took to be answered."""
        with installation.connect() as connection:
            agents = add_agents(connection, count, trunk_mode)
        self._left = list(zip(agents, bench.owned_numbers(count), strict=True))

    def time_one(self) -> float:
        """Return the milliseconds from the POST to the moment when the row says PROVISIONED."""
        agent, number = self._left.pop()
        with self._installation.connect() as connection:
            status_of(connection, agent)
            started = time.perf_counter()
            self._client.provision(agent, number)
            self.posts_ms.append((time.perf_counter() - started) * 1000)
            _await(connection, agent)
        return (time.perf_counter() - started) * 1000

    def time_waiting(self) -> float:
        """Return the milliseconds from the POST to its answer where the client sends `Prefer: wait`."""
        agent, number = self._left.pop()
        started = time.perf_counter()
        if self._client.provision(agent, number, wait_s=int(PATIENCE_S)) != 200:
            raise StackError("a number was not provisioned in time")
        return (time.perf_counter() - started) * 1000

    def run(self) -> list[float]:
        """Time all that are left."""
        return [self.time_one() for _ in range(len(self._left))]


def status_of(connection: psycopg.Connection[Any], agent: str) -> str:
    """Read the agent's status."""
    row = connection.execute("SELECT phone_provisioning_status FROM agents WHERE id = %s", [agent]).fetchone()
    return str(row[0]) if row else ""


def _await(connection: psycopg.Connection[Any], agent: str) -> None:
    deadline = time.perf_counter() + PATIENCE_S
    while (status := status_of(connection, agent)) != PROVISIONED:
        if status == "FAILED" or time.perf_counter() > deadline:
            raise StackError(f"agent {agent} is {status}")
        time.sleep(POLL_S)


def _side_by_side(bench: Bench, installation: Installation, saga: Saga, latency: Latency) -> list[Row]:
    count = bench.scale.single_numbers
    own = Provisioner(bench, installation, 2 * count)
    others = bench.owned_numbers(2 * count)
    took: dict[str, list[float]] = {"ours": [], "seed": [], "checked": [], "waiting": []}
    path = path_of([], 1, latency)
    opened = 0
    for place in range(count):
        seed, checked = others[2 * place : 2 * place + 2]
        bench.stack.sandbox.forget_requests()
        took["ours"].append(own.time_one())
        opened += sum(bench.stack.sandbox.connections_opened().values())
        path = path_of(bench.stack.sandbox.requests(), 1, latency)
        took["seed"].append(timed(lambda number=seed: saga.provision(number)))  # type: ignore[misc]  # called at once
        took["checked"].append(timed(lambda number=checked: saga.provision(number, is_checked=True)))  # type: ignore[misc]  # the same
        took["waiting"].append(own.time_waiting())
    connections = Row(f"connections opened, {count} single numbers {latency.name}", opened, "")
    return [*_rows(latency, took, path), connections]


def _with_trunk_made(bench: Bench, installation: Installation, latency: Latency) -> list[Row]:
    """Time numbers that find no trunk: the first of a shared one, and those on trunks of their own."""
    count = max(bench.scale.single_numbers // MADE_SHARE, 1)
    rows = []
    for name, trunk_mode in (("first on a shared trunk", TrunkMode.SHARED), ("on its own trunk", TrunkMode.DEDICATED)):
        own = Provisioner(bench, installation, count, trunk_mode)
        took, path = [], path_of([], 1, latency)
        for _ in range(count):
            if trunk_mode is TrunkMode.SHARED:
                _forget_pool(installation)
            bench.stack.sandbox.forget_requests()
            took.append(own.time_one())
            path = path_of(bench.stack.sandbox.requests(), 1, latency)
        measure = f"one number {latency.name}, {name}"
        bar = Bar("<=", 1.1) if path.critical_ms else None
        rows += [
            Row(measure, median(took), "ms", "critical path", path.critical_ms, bar, f"n = {count}"),
            Row(f"{measure}: provider calls", path.calls, "", note=f"{path.twilio_in_line:g} of Twilio in line"),
        ]
    return rows


def _forget_pool(installation: Installation) -> None:
    """Have the installation believe that it has no shared trunk yet."""
    with installation.connect() as connection:
        connection.execute("UPDATE agents SET trunk_id = NULL WHERE trunk_id IS NOT NULL")
        connection.execute("DELETE FROM trunks")


def timed(call: Callable[[], object]) -> float:
    """Return the milliseconds that a call takes."""
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000


def _rows(latency: Latency, took: dict[str, list[float]], path: Path) -> list[Row]:
    ours, name = median(took["ours"]), f"one number {latency.name}"
    p90 = percentile(took["ours"], 0.9)
    spread = f"p90 {p90:.0f} ms, n = {len(took['ours'])}" if p90 else ""
    measure, is_idle = f"{name}: to PROVISIONED", latency is NO_LATENCY
    idle_bar = Bar("<=", IDLE_BAR_MS, "figure") if is_idle else None
    seed_bar = idle_bar or Bar("<=", 0.65)
    rows = [
        Row(measure, ours, "ms", "script: the seed's six calls", median(took["seed"]), seed_bar, spread),
        Row(measure, ours, "ms", "script: the same, and read back", median(took["checked"])),
        Row(f"{name}: answer to Prefer: wait", median(took["waiting"]), "ms", "row", ours),
        Row(f"{name}: provider calls", path.calls, "", bar=Bar("<=", CALLS_BAR, "figure")),
        Row(f"{name}: Twilio's in line", path.twilio_in_line, "", bar=Bar("<=", IN_LINE_BAR, "figure")),
    ]
    critical = Row(measure, ours, "ms", "critical path", path.critical_ms, Bar("<=", 1.1), spread)
    return rows if is_idle else [critical, *rows]
