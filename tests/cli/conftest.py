"""Fixtures for the tests of the command line."""

import pytest

from tests.support.api import api, own_api, shared_api
from tests.support.commands import shell
from tests.support.servers import PostgresServer

__all__ = ["api", "api_database_url", "own_api", "shared_api", "shell"]


@pytest.fixture(scope="session")
def api_database_url(postgres_server: PostgresServer, template_database: str) -> str:
    """The URL of a migrated database that the tests of the command line share; those of the API have another."""
    postgres_server.create_database("cli_tests", template_database)
    return postgres_server.url("cli_tests")
