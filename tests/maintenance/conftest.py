"""Fixtures of the tests of care."""

from tests.support.saga import plain_logs

__all__ = ["plain_logs"]
