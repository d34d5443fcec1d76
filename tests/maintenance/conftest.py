"""Fixtures of the maintenance tests."""

from tests.support.saga import plain_logs

__all__ = ["plain_logs"]
