"""What LiveKit compares when it looks for conflicts: normalised numbers, and the keys of trunks and rules."""

import re
from collections.abc import Iterable

from livekit.protocol import sip

WILDCARD = ""
"""Key of a trunk without numbers and of a rule without trunks."""

_DIALLABLE = re.compile(r"\+?[\d \-()]+", re.ASCII)
_PUNCTUATION = re.compile(r"[ \-()+]")

RuleKey = tuple[str, str, str, str]


def normalised(number: str) -> str:
    """Return `+` and digits for anything that reads as a phone number, all else untouched.

    Source: livekit/protocol livekit/sip.go:1177-1202.
    """
    if not _DIALLABLE.fullmatch(number):
        return number
    return "+" + _PUNCTUATION.sub("", number)


def called_numbers(trunk: sip.SIPInboundTrunkInfo) -> list[str]:
    """Return the normalised numbers of a trunk, or the wildcard."""
    return [normalised(number) for number in trunk.numbers] or [WILDCARD]


def pin_of(rule: sip.SIPDispatchRule) -> str:
    """Return the PIN that a rule asks for, or the empty text."""
    kind = rule.WhichOneof("rule")
    return str(getattr(rule, kind).pin) if kind else ""


def rule_keys(rule: sip.SIPDispatchRuleInfo) -> Iterable[RuleKey]:
    """Yield PIN x trunk x caller x called number; rules that share one conflict (livekit/protocol sip/sip.go:185)."""
    pin = pin_of(rule.rule)
    for trunk_id in rule.trunk_ids or [WILDCARD]:
        for caller in rule.inbound_numbers or [""]:
            for called in rule.numbers or [""]:
                yield (pin, trunk_id, normalised(caller), normalised(called))
