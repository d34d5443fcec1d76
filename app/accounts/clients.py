"""The clients of all carrier accounts and voice projects: built of their rows, kept while nobody has changed these.

A process looks at a row once a second at most, so that a credential that is rotated or refused is known everywhere
after that. A client whose credential is refused falls back to the one before it while that is valid. Where neither
helps, the row becomes `invalid`: its operations rest (`credentials_refused`), and nobody else's do. The environment's
accounts have a row without a secret; their clients are given, and what they are refused is final.
"""

import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import TYPE_CHECKING, Generic, NoReturn, Protocol, TypeVar, cast

import structlog
from sqlalchemy import func, select, text

from app.accounts.credentials import Credential, open_credential, open_old_credential
from app.accounts.waiting import keep_refusal
from app.db.engine import Sessions
from app.db.models import OTHER_ACCOUNTS, Agent, CarrierAccount, VoiceProject
from app.db.visibility import seeing
from app.domain.errors import ErrorCode
from app.domain.sip_uris import parse_sip_uri
from app.domain.workspaces import (
    ENVIRONMENT,
    ENVIRONMENT_ACCOUNT,
    ENVIRONMENT_PROJECT,
    AccountIds,
    AccountKind,
    CredentialStatus,
)
from app.path.spec import Profile
from app.providers.base import Carrier, VoicePlatform
from app.providers.errors import ProviderError, TransientError
from app.saga.context import Toolbox
from app.saga.state import Timing
from app.sealing import Sealer, SealError
from app.trunks.pool import TrunkPool

if TYPE_CHECKING:
    from app.providers.rate_limiter import RateLimiter
    from app.providers.request_recorder import RequestRecorder

log = structlog.get_logger(__name__)

KNOWN_FOR_S = 1.0
"""Seconds for which what was read of a row is believed: a step takes as long, and a read costs a statement."""

FALLBACK_S = 60.0
"""Seconds for which the credential before the last rotation is used once the new one was refused. Then that is tried
again: the provider may not have known it yet."""

SOON_S = 1.0
"""Seconds until a step tries again that was refused with a credential which is in use no more."""

CLOSED_AFTER_S = 300.0
"""Seconds after which a client that was replaced is closed: longer than any step or audit that still uses it."""

RECHECK_S = 60.0
"""Seconds until a step looks again whether its account is valid: the sweeper checks as often, and wakes the step."""

_REFUSALS = {
    ErrorCode.TWILIO_BAD_CREDENTIALS: AccountKind.CARRIER,
    ErrorCode.LIVEKIT_BAD_CREDENTIALS: AccountKind.VOICE,
}
"""What a provider says of a credential -> whose it is."""


@dataclass(frozen=True, slots=True)
class CarrierCredential:
    """What opens a Twilio account."""

    account_sid: str
    username: str
    """The account's SID, or that of an API key."""
    secret: str = field(repr=False)
    base_url: str | None = None


@dataclass(frozen=True, slots=True)
class ProjectCredential:
    """What opens a LiveKit project."""

    url: str
    api_key: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Limits:
    """How fast an account may be called, by all processes together."""

    account: str
    """Whose limits these are, in Redis, as a hash."""
    rate: str
    """Requests per second, `auto` or `off`."""
    in_flight: int | None = None


class Adapters(Protocol):
    """Builds the adapters of both providers."""

    def rate_limiter(self, kind: AccountKind, limits: Limits, /) -> "RateLimiter | None":
        """Build the rate limiter of an account; None where its rate is `off`."""

    def carrier(self, credential: CarrierCredential, rate_limiter: "RateLimiter | None", /) -> Carrier:
        """Build a client of a Twilio account."""

    def platform(self, credential: ProjectCredential, rate_limiter: "RateLimiter | None", /) -> VoicePlatform:
        """Build a client of a LiveKit project."""

    def recording(
        self, account: CarrierCredential, project: ProjectCredential, recorder: "RequestRecorder", /
    ) -> tuple[Carrier, VoicePlatform]:
        """Build clients that record their requests and send none."""


@dataclass(frozen=True)
class AccountClient:
    """A carrier account, as it is called."""

    carrier: Carrier
    credential: CarrierCredential
    trunk_limit: int
    """Trunks that it may have."""
    rate_limiter: "RateLimiter | None" = None
    name: str = "environment"


@dataclass(frozen=True)
class ProjectClient:
    """A voice project, as it is called."""

    platform: VoicePlatform
    credential: ProjectCredential
    profile: Profile
    """What all paths to it have in common."""
    rate_limiter: "RateLimiter | None" = None
    name: str = "environment"


Row = TypeVar("Row", bound=CarrierAccount | VoiceProject)
Client = TypeVar("Client", bound=AccountClient | ProjectClient)


@dataclass(frozen=True)
class _Held(Generic[Client]):
    """A client, and what it was built of."""

    client: Client
    row_id: uuid.UUID | None = None
    """None for the environment's."""
    version: int = 0
    uses_old_until: float | None = None
    """Until when, by the monotonic clock, it has the credential before the last rotation; None: it has the present one.
    """
    is_invalid: bool = False


class _Refusing:
    """Stands for a client whose credential cannot be used: every call waits for a better one."""

    def __init__(self, detail: str) -> None:
        self._detail = detail

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        if name.startswith("_"):
            raise AttributeError(name)

        def refuse(*_: object, **__: object) -> NoReturn:
            raise _wait(self._detail, RECHECK_S)

        return refuse

    def close(self) -> None:
        """Do nothing: there are no connections."""


class _Clients(Generic[Row, Client]):
    """The clients of one table's rows. `build` gets a row, its credential and, where there is none, a sentence why."""

    def __init__(
        self,
        kind: AccountKind,
        row: type[Row],
        environment: tuple[uuid.UUID, Callable[[], Client]],
        build: Callable[[Row, Credential | None, str], Client],
        end: Callable[[Client], None],
        sessions: Sessions,
        sealer: Sealer,
        clock: Callable[[], float],
    ) -> None:
        self._kind = kind
        self._row = row
        self._environment_id, self._build_environment = environment
        self._environment: _Held[Client] | None = None
        self._build = build
        self._end = end
        self._sessions = sessions
        self._sealer = sealer
        self._clock = clock
        self._lock = Lock()
        self._held: dict[uuid.UUID, _Held[Client]] = {}
        self._known_until: dict[uuid.UUID, float] = {}
        self._replaced: deque[tuple[float, Client]] = deque()

    def of(self, row_id: uuid.UUID) -> _Held[Client]:
        """Return the client of a row; `LookupError` where there is none."""
        if row_id == self._environment_id:
            with self._lock:
                self._environment = self._environment or _Held(self._build_environment())
            return self._environment
        held = self._held.get(row_id)
        # One that was invalid is looked at each time: what is woken once it is accepted must not meet yesterday's news.
        if held is not None and not held.is_invalid and self._clock() < self._known_until[row_id]:
            return held
        row = self._read(row_id)
        if row is None:
            raise LookupError(f"there is no {self._kind.label} {row_id}")
        is_invalid = row.status is CredentialStatus.INVALID
        with self._lock:
            held, now = self._held.get(row_id), self._clock()
            is_over = held is not None and held.uses_old_until is not None and now >= held.uses_old_until
            if held is None or held.version != row.version or is_over:
                self._replace(held)
                held = _Held(self._open(row), row_id, row.version, None, is_invalid)
            elif held.is_invalid is not is_invalid:
                held = replace(held, is_invalid=is_invalid)
            return self._keep(held)

    def refused(self, held: _Held[Client], error: ProviderError) -> ProviderError:
        """Return what the refusal of a client's credential means, once it is noted where nothing else helps."""
        row = self._read(held.row_id) if held.row_id else None
        if row is None or row.status is CredentialStatus.PENDING:
            return error
        with self._lock:
            current = self._held[row.id]
            if row.version != held.version or current.client is not held.client:
                self._known_until[row.id] = 0.0
                return _wait(f"The credential of {self._kind.label} {row.name} was changed meanwhile.", SOON_S)
            if held.uses_old_until is None and (old := self._open_old(row)) is not None:
                self._replace(current)
                self._keep(_Held(old, row.id, row.version, self._clock() + FALLBACK_S, held.is_invalid))
                log.warning("credential_falls_back", kind=self._kind, account_id=str(row.id))
                return _wait(f"{self._kind.label} {row.name} takes the old credential for now.", SOON_S)
            self._known_until[row.id] = 0.0
        is_kept = keep_refusal(self._sessions, self._kind, row.id, row.version, error)
        return _wait(refusal_of(self._kind, row.name), RECHECK_S if is_kept else SOON_S)

    def close(self) -> None:
        """Close all that were built."""
        if self._environment is not None:
            self._end(self._environment.client)
        for client in (*(held.client for held in self._held.values()), *(client for _, client in self._replaced)):
            self._end(client)

    def _replace(self, held: _Held[Client] | None) -> None:
        """Close the client later, and those that were replaced long ago now."""
        now = self._clock()
        while self._replaced and self._replaced[0][0] < now - CLOSED_AFTER_S:
            self._end(self._replaced.popleft()[1])
        if held is not None:
            self._replaced.append((now, held.client))

    def _keep(self, held: _Held[Client]) -> _Held[Client]:
        if held.row_id is not None:
            self._held[held.row_id] = held
            self._known_until[held.row_id] = self._clock() + KNOWN_FOR_S
        return held

    def _read(self, row_id: uuid.UUID) -> Row | None:
        with self._sessions() as session:
            return session.get(self._row, row_id)

    def _open(self, row: Row) -> Client:
        try:
            credential = open_credential(row, self._sealer)
        except SealError as error:
            log.error("credential_not_opened", kind=self._kind, account_id=str(row.id), reason=str(error))  # noqa: TRY400  # the sentence says all
            return self._build(row, None, f"{_unopened(self._kind, row.name)} {error}")
        return self._build(row, credential, _unopened(self._kind, row.name))

    def _open_old(self, row: Row) -> Client | None:
        """Return a client with the credential before the last rotation, while that is valid."""
        if row.old_valid_until is None:
            return None
        with self._sessions() as session:
            now = session.scalars(select(func.now())).one()
        try:
            credential = open_old_credential(row, self._sealer, now)
        except SealError:
            return None
        return self._build(row, credential, "") if credential else None


class Toolboxes:
    """Builds and keeps the clients of every account, and the toolboxes of their steps; safe to share between threads.

    `environment` returns the clients of the environment's accounts, once something is asked of one of them; `profile`
    is what the environment's paths have in common.
    """

    def __init__(
        self,
        sessions: Sessions,
        environment: Callable[[], tuple[AccountClient, ProjectClient]],
        adapters: Adapters,
        sealer: Sealer,
        *,
        profile: Profile,
        instance: str,
        timing: Timing,
        trunk_max_numbers: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.instance = instance
        self.timing = timing
        self._sessions = sessions
        self._adapters = adapters
        self._trunk_max_numbers = trunk_max_numbers
        self._clock = clock
        self._sleep = sleep
        self._profile = profile
        self._accounts = _Clients(
            AccountKind.CARRIER,
            CarrierAccount,
            (ENVIRONMENT_ACCOUNT, lambda: environment()[0]),
            self._build_account,
            lambda _: None,
            sessions,
            sealer,
            clock,
        )
        self._projects = _Clients(
            AccountKind.VOICE,
            VoiceProject,
            (ENVIRONMENT_PROJECT, lambda: environment()[1]),
            self._build_project,
            lambda client: client.platform.close(),
            sessions,
            sealer,
            clock,
        )
        self._kept: dict[AccountIds, tuple[_Held[AccountClient], _Held[ProjectClient], Toolbox]] = {}

    def of(self, ids: AccountIds) -> Toolbox:
        """Return the toolbox of these accounts; `LookupError` where there is no such row.

        Where a credential cannot be opened, or is known to be refused, every call of its client raises
        `TransientError(credentials_refused)`, and nothing is sent; the other client works.
        """
        account, project = self._accounts.of(ids.carrier_account_id), self._projects.of(ids.voice_project_id)
        kept = self._kept.get(ids)
        if kept is not None and kept[0] is account and kept[1] is project:
            return kept[2]
        carrier, platform = account.client.carrier, project.client.platform
        if account.is_invalid:
            carrier = _refusing_carrier(refusal_of(AccountKind.CARRIER, account.client.name))
        if project.is_invalid:
            platform = _refusing_platform(refusal_of(AccountKind.VOICE, project.client.name))

        def refused(error: ProviderError) -> ProviderError:
            match _REFUSALS.get(error.code):
                case AccountKind.CARRIER:
                    return self._accounts.refused(account, error)
                case AccountKind.VOICE:
                    return self._projects.refused(project, error)
            return error

        profile = project.client.profile
        pool = TrunkPool(
            self._sessions,
            ids.carrier_account_id,
            profile,
            self._trunk_max_numbers,
            lease=self.timing.lease,
            lands=self.timing.lands,
        )
        tools = Toolbox(
            carrier,
            platform,
            self.instance,
            profile,
            self.timing,
            pool,
            sleep=self._sleep,
            clock=self._clock,
            accounts=ids,
            refused=refused,
        )
        self._kept[ids] = account, project, tools
        return tools

    def in_use(self) -> Sequence[AccountIds]:
        """Return the pairs that agents of any workspace use, the environment's first, which is always among them."""
        columns = select(Agent.carrier_account_id, Agent.voice_project_id).distinct()
        with seeing(None), self._sessions() as session:
            others = session.execute(columns.where(text(OTHER_ACCOUNTS))).all()
        return [ENVIRONMENT, *sorted(AccountIds(*row) for row in others)]

    def account(self, carrier_account_id: uuid.UUID) -> AccountClient:
        """Return the client of a carrier account, whatever its status; `LookupError` where there is no such row."""
        return self._accounts.of(carrier_account_id).client

    def project(self, voice_project_id: uuid.UUID) -> ProjectClient:
        """Return the client of a voice project, whatever its status; `LookupError` where there is no such row."""
        return self._projects.of(voice_project_id).client

    def carrier(self, carrier_account_id: uuid.UUID) -> Carrier:
        """Return what calls a carrier account, whatever its status."""
        return self.account(carrier_account_id).carrier

    def platform(self, voice_project_id: uuid.UUID) -> VoicePlatform:
        """Return what calls a voice project, whatever its status."""
        return self.project(voice_project_id).platform

    def trial_carrier(self, account_sid: str, username: str, secret: str, base_url: str | None) -> Carrier:
        """Build a client of a credential that is not stored yet: not kept, and without a rate limiter."""
        return self._adapters.carrier(CarrierCredential(account_sid, username, secret, base_url), None)

    def trial_platform(self, url: str, api_key: str, secret: str) -> VoicePlatform:
        """Build the same of a voice project; the caller closes it."""
        return self._adapters.platform(ProjectCredential(url, api_key, secret), None)

    def recording(self, ids: AccountIds, recorder: "RequestRecorder") -> tuple[Carrier, VoicePlatform]:
        """Build clients of these accounts that record their requests and send none."""
        account, project = self.account(ids.carrier_account_id), self.project(ids.voice_project_id)
        return self._adapters.recording(account.credential, project.credential, recorder)

    def close(self) -> None:
        """Close every connection, those of the environment's clients too."""
        self._projects.close()

    def _build_account(self, row: CarrierAccount, opened: Credential | None, why: str) -> AccountClient:
        sid = row.account_sid or ""
        username, secret = opened or ("", "")
        credential = CarrierCredential(sid, username, secret, row.base_url)
        if opened is None:
            return AccountClient(_refusing_carrier(why), credential, row.trunk_limit, None, row.name)
        limiter = self._adapters.rate_limiter(AccountKind.CARRIER, Limits(sid, row.rate, row.in_flight))
        return AccountClient(
            self._adapters.carrier(credential, limiter), credential, row.trunk_limit, limiter, row.name
        )

    def _build_project(self, row: VoiceProject, opened: Credential | None, why: str) -> ProjectClient:
        uri = parse_sip_uri(row.sip_uri or "")
        profile = replace(
            self._profile,
            sip_uri=uri.over_tls() if self._profile.is_secure else uri,
            allowed_addresses=tuple(row.allowed_addresses),
            room_presets=None if row.room_presets is None else frozenset(row.room_presets),
        )
        username, secret = opened or ("", "")
        credential = ProjectCredential(row.url or "", username, secret)
        if opened is None:
            return ProjectClient(_refusing_platform(why), credential, profile, None, row.name)
        # Not its URL, which is that of every project on a server of one's own, nor its key, which is rotated.
        limiter = self._adapters.rate_limiter(AccountKind.VOICE, Limits(f"project {row.id}", row.rate, row.in_flight))
        return ProjectClient(self._adapters.platform(credential, limiter), credential, profile, limiter, row.name)


def refusal_of(kind: AccountKind, name: str) -> str:
    """Return the sentence about an account whose credential is refused."""
    return f"The credential of {kind.label} {name} is refused: what needs it waits until it is rotated or accepted."


def _unopened(kind: AccountKind, name: str) -> str:
    return f"The credential of {kind.label} {name} cannot be opened."


def _wait(detail: str, retry_after_s: float) -> TransientError:
    return TransientError(ErrorCode.CREDENTIALS_REFUSED, detail, retry_after_s=retry_after_s)


def _refusing_carrier(why: str) -> Carrier:
    return cast("Carrier", _Refusing(why))


def _refusing_platform(why: str) -> VoicePlatform:
    return cast("VoicePlatform", _Refusing(why))
