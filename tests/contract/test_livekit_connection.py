"""LiveKitPlatform against the sandbox: credentials, faults, connections and threads."""

import threading
from collections.abc import Callable

import jwt
import pytest

from app.dev.sandbox import LIVEKIT_API_KEY, LIVEKIT_API_SECRET
from app.domain.errors import ErrorCode
from app.providers.errors import ProviderError, RejectedError, TransientError, UnknownOutcomeError
from app.providers.livekit import LiveKitPlatform
from app.providers.livekit_connection import environment_proxy
from app.providers.twilio import TwilioCarrier
from tests.support.adapters import (
    E164,
    carrier_at,
    inbound_spec,
    operations,
    platform_at,
)
from tests.support.relay import proxy
from tests.support.sandbox import Sandbox


def test_a_server_without_redis_is_a_misconfiguration(platform: LiveKitPlatform, sandbox: Sandbox) -> None:
    sandbox.switch(livekitRedis=False)
    for call in (platform.ping, lambda: platform.create_inbound_trunk(inbound_spec())):
        with pytest.raises(RejectedError) as caught:
            call()
        assert caught.value.code is ErrorCode.LIVEKIT_MISCONFIGURED


@pytest.mark.parametrize(
    ("kind", "on_read", "on_write", "applied"),
    [
        ("429", TransientError, TransientError, False),
        ("500", TransientError, UnknownOutcomeError, False),
        ("503_html", TransientError, UnknownOutcomeError, False),
        ("drop_before", TransientError, UnknownOutcomeError, False),
        ("apply_then_drop", TransientError, UnknownOutcomeError, True),
        ("malformed", TransientError, UnknownOutcomeError, True),
        ("hang", TransientError, UnknownOutcomeError, False),
    ],
)
def test_each_fault_is_what_the_saga_takes_it_for(
    kind: str, on_read: type[ProviderError], on_write: type[ProviderError], applied: bool, sandbox: Sandbox
) -> None:
    platform = platform_at(sandbox, timeout_s=0.5)
    sandbox.fault("livekit.*", kind, times=None)
    with pytest.raises(on_read) as caught:
        platform.list_inbound_trunks()
    assert type(caught.value) is on_read
    with pytest.raises(on_write) as caught:
        platform.create_inbound_trunk(inbound_spec())
    assert type(caught.value) is on_write
    sandbox.clear_faults()
    assert len(platform.list_inbound_trunks()) == applied
    platform.close()


def test_the_wish_of_a_rate_limit_is_carried(platform: LiveKitPlatform, sandbox: Sandbox) -> None:
    sandbox.fault("livekit.create_inbound_trunk", "429", retryAfterS=17)
    with pytest.raises(TransientError) as caught:
        platform.create_inbound_trunk(inbound_spec())
    assert caught.value.retry_after_s == 17


def test_twenty_calls_in_a_row_share_one_connection(platform: LiveKitPlatform, sandbox: Sandbox) -> None:
    before = sandbox.connections_opened().get("livekit", 0)
    for _ in range(5):
        trunk = platform.create_inbound_trunk(inbound_spec())
        platform.list_inbound_trunks(E164)
        platform.delete_trunk(trunk.id)
        platform.delete_dispatch_rule("SDR_" + "x" * 12)
    assert len(operations(sandbox)) == 20
    assert sandbox.connections_opened()["livekit"] - before <= 1


def test_a_platform_that_was_never_used_closes_too(sandbox: Sandbox) -> None:
    platform_at(sandbox).close()
    platform = platform_at(sandbox)
    platform.ping()
    assert "livekit" in {thread.name for thread in threading.enumerate()}
    platform.close()
    platform.close()
    assert "livekit" not in {thread.name for thread in threading.enumerate()}


def test_the_sdk_repeats_nothing_by_itself(platform: LiveKitPlatform) -> None:
    # It would only do so on livekit.cloud, which a test cannot be: so look at what it was told.
    platform.ping()
    (loop,) = platform._livekit._loops.values()
    assert loop.services()._client._failover is False


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set the variables that name proxies, and no others of them."""

    def set_variables(**variables: str) -> None:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.lower(), raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_variables


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
def test_both_providers_are_asked_through_the_proxy_that_the_environment_names(
    environment: Callable[..., None], variable: str
) -> None:
    with proxy() as relay:
        environment(**{variable: f"http://user:p%40ss@127.0.0.1:{relay.port}"})
        platform = LiveKitPlatform("wss://livekit.invalid", LIVEKIT_API_KEY, LIVEKIT_API_SECRET, timeout_s=5)
        carrier = TwilioCarrier("AC" + "0" * 32, "AC" + "0" * 32, "token", timeout_s=5)
        for provider in (platform, carrier):
            # It leads nowhere: nothing was sent, so that even a write is simply tried again.
            with pytest.raises(TransientError, match="nothing was sent"):
                provider.ping()
            provider.close()

    heads = bytes(relay.received).split(b"\r\n\r\n")[:-1]
    asked = [head.split(b" HTTP/")[0] for head in heads]
    assert asked == [b"CONNECT livekit.invalid:443", b"CONNECT api.twilio.com:443"]
    # user:p@ss, and nothing of ours.
    assert all(b"proxy-authorization: basic dxnlcjpwqhnz" in head.lower() for head in heads)
    assert b"Bearer" not in relay.received


@pytest.mark.parametrize(
    ("url", "excepted", "is_proxied"),
    [
        ("wss://abc.livekit.cloud", "", True),
        ("wss://abc.livekit.cloud", "livekit.cloud", False),
        ("wss://abc.livekit.cloud", "*", False),
        ("https://10.0.0.7", "10.0.0.0/8", False),
        ("http://127.0.0.1:7880", "", False),
        ("ws://localhost:7880", "", False),
        ("http://[::1]:7880", "", False),
    ],
)
def test_no_proxy_and_this_machine_are_asked_directly(
    environment: Callable[..., None], url: str, excepted: str, is_proxied: bool
) -> None:
    environment(ALL_PROXY="127.0.0.1:1", NO_PROXY=excepted)

    assert environment_proxy(url) == ("http://127.0.0.1:1" if is_proxied else None)


def test_a_sandbox_is_asked_directly_whatever_the_environment_says(
    environment: Callable[..., None], sandbox: Sandbox
) -> None:
    environment(HTTP_PROXY="http://127.0.0.1:1", HTTPS_PROXY="http://127.0.0.1:1", ALL_PROXY="http://127.0.0.1:1")

    for provider in (platform_at(sandbox), carrier_at(sandbox)):
        provider.ping()
        provider.close()


def test_a_token_opens_the_project_for_minutes_only(platform: LiveKitPlatform) -> None:
    platform.ping()
    (loop,) = platform._livekit._loops.values()
    header = loop.services()._admin_headers()["Authorization"]

    claims = jwt.decode(header.removeprefix("Bearer "), options={"verify_signature": False})

    assert claims["exp"] - claims["nbf"] <= 300
    assert claims["sip"]["admin"] is True
