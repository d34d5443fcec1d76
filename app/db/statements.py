"""Runs one SQL statement as a transaction of its own, in one round trip: what the busiest paths are made of.

Behind a pooler it takes four: what a session is told once otherwise is said in each transaction.

A session's transaction costs a round trip for BEGIN, one for COMMIT and the ORM's work on every row: 4 to 8 ms of CPU
for the claim of a step, where the same change as one statement costs a tenth.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg.rows import namedtuple_row
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from app.db.engine import POOLED_SETTINGS, Sessions, is_pooled

_Cursor = psycopg.Cursor[Any]
_Rows = TypeVar("_Rows")


class Statements:
    """Runs statements on the connections of the sessions' pool; fails with the errors that a session fails with."""

    def __init__(self, sessions: Sessions) -> None:
        engine = sessions().get_bind()
        if not isinstance(engine, Engine):
            raise TypeError("the sessions are bound to a connection")
        self._engine = engine
        self._is_pooled = is_pooled(engine)

    def one(self, sql: str, values: Mapping[str, object]) -> Any | None:
        """Run `sql` (values as `%(name)s`) and commit; return its only row, by column name, or None."""
        if self._is_pooled:
            return self._run(sql, lambda cursor: self._transaction(cursor, (sql,), values)[0])
        return self._run(sql, lambda cursor: cursor.execute(sql, values).fetchone())

    def two(self, first: str, second: str, values: Mapping[str, object]) -> tuple[Any | None, Any | None]:
        """Run two statements in one transaction; return the only row of each, or None.

        The second is another look at the database: it sees what others committed while the first waited for its locks.
        """
        one, other = self._run(first, lambda cursor: self._transaction(cursor, (first, second), values))
        return one, other

    def _transaction(
        self, cursor: _Cursor, statements: Sequence[str], values: Mapping[str, object]
    ) -> list[Any | None]:
        # Not in a pipeline: psycopg's costs four times the CPU of these round trips.
        with cursor.connection.transaction():
            if self._is_pooled:
                cursor.execute(POOLED_SETTINGS)
            return [cursor.execute(statement, values).fetchone() for statement in statements]

    def _run(self, sql: str, work: Callable[[_Cursor], _Rows]) -> _Rows:
        pooled = self._engine.raw_connection()
        connection = pooled.driver_connection
        try:
            if not isinstance(connection, psycopg.Connection):
                raise TypeError("the engine's driver is not psycopg")
            connection.autocommit = True
            try:
                with connection.cursor(row_factory=namedtuple_row) as cursor:
                    return work(cursor)
            finally:
                if not connection.closed:
                    connection.autocommit = False
        except psycopg.Error as error:
            is_lost = self._engine.dialect.is_disconnect(error, pooled.dbapi_connection, None)  # type: ignore[arg-type]  # psycopg's own classes are not PEP 249 protocols
            if is_lost:
                pooled.invalidate(error)
            raise _as_sqlalchemy(self._engine, sql, error, is_lost=is_lost) from error
        finally:
            pooled.close()


def _as_sqlalchemy(engine: Engine, sql: str, error: psycopg.Error, *, is_lost: bool) -> BaseException:
    # The values stay out of it: an error's text goes to the log, and they may be a phone number.
    return DBAPIError.instance(
        sql, None, error, psycopg.Error, hide_parameters=True, connection_invalidated=is_lost, dialect=engine.dialect
    )
