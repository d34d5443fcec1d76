"""Fixtures of the API tests."""

from tests.support.api import api, api_database_url, own_api, shared_api

__all__ = ["api", "api_database_url", "own_api", "shared_api"]
