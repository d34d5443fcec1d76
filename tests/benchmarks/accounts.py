"""Whether an account that its provider throttles holds up the operations of another one."""

import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg

from app.dev.localstack.host import StackError
from app.sealing import new_key
from tests.benchmarks import load
from tests.benchmarks.accept import posts_for
from tests.benchmarks.bench import REAL_LATENCY, Bench, median
from tests.benchmarks.installation import ALL, Installation
from tests.benchmarks.load import Plan
from tests.benchmarks.many import PATIENCE_S, POLL_S, POSTERS, stopped
from tests.benchmarks.report import Bar, Findings, Row
from tests.benchmarks.rows import add_agents
from tests.support.stack import Api
from tests.support.teams import Team, add_team

THROTTLED_PER_S = 1
"""Requests a second that Twilio allows the throttled account."""

QUEUED = 1.5
"""Operations of the throttled account, all begun and waiting, for each that the workers can hold: they could take every
thread."""

AS_ALONE = Bar("<=", 1.1)
"""The other account's numbers take no longer than alone."""

_names = itertools.count(1)

_ENDED = """
    SELECT count(*) FILTER (WHERE operations.status = 'succeeded'),
           count(*) FILTER (WHERE operations.status NOT IN ('queued', 'running', 'succeeded')),
           extract(epoch FROM max(finished_at) - %(since)s)
      FROM operations JOIN agents ON agents.id = agent_id
     WHERE agents.carrier_account_id = %(account)s AND operations.created_at >= %(queued)s
"""


def measure(bench: Bench) -> Findings:
    """Connect as many numbers of one account alone and beside a throttled one, in turn."""
    scale, sandbox = bench.scale, bench.stack.sandbox
    many = int(QUEUED * scale.concurrency)
    alone, beside, left = [], [], []
    installation = Installation(bench.stack, f"accounts_{next(_names)}", scale.concurrency, scale.workers)
    installation.environ["CREDENTIAL_KEYS"] = new_key()
    try:
        installation.start(ALL)
        admin = Api(f"http://127.0.0.1:{installation.port}", installation.key)
        other, throttled = (add_team(admin, sandbox, name, rate="auto") for name in ("other", "throttled"))
        for team in (other, throttled):  # pools fill, everything is imported, and each has its shared trunk
            _Round(bench, installation, {team: 2 * scale.workers}).seconds(team)
        sandbox.latency(REAL_LATENCY.twilio_ms, REAL_LATENCY.livekit_ms)
        for place in range(scale.account_rounds):
            bench.say("accounts", f"round {place + 1}")
            alone.append(_Round(bench, installation, {other: scale.account_numbers}).seconds(other))
            throttled.throttle(THROTTLED_PER_S)
            waiting = _Round(bench, installation, {throttled: many})
            waiting.await_begun()
            beside.append(_Round(bench, installation, {other: scale.account_numbers}).seconds(other))
            left.append(many - waiting.ended(throttled)[0])
            throttled.throttle(None)
            waiting.seconds(throttled)
    finally:
        installation.stop()
        sandbox.latency(0, 0)
    note = "; ".join("of " + ", ".join(f"{one:.1f}" for one in side) for side in (beside, alone))
    time_row = ("accounts: numbers beside a throttled account", median(beside), "s", "alone", median(alone))
    left_row = ("accounts: operations of the throttled one still open then", median(left), "")
    return Findings([Row(*time_row, AS_ALONE, note), Row(*left_row, bar=Bar(">=", 1, "figure"))])


class _Round:
    """Numbers of some teams, queued in this order while the workers are stopped."""

    def __init__(self, bench: Bench, installation: Installation, wanted: Mapping[Team, int]) -> None:
        self._installation, self._wanted = installation, wanted
        with stopped(installation), installation.connect() as connection:
            self._queued = _now(connection)
            for team, count in wanted.items():
                agents = add_agents(connection, count)
                named = (team.carrier_id, team.voice_id, agents)
                connection.execute(
                    "UPDATE agents SET carrier_account_id = %s, voice_project_id = %s WHERE id = ANY(%s::uuid[])",
                    named,
                )
                numbers = bench.numbers(count)
                team.numbers(numbers)
                _post(installation, agents, numbers)
            self._since = _now(connection)

    def await_begun(self) -> None:
        """Return once none of the operations is queued any more: the workers hold them, or they rest."""
        deadline = time.monotonic() + PATIENCE_S
        query = "SELECT count(*) FROM operations WHERE status = 'queued' AND created_at >= %s"
        with self._installation.connect() as connection:
            while connection.execute(query, [self._queued]).fetchone() != (0,):
                if time.monotonic() > deadline:
                    raise StackError("not all operations have begun")
                time.sleep(POLL_S)

    def seconds(self, team: Team) -> float:
        """Return how long it took from the queueing until this team's last number was connected."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            succeeded, failed, seconds = self.ended(team)
            if failed:
                raise StackError(f"{failed} operations of {team.name} failed")
            if succeeded == self._wanted[team]:
                return seconds
            time.sleep(POLL_S)
        raise StackError(f"not all operations of {team.name} ended within {PATIENCE_S:g} s")

    def ended(self, team: Team) -> tuple[int, int, float]:
        """Count the operations of a team that have succeeded and failed; with the seconds until the last one ended."""
        values = {"since": self._since, "queued": self._queued, "account": team.carrier_id}
        with self._installation.connect() as connection:
            row = connection.execute(_ENDED, values).fetchone()
        succeeded, failed, seconds = row or (0, 0, None)
        return int(succeeded), int(failed), float(seconds or 0)


def _now(connection: psycopg.Connection[Any]) -> Any:
    row = connection.execute("SELECT clock_timestamp()").fetchone()
    return row[0] if row else None


def _post(installation: Installation, agents: Sequence[str], numbers: Sequence[str]) -> None:
    posts = posts_for(agents, numbers)
    plan = Plan(installation.port, POSTERS, PATIENCE_S, {"Authorization": f"Bearer {installation.key}"}, posts)
    statuses = load.run(plan).statuses
    if statuses != {"202": len(agents)}:
        raise StackError(f"not every number was queued: {dict(statuses)}")
