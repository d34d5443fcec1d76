"""Fixtures of the whole suite; each family of them lives in a module of tests/support."""

import gc
import os

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
    "tests.support.short_forms",
    "tests.support.conformance",
    "tests.support.livekit_server",
    "tests.support.twilio_server",
    "tests.support.sandbox_app",
]


LONG = ("test_matrix.py", "test_soak.py")
"""Modules with tests of half a minute and more."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest: what is left at the end is short, and shared out between the workers."""
    items.sort(key=lambda item: item.path.name not in LONG)


def pytest_collection_finish() -> None:
    """Leave out of every later garbage collection what lives to the end: 7 % of the CPU of the small tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
