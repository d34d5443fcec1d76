"""Fixtures of the maintenance tests."""

from tests.support.changed_path import changing
from tests.support.saga import plain_logs

__all__ = ["changing", "plain_logs"]
