"""What LiveKit's SIP server does with one INVITE from Twilio: which trunk and rule take it, and who answers.

Written from the Go sources, in their order: livekit/sip pkg/sip/inbound.go (`processInvite`, `handleInvite`),
livekit/livekit pkg/service/ioservice_sip.go, livekit/protocol sip/sip.go.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import IPv4Address
from typing import Any

from google.protobuf.duration_pb2 import Duration
from livekit.protocol import sip

from app.dev.sandbox.livekit_rules import UNSUPPORTED, check_conflicts
from app.dev.sandbox.livekit_wire import (
    DISABLE,
    REQUIRE,
    WILDCARD,
    TwirpError,
    called_numbers,
    new_id,
    normalised,
    pin_of,
)
from app.dev.sandbox.magic_numbers import is_answered
from app.dev.sandbox.state import CLOUD, OPEN_SOURCE_1_13_7, Sandbox

Trunk = sip.SIPInboundTrunkInfo
Rule = sip.SIPDispatchRuleInfo
Hop = dict[str, Any]

OK, BAD_REQUEST, NOT_FOUND, PROXY_AUTH, BUSY_HERE = 200, 400, 404, 407, 486
INTERNAL_ERROR, UNAVAILABLE = 500, 503
"""SIP statuses."""


def hop(name: str, resource_id: str | None, detail: str, *, ok: bool = True) -> Hop:
    """Describe one hop of a call: passed, or where it ended."""
    return {"hop": name, "id": resource_id, "ok": ok, "detail": detail}


PCMU, PCMA = "pcmu/8000", "pcma/8000"

TWILIO_CODECS = frozenset({PCMU, PCMA})
"""What Twilio offers."""


@dataclass(frozen=True, slots=True)
class Invite:
    """The INVITE: the user of its To and From headers, its source address, and what media it offers."""

    called: str
    caller: str
    source: str
    is_secure: bool
    """Whether it offers SRTP."""
    codecs: frozenset[str] = TWILIO_CODECS
    pin: str | None = None
    """What the caller dials before the `#` when asked for a PIN; None for one who hangs up then."""

    def to(self, called: str) -> "Invite":
        """Return the same for another called number."""
        return replace(self, called=called)


RINGING_S = 180.0
"""How long LiveKit rings when the trunk does not say (livekit/sip pkg/sip/participant.go:75-83)."""

MAX_CALL_S = 24 * 3600.0
"""How long a call lasts when the trunk does not say, and at most (the same place)."""


@dataclass(slots=True)
class Answer:
    """LiveKit's last word: a SIP status, None for silence; `reason` is empty when a named agent answers and stays."""

    hops: list[Hop]
    status: int | None
    reason: str = ""
    agents: list[str] = field(default_factory=list)
    """All that the rule dispatches."""
    is_ended_by_twilio: bool = False
    answered_by: str | None = None
    """The agent that picks up; "" for a worker without a name, None for nobody."""
    codecs: frozenset[str] = frozenset()
    """Those that LiveKit takes."""
    encryption: int = DISABLE
    room: str = ""
    """The room that the call waits in for its answer; none for a call that is refused before, or asked for a PIN."""
    trunk: Trunk | None = None
    rule: Rule | None = None
    is_asked: bool = False
    """Whether the call was accepted to ask for a PIN: it stands from then on."""
    is_ringing: bool = False
    """Whether a 180 comes before the status."""
    rings_s: float = 0.0
    """How long the call rings before its status, where nobody answers; seconds."""
    longest_s: float = MAX_CALL_S
    """After how many seconds, counted from the INVITE, LiveKit ends the call."""


class RefusedError(Exception):
    """The call ends at this hop, with this status."""

    def __init__(self, name: str, resource_id: str | None, status: int | None, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.hop = hop(name, resource_id, reason, ok=False)


def take_invite(sandbox: Sandbox, invite: Invite) -> Answer:
    """Follow an INVITE through LiveKit."""
    answer = Answer([], OK)
    try:
        answer.trunk = _matched_trunk(sandbox, answer.hops, invite)
        answer.is_ringing = True
        answer.rule = rule = _matched_rule(sandbox, invite, answer.trunk)
        answer.encryption, answer.codecs = _check_media(answer.trunk, rule, invite)
        if pin_of(rule.rule):
            answer.is_asked = True
            answer.rule = rule = _rule_by_pin(sandbox, invite, answer.trunk, rule)
        answer.room = _joined_room(sandbox, rule, invite)
        answer.hops.append(hop("dispatchRule", rule.sip_dispatch_rule_id, rule.name or "unnamed rule"))
        answer.agents = [agent.agent_name for agent in rule.room_config.agents if agent.agent_name]
        _check_answered(sandbox, invite, answer, rule)
    except RefusedError as end:
        answer.hops.append(end.hop)
        answer.status, answer.reason = OK if answer.is_asked else end.status, str(end)
        return answer
    name = answer.answered_by
    answer.hops.append(hop("agent", name, f"agent {name} is dispatched to the room"))
    if invite.is_secure and answer.encryption == DISABLE:
        # LiveKit answers an offer of SRTP in the clear then (livekit/media-sdk sdp/offer.go, Answer). That Twilio hangs
        # up is said by its errors 32207 and 32208, and is the purpose of a secure trunk.
        answer.reason = "the Twilio trunk is secure and neither LiveKit's trunk nor its rule encrypts media"
        answer.hops[-1] = hop("agent", name, f"{answer.reason}: Twilio hangs up", ok=False)
        answer.is_ended_by_twilio = True
    return answer


ADDRESS_SEPARATORS = re.compile(r"[()+*;, \t\r\n]|://")
"""An entry with any of these is discarded; when nothing else remains, every address is allowed (sip.go:402-461)."""

OCTET = r"(?:0|[1-9][0-9]{0,2})"
ADDRESS_MASK = re.compile(rf"(?P<address>{OCTET}(?:\.{OCTET}){{3}})(?:/(?P<bits>0|[1-9][0-9]?))?", re.ASCII)
"""What Go's netip reads as an IPv4 address or prefix: no leading zeros, no netmask as an address."""


@lru_cache(maxsize=4096)
def _network(entry: str) -> tuple[int, int] | None:
    """Return an IPv4 entry as (network, bits to drop); None for what matches no IPv4 address.

    An IPv6 entry, also one of a mapped IPv4 address, never matches an IPv4 source (Go's netip.Prefix.Contains).
    """
    parts = ADDRESS_MASK.fullmatch(entry)
    if parts is None:
        return None
    dropped = 32 - int(parts["bits"] or 32)
    try:
        address = int(IPv4Address(parts["address"]))
    except ValueError:
        return None
    return (address >> dropped, dropped) if dropped >= 0 else None


def allows_address(entries: Sequence[str], source: str) -> bool:
    """Say whether a trunk's allowed addresses let in this IPv4 address.

    An entry that equals the host of the From header matched too before livekit/protocol 1.53.2. What Twilio writes
    there is not documented, so it is left out: no entry that is meant as an address depends on it.
    """
    valid = [entry for entry in entries if not ADDRESS_SEPARATORS.search(entry)]
    address = int(IPv4Address(source)) if valid else 0
    networks = [network for network in map(_network, valid) if network]
    return not valid or any(address >> dropped == prefix for prefix, dropped in networks)


def _matched_trunk(sandbox: Sandbox, hops: list[Hop], invite: Invite) -> Trunk | None:
    """Find the one trunk that takes the call (livekit/protocol sip/sip.go:509-600); None: it goes on without one."""
    called, caller = normalised(invite.called), normalised(invite.caller)
    refusals: list[str] = []
    specific: list[Trunk] = []
    wildcard: list[Trunk] = []
    for trunk in _trunks_of(sandbox, called):
        if trunk.allowed_numbers and caller not in map(normalised, trunk.allowed_numbers):
            refusals.append(f"{trunk.sip_trunk_id} does not allow the caller {invite.caller}")
        elif not allows_address(trunk.allowed_addresses, invite.source):
            refusals.append(f"{trunk.sip_trunk_id} does not allow Twilio's address {invite.source}")
        elif not trunk.numbers:
            wildcard.append(trunk)
        elif called in called_numbers(trunk):
            specific.append(trunk)
    for matches in (specific, wildcard):
        if len(matches) > 1:
            ids = " and ".join(trunk.sip_trunk_id for trunk in matches)
            reason = f"LiveKit answers 503: trunks {ids} both match {invite.called}"
            raise RefusedError("livekitTrunk", None, UNAVAILABLE, reason)
        if matches:
            return _authenticated(hops, matches[0])
    refusal = "; ".join(refusals) or f"no trunk has the number {invite.called}"
    if sandbox.switches.livekit_server == CLOUD:
        reason = f"LiveKit answers 404 (No trunk found): {refusal}"
        raise RefusedError("livekitTrunk", None, NOT_FOUND, reason)
    hops.append(hop("livekitTrunk", None, f"the call goes on without a trunk: {refusal}"))
    return None


def _trunks_of(sandbox: Sandbox, called: str) -> list[Trunk]:
    store = sandbox.store
    ids = {row_id for key in (called, WILDCARD) for row_id in store.inbound_by_number.ids(key)}
    return [store.livekit_trunks.rows[row_id] for row_id in sorted(ids)]


def _authenticated(hops: list[Hop], trunk: Trunk) -> Trunk:
    """Ask for a password only if user and password are both set (livekit/sip pkg/service/psrpc.go)."""
    if trunk.auth_username and trunk.auth_password:
        reason = "LiveKit answers 407: the trunk asks for a password, which Twilio cannot give"
        raise RefusedError("livekitTrunk", trunk.sip_trunk_id, PROXY_AUTH, reason)
    hops.append(hop("livekitTrunk", trunk.sip_trunk_id, trunk.name or ", ".join(trunk.numbers) or "any number"))
    return trunk


KINDS = {"dispatch_rule_direct": 0, "dispatch_rule_individual": 1, "dispatch_rule_callee": 2}
OPEN = 100
"""Added to a rule's priority when it asks for no PIN."""

UNFILTERED = 1000
"""Added to a rule's priority for each filter, of callers and of called numbers, that it lacks (sip.go:66-108)."""


def _matched_rule(sandbox: Sandbox, invite: Invite, trunk: Trunk | None) -> Rule:
    """Find the rule for the call (livekit/protocol sip/sip.go:757-834).

    All rules that name the trunk and all wildcards are checked against each other first, without a trunk all rules
    there are; then numbers are compared as plain text. A caller has sent no PIN at this point, so no rule is left out
    for its PIN, and those with one come first.
    """
    if fitting := _fitting_rules(sandbox, invite, trunk):
        return _best(fitting)
    if sandbox.switches.livekit_server == OPEN_SOURCE_1_13_7:
        status, how = None, "LiveKit rings once (180) and gives no final answer, the caller hears silence"
    else:
        status, how = NOT_FOUND, "LiveKit answers 404 (Does not match Trunks or Dispatch Rules)"
    raise RefusedError("dispatchRule", None, status, f"no dispatch rule matches: {how}")


LONGEST_PIN = 16
"""Digits; a caller who dials more is told that it is wrong (livekit/sip pkg/sip/inbound.go, pinPrompt)."""


def _rule_by_pin(sandbox: Sandbox, invite: Invite, trunk: Trunk | None, asking: Rule) -> Rule:
    """Find the rule for what the caller dials (pinPrompt, and sip.go again with `Pin`, or `NoPin` for a `#` alone).

    Only rules with that very PIN count then, also where the one that had the caller asked has another.
    """
    rule_id = asking.sip_dispatch_rule_id
    if invite.pin is None:
        raise RefusedError("dispatchRule", rule_id, OK, f"rule {rule_id} asks the caller for a PIN")
    is_possible = len(invite.pin) <= LONGEST_PIN
    fitting = [rule for rule in _fitting_rules(sandbox, invite, trunk) if pin_of(rule.rule) == invite.pin]
    if not fitting or not is_possible:
        raise RefusedError(
            "dispatchRule", rule_id, OK, f"rule {rule_id} asks for a PIN, and no rule has the one dialled"
        )
    return _best(fitting)


def _best(rules: list[Rule]) -> Rule:
    return min(rules, key=lambda rule: (not rule.trunk_ids, _priority(rule), _room(rule)))


def _fitting_rules(sandbox: Sandbox, invite: Invite, trunk: Trunk | None) -> list[Rule]:
    """Return the rules that a call may match; end it where those that are looked at contradict each other."""
    store = sandbox.store
    ids: Iterable[str] = store.livekit_rules.rows
    if trunk:
        ids = {row_id for key in (trunk.sip_trunk_id, WILDCARD) for row_id in store.rules_by_trunk.ids(key)}
    rules = [store.livekit_rules.rows[row_id] for row_id in sorted(ids)]
    _check_rules(rules)
    return [rule for rule in rules if (trunk or not rule.trunk_ids) and _fits(rule, invite)]


def _check_rules(rules: list[Rule]) -> None:
    """End the call if two rules conflict, or if one is of a kind that LiveKit does not know (sip.go:172-237)."""
    reason = next((UNSUPPORTED for rule in rules if rule.rule.WhichOneof("rule") is None), "")
    try:
        check_conflicts(rules)
    except TwirpError as error:
        reason = error.message
    if reason:
        raise RefusedError("dispatchRule", None, UNAVAILABLE, f"LiveKit answers 503: {reason}")


def _fits(rule: Rule, invite: Invite) -> bool:
    is_for_caller = not rule.inbound_numbers or invite.caller in rule.inbound_numbers
    return is_for_caller and (not rule.numbers or invite.called in rule.numbers)


def _priority(rule: Rule) -> int:
    priority = KINDS[rule.rule.WhichOneof("rule") or "dispatch_rule_callee"] + (0 if pin_of(rule.rule) else OPEN)
    return priority + (0 if rule.inbound_numbers else UNFILTERED) + (0 if rule.numbers else UNFILTERED)


def _room(rule: Rule) -> str:
    """Return the room's name or prefix, which decides between rules of one priority."""
    kind = rule.rule.WhichOneof("rule") or "dispatch_rule_callee"
    one = getattr(rule.rule, kind)
    return str(one.room_name if kind == "dispatch_rule_direct" else one.room_prefix)


DEFAULT_CODECS = frozenset({PCMU, PCMA, "g722/8000"})
"""What LiveKit takes unless only listed codecs count (livekit/sip pkg/sip/media_codecs.go)."""

DEFAULT_RATES = {"PCMU": 8000, "PCMA": 8000, "G722": 8000, "AMR-WB": 16000}
"""Codecs whose sample rate may be left out; their names count in this spelling only (the same file)."""


def _check_media(trunk: Trunk | None, rule: Rule, invite: Invite) -> tuple[int, frozenset[str]]:
    """Return a call's encryption and codecs, or end it: settings that LiveKit cannot use, or nothing in common.

    The rule's encryption and codecs win over the trunk's where they are set, `only_listed_codecs` goes with the codecs
    (livekit/protocol livekit/sip.go, Merge).
    """
    rule_id = rule.sip_dispatch_rule_id
    encryption = _encryption(rule) or (_encryption(trunk) if trunk else DISABLE)
    media = trunk.media if trunk and not rule.media.codecs else rule.media
    if encryption not in sip.SIPMediaEncryption.values():
        reason = f"LiveKit answers 500: it does not know the media encryption {encryption}"
        raise RefusedError("dispatchRule", rule_id, INTERNAL_ERROR, reason)
    codecs = set() if media.only_listed_codecs else set(DEFAULT_CODECS)
    if media.only_listed_codecs and not media.codecs:
        reason = "LiveKit answers 500: its trunk or rule allows only listed codecs and lists none"
        raise RefusedError("dispatchRule", rule_id, INTERNAL_ERROR, reason)
    for codec in media.codecs:
        rate = codec.rate or DEFAULT_RATES.get(codec.name)
        if not codec.name or not rate:
            reason = f"LiveKit answers 500: the codec {codec.name} of its trunk or rule has no sample rate"
            raise RefusedError("dispatchRule", rule_id, INTERNAL_ERROR, reason)
        codecs.add(f"{codec.name}/{rate}".lower())
    if codecs.isdisjoint(invite.codecs):
        reason = "LiveKit answers 400: its trunk or rule lists no codec that the caller offers"
        raise RefusedError("dispatchRule", rule_id, BAD_REQUEST, reason)
    if encryption == REQUIRE and not invite.is_secure:
        reason = "LiveKit answers 400: its trunk or rule requires encrypted media and the Twilio trunk is not secure"
        raise RefusedError("dispatchRule", rule_id, BAD_REQUEST, reason)
    return encryption, frozenset(codecs)


def _encryption(info: Trunk | Rule) -> int:
    """Return what trunk or rule says; the old field counts where the new one is not set (UpgradeWith)."""
    return info.media.encryption if info.media.HasField("encryption") else info.media_encryption


MAX_ROOM_NAME = 256
"""Bytes (livekit/livekit pkg/config/config.go:559)."""

HIDDEN_DIGITS = 4
"""Of a hidden caller's number so many digits remain, of a number that is no longer only the last."""


def shown_caller(rule: Rule, caller: str) -> str:
    """Return the caller's number as room and participant name it: cut where the rule hides it."""
    if not rule.hide_phone_number:
        return caller
    return caller[-HIDDEN_DIGITS:] if len(caller) > HIDDEN_DIGITS else caller[-1:]


def caller_identity(rule: Rule, caller: str) -> str:
    """Return the identity by which a caller is in a room (livekit/protocol sip/sip.go, EvaluateDispatchRule)."""
    hidden = rule.hide_phone_number
    return f"sip_{hashlib.sha256(caller.encode()).hexdigest()[:16] if hidden else caller}"


def _room_name(rule: Rule, invite: Invite) -> str:
    """Return the room's name (livekit/protocol sip/sip.go:867-950)."""
    kind, name = rule.rule.WhichOneof("rule"), _room(rule)
    if kind == "dispatch_rule_direct":
        return name
    if kind == "dispatch_rule_individual":
        number, is_unique = shown_caller(rule, invite.caller), not rule.rule.dispatch_rule_individual.no_randomness
    else:
        number, is_unique = invite.called, rule.rule.dispatch_rule_callee.randomize
    return (f"{name}_" if name else "") + number + (new_id("_") if is_unique else "")


def _joined_room(sandbox: Sandbox, rule: Rule, invite: Invite) -> str:
    """Return the name of the room that the call joins, or end the call if it does not get into it.

    LiveKit's SIP server cannot join a room without a name, or with one that is too long (livekit/livekit
    pkg/service/utils.go:368-376), or with a preset that the server does not have (roomallocator.go:204-212), or that is
    full, agents not counted (pkg/rtc/room.go, Join): it refuses the call with 486 then (joinRoom), and hangs up if it
    stands already.
    """
    rule_id, name = rule.sip_dispatch_rule_id, _room_name(rule, invite)
    live, reason = sandbox.rooms.get(sandbox.project, name), ""
    if not 0 < len(name.encode()) <= MAX_ROOM_NAME:
        reason = f"makes a room name of more than {MAX_ROOM_NAME} bytes" if name else "has no room name"
    elif rule.room_preset and rule.room_preset not in sandbox.switches.room_presets:
        reason = f"names the room preset {rule.room_preset}, which LiveKit does not have"
    elif live is not None and live.is_full_for(caller_identity(rule, invite.caller)):
        reason = f"leads to the room {name}, which is full"
    if reason:
        what = "LiveKit hangs up" if pin_of(rule.rule) else "LiveKit answers 486"
        raise RefusedError("dispatchRule", rule_id, BUSY_HERE, f"{what}: rule {rule_id} {reason}")
    return name


ANSWER_S = 1.0
"""How long an agent takes to answer: it joins the room and publishes sound. No agent is faster."""

KEPT_S = 10.0
"""A call that LiveKit cuts before is of no use to its caller."""

NANOS = 1e-9


def _seconds(duration: Duration, otherwise: float) -> float:
    """Return a trunk's duration; zero and less mean that it does not say (inbound.go, handleInvite)."""
    seconds = duration.seconds + duration.nanos * NANOS
    return seconds if seconds > 0 else otherwise


def ringing_s(trunk: Trunk | None) -> float:
    """Return how long a call rings at most; seconds."""
    return _seconds(trunk.ringing_timeout, RINGING_S) if trunk else RINGING_S


def has_worker(sandbox: Sandbox, agent: str) -> bool:
    """Say whether a worker is registered under this name; "" stands for one without a name."""
    workers = sandbox.switches.agents
    return sandbox.switches.unnamed_agent if not agent else workers is None or agent in workers


def _check_answered(sandbox: Sandbox, invite: Invite, answer: Answer, rule: Rule) -> None:
    """Find the agent that answers; end the call if none that the rule names does, or if it is cut soon.

    Every named agent has a worker here, unless the switch `agents` lists those that have one, and calls to one magic
    number find none. Without a name, also when a rule lists no agent at all, LiveKit calls the workers without a name
    (livekit/livekit pkg/rtc/room.go:1895-1906): the switch `unnamedAgent` says whether there is one. It answers, but is
    not an agent of the rule. A known preset brings no agents. The longest duration of a call counts from before the
    ringing, and for a caller who was asked for a PIN, with whom it does not ring, from then (handleInvite).
    """
    trunk, agents = answer.trunk, answer.agents
    ringing = MAX_CALL_S if answer.is_asked else ringing_s(trunk)
    if trunk:
        answer.longest_s = min(_seconds(trunk.max_call_duration, MAX_CALL_S), MAX_CALL_S)
    longest, rule_id = answer.longest_s, rule.sip_dispatch_rule_id
    answering = [agent for agent in agents or [""] if has_worker(sandbox, agent) and is_answered(invite.called)]
    if not answering or min(ringing, longest) < ANSWER_S:
        why = "it rings for less than a second" if answering else f"rule {rule_id} names no agent"
        if agents and not answering:
            why = f"no worker is registered as {' or '.join(agents)}"
        status = _unanswered(sandbox, trunk) if ringing <= longest else BUSY_HERE
        answer.rings_s = min(ringing, longest)
        what = "nobody speaks to the caller" if answer.is_asked else f"LiveKit answers {status}"
        raise RefusedError("agent", None, status, f"{what}: {why}")
    answer.answered_by = answering[0]
    if not agents:
        reason = f"rule {rule_id} names no agent, a worker without a name answers"
        raise RefusedError("agent", None, OK, reason)
    if longest < KEPT_S:
        reason = f"LiveKit cuts the call after {longest:g} s, the trunk's longest duration"
        raise RefusedError("agent", answering[0], OK, reason)


def _unanswered(sandbox: Sandbox, trunk: Trunk | None) -> int:
    """Return the status of a call that nobody answers: 486, or what the trunk says on servers since 1.13.11."""
    chosen = trunk.ringing_timeout_status if trunk else 0
    is_old = sandbox.switches.livekit_server == OPEN_SOURCE_1_13_7
    return BUSY_HERE if is_old or chosen < BAD_REQUEST else int(chosen)
