"""Prints one line at the end of a run: how many cases of the failure matrix have run, and in which tests."""

from typing import Any

import pytest

PROPERTY = "matrix_cases"
"""What a test records: how many cases it runs, and how many it has in the long form."""


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Add up what the tests recorded; under xdist that comes with the reports."""
    outcomes: dict[str, int] = {}
    whole = 0
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            if isinstance(report, pytest.TestReport) and report.when == "call":
                counts = [value for name, value in report.user_properties if name == PROPERTY]
                outcomes[outcome] = outcomes.get(outcome, 0) + sum(ran for ran, _ in counts)
                whole += sum(of for _, of in counts)
    if total := sum(outcomes.values()):
        terminalreporter.write_line(f"matrix: {total} of {whole} cases, in tests that {_words(outcomes)}")


def _words(outcomes: dict[str, int]) -> str:
    return ", ".join(f"{outcome}: {cases}" for outcome, cases in outcomes.items() if cases)
