"""Fixtures of the command line's tests."""

from tests.support.commands import shell

__all__ = ["shell"]
