"""Redis behind TLS: every client checks the certificate unless REDIS_URL says otherwise, and only then logs in."""

import asyncio
import importlib.util
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kombu.exceptions
import pytest
import redis
from celery import Celery
from flower.utils.broker import Broker

from app.observability.counters import Counters, make_counters
from app.observability.metrics import BrokerCollector
from app.providers.rate_limiter import make_rate_limiter
from app.settings import Settings
from app.web.limits import make_rate_limit
from app.wiring import build
from tests.support.api import PingOnlyProvider, RecordingPublisher, make_settings
from tests.support.relay import Relay, make_certificate, tls_relay
from tests.support.servers import ROOT, ValkeyServer

REFUSED = (redis.RedisError, kombu.exceptions.OperationalError, OSError)


@dataclass(frozen=True)
class Place:
    """A Redis behind TLS, the certificate that vouches for it and one that does not."""

    relay: Relay
    login: str
    right: Path
    wrong: Path

    def url(self, query: str, host: str = "127.0.0.1") -> str:
        return f"rediss://{self.login}@{host}:{self.relay.port}/0?{query}"


@pytest.fixture(scope="module")
def place(valkey_server: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = make_certificate(folder, "ours")
    wrong, _ = make_certificate(folder, "theirs")
    parts = urlsplit(valkey_server.url)
    with tls_relay(certificate, key, (str(parts.hostname), int(parts.port or 0))) as relay:
        yield Place(relay, parts.netloc.rpartition("@")[0], certificate, wrong)


Client = Callable[[Settings, Celery], object]


def _check_broker(settings: Settings, _: Celery) -> object:
    """What /readyz and the doctor do."""
    publisher, nobody = RecordingPublisher(), PingOnlyProvider()
    wiring = build(settings, publisher=publisher, carrier=nobody, platform=nobody)  # type: ignore[arg-type]
    try:
        wiring.check_broker()
    finally:
        wiring.close()
    return True


def _read_counters(settings: Settings, _: Celery) -> object:
    counters = make_counters(settings.redis_url)
    counters.read()
    counters.close()
    return True


def _limit_rate(settings: Settings, _: Celery) -> object:
    rate_limiter = make_rate_limiter(settings.redis_url, "twilio", "account", per_s=None, in_flight=None, timeout_s=5)
    return rate_limiter.load() is not None


def _limit_rates(settings: Settings, _: Celery) -> object:
    limit = make_rate_limit(settings)
    assert limit is not None
    return limit._limiter.storage.check()


def _measure_queues(settings: Settings, _: Celery) -> object:
    first, *_rest = BrokerCollector(settings.redis_url, Counters(None), {}, ()).collect()
    return first.samples[0].value == 1


def _publish(settings: Settings, app: Celery) -> object:
    from tasks.celery_patches import _client  # noqa: PLC0415  # reads the settings

    _client.cache_clear()
    with _client(app, app.conf.broker_url) as client:
        return client.ping()


def _work(_: Settings, app: Celery) -> object:
    with app.connection_for_read() as connection:
        return connection.default_channel.client.ping()


def _show(_: Settings, app: Celery) -> object:
    with app.connection() as connection:
        uri = connection.as_uri(include_password=True)
    broker = Broker(uri, broker_options=app.conf.broker_transport_options, broker_use_ssl=app.conf.broker_use_ssl)

    async def ping() -> object:
        async with broker.redis as client:
            return await client.ping()

    # In a thread: a browser's test that ran before leaves its loop in this one.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(ping())).result()


CLIENTS = {
    "readiness": _check_broker,
    "counters": _read_counters,
    "rate limiter": _limit_rate,
    "rate limit": _limit_rates,
    "metrics": _measure_queues,
    "publisher": _publish,
    "worker": _work,
    "flower": _show,
}


@pytest.fixture
def reaches(
    celery_app: Celery, broker_at: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Client, str], bool]:
    """Say whether a client reaches the Redis of a REDIS_URL, Celery being told what `celeryconfig.py` makes of it."""

    def reaches(client: Client, url: str) -> bool:
        settings = make_settings("postgresql://nobody@127.0.0.1:1/none", url)
        given = celery_settings(settings, monkeypatch)
        broker_at(given["broker_url"])
        monkeypatch.setitem(celery_app.conf, "broker_use_ssl", given["broker_use_ssl"])
        try:
            return bool(client(settings, celery_app))
        except REFUSED:
            return False

    return reaches


def celery_settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what `celeryconfig.py` makes of the settings."""
    for name, value in settings.model_dump(exclude_none=True, exclude_defaults=True).items():
        monkeypatch.setenv(name.upper(), value.get_secret_value() if hasattr(value, "get_secret_value") else str(value))
    spec = importlib.util.spec_from_file_location("fresh_celeryconfig", ROOT / "celeryconfig.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return vars(module)


@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
def test_every_client_checks_the_certificate_and_sends_no_password_before(
    place: Place, reaches: Callable[[Client, str], bool], client: Client
) -> None:
    place.relay.received.clear()
    for query in ("", "ssl_cert_reqs=CERT_REQUIRED", f"ssl_ca_certs={place.wrong}"):
        assert not reaches(client, place.url(query))
    # The certificate is for 127.0.0.1 only.
    assert not reaches(client, place.url(f"ssl_ca_certs={place.right}", "localhost"))
    assert place.relay.received == b""


@pytest.mark.parametrize("client", CLIENTS.values(), ids=CLIENTS)
def test_every_client_is_told_otherwise_by_the_same_url(
    place: Place, reaches: Callable[[Client, str], bool], client: Client
) -> None:
    for query in (f"ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs={place.right}", "ssl_cert_reqs=none"):
        assert reaches(client, place.url(query)), query
    assert reaches(client, place.url(f"ssl_check_hostname=false&ssl_ca_certs={place.right}", "localhost"))
    assert b"AUTH" in place.relay.received
