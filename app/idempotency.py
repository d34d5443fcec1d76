"""The idempotency store: keeps the first response to each `Idempotency-Key` for a day; a retry changes nothing."""

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Select, and_, delete, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.db.access import IdempotencyKey
from app.db.engine import Sessions
from app.db.queries import purge_rows
from app.domain.errors import ErrorCode, RefusedError

KEPT_FOR = timedelta(hours=24)
"""How long a response is stored; after that, the same key is a new request."""

LOCKED_FOR = timedelta(seconds=60)
"""How long a request without a response counts as running: far longer than any takes. Then its process has died."""


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response as it was sent; `text` is the body, byte for byte."""

    status: int
    headers: dict[str, str]
    text: str


@dataclass(frozen=True, slots=True)
class IdempotencyClaim:
    """The right to handle the request of this key; it ends at `until`, when another request may take over."""

    api_key_id: uuid.UUID
    key: str
    until: datetime


class IdempotencyStore:
    """Lets one of several requests with the same key run, and gives the others its response."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def claim(
        self, api_key_id: uuid.UUID, key: str, request_hash: str, extra: timedelta
    ) -> IdempotencyClaim | StoredResponse:
        """Return the claim to handle this request, or the response that an earlier one got.

        `RefusedError` 422 for another request under the same key, 409 while the first one runs. `extra` is how much
        longer than usual this request may take.
        """
        is_fresh = IdempotencyKey.created_at > func.now() - KEPT_FOR
        is_dead = and_(
            IdempotencyKey.status.is_(None),
            IdempotencyKey.locked_until < func.now(),
            IdempotencyKey.request_hash == request_hash,
        )
        values = {"request_hash": request_hash, "locked_until": func.now() + LOCKED_FOR + extra}
        emptied = {"status": None, "headers": None, "body": None, "created_at": func.now()}
        statement = (
            insert(IdempotencyKey)
            .values(api_key_id=api_key_id, key=key, **values)
            .on_conflict_do_update(
                index_elements=["api_key_id", "key"], set_={**values, **emptied}, where=or_(~is_fresh, is_dead)
            )
            .returning(IdempotencyKey.locked_until)
        )
        with self._sessions.begin() as session:
            until = session.scalar(statement)
            if until is not None:
                return IdempotencyClaim(api_key_id, key, until)
            return _stored_response(session, _row(api_key_id, key), request_hash)

    def save(self, claim: IdempotencyClaim, response: StoredResponse) -> None:
        """Store the response, unless another request has taken over in the meantime."""
        with self._sessions.begin() as session:
            session.execute(
                update(IdempotencyKey)
                .where(_held(claim))
                .values(status=response.status, headers=response.headers, body={"text": response.text})
            )

    def release(self, claim: IdempotencyClaim) -> None:
        """Forget the key: the request failed on our side and may be sent again."""
        with self._sessions.begin() as session:
            session.execute(delete(IdempotencyKey).where(_held(claim)))

    def purge(self) -> int:
        """Delete expired keys and return how many; safe to run in several processes at once."""
        old = IdempotencyKey.created_at < func.now() - KEPT_FOR - LOCKED_FOR
        return purge_rows(self._sessions, old, IdempotencyKey.api_key_id, IdempotencyKey.key)


def _held(claim: IdempotencyClaim) -> ColumnElement[bool]:
    return and_(
        IdempotencyKey.api_key_id == claim.api_key_id,
        IdempotencyKey.key == claim.key,
        IdempotencyKey.locked_until == claim.until,
        IdempotencyKey.status.is_(None),
    )


def _row(api_key_id: uuid.UUID, key: str) -> Select[IdempotencyKey]:
    return select(IdempotencyKey).where(IdempotencyKey.api_key_id == api_key_id, IdempotencyKey.key == key)


def _stored_response(session: Session, query: Select[IdempotencyKey], request_hash: str) -> StoredResponse:
    row = session.scalar(query)
    if row is not None and row.request_hash != request_hash:
        detail = "This Idempotency-Key was used for another request."
        raise RefusedError(ErrorCode.IDEMPOTENCY_KEY_REUSED, detail)
    if row is None or row.status is None:
        # None: the first request failed and released the key between our two statements. The next try will succeed.
        raise RefusedError(ErrorCode.IDEMPOTENCY_KEY_IN_PROGRESS, "The first request with this key is still running.")
    return StoredResponse(row.status, dict(row.headers or {}), (row.body or {}).get("text", ""))
