"""The engine, its sessions, and single statements: one connection pool per process.

Behind a pooler it takes four: what a session is told once otherwise is said in each transaction.

A session's transaction costs a round trip for BEGIN, one for COMMIT and the ORM's work on every row: 4 to 8 ms of CPU
for the claim of a step, where the same change as one statement costs a tenth.
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
"""PostgreSQL keeps the plan of a statement that is run often, as it was made: one made while a table was tiny reads all
of it, and goes on when it has grown, until the next ANALYZE. A POST then cost ten times the CPU after 8,000 others, and
twenty times after 14,000 (measured). Every statement of ours that is run often has an index; what must read a whole
table still can (counting 600,000 agents takes 107 ms instead of 75), and older releases would compile such a plan first
(jit), so dear does it look to them.
"""

POOLED_SETTINGS = (
    "SELECT set_config('timezone', 'UTC', true) AS timezone, "
    f"set_config('statement_timeout', '{STATEMENT_TIMEOUT_MS}', true) AS statement_timeout"
)
"""What a session is told otherwise, for one transaction: behind a pooler the next one may be on another session.

`PLANS` is not among it: no plan is kept where no statement is prepared.
"""

TRUSTED_S = 0.1
"""Seconds after its last use in which a pooled connection is taken for alive; later it is asked first.

Asking each time costs a round trip per transaction. No restart of PostgreSQL is over within a tenth of a second; one
that were would cost each connection one failed request or claim at most.
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
        # The one used last is the one most surely alive, and those of a burst grow old and are asked.
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
    _ask_idle_connections(engine)
    return engine


def is_pooled(engine: Engine) -> bool:
    """Say whether the engine was built for a pooler."""
    return event.contains(engine, "begin", _set_for_transaction)


def _set_for_transaction(connection: Connection) -> None:
    connection.exec_driver_sql(POOLED_SETTINGS)


def _ask_idle_connections(engine: Engine) -> None:
    """Have every connection that rested longer than `TRUSTED_S` answer before it is used again."""

    def note(_connection: Any, entry: ConnectionPoolEntry) -> None:
        entry.info[_RETURNED_AT] = time.monotonic()

    def ask(connection: Any, entry: ConnectionPoolEntry, _proxy: Any) -> None:
        if time.monotonic() - entry.info.get(_RETURNED_AT, time.monotonic()) <= TRUSTED_S:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            # All that were opened before are as dead as this one; the pool opens another and asks us again.
            raise InvalidatePoolError from error

    event.listen(engine, "checkin", note)
    event.listen(engine, "checkout", ask)


def make_sessions(engine: Engine) -> Sessions:
    """Build the factory behind every `with sessions.begin() as session:`."""
    return sessionmaker(engine, expire_on_commit=False)


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
