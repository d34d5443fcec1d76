"""Reads agents, operations and audits for display, single or in pages; each call is one read-only transaction."""

import base64
import binascii
import hashlib
import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, TypeVar

from marshmallow import ValidationError, fields

from app.db import queries
from app.db.access import Activity, ApiKey, list_activity
from app.db.engine import Sessions
from app.db.models import Agent, Audit, Bulk, Operation, Workspace
from app.db.queries import Position
from app.db.webhooks import WebhookDelivery
from app.domain.errors import agent_not_found, audit_not_found, operation_not_found
from app.domain.operations import OperationStatus, PhoneStatus
from app.views.operations import OperationView, PhoneTrunk, PhoneView

DEFAULT_LIMIT = 50
MAX_LIMIT = 200
"""Rows of one page: a page of operations with steps then stays well below a megabyte."""

INVALID_CURSOR = "is not a cursor of ours: take it from nextCursor"

CURSOR_PATTERN = "^[A-Za-z0-9_-]+$"
"""A cursor is base64url without padding."""

Item = TypeVar("Item", Agent, Operation, Bulk, WebhookDelivery, Workspace, ApiKey)


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """One page, newest first; `next_cursor` is None on the last."""

    items: Sequence[Item]
    next_cursor: str | None


def cut(rows: Sequence[Item], limit: int) -> Page[Item]:
    """Make a page of rows that were read with `limit + 1`: the extra row says that there is a next page."""
    items = rows[:limit]
    more = len(rows) > limit
    return Page(items, encode_cursor(Position(items[-1].created_at, items[-1].id)) if more else None)


def encode_cursor(position: Position) -> str:
    """Encode a position as text that is safe in a URL."""
    text = json.dumps([position.created_at.isoformat(), str(position.id)])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


class CursorField(fields.Field[Position]):
    """Decodes what `encode_cursor` returned."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> Position:
        try:
            text = str(value)
            moment, row_id = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
            position = Position(_aware(datetime.fromisoformat(moment)), uuid.UUID(row_id))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ValidationError(INVALID_CURSOR) from error
        if encode_cursor(position) != text:
            raise ValidationError(INVALID_CURSOR)
        return position


MAX_ROW_ID = 2**63
"""A row's id is a bigint."""


class ActivityCursorField(fields.Field[int]):
    """Decodes what `activity_cursor` returned."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> int:
        try:
            row_id = int(base64.urlsafe_b64decode(str(value).encode()).decode().removeprefix("activity:"))
        except (ValueError, binascii.Error) as error:
            raise ValidationError(INVALID_CURSOR) from error
        if not 0 < row_id < MAX_ROW_ID or activity_cursor(row_id) != value:
            raise ValidationError(INVALID_CURSOR)
        return row_id


def activity_cursor(row_id: int) -> str:
    """Encode the id of the last row of a page as text that is safe in a URL."""
    return base64.urlsafe_b64encode(f"activity:{row_id}".encode()).decode()


def _aware(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("a time without a zone")
    return moment


ETAG_VERSION = "5"
"""Part of every ETag: raise it when the body of phone-status changes its shape."""

AUDIT_POLL_S = 0.1
"""Seconds between polls of an audit that a client waits for: it takes seconds, not milliseconds."""

SNAPSHOT = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
"""Several reads of one snapshot: an agent is never shown with an operation that began later."""


@dataclass(frozen=True, slots=True)
class OperationPage:
    """One page of operations as they are shown."""

    items: list[OperationView]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class ActivityRows:
    """One page of changes, the newest first."""

    items: Sequence[Activity]
    next_cursor: str | None


class Reader:
    """Reads agents and operations."""

    def __init__(self, sessions: Sessions, trunk_max_numbers: int) -> None:
        self._sessions = sessions
        self._engine = queries.autocommitting(sessions)
        self._trunk_max_numbers = trunk_max_numbers

    def agents(
        self,
        *,
        limit: int,
        status: PhoneStatus | None = None,
        cursor: queries.Position | None = None,
        **only: Any,
    ) -> Page[Agent]:
        """Return one page of agents; `only` as `queries.list_agents` takes it."""
        with self._sessions() as session:
            return cut(queries.list_agents(session, status=status, after=cursor, limit=limit + 1, **only), limit)

    def operations(
        self,
        *,
        limit: int,
        status: OperationStatus | None = None,
        agent_id: uuid.UUID | None = None,
        ids: queries.IdRange | None = None,
        cursor: queries.Position | None = None,
    ) -> OperationPage:
        """Return one page of operations."""
        with self._sessions() as session:
            rows = queries.list_operations(
                session, status=status, agent_id=agent_id, ids=ids, after=cursor, limit=limit + 1
            )
            page = cut(rows, limit)
            return OperationPage([OperationView.of(row) for row in page.items], page.next_cursor)

    def operation(self, operation_id: uuid.UUID) -> OperationView:
        """Return one operation with its events; `RefusedError` 404."""
        with self._sessions() as session:
            session.connection(execution_options=SNAPSHOT)
            row = queries.get_operation(session, operation_id)
            if row is None:
                raise operation_not_found(operation_id)
            timeline = queries.events_of(session, row.id)
            return OperationView.of(row, timeline, queries.live_resources(session, row.agent_id))

    def audit(self, audit_id: uuid.UUID) -> Audit:
        """Return one audit, whatever its status; `RefusedError` 404."""
        with self._sessions() as session:
            found = queries.get_audit(session, audit_id)
        if found is None:
            raise audit_not_found(audit_id)
        return found

    def report(self) -> Audit:
        """Return the newest finished audit; `RefusedError` 404 if there is none."""
        with self._sessions() as session:
            found = queries.latest_report(session)
        if found is None:
            raise audit_not_found()
        return found

    def wait_for_audit(self, audit_id: uuid.UUID, timeout: timedelta) -> Audit:
        """Return the audit once it has finished, or as it is at the timeout."""
        deadline = time.monotonic() + timeout.total_seconds()
        while True:
            found, left_s = self.audit(audit_id), deadline - time.monotonic()
            if found.finished_at or left_s <= 0:
                return found
            time.sleep(min(AUDIT_POLL_S, left_s))

    def activity(
        self, *, limit: int, subject_id: uuid.UUID | None = None, key_id: uuid.UUID | None = None, before: int = 0
    ) -> ActivityRows:
        """Return one page of changes: about `subject_id`, with the key `key_id`, older than the row `before`."""
        with self._sessions() as session:
            rows = list_activity(session, limit=limit + 1, subject_id=subject_id, key_id=key_id, before=before)
        items = rows[:limit]
        return ActivityRows(items, activity_cursor(items[-1].id) if len(rows) > limit else None)

    def phone_etag(self, agent_id: uuid.UUID) -> str:
        """Return the entity tag of the agent's phone status: one small query; `RefusedError` 404."""
        with self._engine.connect() as connection:
            version = queries.status_version(connection, agent_id)
        if version is None:
            raise agent_not_found(agent_id)
        text = f"{ETAG_VERSION}|{self._trunk_max_numbers}|{agent_id}|{version}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def phone(self, agent_id: uuid.UUID) -> PhoneView:
        """Return the agent's phone status with its operation; `RefusedError` 404."""
        with self._sessions() as session:
            session.connection(execution_options=SNAPSHOT)
            found = queries.get_agent_and_members(session, agent_id)
            if found is None:
                raise agent_not_found(agent_id)
            agent, members = found
            trunk = PhoneTrunk.of(agent, members, self._trunk_max_numbers)
            row = queries.latest_operation(session, agent_id)
            if row is None:
                return PhoneView.of(agent, None, trunk)
            timeline, resources = queries.events_of(session, row.id), queries.live_resources(session, agent_id)
            return PhoneView.of(agent, OperationView.of(row, timeline, resources), trunk)
