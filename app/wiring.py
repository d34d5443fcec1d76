"""Builds engine, sessions, provider clients and services; the only place that does, for web, workers, CLI and tests."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property, partial
from pkgutil import resolve_name
from threading import RLock
from typing import TYPE_CHECKING, Any, TypeVar

from app.db.engine import Sessions, make_engine, make_sessions
from app.domain.workspaces import ENVIRONMENT, AccountKind
from app.sealing import Sealer
from app.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from app.accounts.clients import (
        AccountClient,
        CarrierCredential,
        Limits,
        ProjectClient,
        ProjectCredential,
        Toolboxes,
    )
    from app.accounts.service import AccountService
    from app.accounts.stored_secrets import StoredSecretService
    from app.audit.retiring import RetiringService
    from app.audit.service import AuditService
    from app.bulk.consolidation import ConsolidationService
    from app.bulk.dispatcher import BulkDispatcher
    from app.bulk.preview import BulkPreviewService
    from app.bulk.service import BulkService
    from app.declared.service import DeclarationService
    from app.numbers.adoption import AdoptionService
    from app.numbers.agents import AgentService
    from app.numbers.changing import ChangeService
    from app.numbers.dry_run import PlanningService
    from app.numbers.headroom import HeadroomService
    from app.numbers.inventory import InventoryService
    from app.numbers.maintenance import MaintenanceService
    from app.numbers.service import ProvisioningService, Publisher
    from app.numbers.test_calls import CallService
    from app.observability.tracing import Telemetry
    from app.path.spec import Profile
    from app.providers.base import Carrier, VoicePlatform
    from app.providers.rate_limiter import RateLimiter
    from app.providers.request_recorder import RecordedLiveKitConnection, RecordedTwilioHttp, RequestRecorder
    from app.saga.rows import Rows
    from app.saga.runner import Runner
    from app.saga.state import Timing
    from app.sweeper import Sweeper
    from app.webhooks.deliveries import DeliveryService
    from app.webhooks.endpoints import WebhookService
    from app.webhooks.sending import Sender
    from app.workspaces import WorkspaceService

PUBLISHER = "tasks.publisher:publisher"
"""Publishes Celery messages; named, not imported, since `tasks` imports `app` and `app` knows only the Protocol."""

WEB_PUBLISHER = "tasks.publisher:background"
"""Publishes in the background for web processes: a broker that hangs must not delay a response."""

BROKER_CHECK_TIMEOUT_S = 1.0
"""Seconds that a check of the broker may take."""

BROKER_CHECK_KEY = "trunkline-try"
"""The key that the check writes; it expires after a minute."""

RINGING_TIMEOUT_S = 30
"""Seconds that LiveKit lets a caller ring when no agent answers; its own default is three minutes."""


PROVIDER_OF = {AccountKind.CARRIER: "twilio", AccountKind.VOICE: "livekit"}
"""Whose rate limiter an account's is, in logs and metrics."""


T = TypeVar("T")

_building = RLock()
"""Held while a part is built: two threads that need the first of something must not make two."""


class part(cached_property[T]):  # noqa: N801 - a decorator, as its parent
    """A part of the wiring: built once for all threads, and what it is made of imported, when it is first asked for."""

    def __get__(self, wiring: Any, owner: type | None = None) -> T:  # type: ignore[override]
        """Return the part."""
        with _building:
            built: T = super().__get__(wiring, owner)
        return built


class Wiring:
    """Everything of one process. No process has, or imports, more of it than it uses."""

    def __init__(
        self,
        settings: Settings,
        publisher: "Publisher | None" = None,
        carrier: "Carrier | None" = None,
        platform: "VoicePlatform | None" = None,
    ) -> None:
        self.settings = settings
        self._given_publisher = publisher
        self._given = carrier, platform

    @part
    def engine(self) -> "Engine":
        """The pool of connections to the database."""
        return make_engine(self.settings.database_url, pooler=self.settings.database_pooler)

    @part
    def sessions(self) -> Sessions:
        """The sessions on it."""
        return make_sessions(self.engine)

    @part
    def carrier(self) -> "Carrier":
        """The environment's carrier account, as it is called."""
        return self.toolboxes.of(ENVIRONMENT).carrier

    @part
    def platform(self) -> "VoicePlatform":
        """The environment's voice project, as it is called."""
        return self.toolboxes.of(ENVIRONMENT).platform

    @part
    def publisher(self) -> "Publisher":
        """What publishes messages."""
        return self._given_publisher or resolve_name(PUBLISHER)

    @part
    def telemetry(self) -> "Telemetry":
        """The counters and traces of this process."""
        from app.observability.counters import make_counters
        from app.observability.tracing import Telemetry, make_tracing

        tracing = make_tracing(self.settings.otel_exporter_otlp_endpoint, self.settings.instance_name)
        return Telemetry(make_counters(self.settings.redis_url), tracing)

    @part
    def toolboxes(self) -> "Toolboxes":
        """The clients of all accounts."""
        from app.accounts.clients import Toolboxes

        return Toolboxes(
            self.sessions,
            lambda: self._environment,
            self._adapters,
            self.sealer,
            profile=profile_of(self.settings),
            instance=self.settings.instance_name,
            timing=self._timing,
            trunk_max_numbers=self.settings.trunk_max_numbers,
        )

    @part
    def rate_limiters(self) -> "Mapping[str, RateLimiter]":
        """Of the environment's accounts, by provider; none for one whose rate is "off" or that a test replaced."""
        limiters = zip(PROVIDER_OF.values(), (one.rate_limiter for one in self._environment), strict=True)
        return {provider: limiter for provider, limiter in limiters if limiter is not None}

    @part
    def sealer(self) -> Sealer:
        """Seals and opens stored secrets."""
        return Sealer(self.settings.sealing_keys)

    @part
    def runner(self) -> "Runner":
        """Runs steps."""
        from app.saga.batch import BatchRunner
        from app.saga.instrumentation import StepInstrumentation

        return BatchRunner(self._rows, self.toolboxes, instrumentation=StepInstrumentation(self.telemetry))

    @part
    def sweeper(self) -> "Sweeper":
        """Finds what was lost."""
        from app.access import ConsoleSessions
        from app.db.access import purge_activity
        from app.idempotency import IdempotencyStore
        from app.sweeper import Sweeper

        purges = (
            IdempotencyStore(self.sessions).purge,
            ConsoleSessions(self.sessions).purge,
            self.webhooks.purge_secrets,
            self.accounts.purge_old,
            self.agents.erase_deleted,
            self.retiring.purge,
            partial(purge_activity, self.sessions),
            self.calls.purge,
        )
        return Sweeper(
            self.sessions,
            self.provisioning,
            self.audits,
            self.dispatcher,
            self.deliveries,
            self.calls,
            self.retiring,
            purges,
            self.accounts.recheck,
        )

    @part
    def agents(self) -> "AgentService":
        """Creates, reads and deletes agents."""
        from app.numbers.agents import AgentService

        return AgentService(self.sessions)

    @part
    def changes(self) -> "ChangeService":
        """Changes agents after their creation."""
        from app.numbers.changing import ChangeService

        return ChangeService(self.sessions, self.publisher, self._rows, self.toolboxes)

    @part
    def provisioning(self) -> "ProvisioningService":
        """Requests provisionings and their ends."""
        from app.numbers.service import ProvisioningService

        return ProvisioningService(self.sessions, self.publisher, self._rows)

    @part
    def maintenance(self) -> "MaintenanceService":
        """Verifies, repairs and moves."""
        from app.numbers.maintenance import MaintenanceService

        return MaintenanceService(self.sessions, self.publisher, self._rows, self.toolboxes)

    @part
    def adoption(self) -> "AdoptionService":
        """Previews and opens adoptions."""
        from app.numbers.adoption import AdoptionService

        return AdoptionService(self.sessions, self.publisher, self._rows, self.toolboxes)

    @part
    def planning(self) -> "PlanningService":
        """Previews provisionings."""
        from app.numbers.dry_run import PlanningService

        return PlanningService(self.sessions, self.toolboxes, self.settings.trunk_max_numbers)

    @part
    def inventory(self) -> "InventoryService":
        """Lists the numbers that an account owns."""
        from app.numbers.inventory import InventoryService

        return InventoryService(self.sessions, self.toolboxes)

    @part
    def headroom(self) -> "HeadroomService":
        """Says how many more numbers fit."""
        from app.numbers.headroom import HeadroomService

        return HeadroomService(self.sessions, self.toolboxes, self.settings.trunk_max_numbers)

    @part
    def bulk_preview(self) -> "BulkPreviewService":
        """Says what would become of a bulk."""
        from app.bulk.preview import BulkPreviewService

        return BulkPreviewService(self.sessions, self.inventory, self.headroom)

    @part
    def bulk(self) -> "BulkService":
        """Accepts and ends bulks."""
        from app.bulk.service import BulkService

        return BulkService(self.sessions, self._rows)

    @part
    def dispatcher(self) -> "BulkDispatcher":
        """Starts the items of bulks."""
        from app.bulk.dispatcher import BulkDispatcher

        return BulkDispatcher(
            self.sessions,
            self.provisioning,
            self.maintenance,
            self.adoption,
            self.agents,
            self.changes,
            self.publisher,
        )

    @part
    def declarations(self) -> "DeclarationService":
        """Makes agents and numbers what a file declares."""
        from app.declared.service import DeclarationService

        return DeclarationService(self.sessions, self.bulk)

    @part
    def consolidation(self) -> "ConsolidationService":
        """Moves numbers onto fewer trunks."""
        from app.bulk.consolidation import ConsolidationService

        return ConsolidationService(self.sessions, self.bulk, self.toolboxes, self.settings.trunk_max_numbers)

    @part
    def audits(self) -> "AuditService":
        """Compares every row with the providers."""
        from app.audit.service import AuditService

        grace = timedelta(seconds=self.settings.orphan_grace_s)
        return AuditService(self.sessions, self.toolboxes, self.maintenance, grace, self.bulk)

    @part
    def retiring(self) -> "RetiringService":
        """Deletes shared trunks that no number uses."""
        from app.audit.retiring import RetiringService

        return RetiringService(self.sessions, self.toolboxes)

    @part
    def accounts(self) -> "AccountService":
        """Stores and checks carrier accounts and voice projects."""
        from app.accounts.service import AccountService

        check_server = self._sender.check_server
        return AccountService(self.sessions, self.sealer, self.toolboxes, self.headroom.of, check_server)

    @part
    def stored_secrets(self) -> "StoredSecretService":
        """Seals stored secrets by the newest key."""
        from app.accounts.stored_secrets import StoredSecretService

        return StoredSecretService(self.sessions, self.sealer)

    @part
    def webhooks(self) -> "WebhookService":
        """Stores the endpoints of webhooks."""
        from app.webhooks.endpoints import WebhookService

        return WebhookService(self.sessions, self.publisher, self._sender, self.sealer)

    @part
    def deliveries(self) -> "DeliveryService":
        """Sends what webhooks are to be told."""
        from app.webhooks.deliveries import DeliveryService

        return DeliveryService(self.sessions, self.publisher, self._sender, self.sealer)

    @part
    def calls(self) -> "CallService":
        """Places test calls."""
        from app.numbers.test_calls import CallService

        caller, rule = self.settings.test_call_caller, self._sender.rule
        return CallService(self.sessions, self.publisher, self.toolboxes, caller, rule, self.telemetry.counters)

    @part
    def workspaces(self) -> "WorkspaceService":
        """Creates, reads and deletes workspaces."""
        from app.workspaces import WorkspaceService

        return WorkspaceService(self.sessions)

    @part
    def _rows(self) -> "Rows":
        from app.saga.rows import Rows

        return Rows(self.sessions, self._timing.lands)

    @part
    def _sender(self) -> "Sender":
        from app.webhooks.sending import AddressRule, Sender

        return Sender(AddressRule(self.settings.webhook_networks))

    @part
    def _timing(self) -> "Timing":
        from app.saga.state import Timing

        return Timing(self.settings.provider_timeout, timedelta(seconds=self.settings.operation_budget_s))

    @part
    def _adapters(self) -> "_Adapters":
        return _Adapters(self.settings, self.telemetry)

    @part
    def _environment(self) -> "tuple[AccountClient, ProjectClient]":
        return _environment(self.settings, self._adapters, *self._given)

    def check_broker(self) -> None:
        """Raise `RedisError` or OSError unless the broker takes a write, within about a second.

        A PING is not enough: a broker that is full, or a replica after a failover, answers every PING.
        """
        from redis import Redis

        limit = BROKER_CHECK_TIMEOUT_S
        with Redis.from_url(self.settings.redis_url, socket_timeout=limit, socket_connect_timeout=limit) as client:
            client.set(BROKER_CHECK_KEY, "", ex=60)

    def close(self) -> None:
        """Close every connection that there is."""
        for name in ("deliveries", "calls", "telemetry", "toolboxes"):
            if name in vars(self):
                getattr(self, name).close()
        if "engine" in vars(self):
            self.engine.dispose()


def build_web(settings: Settings) -> Wiring:
    """Build the wiring of a web process."""
    return build(settings, publisher=resolve_name(WEB_PUBLISHER))


def build(
    settings: Settings,
    *,
    publisher: "Publisher | None" = None,
    carrier: "Carrier | None" = None,
    platform: "VoicePlatform | None" = None,
) -> Wiring:
    """Build the wiring of one process; a test passes its own publisher or providers."""
    return Wiring(settings, publisher, carrier, platform)


def profile_of(settings: Settings) -> "Profile":
    """Build what all paths of the installation have in common."""
    from app.path.spec import Profile

    uri, is_secure = settings.livekit_sip_uri, settings.trunk_secure
    return Profile(
        sip_uri=uri.over_tls() if is_secure else uri,
        is_secure=is_secure,
        transfer_mode=settings.trunk_transfer_mode,
        allowed_addresses=settings.allowed_addresses,
        ringing_timeout=timedelta(seconds=RINGING_TIMEOUT_S),
        room_presets=settings.room_presets,
    )


@dataclass(frozen=True)
class _Adapters:
    """Builds the adapters of both providers; the environment's secrets are masked in what either of them says."""

    settings: Settings
    telemetry: "Telemetry"

    def rate_limiter(self, kind: AccountKind, limits: "Limits") -> "RateLimiter | None":
        """Build the rate limiter of an account; the account is who pays: the Twilio account, the LiveKit project."""
        from app.providers.rate_limiter import make_rate_limiter

        if limits.rate == "off":
            return None
        return make_rate_limiter(
            self.settings.redis_url,
            PROVIDER_OF[kind],
            limits.account,
            per_s=None if limits.rate == "auto" else float(limits.rate),
            in_flight=limits.in_flight,
            timeout_s=self.settings.provider_timeout_s,
        )

    def carrier(
        self,
        credential: "CarrierCredential",
        rate_limiter: "RateLimiter | None",
        http: "RecordedTwilioHttp | None" = None,
    ) -> "Carrier":
        """Build a client of a Twilio account."""
        from app.providers.twilio import TwilioCarrier

        return TwilioCarrier(
            credential.account_sid,
            credential.username,
            credential.secret,
            timeout_s=self.settings.provider_timeout_s,
            base_url=credential.base_url,
            secrets=self.settings.provider_secrets,
            rate_limiter=rate_limiter,
            telemetry=self.telemetry,
            http=http,
        )

    def platform(
        self,
        credential: "ProjectCredential",
        rate_limiter: "RateLimiter | None",
        connection: "RecordedLiveKitConnection | None" = None,
    ) -> "VoicePlatform":
        """Build a client of a LiveKit project."""
        from app.providers.livekit import LiveKitPlatform

        return LiveKitPlatform(
            credential.url,
            credential.api_key,
            credential.secret,
            timeout_s=self.settings.provider_timeout_s,
            secrets=self.settings.provider_secrets,
            rate_limiter=rate_limiter,
            telemetry=self.telemetry,
            connection=connection,
        )

    def recording(
        self, account: "CarrierCredential", project: "ProjectCredential", recorder: "RequestRecorder"
    ) -> "tuple[Carrier, VoicePlatform]":
        """Build clients that record their requests and send none."""
        from app.observability.tracing import NO_TELEMETRY
        from app.providers.request_recorder import RecordedLiveKitConnection, RecordedTwilioHttp

        silent = replace(self, telemetry=NO_TELEMETRY)
        connection = RecordedLiveKitConnection(recorder, project.url, project.api_key, project.secret)
        carrier = silent.carrier(account, None, RecordedTwilioHttp(recorder))
        return carrier, silent.platform(project, None, connection)


def _environment(
    settings: Settings, adapters: _Adapters, carrier: "Carrier | None", platform: "VoicePlatform | None"
) -> "tuple[AccountClient, ProjectClient]":
    """Build the clients of the environment's accounts, as far as they are not given."""
    from app.accounts.clients import AccountClient, CarrierCredential, Limits, ProjectClient, ProjectCredential

    account = CarrierCredential(
        settings.twilio_account_sid, settings.twilio_username, settings.twilio_password, settings.twilio_base_url
    )
    project = ProjectCredential(
        settings.livekit_url, settings.livekit_api_key, settings.livekit_api_secret.get_secret_value()
    )
    # The names are those of earlier releases, so that old and new processes share the limits during an upgrade.
    of_account = Limits(account.account_sid, settings.twilio_rate, settings.twilio_in_flight)
    of_project = Limits(f"{project.url} {project.api_key}", settings.livekit_rate, settings.livekit_in_flight)
    limiters = [
        None if carrier and platform else adapters.rate_limiter(kind, limits)
        for kind, limits in ((AccountKind.CARRIER, of_account), (AccountKind.VOICE, of_project))
    ]
    return (
        AccountClient(
            carrier or adapters.carrier(account, limiters[0]), account, settings.twilio_trunk_limit, limiters[0]
        ),
        ProjectClient(platform or adapters.platform(project, limiters[1]), project, profile_of(settings), limiters[1]),
    )
