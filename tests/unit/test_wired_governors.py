"""Which accounts are governed, from the settings."""

import pytest

from app.settings import Settings
from app.wiring import _governors
from tests.support.queue import NOWHERE


def settings(**changes: str) -> Settings:
    return Settings(**{name.lower(): value for name, value in {**NOWHERE, **changes}.items()})


@pytest.mark.parametrize(
    ("changes", "governed"),
    [
        ({}, {"twilio", "livekit"}),
        ({"TWILIO_RATE": "off"}, {"livekit"}),
        ({"TWILIO_RATE": "off", "LIVEKIT_RATE": "off"}, set()),
    ],
)
def test_each_provider_is_governed_unless_switched_off(changes: dict[str, str], governed: set[str]) -> None:
    assert set(_governors(settings(**changes))) == governed


def test_the_keys_in_redis_name_no_account_and_no_key() -> None:
    keys = [key for governor in _governors(settings()).values() for key in governor._pace._keys]
    assert len(set(keys)) == 6
    assert not any(NOWHERE[name] in key for key in keys for name in ("TWILIO_ACCOUNT_SID", "LIVEKIT_API_KEY"))


def test_set_limits_reach_the_pace() -> None:
    pace = _governors(settings(TWILIO_RATE="16.5", TWILIO_IN_FLIGHT="5"))["twilio"]._pace
    assert (pace._per_s, pace.in_flight) == (16.5, 5)
