"""Fixtures of the whole suite; each family of them lives in a module of tests/support."""

import os

FOREIGN_SETTINGS = ("DATABASE_URL", "REDIS_URL", "TWILIO_", "LIVEKIT_", "INSTANCE_NAME", "DATA_DIR", "FLOWER_", "OTEL_")
"""Names (or their beginnings) that no test may see: tests empty what they find, and it must not be a real account."""

for foreign in [name for name in os.environ if name.startswith(FOREIGN_SETTINGS)]:
    del os.environ[foreign]

pytest_plugins = ["tests.support.servers", "tests.support.sandbox", "tests.support.matrix_size", "tests.support.stage"]
