"""Builds engine, sessions, provider clients and services; the only place that does, for web, workers, CLI and tests."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pkgutil import resolve_name

from redis import Redis
from sqlalchemy import Engine

from app.access import ConsoleSessions
from app.accounts.clients import AccountClient, CarrierCredential, Limits, ProjectClient, ProjectCredential, Toolboxes
from app.accounts.service import AccountService
from app.accounts.stored_secrets import StoredSecretService
from app.audit.retiring import RetiringService
from app.audit.service import AuditService
from app.bulk.consolidation import ConsolidationService
from app.bulk.dispatcher import BulkDispatcher
from app.bulk.service import BulkService
from app.db.access import purge_activity
from app.db.engine import Sessions, make_engine, make_sessions
from app.domain.workspaces import ENVIRONMENT, AccountKind
from app.idempotency import IdempotencyStore
from app.numbers.agents import AgentService
from app.numbers.changing import ChangeService
from app.numbers.dry_run import PlanningService
from app.numbers.inventory import HeadroomService, InventoryService
from app.numbers.maintenance import MaintenanceService
from app.numbers.service import ProvisioningService, Publisher
from app.numbers.test_calls import CallService
from app.observability.counters import make_counters
from app.observability.tracing import NO_TELEMETRY, Telemetry, make_tracing
from app.path.spec import Profile
from app.providers.base import Carrier, VoicePlatform
from app.providers.livekit import LiveKitPlatform
from app.providers.rate_limiter import RateLimiter, make_rate_limiter
from app.providers.request_recorder import RecordedLiveKitConnection, RecordedTwilioHttp, RequestRecorder
from app.providers.twilio import TwilioCarrier
from app.saga.batch import BatchRunner
from app.saga.instrumentation import StepInstrumentation
from app.saga.machine import Timing
from app.saga.rows import Rows
from app.saga.runner import Runner
from app.sealing import Sealer
from app.settings import Settings
from app.sweeper import Sweeper
from app.webhooks.deliveries import DeliveryService
from app.webhooks.endpoints import WebhookService
from app.webhooks.sending import AddressRule, Sender
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


@dataclass(frozen=True)
class Wiring:
    """Everything of one process, built once."""

    settings: Settings
    engine: Engine
    sessions: Sessions
    carrier: Carrier
    """The environment's; so the next."""
    platform: VoicePlatform
    toolboxes: Toolboxes
    """The clients of all accounts."""
    publisher: Publisher
    agents: AgentService
    changes: ChangeService
    provisioning: ProvisioningService
    runner: Runner
    sweeper: Sweeper
    maintenance: MaintenanceService
    audits: AuditService
    planning: PlanningService
    headroom: HeadroomService
    inventory: InventoryService
    bulk: BulkService
    consolidation: ConsolidationService
    rate_limiters: Mapping[str, RateLimiter]
    """Of the environment's accounts, by provider; none for one whose rate is "off" or that a test replaced."""
    retiring: RetiringService
    accounts: AccountService
    stored_secrets: StoredSecretService
    webhooks: WebhookService
    deliveries: DeliveryService
    calls: CallService
    workspaces: WorkspaceService
    telemetry: Telemetry

    def check_broker(self) -> None:
        """Raise `RedisError` or OSError unless the broker takes a write, within about a second.

        A PING is not enough: a broker that is full, or a replica after a failover, answers every PING.
        """
        limit = BROKER_CHECK_TIMEOUT_S
        with Redis.from_url(self.settings.redis_url, socket_timeout=limit, socket_connect_timeout=limit) as client:
            client.set(BROKER_CHECK_KEY, "", ex=60)

    def close(self) -> None:
        """Close every connection."""
        self.deliveries.close()
        self.calls.close()
        self.telemetry.close()
        self.toolboxes.close()
        self.engine.dispose()


def build_web(settings: Settings) -> Wiring:
    """Build the wiring of a web process."""
    return build(settings, publisher=resolve_name(WEB_PUBLISHER))


def build(
    settings: Settings,
    *,
    publisher: Publisher | None = None,
    carrier: Carrier | None = None,
    platform: VoicePlatform | None = None,
) -> Wiring:
    """Build the wiring of one process; a test passes its own publisher or providers."""
    engine = make_engine(settings.database_url, pooler=settings.database_pooler)
    sessions = make_sessions(engine)
    tracing = make_tracing(settings.otel_exporter_otlp_endpoint, settings.instance_name)
    telemetry = Telemetry(make_counters(settings.redis_url), tracing)
    sealer, adapters = Sealer(settings.sealing_keys), _Adapters(settings, telemetry)
    environment = _environment(settings, adapters, carrier, platform)
    toolboxes = Toolboxes(
        sessions,
        environment,
        adapters,
        sealer,
        instance=settings.instance_name,
        timing=Timing(settings.provider_timeout, timedelta(seconds=settings.operation_budget_s)),
        trunk_max_numbers=settings.trunk_max_numbers,
    )
    tools = toolboxes.of(ENVIRONMENT)
    publisher = publisher or resolve_name(PUBLISHER)
    rows = Rows(sessions, toolboxes.timing.lands)
    service = ProvisioningService(sessions, publisher, rows)
    maintenance = MaintenanceService(sessions, publisher, rows, toolboxes)
    bulks = BulkService(sessions, rows)
    audits = AuditService(sessions, toolboxes, maintenance, timedelta(seconds=settings.orphan_grace_s), bulks)
    sender = Sender(AddressRule(settings.webhook_networks))
    deliveries = DeliveryService(sessions, publisher, sender, sealer)
    calls = CallService(sessions, publisher, toolboxes, settings.test_call_caller, sender.rule, telemetry.counters)
    agents, webhooks = AgentService(sessions), WebhookService(sessions, publisher, sender, sealer)
    retiring = RetiringService(sessions, toolboxes)
    headroom = HeadroomService(sessions, toolboxes, settings.trunk_max_numbers)
    accounts = AccountService(sessions, sealer, toolboxes, headroom.of, sender.check_server)
    purges = (
        IdempotencyStore(sessions).purge,
        ConsoleSessions(sessions).purge,
        webhooks.purge_secrets,
        accounts.purge_old,
        agents.erase_deleted,
        retiring.purge,
        partial(purge_activity, sessions),
        calls.purge,
    )
    dispatcher = BulkDispatcher(sessions, service, maintenance)
    return Wiring(
        settings=settings,
        engine=engine,
        sessions=sessions,
        carrier=tools.carrier,
        platform=tools.platform,
        toolboxes=toolboxes,
        publisher=publisher,
        agents=agents,
        changes=ChangeService(sessions, publisher, rows, toolboxes),
        provisioning=service,
        runner=BatchRunner(rows, toolboxes, instrumentation=StepInstrumentation(telemetry)),
        sweeper=Sweeper(sessions, service, audits, dispatcher, deliveries, calls, retiring, purges, accounts.recheck),
        maintenance=maintenance,
        audits=audits,
        planning=PlanningService(sessions, toolboxes, settings.trunk_max_numbers),
        headroom=headroom,
        inventory=InventoryService(sessions, toolboxes),
        bulk=bulks,
        consolidation=ConsolidationService(sessions, bulks, toolboxes, settings.trunk_max_numbers),
        rate_limiters={
            provider: limiter
            for provider, limiter in zip(PROVIDER_OF.values(), (one.rate_limiter for one in environment), strict=True)
            if limiter is not None
        },
        retiring=retiring,
        accounts=accounts,
        stored_secrets=StoredSecretService(sessions, sealer),
        webhooks=webhooks,
        deliveries=deliveries,
        calls=calls,
        workspaces=WorkspaceService(sessions),
        telemetry=telemetry,
    )


def profile_of(settings: Settings) -> Profile:
    """Build what all paths of the installation have in common."""
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
    telemetry: Telemetry

    def rate_limiter(self, kind: AccountKind, limits: Limits) -> RateLimiter | None:
        """Build the rate limiter of an account; the account is who pays: the Twilio account, the LiveKit project."""
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
        credential: CarrierCredential,
        rate_limiter: RateLimiter | None,
        http: RecordedTwilioHttp | None = None,
    ) -> Carrier:
        """Build a client of a Twilio account."""
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
        credential: ProjectCredential,
        rate_limiter: RateLimiter | None,
        connection: RecordedLiveKitConnection | None = None,
    ) -> VoicePlatform:
        """Build a client of a LiveKit project."""
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
        self, account: CarrierCredential, project: ProjectCredential, recorder: RequestRecorder
    ) -> tuple[Carrier, VoicePlatform]:
        """Build clients that record their requests and send none."""
        silent = replace(self, telemetry=NO_TELEMETRY)
        connection = RecordedLiveKitConnection(recorder, project.url, project.api_key, project.secret)
        carrier = silent.carrier(account, None, RecordedTwilioHttp(recorder))
        return carrier, silent.platform(project, None, connection)


def _environment(
    settings: Settings, adapters: _Adapters, carrier: Carrier | None, platform: VoicePlatform | None
) -> tuple[AccountClient, ProjectClient]:
    """Build the clients of the environment's accounts, as far as they are not given."""
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
