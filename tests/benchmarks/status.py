"""How many polls of phone-status a second, with and without If-None-Match, beside a bare view that reads one row."""

import uuid

from app.dev.localstack.host import StackError
from tests.benchmarks import load
from tests.benchmarks.bare import TABLE
from tests.benchmarks.bench import Bench, median
from tests.benchmarks.installation import ApiClient, Installation, running
from tests.benchmarks.load import Load, Plan
from tests.benchmarks.report import Findings, Row
from tests.benchmarks.rows import add_agents

CONNECTIONS = 16

WAIT_S = 30
"""Seconds for the one number whose status is polled."""


def measure(bench: Bench) -> Findings:
    """Poll one provisioned agent, as a client does that waits: each side in turn."""
    with running(bench.stack, "status", ["web", "worker"]) as installation:
        plans = _plans(bench, installation)
        rounds: dict[str, list[Load]] = {name: [] for name in plans}
        for place in range(bench.scale.load_rounds):
            bench.say("status", f"round {place + 1}")
            for name, (plan, status) in plans.items():
                result = load.run(plan)
                if set(result.statuses) != {status}:
                    raise StackError(f"{name}: expected {status}, got {dict(result.statuses)}")
                rounds[name].append(result)
    rates = {name: median([one.per_s for one in result]) for name, result in rounds.items()}
    return Findings(
        [
            Row(f"status, {CONNECTIONS} connections: whole", rates["whole"], "/s", "bare read", rates["bare"]),
            Row(f"status, {CONNECTIONS} connections: 304", rates["unchanged"], "/s", "bare read", rates["bare"]),
        ]
    )


def _plans(bench: Bench, installation: Installation) -> dict[str, tuple[Plan, str]]:
    """Provision one number and insert one bare row; return what polls them, with the status to expect."""
    row_id = uuid.uuid4()
    with installation.connect() as connection:
        (agent,) = add_agents(connection, 1)
        connection.execute(TABLE)
        connection.execute("INSERT INTO bare VALUES (%s, '+15145551234')", [row_id])
    (number,) = bench.owned_numbers(1)
    if ApiClient(installation).provision(agent, number, wait_s=WAIT_S) != 200:
        raise StackError("the number to poll was not provisioned in time")
    bare = installation.start_bare()
    with installation.wiring() as wiring:
        from app.views.reader import Reader  # noqa: PLC0415 - the one thing of the API that is needed here

        etag = Reader(wiring.sessions, 500).phone_etag(uuid.UUID(agent))
    key = {"Authorization": f"Bearer {installation.key}"}
    ours = [("GET", f"/api/agents/{agent}/phone-status", "")]

    def plan(port: int, headers: dict[str, str], requests: list[tuple[str, str, str]]) -> Plan:
        return Plan(port, CONNECTIONS, bench.scale.load_s, headers, requests * CONNECTIONS, is_repeated=True)

    return {
        "bare": (plan(bare, key, [("GET", f"/bare/{row_id}", "")]), "200"),
        "whole": (plan(installation.port, key, ours), "200"),
        "unchanged": (plan(installation.port, {**key, "If-None-Match": f'"{etag}"'}, ours), "304"),
    }
