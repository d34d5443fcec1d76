"""The adapters behind a rate limiter: what it holds back is not sent, and a 429 reaches it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from app.dev.sandbox import ACCOUNT_SID, AUTH_TOKEN, LIVEKIT_API_KEY, LIVEKIT_API_SECRET
from app.domain.errors import ErrorCode
from app.providers.errors import CallFailedError, Outcome, TransientError
from app.providers.livekit import LiveKitPlatform
from app.providers.rate_limiter import RateLimiter, make_rate_limiter
from app.providers.twilio import TwilioCarrier
from tests.support.adapters import TRUNK_SPEC, inbound_spec, operations
from tests.support.sandbox import Sandbox

Ask = Callable[[Sandbox, RateLimiter], None]


@dataclass
class Gate:
    """Lets everything in, or nothing; counts."""

    is_shut: bool = False
    let_in: list[str] = field(default_factory=list)

    @contextmanager
    def limited_call(self) -> Iterator[None]:
        if self.is_shut:
            raise CallFailedError(Outcome.HELD_BACK, retry_after_s=3)
        self.let_in.append("call")
        yield


def _twilio(sandbox: Sandbox, rate_limiter: RateLimiter) -> None:
    carrier = TwilioCarrier(
        ACCOUNT_SID, ACCOUNT_SID, AUTH_TOKEN, timeout_s=5, base_url=sandbox.base_url, rate_limiter=rate_limiter
    )
    try:
        carrier.create_trunk(TRUNK_SPEC)
    finally:
        carrier.close()


def _livekit(sandbox: Sandbox, rate_limiter: RateLimiter) -> None:
    platform = LiveKitPlatform(
        sandbox.base_url, LIVEKIT_API_KEY, LIVEKIT_API_SECRET, timeout_s=5, rate_limiter=rate_limiter
    )
    try:
        platform.create_inbound_trunk(inbound_spec())
    finally:
        platform.close()


BOTH = pytest.mark.parametrize("ask", [_twilio, _livekit])


@BOTH
def test_what_is_held_back_is_not_sent_and_may_be_tried_later(sandbox: Sandbox, ask: Ask) -> None:
    with pytest.raises(TransientError, match="nothing was sent") as failed:
        ask(sandbox, Gate(is_shut=True))  # type: ignore[arg-type]
    assert (failed.value.code, failed.value.retry_after_s) == (ErrorCode.PROVIDER_BUSY, 3)
    assert operations(sandbox) == []


@BOTH
def test_every_request_asks_for_a_permit_of_its_own(sandbox: Sandbox, ask: Ask) -> None:
    gate = Gate()
    ask(sandbox, gate)  # type: ignore[arg-type]
    assert len(gate.let_in) == len(operations(sandbox)) == 1


@BOTH
def test_a_429_limits_the_account_from_then_on(sandbox: Sandbox, redis_url: str, ask: Ask) -> None:
    rate_limiter = make_rate_limiter(redis_url, "provider", "account", per_s=None, in_flight=None, timeout_s=5)
    sandbox.fault("*", "429", retryAfterS=60)
    with pytest.raises(TransientError):
        ask(sandbox, rate_limiter)
    with pytest.raises(TransientError, match="waits for its turn"):
        ask(sandbox, rate_limiter)
    assert len(operations(sandbox)) == 1
    load = rate_limiter.load()
    assert load is not None
    assert load.allowed_per_s is not None
