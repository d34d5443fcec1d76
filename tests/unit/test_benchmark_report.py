"""The benchmarks' report and arithmetic, from figures made up: a run takes minutes, and a wrong ratio is silent."""

import io
import json
from typing import Any

import pytest
from rich.console import Console

from tests.benchmarks import bulk
from tests.benchmarks.bench import NO_LATENCY, REAL_LATENCY, median, percentile
from tests.benchmarks.critical_path import CALLS, READ, TWILIO_BRANCH, needed, path_of
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


def _requests(*names: str) -> list[dict[str, str]]:
    return [{"operation": name} for name in names]


def test_the_critical_path_is_the_longest_way_through_the_calls() -> None:
    path = path_of(_requests(*CALLS * 3), 3, REAL_LATENCY)
    assert path.critical_ms == pytest.approx(150 + 2 * 50 + 150 + 150)
    assert path.calls_ms == pytest.approx(3 * 150 + 4 * 50)
    assert (path.calls, path.twilio_in_line) == (7, 3)
    assert needed(REAL_LATENCY) == path
    assert path_of(_requests(*CALLS), 1, NO_LATENCY).critical_ms == 0


def test_a_trunk_that_is_made_lengthens_the_critical_path_and_a_read_beside_the_others_does_not() -> None:
    made = path_of(_requests(*CALLS, *TWILIO_BRANCH, "twilio.list_origination_urls"), 1, REAL_LATENCY)
    assert made.critical_ms == pytest.approx(150 + 2 * 150 + 150 + 150)
    assert (made.calls, made.twilio_in_line) == (10, 5)


def test_a_number_that_is_read_before_it_is_attached_lengthens_the_critical_path() -> None:
    path = path_of(_requests(*CALLS, READ), 1, REAL_LATENCY)
    assert path.critical_ms == pytest.approx(needed(REAL_LATENCY).critical_ms + 150)
    assert path.twilio_in_line == 4


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


def test_the_rate_of_a_bulk_is_that_of_its_middle_and_calls_are_counted_for_each_number() -> None:
    done_at = [5 + second / 10 for second in range(100)] + [60.0]
    asked = [_asked(0, 200) for _ in range(101)] + [_asked(0, 429)] * 4 + [_asked(0, 200, "livekit")] * 202
    rate, refused, twilio, livekit = bulk.rows_of("rate set", asked, done_at, is_pooled=True)
    assert rate.ratio == pytest.approx(1, abs=0.01)
    assert rate.note == "101 numbers in 60.0 s"
    assert refused.figure == pytest.approx(4 / 307)
    assert (twilio.figure, livekit.figure) == (1, 2)
    assert (rate.is_met, refused.is_met, twilio.is_met, livekit.is_met) == (True, False, True, True)


def test_workers_share_the_concurrency_and_keep_names_of_their_own() -> None:
    lines = procfile_lines(concurrency=64, workers=2)
    assert [name for name in lines if name.startswith("worker")] == ["worker.0", "worker.1"]
    assert all("-c 32" in lines[name] for name in ("worker.0", "worker.1"))
    assert "provision0@" in lines["worker.0"]
    assert "provision1@" in lines["worker.1"]


def test_the_web_line_names_the_application_that_the_bare_view_replaces() -> None:
    assert APPLICATION in procfile_lines(None, 1)["web"]
