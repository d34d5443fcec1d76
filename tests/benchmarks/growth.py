"""Whether anything takes longer with a million agents in the table: the same measures on three databases, in turn."""

import contextlib
from collections import defaultdict
from collections.abc import Callable

from app.domain.events import Origin
from tests.benchmarks.accept import Side, posts_for
from tests.benchmarks.bench import Bench, median
from tests.benchmarks.installation import Installation, running
from tests.benchmarks.one import Provisioner, timed
from tests.benchmarks.report import Bar, Findings, Row
from tests.benchmarks.rows import add_agents, add_past, settle

CONNECTIONS = 16

BAR = Bar("<=", 1.2)

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
                add_past(connection, agents)
                settle(connection)
            installations[agents] = installation
        bench.stack.sandbox.latency(0, 0)
        found = {"one number (a)": _one(bench, installations)}
        found |= _upkeep(bench, installations)
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


def _upkeep(bench: Bench, installations: dict[int, Installation]) -> dict[str, Times]:
    """Time a pass of the sweeper that finds nothing due, and an audit, in this process."""
    bench.say("growth", "sweep and audit")
    with contextlib.ExitStack() as stacked:
        wirings = {agents: stacked.enter_context(each.wiring()) for agents, each in installations.items()}

        def audit(agents: int) -> float:
            audits = wirings[agents].audits
            asked = audits.request_audit(fix=False, origin=Origin(requested_by="bench"))
            return timed(lambda: audits.run_audit(asked))

        def sweep(agents: int) -> float:
            return timed(wirings[agents].sweeper.sweep)

        found = {}
        for name, call, count in (("sweep pass", sweep, bench.scale.passes), ("audit", audit, bench.scale.audits)):
            for agents in installations:
                call(agents)
            found[name] = _in_turn(count, {agents: lambda agents=agents, call=call: call(agents) for agents in wirings})  # type: ignore[misc]  # bound at once
    return found


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
    return [
        Row(f"growth, {name}: {agents:,} agents", median(times[agents]), "ms", f"{smallest} agents", floor, BAR)
        for agents in others
    ]
