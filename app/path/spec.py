"""What we want: the path of one agent's number, as each provider's objects are to be.

What is not named here belongs to whoever set it: it is never compared and never overwritten.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TypeVar

from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK, NUMBER, ORIGINATION_URL, TRUNK
from app.domain.options import NO_OPTIONS, AgentOptions, DispatchKind, HeaderSet, RuleAgent
from app.domain.sip_uris import SipUri
from app.path.observed import (
    CarrierNumber,
    CarrierTrunk,
    DispatchRule,
    Encryption,
    InboundTrunk,
    Media,
    NumberRouting,
    Observed,
    OriginationUrl,
    RuleKind,
)

ORIGINATION_PRIORITY = 10
"""Room on both sides: an operator may put a URL of his own before or after ours (0 to 65535, lowest first)."""

ORIGINATION_WEIGHT = 10
"""Share of the calls among URLs of one priority."""


@dataclass(frozen=True, slots=True)
class Label:
    """How a resource of ours is marked: `tag` (at most 64 chars, as Twilio's FriendlyName), and a trunk's `metadata`.

    `metadata` is JSON for LiveKit trunks only: a dispatch rule's belongs to the user (`app.path.marks`).
    """

    tag: str
    metadata: str = field(default="{}")


@dataclass(frozen=True, slots=True)
class Profile:
    """What all paths of an installation have in common: the settings of lines and rooms."""

    sip_uri: SipUri
    """LiveKit's SIP URI, over TLS where `is_secure`."""
    is_secure: bool = False
    """Whether lines are encrypted, signalling and media, at both providers. Not so: encryption is left alone."""
    transfer_mode: str | None = None
    """Twilio's TransferMode of a trunk; None: as Twilio makes it (`disable-all`), and left alone."""
    allowed_addresses: tuple[str, ...] = ()
    """CIDR blocks that may call our LiveKit trunks; empty means any."""
    ringing_timeout: timedelta = timedelta(seconds=30)
    """How long a caller hears it ring when no agent answers; given once, at creation. LiveKit's own is 3 minutes."""
    room_prefix: str = "call"
    """Rooms are named `{room_prefix}_{caller}_{random}`; given once, at creation."""
    room_presets: frozenset[str] | None = None
    """The room presets that the LiveKit server has; None: not known, since LiveKit's API does not tell."""

    def with_options(self, options: AgentOptions) -> "Profile":
        """Return the profile of an agent with these options: what a Twilio trunk is set to is part of it."""
        return self if options.transfer is None else replace(self, transfer_mode=options.transfer.value)

    def as_found(self) -> "Profile":
        """Return the profile of a path that was adopted: whether its line is encrypted is for who made it to say."""
        return replace(self, is_secure=False)

    @property
    def is_cloud(self) -> bool:
        """Whether calls go to LiveKit Cloud, which refuses a call without a trunk; an open-source server goes on."""
        return self.sip_uri.host.endswith(".sip.livekit.cloud")


@dataclass(frozen=True, slots=True)
class Former:
    """What a path was made for before an operation changes it: what that alone named is not left behind."""

    agent_name: str = ""
    """The LiveKit agent that the number rang; "" where that stays."""
    options: AgentOptions = NO_OPTIONS


NOTHING_FORMER = Former()
"""What an operation goes by that changes nothing of what the path is made for."""


@dataclass(frozen=True, slots=True)
class Adopted:
    """An object that somebody else made, before it became an agent's."""

    id: str
    name: str = ""
    """Its name, where our mark stands now; it goes back there."""
    metadata: str = ""
    is_shared: bool = False
    """Whether other numbers use it too: then it has no mark of ours, and is never changed and never deleted."""


@dataclass(frozen=True, slots=True)
class TrunkSpec:
    """A Twilio trunk."""

    tag: str
    is_secure: bool = False
    transfer_mode: str | None = None


@dataclass(frozen=True, slots=True)
class OriginationUrlSpec:
    """An enabled origination URL."""

    tag: str
    uri: SipUri
    priority: int = ORIGINATION_PRIORITY
    weight: int = ORIGINATION_WEIGHT


@dataclass(frozen=True, slots=True)
class InboundTrunkSpec:
    """A LiveKit inbound trunk for one number, without a password."""

    label: Label
    phone_number: str
    allowed_addresses: tuple[str, ...] = ()
    is_secure: bool = False
    """Whether media must be encrypted."""
    ringing_timeout: timedelta = timedelta(seconds=30)
    options: AgentOptions = NO_OPTIONS

    def record(self, trunk_id: str = "") -> InboundTrunk:
        """Return the trunk as it is after its creation.

        Krisp, headers and durations are taken from the trunk alone, Krisp from the rule besides
        (livekit/protocol sip/sip.go, EvaluateDispatchRule).
        """
        options = self.options
        return InboundTrunk(
            trunk_id,
            self.label.tag,
            self.label.metadata,
            (self.phone_number,),
            self.allowed_addresses,
            options.allowed_callers or (),
            media=Media(Encryption.REQUIRE if self.is_secure else Encryption.DISABLE),
            ringing_timeout_s=_set(options.ringing_s, self.ringing_timeout.total_seconds()),
            max_call_duration_s=options.max_duration_s or 0.0,
            krisp=bool(options.krisp),
            headers_to_attributes=options.headers_to_attributes or (),
            include_headers=_set(options.include_headers, HeaderSet.NONE).value,
        )


@dataclass(frozen=True, slots=True)
class DispatchRuleSpec:
    """A rule for one trunk that starts one agent and those of its options, without filters."""

    tag: str
    trunk_id: str
    agent_name: str
    job_metadata: str = "{}"
    room_prefix: str = "call"
    options: AgentOptions = NO_OPTIONS
    numbers: tuple[str, ...] = ()
    """The called numbers that it takes, where the trunk has those of others too; empty: all of the trunk."""

    def record(self, rule_id: str = "") -> DispatchRule:
        """Return the rule as it is after its creation.

        Its metadata and attributes become the caller's, whom everybody in the room can read; a call's own attributes
        go over the rule's (livekit/protocol sip/sip.go, EvaluateDispatchRule).
        """
        options = self.options
        kind = RuleKind(_set(options.dispatch_kind, DispatchKind.INDIVIDUAL).value)
        room = options.room_name if kind is RuleKind.DIRECT else options.room_prefix
        extras = (agent for agent in options.agents or () if agent.name != self.agent_name)
        return DispatchRule(
            rule_id,
            self.tag,
            options.participant_metadata or "",
            (self.trunk_id,),
            (RuleAgent(self.agent_name, self.job_metadata), *extras),
            numbers=self.numbers,
            kind=kind,
            room=_set(room, self.room_prefix),
            pin=options.pin or "",
            is_fixed_room=kind is RuleKind.DIRECT or not _set(options.randomize, kind is RuleKind.INDIVIDUAL),
            hides_caller=bool(options.hide_phone_number),
            room_preset=options.room_preset or "",
            attributes=options.participant_attributes or (),
            empty_timeout_s=options.empty_timeout_s or 0,
            departure_timeout_s=options.departure_timeout_s or 0,
            max_participants=options.max_participants or 0,
        )


Value = TypeVar("Value")


def _set(value: Value | None, otherwise: Value) -> Value:
    return otherwise if value is None else value


@dataclass(frozen=True, slots=True)
class PathSpec:
    """The path of one number to one agent. `ids` has the id of each step's resource, as far as there is one."""

    profile: Profile
    instance: str
    agent_id: str
    agent_name: str
    job_metadata: str
    phone_number: str
    """E.164."""
    label: Label
    ids: Mapping[str, str] = field(default_factory=dict)
    trunk_tag: str = ""
    """The tag of a Twilio trunk that numbers share, and of its origination URL; empty: the trunk is the agent's own."""
    options: AgentOptions = NO_OPTIONS
    """The agent's; `profile.transfer_mode` is already the one that follows from them."""
    adopted: Mapping[str, Adopted] = field(default_factory=dict)
    """Step -> the object of its path that was adopted, as far as it is still on it."""

    @property
    def number_sid(self) -> str:
        """The Twilio number's sid, or ""."""
        return self.ids.get(NUMBER, "")

    @property
    def trunk_sid(self) -> str:
        """The Twilio trunk's sid, or ""."""
        return self.ids.get(TRUNK, "")

    @property
    def url_sid(self) -> str:
        """The origination URL's sid, or ""."""
        return self.ids.get(ORIGINATION_URL, "")

    @property
    def inbound_trunk_id(self) -> str:
        """The LiveKit trunk's id, or ""."""
        return self.ids.get(INBOUND_TRUNK, "")

    @property
    def rule_id(self) -> str:
        """The dispatch rule's id, or ""."""
        return self.ids.get(DISPATCH_RULE, "")

    @property
    def trunk(self) -> TrunkSpec:
        """The Twilio trunk."""
        return TrunkSpec(self.trunk_tag or self.label.tag, self.profile.is_secure, self.profile.transfer_mode)

    @property
    def origination_url(self) -> OriginationUrlSpec:
        """The origination URL."""
        return OriginationUrlSpec(self.trunk_tag or self.label.tag, self.profile.sip_uri)

    @property
    def inbound_trunk(self) -> InboundTrunkSpec:
        """The LiveKit trunk."""
        profile = self.profile
        return InboundTrunkSpec(
            self.label,
            self.phone_number,
            profile.allowed_addresses,
            profile.is_secure,
            profile.ringing_timeout,
            self.options,
        )

    @property
    def dispatch_rule(self) -> DispatchRuleSpec:
        """The dispatch rule, which names the LiveKit trunk of `ids`."""
        profile, inbound = self.profile, self.adopted.get(INBOUND_TRUNK)
        return DispatchRuleSpec(
            self.label.tag,
            self.inbound_trunk_id,
            self.agent_name,
            self.job_metadata,
            profile.room_prefix,
            self.options,
            (self.phone_number,) if inbound is not None and inbound.is_shared else (),
        )


def as_built(spec: PathSpec, observed: Observed) -> Observed:
    """Return what there would be once the path had been built beside what there is; `spec.ids` names all of it."""
    now = observed.numbers.get(spec.number_sid) or CarrierNumber(
        spec.number_sid, spec.phone_number, "", NumberRouting(None, None, None)
    )
    number = replace(now, routing=replace(now.routing, trunk_sid=spec.trunk_sid, voice_application_sid=None))
    trunk, url = spec.trunk, spec.origination_url
    inbound, rule = built_inbound_trunk(spec), built_rule(spec)
    return replace(
        observed,
        numbers={**observed.numbers, number.sid: number},
        trunks={
            **observed.trunks,
            spec.trunk_sid: CarrierTrunk(spec.trunk_sid, trunk.tag, trunk.is_secure, None, trunk.transfer_mode or ""),
        },
        urls={
            **observed.urls,
            spec.trunk_sid: [
                OriginationUrl(
                    spec.url_sid, spec.trunk_sid, str(url.uri), True, url.tag, None, url.priority, url.weight
                )
            ],
        },
        inbound_trunks={**observed.inbound_trunks, inbound.id: inbound},
        rules={**observed.rules, rule.id: rule},
    )


def built_inbound_trunk(spec: PathSpec) -> InboundTrunk:
    """Return the LiveKit trunk as it is after its creation."""
    return spec.inbound_trunk.record(spec.inbound_trunk_id)


def built_rule(spec: PathSpec) -> DispatchRule:
    """Return the dispatch rule as it is after its creation."""
    return spec.dispatch_rule.record(spec.rule_id)
