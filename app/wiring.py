"""Builds engine, sessions, provider clients and services; the only place that does, for web, workers, CLI and tests."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pkgutil import resolve_name

from redis import Redis
from sqlalchemy import Engine

from app.access import ConsoleSessions
from app.audit.retiring import RetiringService
from app.audit.service import AuditService
from app.bulk.consolidation import ConsolidationService
from app.bulk.dispatcher import BulkDispatcher
from app.bulk.service import BulkService
from app.db.access import purge_activity
from app.db.engine import Sessions, make_engine, make_sessions
from app.idempotency import IdempotencyStore
from app.numbers.agents import AgentService
from app.numbers.dry_run import PlanningService
from app.numbers.inventory import HeadroomService, InventoryService
from app.numbers.maintenance import MaintenanceService
from app.numbers.service import ProvisioningService, Publisher
from app.observability.counters import make_counters
from app.observability.tracing import NO_TELEMETRY, Telemetry, make_tracing
from app.path.spec import Profile
from app.providers.base import Carrier, VoicePlatform
from app.providers.livekit import LiveKitPlatform
from app.providers.rate_limiter import RateLimiter, make_rate_limiter
from app.providers.request_recorder import RecordedLiveKitConnection, RecordedTwilioHttp, RequestRecorder
from app.providers.twilio import TwilioCarrier
from app.saga.batch import BatchRunner
from app.saga.context import Toolbox
from app.saga.instrumentation import StepInstrumentation
from app.saga.machine import Timing
from app.saga.rows import Rows
from app.saga.runner import Runner
from app.sealing import Sealer
from app.settings import Settings
from app.sweeper import Sweeper
from app.trunks.pool import TrunkPool
from app.webhooks.deliveries import DeliveryService
from app.webhooks.endpoints import WebhookService
from app.webhooks.sending import AddressRule, Sender

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


@dataclass(frozen=True)
class Wiring:
    """Everything of one process, built once."""

    settings: Settings
    engine: Engine
    sessions: Sessions
    carrier: Carrier
    platform: VoicePlatform
    publisher: Publisher
    agents: AgentService
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
    """By provider; none for one whose rate is "off" or that a test replaced."""
    retiring: RetiringService
    webhooks: WebhookService
    deliveries: DeliveryService
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
        self.telemetry.close()
        self.platform.close()
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
    telemetry, rate_limiters, tools = _providers(settings, sessions, carrier, platform)
    publisher = publisher or resolve_name(PUBLISHER)
    rows = Rows(sessions, tools.timing.lands)
    service = ProvisioningService(sessions, publisher, rows)
    maintenance = MaintenanceService(sessions, publisher, rows, tools)
    bulks = BulkService(sessions, rows)
    audits = AuditService(sessions, tools, maintenance, timedelta(seconds=settings.orphan_grace_s), bulks)
    sender = Sender(AddressRule(settings.webhook_networks))
    sealer = Sealer(settings.sealing_keys)
    deliveries = DeliveryService(sessions, publisher, sender, sealer)
    agents, webhooks = AgentService(sessions), WebhookService(sessions, publisher, sender, sealer)
    retiring = RetiringService(sessions, tools)
    purges = (
        IdempotencyStore(sessions).purge,
        ConsoleSessions(sessions).purge,
        webhooks.purge_secrets,
        agents.erase_deleted,
        retiring.purge,
        partial(purge_activity, sessions),
    )
    dispatcher = BulkDispatcher(sessions, service, maintenance)
    return Wiring(
        settings=settings,
        engine=engine,
        sessions=sessions,
        carrier=tools.carrier,
        platform=tools.platform,
        publisher=publisher,
        agents=agents,
        provisioning=service,
        runner=BatchRunner(rows, tools, instrumentation=StepInstrumentation(telemetry)),
        sweeper=Sweeper(sessions, service, audits, dispatcher, deliveries, retiring, purges),
        maintenance=maintenance,
        audits=audits,
        planning=PlanningService(
            sessions,
            tools,
            settings.twilio_trunk_limit,
            settings.twilio_account_sid,
            partial(_recording_adapters, settings),
            settings.trunk_max_numbers,
        ),
        headroom=HeadroomService(
            sessions, tools.carrier, tools.profile, settings.twilio_trunk_limit, settings.trunk_max_numbers
        ),
        inventory=InventoryService(sessions, tools.carrier),
        bulk=bulks,
        consolidation=ConsolidationService(
            sessions, bulks, tools.profile, settings.trunk_max_numbers, settings.twilio_trunk_limit
        ),
        rate_limiters=rate_limiters,
        retiring=retiring,
        webhooks=webhooks,
        deliveries=deliveries,
        telemetry=telemetry,
    )


def _providers(
    settings: Settings, sessions: Sessions, carrier: Carrier | None, platform: VoicePlatform | None
) -> tuple[Telemetry, dict[str, RateLimiter], Toolbox]:
    """Build what reaches the providers, as far as it is not given, with telemetry and rate limiters."""
    tracing = make_tracing(settings.otel_exporter_otlp_endpoint, settings.instance_name)
    telemetry = Telemetry(make_counters(settings.redis_url), tracing)
    rate_limiters = {} if carrier and platform else _rate_limiters(settings)
    carrier = carrier or _carrier(settings, rate_limiters.get("twilio"), telemetry)
    platform = platform or _platform(settings, rate_limiters.get("livekit"), telemetry)
    timing = Timing(settings.provider_timeout, timedelta(seconds=settings.operation_budget_s))
    profile = profile_of(settings)
    pool = TrunkPool(sessions, profile, settings.trunk_max_numbers, lease=timing.lease, lands=timing.lands)
    tools = Toolbox(carrier, platform, settings.instance_name, profile, timing, pool)
    return telemetry, rate_limiters, tools


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


def _recording_adapters(settings: Settings, recorder: RequestRecorder) -> tuple[Carrier, VoicePlatform]:
    """Build the adapters for a dry run: they record their requests and send none."""
    secret = settings.livekit_api_secret.get_secret_value()
    connection = RecordedLiveKitConnection(recorder, settings.livekit_url, settings.livekit_api_key, secret)
    carrier = _carrier(settings, None, NO_TELEMETRY, RecordedTwilioHttp(recorder))
    return carrier, _platform(settings, None, NO_TELEMETRY, connection)


def _carrier(
    settings: Settings, rate_limiter: RateLimiter | None, telemetry: Telemetry, http: RecordedTwilioHttp | None = None
) -> Carrier:
    return TwilioCarrier(
        settings.twilio_account_sid,
        settings.twilio_username,
        settings.twilio_password,
        timeout_s=settings.provider_timeout_s,
        base_url=settings.twilio_base_url,
        secrets=settings.provider_secrets,
        rate_limiter=rate_limiter,
        telemetry=telemetry,
        http=http,
    )


def _platform(
    settings: Settings,
    rate_limiter: RateLimiter | None,
    telemetry: Telemetry,
    connection: RecordedLiveKitConnection | None = None,
) -> VoicePlatform:
    return LiveKitPlatform(
        settings.livekit_url,
        settings.livekit_api_key,
        settings.livekit_api_secret.get_secret_value(),
        timeout_s=settings.provider_timeout_s,
        secrets=settings.provider_secrets,
        rate_limiter=rate_limiter,
        telemetry=telemetry,
        connection=connection,
    )


def _rate_limiters(settings: Settings) -> dict[str, RateLimiter]:
    """Build a rate limiter per provider account; the account is who pays: the Twilio account, the LiveKit project."""
    accounts = {
        "twilio": (settings.twilio_account_sid, settings.twilio_rate, settings.twilio_in_flight),
        "livekit": (
            f"{settings.livekit_url} {settings.livekit_api_key}",
            settings.livekit_rate,
            settings.livekit_in_flight,
        ),
    }
    return {
        provider: make_rate_limiter(
            settings.redis_url,
            provider,
            account,
            per_s=None if rate == "auto" else float(rate),
            in_flight=in_flight,
            timeout_s=settings.provider_timeout_s,
        )
        for provider, (account, rate, in_flight) in accounts.items()
        if rate != "off"
    }
