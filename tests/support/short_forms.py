"""What the whole suite runs in a short form, since its many cases are alike: sweeps and the failure matrix.

The long form runs where a file is named, or with `SWEEPS=all`: do so when you change what it is about. `SWEEPS=short`
has the short form of a file that is named.
"""

import os
from collections import Counter
from pathlib import Path

import pytest

ONE_IN = 3
"""Of the cases of a sweep the whole suite runs so many: three has no divisor in common with the five ways to fail."""


def is_short(config: pytest.Config) -> bool:
    """Tell whether this run is of the whole suite, or of a folder, without the wish for every case."""
    if wish := os.environ.get("SWEEPS"):
        return wish != "all"
    return not config.option.keyword and not any(".py" in path for path in config.args)


def rounds(config: pytest.Config, whole: int) -> int:
    """Return how many of so many random rounds this run makes: the first third in the short form, at least 4."""
    return max(whole // ONE_IN, 4) if is_short(config) else whole


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark of tests with a case for every call, change or field."""
    text = f"many cases alike: one in {ONE_IN} in the whole suite, each where a file is named, or with SWEEPS=all"
    config.addinivalue_line("markers", f"sweep: {text}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the cases of sweeps that a short run does not have."""
    if not is_short(config):
        return
    seen: Counter[tuple[Path, str]] = Counter()
    left_out = [item for item in items if item.get_closest_marker("sweep") and _place(item, seen) % ONE_IN]
    config.hook.pytest_deselected(items=left_out)
    skipped = set(left_out)
    items[:] = [item for item in items if item not in skipped]


def _place(item: pytest.Item, seen: Counter[tuple[Path, str]]) -> int:
    """Return which case of its test this is, counted from 0."""
    test = (item.path, item.name.partition("[")[0])
    seen[test] += 1
    return seen[test] - 1
