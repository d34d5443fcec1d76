"""Fixtures of the whole suite; each family of them lives in a module of tests/support."""

import gc
import os
from collections import Counter
from pathlib import Path

import pytest

FOREIGN_SETTINGS = ("DATABASE_URL", "REDIS_URL", "TWILIO_", "LIVEKIT_", "INSTANCE_NAME", "DATA_DIR", "FLOWER_", "OTEL_")
"""Names (or their beginnings) that no test may see: tests empty what they find, and it must not be a real account."""

for foreign in [name for name in os.environ if name.startswith(FOREIGN_SETTINGS)]:
    del os.environ[foreign]

pytest.register_assert_rewrite("tests.support")

pytest_plugins = [
    "tests.support.servers",
    "tests.support.sandbox",
    "tests.support.case_counts",
    "tests.support.conformance",
    "tests.support.livekit_server",
    "tests.support.twilio_server",
    "tests.support.sandbox_app",
]


LONG = ("test_matrix.py", "test_soak.py")
"""Modules with tests of half a minute and more."""


ONE_IN = 3
"""Of the cases of a sweep the whole suite runs so many: three has no divisor in common with the five ways to fail."""


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark of tests with a case for every call, change or field."""
    text = f"many cases alike: one in {ONE_IN} in the whole suite, each where a file is named, or with SWEEPS=all"
    config.addinivalue_line("markers", f"sweep: {text}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the longest: what is left at the end is short, and shared out between the workers."""
    is_whole_suite = not config.option.keyword and not any(".py" in path for path in config.args)
    if is_whole_suite and os.environ.get("SWEEPS") != "all":
        seen: Counter[tuple[Path, str]] = Counter()
        left_out = [item for item in items if item.get_closest_marker("sweep") and _place(item, seen) % ONE_IN]
        config.hook.pytest_deselected(items=left_out)
        skipped = set(left_out)
        items[:] = [item for item in items if item not in skipped]
    items.sort(key=lambda item: item.path.name not in LONG)


def _place(item: pytest.Item, seen: Counter[tuple[Path, str]]) -> int:
    """Return which case of its test this is, counted from 0."""
    test = (item.path, item.name.partition("[")[0])
    seen[test] += 1
    return seen[test] - 1


def pytest_collection_finish() -> None:
    """Leave out of every later garbage collection what lives to the end: 7 % of the CPU of the small tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
