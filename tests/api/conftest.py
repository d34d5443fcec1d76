"""Fixtures of the API tests."""

from tests.support.api import api, api_database_url

__all__ = ["api", "api_database_url"]
