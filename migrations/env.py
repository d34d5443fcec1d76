"""Runs the migrations: in one transaction each, with limits, so that a busy table makes them fail and not wait.

The limits are set in each transaction, and no statement is prepared: a pooler may stand between.
"""

import logging
import sys

from alembic import context
from sqlalchemy import Connection, create_engine, event

from app.db import access, webhooks  # noqa: F401  # their rows
from app.db.access import Base  # every other model: access builds on models
from app.settings import SettingsError, load_database_settings

LOCK_TIMEOUT_MS = 5_000
"""Milliseconds to wait for a table lock: longer, and everything behind the migration waits too."""

STATEMENT_TIMEOUT_MS = 600_000
"""Milliseconds for one statement: an index on a large table may take minutes, never hours."""

logging.getLogger("alembic").setLevel(logging.INFO)


def run() -> None:
    """Upgrade or downgrade the database of DATABASE_URL, or the one whose URL the caller has set."""
    given = context.config.attributes
    if not given.get("url"):
        try:
            settings = load_database_settings()
        except SettingsError as error:
            sys.exit(str(error))
        given |= {"url": settings.database_url, "sealing_keys": settings.sealing_keys}
    url = given["url"]
    engine = create_engine(url, connect_args={"prepare_threshold": None})
    event.listen(engine, "begin", _set_limits)
    try:
        with engine.connect() as connection:
            context.configure(connection=connection, target_metadata=Base.metadata, transaction_per_migration=True)
            with context.begin_transaction():
                context.run_migrations()
    finally:
        engine.dispose()


def _set_limits(connection: Connection) -> None:
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}")
    connection.exec_driver_sql(f"SET LOCAL statement_timeout = {STATEMENT_TIMEOUT_MS}")


run()
