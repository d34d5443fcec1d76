"""Whose rows a piece of work sees: those of one workspace, of all, or nothing. The only filter between workspaces.

Every session applies it to each class of `Owned` rows in a statement, reads and writes alike, wherever in the statement
the class stands. SQL in files and statements on a connection name `seen_workspace()` themselves. Workers, the sweeper
and the command line see all unless they ask for less; a web request sees nothing until its key has been checked.
"""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token

from sqlalchemy import ForeignKey, event, text
from sqlalchemy.orm import (
    Mapped,
    MappedColumn,
    ORMExecuteState,
    Session,
    mapped_column,
    sessionmaker,
    with_loader_criteria,
)

from app.domain.workspaces import DEFAULT_WORKSPACE

NOBODY = uuid.UUID(int=0)
"""A workspace that there is not: who sees it sees nothing."""

_seen: ContextVar[uuid.UUID | None] = ContextVar("seen_workspace", default=None)


class Owned:
    """A row with a `workspace_id`; where that may be null, null belongs to the installation."""

    workspace_id: Mapped[uuid.UUID | None] = mapped_column()


def workspace_column() -> MappedColumn[uuid.UUID]:
    """Return the column of rows that always belong to a workspace: the one that is seen when they are made."""
    return mapped_column(
        ForeignKey("workspaces.id"), default=home_workspace, server_default=text(f"'{DEFAULT_WORKSPACE}'")
    )


def seen_workspace() -> uuid.UUID | None:
    """Return the only workspace whose rows are seen now; None: all are."""
    return _seen.get()


def home_workspace() -> uuid.UUID:
    """Return the workspace that new rows belong to: the one that is seen, else the default."""
    return _seen.get() or DEFAULT_WORKSPACE


def see(workspace_id: uuid.UUID | None) -> Token[uuid.UUID | None]:
    """See only this workspace's rows from now on, None: all; return what `unsee` takes."""
    return _seen.set(workspace_id)


def unsee(token: Token[uuid.UUID | None]) -> None:
    """See what was seen before."""
    _seen.reset(token)


@contextmanager
def seeing(workspace_id: uuid.UUID | None) -> Iterator[None]:
    """See only this workspace's rows in the block; None: all, for figures of an account or of the installation."""
    token = see(workspace_id)
    try:
        yield
    finally:
        unsee(token)


def filter_sessions(sessions: sessionmaker[Session]) -> None:
    """Have every session of this factory leave out what is not seen."""
    event.listen(sessions, "do_orm_execute", _leave_out)


def _leave_out(state: ORMExecuteState) -> None:
    workspace_id = _seen.get()
    if workspace_id is None or state.is_column_load or state.is_relationship_load:
        return
    state.statement = state.statement.options(
        with_loader_criteria(Owned, lambda cls: cls.workspace_id == workspace_id, include_aliases=True)
    )
