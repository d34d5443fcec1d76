"""The lists in docs/ are those of the code, and the dashboard and the alert rules speak of what there is."""

import ast
import json
import re
import shutil
import subprocess
from itertools import takewhile
from pathlib import Path

import pytest

from app.domain.events import EventName, WebhookEvent
from app.observability import counters
from app.observability.counters import METRICS, Kind, Metric
from app.saga.instrumentation import OUTCOMES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

PROMTOOL = shutil.which("promtool")
NO_PROMTOOL = "promtool is not installed: .ci/run installs it from Debian's prometheus package"

_NAME = re.compile(r"\btrunkline_[a-z_]+")
_ALERT = re.compile(r"^ +- alert: (\w+)$", re.MULTILINE)


def text_of(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def table_below(text: str, heading: str) -> list[list[str]]:
    """Return the cells of every row of the first table below a heading."""
    lines = text.partition(heading)[2].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = [line.strip("|").split("|") for line in takewhile(bool, lines[start + 2 :])]
    return [[cell.strip() for cell in row] for row in rows]


def first_words(rows: list[list[str]]) -> list[str]:
    return [row[0].strip("`") for row in rows]


def shown_by_prometheus() -> set[str]:
    suffixes = {Kind.HISTOGRAM: ("_bucket", "_sum", "_count"), Kind.COUNTER: ("",), Kind.GAUGE: ("",)}
    return {metric.name + suffix for metric in METRICS for suffix in suffixes[metric.kind]}


def test_the_list_of_metrics_is_that_of_the_code() -> None:
    told = [
        [f"`{metric.name}`", metric.kind.value, ", ".join(f"`{label}`" for label in metric.labels), metric.help]
        for metric in METRICS
    ]
    assert table_below(text_of("metrics.md"), "rest of the page is there.") == told


def test_no_metric_is_missing_from_the_list() -> None:
    assert set(METRICS) == {value for value in vars(counters).values() if isinstance(value, Metric)}
    assert len(set(METRICS)) == len(METRICS)


def test_the_outcomes_of_a_run_are_those_of_the_document() -> None:
    described = re.search(r"^- `outcome` of a run:(.*?)^- ", text_of("metrics.md"), re.MULTILINE | re.DOTALL)
    assert described is not None
    assert set(re.findall(r"`(\w+)`", described[1])) == set(OUTCOMES.values())


def test_every_metric_is_named_after_its_unit_or_counts() -> None:
    for metric in METRICS:
        assert metric.name.endswith("_total") is (metric.kind is Kind.COUNTER)
        if metric.kind is Kind.HISTOGRAM or "oldest" in metric.name or "age" in metric.name.split("_"):
            assert metric.name.endswith("_seconds")


def test_the_dashboard_shows_what_there_is_and_all_of_it() -> None:
    dashboard = json.loads(text_of("grafana-dashboard.json"))
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    named = {name for expression in expressions for name in _NAME.findall(expression)}
    assert named <= shown_by_prometheus()
    assert {name.removesuffix("_bucket") for name in named} == {metric.name for metric in METRICS}


def test_the_panels_of_the_dashboard_lie_side_by_side() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(text_of("grafana-dashboard.json"))["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_alert_rules_speak_of_what_there_is() -> None:
    named = set(_NAME.findall(text_of("alerts.yml")))
    assert named
    assert named <= shown_by_prometheus()


def test_every_alert_has_its_section_in_the_runbook() -> None:
    rules, runbook = text_of("alerts.yml"), text_of("runbook.md")
    alerts = _ALERT.findall(rules)
    assert re.findall(r"^ +runbook_url: docs/runbook\.md#(\w+)$", rules, re.MULTILINE) == [
        alert.lower() for alert in alerts
    ]
    assert re.findall(r"^## (Trunkline\w+)$", runbook, re.MULTILINE) == alerts


@pytest.mark.skipif(PROMTOOL is None, reason=NO_PROMTOOL)
def test_prometheus_accepts_the_alert_rules() -> None:
    command = [str(PROMTOOL), "check", "rules", "--lint=all", "--lint-fatal", str(DOCS / "alerts.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_list_of_events_is_that_of_the_code() -> None:
    text = text_of("events.md")
    assert first_words(table_below(text, "## The events of an operation")) == [event.value for event in EventName]
    assert first_words(table_below(text, "## Webhooks")) == [event.value for event in WebhookEvent]


LEVELS = {"info": "info", "warning": "warning", "error": "error", "exception": "error"}


def logged_in(path: Path) -> set[tuple[str, str]]:
    """Return (event, level) of every line that a module logs; an event that is no constant is a mistake."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="log"), attr=level), args=[first, *_]) if (
                level in LEVELS
            ):
                assert isinstance(first, ast.Constant), f"{path}:{node.lineno} logs an event that is not static"
                found.add((str(first.value), LEVELS[level]))
    return found


def test_the_list_of_log_lines_is_that_of_the_code() -> None:
    rows = table_below(text_of("events.md"), "## Log lines")
    modules = [*(ROOT / "app").rglob("*.py"), *(ROOT / "tasks").rglob("*.py")]
    written = {line for module in modules for line in logged_in(module)}
    assert {(row[0].strip("`"), row[1]) for row in rows} == written
    assert len(rows) == len(written)
