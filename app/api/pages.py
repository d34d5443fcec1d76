"""Pages of a list: an opaque cursor that stands for the last row seen, so that new rows shift nothing."""

import base64
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, TypeVar

from marshmallow import ValidationError, fields

from app.db.bulks import Bulk
from app.db.models import Agent, Operation
from app.db.queries import Position
from app.db.webhooks import WebhookDelivery

DEFAULT_LIMIT = 50
MAX_LIMIT = 200
"""Rows of one page: a page of operations with steps is then well below a megabyte."""

_NOT_OURS = "is not a cursor of ours: take it from nextCursor"

CURSOR_PATTERN = "^[A-Za-z0-9_-]+$"
"""What a cursor looks like: base64url without padding."""

Item = TypeVar("Item", Agent, Operation, Bulk, WebhookDelivery)


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """One page, newest first; `next_cursor` is None on the last."""

    items: Sequence[Item]
    next_cursor: str | None


def cut(rows: Sequence[Item], limit: int) -> Page[Item]:
    """Make a page of rows that were read with `limit + 1`: the one too many says that there is a next page."""
    items = rows[:limit]
    more = len(rows) > limit
    return Page(items, encode_cursor(Position(items[-1].created_at, items[-1].id)) if more else None)


def encode_cursor(position: Position) -> str:
    """Write a position as text that is safe in a URL."""
    text = json.dumps([position.created_at.isoformat(), str(position.id)])
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


class CursorField(fields.Field[Position]):
    """Reads what `encode_cursor` wrote."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> Position:
        try:
            text = str(value)
            moment, row_id = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
            position = Position(_aware(datetime.fromisoformat(moment)), uuid.UUID(row_id))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise ValidationError(_NOT_OURS) from error
        if encode_cursor(position) != text:
            raise ValidationError(_NOT_OURS)
        return position


def _aware(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("a time without a zone")
    return moment
