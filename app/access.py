"""API keys: makes, finds, lists and revokes them; the text of a key is seen once and kept nowhere."""

import hashlib
import hmac
import secrets
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import Row, bindparam, func, or_, select, update

from app.db.access import ApiKey
from app.db.engine import Sessions
from app.db.queries import autocommitting
from app.domain.texts import InvalidTextError, visible_line

KEY_PREFIX = "tl_"
KEY_BYTES = 32
"""Bytes of randomness in a key: 43 characters of base64url, out of reach of guessing; a slow hash is not needed."""

MAX_KEY_LENGTH = 128
"""Characters: a longer bearer text is refused unhashed."""

USE_NOTED_EVERY = timedelta(minutes=1)
"""How exact `last_used_at` is: writing it at every request would make every read a write."""

REMEMBERED_S = 1.0
"""Seconds for which a key that was found is not looked up again: a revoked one opens at most this much longer."""

MAX_REMEMBERED = 1000
"""Keys remembered at once, some 300 bytes each; beyond it all are forgotten and looked up anew."""

MAX_NAME_LENGTH = 100


class Scope(StrEnum):
    """What a key may do; each scope includes the ones before it."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


_LEVELS = {scope.value: level for level, scope in enumerate(Scope)}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request."""

    key_id: uuid.UUID
    name: str
    scopes: tuple[str, ...]

    def may(self, scope: Scope) -> bool:
        """Say whether one of the caller's scopes includes `scope`."""
        return any(_LEVELS.get(own, -1) >= _LEVELS[scope] for own in self.scopes)


_KEY = select(
    ApiKey.id,
    ApiKey.name,
    ApiKey.scopes,
    ApiKey.key_hash,
    ApiKey.revoked_at,
    (ApiKey.last_used_at > func.now() - USE_NOTED_EVERY).label("noted_lately"),
)
_FIND = _KEY.where(ApiKey.key_hash == bindparam("digest"))
_FIND_BY_ID = _KEY.where(ApiKey.id == bindparam("key_id"))
"""Built once: every request runs one of them."""


class KeyRefusedError(Exception):
    """A key cannot be made or revoked as asked; the message is for the person at the terminal."""


class KeyService:
    """The keys of the HTTP API."""

    def __init__(self, sessions: Sessions, clock: Callable[[], float] = time.monotonic) -> None:
        self._sessions = sessions
        self._engine = autocommitting(sessions)
        self._clock = clock
        # By the hash, with the moment until which it counts; only keys that are live go in.
        self._remembered: dict[str, tuple[float, Caller]] = {}

    def create(self, name: str, scopes: Sequence[Scope]) -> tuple[ApiKey, str]:
        """Store a new key and return it with its text, which nothing can show again."""
        try:
            line = visible_line(name)
        except InvalidTextError as error:
            raise KeyRefusedError(f"A key's name {error}.") from error
        if len(line) > MAX_NAME_LENGTH:
            raise KeyRefusedError(f"A key's name has at most {MAX_NAME_LENGTH} characters.")
        text = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
        with self._sessions.begin() as session:
            key = ApiKey(name=line, key_hash=_hash(text), scopes=[scope.value for scope in dict.fromkeys(scopes)])
            session.add(key)
            session.flush()
            session.refresh(key)
        return key, text

    def all(self) -> list[ApiKey]:
        """Return every key ever made, oldest first."""
        with self._sessions() as session:
            return list(session.scalars(select(ApiKey).order_by(ApiKey.created_at, ApiKey.id)))

    def revoke(self, id_or_name: str) -> ApiKey:
        """End a key at once; `KeyRefusedError` unless exactly one live key has this id or name."""
        with self._sessions.begin() as session:
            wanted = or_(ApiKey.name == id_or_name, *([ApiKey.id == found] if (found := _as_uuid(id_or_name)) else []))
            live = list(session.scalars(select(ApiKey).where(wanted, ApiKey.revoked_at.is_(None)).with_for_update()))
            if not live:
                raise KeyRefusedError(f"There is no live key {id_or_name!r}; see `keys list`.")
            if len(live) > 1:
                ids = ", ".join(str(key.id) for key in live)
                raise KeyRefusedError(f"{len(live)} live keys are named {id_or_name!r}: revoke by id ({ids}).")
            live[0].revoked_at = session.scalar(select(func.now()))
            return live[0]

    def authenticate(self, text: str) -> Caller | None:
        """Return who holds this key, or None; notes the use at most once in `USE_NOTED_EVERY`.

        Looks a key up at most once in `REMEMBERED_S`.
        """
        if not text.startswith(KEY_PREFIX) or len(text) > MAX_KEY_LENGTH:
            return None
        digest = _hash(text)
        until, remembered = self._remembered.get(digest, (0.0, None))
        return remembered if self._clock() < until else self._look_up(digest)

    def _look_up(self, digest: str) -> Caller | None:
        until = self._clock() + REMEMBERED_S
        with self._engine.connect() as connection:
            row = connection.execute(_FIND, {"digest": digest}).one_or_none()
        if row is None or not hmac.compare_digest(row.key_hash, digest):
            return None
        caller = self._holder(row)
        if caller is not None:
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[digest] = (until, caller)
        return caller

    def still_live(self, key_id: uuid.UUID) -> Caller | None:
        """Return who holds the key with this id, with its scopes as they are now; None once it was revoked."""
        with self._engine.connect() as connection:
            row = connection.execute(_FIND_BY_ID, {"key_id": key_id}).one_or_none()
        return None if row is None else self._holder(row)

    def _holder(self, row: Row[Any, Any, Any, Any, Any, Any]) -> Caller | None:
        if row.revoked_at is not None:
            return None
        if not row.noted_lately:
            self._note_use(row.id)
        return Caller(row.id, row.name, tuple(row.scopes))

    def _note_use(self, key_id: uuid.UUID) -> None:
        stale = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at <= func.now() - USE_NOTED_EVERY)
        with self._sessions.begin() as session:
            session.execute(update(ApiKey).where(ApiKey.id == key_id, stale).values(last_used_at=func.now()))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _as_uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None
