"""The smallest benchmark: the Procfile's web line still starts on the benchmarks' stack, and a measure succeeds."""

import dataclasses
import io

from rich.console import Console

from app.dev.localstack.terminal import Terminal
from tests.benchmarks import accept
from tests.benchmarks.bench import QUICK, Bench
from tests.benchmarks.stack import bench_stack

TINY = dataclasses.replace(QUICK, load_s=0.3, connections=(2,), load_agents=600)


def test_accept_is_measured_beside_the_bare_view() -> None:
    with bench_stack(is_durable=False) as stack:
        found = accept.measure(Bench(stack, TINY, Terminal(Console(file=io.StringIO()))))
    rate = next(row for row in found.rows if row.measure == "accept, 2 connections: rate")
    assert rate.figure
    assert rate.floor_figure
    assert {row.is_broken for row in found.rows} == {False}
