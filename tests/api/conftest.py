"""Fixtures of the API tests."""

from tests.support.api import api, api_database_url, own_api, shared_api
from tests.support.numbers import account

__all__ = ["account", "api", "api_database_url", "own_api", "shared_api"]
