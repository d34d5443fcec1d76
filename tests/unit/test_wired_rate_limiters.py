"""Which accounts have a rate limiter, from the settings."""

from collections.abc import Mapping

import pytest

from app.providers.rate_limiter import RateLimiter
from app.settings import Settings
from app.wiring import build
from tests.support.broker import NOWHERE
from tests.support.saga import RecordingPublisher


def settings(**changes: str) -> Settings:
    return Settings(**{name.lower(): value for name, value in {**NOWHERE, **changes}.items()})


def _rate_limiters(given: Settings) -> Mapping[str, RateLimiter]:
    wiring = build(given, publisher=RecordingPublisher())
    wiring.close()
    return wiring.rate_limiters


@pytest.mark.parametrize(
    ("changes", "limited"),
    [
        ({}, {"twilio", "livekit"}),
        ({"TWILIO_RATE": "off"}, {"livekit"}),
        ({"TWILIO_RATE": "off", "LIVEKIT_RATE": "off"}, set()),
    ],
)
def test_each_provider_is_limited_unless_switched_off(changes: dict[str, str], limited: set[str]) -> None:
    assert set(_rate_limiters(settings(**changes))) == limited


def test_the_keys_in_redis_name_no_account_and_no_key() -> None:
    keys = [key for rate_limiter in _rate_limiters(settings()).values() for key in rate_limiter._limits._keys]
    assert len(set(keys)) == 6
    assert not any(NOWHERE[name] in key for key in keys for name in ("TWILIO_ACCOUNT_SID", "LIVEKIT_API_KEY"))


def test_configured_limits_reach_the_account() -> None:
    limits = _rate_limiters(settings(TWILIO_RATE="16.5", TWILIO_IN_FLIGHT="5"))["twilio"]._limits
    assert (limits._per_s, limits.in_flight) == (16.5, 5)
