"""The smallest benchmarks still run: the Procfile's web line starts on their stack, and a measure succeeds.

A benchmark is no test of Trunkline, so the whole suite leaves them out: `BENCH=1 ./run.py test
tests/e2e/test_benchmarks.py` (two minutes), after a change in tests/benchmarks.
"""

import dataclasses
import io
import os

import pytest
from rich.console import Console

from app.dev.localstack.terminal import Terminal
from tests.benchmarks import accept, patches
from tests.benchmarks.bench import QUICK, Bench
from tests.benchmarks.stack import bench_stack

TINY = dataclasses.replace(QUICK, load_s=0.3, connections=(2,), load_agents=600, patch_plans=20, patch_numbers=2)


pytestmark = pytest.mark.skipif(not os.environ.get("BENCH"), reason="two minutes: BENCH=1, or ./run.py bench")


def test_accept_is_measured_beside_the_bare_view() -> None:
    with bench_stack(is_durable=False) as stack:
        found = accept.measure(Bench(stack, TINY, Terminal(Console(file=io.StringIO()))))
    rate = next(row for row in found.rows if row.measure == "accept, 2 connections: rate")
    assert rate.figure
    assert rate.floor_figure
    assert {row.is_broken for row in found.rows} == {False}


def test_every_patch_of_celery_is_measured_with_and_without() -> None:
    with bench_stack(is_durable=False) as stack:
        found = patches.measure(Bench(stack, TINY, Terminal(Console(file=io.StringIO()))))
    assert sum(row.bar is patches.WORTH for row in found.rows) == 3
    figures = {row.measure: (row.figure, row.floor_figure) for row in found.rows if row.floor}
    assert None not in {figure for pair in figures.values() for figure in pair}
    with_it, without_it = figures["event batching: messages with events per operation"]
    assert with_it < without_it  # the side without really runs without
