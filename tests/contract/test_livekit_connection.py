"""LiveKitPlatform against the sandbox: credentials, faults, connections and threads."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.domain.errors import ErrorCode
from app.providers.errors import ProviderError, RejectedError, TransientError, UnknownOutcomeError
from app.providers.livekit import LiveKitPlatform
from app.sandbox import LIVEKIT_API_KEY, LIVEKIT_API_SECRET
from tests.support.adapters import (
    E164,
    LABEL,
    operations,
    platform_at,
)
from tests.support.sandbox import Sandbox


def test_ping_takes_one_request(platform: LiveKitPlatform, sandbox: Sandbox) -> None:
    platform.ping()
    assert len(operations(sandbox)) == 1


@pytest.mark.parametrize("wrong", [{"secret": "x" * 40}, {"key": "somebody"}])
def test_a_wrong_key_or_secret_is_told_apart_on_every_kind_of_call(wrong: dict[str, str], sandbox: Sandbox) -> None:
    platform = platform_at(sandbox, **wrong)
    for call in (
        platform.ping,
        platform.list_dispatch_rules,
        lambda: platform.create_inbound_trunk(E164, LABEL),
        lambda: platform.delete_dispatch_rule("SDR_" + "x" * 12),
    ):
        with pytest.raises(RejectedError) as caught:
            call()
        assert caught.value.code is ErrorCode.LIVEKIT_BAD_CREDENTIALS
    platform.close()


def test_a_server_without_redis_is_a_misconfiguration(platform: LiveKitPlatform, sandbox: Sandbox) -> None:
    sandbox.switch(livekitRedis=False)
    for call in (platform.ping, lambda: platform.create_inbound_trunk(E164, LABEL)):
        with pytest.raises(RejectedError) as caught:
            call()
        assert caught.value.code is ErrorCode.LIVEKIT_MISCONFIGURED


def test_an_address_with_a_foreign_path_is_a_misconfiguration_even_for_a_delete(sandbox: Sandbox) -> None:
    platform = LiveKitPlatform(sandbox.base_url + "/elsewhere", LIVEKIT_API_KEY, LIVEKIT_API_SECRET, timeout_s=5)
    for call in (platform.ping, lambda: platform.delete_dispatch_rule("SDR_" + "x" * 12)):
        with pytest.raises(RejectedError) as caught:
            call()
        assert caught.value.code is ErrorCode.LIVEKIT_MISCONFIGURED
    platform.close()


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
        platform.create_inbound_trunk(E164, LABEL)
    assert type(caught.value) is on_write
    sandbox.clear_faults()
    assert len(platform.list_inbound_trunks()) == applied
    platform.close()


def test_the_wish_of_a_rate_limit_is_carried(platform: LiveKitPlatform, sandbox: Sandbox) -> None:
    sandbox.fault("livekit.create_inbound_trunk", "429", retryAfterS=17)
    with pytest.raises(TransientError) as caught:
        platform.create_inbound_trunk(E164, LABEL)
    assert caught.value.retry_after_s == 17


def test_twenty_calls_in_a_row_share_one_connection(platform: LiveKitPlatform, sandbox: Sandbox) -> None:
    before = sandbox.connections_opened().get("livekit", 0)
    for _ in range(5):
        trunk = platform.create_inbound_trunk(E164, LABEL)
        platform.list_inbound_trunks(E164)
        platform.delete_trunk(trunk.id)
        platform.delete_dispatch_rule("SDR_" + "x" * 12)
    assert len(operations(sandbox)) == 20
    assert sandbox.connections_opened()["livekit"] - before <= 1


def test_many_threads_get_their_own_answers(platform: LiveKitPlatform) -> None:
    numbers = [f"+1514555{index:04}" for index in range(100)]
    with ThreadPoolExecutor(32) as pool:
        made = list(pool.map(lambda e164: platform.create_inbound_trunk(e164, LABEL), numbers))
        found = list(pool.map(platform.list_inbound_trunks, numbers))
    assert [trunk.numbers for trunk in made] == [(e164,) for e164 in numbers]
    assert found == [[trunk] for trunk in made]


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
    assert loop.sip()._client._failover is False
