"""How LiveKit picks the trunk and the rule for an inbound call."""

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network

from livekit.protocol import sip

from app.sandbox.livekit_keys import called_numbers, normalised, pin_of
from app.sandbox.livekit_media import DISABLE, REQUIRE

TWILIO_SIGNALLING = tuple(
    ip_network(cidr)
    for cidr in (
        "54.172.60.0/30",
        "54.244.51.0/30",
        "54.171.127.192/30",
        "35.156.191.128/30",
        "54.65.63.192/30",
        "54.169.127.128/30",
        "54.252.254.64/30",
        "177.71.206.192/30",
    )
)
"""Where Twilio's SIP signalling comes from (twilio.com/docs/sip-trunking/ip-addresses, 2026-03-09)."""

DISCARDED = re.compile(r"[()+*;, \t\r\n]|://")
"""An address with any of these is ignored; when nothing else remains, every address is allowed
(livekit/protocol sip/sip.go:402-461)."""

TWILIO_CODECS = frozenset({"PCMU", "PCMA"})
"""Codecs that a call from Twilio offers."""

UNFILTERED = 1000
"""Added to a rule's rank for each filter that it lacks (livekit/protocol sip/sip.go:66-124)."""

RANKS = {"dispatch_rule_direct": 0, "dispatch_rule_individual": 1, "dispatch_rule_callee": 2}
PINLESS = 100
"""Added to a rule's rank when it asks for no PIN."""


class MatchError(Exception):
    """The call ends here; the text says why."""


def admits_twilio(addresses: Sequence[str]) -> bool:
    """Tell whether a trunk's allowed addresses let at least one Twilio signalling address in."""
    entries = [entry for entry in addresses if not DISCARDED.search(entry)]
    return not entries or any(_overlaps(entry) for entry in entries)


def _overlaps(entry: str) -> bool:
    try:
        network: IPv4Network | IPv6Network = ip_network(entry, strict=False)
    except ValueError:
        return False
    return any(isinstance(network, IPv4Network) and network.overlaps(block) for block in TWILIO_SIGNALLING)


def matching_trunk(
    trunks: Iterable[sip.SIPInboundTrunkInfo], called: str, caller: str
) -> tuple[sip.SIPInboundTrunkInfo | None, str]:
    """Return the one trunk that takes the call, or None and why none does (livekit/protocol sip/sip.go:509-600).

    Raise MatchError when two do.
    """
    number, refusals = normalised(called), []
    specific: list[sip.SIPInboundTrunkInfo] = []
    wildcard: list[sip.SIPInboundTrunkInfo] = []
    for trunk in trunks:
        if trunk.allowed_numbers and normalised(caller) not in map(normalised, trunk.allowed_numbers):
            refusals.append(f"{trunk.sip_trunk_id} does not allow the caller {caller}")
        elif not admits_twilio(trunk.allowed_addresses):
            refusals.append(f"{trunk.sip_trunk_id} allows no Twilio signalling address")
        elif number in called_numbers(trunk):
            specific.append(trunk)
        elif not trunk.numbers:
            wildcard.append(trunk)
    for matches in (specific, wildcard):
        if len(matches) > 1:
            ids = " and ".join(trunk.sip_trunk_id for trunk in matches)
            raise MatchError(f"LiveKit answers 503: trunks {ids} both match {called}")
        if matches:
            return matches[0], ""
    return None, "; ".join(refusals) or f"no trunk has the number {called}"


def check_media(media: sip.SIPMediaConfig, *, is_secure: bool) -> None:
    """Raise MatchError when a call from a Twilio trunk, secure or not, cannot agree with LiveKit on its media."""
    if is_secure and media.encryption == DISABLE:
        raise MatchError("the Twilio trunk is secure and the LiveKit trunk does not encrypt media, nor does the rule")
    if not is_secure and media.encryption == REQUIRE:
        raise MatchError(
            "LiveKit answers 400: its trunk or rule requires encrypted media and the Twilio trunk is not secure"
        )
    codecs = {codec.name.upper() for codec in media.codecs}
    if codecs and media.only_listed_codecs and codecs.isdisjoint(TWILIO_CODECS):
        raise MatchError("LiveKit answers 400: its trunk or rule lists no codec that Twilio offers")


def matching_rule(rules: Iterable[sip.SIPDispatchRuleInfo], called: str, caller: str) -> sip.SIPDispatchRuleInfo | None:
    """Return the rule that takes the call: one that names the trunk beats wildcards, then the lower rank wins."""
    fitting = [
        rule
        for rule in rules
        if (not rule.inbound_numbers or caller in rule.inbound_numbers) and (not rule.numbers or called in rule.numbers)
    ]
    if not fitting:
        return None
    best = min(fitting, key=lambda rule: (not rule.trunk_ids, _rank(rule)))
    if pin_of(best.rule):
        raise MatchError(f"rule {best.sip_dispatch_rule_id} asks the caller for a PIN")
    return best


def _rank(rule: sip.SIPDispatchRuleInfo) -> int:
    rank = RANKS[rule.rule.WhichOneof("rule") or "dispatch_rule_callee"] + (0 if pin_of(rule.rule) else PINLESS)
    return rank + (0 if rule.inbound_numbers else UNFILTERED) + (0 if rule.numbers else UNFILTERED)
