"""What both providers have, read whole: the fields that decide about a call, and every other as it came.

`raw` is the whole record, so that an update can write back what it does not change: Twilio's JSON, LiveKit's protobuf.
A number has none: an account may have thousands of them, and only what is named is written.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from itertools import product
from typing import TypeVar
from urllib.parse import urlsplit

from app.domain.options import Pairs, RuleAgent
from app.domain.texts import shown

ResourceKey = tuple[str, str]
"""A kind of resource (step name) and an id: the resource's own, or its parent's (empty for the account) for a list."""

WILDCARD = ""
"""Stands for "any" where LiveKit's lists are empty: a trunk without numbers, a rule without trunks."""


UNREADABLE_HOST = "an address that cannot be read"

_DEMO_HOST = "demo.twilio.com"
"""The host of the voice URL that Twilio gives to new numbers: it only says hello."""


def _voice_host(url: str) -> str:
    """Return the host of a voice URL, which may be any text; "" where there is none, and for Twilio's demo."""
    if not url.strip():
        return ""
    try:
        host = urlsplit(url.strip()).hostname
    except ValueError:
        host = None
    return "" if host == _DEMO_HOST else shown(host or UNREADABLE_HOST)


@dataclass(frozen=True, slots=True)
class NumberRouting:
    """Where a number sends its calls today; what `previous_routing` keeps so that undo can put it back."""

    trunk_sid: str | None
    voice_application_sid: str | None
    voice_url: str | None

    @property
    def is_taken(self) -> bool:
        """Whether it is on a trunk or an application: only a takeover moves it."""
        return bool(self.trunk_sid or self.voice_application_sid)

    @property
    def taken_by(self) -> str:
        """What it is on, in words; "" where it is not taken. Twilio: the trunk wins."""
        if self.trunk_sid:
            return f"trunk {shown(self.trunk_sid)}"
        return f"voice application {shown(self.voice_application_sid)}" if self.voice_application_sid else ""

    @property
    def voice_host(self) -> str:
        """The host whose voice URL says what becomes of a call; "" where a trunk or application does, or nothing.

        Twilio ignores the URL of a number that is on a trunk or application (IncomingPhoneNumbers, `trunk_sid`).
        """
        return "" if self.is_taken else _voice_host(self.voice_url or "")


@dataclass(frozen=True, slots=True)
class CarrierNumber:
    """A phone number that the carrier account owns; `sid` is `PN` + 32 hex."""

    sid: str
    phone_number: str
    account_sid: str
    routing: NumberRouting
    has_voice: bool = True
    """Twilio's voice capability."""
    receive_mode: str = "voice"
    """`voice` or `fax`; "" counts as voice."""
    status: str = "in-use"
    """Twilio's undocumented status; "" counts as in use."""

    @property
    def is_voice(self) -> bool:
        """Voice-capable, in use, and not set to receive fax."""
        return self.has_voice and self.receive_mode != "fax" and self.status in {"in-use", ""}


@dataclass(frozen=True, slots=True)
class CarrierTrunk:
    """An Elastic SIP trunk; `sid` is `TK` + 32 hex, `tag` its FriendlyName."""

    sid: str
    tag: str
    is_secure: bool
    created_at: datetime | None
    transfer_mode: str = ""
    raw: Mapping[str, object] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class OriginationUrl:
    """Where a trunk sends incoming calls; `sid` is `OU` + 32 hex."""

    sid: str
    trunk_sid: str
    sip_url: str
    is_enabled: bool
    tag: str
    created_at: datetime | None
    priority: int = 0
    """0 to 65535, the lowest is called first."""
    weight: int = 0
    """0 to 65535, the share of calls among URLs of one priority."""
    raw: Mapping[str, object] = field(default_factory=dict, compare=False, repr=False)


class Encryption(StrEnum):
    """LiveKit's media encryption of a trunk or rule."""

    DISABLE = "disable"
    ALLOW = "allow"
    REQUIRE = "require"


@dataclass(frozen=True, slots=True)
class Media:
    """The media settings of a LiveKit trunk or rule; a field that is not set says nothing."""

    encryption: Encryption = Encryption.DISABLE
    codecs: tuple[str, ...] = ()
    """Names, such as `PCMU`; with a clock rate, where one is set: `PCMU/8000` (LiveKit allows no `/` in a name)."""
    only_listed_codecs: bool = False


@dataclass(frozen=True, slots=True)
class InboundTrunk:
    """A LiveKit inbound trunk; `id` is `ST_` + 12 chars. `metadata` is the JSON text as stored."""

    id: str
    name: str
    metadata: str
    numbers: tuple[str, ...]
    allowed_addresses: tuple[str, ...] = ()
    allowed_numbers: tuple[str, ...] = ()
    has_username: bool = False
    has_password: bool = False
    media: Media = Media()
    ringing_timeout_s: float = 0.0
    """0: LiveKit's own, 3 minutes."""
    max_call_duration_s: float = 0.0
    """0: LiveKit's own, 24 hours."""
    krisp: bool = False
    headers_to_attributes: Pairs = ()
    include_headers: str = "none"
    """`none`, `x` or `all` (SIPHeaderOptions); another text where a newer server has another kind."""
    raw: bytes = field(default=b"", compare=False, repr=False)

    @property
    def asks_password(self) -> bool:
        """Whether a call is answered with 407: LiveKit asks only where both are set (livekit/sip pkg/service)."""
        return self.has_username and self.has_password


class RuleKind(StrEnum):
    """The kind of a dispatch rule: which callers share a room."""

    DIRECT = "direct"
    """All callers, in one room."""
    INDIVIDUAL = "individual"
    """None: a room for each call."""
    CALLEE = "callee"
    """All callers of one number."""
    UNKNOWN = ""
    """A kind that this release does not know, or none."""


@dataclass(frozen=True, slots=True)
class DispatchRule:
    """A LiveKit dispatch rule; `id` is `SDR_` + 12 chars. With empty `trunk_ids` it is a project-wide wildcard."""

    id: str
    name: str
    metadata: str
    trunk_ids: tuple[str, ...]
    agents: tuple[RuleAgent, ...] = ()
    inbound_numbers: tuple[str, ...] = ()
    """Callers that it takes, as raw text; empty: all."""
    numbers: tuple[str, ...] = ()
    """Called numbers that it takes, as raw text; empty: all."""
    kind: RuleKind = RuleKind.INDIVIDUAL
    room: str = ""
    """The room's name, or its prefix."""
    pin: str = field(default="", repr=False)
    is_fixed_room: bool = False
    """Whether its rooms have no random part, so that a caller may come into one that is live."""
    hides_caller: bool = False
    """Whether a room's name has only the last digits of the caller's number."""
    room_preset: str = ""
    attributes: Pairs = ()
    """What the caller's participant is given."""
    empty_timeout_s: int = 0
    """Of the room, in seconds; 0: LiveKit's own, and so the next two."""
    departure_timeout_s: int = 0
    max_participants: int = 0
    krisp: bool = False
    """LiveKit cancels noise where either the trunk or the rule says so (livekit/protocol sip/sip.go)."""
    media: Media = Media()
    raw: bytes = field(default=b"", compare=False, repr=False)

    @property
    def is_plain(self) -> bool:
        """Whether it names at most one trunk and no numbers, so that it cannot contradict itself."""
        return not (self.inbound_numbers or self.numbers or len(self.trunk_ids) > 1)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record of a list that cannot be read: a field that decides something is missing, or is of another type."""

    external_id: str
    """Empty where the id cannot be read either."""
    may_be_ours: bool
    """False where its name or metadata could be read and Trunkline's mark is not in it."""


_NUMBER = re.compile(r"\+?[0-9\- ()]+")
_SEPARATORS = str.maketrans("", "", " -()")


def normalised(number: str) -> str:
    """Return a number as LiveKit compares it: digits, spaces, dashes and parentheses become `+` and digits.

    Any other text stays as it is (livekit/protocol livekit/sip.go, NormalizeNumber).
    """
    if not _NUMBER.fullmatch(number):
        return number
    return "+" + number.translate(_SEPARATORS).removeprefix("+")


TrunkPair = tuple[InboundTrunk, InboundTrunk]

RulePair = tuple[DispatchRule, DispatchRule]


def trunk_conflicts(trunks: Iterable[InboundTrunk]) -> list[TrunkPair]:
    """Return the pairs for which LiveKit refuses a create or update (`Conflicting inbound SIP Trunks`).

    They share a called number, or have none, and share a caller, or name none: as it compares numbers
    (livekit/protocol sip/sip.go, validateTrunkInbound). Addresses and passwords play no part.
    """
    holders: dict[tuple[str, str], list[InboundTrunk]] = {}
    pairs: dict[TrunkPair, None] = {}
    for trunk in trunks:
        called = dict.fromkeys(map(normalised, trunk.numbers)) or (WILDCARD,)
        callers = dict.fromkeys(map(normalised, trunk.allowed_numbers)) or (WILDCARD,)
        for key in product(called, callers):
            others = holders.setdefault(key, [])
            pairs.update(((other, trunk), None) for other in others if other.id != trunk.id)
            others.append(trunk)
    return list(pairs)


def rule_conflicts(rules: Iterable[DispatchRule]) -> list[RulePair]:
    """Return the pairs for which LiveKit refuses a create, and every call that meets both; a pair may be one rule.

    They share a PIN, a trunk, a caller and a called number, each of them or none (livekit/protocol sip/sip.go,
    DispatchRuleValidator). A rule that names something twice conflicts with itself.
    """
    return list(dict.fromkeys(_rule_pairs(rules)))


def _rule_pairs(rules: Iterable[DispatchRule]) -> Iterator[RulePair]:
    holders: dict[tuple[str, ...], list[DispatchRule]] = {}
    for rule in rules:
        callers = map(normalised, rule.inbound_numbers or (WILDCARD,))
        called = map(normalised, rule.numbers or (WILDCARD,))
        for key in product((rule.pin,), rule.trunk_ids or (WILDCARD,), callers, called):
            others = holders.setdefault(key, [])
            yield from ((other, rule) for other in others)
            others.append(rule)


def first_rule_conflict(rules: Sequence[DispatchRule]) -> RulePair | None:
    """Return the first pair of `rule_conflicts`; what a call asks, without working out the others."""
    if len(rules) == 1 and rules[0].is_plain:
        return None
    return next(_rule_pairs(rules), None)


@dataclass(frozen=True)
class Observed:
    """What both providers have at about one moment: everything, or all that one agent's path needs.

    All that it needs are the number, its trunk and that trunk's URLs, the LiveKit trunks that have the number, those
    without numbers, and the rules of these trunks and without trunks.
    """

    numbers: Mapping[str, CarrierNumber] = field(default_factory=dict)
    trunks: Mapping[str, CarrierTrunk] = field(default_factory=dict)
    urls: Mapping[str, Sequence[OriginationUrl]] = field(default_factory=dict)
    """Trunk sid -> its URLs; a trunk whose URLs were not read is missing."""
    inbound_trunks: Mapping[str, InboundTrunk] = field(default_factory=dict)
    rules: Mapping[str, DispatchRule] = field(default_factory=dict)
    unreadable: Mapping[ResourceKey, Sequence[Unreadable]] = field(default_factory=dict)

    def may_hold(self, kind: str, external_id: str, parent_id: str = "") -> bool:
        """Tell whether a resource that is not listed may be one that could not be read."""
        unreadable = self.unreadable.get((kind, parent_id), ())
        return any(one.external_id == external_id or (not one.external_id and one.may_be_ours) for one in unreadable)

    def trunks_for(self, number: str) -> list[InboundTrunk]:
        """Return the LiveKit trunks that have the number by LiveKit's comparison, sorted by id; wildcards left out."""
        return self._trunks_by_number.get(normalised(number), [])

    @cached_property
    def wildcard_trunks(self) -> list[InboundTrunk]:
        """Return the LiveKit trunks without numbers, sorted by id."""
        return sorted((trunk for trunk in self.inbound_trunks.values() if not trunk.numbers), key=lambda one: one.id)

    def rules_for(self, trunk_id: str) -> list[DispatchRule]:
        """Return the rules that name the LiveKit trunk, sorted by id; wildcards left out."""
        return self._rules_by_trunk.get(trunk_id, [])

    @cached_property
    def wildcard_rules(self) -> list[DispatchRule]:
        """Return the rules without trunks, sorted by id."""
        return sorted((rule for rule in self.rules.values() if not rule.trunk_ids), key=lambda one: one.id)

    @cached_property
    def wildcard_rule_conflict(self) -> RulePair | None:
        """Return the first two rules without trunks that contradict each other: with them, every call is refused."""
        return first_rule_conflict(self.wildcard_rules)

    @cached_property
    def rule_conflict(self) -> RulePair | None:
        """Return the first two of all rules that contradict each other, as LiveKit looks when a call has no trunk."""
        return first_rule_conflict(sorted(self.rules.values(), key=lambda one: one.id))

    @cached_property
    def _trunks_by_number(self) -> dict[str, list[InboundTrunk]]:
        return _grouped(
            sorted(self.inbound_trunks.values(), key=lambda one: one.id),
            lambda trunk: map(normalised, trunk.numbers),
        )

    @cached_property
    def _rules_by_trunk(self) -> dict[str, list[DispatchRule]]:
        return _grouped(sorted(self.rules.values(), key=lambda one: one.id), lambda rule: rule.trunk_ids)


Record = TypeVar("Record")


def _grouped(records: Iterable[Record], keys_of: Callable[[Record], Iterable[str]]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        for key in dict.fromkeys(keys_of(record)):
            found.setdefault(key, []).append(record)
    return found
