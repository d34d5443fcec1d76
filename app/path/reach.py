"""Whether a call gets through, to whom, and every reason why not: Twilio's and LiveKit's matching to the letter."""

from collections.abc import Iterable
from dataclasses import dataclass

from app.domain.findings import Callers, FindingCode
from app.path.observed import DispatchRule, InboundTrunk, Observed, ResourceKey
from app.path.spec import PathSpec

TWILIO_SIGNALLING = (
    "54.172.60.0/30",
    "54.244.51.0/30",
    "54.171.127.192/30",
    "35.156.191.128/30",
    "54.65.63.192/30",
    "54.169.127.128/30",
    "54.252.254.64/30",
    "177.71.206.192/30",
)
"""The addresses that Twilio's SIP trunks call from, in all eight regions (https://www.twilio.com/docs/sip-trunking/ip-addresses)."""


@dataclass(frozen=True, slots=True)
class Call:
    """One concrete call: who calls, from which of Twilio's addresses, and which URL of a tier Twilio's draw picks."""

    caller: str
    """As it arrives, usually E.164."""
    source: str
    """An IPv4 address."""
    roll: float = 0.0
    """From 0 to below 1: the draw by weight among the URLs of one priority."""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a call does not reach the agent: a code, the resource that stops it, and what is wrong with it in words."""

    code: FindingCode
    resource: ResourceKey | None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Followed:
    """Where one call ends: the agents that it starts; without reasons it reaches the agent of the spec."""

    agents: tuple[str, ...] = ()
    reasons: tuple[Reason, ...] = ()
    """In the order of the call. The first one ends it; the others would, if that one were away."""


@dataclass(frozen=True, slots=True)
class Reach:
    """Who gets through. Without reasons everybody does, from each of Twilio's addresses."""

    reasons: tuple[tuple[Reason, Callers], ...] = ()
    agents: tuple[str, ...] = ()
    """The agents of those calls that get through."""


def follow(observed: Observed, spec: PathSpec, call: Call) -> Followed:
    """Follow one call to the number of `spec` through what both providers have."""
    raise NotImplementedError


def reach(observed: Observed, spec: PathSpec, *, caller: str | None = None, source: str | None = None) -> Reach:
    """Follow a call of every kind of caller from every address of Twilio, or of the given ones."""
    raise NotImplementedError


def trunk_conflicts(trunks: Iterable[InboundTrunk]) -> list[tuple[InboundTrunk, InboundTrunk]]:
    """Return the pairs for which LiveKit refuses a create or update (`Conflicting inbound SIP Trunks`)."""
    raise NotImplementedError


def rule_conflicts(rules: Iterable[DispatchRule]) -> list[tuple[DispatchRule, DispatchRule]]:
    """Return the pairs for which LiveKit refuses a create, and every call that meets both; a pair may be one rule."""
    raise NotImplementedError
