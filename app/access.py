"""API keys and console sessions; only the hash of a key or session token is stored."""

import hashlib
import hmac
import secrets
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, Select, and_, bindparam, delete, func, or_, select, update
from sqlalchemy.orm import Session, selectinload

from app.db.access import Activity, ApiKey, ConsoleSession, SignInLink, record_activity
from app.db.engine import Sessions
from app.db.models import Workspace
from app.db.queries import Position, autocommitting, page_of, purge_rows
from app.db.visibility import seeing, seen_workspace
from app.domain.errors import ErrorCode, RefusedError, key_not_found, workspace_not_found
from app.domain.events import INTERNAL, Action, Channel, Origin
from app.domain.texts import InvalidTextError, excerpt, visible_line
from app.domain.workspaces import Scope as Scope  # noqa: PLC0414  # who checks keys also needs their scopes
from app.workspaces import owner_of_new_key

KEY_PREFIX = "tl_"
KEY_BYTES = 32
"""Random bytes in a key: 43 characters of base64url, impossible to guess, so that a fast hash is enough."""

MAX_KEY_LENGTH = 128
"""Characters: a longer bearer token is refused without hashing it."""

LAST_USED_RESOLUTION = timedelta(minutes=1)
"""Resolution of `last_used_at`: updating it on every request would turn every read into a write."""

CACHE_TTL_S = 1.0
"""Seconds that a valid key is cached: a revoked key works at most this much longer."""

MAX_CACHED_KEYS = 1000
"""Keys in the cache, some 300 bytes each; when it is full, it is emptied."""

MAX_NAME_LENGTH = 100
"""Characters of a key's name: it fits on one line of a terminal beside the key's id and dates."""

IDLE_LIMIT = timedelta(hours=8)
"""How long a session lasts without a request: a working day, so that one left overnight is over by morning."""

ABSOLUTE_LIMIT = timedelta(days=7)
"""How long a session lasts at most: a stolen cookie is useless after a week."""

LINK_LIFETIME = timedelta(minutes=10)
"""How long a sign-in link may be used: the start of a stack, a look at its output, and a click."""

LAST_SEEN_RESOLUTION = timedelta(minutes=1)
"""Resolution of `last_seen_at`, for the same reason as `LAST_USED_RESOLUTION`."""

REFUSED_SIGN_INS_PER_MINUTE = 100
"""Refused sign-ins recorded per minute, all addresses together: a flood of them must not fill the disk."""


_LEVELS = {scope.value: level for level, scope in enumerate(Scope)}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request."""

    key_id: uuid.UUID | None
    """None for the operator of the installation at its own command line."""
    name: str
    scopes: tuple[str, ...]
    workspace_id: uuid.UUID | None = None
    """The only workspace whose rows the request sees; None for an operator that named none, who sees all."""
    workspace: str | None = None
    """Its slug."""
    channel: Channel = Channel.API
    """Where its requests come in."""

    @property
    def is_operator(self) -> bool:
        """Whether the request concerns the whole installation; an operator that named a workspace acts as its key."""
        return self.workspace_id is None

    def may(self, scope: Scope) -> bool:
        """Say whether one of the caller's scopes includes `scope`."""
        return any(_LEVELS.get(own, -1) >= _LEVELS[scope] for own in self.scopes)


_KEY = select(
    ApiKey.id,
    ApiKey.name,
    ApiKey.scopes,
    ApiKey.workspace_id,
    Workspace.slug,
    ApiKey.key_hash,
    ApiKey.revoked_at,
    (ApiKey.last_used_at > func.now() - LAST_USED_RESOLUTION).label("is_use_recent"),
).outerjoin(Workspace, Workspace.id == ApiKey.workspace_id)
_FIND_BY_ID = _KEY.where(ApiKey.id == bindparam("key_id"))
_FIND = _KEY.where(ApiKey.key_hash == bindparam("digest"))
"""Built once, since every API request runs it."""

_IS_LIVE = and_(
    ConsoleSession.ended_at.is_(None),
    ConsoleSession.created_at > func.now() - ABSOLUTE_LIMIT,
    ConsoleSession.last_seen_at > func.now() - IDLE_LIMIT,
)

_FIND_SESSION = (
    select(
        ConsoleSession.id,
        ApiKey.id.label("key_id"),
        ApiKey.name,
        ApiKey.scopes,
        ApiKey.workspace_id,
        Workspace.slug,
        (ConsoleSession.last_seen_at > func.now() - LAST_SEEN_RESOLUTION).label("is_use_recent"),
    )
    .join(ApiKey, ApiKey.id == ConsoleSession.key_id)
    .outerjoin(Workspace, Workspace.id == ApiKey.workspace_id)
    .where(ConsoleSession.token_hash == bindparam("digest"), _IS_LIVE, ApiKey.revoked_at.is_(None))
)
"""Built once, since every console page runs it."""


_FIND_WORKSPACE = select(Workspace.id).where(Workspace.slug == bindparam("slug"), Workspace.deleted_at.is_(None))

_KEYS = select(ApiKey).options(selectinload(ApiKey.workspace))


class KeyService:
    """Creates, lists, revokes and checks the keys of the HTTP API."""

    def __init__(self, sessions: Sessions, clock: Callable[[], float] = time.monotonic) -> None:
        self._sessions = sessions
        self._engine = autocommitting(sessions)
        self._clock = clock
        # Hash -> (monotonic clock until which it counts, caller); valid keys only.
        self._cache: dict[str, tuple[float, Caller]] = {}

    def create(
        self, name: str, scopes: Sequence[Scope], *, workspace: str | None = None, origin: Origin = INTERNAL
    ) -> tuple[ApiKey, str]:
        """Store a new key and return it with its text, which cannot be shown again.

        `workspace`: the slug of the one that it sees; None: the one that is seen now, and an operator's key where all
        are. 422 for a name that cannot be shown, 404 `workspace_not_found`.
        """
        line = _checked_name(name)
        text = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
        with self._sessions.begin() as session:
            key = ApiKey(name=line, key_hash=_hash(text), scopes=[scope.value for scope in dict.fromkeys(scopes)])
            key.workspace = owner_of_new_key(session, workspace)
            session.add(key)
            session.flush()
            session.refresh(key, ["created_at"])
            record_activity(
                session, origin, Action.KEY_CREATE, key.id, key.workspace_id, name=key.name, scopes=key.scopes
            )
        return key, text

    def all(self) -> list[ApiKey]:
        """Return every key ever created, the oldest first, with its workspace."""
        with self._sessions() as session:
            return list(session.scalars(_KEYS.order_by(ApiKey.created_at, ApiKey.id)))

    def page(self, *, limit: int, after: Position | None = None) -> Sequence[ApiKey]:
        """Return up to `limit` keys, revoked ones too, the newest first, with their workspaces."""
        with self._sessions() as session:
            return session.scalars(page_of(_KEYS, ApiKey, after, limit)).all()

    def get(self, key_id: uuid.UUID) -> ApiKey:
        """Return one valid key with its workspace; 404 `key_not_found`."""
        with self._sessions() as session:
            return _valid(session, _KEYS, key_id)

    def revoke(self, key_id: uuid.UUID, *, origin: Origin = INTERNAL) -> ApiKey:
        """Revoke a key and end its sessions; 404 `key_not_found`, also for one that was revoked before."""
        with self._sessions.begin() as session:
            key = _valid(session, _KEYS.with_for_update(of=ApiKey), key_id)
            key.revoked_at = session.scalar(select(func.now()))
            signed_in = (ConsoleSession.key_id == key.id, ConsoleSession.ended_at.is_(None))
            session.execute(update(ConsoleSession).where(*signed_in).values(ended_at=func.now()))
            record_activity(session, origin, Action.KEY_REVOKE, key.id, key.workspace_id, name=key.name)
            return key

    def authenticate(self, text: str) -> Caller | None:
        """Return the holder of this key, or None; look a key up at most once in `CACHE_TTL_S`.

        Updates `last_used_at` at most once in `LAST_USED_RESOLUTION`.
        """
        if not text.startswith(KEY_PREFIX) or len(text) > MAX_KEY_LENGTH:
            return None
        digest = _hash(text)
        until, cached = self._cache.get(digest, (0.0, None))
        return cached if self._clock() < until else self._look_up(digest)

    def _look_up(self, digest: str) -> Caller | None:
        until = self._clock() + CACHE_TTL_S
        with self._engine.connect() as connection:
            row = connection.execute(_FIND, {"digest": digest}).one_or_none()
        if row is None or not hmac.compare_digest(row.key_hash, digest):
            return None
        caller = self._holder(row)
        if caller is not None:
            if len(self._cache) >= MAX_CACHED_KEYS:
                self._cache.clear()
            self._cache[digest] = (until, caller)
        return caller

    def _holder(self, row: Row[Any, Any, Any, Any, Any, Any, Any, Any]) -> Caller | None:
        if row.revoked_at is not None:
            return None
        if not row.is_use_recent:
            self._record_use(row.id)
        return Caller(row.id, row.name, tuple(row.scopes), row.workspace_id, row.slug)

    def offer_link(self, *, origin: Origin) -> tuple[str, datetime]:
        """Return the token of a link that signs in with the origin's key, once, and when it expires."""
        token = secrets.token_urlsafe(KEY_BYTES)
        with seeing(None), self._sessions.begin() as session:
            expires_at: datetime = session.scalars(select(func.now() + LINK_LIFETIME)).one()
            session.add(SignInLink(token_hash=_hash(token), key_id=origin.key_id, expires_at=expires_at))
            key = session.get_one(ApiKey, origin.key_id)
            record_activity(session, origin, Action.SIGN_IN_LINK, key.id, key.workspace_id)
        return token, expires_at

    def use_link(self, token: str) -> Caller | None:
        """Return the holder of the key of a link, for the first use within `LINK_LIFETIME`; None after that.

        Of two uses at once one deletes the row.
        """
        if not token or len(token) > MAX_KEY_LENGTH:
            return None
        used = delete(SignInLink).where(SignInLink.token_hash == _hash(token), SignInLink.expires_at > func.now())
        with seeing(None), self._sessions.begin() as session:
            key_id = session.scalar(used.returning(SignInLink.key_id))
        if key_id is None:
            return None
        with self._engine.connect() as connection:
            return self._holder(connection.execute(_FIND_BY_ID, {"key_id": key_id}).one())

    def in_workspace(self, caller: Caller, slug: str) -> Caller:
        """Return the caller as one of this workspace; 404 `workspace_not_found` unless its key sees the workspace."""
        if caller.workspace_id is not None:
            workspace_id = caller.workspace_id if slug == caller.workspace else None
        else:
            with self._engine.connect() as connection:
                workspace_id = connection.scalar(_FIND_WORKSPACE, {"slug": slug})
        if workspace_id is None:
            raise workspace_not_found(excerpt(slug))
        return replace(caller, workspace_id=workspace_id, workspace=slug)

    def _record_use(self, key_id: uuid.UUID) -> None:
        stale = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at <= func.now() - LAST_USED_RESOLUTION)
        with seeing(None), self._sessions.begin() as session:
            session.execute(update(ApiKey).where(ApiKey.id == key_id, stale).values(last_used_at=func.now()))


class ConsoleSessions:
    """Browsers that are signed in to the console; the cookie only holds the token that finds the row."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._engine = autocommitting(sessions)

    def start(self, origin: Origin, *, instead_of: str | None) -> tuple[str, datetime]:
        """Start a session of the origin's key, end the browser's previous one; return the token and when it expires."""
        token = secrets.token_urlsafe(KEY_BYTES)
        with self._sessions.begin() as session:
            if instead_of is not None:
                self._end(session, instead_of)
            row = ConsoleSession(token_hash=_hash(token), key_id=origin.key_id, address=origin.address)
            session.add(row)
            session.flush()
            session.refresh(row)
            record_activity(session, origin, Action.SIGN_IN, row.id, seen_workspace())
        return token, row.created_at + ABSOLUTE_LIMIT

    def holder(self, token: str | None, *, is_seen: bool) -> Caller | None:
        """Return the holder of a session, with the key's current scopes; None once it has ended or its key is revoked.

        `is_seen`: a person sent the request, so the session is not idle; written once in `LAST_SEEN_RESOLUTION`.
        """
        if token is None or len(token) > MAX_KEY_LENGTH:
            return None
        with self._engine.connect() as connection:
            row = connection.execute(_FIND_SESSION, {"digest": _hash(token)}).one_or_none()
        if row is None:
            return None
        if is_seen and not row.is_use_recent:
            with seeing(None), self._sessions.begin() as session:
                session.execute(
                    update(ConsoleSession)
                    .where(ConsoleSession.id == row.id, _IS_LIVE)
                    .values(last_seen_at=func.now())
                    .execution_options(synchronize_session=False)
                )
                session.execute(update(ApiKey).where(ApiKey.id == row.key_id).values(last_used_at=func.now()))
        return Caller(row.key_id, row.name, tuple(row.scopes), row.workspace_id, row.slug)

    def end(self, token: str, origin: Origin) -> None:
        """End a session; a second call changes nothing."""
        with self._sessions.begin() as session:
            ended = self._end(session, token)
            if ended is not None:
                record_activity(session, origin, Action.SIGN_OUT, ended, seen_workspace())

    def record_refusal(self, origin: Origin, reason: str) -> None:
        """Record a refused sign-in, unless there are `REFUSED_SIGN_INS_PER_MINUTE` from the last minute already."""
        recent = (
            select(Activity.id)
            .where(Activity.at > func.now() - timedelta(minutes=1), Activity.action == Action.SIGN_IN_REFUSED)
            .limit(REFUSED_SIGN_INS_PER_MINUTE)
            .subquery()
        )
        with seeing(None), self._sessions.begin() as session:
            if (session.scalar(select(func.count()).select_from(recent)) or 0) < REFUSED_SIGN_INS_PER_MINUTE:
                record_activity(session, origin, Action.SIGN_IN_REFUSED, None, None, reason=reason)

    def purge(self) -> int:
        """Delete the sessions that ended a day ago or more, and links that nobody used; return how many."""
        old = ConsoleSession.created_at < func.now() - ABSOLUTE_LIMIT - timedelta(days=1)
        unused = purge_rows(self._sessions, SignInLink.expires_at < func.now(), SignInLink.token_hash)
        return unused + purge_rows(self._sessions, old, ConsoleSession.id)

    def _end(self, session: Session, token: str) -> uuid.UUID | None:
        """End a session and return its id; None if it had ended already."""
        live = (ConsoleSession.token_hash == _hash(token), ConsoleSession.ended_at.is_(None))
        statement = update(ConsoleSession).where(*live).values(ended_at=func.now()).returning(ConsoleSession.id)
        return session.scalar(statement.execution_options(synchronize_session=False))


def _valid(session: Session, query: Select[ApiKey], key_id: uuid.UUID) -> ApiKey:
    key = session.scalar(query.where(ApiKey.id == key_id, ApiKey.revoked_at.is_(None)))
    if key is None:
        raise key_not_found(key_id)
    return key


def _checked_name(name: str) -> str:
    """Return a key's name without surrounding blanks; 422 unless it is one visible line, and not too long."""
    try:
        line, wrong = visible_line(name), f"has at most {MAX_NAME_LENGTH} characters"
    except InvalidTextError as error:
        line, wrong = "", str(error)
    if not 0 < len(line) <= MAX_NAME_LENGTH:
        raise RefusedError(ErrorCode.VALIDATION_FAILED, f"A key's name {wrong}.", errors={"name": [wrong]})
    return line


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
