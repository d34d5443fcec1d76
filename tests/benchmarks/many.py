"""How many numbers a second a loaded stack provisions, beside the same saga on DBOS and the bound by concurrency."""

import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from app.dev.localstack.host import StackError
from app.dev.localstack.processes import ServerProcess
from tests.benchmarks import load
from tests.benchmarks.accept import posts_for
from tests.benchmarks.bench import NO_LATENCY, Bench, Latency, median
from tests.benchmarks.critical_path import needed, path_of
from tests.benchmarks.installation import ALL, Installation, running
from tests.benchmarks.load import Plan
from tests.benchmarks.processes import cpu_s, descendants, largest_mb
from tests.benchmarks.report import Bar, Detail, Findings, Row
from tests.benchmarks.rows import add_agents
from tests.benchmarks.straight import Saga
from tests.support.stack import services_of

POLL_S = 0.1
"""Seconds between two counts of what is left; how long it took is read from the rows."""

PATIENCE_S = 900.0
"""Seconds until a round is given up."""

POSTERS = 16
"""Connections that queue the numbers while the workers are stopped."""

_databases = itertools.count(1)


@dataclass
class Rounds:
    """What the rounds of one latency have found."""

    ours: list[float] = field(default_factory=list)
    """Operations per second."""
    dbos: list[float] = field(default_factory=list)
    dbos_cpu_ms: list[float] = field(default_factory=list)
    opened: list[dict[str, int]] = field(default_factory=list)
    resident_mb: list[float] = field(default_factory=list)
    cpu_ms: list[dict[str, float]] = field(default_factory=list)
    """Milliseconds of CPU per operation, by process."""
    calls: list[float] = field(default_factory=list)
    """Calls to the providers per operation."""
    swept: list[float] = field(default_factory=list)
    """Publications by the sweeper per operation: messages that it takes for lost while they only wait in the queue."""


def measure(bench: Bench) -> Findings:
    """Queue all numbers while the workers are stopped, then resume them; ours and DBOS in turn."""
    found = Findings()
    for latency in bench.scale.many_latencies:
        rounds = Rounds()
        for place in range(bench.scale.many_rounds):
            bench.stack.sandbox.latency(0, 0)
            bench.say("many", f"{latency.name}, round {place + 1}")
            _run_ours(bench, latency, rounds)
            bench.stack.sandbox.latency(latency.twilio_ms, latency.livekit_ms)
            _run_dbos(bench, rounds)
        found.rows += _rows(bench, latency, rounds)
        found.details.append(_cpu(latency, rounds))
    bench.stack.sandbox.latency(0, 0)
    return found


def _run_ours(bench: Bench, latency: Latency, rounds: Rounds) -> None:
    scale, name = bench.scale, f"many_{next(_databases)}"
    with running(bench.stack, name, ALL, concurrency=scale.concurrency, workers=scale.workers) as installation:
        _provision(bench, installation, 2 * scale.workers)  # pools fill, everything is imported
        bench.stack.sandbox.latency(latency.twilio_ms, latency.livekit_ms)
        with stopped(installation):
            queue(bench, installation, scale.many_numbers)
            bench.stack.sandbox.forget_requests()
            before = _cpu_s(bench, installation)
        seconds = drain(installation, scale.many_numbers)
        after = _cpu_s(bench, installation)
        rounds.ours.append(scale.many_numbers / seconds)
        rounds.cpu_ms.append({one: (after[one] - before[one]) * 1000 / scale.many_numbers for one in after})
        rounds.swept.append(installation.log("sweeper").count("operation_swept") / scale.many_numbers)
        rounds.resident_mb.append(largest_mb([worker.pid for worker in installation.workers()]))
    rounds.opened.append(bench.stack.sandbox.connections_opened())
    rounds.calls.append(path_of(bench.stack.sandbox.requests(), scale.many_numbers, latency).calls)


@contextlib.contextmanager
def stopped(installation: Installation) -> Iterator[None]:
    """Keep the workers from working while the block runs."""
    for worker in installation.workers():
        worker.pause()
    try:
        yield
    finally:
        for worker in installation.workers():
            worker.resume()


def queue(bench: Bench, installation: Installation, count: int) -> None:
    with installation.connect() as connection:
        agents = add_agents(connection, count)
        # What came before does not count.
        connection.execute("TRUNCATE operation_steps, events, resources, operations, idempotency_keys CASCADE")
    posts = posts_for(agents, bench.owned_numbers(count))
    plan = Plan(installation.port, POSTERS, PATIENCE_S, {"Authorization": f"Bearer {installation.key}"}, posts)
    statuses = load.run(plan).statuses
    if statuses != {"202": count}:
        raise StackError(f"not every number was queued: {dict(statuses)}")


def drain(installation: Installation, count: int) -> float:
    """Return the seconds from now until the last operation ended, by the database's clock."""
    query = (
        "SELECT count(*) FILTER (WHERE status = 'succeeded'), count(*) FILTER (WHERE status NOT IN "
        "('queued', 'running', 'succeeded')), extract(epoch FROM max(finished_at) - %s) FROM operations"
    )
    with installation.connect() as connection:
        started = connection.execute("SELECT clock_timestamp()").fetchone()
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            row = connection.execute(query, started).fetchone()
            if row and row[1]:
                raise StackError(f"{row[1]} operations failed")
            if row and row[0] == count:
                return float(row[2])
            time.sleep(POLL_S)
    raise StackError(f"not all of {count} operations ended within {PATIENCE_S:g} s")


def _provision(bench: Bench, installation: Installation, count: int) -> None:
    queue(bench, installation, count)
    drain(installation, count)


def _run_dbos(bench: Bench, rounds: Rounds) -> None:
    """Have DBOS provision as many numbers, on a database of its own."""
    scale, database = bench.scale, f"dbos_{next(_databases)}"
    bench.stack.postgres.create_database(database)
    with services_of(bench.stack.settings(database, 0, "dbos")) as wiring:
        trunk_sid = Saga.of(wiring).make_shared()
    environ = {**os.environ, **bench.stack.settings(database, 0, "dbos")}
    command = [sys.executable, "-m", "tests.benchmarks.dbos_saga"]
    with contextlib.ExitStack() as ended:
        processes = [
            ended.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ)  # noqa: S603 - ourselves
            )
            for _ in range(scale.workers)
        ]
        numbers = [bench.owned_numbers(scale.many_numbers + 1), *([[]] * (scale.workers - 1))]
        for process, own in zip(processes, numbers, strict=True):
            ended.callback(process.terminate)
            print(
                json.dumps({"numbers": own, "slots": scale.concurrency // scale.workers, "trunk": trunk_sid}),
                file=process.stdin,
                flush=True,
            )
        answer = processes[0].stdout.readline() if processes[0].stdout else ""
    if not answer:
        raise StackError("the DBOS process ended without a result")
    bench.stack.postgres.drop_database(database)
    result = json.loads(answer)
    rounds.dbos.append(scale.many_numbers / float(result["seconds"]))
    rounds.dbos_cpu_ms.append(float(result["cpuSeconds"]) * 1000 / scale.many_numbers * scale.workers)


def _cpu_s(bench: Bench, installation: Installation) -> dict[str, float]:
    """Return the CPU seconds so far: ours, line by line, and the servers'."""
    servers: dict[str, ServerProcess] = {
        **installation.processes,
        "PostgreSQL": bench.stack.postgres.process,
        "Valkey": bench.stack.valkey.process,
        "sandbox": bench.stack.sandbox_server.process,
    }
    return {name: cpu_s([server.pid]) for name, server in servers.items() if descendants(server.pid)}


def _rows(bench: Bench, latency: Latency, rounds: Rounds) -> list[Row]:
    name, ours, slots = f"many numbers {latency.name}", median(rounds.ours), bench.scale.concurrency
    note = "; ".join("of " + ", ".join(f"{one:.1f}" for one in side) for side in (rounds.ours, rounds.dbos))
    bar = Bar(">=", 1) if latency is NO_LATENCY else None
    rows = [Row(name, ours, "/s", "DBOS", median(rounds.dbos), bar, note)]
    path = needed(latency)
    rows.append(Row(f"{name}: calls per operation", median(rounds.calls), "", "needed", path.calls))
    rows.append(Row(f"{name}: published by the sweeper, per operation", median(rounds.swept), ""))
    if path.critical_ms:
        critical, calls = (slots * 1000 / ms for ms in (path.critical_ms, path.calls_ms))
        rows += [
            Row(name, ours, "/s", f"{slots} / critical path", critical, Bar(">=", 0.9), "operations in flight"),
            Row(name, ours, "/s", f"{slots} / all calls", calls, note="calls in flight: what threads can carry"),
        ]
    opened = {who: max(one[who] for one in rounds.opened) for who in rounds.opened[0]}
    rows += [Row(f"{name}: connections opened, {who}", count, "") for who, count in opened.items()]
    resident = max(rounds.resident_mb)
    rows.append(Row(f"memory: a worker after {name}", resident, "MB", bar=Bar("<=", 150, "figure")))
    return rows


def _cpu(latency: Latency, rounds: Rounds) -> Detail:
    lines: list[list[str | float]] = [
        [one, median([each[one] for each in rounds.cpu_ms]) or 0.0] for one in rounds.cpu_ms[0]
    ]
    title = f"CPU per operation, many numbers {latency.name}, milliseconds"
    lines += [["together", sum(float(line[1]) for line in lines)]]
    lines += [["beside: the DBOS process", median(rounds.dbos_cpu_ms) or 0.0]]
    return Detail(title, ["process", "ms"], lines)
