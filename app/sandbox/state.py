"""The sandbox as a whole: credentials, objects, and everything that changes its behaviour."""

import time
from dataclasses import dataclass, field
from typing import Any

from app.sandbox import (
    ACCOUNT_SID,
    API_KEY_SECRET,
    API_KEY_SID,
    AUTH_TOKEN,
    LIVEKIT_API_KEY,
    LIVEKIT_API_SECRET,
    SIP_HOST,
)
from app.sandbox.exchange import LIVEKIT, TWILIO
from app.sandbox.faults import Faults
from app.sandbox.request_log import RequestLog
from app.sandbox.store import Store
from app.sandbox.switches import Latency, Seats, Switches, TokenBucket


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who may use the two providers' sides, and the SIP host that reaches the LiveKit side."""

    account_sid: str = ACCOUNT_SID
    auth_token: str = AUTH_TOKEN
    api_key_sid: str = API_KEY_SID
    api_key_secret: str = API_KEY_SECRET
    livekit_api_key: str = LIVEKIT_API_KEY
    livekit_api_secret: str = LIVEKIT_API_SECRET
    sip_host: str = SIP_HOST


class StaleTrunks:
    """Former trunk_sids of numbers, for reads that lag behind writes."""

    def __init__(self) -> None:
        self._former: dict[str, list[tuple[float, str | None]]] = {}

    def note(self, number_sid: str, trunk_sid: str | None) -> None:
        """Remember what a number's trunk_sid was until now."""
        self._former.setdefault(number_sid, []).append((time.monotonic(), trunk_sid))

    def as_of(self, number: dict[str, Any], lag_s: float) -> dict[str, Any]:
        """Return the number as a read sees it that lags so many seconds behind."""
        former = self._former.get(number["sid"])
        if not former:
            return number
        horizon = time.monotonic() - lag_s
        while former and former[0][0] <= horizon:
            former.pop(0)
        return {**number, "trunk_sid": former[0][1]} if former else number


@dataclass
class Sandbox:
    """Everything that a handler may need. `generation` counts resets: a request of an older one applies nothing."""

    credentials: Credentials
    store: Store
    requests: RequestLog
    faults: Faults = field(default_factory=Faults)
    switches: Switches = field(default_factory=Switches)
    latency: Latency = field(default_factory=Latency)
    stale: StaleTrunks = field(default_factory=StaleTrunks)
    buckets: dict[str, TokenBucket] = field(default_factory=dict)
    seats: dict[str, Seats] = field(default_factory=dict)
    generation: int = 0

    def __post_init__(self) -> None:
        """Make the rate limits that the switches name."""
        self.switch(self.switches)

    def switch(self, switches: Switches) -> None:
        """Put other switches in force."""
        self.switches = switches
        self.buckets = {
            TWILIO: TokenBucket(switches.twilio_requests_per_s),
            LIVEKIT: TokenBucket(switches.livekit_requests_per_s),
        }
        self.seats = {TWILIO: Seats(switches.twilio_concurrency), LIVEKIT: Seats(switches.livekit_concurrency)}

    def reset(self) -> None:
        """Go back to an empty sandbox; requests that are still held are dropped, not applied."""
        with self.store.lock:
            self.generation += 1
            self.store.wipe()
            self.stale = StaleTrunks()
        self.faults.clear()
        self.latency = Latency()
        self.switch(Switches())
        self.requests.clear()
