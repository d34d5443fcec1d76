"""The engine and its sessions: one connection pool per process."""

from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import Session, sessionmaker

POOL_SIZE = 10
"""Connections kept open per process: a transaction here lasts milliseconds, so a few serve many threads."""

MAX_OVERFLOW = 10
"""Connections opened on top in a burst, and closed again after it."""

POOL_TIMEOUT_S = 10
"""Seconds to wait for a free connection before the request or task fails; the sweeper brings tasks back."""

STATEMENT_TIMEOUT_MS = 15_000
"""Milliseconds after which PostgreSQL gives up a statement of ours: far above any of them, far below a hung worker."""

CONNECT_TIMEOUT_S = 5
"""Seconds to wait for PostgreSQL to accept a connection."""

Sessions = sessionmaker[Session]


def make_engine(url: str) -> Engine:
    """Build the engine; a connection that died in the pool (restart, failover) is replaced before use."""
    return create_engine(
        url,
        pool_size=POOL_SIZE,
        max_overflow=MAX_OVERFLOW,
        pool_timeout=POOL_TIMEOUT_S,
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT_S,
            "options": f"-c statement_timeout={STATEMENT_TIMEOUT_MS} -c timezone=UTC",
            "application_name": "trunkline",
            # A host that vanished is noticed in seconds, not in the kernel's quarter of an hour.
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": STATEMENT_TIMEOUT_MS,
        },
    )


def make_sessions(engine: Engine) -> Sessions:
    """Build the factory behind every `with sessions.begin() as session:`."""
    return sessionmaker(engine, expire_on_commit=False)
