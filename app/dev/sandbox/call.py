"""Follows a call from the Twilio number to the agent: whether it arrives, and if not, why."""

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from livekit.protocol import sip

from app.dev.sandbox.livekit_rules import check_conflicts
from app.dev.sandbox.livekit_wire import (
    DISABLE,
    REQUIRE,
    WILDCARD,
    TwirpError,
    called_numbers,
    effective_media,
    normalised,
    pin_of,
)
from app.dev.sandbox.state import CLOUD, OPEN_SOURCE_1_13_7, Sandbox

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
"""Twilio's SIP signalling addresses (twilio.com/docs/sip-trunking/ip-addresses, 2026-03-09)."""

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


def allows_twilio(addresses: Sequence[str]) -> bool:
    """Say whether a trunk's allowed addresses include at least one Twilio signalling address."""
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
    """Return the one trunk that accepts the call, or None and why none does (livekit/protocol sip/sip.go:509-600).

    Raise MatchError when two do.
    """
    number, refusals = normalised(called), []
    specific: list[sip.SIPInboundTrunkInfo] = []
    wildcard: list[sip.SIPInboundTrunkInfo] = []
    for trunk in trunks:
        if trunk.allowed_numbers and normalised(caller) not in map(normalised, trunk.allowed_numbers):
            refusals.append(f"{trunk.sip_trunk_id} does not allow the caller {caller}")
        elif not allows_twilio(trunk.allowed_addresses):
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
    """Raise MatchError when a call from a Twilio trunk, secure or not, has no media settings in common with LiveKit."""
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
    """Return the rule for the call: one that names the trunk beats wildcards, then the lower rank wins."""
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


Record = dict[str, Any]

DEFAULT_CALLER = "+15005550006"
"""The caller when none is given: Twilio's magic number for a valid one."""

SIP_URL = re.compile(r"sip:(?:(?P<user>[^@;?]*)@)?(?P<host>[^@:;?]+)(?::\d+)?(?:[;?].*)?", re.IGNORECASE)


class CallEndedError(Exception):
    """The call ends at this hop; the text is the reason."""


class CallPath:
    """The hops that a call has passed, and the hop where it ended."""

    def __init__(self) -> None:
        self.hops: list[dict[str, Any]] = []

    def passed(self, hop: str, resource_id: str | None, detail: str) -> None:
        """Record a hop that the call passed."""
        self.hops.append({"hop": hop, "id": resource_id, "ok": True, "detail": detail})

    def ended(self, hop: str, resource_id: str | None, reason: str) -> CallEndedError:
        """Record the hop where the call ended, and return the error to raise."""
        self.hops.append({"hop": hop, "id": resource_id, "ok": False, "detail": reason})
        return CallEndedError(reason)


def trace_call(sandbox: Sandbox, called: str, caller: str | None = None) -> dict[str, Any]:
    """Follow a call to a number; runs under the store's lock."""
    path, caller = CallPath(), caller or DEFAULT_CALLER
    agent_name, reason = None, ""
    try:
        number = _number(sandbox, path, called)
        trunk = _twilio_trunk(sandbox, path, number)
        _origination_url(sandbox, path, trunk)
        livekit_trunk = _livekit_trunk(sandbox, path, (called, caller))
        rule = _dispatch_rule(sandbox, path, (called, caller), livekit_trunk, is_secure=trunk["secure"])
        agent_name = _agent(path, rule)
    except CallEndedError as end:
        reason = str(end)
    return {"reaches": not reason, "agentName": agent_name, "reason": reason, "path": path.hops}


def _number(sandbox: Sandbox, path: CallPath, called: str) -> Record:
    ids = sandbox.store.number_by_phone.ids(called)
    if not ids:
        raise path.ended("twilioNumber", None, f"{called} is not a number of this account")
    number = sandbox.store.numbers.rows[ids[0]]
    sid = number["sid"]
    if not number["capabilities"]["voice"] or number["voice_receive_mode"] == "fax":
        raise path.ended("twilioNumber", sid, f"{called} does not take voice calls")
    if not number["trunk_sid"]:
        instead = number["voice_application_sid"] or number["voice_url"]
        where = f"calls go to {instead}" if instead else "nothing answers its calls"
        raise path.ended("twilioNumber", sid, f"{called} is on no trunk; {where}")
    path.passed("twilioNumber", sid, f"{called} is on trunk {number['trunk_sid']}")
    return number


def _twilio_trunk(sandbox: Sandbox, path: CallPath, number: Record) -> Record:
    trunk: Record | None = sandbox.store.trunks.get(number["trunk_sid"])
    if trunk is None:
        raise path.ended("twilioTrunk", number["trunk_sid"], f"trunk {number['trunk_sid']} does not exist")
    path.passed("twilioTrunk", trunk["sid"], f"{trunk['friendly_name']}, {'secure' if trunk['secure'] else 'plain'}")
    return trunk


def _origination_url(sandbox: Sandbox, path: CallPath, trunk: Record) -> None:
    """Find the first URL that answers: another host does not, so Twilio tries the next URL."""
    store = sandbox.store
    urls = [store.origination_urls.rows[sid] for sid in store.urls_by_trunk.ids(trunk["sid"])]
    enabled = sorted((url for url in urls if url["enabled"]), key=lambda url: (url["priority"], -url["weight"]))
    if not enabled:
        raise path.ended("originationUrl", None, f"trunk {trunk['sid']} has no enabled origination URL (32010)")
    host = sandbox.credentials.sip_host
    for url in enabled:
        parts = SIP_URL.fullmatch(url["sip_url"])
        if parts is None or parts["host"].lower() != host.lower():
            continue
        if parts["user"] is not None:
            reason = f"{url['sip_url']} has a user part, so every call arrives as {parts['user']}"
            raise path.ended("originationUrl", url["sid"], reason)
        path.passed("originationUrl", url["sid"], url["sip_url"])
        return
    first = enabled[0]
    raise path.ended("originationUrl", first["sid"], f"{first['sip_url']} does not lead to the SIP host {host}")


def _livekit_trunk(sandbox: Sandbox, path: CallPath, numbers: tuple[str, str]) -> sip.SIPInboundTrunkInfo | None:
    """Find the trunk that accepts the call; an open-source LiveKit continues without one."""
    store, (called, caller) = sandbox.store, numbers
    ids = {row_id for key in (normalised(called), WILDCARD) for row_id in store.inbound_by_number.ids(key)}
    trunks = [store.livekit_trunks.rows[row_id] for row_id in sorted(ids)]
    try:
        trunk, refusal = matching_trunk(trunks, called, caller)
    except MatchError as error:
        raise path.ended("livekitTrunk", None, str(error)) from None
    if trunk is None:
        if sandbox.switches.livekit_server == CLOUD:
            raise path.ended("livekitTrunk", None, f"LiveKit answers 404 (No trunk found): {refusal}")
        path.passed("livekitTrunk", None, f"the call goes on without a trunk: {refusal}")
        return None
    if trunk.auth_username and trunk.auth_password:
        reason = "LiveKit answers 407: the trunk asks for a password, which Twilio cannot give"
        raise path.ended("livekitTrunk", trunk.sip_trunk_id, reason)
    path.passed("livekitTrunk", trunk.sip_trunk_id, trunk.name or ", ".join(trunk.numbers) or "any number")
    return trunk


def _dispatch_rule(
    sandbox: Sandbox,
    path: CallPath,
    numbers: tuple[str, str],
    trunk: sip.SIPInboundTrunkInfo | None,
    *,
    is_secure: bool,
) -> sip.SIPDispatchRuleInfo:
    """Find the rule for the call: without a trunk only a catch-all matches, but any conflict of rules ends the call."""
    store, rows = sandbox.store, sandbox.store.livekit_rules.rows
    keys = (trunk.sip_trunk_id, WILDCARD) if trunk else ()
    ids = {row_id for key in keys for row_id in store.rules_by_trunk.ids(key)} if trunk else rows.keys()
    rules = [rows[row_id] for row_id in sorted(ids)]
    try:
        check_conflicts(rules)
        rule = matching_rule((each for each in rules if trunk or not each.trunk_ids), *numbers)
        if rule:
            check_media(effective_media(trunk, rule), is_secure=is_secure)
    except TwirpError as error:
        raise path.ended("dispatchRule", None, f"LiveKit answers 503: {error.message}") from None
    except MatchError as error:
        raise path.ended("dispatchRule", None, str(error)) from None
    if rule is None:
        raise path.ended("dispatchRule", None, f"no dispatch rule matches: {_unmatched(sandbox)}")
    path.passed("dispatchRule", rule.sip_dispatch_rule_id, rule.name or "unnamed rule")
    return rule


def _unmatched(sandbox: Sandbox) -> str:
    """Return what happens to a call that no rule matches."""
    if sandbox.switches.livekit_server == OPEN_SOURCE_1_13_7:
        return "LiveKit rings once (180) and gives no final answer, the caller hears silence"
    return "LiveKit answers 404 (Does not match Trunks or Dispatch Rules)"


def _agent(path: CallPath, rule: sip.SIPDispatchRuleInfo) -> str:
    agents = [agent.agent_name for agent in rule.room_config.agents]
    if not agents or not agents[0]:
        raise path.ended("agent", None, f"rule {rule.sip_dispatch_rule_id} names no agent")
    path.passed("agent", agents[0], f"agent {agents[0]} is dispatched to the room")
    return agents[0]
