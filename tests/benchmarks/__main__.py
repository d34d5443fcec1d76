"""`./run.py bench`: runs the chosen benchmarks and prints their results."""

import argparse
import dataclasses
import signal
import sys
from collections.abc import Callable

from rich.console import Console

from app.dev.localstack.host import StackError
from app.dev.localstack.terminal import Terminal
from tests.benchmarks import accept, accounts, audit, bulk, growth, many, one, patches, pool, status, steps
from tests.benchmarks.bench import QUICK, Bench, Scale
from tests.benchmarks.machine import Others, facts
from tests.benchmarks.report import Findings, Row, as_json, show
from tests.benchmarks.stack import bench_stack

MEASURES = {
    "accept": accept.measure,
    "one": one.measure,
    "many": many.measure,
    "status": status.measure,
    "steps": steps.measure,
    "patches": patches.measure,
    "growth": growth.measure,
    "audit": audit.measure,
    "bulk": bulk.measure,
    "accounts": accounts.measure,
    "pool": pool.measure,
}
"""In the order in which they run; memory is measured by accept (web) and many (worker)."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    options = argparse.ArgumentParser(prog="run.py bench")
    options.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MEASURES)}; all without any")
    options.add_argument("--json", action="store_true", dest="is_json", help="print JSON instead of tables")
    options.add_argument("--quick", action="store_true", help="a smoke within a minute; its figures say nothing")
    options.add_argument("--concurrency", type=int, help="slots of all workers together, ours and DBOS's (64)")
    options.add_argument("--workers", type=int, help="worker processes that share the concurrency (1)")
    options.add_argument("--numbers", type=int, help="numbers of many (500), bulk (1,000) and pool (10,000)")
    options.add_argument("--rounds", type=int, help="rounds of accept, status and many (3), and of patches (5)")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the measures; 0 when all bars are met, 1 when one is missed or a measure broke."""
    options = parser().parse_args(arguments)
    unknown = sorted(set(options.names) - set(MEASURES))
    if unknown:
        parser().error(f"no such measure: {', '.join(unknown)}")
    # Every way to be asked to stop is the one that unwinds.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    terminal = Terminal(Console(highlight=False, soft_wrap=True, stderr=True))
    found = Findings()
    with bench_stack() as stack:
        machine = facts(stack)
        bench, others = Bench(stack, _scale(options), terminal), Others()
        for name, measure in MEASURES.items():
            if not options.names or name in options.names:
                terminal.heading(name)
                found.add(_tried(name, measure, bench))
        machine["others meanwhile"] = f"{others.cores():.1f} cores busy with what is not ours"
    if options.is_json:
        sys.stdout.write(as_json(machine, found) + "\n")
    else:
        show(Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH), machine, found)
    return 1 if any(row.is_met is False or row.is_broken for row in found.rows) else 0


def _tried(name: str, measure: Callable[[Bench], Findings], bench: Bench) -> Findings:
    """Measure; a measure that breaks is a row that says so, and the others go on."""
    try:
        return measure(bench)
    except StackError as error:
        bench.terminal.error_line(f"{name}: {error}")
        return Findings([Row(name, None, "", note=str(error).partition("\n")[0], is_broken=True)])


WIDTH = 190
"""Columns where standard output is not a terminal: room for every column of the table."""


def _scale(options: argparse.Namespace) -> Scale:
    scale = QUICK if options.quick else Scale()
    given = {"concurrency": options.concurrency, "workers": options.workers, "many_numbers": options.numbers}
    given |= {"bulk_items": options.numbers, "pool_numbers": options.numbers}
    given |= {"pool_dedicated": (options.numbers or 0) // 10}
    given |= {"load_rounds": options.rounds, "many_rounds": options.rounds, "patch_rounds": options.rounds}
    return dataclasses.replace(scale, **{name: value for name, value in given.items() if value})


if __name__ == "__main__":
    sys.exit(main())
