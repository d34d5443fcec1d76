"""An adapter each for a test, on an empty sandbox."""

from collections.abc import Iterator

import pytest

from app.providers.livekit import LiveKitPlatform
from app.providers.twilio import TwilioCarrier
from tests.support.adapters import carrier_at, platform_at
from tests.support.sandbox import Sandbox


@pytest.fixture
def carrier(sandbox: Sandbox) -> Iterator[TwilioCarrier]:
    carrier = carrier_at(sandbox)
    yield carrier
    carrier.close()


@pytest.fixture
def platform(sandbox: Sandbox) -> Iterator[LiveKitPlatform]:
    platform = platform_at(sandbox)
    yield platform
    platform.close()
