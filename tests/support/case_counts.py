"""Prints one line at the end of a run: how many cases of the failure matrix have run, and by which tests."""

from typing import Any

import pytest

PROPERTY = "matrix_cases"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Add up what the tests recorded; under xdist that comes with the reports."""
    outcomes: dict[str, int] = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            if isinstance(report, pytest.TestReport) and report.when == "call":
                cases = sum(int(value) for name, value in report.user_properties if name == PROPERTY)
                outcomes[outcome] = outcomes.get(outcome, 0) + cases
    if total := sum(outcomes.values()):
        terminalreporter.write_line(f"matrix: {total} cases, in tests that {_words(outcomes)}")


def _words(outcomes: dict[str, int]) -> str:
    return ", ".join(f"{outcome}: {cases}" for outcome, cases in outcomes.items() if cases)
