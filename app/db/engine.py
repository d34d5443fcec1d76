"""The engine, its sessions, and single statements: one connection pool per process.

A session's transaction costs a round trip for BEGIN, one for COMMIT and the ORM's work on every row: 4 to 8 ms of CPU
for the claim of a step, where the same change as one statement costs a tenth. Behind a pooler each transaction sets
what a connection otherwise sets once, which costs a round trip more.
"""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

from app.db.visibility import filter_sessions

POOL_SIZE = 20
"""Connections of a process at most, opened as needed and kept: a transaction here lasts milliseconds, so a few serve
many threads. None is opened for a burst and closed again: that costs PostgreSQL as much as ten transactions (measured).
"""

POOL_TIMEOUT_S = 10
"""Seconds to wait for a free connection before the request or task fails; the sweeper brings tasks back."""

STATEMENT_TIMEOUT_MS = 15_000
"""Milliseconds after which PostgreSQL gives up a statement of ours: far above any of them, far below a hung worker."""

CONNECT_TIMEOUT_S = 5
"""Seconds to wait for PostgreSQL to accept a connection."""

PLANS = "-c enable_seqscan=off -c jit=off"
"""No sequential scan where an index serves, on every connection.

PostgreSQL keeps the plan of a prepared statement. One made while a table was tiny reads all of it, and still does when
the table has grown, until the next ANALYZE: accepting a POST and running a step then costs 13 ms of CPU after 1,200
numbers and 21 ms after 2,000, instead of 4. Every statement that runs often has an index. Planning each time instead
(`plan_cache_mode`) costs a third more CPU, `SET LOCAL` a round trip a statement, and a pool for the busy statements
alone twice the connections. Large reads lose little and some gain (docs/benchmarks.md, "Plans").

`jit=off`: releases before PostgreSQL 18 rate a scan that cannot be avoided so high that they would compile it first.
"""

POOLED_SETTINGS = (
    "SELECT set_config('timezone', 'UTC', true) AS timezone, "
    f"set_config('statement_timeout', '{STATEMENT_TIMEOUT_MS}', true) AS statement_timeout"
)
"""The connection's settings, for one transaction: behind a pooler the next one may run on another connection.

`PLANS` is not part of it: without prepared statements no plan is kept.
"""

TRUSTED_S = 0.1
"""Seconds after its last use in which a pooled connection counts as alive; later it is tested first.

A test costs a round trip per transaction. No restart of PostgreSQL is over within a tenth of a second; if one were,
each connection would fail one request or claim at most.
"""

_RETURNED_AT = "trunkline.returned_at"

Sessions = sessionmaker[Session]


def make_engine(url: str, *, pooler: bool = False) -> Engine:
    """Build the engine; a connection that died in the pool (restart, failover) is replaced before use.

    With `pooler` nothing outlives a transaction: poolers refuse options at the start of a session, and hand statements
    that were prepared in one session to another.
    """
    session = (
        {"prepare_threshold": None}
        if pooler
        else {"options": f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c timezone=UTC {PLANS}"}
    )
    engine = create_engine(
        url,
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_S,
        # The one used last is the one most surely alive, and those of a burst grow old and are tested.
        pool_use_lifo=True,
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT_S,
            "application_name": "trunkline",
            # A host that vanished is noticed in seconds, not in the kernel's quarter of an hour.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": STATEMENT_TIMEOUT_MS,
            **session,
        },
    )
    if pooler:
        event.listen(engine, "begin", _set_for_transaction)
    _test_idle_connections(engine)
    return engine


def is_pooled(engine: Engine) -> bool:
    """Return whether the engine was built for a pooler."""
    return event.contains(engine, "begin", _set_for_transaction)


def _set_for_transaction(connection: Connection) -> None:
    connection.exec_driver_sql(POOLED_SETTINGS)


def _test_idle_connections(engine: Engine) -> None:
    """Test every connection that was idle for longer than `TRUSTED_S` before it is used again."""

    def record(_connection: Any, entry: ConnectionPoolEntry) -> None:
        entry.info[_RETURNED_AT] = time.monotonic()

    def test(connection: Any, entry: ConnectionPoolEntry, _proxy: Any) -> None:
        if time.monotonic() - entry.info.get(_RETURNED_AT, time.monotonic()) <= TRUSTED_S:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            # All that were opened before are as dead as this one; the pool opens another and calls this again.
            raise InvalidatePoolError from error

    event.listen(engine, "checkin", record)
    event.listen(engine, "checkout", test)


def make_sessions(engine: Engine) -> Sessions:
    """Build the factory behind every `with sessions.begin() as session:`."""
    sessions = sessionmaker(engine, expire_on_commit=False)
    filter_sessions(sessions)
    return sessions


_Cursor = psycopg.Cursor[Any]


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
        return self.run([(sql, values)])

    def run(self, statements: Sequence[tuple[str, Mapping[str, object]]]) -> Any | None:
        """Run statements as one transaction; return the only row of the first, None where it has none and ends it."""
        first, *others = statements

        def work(cursor: _Cursor) -> Any | None:
            row = cursor.execute(*first).fetchone()
            for sql, values in others if row is not None else ():
                cursor.execute(sql, values)
            return row

        def transaction(cursor: _Cursor) -> Any | None:
            # Not in a pipeline: psycopg's costs four times the CPU of these round trips.
            with cursor.connection.transaction():
                if self._is_pooled:
                    cursor.execute(POOLED_SETTINGS)
                return work(cursor)

        return self._run(first[0], transaction if others or self._is_pooled else work)

    def _run(self, sql: str, work: Callable[[_Cursor], Any | None]) -> Any | None:
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


def read_sql(beside: str, name: str, parts: Collection[str] = (), **filled: str) -> str:
    """Read a statement from the folder `sql` beside a module.

    `filled` is put in for `{name}`: our own constants only. What stands between `-- [part]` and `-- [end]` is left out
    unless `parts` names it. Comments and indentation go: psycopg parses what is over 4,096 characters anew each time.
    """
    text = Path(beside).with_name("sql").joinpath(name).read_text(encoding="utf-8")
    for placeholder, value in filled.items():
        text = text.replace(f"{{{placeholder}}}", value)
    lines, part = [], ""
    for line in map(str.strip, text.splitlines()):
        if line.startswith("-- ["):
            part = line.removeprefix("-- [").removesuffix("]").removesuffix("end")
        elif line and not line.startswith("--") and (not part or part in parts):
            lines.append(line)
    return "\n".join(lines)
