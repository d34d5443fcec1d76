"""The sandbox as a whole: credentials, objects, and everything that changes its behaviour."""

import math
import random
import threading
import time
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from app.dev.sandbox import (
    ACCOUNT_SID,
    API_KEY_SECRET,
    API_KEY_SID,
    AUTH_TOKEN,
    LIVEKIT_API_KEY,
    LIVEKIT_API_SECRET,
    SIP_HOST,
)
from app.dev.sandbox.exchange import LIVEKIT, TWILIO, RequestLog
from app.dev.sandbox.faults import Faults
from app.dev.sandbox.store import Store

MOVE = "move"
REJECT_409 = "reject409"

CLOUD = "cloud"
OPEN_SOURCE = "openSource"
OPEN_SOURCE_1_13_7 = "openSource1.13.7"

MS_PER_S = 1000.0


class SettingError(ValueError):
    """A control request names a setting that does not exist, or a value that does not fit it."""


@dataclass(frozen=True, slots=True)
class Switches:
    """Provider policies; where the providers' documents leave a question open, both answers are on offer."""

    attach_conflict: str = MOVE
    """`move`: attaching takes the number from its trunk; `reject409`: a number that is on a trunk stays there."""
    stale_read_s: float = 0.0
    """Seconds for which the 2010 API still shows the trunk_sid from before a write."""
    trunk_subresource: bool = True
    """False: /v1/Trunks/{TK}/PhoneNumbers answers 404, as in the regions IE1 and AU1."""
    livekit_redis: bool = True
    """False: every SIP call answers 500, as a LiveKit server without Redis does."""
    delete_unknown_trunk_status: int = 200
    """Answer to the deletion of an unknown LiveKit trunk: 200 (open source) or 404 (some Cloud versions)."""
    livekit_server: str = CLOUD
    """Who takes the calls. `cloud` answers 404 to a call that no trunk takes. `openSource` (1.13.8 and later) goes on
    without a trunk, so that a catch-all rule may take it, and answers 404 when no rule does; `openSource1.13.7` (and
    earlier) rings once then and falls silent, without any final answer."""
    trunk_limit: int = 100
    """Twilio trunks per account (twilio.com/docs/sip-trunking/scale-and-limits)."""
    twilio_requests_per_s: float | None = None
    """Beyond this rate Twilio answers 429; None: no limit."""
    livekit_requests_per_s: float | None = None
    """Beyond this rate LiveKit answers 429; None: no limit."""
    twilio_concurrency: int | None = None
    """With so many requests under way Twilio answers 429 to one more; None: no limit."""
    livekit_concurrency: int | None = None
    """The same at LiveKit."""


@dataclass(frozen=True, slots=True)
class Latency:
    """How long a provider takes, in milliseconds; half of it passes before a write is applied, half after."""

    twilio_ms: float = 0.0
    livekit_ms: float = 0.0
    jitter: float = 0.0
    """Share of the time, 0 to 1, by which one answer may be slower or faster."""

    def seconds(self, provider: str) -> float:
        """Draw the time that one request takes."""
        base = (self.twilio_ms if provider == TWILIO else self.livekit_ms) / MS_PER_S
        return base * (1 + random.uniform(-self.jitter, self.jitter)) if base else 0.0  # noqa: S311 - not a secret


_CHOICES: dict[str, tuple[Any, ...]] = {
    "attach_conflict": (MOVE, REJECT_409),
    "delete_unknown_trunk_status": (200, 404),
    "livekit_server": (CLOUD, OPEN_SOURCE, OPEN_SOURCE_1_13_7),
}


def changed(settings: Any, content: dict[str, Any]) -> Any:
    """Return the settings with the camelCase values of `content`; raise SettingError on any that does not fit."""
    known = {_camel(field.name): field for field in fields(settings)}
    values: dict[str, Any] = {}
    for name, value in content.items():
        if name not in known:
            raise SettingError(f"unknown setting {name}; known are {', '.join(known)}")
        field = known[name]
        if not _fits(field.name, field.default, value):
            raise SettingError(f"{value!r} does not fit {name}")
        values[field.name] = value
    return replace(settings, **values)


def shown(settings: Any) -> dict[str, Any]:
    """Return the settings with camelCase names."""
    return {_camel(name): value for name, value in asdict(settings).items()}


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _fits(name: str, default: Any, value: Any) -> bool:
    if name in _CHOICES:
        return value in _CHOICES[name]
    if isinstance(default, bool):
        return isinstance(value, bool)
    if default is None and value is None:
        return True
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


class Seats:
    """A limit of requests under way at once."""

    def __init__(self, seats: int | None) -> None:
        self._left = math.inf if seats is None else seats
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Take a seat, or say that there is none."""
        with self._lock:
            if self._left < 1:
                return False
            self._left -= 1
            return True

    def leave(self) -> None:
        """Give the seat back."""
        with self._lock:
            self._left += 1


class TokenBucket:
    """A rate limit with room for one second's worth at once."""

    def __init__(self, per_s: float | None) -> None:
        self._per_s = per_s
        self._tokens = per_s or 0.0
        self._filled_at = time.monotonic()
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Take one request's place, or say that there is none."""
        if self._per_s is None:
            return True
        with self._lock:
            now = time.monotonic()
            capacity = max(1.0, self._per_s)
            self._tokens = min(capacity, self._tokens + (now - self._filled_at) * self._per_s)
            self._filled_at = now
            if self._tokens < 1:
                return False
            self._tokens -= 1
            return True


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
