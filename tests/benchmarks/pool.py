"""10,000 numbers in an account of 100 trunks: connected, audited, consolidated and taken down, with nothing left."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from app.dev.localstack.host import StackError
from app.domain.events import Origin
from app.domain.operations import TrunkMode
from tests.benchmarks import load
from tests.benchmarks.bench import Bench
from tests.benchmarks.installation import BULK, ApiClient, Installation, running
from tests.benchmarks.load import Plan
from tests.benchmarks.processes import peak_mb
from tests.benchmarks.report import Bar, Findings, Row
from tests.benchmarks.rows import add_agents
from tests.benchmarks.stack import TRUNK_LIMIT as NO_LIMIT
from tests.soak.comparison import ForeignObjects, compare

NAME = "pool"

TRUNK_LIMIT = 100
"""Trunks that Twilio allows an account."""

MOST = 500
"""Numbers on one trunk, the setting's default."""

POLL_S = 0.5
"""Seconds between two counts of what is left."""

PROGRESS_S = 5.0
"""Seconds between two lines of progress."""

PATIENCE_S = 120.0
"""Seconds without any progress until a phase is given up."""

CONNECTIONS = 8
"""Connections on which numbers are taken down."""

_LEFT = """
    SELECT (SELECT count(*) FROM bulk_items WHERE status = 'pending')
           + (SELECT count(*) FROM operations WHERE finished_at IS NULL)
"""


def measure(bench: Bench) -> Findings:
    """Run the phases one after the other on one installation, and compare its rows with the providers."""
    bench.stack.sandbox.reset()
    bench.stack.sandbox.switch(trunkLimit=TRUNK_LIMIT)
    try:
        with running(bench.stack, NAME, [], concurrency=bench.scale.concurrency) as installation:
            # Nothing of ours runs beside the bulk that it should leave the cores to.
            installation.lines["bulk"] = installation.lines["bulk"].replace("nice -n 10 ", "")
            installation.start(BULK)
            return _Run(bench, installation).measure()
    finally:
        bench.stack.sandbox.reset()
        bench.stack.sandbox.switch(trunkLimit=NO_LIMIT)


@dataclass
class _Run:
    bench: Bench
    installation: Installation

    def __post_init__(self) -> None:
        self.rows: list[Row] = []

    def measure(self) -> Findings:
        numbers, dedicated = self.bench.scale.pool_numbers, self.bench.scale.pool_dedicated
        with self._phase("connected", numbers):
            self._connect(numbers, TrunkMode.SHARED)
        self._check(f"{numbers:,} connected", trunks=-(-numbers // MOST))
        with self._phase("audited", numbers):
            self._audit()
        self.bench.stack.sandbox.switch(trunkLimit=TRUNK_LIMIT + dedicated)
        with self._phase("connected, a trunk each", dedicated):
            self._connect(dedicated, TrunkMode.DEDICATED)
        with self.installation.connect() as connection:
            # As an installation of before has them: on trunks of their own, and not by their agents' wish.
            connection.execute("UPDATE agents SET trunk_mode = 'shared' WHERE trunk_mode = 'dedicated'")
        with self._phase("consolidated", dedicated):
            self._consolidate()
        self.bench.stack.sandbox.switch(trunkLimit=TRUNK_LIMIT)
        self._check("consolidated", trunks=-(-(numbers + dedicated) // MOST))
        with self._phase("taken down", numbers + dedicated):
            self._take_down()
        self._check("taken down")
        self.rows.append(Row("pool: peak memory of a worker", self._peak_mb(("worker", "bulk", "cleanup")), "MB"))
        self.rows.append(Row("pool: peak memory of a web process", self._peak_mb(("web",)), "MB"))
        return Findings(self.rows)

    @contextmanager
    def _phase(self, name: str, count: int) -> Iterator[None]:
        """Time the block, and count what reaches the providers meanwhile."""
        sandbox = self.bench.stack.sandbox
        sandbox.forget_requests()
        self.bench.say(NAME, f"{count:,} to be {name}")
        started = time.monotonic()
        yield
        took_s, calls = time.monotonic() - started, sandbox.request_counts()
        by_provider = {
            who: sum(number for operation, number in calls.items() if operation.startswith(who))
            for who in ("twilio", "livekit")
        }
        note = ", ".join(f"{operation} {number:,}" for operation, number in calls.items())
        self.rows.append(Row(f"pool: {count:,} {name}", took_s, "s", note=f"{count / took_s:.0f}/s"))
        self.rows += [
            Row(f"pool: {who} calls while {count:,} were {name}", number, "", "numbers", count)
            for who, number in by_provider.items()
        ]
        self.bench.say(NAME, f"{name} in {took_s:.0f} s: {note}")

    def _connect(self, count: int, mode: TrunkMode) -> None:
        with self.installation.connect() as connection:
            agents = add_agents(connection, count, mode)
        numbers = self.bench.owned_numbers(count)
        items = [{"agentId": agent, "phoneNumber": number} for agent, number in zip(agents, numbers, strict=True)]
        self._post("/api/provisionings", {"items": items})
        self._await_end()

    def _audit(self) -> None:
        with self.installation.wiring() as wiring:
            audit = wiring.audits.run_audit(wiring.audits.request_audit(fix=False, origin=Origin(requested_by="bench")))
        if audit is None or audit.findings:
            raise StackError(f"the audit found {audit and audit.findings[:3]}")

    def _consolidate(self) -> None:
        self._post("/api/trunks/consolidate", {})
        self._await_end()

    def _take_down(self) -> None:
        with self.installation.connect() as connection:
            agents = connection.execute("SELECT id FROM agents WHERE twilio_phone_number IS NOT NULL").fetchall()
        requests = [("DELETE", f"/api/agents/{agent}/deprovision-phone", "") for (agent,) in agents]
        headers = {"Authorization": f"Bearer {self.installation.key}"}
        statuses = load.run(Plan(self.installation.port, CONNECTIONS, PATIENCE_S, headers, requests)).statuses
        if set(statuses) != {"202"}:
            raise StackError(f"not every number is taken down: {dict(statuses)}")
        self._await_end()

    def _post(self, path: str, body: object) -> None:
        status, answer = ApiClient(self.installation).post(path, body)
        if status != 202:
            raise StackError(f"POST {path}: {status} {answer}")

    def _await_end(self) -> None:
        """Wait until nothing is left to be done; raise where nothing moves any more."""
        moved = shown = time.monotonic()
        before = None
        with self.installation.connect() as connection:
            while row := connection.execute(_LEFT).fetchone():
                left, now = int(row[0]), time.monotonic()
                if not left:
                    break
                if left != before:
                    before, moved = left, now
                if now - moved > PATIENCE_S:
                    raise StackError(f"{left} operations do not end")
                if now - shown > PROGRESS_S:
                    shown = now
                    self.bench.say(NAME, f"{left:,} to go")
                time.sleep(POLL_S)
            failed = connection.execute(
                "SELECT error_code, error_detail FROM operations WHERE status NOT IN ('succeeded')"
            ).fetchall()
        if failed:
            raise StackError(f"{len(failed)} operations failed, the first of them: {failed[0]}")

    def _check(self, when: str, trunks: int | None = None) -> None:
        """Compare rows and providers, every number called; raise where they differ."""
        self.bench.say(NAME, f"{when}: comparing rows and providers")
        stack, dsn = self.bench.stack, self.bench.stack.postgres.dsn(NAME)
        nobody = ForeignObjects(frozenset(), (), 0)
        state = stack.sandbox.state()
        records = {number["phone_number"]: number | {"trunk_sid": None} for number in state["numbers"]}
        found = compare(stack.sandbox, dsn, nobody, records, instance=NAME, most=MOST)
        if not found.is_empty:
            raise StackError(f"{when}: {found.counts()} {[lines[:2] for lines in vars(found).values() if lines]}")
        if trunks is not None and len(state["trunks"]) != trunks:
            raise StackError(f"{when}: {len(state['trunks'])} trunks, not {trunks}")
        left = {kind: len(state[kind]) for kind in ("trunks", "originationUrls", "livekitTrunks", "livekitRules")}
        differences = sum(found.counts().values())
        note = ", ".join(f"{kind} {number:,}" for kind, number in left.items())
        self.rows.append(Row(f"pool: differences, {when}", differences, "", bar=Bar("<=", 0, "figure"), note=note))

    def _peak_mb(self, lines: tuple[str, ...]) -> float:
        processes = self.installation.processes.items()
        return peak_mb(process.pid for line, process in processes if line.partition(".")[0] in lines)
