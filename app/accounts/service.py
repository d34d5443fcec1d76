"""Carrier accounts and voice projects: create, list, change, check, rotate, delete."""

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

import structlog
from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from app.accounts.checks import CREDENTIALS, Checked, CheckOutcome, CheckStatus, Room, check_carrier, check_platform
from app.accounts.credentials import (
    AccountRow,
    Credential,
    open_credential,
    set_credential,
    set_old_credential,
)
from app.accounts.waiting import announce_refusal, wake_waiting
from app.db.access import record_activity
from app.db.engine import Sessions
from app.db.models import Agent, CarrierAccount, Trunk, VoiceProject, Workspace
from app.db.visibility import home_workspace, seeing, seen_workspace
from app.domain.errors import ErrorCode, RefusedError, account_not_found, workspace_not_found
from app.domain.events import INTERNAL, Action, Channel, Origin
from app.domain.operations import TrunkState
from app.domain.workspaces import ENVIRONMENT, ENVIRONMENT_ACCOUNT, AccountKind, CredentialStatus
from app.providers.base import Carrier, VoicePlatform
from app.providers.errors import ProviderError
from app.sealing import Sealer, SealError

log = structlog.get_logger(__name__)

OLD_CREDENTIAL_LIVES = timedelta(hours=24)
"""How long the old credential is kept after a rotation: a day to take it back at the provider."""

RECHECK_INTERVAL = timedelta(minutes=1)
"""How often the credential of an account that is not verified is tried again."""

RECHECK_BATCH = 20
"""Accounts that one sweep tries: each may take as long as a provider's timeout."""

ROWS: Mapping[AccountKind, Any] = {
    AccountKind.CARRIER: CarrierAccount,
    AccountKind.VOICE: VoiceProject,
}

AGENT_COLUMNS = {AccountKind.CARRIER: Agent.carrier_account_id, AccountKind.VOICE: Agent.voice_project_id}
DEFAULT_COLUMNS = {AccountKind.CARRIER: Workspace.carrier_account_id, AccountKind.VOICE: Workspace.voice_project_id}

FORBIDDEN_SERVER = "is not allowed for a workspace"


class Clients(Protocol):
    """Builds what calls the providers."""

    def carrier(self, carrier_account_id: uuid.UUID) -> Carrier:
        """Return what calls a carrier account."""

    def platform(self, voice_project_id: uuid.UUID) -> VoicePlatform:
        """Return what calls a voice project."""

    def trial_carrier(self, account_sid: str, username: str, secret: str, base_url: str | None) -> Carrier:
        """Build a client of a credential that may be wrong."""

    def trial_platform(self, url: str, api_key: str, secret: str) -> VoicePlatform:
        """Build the same of a voice project; the caller closes it."""


@dataclass(frozen=True)
class Account:
    """An account as it may be shown to whoever asks."""

    row: AccountRow
    workspace: str | None
    """The slug of the workspace whose it is; None: the installation's."""
    is_default: bool
    """Whether agents of the workspace that is seen use it where they name no other."""
    is_changeable: bool
    """Whether whoever asks may change it, and so see all of it."""

    @property
    def kind(self) -> AccountKind:
        """What its credential opens."""
        return kind_of(self.row)


@dataclass(frozen=True)
class AccountService:
    """What people may do with carrier accounts and voice projects."""

    sessions: Sessions
    sealer: Sealer
    clients: Clients
    room_of: Callable[[uuid.UUID], Room | None]
    """Carrier account -> how many more numbers fit."""
    check_server: Callable[[str], object]
    """Raises `ValueError` with the reason for a server that we send nothing to on a workspace's behalf."""

    def create(
        self,
        kind: AccountKind,
        values: Mapping[str, Any],
        credential: Credential,
        *,
        workspace: str | None = None,
        is_shared: bool = False,
        origin: Origin = INTERNAL,
    ) -> Account:
        """Store an account of the workspace with this slug, by default of the one that is seen, and check it.

        What the provider says of the credential is the account's status, and refuses nothing. `is_shared` makes it the
        installation's, which only operators may. 409 `credential_keys_missing` where nothing seals the secret.
        """
        self._refuse_without_keys()
        if origin.channel is not Channel.COMMAND_LINE:
            self._check_server(values)
        with self.sessions.begin() as session:
            owner = self._owner(session, workspace, is_shared=is_shared)
            row = ROWS[kind](
                id=uuid.uuid4(), workspace_id=owner, status=CredentialStatus.PENDING, version=1, checks=[], **values
            )
            set_credential(row, credential, self.sealer)
            session.add(row)
            self._record(session, origin, Action.ACCOUNT_CREATE, row, name=row.name)
        log.info("account_created", kind=kind, account_id=str(row.id))
        return self.check(kind, row.id)

    def all(self, kind: AccountKind) -> list[Account]:
        """Return the accounts that are seen, the oldest first: the workspace's own, and its default."""
        with self.sessions() as session:
            rows = session.scalars(_seen(kind).order_by(ROWS[kind].created_at, ROWS[kind].id)).all()
            return self._shown(session, rows)

    def get(self, kind: AccountKind, account_id: uuid.UUID) -> Account:
        """Return one account; 404 `account_not_found`."""
        with self.sessions() as session:
            return self._shown(session, [seen_account(session, kind, account_id)])[0]

    def change(
        self, kind: AccountKind, account_id: uuid.UUID, changes: Mapping[str, Any], *, origin: Origin = INTERNAL
    ) -> Account:
        """Change its name, limits or rates."""
        with self.sessions.begin() as session:
            row = self._own(session, kind, account_id, locks=True)
            for name, value in changes.items():
                setattr(row, name, value)
            row.version += 1
            self._record(session, origin, Action.ACCOUNT_CHANGE, row, fields=sorted(changes))
        log.info("account_changed", kind=kind, account_id=str(account_id))
        return self.get(kind, account_id)

    def check(self, kind: AccountKind, account_id: uuid.UUID) -> Account:
        """Make the named checks now and store what they found; a provider that does not respond changes no status."""
        with self.sessions() as session:
            row = seen_account(session, kind, account_id)
            _refuse_shared(row)
            is_environment = row.id in ENVIRONMENT
        checked = self._checked_as_stored(row)
        with self.sessions.begin() as session:
            stored: AccountRow = session.get_one(ROWS[kind], account_id, with_for_update=True)
            if stored.version == row.version and stored.deleted_at is None:
                stored.checks, stored.checked_at = checked.as_json(), func.now()
                if not is_environment:
                    self._keep_verdict(session, stored, checked)
        return self.get(kind, account_id)

    def rotate(
        self,
        kind: AccountKind,
        account_id: uuid.UUID,
        secret: str,
        username: str | None = None,
        *,
        old_lives: timedelta = OLD_CREDENTIAL_LIVES,
        origin: Origin = INTERNAL,
    ) -> Account:
        """Put a new credential in the place of the old one, which is kept for `old_lives` should the new one fail.

        The new one is tried first: 409 `credentials_refused` where the provider refuses it, and its error where it does
        not respond; nothing is changed then. What waited for the credential goes on.
        """
        self._refuse_without_keys()
        with self.sessions() as session:
            row = self._own(session, kind, account_id)
        new = Credential(username or row.username or "", secret)
        check_username(row, new.username)
        with self._trial(row, new) as client:
            checked = self._checked(row, client)
        if checked.refusal is not None:
            detail = f"The new credential is refused, and nothing was changed. {checked.refusal.detail}"
            raise RefusedError(ErrorCode.CREDENTIALS_REFUSED, detail)
        if checked.error is not None:
            raise checked.error
        with self.sessions.begin() as session:
            row = self._own(session, kind, account_id, locks=True)
            self._keep_old(session, row, old_lives)
            set_credential(row, new, self.sealer)
            row.version += 1
            row.checks, row.checked_at = checked.as_json(), func.now()
            self._keep_verdict(session, row, checked)
            self._record(session, origin, Action.ACCOUNT_ROTATE, row)
        log.info("account_rotated", kind=kind, account_id=str(account_id))
        return self.get(kind, account_id)

    def delete(self, kind: AccountKind, account_id: uuid.UUID, *, origin: Origin = INTERNAL) -> None:
        """Erase the credential and hide the row; 409 `account_in_use` while anything needs it."""
        with self.sessions.begin() as session:
            row = self._own(session, kind, account_id, locks=True)
            if uses := _uses(session, kind, account_id):
                detail = f"The {kind.label} {row.name} is used by {' and '.join(uses)}."
                raise RefusedError(ErrorCode.ACCOUNT_IN_USE, detail)
            row.sealed_secret = row.sealed_old_secret = row.old_username = row.old_valid_until = None
            row.status, row.version, row.deleted_at = CredentialStatus.PENDING, row.version + 1, func.now()
            self._record(session, origin, Action.ACCOUNT_DELETE, row, name=row.name)
        log.info("account_deleted", kind=kind, account_id=str(account_id))

    def recheck(self) -> int:
        """Try the credentials again that are not verified, each once a minute; return how many are accepted now.

        The operations of an invalid account go on then. One is pending whose provider was away when it was saved:
        until it is verified, a credential that stops working would end its operations instead of having them wait.
        """
        accepted = 0
        for kind in AccountKind:
            for row in self._take_unverified(kind):
                checked = self._checked_as_stored(row)
                if checked.error is None:
                    accepted += self._accept(kind, row, checked)
                else:
                    log.info("account_still_unverified", kind=kind, account_id=str(row.id), code=checked.error.code)
        return accepted

    def purge_old(self) -> int:
        """Erase the credentials before a rotation whose time is over; return how many."""
        count = 0
        for row in ROWS.values():
            erased = {"old_username": None, "sealed_old_secret": None, "old_valid_until": None}
            statement = update(row).where(row.old_valid_until <= func.now()).values(erased)
            with self.sessions.begin() as session:
                done = session.execute(statement.execution_options(synchronize_session=False))
                count += int(done.rowcount)  # type: ignore[attr-defined]  # of every UPDATE
        return count

    def _refuse_without_keys(self) -> None:
        if not self.sealer.can_seal:
            detail = "CREDENTIAL_KEYS is not set: no credential can be stored. Those of the environment work without."
            raise RefusedError(ErrorCode.CREDENTIAL_KEYS_MISSING, detail)

    def _owner(self, session: Session, slug: str | None, *, is_shared: bool) -> uuid.UUID | None:
        """Return whose a new account is; 404 for a workspace that is not seen."""
        seen = seen_workspace()
        if is_shared:
            if seen is not None:
                raise RefusedError(ErrorCode.FORBIDDEN, "Only an operator's key may store an account for everybody.")
            return None
        if slug is None:
            return home_workspace()
        found = session.scalar(select(Workspace.id).where(Workspace.slug == slug))
        if found is None or seen not in {None, found}:
            raise workspace_not_found(slug)
        return found

    def _check_server(self, values: Mapping[str, Any]) -> None:
        """Raise 422 for a server that a workspace may not have us send requests to; operators may name any."""
        if seen_workspace() is None:
            return
        for name, field in (("base_url", "baseUrl"), ("url", "url")):
            if url := values.get(name):
                try:
                    self.check_server(url.replace("ws", "http", 1) if url.startswith("ws") else url)
                except ValueError as error:
                    detail = f"The server {FORBIDDEN_SERVER}: it {error}. An operator may name it."
                    raise RefusedError(
                        ErrorCode.VALIDATION_FAILED, detail, errors={field: [f"{FORBIDDEN_SERVER}: {error}"]}
                    ) from error

    def _own(self, session: Session, kind: AccountKind, account_id: uuid.UUID, *, locks: bool = False) -> AccountRow:
        """Return the row to change; 404 `account_not_found`, 403 for what is not theirs to change."""
        row = seen_account(session, kind, account_id, locks=locks)
        _refuse_shared(row)
        if row.id in ENVIRONMENT:
            variables = "TWILIO_*" if kind is AccountKind.CARRIER else "LIVEKIT_*"
            detail = f"The environment's {kind.label} is set by {variables} in the settings, and by nothing else."
            raise RefusedError(ErrorCode.FORBIDDEN, detail)
        return row

    def _shown(self, session: Session, rows: Sequence[AccountRow]) -> list[Account]:
        owners = {row.workspace_id for row in rows if row.workspace_id is not None}
        slugs = {one.id: one.slug for one in session.scalars(select(Workspace).where(Workspace.id.in_(owners)))}
        home = session.get_one(Workspace, home_workspace())
        defaults = {home.carrier_account_id, home.voice_project_id}
        seen = seen_workspace()
        return [
            Account(
                row,
                slugs.get(row.workspace_id) if row.workspace_id else None,
                row.id in defaults,
                seen is None or row.workspace_id == seen,
            )
            for row in rows
        ]

    def _opened(self, row: AccountRow) -> Credential:
        found = open_credential(row, self.sealer)
        if found is None:
            raise SealError("The row has no credential.")
        return found

    @contextmanager
    def _trial(self, row: AccountRow, credential: Credential) -> Iterator[Carrier | VoicePlatform]:
        """Give a client with this credential, for a few calls."""
        if isinstance(row, CarrierAccount):
            yield self.clients.trial_carrier(row.account_sid or "", *credential, row.base_url)
            return
        platform = self.clients.trial_platform(row.url or "", *credential)
        try:
            yield platform
        finally:
            platform.close()

    def _checked(self, row: AccountRow, client: Carrier | VoicePlatform) -> Checked:
        if isinstance(row, VoiceProject):
            return check_platform(client, row.url or "")  # type: ignore[arg-type]  # the row's kind decides
        where = row.account_sid or "the account of the environment"
        if row.base_url:
            where = f"{where}, through {row.base_url},"
        with seeing(None):
            return check_carrier(client, where, lambda: self.room_of(row.id))  # type: ignore[arg-type]  # likewise

    def _checked_as_stored(self, row: AccountRow) -> Checked:
        if row.id in ENVIRONMENT:
            client = self.clients.carrier(row.id) if row.id == ENVIRONMENT_ACCOUNT else self.clients.platform(row.id)
            return self._checked(row, client)
        try:
            credential = self._opened(row)
        except SealError as error:
            fix = "Add the key that it was sealed with to CREDENTIAL_KEYS, or rotate the credential."
            return Checked({CREDENTIALS: CheckOutcome(CheckStatus.FAILED, str(error), fix)}, _UnopenedError(error))
        with self._trial(row, credential) as client:
            return self._checked(row, client)

    def _keep_verdict(self, session: Session, row: AccountRow, checked: Checked) -> None:
        """Write what the provider said of the credential that the row has now; the session holds its lock.

        An account concerns the operations of everybody who uses it.
        """
        with seeing(None):
            self._keep_for_all(session, row, checked)

    def _keep_for_all(self, session: Session, row: AccountRow, checked: Checked) -> None:
        kind = kind_of(row)
        if checked.is_accepted:
            row.status, row.error_code, row.error_detail = CredentialStatus.VERIFIED, None, None
            wake_waiting(session, kind, row.id)
        elif (error := checked.refusal) is not None:
            now = session.scalars(select(func.now())).one()
            if row.old_valid_until is not None and row.old_valid_until > now and row.sealed_old_secret is not None:
                return  # its operations go on with the credential before
            if row.status is CredentialStatus.VERIFIED:
                announce_refusal(session, kind, row.id, row.name, error.code, error.detail)
            row.status, row.error_code, row.error_detail = CredentialStatus.INVALID, error.code, error.detail

    def _keep_old(self, session: Session, row: AccountRow, lives: timedelta) -> None:
        """Keep the credential that is replaced, unless it is of no use any more; the session holds the row's lock."""
        now = session.scalars(select(func.now())).one()
        row.old_username = row.sealed_old_secret = row.old_valid_until = None
        if row.status is CredentialStatus.INVALID or not lives:
            return
        try:
            old = open_credential(row, self.sealer)
        except SealError:
            return  # sealed by a key that is lost: a rotation is the way out
        if old is not None:
            set_old_credential(row, old, now + lives, self.sealer)

    def _take_unverified(self, kind: AccountKind) -> Sequence[AccountRow]:
        """Take the accounts whose next try is due, and that no other sweeper takes; the environment's stay pending."""
        model = ROWS[kind]
        due = or_(model.checked_at.is_(None), model.checked_at <= func.now() - RECHECK_INTERVAL)
        wanted = (model.status != CredentialStatus.VERIFIED, model.deleted_at.is_(None), model.id.not_in(ENVIRONMENT))
        query = select(model).where(*wanted, due)
        with self.sessions.begin() as session:
            rows: Sequence[AccountRow] = session.scalars(
                query.limit(RECHECK_BATCH).with_for_update(skip_locked=True)
            ).all()
            for row in rows:
                row.checked_at = func.now()
            session.flush()
            for row in rows:
                session.refresh(row)
        return rows

    def _accept(self, kind: AccountKind, row: AccountRow, checked: Checked) -> bool:
        """Make an account valid whose credential is accepted, unless somebody has changed it meanwhile."""
        with self.sessions.begin() as session:
            stored: AccountRow = session.get_one(ROWS[kind], row.id, with_for_update=True)
            if stored.version != row.version or stored.status is CredentialStatus.VERIFIED:
                return False
            stored.checks = checked.as_json()
            stored.status, stored.error_code, stored.error_detail = CredentialStatus.VERIFIED, None, None
            woken = wake_waiting(session, kind, row.id)
        log.info("account_accepted", kind=kind, account_id=str(row.id), operations=woken)
        return True

    def _record(self, session: Session, origin: Origin, action: Action, row: AccountRow, **detail: object) -> None:
        record_activity(session, origin, action, row.id, row.workspace_id, kind=kind_of(row).value, **detail)


class _UnopenedError(ProviderError):
    """A credential that we cannot open: nobody knows what its provider would say."""

    def __init__(self, error: SealError) -> None:
        super().__init__(ErrorCode.CREDENTIALS_REFUSED, str(error))


def kind_of(row: AccountRow) -> AccountKind:
    """Return what the row's credential opens."""
    return AccountKind.CARRIER if isinstance(row, CarrierAccount) else AccountKind.VOICE


def check_username(row: AccountRow, username: str) -> None:
    """Raise 422 for the SID of another Twilio account, which would be a credential for that one."""
    if isinstance(row, CarrierAccount) and username != row.account_sid and not username.startswith("SK"):
        message = f"must be {row.account_sid}, or the SID of an API key of it"
        raise RefusedError(ErrorCode.VALIDATION_FAILED, f"The user name {message}.", errors={"username": [message]})


def _seen(kind: AccountKind) -> Any:
    """Select the accounts that are seen: those of the workspace, and the one that is its default."""
    model = ROWS[kind]
    query = select(model).where(model.deleted_at.is_(None))
    seen = seen_workspace()
    if seen is None:
        return query
    default = select(DEFAULT_COLUMNS[kind]).where(Workspace.id == seen).scalar_subquery()
    return query.where(or_(model.workspace_id == seen, model.id == default))


def seen_account(session: Session, kind: AccountKind, account_id: uuid.UUID, *, locks: bool = False) -> AccountRow:
    """Return the row of an account that is seen, locked if asked for; 404 `account_not_found`."""
    query = _seen(kind).where(ROWS[kind].id == account_id)
    row: AccountRow | None = session.scalar(query.with_for_update(of=ROWS[kind]) if locks else query)
    if row is None:
        raise account_not_found(kind.label, account_id)
    return row


def _refuse_shared(row: AccountRow) -> None:
    """Raise 403 where a workspace sees an account that is not its own."""
    seen = seen_workspace()
    if seen is not None and row.workspace_id != seen:
        raise RefusedError(ErrorCode.FORBIDDEN, "This account is the installation's: ask an operator.")


def _uses(session: Session, kind: AccountKind, account_id: uuid.UUID) -> list[str]:
    """Return what needs an account, in words; whoever may delete it sees all of it."""
    with seeing(None):
        agents = session.scalar(
            select(func.count()).where(AGENT_COLUMNS[kind] == account_id, Agent.deleted_at.is_(None))
        )
        homes = session.scalars(select(Workspace.slug).where(DEFAULT_COLUMNS[kind] == account_id)).all()
        trunks = 0
        if kind is AccountKind.CARRIER:
            of_account = (Trunk.carrier_account_id == account_id, Trunk.state != TrunkState.GONE)
            trunks = session.scalar(select(func.count()).where(*of_account)) or 0
    found = [f"{agents} agents"] if agents else []
    found += [f"the workspace {slug} as its default" for slug in homes]
    return found + ([f"{trunks} shared trunks"] if trunks else [])
