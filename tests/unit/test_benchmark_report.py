"""The benchmarks' report and arithmetic, from figures made up: a run takes minutes, and a wrong ratio is silent."""

import io
import json
from typing import Any

import pytest
from rich.console import Console

from tests.benchmarks import bulk
from tests.benchmarks.bench import NO_LATENCY, REAL_LATENCY, median, percentile
from tests.benchmarks.critical_path import CALLS, needed, path_of
from tests.benchmarks.installation import APPLICATION, procfile_lines
from tests.benchmarks.report import Bar, Detail, Findings, Row, as_json, show

FOUND = Findings(
    [
        Row("accept: rate", 120.0, "/s", "bare view", 200.0, Bar(">=", 0.5)),
        Row("accept: p99", 45.5, "ms", "bare view", 10.0, Bar("<=", 3)),
        Row("memory", 99.0, "MB", bar=Bar("<=", 120, "figure"), note="resident"),
        Row("bulk", None, "/s", bar=Bar(">=", 0.95)),
    ],
    [Detail("One operation", ("step", "ms"), [["twilio_trunk", 12.5], ["together", 20]])],
)


def test_the_json_has_a_figure_a_floor_a_ratio_and_a_verdict_for_every_row() -> None:
    run = json.loads(as_json({"cores": 2}, FOUND))
    assert run["machine"] == {"cores": 2}
    assert [(row["ratio"], row["bar"], row["met"]) for row in run["rows"]] == [
        (0.6, ">= 0.5 x", True),
        (4.55, "<= 3 x", False),
        (None, "<= 120", True),
        (None, ">= 0.95 x", None),
    ]
    assert run["rows"][0] | {"bar": None} == {
        "measure": "accept: rate",
        "figure": 120.0,
        "unit": "/s",
        "floor": "bare view",
        "floorFigure": 200.0,
        "ratio": 0.6,
        "bar": None,
        "met": True,
        "note": None,
    }
    assert run["details"] == [
        {"title": "One operation", "lines": [{"step": "twilio_trunk", "ms": 12.5}, {"step": "together", "ms": 20}]}
    ]


def test_the_table_has_a_line_for_every_row_and_detail() -> None:
    console = Console(file=io.StringIO(), width=160)
    show(console, {"cores": 2}, FOUND)
    text = console.file.getvalue()  # type: ignore[attr-defined]  # it is a StringIO
    for part in ("cores", "accept: rate", "0.60", "4.55", "yes", "no", "resident", "One operation", "12.5"):
        assert part in text


def test_the_critical_path_is_the_longest_way_through_the_calls() -> None:
    path = path_of([{"operation": name} for name in CALLS * 3], 3, REAL_LATENCY)
    assert path.critical_ms == pytest.approx(150 + 2 * 150 + 150 + 150 + 150)
    assert path.calls_ms == pytest.approx(7 * 150 + 4 * 50)
    assert path.calls == 11
    assert needed(REAL_LATENCY) == path
    assert path_of([{"operation": name} for name in CALLS], 1, NO_LATENCY).critical_ms == 0


def test_a_call_that_is_no_part_of_the_path_is_not_overlooked() -> None:
    with pytest.raises(ValueError, match=r"twilio\.delete_trunk"):
        path_of([{"operation": name} for name in (*CALLS, "twilio.delete_trunk")], 1, REAL_LATENCY)


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert percentile(values, 0.99) == 100
    assert percentile(values, 0.5) == 51
    assert percentile([], 0.5) is None
    assert median([]) is None


def _asked(second: float, status: int, provider: str = "twilio") -> dict[str, Any]:
    return {"at": f"2026-01-01T00:00:{second:09.6f}+00:00", "status": status, "provider": provider}


def test_the_share_of_a_limit_counts_what_was_served_and_refusals_apart() -> None:
    asked = [_asked(second / 20, 200) for second in range(400)] + [_asked(19.5, 429)] * 4
    share, refused = bulk.rows_of("rate set", asked, 10, 7)
    assert share.ratio == pytest.approx(1, abs=0.01)
    assert refused.figure == pytest.approx(4 / 204, abs=0.001)
    assert (share.is_met, refused.is_met) == (True, False)


def test_workers_share_the_concurrency_and_keep_names_of_their_own() -> None:
    lines = procfile_lines(concurrency=64, workers=2)
    assert [name for name in lines if name.startswith("worker")] == ["worker.0", "worker.1"]
    assert all("-c 32" in lines[name] for name in ("worker.0", "worker.1"))
    assert "provision0@" in lines["worker.0"]
    assert "provision1@" in lines["worker.1"]


def test_the_web_line_names_the_application_that_the_bare_view_replaces() -> None:
    assert APPLICATION in procfile_lines(None, 1)["web"]
