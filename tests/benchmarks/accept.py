"""How many posts a second the API accepts, beside a bare Flask view that commits one row on the same command line."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.dev.localstack.host import StackError
from tests.benchmarks import load
from tests.benchmarks.bare import TABLE
from tests.benchmarks.bench import Bench, median, percentile
from tests.benchmarks.installation import Installation, running
from tests.benchmarks.load import Load, Plan
from tests.benchmarks.processes import cpu_s, largest_mb
from tests.benchmarks.report import Bar, Detail, Findings, Row
from tests.benchmarks.rows import add_agents, settle

BARRED = 16
"""Connections at which the bars hold."""

WARM_UP_S = 1.0
"""Seconds of load before the first round: pools fill, and the wiring is built at the first request."""

GENERATOR_SHARE = 0.35
"""Of one core: beyond it the generator would take CPU from the servers that it measures."""

MOST_PER_S = 2_000
"""Posts a second that a round has ready: several times what two cores accept."""

Post = tuple[str, str, str]


@dataclass
class Side:
    """One of the two that are compared, and its rounds by connections."""

    port: int
    headers: dict[str, str]
    posts: list[Post]
    is_repeated: bool = False
    """Whether a post may be sent again; else each is sent once."""
    servers: dict[str, int] = field(default_factory=dict)
    """The process ids of its servers, by name."""
    rounds: dict[int, list[Load]] = field(default_factory=dict)
    cpu_s: Counter[str] = field(default_factory=Counter)
    sent: int = 0

    def run_load(self, connections: int, seconds: float) -> Load:
        """Post for some seconds; every response must be 202."""
        posts = self.posts if self.is_repeated else self.posts[self.sent : self.sent + int(seconds * MOST_PER_S)]
        before = self._cpu_s()
        result = load.run(Plan(self.port, connections, seconds, self.headers, posts, self.is_repeated))
        self.cpu_s.update(self._cpu_s() - before)
        self.sent += len(result.latencies_ms)
        if set(result.statuses) != {"202"}:
            raise StackError(f"not every post was accepted: {dict(result.statuses)}")
        return result

    def _cpu_s(self) -> Counter[str]:
        return Counter({name: cpu_s([pid]) for name, pid in self.servers.items()})

    def median_of(self, connections: int, figure: str) -> float | None:
        """Return the median over the rounds of `per_s`, or of a percentile as "0.99"."""
        rounds = self.rounds[connections]
        if figure == "per_s":
            return median([one.per_s for one in rounds])
        return median([found for one in rounds if (found := percentile(one.latencies_ms, float(figure))) is not None])


def measure(bench: Bench) -> Findings:
    """Post with a new agent each time, workers stopped, broker running; rounds of both sides in turn."""
    with running(bench.stack, "accept", ["web"]) as installation:
        ours, bare = sides(bench, installation)
        for side in (ours, bare):
            side.run_load(BARRED, min(WARM_UP_S, bench.scale.load_s))
        for place in range(bench.scale.load_rounds):
            for connections in bench.scale.connections:
                bench.say("accept", f"round {place + 1}, {connections} connections")
                for side in (bare, ours):
                    side.rounds.setdefault(connections, []).append(side.run_load(connections, bench.scale.load_s))
                installation.flush_broker()
        resident = largest_mb([installation.processes["web"].pid])
    found = Findings([row for connections in bench.scale.connections for row in _rows(ours, bare, connections)])
    shares = [one.core_share for rounds in ours.rounds.values() for one in rounds]
    shares += [one.core_share for rounds in bare.rounds.values() for one in rounds]
    found.rows += [
        Row("memory: a web process after it", resident, "MB", bar=Bar("<=", 120, "figure")),
        Row("load generator, share of a core", max(shares), "", bar=Bar("<=", GENERATOR_SHARE, "figure")),
    ]
    found.details.append(_cpu(ours, bare))
    return found


def sides(bench: Bench, installation: Installation) -> tuple[Side, Side]:
    """Return our side, with agents made for it, and the bare view's, started for it."""
    with installation.connect() as connection:
        connection.execute(TABLE)
        agents = add_agents(connection, bench.scale.load_agents)
        settle(connection)
    headers = {"Authorization": f"Bearer {installation.key}"}
    ours = Side(installation.port, headers, posts_for(agents, bench.numbers(len(agents))))
    stores = {"PostgreSQL": bench.stack.postgres.pid, "Valkey": bench.stack.valkey.pid}
    ours.servers = {"web": installation.processes["web"].pid, **stores}
    (number,) = bench.numbers(1)
    floor = [("POST", "/bare", json.dumps({"phoneNumber": number}))]
    bare = Side(installation.start_bare(), headers, floor, is_repeated=True)
    bare.servers = {"web": installation.processes["bare"].pid, **stores}
    return ours, bare


def posts_for(agents: Sequence[str], numbers: Sequence[str]) -> list[Post]:
    """Return one post per agent."""
    return [
        ("POST", f"/api/agents/{agent}/provision-phone", json.dumps({"phoneNumber": number}))
        for agent, number in zip(agents, numbers, strict=True)
    ]


def _rows(ours: Side, bare: Side, connections: int) -> list[Row]:
    is_barred, name = connections == BARRED, f"accept, {connections} connection{'s' if connections > 1 else ''}"

    def row(what: str, figure: str, unit: str, bar: Bar | None) -> Row:
        own, floor = ours.median_of(connections, figure), bare.median_of(connections, figure)
        return Row(f"{name}: {what}", own, unit, "bare view", floor, bar if is_barred else None)

    return [
        row("rate", "per_s", "/s", Bar(">=", 0.5)),
        row("p50", "0.5", "ms", None),
        row("p99", "0.99", "ms", Bar("<=", 3)),
    ]


def _cpu(ours: Side, bare: Side) -> Detail:
    """Return what a post costs in CPU time: a figure that a busy machine changes little."""
    lines: list[list[str | float]] = [
        [name, *(side.cpu_s[name] * 1000 / side.sent if side.sent else 0.0 for side in (ours, bare))]
        for name in ours.servers
    ]
    return Detail("CPU per post, milliseconds, warm-up included", ["process", "ours", "bare view"], lines)
