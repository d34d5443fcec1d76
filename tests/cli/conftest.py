"""Fixtures for the tests of the command line."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from app.db.engine import make_engine
from tests.support.api import api, delete_rows, own_api, shared_api
from tests.support.commands import bare, shell
from tests.support.servers import PostgresServer

__all__ = ["api", "api_database_url", "bare", "own_api", "shared_api", "shell"]


@pytest.fixture(scope="session")
def api_database_url(postgres_server: PostgresServer, template_database: str) -> str:
    """The URL of a migrated database that the tests of the command line share; those of the API have another."""
    postgres_server.create_database("cli_tests", template_database)
    return postgres_server.url("cli_tests")


@pytest.fixture(scope="session")
def emptying_engine(api_database_url: str) -> Iterator[Engine]:
    """What empties that database between two tests."""
    engine = make_engine(api_database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def database_url(api_database_url: str, emptying_engine: Engine) -> str:
    """The URL of that database, emptied: a tenth of what a new one costs."""
    with emptying_engine.begin() as connection:
        delete_rows(connection)
    return api_database_url
