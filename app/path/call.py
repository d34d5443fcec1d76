"""One call, followed through what both providers have: where it ends, and every reason why it does not get through.

Sources: `app.path.arrival` for Twilio; `app.path.livekit_matching`, and livekit/sip pkg/sip/inbound.go (password, PIN,
media, durations) for LiveKit.
"""

from dataclasses import dataclass
from typing import NamedTuple

from app.domain.findings import FindingCode
from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK, NUMBER, TRUNK
from app.domain.texts import shown
from app.path import livekit_matching as matching
from app.path.arrival import Arrival, Reason, arrival, missing, sentence
from app.path.observed import (
    DispatchRule,
    Encryption,
    InboundTrunk,
    Observed,
    RulePair,
    first_rule_conflict,
)
from app.path.spec import PathSpec, built_inbound_trunk, built_rule

_Code = FindingCode


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
class Followed:
    """Where one call ends: the agents that it starts; without reasons it reaches the agent of the spec."""

    agents: tuple[str, ...] = ()
    reasons: tuple[Reason, ...] = ()
    """In the order of the call. The first one ends it; the others would, if that one were away."""


def follow(observed: Observed, spec: PathSpec, call: Call) -> Followed:
    """Follow one call to the number of `spec` through what both providers have."""
    return follow_in_livekit(observed, spec, arrival(observed, spec, call.roll), call.caller, call.source)


class _Ended(NamedTuple):
    """Where a call ends that has come to a trunk of LiveKit, and why it does not reach our agent."""

    reaches: bool
    agents: tuple[str, ...]
    reasons: list[Reason]
    """Why it does not get through, so far as our objects and those in their way say."""
    is_final: bool = True
    """Whether Twilio tries no other URL after LiveKit's answer: after 407, 500 and 503 it does (docs/sip-trunking)."""


def follow_in_livekit(observed: Observed, spec: PathSpec, arrived: Arrival, caller: str, source: str) -> Followed:
    """Follow a call that comes to LiveKit like this to the agents that it starts."""
    first = ended = _follow_to(observed, spec, arrived, caller, source)
    for called in arrived.then:
        if ended.reaches or ended.is_final:
            break
        ended = _follow_to(observed, spec, arrived._replace(called=called), caller, source)
    agents = () if arrived.reasons else ended.agents
    if ended.reaches:
        return Followed(agents, arrived.reasons)
    if arrived.renumbered:
        # What else is wrong is asked of a call to the number itself: that is what a repair makes of it.
        first = _follow_to(observed, spec, arrived._replace(called=spec.phone_number), caller, source)
    return Followed(agents, (*arrived.reasons, *arrived.renumbered, *first.reasons))


def _follow_to(observed: Observed, spec: PathSpec, arrived: Arrival, caller: str, source: str) -> _Ended:
    match = matching.match_trunk(observed, arrived.called, caller, source)
    ours = observed.inbound_trunks.get(spec.inbound_trunk_id)
    if match.rivals or (match.trunk is None and spec.profile.is_cloud):
        ended = _Ended(reaches=False, agents=(), reasons=[], is_final=not match.rivals)
    else:
        ended = _follow_from_trunk(observed, spec, arrived, match.trunk, caller)
        if ended.reaches or (match.trunk is not None and match.trunk is ours):
            return ended
    reasons = _why_not_our_inbound_trunk(observed, spec, arrived, match, caller, source)
    reasons += _follow_from_trunk(observed, spec, arrived, ours or built_inbound_trunk(spec), caller).reasons
    return ended._replace(reasons=reasons)


def _why_not_our_inbound_trunk(
    observed: Observed, spec: PathSpec, arrived: Arrival, match: matching.TrunkMatch, caller: str, source: str
) -> list[Reason]:
    """Say why our LiveKit trunk does not take a call: its own faults, and the trunks that are in its way."""
    faults = _faults_of_our_inbound_trunk(observed, spec, arrived, caller, source)
    of_number = observed.trunks_for(arrived.called)
    others = [
        trunk
        for trunk in match.rivals or of_number
        if trunk.id != spec.inbound_trunk_id and matching.lets_in(trunk, caller, source)
    ]
    if not others:
        return faults
    ids = " and ".join(shown(trunk.id) for trunk in match.rivals) or shown(others[0].id)
    what = "have the number" if others[0].numbers else "have no numbers, which stands for every number"
    detail = f"{ids} {what}." if match.rivals else f"{ids} has the number too."
    foreign = Reason(_Code.LIVEKIT_TRUNK_FOREIGN, (INBOUND_TRUNK, others[0].id), detail)
    return [foreign, *faults] if match.rivals and others[0].numbers else [*faults, foreign]


def _faults_of_our_inbound_trunk(
    observed: Observed, spec: PathSpec, arrived: Arrival, caller: str, source: str
) -> list[Reason]:
    resource = (INBOUND_TRUNK, spec.inbound_trunk_id)
    trunk = observed.inbound_trunks.get(spec.inbound_trunk_id)
    if trunk is None:
        return [missing(observed, _Code.LIVEKIT_TRUNK_GONE, resource)]
    faults = []
    if trunk not in observed.trunks_for(arrived.called):
        detail = (
            ""
            if trunk.numbers
            else "It has no numbers, which stands for every number: a trunk that has the number goes before it."
        )
        faults.append(Reason(_Code.LIVEKIT_TRUNK_LOST_NUMBER, resource, detail))
    if not matching.lets_caller_in(trunk.allowed_numbers, caller):
        faults.append(Reason(_Code.LIVEKIT_TRUNK_CALLERS, resource, "Its allowed_numbers lets in only some callers."))
    if not matching.admits(trunk.allowed_addresses, source):
        if matching.addresses_let_in(trunk.allowed_addresses):
            detail = "Its allowed_addresses lets in only some of Twilio's addresses."
            faults.append(Reason(_Code.LIVEKIT_TRUNK_CALLERS, resource, detail))
        else:
            detail = "Its allowed_addresses lets in none of Twilio's addresses."
            faults.append(Reason(_Code.LIVEKIT_TRUNK_CHANGED, resource, detail))
    return faults


def _follow_from_trunk(
    observed: Observed, spec: PathSpec, arrived: Arrival, trunk: InboundTrunk | None, caller: str
) -> _Ended:
    """Follow a call that a trunk of LiveKit has taken, or None, to its rule and into the room.

    Where the first rule asks for a PIN, the caller enters the one that is wanted. The call stands by then: it has the
    media of that rule, and rings no more (livekit/sip pkg/sip/inbound.go, handleInvite).
    """
    first = match = matching.match_rule(observed, trunk, arrived.called, caller)
    is_asked = bool(spec.options.pin and first.rule is not None and first.rule.pin)
    refusals = _faults_of_taking_trunk(trunk, rings=not is_asked) if trunk is not None else []
    is_let_in = trunk is None or not trunk.asks_password
    if first.rule is None:
        reasons = [*refusals, *_why_not_our_rule(observed, spec, arrived, trunk, match, caller)]
        is_final = is_let_in and match.conflict is None
        return _Ended(reaches=False, agents=(), reasons=reasons, is_final=is_final)
    is_final = is_let_in and not matching.has_unusable_codecs(matching.codec_media(trunk, first.rule)[0])
    media = _faults_of_media(spec, arrived, trunk, first.rule)
    if is_asked and not media:
        match = matching.match_rule(observed, trunk, arrived.called, caller, spec.options.pin)
    if match.rule is None:
        reasons = [*refusals, *_why_not_our_rule(observed, spec, arrived, trunk, match, caller)]
        ours = observed.rules.get(spec.rule_id)
        if ours is not None and not ours.pin:
            detail = f"It has no PIN: {_named(first.rule)} asks for one, and ours is not found by it."
            reasons.append(Reason(_Code.RULE_CHANGED, (DISPATCH_RULE, ours.id), detail))
        return _Ended(reaches=False, agents=(), reasons=reasons, is_final=is_final)
    faults = [*_faults_of_rule(spec, arrived, match.rule, caller), *media]
    is_in_room = is_let_in and all(fault.code is _Code.RULE_LOST_AGENT for fault in faults)
    # An agent without a name is any worker without one: nobody's in particular.
    agents = tuple(agent.name for agent in match.rule.agents if agent.name) if is_in_room else ()
    if faults and match.rule.id != spec.rule_id:
        faults = _why_not_our_rule(observed, spec, arrived, trunk, match, caller)
    reasons = [*refusals, *faults]
    return _Ended(not reasons, agents, reasons, is_final)


def _faults_of_taking_trunk(trunk: InboundTrunk, *, rings: bool) -> list[Reason]:
    """Say why a trunk of LiveKit refuses or cuts the calls that it takes (livekit/sip pkg/sip/inbound.go)."""
    faults = []
    if trunk.asks_password:
        faults.append("asks for a user name and a password, which Twilio cannot send")
    if 0 < trunk.max_call_duration_s < matching.SHORTEST_CALL_S:
        faults.append(f"cuts calls after {trunk.max_call_duration_s:g} s")
    if rings and 0 < trunk.ringing_timeout_s < matching.SHORTEST_RINGING_S:
        faults.append(f"lets it ring for {trunk.ringing_timeout_s:g} s")
    return (
        [Reason(_Code.LIVEKIT_TRUNK_CHANGED, (INBOUND_TRUNK, trunk.id), sentence(", ".join(faults)))] if faults else []
    )


def _faults_of_rule(spec: PathSpec, arrived: Arrival, rule: DispatchRule, caller: str) -> list[Reason]:
    """Say why a call does not reach our agent by a rule that takes it, media apart."""
    resource = (DISPATCH_RULE, rule.id)
    faults = []
    if rule.pin and rule.pin != spec.options.pin:
        detail = "It is another one than option dispatch.pin sets." if spec.options.pin else ""
        faults.append(Reason(_Code.RULE_PIN, resource, detail))
    if all(agent.name != spec.agent_name for agent in rule.agents):
        names = ", ".join(shown(agent.name) for agent in rule.agents)
        faults.append(Reason(_Code.RULE_LOST_AGENT, resource, f"It names {names or 'no agent'}."))
    presets = spec.profile.room_presets
    if rule.room_preset and presets is not None and rule.room_preset not in presets:
        detail = f"The LiveKit server has no room preset {shown(rule.room_preset)}."
        faults.append(Reason(_Code.RULE_PRESET, resource, detail))
    if not matching.is_room_named(rule, arrived.called, caller):
        fault = f"makes a room name of more than {matching.LONGEST_ROOM_NAME} bytes" if rule.room else "names no room"
        faults.append(Reason(_Code.RULE_CHANGED, resource, sentence(fault)))
    return faults


def _faults_of_media(spec: PathSpec, arrived: Arrival, trunk: InboundTrunk | None, rule: DispatchRule) -> list[Reason]:
    """Say why Twilio and LiveKit agree on no media, by what rule and trunk say together (pkg/sip/media_codecs.go)."""
    faults = []
    encryption = matching.merged_encryption(trunk, rule)
    if _is_mismatch(encryption, is_secure=arrived.is_secure):
        if _is_mismatch(encryption, is_secure=arrived.ours_is_secure):
            faults += _faults_of_encryption(spec, arrived, trunk, rule)
        else:
            what = "requires" if arrived.is_secure else "does not send"
            detail = f"It is on trunk {shown(arrived.trunk_sid)}, which {what} encrypted media."
            faults.append(Reason(_Code.NUMBER_MOVED, (NUMBER, spec.number_sid), detail))
    media, is_of_rule = matching.codec_media(trunk, rule)
    fault = matching.codec_fault(media)
    if fault and is_of_rule:
        faults.append(Reason(_Code.RULE_CHANGED, (DISPATCH_RULE, rule.id), sentence(fault)))
    elif fault and trunk is not None:
        faults.append(Reason(_Code.LIVEKIT_TRUNK_CHANGED, (INBOUND_TRUNK, trunk.id), sentence(fault)))
    return faults


def _is_mismatch(encryption: Encryption, *, is_secure: bool) -> bool:
    """Tell whether Twilio drops what LiveKit sends unencrypted, or LiveKit refuses what Twilio sends so."""
    return encryption is (Encryption.DISABLE if is_secure else Encryption.REQUIRE)


def _faults_of_encryption(
    spec: PathSpec, arrived: Arrival, trunk: InboundTrunk | None, rule: DispatchRule
) -> list[Reason]:
    """Say which side is not as our profile has it: with encrypted lines the one without, else the one that requires."""
    if arrived.ours_is_secure and spec.profile.is_secure:
        detail = "It does not encrypt media, which our Twilio trunk requires."
        return [Reason(_Code.LIVEKIT_TRUNK_CHANGED, (INBOUND_TRUNK, trunk.id if trunk else ""), detail)]
    if arrived.ours_is_secure:
        return [Reason(_Code.TRUNK_SECURE, (TRUNK, spec.trunk_sid))]
    if spec.profile.is_secure:
        detail = "It does not encrypt media, which LiveKit requires."
        return [Reason(_Code.TRUNK_CHANGED, (TRUNK, spec.trunk_sid), detail)]
    faults = []
    if rule.media.encryption is Encryption.REQUIRE:
        faults.append(Reason(_Code.RULE_ENCRYPTION, (DISPATCH_RULE, rule.id)))
    if trunk is not None and trunk.media.encryption is Encryption.REQUIRE:
        faults.append(Reason(_Code.LIVEKIT_TRUNK_ENCRYPTION, (INBOUND_TRUNK, trunk.id)))
    return faults


def _why_not_our_rule(
    observed: Observed,
    spec: PathSpec,
    arrived: Arrival,
    trunk: InboundTrunk | None,
    match: matching.RuleMatch,
    caller: str,
) -> list[Reason]:
    """Say why our rule does not take a call: its own faults, and the other's where ours as wanted would not either."""
    ours = observed.rules.get(spec.rule_id)
    faults = _faults_of_our_rule(observed, spec, arrived, trunk, match, caller)
    if match.conflict is not None:
        conflict = _conflict(spec, match.conflict)
        named = observed.rules_for(spec.inbound_trunk_id)
        others = [rule for rule in (*named, *observed.wildcard_rules) if rule is not ours]
        is_theirs = first_rule_conflict([*others, built_rule(spec)]) is not None
        return [conflict, *faults] if is_theirs else [*faults, conflict]
    other = match.rule
    if other is None or (faults and not other.trunk_ids):
        # Ours as wanted names the trunk, and so goes before a wildcard; a rule that names it too goes before ours.
        return faults
    stops = (*_faults_of_rule(spec, arrived, other, caller), *_faults_of_media(spec, arrived, trunk, other))
    why = ", ".join(dict.fromkeys(_WHAT_STOPS[fault.code] for fault in stops))
    detail = f"{_named(other)} is matched before ours, and {why}."
    return [Reason(_Code.RULE_OVERRIDDEN, (DISPATCH_RULE, other.id), detail), *faults]


_WHAT_STOPS = {
    _Code.RULE_PIN: "asks for a PIN",
    _Code.RULE_LOST_AGENT: "does not start the agent",
    _Code.RULE_PRESET: "names a room preset that the LiveKit server does not have",
    _Code.RULE_ENCRYPTION: "requires encrypted media",
    _Code.RULE_CHANGED: "has codecs or a room with which no call is answered",
    _Code.LIVEKIT_TRUNK_ENCRYPTION: "does not turn off the encryption that its trunk requires",
    _Code.LIVEKIT_TRUNK_CHANGED: "agrees with Twilio on no media",
    _Code.TRUNK_SECURE: "does not encrypt media",
    _Code.TRUNK_CHANGED: "requires encrypted media",
    _Code.NUMBER_MOVED: "agrees with Twilio on no media",
}
"""What another rule does to a call, by the reason that it would be if the rule were ours."""


def _named(rule: DispatchRule) -> str:
    return f"{shown(rule.id)} ({shown(rule.name)})" if rule.name else shown(rule.id)


def _conflict(spec: PathSpec, pair: RulePair) -> Reason:
    first, second = pair
    if first is second:
        detail = f"{_named(first)} names a trunk or number twice: LiveKit refuses every call."
        code = _Code.RULE_CHANGED if first.id == spec.rule_id else _Code.RULE_CONFLICT
        return Reason(code, (DISPATCH_RULE, first.id), detail)
    other = second if first.id == spec.rule_id else first
    return Reason(_Code.RULE_CONFLICT, (DISPATCH_RULE, other.id), f"{_named(first)} and {_named(second)}.")


def _faults_of_our_rule(
    observed: Observed,
    spec: PathSpec,
    arrived: Arrival,
    trunk: InboundTrunk | None,
    match: matching.RuleMatch,
    caller: str,
) -> list[Reason]:
    resource = (DISPATCH_RULE, spec.rule_id)
    ours = observed.rules.get(spec.rule_id)
    if ours is None:
        media = _faults_of_media(spec, arrived, trunk, built_rule(spec))
        return [missing(observed, _Code.RULE_GONE, resource), *media]
    faults = []
    if ours.trunk_ids and spec.inbound_trunk_id not in ours.trunk_ids:
        faults.append(Reason(_Code.RULE_DEAD_TRUNK, resource, f"It names {shown(', '.join(ours.trunk_ids))}."))
    elif not ours.trunk_ids and (match.rule is not None or (match.conflict is not None and ours in match.conflict)):
        faults.append(Reason(_Code.RULE_WILDCARD, resource, "It names no trunk: a rule that names one goes before it."))
    if ours.inbound_numbers and caller not in ours.inbound_numbers:
        faults.append(Reason(_Code.RULE_FILTERED, resource, "Its inbound_numbers has only some callers."))
    if ours.numbers and arrived.called not in ours.numbers:
        faults.append(
            Reason(_Code.RULE_FILTERED, resource, "Its numbers does not have the called number as Twilio writes it.")
        )
    media = _faults_of_media(spec, arrived, trunk, ours)
    return [*faults, *_faults_of_rule(spec, arrived, ours, caller), *media]
