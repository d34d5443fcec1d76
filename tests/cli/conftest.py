"""Fixtures for the tests of the command line."""

from tests.support.api import api, api_database_url, own_api, shared_api
from tests.support.commands import shell

__all__ = ["api", "api_database_url", "own_api", "shared_api", "shell"]
