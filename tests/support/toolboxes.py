"""Toolboxes over providers in memory: one world for each account, which accepts the credentials that a test says."""

import itertools
import uuid
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol, TypeVar

from app.accounts.clients import (
    AccountClient,
    CarrierCredential,
    Limits,
    ProjectClient,
    ProjectCredential,
    Toolboxes,
)
from app.accounts.credentials import Credential, secret_field, set_credential, set_old_credential
from app.db.engine import Sessions
from app.db.models import CarrierAccount, VoiceProject
from app.dev.sandbox import ACCOUNT_SID
from app.domain.errors import ErrorCode
from app.domain.workspaces import ENVIRONMENT, AccountIds, AccountKind, CredentialStatus
from app.path.spec import Profile
from app.providers.base import Carrier, VoicePlatform
from app.providers.errors import RejectedError
from app.providers.request_recorder import RequestRecorder
from app.saga.context import Toolbox, ToolboxSource
from app.saga.state import Timing
from app.sealing import KEY_BYTES, Sealer
from app.wiring import Wiring
from tests.support.adapters import recording_adapters
from tests.support.providers import World

SEALER = Sealer((b"k" * KEY_BYTES,))

_SERIALS_APART = 100_000
"""Ids between those of two worlds: they differ in all accounts, as at the providers."""


class _Checked:
    """A client in memory whose every call needs a credential that is accepted then."""

    def __init__(self, client: object, is_accepted: Callable[[], bool], code: ErrorCode) -> None:
        self._client = client
        self._is_accepted = is_accepted
        self._code = code

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if not callable(found):
            return found

        def call(*args: Any, **options: Any) -> Any:
            if not self._is_accepted():
                raise RejectedError(self._code, "The provider refused it: HTTP 401.")
            return found(*args, **options)

        return call


@dataclass
class Worlds:
    """The adapters of all accounts but the environment's, by account SID or URL, and what is accepted there."""

    worlds: dict[str, World] = field(default_factory=dict)
    accepted: dict[str, set[str]] = field(default_factory=dict)
    serials: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    def add(self, name: str, world: World, secret: str) -> None:
        self.worlds[name] = world
        self.accepted[name] = {secret}

    def another_world(self) -> World:
        world, first = World.new(), next(self.serials) * _SERIALS_APART
        for one in (world.carrier, world.platform):
            one._serial = itertools.count(first)
        return world

    def rate_limiter(self, _kind: AccountKind, _limits: Limits) -> None:
        return None

    def carrier(self, credential: CarrierCredential, _limiter: object) -> Any:
        sid, secret = credential.account_sid, credential.secret
        return _Checked(
            self.worlds[sid].carrier, lambda: secret in self.accepted[sid], ErrorCode.TWILIO_BAD_CREDENTIALS
        )

    def platform(self, credential: ProjectCredential, _limiter: object) -> Any:
        url, secret = credential.url, credential.secret
        return _Checked(
            self.worlds[url].platform, lambda: secret in self.accepted[url], ErrorCode.LIVEKIT_BAD_CREDENTIALS
        )

    def recording(
        self, _account: CarrierCredential, _project: ProjectCredential, recorder: RequestRecorder
    ) -> tuple[Carrier, VoicePlatform]:
        return recording_adapters(recorder)


def toolboxes_in_memory(
    sessions: Sessions,
    world: World,
    worlds: Worlds,
    profile: Profile,
    timing: Timing,
    *,
    max_numbers: int,
    trunk_limit: int = 100,
    clock: Any,
) -> Toolboxes:
    """Build toolboxes whose environment is `world`."""
    account = AccountClient(world.carrier, CarrierCredential(ACCOUNT_SID, ACCOUNT_SID, "env"), trunk_limit)
    project = ProjectClient(world.platform, ProjectCredential("http://127.0.0.1", "key", "env"), profile)
    return Toolboxes(
        sessions,
        lambda: (account, project),
        worlds,
        SEALER,
        profile=profile,
        instance="test",
        timing=timing,
        trunk_max_numbers=max_numbers,
        clock=clock,
        sleep=clock.sleep,
    )


def add_accounts(
    sessions: Sessions,
    worlds: Worlds,
    name: str,
    *,
    status: CredentialStatus = CredentialStatus.VERIFIED,
    workspace_id: uuid.UUID | None = None,
    trunk_limit: int = 100,
) -> tuple[AccountIds, World]:
    """Store a carrier account and a voice project with a secret each, over a world of their own."""
    world, number = worlds.another_world(), uuid.uuid4()
    sid, url = f"AC{number.hex}", f"https://{number.hex}.example"
    account = CarrierAccount(
        id=uuid.uuid4(), name=name, account_sid=sid, status=status, workspace_id=workspace_id, trunk_limit=trunk_limit
    )
    project = VoiceProject(
        id=uuid.uuid4(),
        name=name,
        url=url,
        sip_uri=f"sip:{name}.sip.livekit.cloud;transport=tcp",
        status=status,
        workspace_id=workspace_id,
    )
    set_credential(account, Credential(sid, "secret-1"), SEALER)
    set_credential(project, Credential("key", "secret-1"), SEALER)
    for one in (sid, url):
        worlds.add(one, world, "secret-1")
    with sessions.begin() as session:
        session.add_all([account, project])
    return AccountIds(account.id, project.id), world


def rotate(sessions: Sessions, row_id: uuid.UUID, secret: str, *, old_until: datetime | None = None) -> None:
    """Store another secret of a carrier account, as a rotation does."""
    with sessions.begin() as session:
        row = session.get_one(CarrierAccount, row_id)
        if old_until is not None:
            old = SEALER.open(row.sealed_secret or "", secret_field(row))
            set_old_credential(row, Credential(row.username or "", old), old_until, SEALER)
        set_credential(row, Credential(row.username or "", secret), SEALER)
        row.version += 1


@dataclass(frozen=True)
class GivenToolboxes:
    """Hands out the toolbox that it was given for the environment's accounts, and all else from those `behind`."""

    tools: Toolbox
    behind: Any = None
    trunk_limit: int | None = None
    """Of the environment's account, where it is another than the one behind."""

    @property
    def instance(self) -> str:
        return self.tools.instance

    @property
    def timing(self) -> Timing:
        return self.tools.timing

    def of(self, ids: AccountIds) -> Toolbox:
        return self.tools if ids == ENVIRONMENT or self.behind is None else self.behind.of(ids)

    def account(self, account_id: uuid.UUID) -> AccountClient:
        found: AccountClient = self.behind.account(account_id)
        if account_id != ENVIRONMENT.carrier_account_id:
            return found
        return replace(found, carrier=self.tools.carrier, trunk_limit=self.trunk_limit or found.trunk_limit)

    def project(self, project_id: uuid.UUID) -> ProjectClient:
        found: ProjectClient = self.behind.project(project_id)
        is_given = project_id == ENVIRONMENT.voice_project_id
        return replace(found, platform=self.tools.platform, profile=self.tools.profile) if is_given else found

    def __getattr__(self, name: str) -> Any:
        return getattr(self.behind, name)


class Worker(Protocol):
    """A runner or a service that finds its toolboxes itself."""

    @property
    def toolboxes(self) -> ToolboxSource: ...


def tools_of(worker: Worker) -> Toolbox:
    """Return the toolbox that a worker has for the environment's accounts."""
    return worker.toolboxes.of(ENVIRONMENT)


def with_parts(wiring: Wiring, **parts: Any) -> Wiring:
    """Return the same process with other parts; what either of them builds later, it has alone."""
    changed = copy(wiring)
    vars(changed).update(parts)
    return changed


Given = TypeVar("Given", bound=Worker)


def with_tools(worker: Given, tools: Toolbox) -> Given:
    """Return the same worker with this toolbox for the environment's accounts."""
    return replace(worker, toolboxes=GivenToolboxes(tools, worker.toolboxes))  # type: ignore[type-var]  # dataclasses all
