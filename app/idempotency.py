"""The first answer to each `Idempotency-Key`, kept for a day, so that a repeated request changes nothing."""

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
"""How long a key stands for its first answer; after it, the same key is a new request."""

HELD_FOR = timedelta(seconds=60)
"""How long a request without an answer counts as running: far above any of ours. After it, its process has died."""


@dataclass(frozen=True, slots=True)
class FirstAnswer:
    """An answer as it was sent; `text` is the body, byte for byte."""

    status: int
    headers: dict[str, str]
    text: str


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to give the first answer; it ends at `until`, when another request may take it over."""

    api_key_id: uuid.UUID
    key: str
    until: datetime


class FirstAnswers:
    """Decides which of several requests with one key runs, and gives its answer to the others."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def claim(self, api_key_id: uuid.UUID, key: str, request_hash: str, extra: timedelta) -> Claim | FirstAnswer:
        """Return the right to answer, or the answer given before.

        `RefusedError` 422 for another request under the same key, 409 while the first one runs. `extra` is how much
        longer than usual this request may take.
        """
        fresh = IdempotencyKey.created_at > func.now() - KEPT_FOR
        died = and_(
            IdempotencyKey.status.is_(None),
            IdempotencyKey.locked_until < func.now(),
            IdempotencyKey.request_hash == request_hash,
        )
        values = {"request_hash": request_hash, "locked_until": func.now() + HELD_FOR + extra}
        emptied = {"status": None, "headers": None, "body": None, "created_at": func.now()}
        statement = (
            insert(IdempotencyKey)
            .values(api_key_id=api_key_id, key=key, **values)
            .on_conflict_do_update(
                index_elements=["api_key_id", "key"], set_={**values, **emptied}, where=or_(~fresh, died)
            )
            .returning(IdempotencyKey.locked_until)
        )
        with self._sessions.begin() as session:
            until = session.scalar(statement)
            if until is not None:
                return Claim(api_key_id, key, until)
            return _first_answer(session, _row(api_key_id, key), request_hash)

    def keep(self, claim: Claim, answer: FirstAnswer) -> None:
        """Store the answer, unless another request has taken over meanwhile."""
        with self._sessions.begin() as session:
            session.execute(
                update(IdempotencyKey)
                .where(_held(claim))
                .values(status=answer.status, headers=answer.headers, body={"text": answer.text})
            )

    def release(self, claim: Claim) -> None:
        """Give the key back unused: the request failed on our side and may be sent again."""
        with self._sessions.begin() as session:
            session.execute(delete(IdempotencyKey).where(_held(claim)))

    def purge(self) -> int:
        """Delete the keys that stand for nothing any more; return how many. Any number may run at the same time."""
        old = IdempotencyKey.created_at < func.now() - KEPT_FOR - HELD_FOR
        return purge_rows(self._sessions, old, IdempotencyKey.api_key_id, IdempotencyKey.key)


def _held(claim: Claim) -> ColumnElement[bool]:
    return and_(
        IdempotencyKey.api_key_id == claim.api_key_id,
        IdempotencyKey.key == claim.key,
        IdempotencyKey.locked_until == claim.until,
        IdempotencyKey.status.is_(None),
    )


def _row(api_key_id: uuid.UUID, key: str) -> Select[IdempotencyKey]:
    return select(IdempotencyKey).where(IdempotencyKey.api_key_id == api_key_id, IdempotencyKey.key == key)


def _first_answer(session: Session, query: Select[IdempotencyKey], request_hash: str) -> FirstAnswer:
    row = session.scalar(query)
    if row is not None and row.request_hash != request_hash:
        detail = "This Idempotency-Key was used for another request."
        raise RefusedError(ErrorCode.IDEMPOTENCY_KEY_REUSED, detail)
    if row is None or row.status is None:
        # None: its request failed and gave the key back between our two statements. The next try will succeed.
        raise RefusedError(ErrorCode.IDEMPOTENCY_KEY_IN_PROGRESS, "The first request with this key is still running.")
    return FirstAnswer(row.status, dict(row.headers or {}), (row.body or {}).get("text", ""))
