"""Fixtures for the tests of the command line."""

from tests.support.commands import shell

__all__ = ["shell"]
