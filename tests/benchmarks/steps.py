"""Where the time of one operation goes: per step, the wait in the queue, the database, the provider, the broker."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg

from app.domain.operations import STEPS
from tests.benchmarks.bench import LATENCIES, Bench, Latency, median
from tests.benchmarks.installation import running
from tests.benchmarks.one import Provisioner
from tests.benchmarks.report import Bar, Detail, Findings, Row

COLUMNS = ("step", "queue", "database", "provider", "publish", "other", "together", "transactions", "SQL", "messages")

TRANSACTIONS_PER_STEP = 2
MESSAGES_PER_STEP = 1
"""What a step may cost; two branches need one more message where they split."""

Record = Mapping[str, Any]


def measure(bench: Bench) -> Findings:
    """Provision numbers one at a time with the probe in the worker, and add up what it has recorded."""
    found = Findings()
    probe = bench.stack.folder / "probe.jsonl"
    with running(bench.stack, "steps", probe=probe) as installation:
        Provisioner(bench, installation, 4).run()
        for latency in LATENCIES:
            bench.say("steps", latency.name)
            bench.stack.sandbox.latency(latency.twilio_ms, latency.livekit_ms)
            probe.unlink(missing_ok=True)
            with installation.connect() as connection:
                connection.execute("TRUNCATE events")
                own = Provisioner(bench, installation, bench.scale.single_numbers)
                wholes = own.run()
                found.add(_findings(latency, _records(probe), _queued_at(connection), own.posts_ms, wholes))
        bench.stack.sandbox.latency(0, 0)
    return found


def _records(probe: Path) -> list[Record]:
    return [json.loads(line) for line in probe.read_text(encoding="utf-8").splitlines()]


def _queued_at(connection: psycopg.Connection[Any]) -> dict[str, float]:
    """Return when each operation was queued, seconds since the epoch; the clock is this machine's too."""
    query = "SELECT operation_id::text, extract(epoch FROM at)::float8 FROM events WHERE event = 'operation_queued'"
    return {str(row[0]): float(row[1]) for row in connection.execute(query)}


def _findings(
    latency: Latency,
    records: Sequence[Record],
    queued_at: Mapping[str, float],
    posts: Sequence[float],
    wholes: Sequence[float],
) -> Findings:
    published = {key: at for record in records for key, at in record.get("published", {}).items()}
    by_step: dict[str, list[list[float]]] = defaultdict(list)
    for record in sorted(records, key=lambda one: one["began_at"]):
        if record["operation"] in queued_at:
            idle = "" if "provider_ms" in record else " (not ready)"
            sent_at = published.get(record["id"], queued_at[record["operation"]])
            by_step[record["task"].removeprefix("provision.") + idle].append(_figures(record, sent_at))
    lines: list[list[str | float]] = [["POST to its answer", 0.0, 0.0, 0.0, 0.0, 0.0, median(posts) or 0.0, "", "", ""]]
    for step, figures in by_step.items():
        lines.append([step, *((median(column) or 0.0) for column in zip(*figures, strict=True))])
    lines.append(["POST to PROVISIONED", 0.0, 0.0, 0.0, 0.0, 0.0, median(wholes) or 0.0, "", "", ""])
    working = [step for step in by_step if not step.endswith("(not ready)")]
    most = {place: max(max(one[place] for one in by_step[step]) for step in working) for place in (6, 8)}
    rows = [
        Row(f"{what} per step {latency.name}", most[place], "", bar=Bar("<=", limit, "figure"), note=note)
        for what, place, limit, note in (
            ("transactions", 6, TRANSACTIONS_PER_STEP, "the most of any step"),
            ("messages", 8, MESSAGES_PER_STEP, "the most of any step; 2 where the branches part"),
        )
    ]
    # The first message is the web process's.
    messages = sum(one[8] for step in by_step.values() for one in step) / len(wholes) + 1
    rows.append(Row(f"messages per operation {latency.name}", messages, "", "steps", len(STEPS)))
    title = f"One operation {latency.name}, medians of {len(wholes)}, milliseconds (the probe itself costs some)"
    return Findings(rows, [Detail(title, COLUMNS, lines)])


def _figures(record: Record, sent_at: float) -> list[float]:
    """Return queue, database, provider, publish, other and together in ms; transactions, statements, messages."""
    database, provider, publish = (float(record.get(name, 0)) for name in ("database_ms", "provider_ms", "publish_ms"))
    # A worker may have the message before its publisher has the answer.
    queue = max(record["began_at"] - sent_at, 0) * 1000
    own = (record["ended_at"] - record["began_at"]) * 1000
    counts = [record.get("transactions", 0), record.get("statements", 0), len(record.get("published", {}))]
    return [queue, database, provider, publish, own - database - provider - publish, queue + own, *map(float, counts)]
