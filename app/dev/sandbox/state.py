"""The sandbox's state: credentials, objects, and everything that changes its behaviour."""

import copy
import math
import random
import threading
import time
from dataclasses import asdict, dataclass, field, fields, replace
from ipaddress import IPv4Address
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
from app.dev.sandbox.rooms import Rooms
from app.dev.sandbox.store import Record, Store

MOVE = "move"
REJECT_409 = "reject409"

CLOUD = "cloud"
OPEN_SOURCE = "openSource"
OPEN_SOURCE_1_13_7 = "openSource1.13.7"
LIVEKIT_SERVERS = (CLOUD, OPEN_SOURCE, OPEN_SOURCE_1_13_7)

ANSWER = "answer"
SILENT = "silent"

MS_PER_S = 1000.0


class SettingError(ValueError):
    """A control request names a setting that does not exist, or a value that does not fit it."""


@dataclass(frozen=True, slots=True)
class Switches:
    """Provider policies; where the providers' documents leave a question open, both behaviours can be chosen."""

    attach_conflict: str = MOVE
    """`move`: attaching moves the number from its trunk; `reject409`: a number that is on a trunk is refused."""
    stale_read_s: float = 0.0
    """Seconds for which the 2010 API still shows the trunk_sid from before a write."""
    trunk_subresource: bool = True
    """False: /v1/Trunks/{TK}/PhoneNumbers answers 404, as in the regions IE1 and AU1."""
    livekit_redis: bool = True
    """False: every SIP call answers 500, as a LiveKit server without Redis does."""
    delete_unknown_trunk_status: int = 200
    """Status of the deletion of an unknown LiveKit trunk: 200 (open source) or 404 (some Cloud versions)."""
    livekit_server: str = CLOUD
    """The server that gets the calls. `cloud` answers 404 when no trunk matches. `openSource` (1.13.8 and later) then
    goes on without one, so that a catch-all rule may match, and answers 404 when no rule does; `openSource1.13.7` (and
    earlier) rings once then and falls silent, without any final answer."""
    other_sip_hosts: str = ANSWER
    """What becomes of a call whose origination URL leads to another host: `answer`, the worst case, takes it there for
    good; with `silent` nothing comes for 4 s and Twilio tries the next URL."""
    room_presets: tuple[str, ...] = ()
    """Names of LiveKit's room presets; a rule that names another one gets its calls refused. A server has only those
    of its own configuration, so there are none by default."""
    unnamed_agent: bool = False
    """True: a worker without a name answers in rooms for which no agent is named."""
    agents: tuple[str, ...] | None = None
    """Names under which workers are registered; None: every agent that a rule names has one."""
    list_magic_numbers: bool = False
    """True: lists of numbers show the magic numbers too (app/dev/sandbox/magic_numbers.py)."""
    drift_after_s: float = 20.0
    """Seconds after which somebody changes the path of the magic number that drifts: long enough to see it in order."""
    trunk_limit: int = 100
    """Twilio trunks per account (twilio.com/docs/sip-trunking/scale-and-limits)."""
    twilio_requests_per_s: float | None = None
    """Beyond this rate Twilio answers 429; None: no limit."""
    livekit_requests_per_s: float | None = None
    """Beyond this rate LiveKit answers 429; None: no limit."""
    twilio_concurrency: int | None = None
    """Beyond so many requests at once Twilio answers 429; None: no limit."""
    livekit_concurrency: int | None = None
    """The same at LiveKit."""


@dataclass(frozen=True, slots=True)
class Latency:
    """How long a provider takes for a response, in milliseconds; half of it before a write is applied, half after."""

    twilio_ms: float = 0.0
    livekit_ms: float = 0.0
    jitter: float = 0.0
    """Share of the time, 0 to 1, by which one response may be slower or faster."""

    def seconds(self, provider: str) -> float:
        """Draw the time that one request takes."""
        base = (self.twilio_ms if provider == TWILIO else self.livekit_ms) / MS_PER_S
        return base * (1 + random.uniform(-self.jitter, self.jitter)) if base else 0.0  # noqa: S311 - not a secret


_CHOICES: dict[str, tuple[Any, ...]] = {
    "attach_conflict": (MOVE, REJECT_409),
    "delete_unknown_trunk_status": (200, 404),
    "livekit_server": LIVEKIT_SERVERS,
    "other_sip_hosts": (ANSWER, SILENT),
}

_NAMES = frozenset({"room_presets", "agents"})
"""Settings that are lists of names."""

_ADDRESSES = frozenset({"source"})
"""Settings that are an IPv4 address."""


def updated_settings(settings: Any, content: dict[str, Any]) -> Any:
    """Return the settings with the camelCase values of `content`; raise SettingError on any that does not fit."""
    known = {_camel(field.name): field for field in fields(settings)}
    values: dict[str, Any] = {}
    for name, value in content.items():
        if name not in known:
            raise SettingError(f"unknown setting {name}; known are {', '.join(known)}")
        field = known[name]
        if not _fits(field.name, field.default, value):
            raise SettingError(f"{value!r} does not fit {name}")
        values[field.name] = tuple(value) if isinstance(value, list) else value
    return replace(settings, **values)


def settings_json(settings: Any) -> dict[str, Any]:
    """Return the settings with camelCase names."""
    return {_camel(name): value for name, value in asdict(settings).items()}


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _is_ipv4(text: str) -> bool:
    try:
        IPv4Address(text)
    except ValueError:
        return False
    return True


def _fits(name: str, default: Any, value: Any) -> bool:
    if name in _CHOICES:
        return value in _CHOICES[name]
    if isinstance(default, bool):
        return isinstance(value, bool)
    if default is None and value is None:
        return True
    if name in _NAMES:
        return isinstance(value, list) and all(isinstance(each, str) for each in value)
    if name in _ADDRESSES:
        return isinstance(value, str) and _is_ipv4(value)
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


@dataclass(frozen=True, slots=True)
class SipSettings:
    """How the sandbox answers SIP, besides what the objects at LiveKit say."""

    answer_s: float = 0.2
    """Seconds that an agent rings before it answers."""
    speed: float = 1.0
    """How many of LiveKit's seconds pass in one: with 20 a trunk's ringing timeout of 20 s is over after one."""
    source: str | None = None
    """The IPv4 address that calls are taken to come from; None: the one that they do come from, a loopback one."""
    udp: bool = True
    """False: nobody listens there, as if the listener were down (ECONNREFUSED)."""
    tcp: bool = True
    """The same for TCP; connections that are open stay."""


class ConcurrencyLimit:
    """A limit on the requests under way at once."""

    def __init__(self, limit: int | None) -> None:
        self._left = math.inf if limit is None else limit
        self._lock = threading.Lock()

    def acquire(self) -> bool:
        """Count a request, or return False when the limit is reached."""
        with self._lock:
            if self._left < 1:
                return False
            self._left -= 1
            return True

    def release(self) -> None:
        """End a request."""
        with self._lock:
            self._left += 1


class RateLimit:
    """A rate limit as a token bucket that holds one second's requests."""

    def __init__(self, per_s: float | None) -> None:
        self._per_s = per_s
        self._tokens = per_s or 0.0
        self._filled_at = time.monotonic()
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Take one token, or return False when there is none."""
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
    """The credentials of the first Twilio account and the first LiveKit project, and this project's SIP host."""

    account_sid: str = ACCOUNT_SID
    auth_token: str = AUTH_TOKEN
    api_key_sid: str = API_KEY_SID
    api_key_secret: str = API_KEY_SECRET
    livekit_api_key: str = LIVEKIT_API_KEY
    livekit_api_secret: str = LIVEKIT_API_SECRET
    sip_host: str = SIP_HOST


class FormerTrunks:
    """Former trunk_sids of numbers, for reads that lag behind writes."""

    def __init__(self) -> None:
        self._former: dict[str, list[tuple[float, str | None]]] = {}

    def record(self, number_sid: str, trunk_sid: str | None) -> None:
        """Record a number's trunk_sid before a write."""
        self._former.setdefault(number_sid, []).append((time.monotonic(), trunk_sid))

    def as_of(self, number: dict[str, Any], lag_s: float) -> dict[str, Any]:
        """Return the number as it was `lag_s` seconds ago."""
        former = self._former.get(number["sid"])
        if not former:
            return number
        horizon = time.monotonic() - lag_s
        while former and former[0][0] <= horizon:
            former.pop(0)
        return {**number, "trunk_sid": former[0][1]} if former else number


FIRST_PROJECT = "sandbox"
"""Name of the first LiveKit project: the one at the sandbox's URL without a path."""


@dataclass
class Sandbox:
    """Everything that a handler may need. `generation` counts resets: a request from before a reset applies nothing.

    A handler gets the sandbox as one Twilio account or LiveKit project sees it (`of_account`, `of_project`): `store`
    holds the objects of this one alone.
    """

    credentials: Credentials
    store: Store
    requests: RequestLog
    faults: Faults = field(default_factory=Faults)
    switches: Switches = field(default_factory=Switches)
    latency: Latency = field(default_factory=Latency)
    former_trunks: FormerTrunks = field(default_factory=FormerTrunks)
    rate_limits: dict[str, RateLimit] = field(default_factory=dict)
    concurrency_limits: dict[str, ConcurrencyLimit] = field(default_factory=dict)
    owner_rate_limits: dict[str, RateLimit] = field(default_factory=dict)
    """Those of single accounts and projects, by sid or name."""
    generation: int = 0
    account_sid: str = ""
    """The Twilio account whose objects `store` holds."""
    project: str = FIRST_PROJECT
    """The LiveKit project whose objects `store` holds."""
    rooms: Rooms = field(default_factory=Rooms)
    sip: SipSettings = field(default_factory=SipSettings)
    at_start: tuple[Switches, SipSettings] = field(default_factory=lambda: (Switches(), SipSettings()))
    """What a reset brings back."""
    sip_address: str = ""
    """`127.0.0.1:PORT`, where the first project's SIP is answered; empty where nobody listens."""

    def __post_init__(self) -> None:
        """Make the first account and project, and the limits that the switches set."""
        self.account_sid = self.credentials.account_sid
        self.faults.names_of = self.store.names_of
        self.set_switches(self.switches)
        self._make_first_owners()

    def _make_first_owners(self) -> None:
        """Have the first account and project, with the credentials that the process was started with.

        The journal has them, as all others, once the control API has changed them.
        """
        given = self.credentials
        account = {
            "sid": given.account_sid,
            "owner_sid": given.account_sid,
            "friendly_name": "Sandbox",
            "status": "active",
            "auth_tokens": [given.auth_token],
            "api_keys": {given.api_key_sid: given.api_key_secret},
            "requests_per_s": None,
        }
        project = {
            "name": FIRST_PROJECT,
            "sip_host": given.sip_host,
            "keys": {given.livekit_api_key: given.livekit_api_secret},
            "requests_per_s": None,
        }
        for table, row_id, row in (
            (self.store.accounts, given.account_sid, account),
            (self.store.projects, FIRST_PROJECT, project),
        ):
            if row_id not in table.rows:
                table.put(row_id, row)
            self.owner_rate_limits |= {name: RateLimit(each["requests_per_s"]) for name, each in table.rows.items()}

    def put_account(self, account: Record) -> None:
        """Store a Twilio account, and limit its rate as it says."""
        self.store.put("accounts", account["sid"], account)
        self.owner_rate_limits[account["sid"]] = RateLimit(account["requests_per_s"])

    def put_project(self, project: Record) -> None:
        """Store a LiveKit project, and limit its rate as it says."""
        self.store.put("projects", project["name"], project)
        self.owner_rate_limits[project["name"]] = RateLimit(project["requests_per_s"])

    def of_account(self, sid: str) -> "Sandbox":
        """Return the sandbox as a Twilio account sees it."""
        if sid == self.credentials.account_sid:
            return self
        seen = copy.copy(self)
        seen.account_sid, seen.store = sid, self.store.part(sid)
        return seen

    def of_project(self, name: str) -> "Sandbox":
        """Return the sandbox as a LiveKit project sees it."""
        if name == FIRST_PROJECT:
            return self
        seen = copy.copy(self)
        seen.project, seen.store = name, self.store.part(name)
        return seen

    def set_switches(self, switches: Switches) -> None:
        """Set the switches, and make their limits anew."""
        self.switches = switches
        self.rate_limits = {
            TWILIO: RateLimit(switches.twilio_requests_per_s),
            LIVEKIT: RateLimit(switches.livekit_requests_per_s),
        }
        self.concurrency_limits = {
            TWILIO: ConcurrencyLimit(switches.twilio_concurrency),
            LIVEKIT: ConcurrencyLimit(switches.livekit_concurrency),
        }

    def start_with(self, switches: Switches, source: str | None) -> None:
        """Set what the command line says, and what a reset brings back."""
        self.at_start = switches, updated_settings(SipSettings(), {"source": source})
        self.sip = self.at_start[1]
        self.set_switches(switches)

    def reset(self) -> None:
        """Empty the sandbox; requests that are still held are dropped, not applied."""
        with self.store.lock:
            self.generation += 1
            self.store.wipe()
            self.owner_rate_limits.clear()
            self._make_first_owners()
            self.former_trunks = FormerTrunks()
            self.rooms = Rooms()
        self.faults.clear()
        self.latency = Latency()
        switches, self.sip = self.at_start
        self.set_switches(switches)
        self.requests.clear()
