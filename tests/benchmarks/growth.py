"""Whether anything takes longer with a million agents on full trunks: the same measures on three databases, in turn."""

import contextlib
from collections import defaultdict
from collections.abc import Callable
from datetime import timedelta
from functools import partial

from app.domain.operations import TRUNK
from app.domain.workspaces import ENVIRONMENT_ACCOUNT
from app.trunks.pool import TrunkPool
from app.wiring import Wiring, profile_of
from tests.benchmarks.accept import Side, posts_for
from tests.benchmarks.bench import Bench, median
from tests.benchmarks.installation import ApiClient, Installation, running
from tests.benchmarks.one import Provisioner, timed
from tests.benchmarks.report import Bar, Findings, Row
from tests.benchmarks.rows import add_agents, add_claimed, add_past, settle

CONNECTIONS = 16

SECOND = timedelta(seconds=1)

BAR = Bar("<=", 1.2)

COUNT = "all trunks counted, before one is added"
HEADROOM = "head-room, for a bulk"
TRUNKS = "GET /api/trunks"
EMPTY = "look for empty trunks"

GROWING = {COUNT, HEADROOM, TRUNKS, EMPTY}
"""They are about all trunks, and grow with these: before a trunk is added, for the response to a bulk, to show them to
an operator, and once a minute to find one that is empty. Nothing that a number waits for is among them."""

LOADED = ("web", "worker", "cleanup")
"""No sweeper: its passes are run and timed here."""

Times = dict[int, list[float]]
"""Milliseconds by number of agents."""


def measure(bench: Bench) -> Findings:
    """Fill the databases, then measure each in turn, round by round."""
    with contextlib.ExitStack() as stacked:
        installations: dict[int, Installation] = {}
        for agents in bench.scale.agents:
            bench.say("growth", f"{agents:,} agents: filling")
            installation = stacked.enter_context(running(bench.stack, f"growth_{agents}", LOADED))
            with installation.connect() as connection:
                add_past(connection, agents, installation.profile_hash)
                settle(connection)
            installations[agents] = installation
        bench.stack.sandbox.latency(0, 0)
        found = _places(bench, installations)
        found["one number (a)"] = _one(bench, installations)
        found |= _reads(bench, installations)
        found |= _services(bench, installations)
        found["accept, one post, 16 connections"] = _accept(bench, installations)
    return Findings([row for name, times in found.items() for row in _rows(name, times)])


def _one(bench: Bench, installations: dict[int, Installation]) -> Times:
    bench.say("growth", "one number")
    count = bench.scale.single_numbers
    own = {agents: Provisioner(bench, installation, count + 2) for agents, installation in installations.items()}
    for each in own.values():
        each.time_one()
        each.time_one()
    return _in_turn(count, {agents: each.time_one for agents, each in own.items()})


def _places(bench: Bench, installations: dict[int, Installation]) -> dict[str, Times]:
    """Time what a number costs in the pool, in this process: a place, and the count before another trunk is added."""
    bench.say("growth", "places on shared trunks")
    count = bench.scale.passes
    with contextlib.ExitStack() as stacked:
        pools, claimed = {}, {}
        for agents, installation in installations.items():
            pools[agents] = _pool(stacked.enter_context(installation.wiring()))
            connection = stacked.enter_context(installation.connect())
            claimed[agents] = add_claimed(connection, add_agents(connection, count + 1), TRUNK)

        def take(agents: int) -> float:
            one = claimed[agents].pop()
            return timed(lambda: pools[agents].take_place(one.agent_id, one.operation_id, TRUNK, one.token))

        def choose(agents: int) -> float:
            return timed(pools[agents].next_place)

        found = {COUNT: _in_turn(count, _of_each(installations, choose))}
        for agents in installations:
            take(agents)
        return found | {"a place on a trunk": _in_turn(count, _of_each(installations, take))}


def _pool(wiring: Wiring) -> TrunkPool:
    settings = wiring.settings
    return TrunkPool(
        wiring.sessions,
        ENVIRONMENT_ACCOUNT,
        profile_of(settings),
        settings.trunk_max_numbers,
        lease=SECOND,
        lands=SECOND,
    )


def _reads(bench: Bench, installations: dict[int, Installation]) -> dict[str, Times]:
    """Time what clients ask for, over HTTP, on one connection each."""
    bench.say("growth", "reads")
    found = {}
    clients = {agents: ApiClient(installation) for agents, installation in installations.items()}
    numbers: dict[int, str] = {}
    for agents, installation in installations.items():
        with installation.connect() as connection:
            # One that was connected just now: an empty table has no other.
            row = connection.execute("SELECT id FROM agents WHERE health_state = 'IN_SYNC' ORDER BY created_at DESC")
            numbers[agents] = str((row.fetchone() or [""])[0])
    paths = {
        "GET phone-status": lambda agents: f"/api/agents/{numbers[agents]}/phone-status",
        TRUNKS: lambda _: "/api/trunks",
    }
    for name, path in paths.items():

        def read(agents: int, path: Callable[[int], str] = path) -> float:
            return timed(lambda: clients[agents].get(path(agents)))

        for agents in installations:
            read(agents)
        found[name] = _in_turn(bench.scale.passes, _of_each(installations, read))
    return found


def _services(bench: Bench, installations: dict[int, Installation]) -> dict[str, Times]:
    """Time a pass of the sweeper that finds nothing due, its look for empty trunks, and head-room, in this process."""
    bench.say("growth", "sweep and head-room")
    calls: dict[str, Callable[[Wiring], Callable[[], object]]] = {
        "sweep pass": lambda wiring: wiring.sweeper.sweep,
        EMPTY: lambda wiring: wiring.sweeper.sweep_trunks,
        HEADROOM: lambda wiring: wiring.headroom.of,
    }
    with contextlib.ExitStack() as stacked:
        wirings = {agents: stacked.enter_context(each.wiring()) for agents, each in installations.items()}
        found = {}
        for name, of in calls.items():

            def call(agents: int, of: Callable[[Wiring], Callable[[], object]] = of) -> float:
                return timed(of(wirings[agents]))

            for agents in installations:
                call(agents)
            found[name] = _in_turn(bench.scale.passes, _of_each(installations, call))
        return found


def _of_each(installations: dict[int, Installation], call: Callable[[int], float]) -> dict[int, Callable[[], float]]:
    return {agents: partial(call, agents) for agents in installations}


def _accept(bench: Bench, installations: dict[int, Installation]) -> Times:
    """Post to agents of their own, the workers ended; the median of a round's answers counts."""
    sides = {}
    for agents, installation in installations.items():
        for worker in installation.workers():
            worker.kill()
        with installation.connect() as connection:
            own = add_agents(connection, bench.scale.load_agents // 3)
            settle(connection)
        headers = {"Authorization": f"Bearer {installation.key}"}
        sides[agents] = Side(installation.port, headers, posts_for(own, bench.numbers(len(own))))
    times: Times = defaultdict(list)
    for place in range(bench.scale.load_rounds):
        bench.say("growth", f"accept, round {place + 1}")
        for agents, side in sides.items():
            times[agents] += side.run_load(CONNECTIONS, bench.scale.load_s).latencies_ms
            installations[agents].flush_broker()
    return times


def _in_turn(count: int, calls: dict[int, Callable[[], float]]) -> Times:
    times: Times = defaultdict(list)
    for _ in range(count):
        for agents, call in calls.items():
            times[agents].append(call())
    return times


def _rows(name: str, times: Times) -> list[Row]:
    smallest, *others = sorted(times)
    floor = median(times[smallest])
    bar = None if name in GROWING else BAR
    return [
        Row(f"growth, {name}: {agents:,} agents", median(times[agents]), "ms", f"{smallest} agents", floor, bar)
        for agents in others
    ]
