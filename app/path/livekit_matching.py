"""How LiveKit matches an inbound call: the trunk that takes it, the rule, and the media. Pure, to the letter.

From livekit/protocol (sip/sip.go: MatchTrunkDetailed, MatchDispatchRuleIter; livekit/sip.go: Merge), livekit/livekit
(pkg/service/ioservice_sip.go) and livekit/sip (pkg/sip/media_codecs.go). The From header's host is left out of the
address check: Twilio writes its own there, which no list of addresses names.
"""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, collapse_addresses, ip_address
from typing import NamedTuple

from app.domain.sip_uris import TWILIO_SIGNALLING
from app.path.observed import (
    DispatchRule,
    Encryption,
    InboundTrunk,
    Media,
    Observed,
    RuleKind,
    RulePair,
    first_rule_conflict,
    normalised,
)

TWILIO_BLOCKS = {block: tuple(map(str, IPv4Network(block))) for block in TWILIO_SIGNALLING}
"""Block -> its addresses, all four of which Twilio uses."""

TWILIO_ADDRESSES = tuple(address for addresses in TWILIO_BLOCKS.values() for address in addresses)

_NOT_IN_AN_ADDRESS = frozenset("()+*;, \t\n\r")

SHORTEST_CALL_S = 10.0
"""A shorter `max_call_duration` cuts every call before anything is said."""

SHORTEST_RINGING_S = 1.0
"""A shorter `ringing_timeout` ends before an agent can answer."""

_LISTS = 16_384
"""Lists of addresses or numbers that are kept parsed: all agents of an installation usually share one or two."""


class TrunkMatch(NamedTuple):
    """Which trunk takes a call; None where none does, or where several would (`rivals`): LiveKit answers with 503."""

    trunk: InboundTrunk | None
    rivals: Sequence[InboundTrunk] = ()


class RuleMatch(NamedTuple):
    """Which rule takes a call; None where none does, or where two contradict each other: LiveKit answers with 503."""

    rule: DispatchRule | None
    conflict: RulePair | None = None


def match_trunk(observed: Observed, called: str, caller: str, source: str) -> TrunkMatch:
    """Find the trunk of a call (sip.go, MatchTrunkDetailed): those that have the number go before the wildcards."""
    for trunks in (observed.trunks_for(called), observed.wildcard_trunks):
        matching = [trunk for trunk in trunks if lets_in(trunk, caller, source)]
        if matching:
            return TrunkMatch(matching[0]) if len(matching) == 1 else TrunkMatch(None, matching)
    return TrunkMatch(None)


def lets_in(trunk: InboundTrunk, caller: str, source: str) -> bool:
    """Tell whether a trunk takes calls of this caller from this address."""
    return lets_caller_in(trunk.allowed_numbers, caller) and admits(trunk.allowed_addresses, source)


def lets_caller_in(allowed: tuple[str, ...], caller: str) -> bool:
    """Tell whether an `allowed_numbers` has the caller (sip.go, matchNumbers); an empty one has everybody."""
    return not allowed or normalised(caller) in normalised_all(allowed)


@lru_cache(maxsize=_LISTS)
def normalised_all(numbers: tuple[str, ...]) -> frozenset[str]:
    """Return the numbers as LiveKit compares them."""
    return frozenset(map(normalised, numbers))


def admits(allowed: tuple[str, ...], source: str) -> bool:
    """Tell whether an `allowed_addresses` has the address (sip.go, matchAddrMasks).

    Entries that look like no address are discarded; where none is left, everybody is let in. A source that is no
    address is let in as well.
    """
    if not allowed:
        return True
    return _admits(allowed, source)


@lru_cache(maxsize=_LISTS)
def addresses_let_in(allowed: tuple[str, ...]) -> frozenset[str]:
    """Return which of Twilio's addresses an `allowed_addresses` lets in."""
    return frozenset(address for address in TWILIO_ADDRESSES if admits(allowed, address))


@lru_cache(maxsize=_LISTS)
def _admits(allowed: tuple[str, ...], source: str) -> bool:
    try:
        address = ip_address(source)
    except ValueError:
        return True
    blocks, lets_all_in = _blocks(allowed)
    return lets_all_in or any(address in block for block in blocks)


@lru_cache(maxsize=_LISTS)
def is_open_to_all(allowed: tuple[str, ...]) -> bool:
    """Tell whether an `allowed_addresses` lets in every IPv4 address."""
    blocks, lets_all_in = _blocks(allowed)
    joined = collapse_addresses(block for block in blocks if isinstance(block, IPv4Network))
    return lets_all_in or any(block.prefixlen == 0 for block in joined)


@lru_cache(maxsize=_LISTS)
def sources_of(allowed: tuple[str, ...]) -> tuple[str, ...]:
    """Return the addresses from which calls come where the setting of allowed addresses is this.

    They are Twilio's; but where the setting has none of them, calls come through a proxy, from the first address of
    each of its blocks.
    """
    blocks, lets_all_in = _blocks(allowed)
    if lets_all_in or addresses_let_in(allowed):
        return TWILIO_ADDRESSES
    return tuple(dict.fromkeys(str(block.network_address) for block in blocks)) or TWILIO_ADDRESSES


@lru_cache(maxsize=_LISTS)
def covers(allowed: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    """Tell whether `allowed` lets in all that `wanted` does; each block of it by its first and its last address."""
    ends = (str(end) for block in _blocks(wanted)[0] for end in (block.network_address, block.broadcast_address))
    return all(admits(allowed, address) for address in (*sources_of(wanted), *ends))


@lru_cache(maxsize=_LISTS)
def _blocks(allowed: tuple[str, ...]) -> tuple[list[IPv4Network | IPv6Network], bool]:
    """Return the blocks that can be read, and whether every entry is discarded (filterInvalidAddrMasks)."""
    masks = [mask for mask in allowed if "://" not in mask and not _NOT_IN_AN_ADDRESS.intersection(mask)]
    return [block for block in map(_block, masks) if block is not None], not masks


def _block(mask: str) -> IPv4Network | IPv6Network | None:
    """Read an address or block as Go's netip does: bits behind the slash, no netmask; host bits may be set."""
    address_text, slash, bits_text = mask.rpartition("/")
    try:
        address = ip_address(address_text if slash else mask)
    except ValueError:
        return None
    bits: int = address.max_prefixlen
    if slash:
        is_number = bits_text.isascii() and bits_text.isdigit() and str(int(bits_text[:4])) == bits_text
        if not is_number or int(bits_text) > bits or _has_zone(address):
            return None
        bits = int(bits_text)
    if isinstance(address, IPv4Address):
        return IPv4Network((int(address), bits), strict=False)
    return None if _has_zone(address) else IPv6Network((int(address), bits), strict=False)


def _has_zone(address: IPv4Address | IPv6Address) -> bool:
    return isinstance(address, IPv6Address) and address.scope_id is not None


_PRIORITIES = {RuleKind.DIRECT: 0, RuleKind.INDIVIDUAL: 1, RuleKind.CALLEE: 2}

_UNKNOWN_KIND = 2**31 - 1
_WITHOUT_PIN = 100
_WITHOUT_LIST = 1000


def rank(rule: DispatchRule) -> tuple[int, str]:
    """Return by what LiveKit prefers a rule, the lowest first (sip.go, DispatchRulePriority, hasHigherPriority).

    A kind that only a newer server knows comes last, as in its own releases one that it does not know.
    """
    if rule.kind is RuleKind.UNKNOWN:
        return _UNKNOWN_KIND, ""
    return (
        _PRIORITIES[rule.kind]
        + (0 if rule.pin else _WITHOUT_PIN)
        + (0 if rule.inbound_numbers else _WITHOUT_LIST)
        + (0 if rule.numbers else _WITHOUT_LIST),
        rule.room,
    )


def takes(rule: DispatchRule, called: str, caller: str) -> bool:
    """Tell whether a rule's filters let a call through: raw text, not normalised."""
    return (not rule.inbound_numbers or caller in rule.inbound_numbers) and (not rule.numbers or called in rule.numbers)


def match_rule(
    observed: Observed, trunk: InboundTrunk | None, called: str, caller: str, pin: str | None = None
) -> RuleMatch:
    """Find the rule of a call (sip.go, MatchDispatchRuleIter): at first, or for the PIN that the caller has entered.

    Rules that name the trunk go before the wildcards. All candidates are held against each other first, whatever
    they filter; without a trunk all rules of the project are, and only a wildcard can match. At first a rule counts
    whatever its PIN; once one is entered, those with this PIN alone.
    """
    wildcards = observed.wildcard_rules
    if trunk is None:
        named, conflict = [], observed.rule_conflict
    else:
        named = observed.rules_for(trunk.id)
        conflict = _conflict_of(observed, named)
    if conflict:
        return RuleMatch(None, conflict)
    if pin is not None:
        named, wildcards = ([rule for rule in rules if rule.pin == pin] for rules in (named, wildcards))
    best = _best(named, called, caller)
    return RuleMatch(best if best is not None else _best(wildcards, called, caller))


def _conflict_of(observed: Observed, named: list[DispatchRule]) -> RulePair | None:
    """Return two rules of a trunk or wildcards that contradict each other.

    A rule that names a trunk and a wildcard have different keys, unless the rule names an empty id besides.
    """
    if any("" in rule.trunk_ids for rule in named):
        return first_rule_conflict(sorted([*named, *observed.wildcard_rules], key=lambda one: one.id))
    return first_rule_conflict(named) or observed.wildcard_rule_conflict


def _best(rules: list[DispatchRule], called: str, caller: str) -> DispatchRule | None:
    if len(rules) == 1:
        return rules[0] if takes(rules[0], called, caller) else None
    return min((rule for rule in rules if takes(rule, called, caller)), key=rank, default=None)


LONGEST_ROOM_NAME = 256
"""Bytes (livekit/livekit pkg/config/config.go:559)."""

LONGEST_CALLER = "+" + 15 * "9"
"""A caller than which none is longer: E.164 has at most fifteen digits."""

_RANDOM_PART = 13
"""An underscore and twelve characters."""

_SHOWN_DIGITS = 4
"""Digits that are left of a hidden caller; of a number that has no more, the last one."""


def is_room_named(rule: DispatchRule, called: str, caller: str) -> bool:
    """Tell whether the room of a call gets a name, and one that LiveKit takes (livekit/protocol sip/sip.go:867-950).

    One of a kind that only a newer server knows is taken to have one.
    """
    length = _bytes(rule.room)
    if rule.kind in {RuleKind.INDIVIDUAL, RuleKind.CALLEE}:
        number = called
        if rule.kind is RuleKind.INDIVIDUAL:
            number = _hidden(caller) if rule.hides_caller else caller
        length += (length > 0) + _bytes(number) + (0 if rule.is_fixed_room else _RANDOM_PART)
    return rule.kind is RuleKind.UNKNOWN or 0 < length <= LONGEST_ROOM_NAME


def _bytes(text: str) -> int:
    return len(text.encode(errors="replace"))


def _hidden(caller: str) -> str:
    return caller[-_SHOWN_DIGITS:] if len(caller) > _SHOWN_DIGITS else caller[-1:]


def merged_encryption(trunk: InboundTrunk | None, rule: DispatchRule | None) -> Encryption:
    """Return the encryption of a call: the rule's, unless that is not set (livekit/sip.go, MergeValue)."""
    if rule is not None and rule.media.encryption is not Encryption.DISABLE:
        return rule.media.encryption
    return trunk.media.encryption if trunk is not None else Encryption.DISABLE


def codec_media(trunk: InboundTrunk | None, rule: DispatchRule | None) -> tuple[Media, bool]:
    """Return whose codecs a call has, and whether they are the rule's: the trunk's, unless the rule names some."""
    if rule is not None and (rule.media.codecs or trunk is None):
        return rule.media, True
    return (trunk.media if trunk is not None else Media()), False


_TWILIO_CODECS = frozenset({"pcmu/8000", "pcma/8000"})
"""What Twilio's trunks offer: G.711 in both forms (https://www.twilio.com/docs/sip-trunking)."""

_CLOCK_RATES = {"PCMU": 8000, "PCMA": 8000, "G722": 8000, "AMR-WB": 16000}
"""The codecs that LiveKit knows a clock rate for; of any other, one without a rate makes every call fail."""


def accepts_twilio_codecs(media: Media) -> bool:
    """Tell whether these media settings leave a codec that Twilio offers."""
    return not codec_fault(media)


def codec_fault(media: Media) -> str:
    """Return why LiveKit refuses a call of Twilio for its codecs, or "" (media_codecs.go, codecSet)."""
    if has_unusable_codecs(media):
        what = "lists a codec without its clock rate"
        return what if media.codecs else "allows only listed codecs, and lists none"
    if media.only_listed_codecs and _TWILIO_CODECS.isdisjoint(map(str.lower, map(_with_rate, media.codecs))):
        return "allows only codecs that Twilio does not offer"
    return ""


def has_unusable_codecs(media: Media) -> bool:
    """Tell whether LiveKit can make nothing of the codecs, and answers every call with 500 (media_codecs.go)."""
    if not media.codecs:
        return media.only_listed_codecs
    return not all(name and rate for name, _, rate in (_with_rate(codec).partition("/") for codec in media.codecs))


def _with_rate(codec: str) -> str:
    return codec if "/" in codec else f"{codec}/{_CLOCK_RATES.get(codec, '')}"
