"""What each patch of Celery saves (`tasks/celery_patches.py`): CPU with it and without it, in turn."""

import contextlib
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

import redis

from app.dev.localstack.host import StackError
from app.dev.localstack.processes import poll_until
from app.domain.queues import QueueName
from tests.benchmarks.bench import REAL_LATENCY, Bench, median
from tests.benchmarks.installation import APPLICATION, ROOT, Installation
from tests.benchmarks.many import drain, queue, stopped
from tests.benchmarks.processes import cpu_s, main_thread_cpu_s
from tests.benchmarks.report import Bar, Findings, Row

ALL, TEMPLATES, CLIENT, BATCHING = "", "message templates", "one Redis client", "event batching"
"""Sides are named by the patch that they lack (`BENCH_WITHOUT` of tests/benchmarks/unpatched.py)."""

UNPATCHED = "tests.benchmarks.unpatched"

WORTH = Bar(">=", 3, "figure")
"""Percent. A patch that saves less of the CPU of the process that has it is deleted."""

PLAN, POST = "CPU per published plan", "CPU of a web process per post"
OPERATION, MAIN_THREAD = "CPU of a worker per operation", "CPU of its main thread per operation"
EVENTS = "messages with events per operation"

SAVED = {TEMPLATES: (POST, POST), CLIENT: (MAIN_THREAD, OPERATION), BATCHING: (MAIN_THREAD, OPERATION)}
"""By patch: the figure that it changes, and the whole that this is a share of.

A worker's main thread receives, acknowledges and reports all tasks. In eight rounds its CPU with a patch was 0.60 to
0.86 of that without; the whole worker's was 0.83 to 1.08, which differs by more than these patches save.
"""

PUBLISHED_S = 60.0
"""Seconds that the plans of all posts may take to be published."""

Figures = Mapping[str, float]
Play = Callable[[Bench, Installation], Figures]


def measure(bench: Bench) -> Findings:
    """Publish and post with and without templates; carry out operations with and without what a worker has."""
    found = _side_by_side(bench, "web", ("web",), (TEMPLATES,), _accept)
    bench.stack.sandbox.latency(REAL_LATENCY.twilio_ms, REAL_LATENCY.livekit_ms)
    found.add(_side_by_side(bench, "worker", ("web", "worker"), (CLIENT, BATCHING), _work))
    bench.stack.sandbox.latency(0, 0)
    return found


def _side_by_side(bench: Bench, who: str, lines: Sequence[str], patches: Sequence[str], play: Play) -> Findings:
    """Play rounds with all patches and without each of these, in turn, after one that does not count."""
    rounds: dict[str, list[Figures]] = defaultdict(list)
    with contextlib.ExitStack() as ended:
        sides = {
            without: ended.enter_context(_running(bench, f"{who}_{place}", lines, without))
            for place, without in enumerate((ALL, *patches))
        }
        for place in range(bench.scale.patch_rounds + 1):
            bench.say("patches", f"{who}, round {place}")
            for name, side in sides.items():
                rounds[name].append(play(bench, side))
    counted = {name: played[1:] for name, played in rounds.items()}
    return Findings([row for patch in patches for row in _rows(patch, counted[ALL], counted[patch])])


@contextlib.contextmanager
def _running(bench: Bench, name: str, lines: Sequence[str], without: str) -> Iterator[Installation]:
    """Yield an installation that lacks a patch; all of it ends with the block."""
    side = Installation(bench.stack, name)
    side.environ["BENCH_WITHOUT"] = without
    for line, command in side.lines.items():
        other = command.replace("celery -A tasks ", f"celery -A {UNPATCHED} ")
        side.lines[line] = other.replace(APPLICATION, f'"{UNPATCHED}:create_app()"')
    try:
        side.start(lines)
        yield side
    finally:
        side.stop()


def _accept(bench: Bench, side: Installation) -> Figures:
    """Publish plans from a process of their own, then have a web process answer posts; no worker takes them."""
    count = bench.scale.patch_plans
    command = [sys.executable, "-m", UNPATCHED, str(count)]
    done = subprocess.run(command, cwd=ROOT, env=side.environ, capture_output=True, text=True, check=False)  # noqa: S603 - ourselves
    if done.returncode:
        raise StackError(f"plans were not published:\n{done.stderr}")
    side.flush_broker()
    web = [side.processes["web"].pid]
    before = cpu_s(web)
    queue(bench, side, count)
    _await_messages(side, count)
    spent_ms = (cpu_s(web) - before) * 1000
    side.flush_broker()
    return {PLAN: float(done.stdout), POST: spent_ms / count}


def _await_messages(side: Installation, count: int) -> None:
    """Wait until the plans of all posts are published, which a thread does after the answer."""
    with redis.Redis.from_url(side.environ["REDIS_URL"]) as client:
        if not poll_until(lambda: sum(map(client.llen, QueueName.PROVISION.lists)) == count, PUBLISHED_S):
            raise StackError(f"not all of {count} plans were published within {PUBLISHED_S:g} s")


def _work(bench: Bench, side: Installation) -> Figures:
    """Queue numbers while the worker is stopped, and let it go."""
    (worker,), count = side.workers(), bench.scale.patch_numbers
    with stopped(side):
        queue(bench, side, count)
        before = _spent(side, worker.pid)
    drain(side, count)
    after = _spent(side, worker.pid)
    return {name: (after[name] - before[name]) / count for name in after}


def _spent(side: Installation, pid: int) -> Figures:
    """Return what was spent so far: milliseconds of CPU, and messages that carry events."""
    with redis.Redis.from_url(side.environ["REDIS_URL"]) as client:
        published = client.info("commandstats").get("cmdstat_publish", {"calls": 0})["calls"]
    return {OPERATION: cpu_s([pid]) * 1000, MAIN_THREAD: main_thread_cpu_s(pid) * 1000, EVENTS: published}


def _rows(patch: str, with_it: Sequence[Figures], without_it: Sequence[Figures]) -> list[Row]:
    rounds, rows = list(zip(with_it, without_it, strict=True)), []
    for name in with_it[0]:
        if name is EVENTS and patch != BATCHING:
            continue
        figures = [median([one[name] for one in side]) for side in (with_it, without_it)]
        note = "ratios " + ", ".join(f"{own[name] / other[name]:.2f}" for own, other in rounds if other[name])
        unit = "" if name is EVENTS else "ms"
        rows.append(Row(f"{patch}: {name}", figures[0], unit, "without", figures[1], note=note))
    changed, whole = SAVED[patch]
    shares = [(other[changed] - own[changed]) / other[whole] * 100 for own, other in rounds if other[whole]]
    note = "of " + ", ".join(f"{share:.1f}" for share in shares)
    return [*rows, Row(f"{patch}: saved of {whole}", median(shares), "%", bar=WORTH, note=note)]
