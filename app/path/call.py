"""One call, followed through what both providers have: where it ends, and every reason why it does not get through.

Twilio's side: https://www.twilio.com/docs/sip-trunking (origination URLs: priority, weight, user part, secure trunks)
and https://www.twilio.com/docs/phone-numbers/api/incomingphonenumber-resource (trunk before application before URL).
LiveKit's side: `app.path.livekit_matching`, and livekit/sip pkg/sip/inbound.go (password, PIN, media, durations).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

from app.domain.findings import FindingCode
from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK, NUMBER, ORIGINATION_URL, TRUNK
from app.domain.sip_uris import DEFAULT_PORTS, SipUri, parse_sip_uri
from app.domain.texts import shown
from app.path import livekit_matching as matching
from app.path.observed import (
    CarrierNumber,
    DispatchRule,
    Encryption,
    InboundTrunk,
    Media,
    Observed,
    OriginationUrl,
    ResourceKey,
    RuleAgent,
    RulePair,
    first_rule_conflict,
    normalised,
)
from app.path.spec import PathSpec, Profile

_Code = FindingCode

_LIVEKIT_CLOUD = ".sip.livekit.cloud"


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


class Arrival(NamedTuple):
    """How a call comes to LiveKit; with reasons it does not, and the rest is how it would."""

    reasons: tuple[Reason, ...]
    called: str
    """The user of the To header."""
    trunk_sid: str
    """The Twilio trunk that it comes through."""
    is_secure: bool
    """Whether Twilio encrypts its media."""
    ours_is_secure: bool
    """Whether our Twilio trunk encrypts media, whichever trunk the call comes through."""


def follow(observed: Observed, spec: PathSpec, call: Call) -> Followed:
    """Follow one call to the number of `spec` through what both providers have."""
    return follow_in_livekit(observed, spec, arrival(observed, spec, call.roll), call.caller, call.source)


def arrival(observed: Observed, spec: PathSpec, roll: float) -> Arrival:
    """Follow a call through Twilio: number, trunk and origination URL."""
    reasons: list[Reason] = []
    number = observed.numbers.get(spec.number_sid)
    if number is None:
        reasons.append(_missing(observed, _Code.NUMBER_GONE, (NUMBER, spec.number_sid)))
    elif not number.is_voice:
        reasons.append(Reason(_Code.NUMBER_NO_VOICE, (NUMBER, number.sid), _why_no_voice(number)))
    trunk_sid = spec.trunk_sid if number is None else number.routing.trunk_sid
    if trunk_sid:
        through = _through(observed, spec, trunk_sid, roll)
        if through is not None:
            return through._replace(reasons=tuple(reasons))
    if number is not None and trunk_sid != spec.trunk_sid:
        reasons.append(_why_not_our_trunk(number))
    return _through_ours(observed, spec, roll, reasons)


def _through_ours(observed: Observed, spec: PathSpec, roll: float, reasons: list[Reason]) -> Arrival:
    through = _through(observed, spec, spec.trunk_sid, roll)
    if through is not None:
        return through._replace(reasons=tuple(reasons))
    trunk = observed.trunks.get(spec.trunk_sid)
    if trunk is None:
        reasons.append(_missing(observed, _Code.TRUNK_GONE, (TRUNK, spec.trunk_sid)))
    else:
        reasons += _why_not_our_url(observed, spec, roll, is_secure=trunk.is_secure)
    is_secure = _is_secure(observed, spec)
    return Arrival(tuple(reasons), spec.phone_number, spec.trunk_sid, is_secure, is_secure)


def _is_secure(observed: Observed, spec: PathSpec) -> bool:
    """Tell whether our Twilio trunk encrypts media: as it is to be, where it is gone."""
    trunk = observed.trunks.get(spec.trunk_sid)
    return spec.profile.is_secure if trunk is None else trunk.is_secure


def _missing(observed: Observed, code: FindingCode, resource: ResourceKey, parent_id: str = "") -> Reason:
    """Return that a resource is gone, or, where it may be one that cannot be read, that it cannot be."""
    if observed.may_hold(*resource, parent_id):
        return Reason(_Code.UNREADABLE, resource)
    return Reason(code, resource)


def _why_no_voice(number: CarrierNumber) -> str:
    faults = [
        "has no voice capability" if not number.has_voice else "",
        "is set to receive fax" if number.receive_mode == "fax" else "",
        f"has the status {shown(number.status)}" if number.status not in {"in-use", ""} else "",
    ]
    return ", ".join(filter(None, faults))


def _why_not_our_trunk(number: CarrierNumber) -> Reason:
    resource = (NUMBER, number.sid)
    routing = number.routing
    if routing.trunk_sid:
        return Reason(_Code.NUMBER_MOVED, resource, f"is on trunk {shown(routing.trunk_sid)}")
    if routing.voice_application_sid:
        detail = f"is on application {shown(routing.voice_application_sid)}"
        return Reason(_Code.NUMBER_MOVED, resource, detail)
    return Reason(_Code.NUMBER_DETACHED, resource, "has a voice URL" if routing.voice_url else "")


def _through(observed: Observed, spec: PathSpec, trunk_sid: str, roll: float) -> Arrival | None:
    """Return how a call comes to LiveKit through a trunk, or None where it does not."""
    trunk = observed.trunks.get(trunk_sid)
    if trunk is None:
        return None
    url = _called_first(observed.urls.get(trunk_sid, ()), roll)
    uri = _parsed(url.sip_url) if url is not None else None
    if uri is None or not _is_right(spec, uri, is_secure=trunk.is_secure):
        return None
    return Arrival((), uri.user or spec.phone_number, trunk_sid, trunk.is_secure, _is_secure(observed, spec))


def drawn(urls: Sequence[OriginationUrl], roll: float) -> Iterator[OriginationUrl]:
    """Yield the enabled URLs in the order in which Twilio calls them: by priority, within one drawn by weight."""
    enabled = sorted((url for url in urls if url.is_enabled), key=lambda one: (one.priority, one.sid))
    for _, of_one_priority in groupby(enabled, key=lambda one: one.priority):
        tier = list(of_one_priority)
        first = _drawn_from(tier, roll)
        yield first
        yield from (url for url in tier if url is not first)


def _drawn_from(tier: list[OriginationUrl], roll: float) -> OriginationUrl:
    shares = shares_of(tier)
    total = 0.0
    for url, share in zip(tier, shares, strict=True):
        total += share
        if total > roll * sum(shares):
            return url
    return tier[-1]


def shares_of(tier: Sequence[OriginationUrl]) -> list[int]:
    """Return each URL's share of the calls: its weight, or the same for all where none has one."""
    weights = [url.weight for url in tier]
    return weights if any(weights) else [1] * len(tier)


def _called_first(urls: Sequence[OriginationUrl], roll: float) -> OriginationUrl | None:
    """Return the URL that answers: the first that can be read, since the others answer nothing."""
    if len(urls) == 1:
        return urls[0] if urls[0].is_enabled and _parsed(urls[0].sip_url) else None
    return next((url for url in drawn(urls, roll) if _parsed(url.sip_url)), None)


@lru_cache(maxsize=4096)
def _parsed(sip_url: str) -> SipUri | None:
    try:
        return parse_sip_uri(sip_url)
    except ValueError:
        return None


def _is_right(spec: PathSpec, uri: SipUri, *, is_secure: bool) -> bool:
    """Tell whether a URI leads to LiveKit and leaves the called number as it is, by LiveKit's comparison."""
    return _leads_to_livekit(spec.profile.sip_uri, uri, is_secure=is_secure) and _keeps_number(spec, uri)


def _keeps_number(spec: PathSpec, uri: SipUri) -> bool:
    return not uri.user or normalised(uri.user) == normalised(spec.phone_number)


def leads_to(sip_url: str, profile: Profile, *, is_secure: bool) -> bool:
    """Tell whether an origination URL leads to LiveKit; `is_secure` says whether its trunk is."""
    uri = _parsed(sip_url)
    return uri is not None and _leads_to_livekit(profile.sip_uri, uri, is_secure=is_secure)


def _leads_to_livekit(ours: SipUri, uri: SipUri, *, is_secure: bool) -> bool:
    """Compare host and port; a secure trunk calls over TLS whatever the URI says (docs/sip-trunking)."""
    port = (uri.over_tls() if is_secure else uri).effective_port
    if port != ours.effective_port and port not in DEFAULT_PORTS.values():
        return False
    return uri.host == ours.host or _without_region(uri.host) == _without_region(ours.host)


def _without_region(host: str) -> str:
    """Return `abc.sip.livekit.cloud` for its region form `abc.eu.sip.livekit.cloud`, and any other host as it is."""
    project, *region = host.removesuffix(_LIVEKIT_CLOUD).split(".")
    return project + _LIVEKIT_CLOUD if host.endswith(_LIVEKIT_CLOUD) and len(region) == 1 else host


def _why_not_our_url(observed: Observed, spec: PathSpec, roll: float, *, is_secure: bool) -> list[Reason]:
    """Say why the URLs of our trunk do not lead calls to LiveKit: what ours lacks, and what stands before it."""
    urls = observed.urls.get(spec.trunk_sid, ())
    ours = next((url for url in urls if url.sid == spec.url_sid), None)
    resource = (ORIGINATION_URL, spec.url_sid)
    reasons = []
    if ours is None:
        reasons.append(_missing(observed, _Code.ORIGINATION_URL_MISSING, resource, spec.trunk_sid))
    elif not ours.is_enabled:
        reasons.append(Reason(_Code.ORIGINATION_URL_DISABLED, resource))
    wanted = url_as_wanted(spec)
    first = _called_first([*(url for url in urls if url is not ours), wanted], roll)
    if first is not None and first is not wanted and not _is_right_url(spec, first, is_secure=is_secure):
        detail = f"{shown(first.sid)} ({shown(first.sip_url)}) is called before ours"
        reasons.append(Reason(_Code.ORIGINATION_URL_OVERRIDDEN, (ORIGINATION_URL, first.sid), detail))
    elif ours is not None and (ours.priority, ours.weight) != (wanted.priority, wanted.weight):
        other = _called_first(urls, roll)
        if other is not None and other is not ours:
            detail = f"has priority {ours.priority} and weight {ours.weight}: {shown(other.sid)} is called before it"
            reasons.append(Reason(_Code.ORIGINATION_URL_CHANGED, resource, detail))
    return [*reasons, *_why_not_this_url(spec, ours, is_secure=is_secure)] if ours is not None else reasons


def url_as_wanted(spec: PathSpec) -> OriginationUrl:
    """Return our origination URL as it is to be."""
    url = spec.origination_url
    return OriginationUrl(
        sid=spec.url_sid,
        trunk_sid=spec.trunk_sid,
        sip_url=str(url.uri),
        is_enabled=True,
        tag=url.tag,
        created_at=None,
        priority=url.priority,
        weight=url.weight,
    )


def _is_right_url(spec: PathSpec, url: OriginationUrl, *, is_secure: bool) -> bool:
    uri = _parsed(url.sip_url)
    return uri is not None and _is_right(spec, uri, is_secure=is_secure)


def _why_not_this_url(spec: PathSpec, ours: OriginationUrl, *, is_secure: bool) -> list[Reason]:
    resource = (ORIGINATION_URL, ours.sid)
    uri = _parsed(ours.sip_url)
    if uri is None:
        return [Reason(_Code.ORIGINATION_URL_CHANGED, resource, f"cannot be read: {shown(ours.sip_url)}")]
    reasons = []
    if not _leads_to_livekit(spec.profile.sip_uri, uri, is_secure=is_secure):
        reasons.append(Reason(_Code.ORIGINATION_HOST_WRONG, resource, f"leads to {shown(ours.sip_url)}"))
    if not _keeps_number(spec, uri):
        detail = f"has a user part, which replaces the called number: {shown(ours.sip_url)}"
        reasons.append(Reason(_Code.ORIGINATION_URL_CHANGED, resource, detail))
    return reasons


class _Ended(NamedTuple):
    """Where a call ends that has come to a trunk of LiveKit, and why it does not reach our agent."""

    agents: tuple[str, ...]
    reasons: list[Reason]


def follow_in_livekit(observed: Observed, spec: PathSpec, arrived: Arrival, caller: str, source: str) -> Followed:
    """Follow a call that comes to LiveKit like this to the agents that it starts."""
    match = matching.match_trunk(observed, arrived.called, caller, source)
    ours = observed.inbound_trunks.get(spec.inbound_trunk_id)
    is_refused = bool(match.rivals) or (match.trunk is None and spec.profile.is_cloud)
    agents: tuple[str, ...] = ()
    reasons: list[Reason] = []
    if not is_refused:
        agents, reasons = _follow_from_trunk(observed, spec, arrived, match.trunk, caller)
    if is_refused or (reasons and (ours is None or match.trunk is not ours)):
        reasons = _why_not_our_inbound_trunk(observed, spec, arrived, match, caller, source)
        reasons += _follow_from_trunk(observed, spec, arrived, ours or inbound_trunk_as_wanted(spec), caller).reasons
    if arrived.reasons:
        return Followed((), (*arrived.reasons, *reasons))
    return Followed(agents, tuple(reasons))


def inbound_trunk_as_wanted(spec: PathSpec) -> InboundTrunk:
    """Return our LiveKit trunk as it is to be."""
    trunk = spec.inbound_trunk
    encryption = Encryption.REQUIRE if trunk.is_secure else Encryption.DISABLE
    return InboundTrunk(
        id=spec.inbound_trunk_id,
        name=trunk.label.tag,
        metadata=trunk.label.metadata,
        numbers=(trunk.phone_number,),
        allowed_addresses=trunk.allowed_addresses,
        media=Media(encryption),
    )


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
    what = "have the number" if others[0].numbers else "have no numbers, which stands for all of them"
    detail = f"{ids} {what}" if match.rivals else f"{ids} has the number as well"
    foreign = Reason(_Code.LIVEKIT_TRUNK_FOREIGN, (INBOUND_TRUNK, others[0].id), detail)
    return [foreign, *faults] if match.rivals and others[0].numbers else [*faults, foreign]


def _faults_of_our_inbound_trunk(
    observed: Observed, spec: PathSpec, arrived: Arrival, caller: str, source: str
) -> list[Reason]:
    resource = (INBOUND_TRUNK, spec.inbound_trunk_id)
    trunk = observed.inbound_trunks.get(spec.inbound_trunk_id)
    if trunk is None:
        return [_missing(observed, _Code.LIVEKIT_TRUNK_GONE, resource)]
    faults = []
    if trunk not in observed.trunks_for(arrived.called):
        detail = "" if trunk.numbers else "has no numbers: any trunk that has the number goes before it"
        faults.append(Reason(_Code.LIVEKIT_TRUNK_LOST_NUMBER, resource, detail))
    if not matching.lets_caller_in(trunk.allowed_numbers, caller):
        faults.append(Reason(_Code.LIVEKIT_TRUNK_CALLERS, resource, "allowed_numbers lets in only some callers"))
    if not matching.admits(trunk.allowed_addresses, source):
        if matching.addresses_let_in(trunk.allowed_addresses):
            detail = "allowed_addresses lets in only some of Twilio's addresses"
            faults.append(Reason(_Code.LIVEKIT_TRUNK_CALLERS, resource, detail))
        else:
            detail = "allowed_addresses lets in none of Twilio's addresses"
            faults.append(Reason(_Code.LIVEKIT_TRUNK_CHANGED, resource, detail))
    return faults


def _follow_from_trunk(
    observed: Observed, spec: PathSpec, arrived: Arrival, trunk: InboundTrunk | None, caller: str
) -> _Ended:
    """Follow a call that a trunk of LiveKit has taken, or None, to its rule and into the room."""
    reasons = _faults_of_taking_trunk(trunk) if trunk is not None else []
    match = matching.match_rule(observed, trunk, arrived.called, caller)
    rule = match.rule
    faults = [] if rule is None else _faults_of_rule(spec, arrived, trunk, rule)
    is_in_room = rule is not None and all(fault.code is _Code.RULE_LOST_AGENT for fault in faults)
    is_let_in = trunk is None or not trunk.asks_password
    agents = tuple(agent.name for agent in rule.agents) if rule is not None and is_in_room and is_let_in else ()
    if rule is not None and (rule.id == spec.rule_id or not faults):
        return _Ended(agents, [*reasons, *faults])
    return _Ended(agents, [*reasons, *_why_not_our_rule(observed, spec, arrived, trunk, match, caller)])


def _faults_of_taking_trunk(trunk: InboundTrunk) -> list[Reason]:
    """Say why a trunk of LiveKit refuses or cuts the calls that it takes (livekit/sip pkg/sip/inbound.go)."""
    faults = []
    if trunk.asks_password:
        faults.append("asks for a user name and a password, which Twilio cannot send")
    if 0 < trunk.max_call_duration_s < matching.SHORTEST_CALL_S:
        faults.append(f"cuts calls after {trunk.max_call_duration_s:g} s")
    if 0 < trunk.ringing_timeout_s < matching.SHORTEST_RINGING_S:
        faults.append(f"lets it ring for {trunk.ringing_timeout_s:g} s")
    return [Reason(_Code.LIVEKIT_TRUNK_CHANGED, (INBOUND_TRUNK, trunk.id), ", ".join(faults))] if faults else []


def _faults_of_rule(spec: PathSpec, arrived: Arrival, trunk: InboundTrunk | None, rule: DispatchRule) -> list[Reason]:
    """Say why a call does not reach our agent by a rule that takes it."""
    resource = (DISPATCH_RULE, rule.id)
    faults = []
    if rule.pin:
        faults.append(Reason(_Code.RULE_PIN, resource))
    if all(agent.name != spec.agent_name for agent in rule.agents):
        names = ", ".join(shown(agent.name) for agent in rule.agents)
        faults.append(Reason(_Code.RULE_LOST_AGENT, resource, f"names {names}" if names else "names no agent"))
    presets = spec.profile.room_presets
    if rule.room_preset and presets is not None and rule.room_preset not in presets:
        detail = f"the LiveKit server has no room preset {shown(rule.room_preset)}"
        faults.append(Reason(_Code.RULE_PRESET, resource, detail))
    return [*faults, *_faults_of_media(spec, arrived, trunk, rule)]


def _faults_of_media(spec: PathSpec, arrived: Arrival, trunk: InboundTrunk | None, rule: DispatchRule) -> list[Reason]:
    """Say why Twilio and LiveKit agree on no media, by what rule and trunk say together (pkg/sip/media_codecs.go)."""
    faults = []
    encryption = matching.merged_encryption(trunk, rule)
    if _is_mismatch(encryption, is_secure=arrived.is_secure):
        if _is_mismatch(encryption, is_secure=arrived.ours_is_secure):
            faults += _faults_of_encryption(spec, arrived, trunk, rule)
        else:
            what = "requires" if arrived.is_secure else "does not send"
            detail = f"is on trunk {shown(arrived.trunk_sid)}, which {what} encrypted media"
            faults.append(Reason(_Code.NUMBER_MOVED, (NUMBER, spec.number_sid), detail))
    media, is_of_rule = matching.codec_media(trunk, rule)
    fault = matching.codec_fault(media)
    if fault and is_of_rule:
        faults.append(Reason(_Code.RULE_CHANGED, (DISPATCH_RULE, rule.id), fault))
    elif fault and trunk is not None:
        faults.append(Reason(_Code.LIVEKIT_TRUNK_CHANGED, (INBOUND_TRUNK, trunk.id), fault))
    return faults


def _is_mismatch(encryption: Encryption, *, is_secure: bool) -> bool:
    """Tell whether Twilio drops what LiveKit sends unencrypted, or LiveKit refuses what Twilio sends so."""
    return encryption is (Encryption.DISABLE if is_secure else Encryption.REQUIRE)


def _faults_of_encryption(
    spec: PathSpec, arrived: Arrival, trunk: InboundTrunk | None, rule: DispatchRule
) -> list[Reason]:
    """Say which side is not as our profile has it: with encrypted lines the one without, else the one that requires."""
    if arrived.ours_is_secure and spec.profile.is_secure:
        detail = "does not encrypt media, which our Twilio trunk requires"
        return [Reason(_Code.LIVEKIT_TRUNK_CHANGED, (INBOUND_TRUNK, trunk.id if trunk else ""), detail)]
    if arrived.ours_is_secure:
        return [Reason(_Code.TRUNK_SECURE, (TRUNK, spec.trunk_sid))]
    if spec.profile.is_secure:
        detail = "does not encrypt media, which LiveKit requires"
        return [Reason(_Code.TRUNK_CHANGED, (TRUNK, spec.trunk_sid), detail)]
    faults = []
    if rule.media.encryption is Encryption.REQUIRE:
        faults.append(Reason(_Code.RULE_ENCRYPTION, (DISPATCH_RULE, rule.id)))
    if trunk is not None and trunk.media.encryption is Encryption.REQUIRE:
        faults.append(Reason(_Code.LIVEKIT_TRUNK_ENCRYPTION, (INBOUND_TRUNK, trunk.id)))
    return faults


def rule_as_wanted(spec: PathSpec) -> DispatchRule:
    """Return our rule as it is to be."""
    rule = spec.dispatch_rule
    return DispatchRule(
        id=spec.rule_id,
        name=rule.tag,
        metadata="",
        trunk_ids=(rule.trunk_id,),
        agents=(RuleAgent(rule.agent_name, rule.job_metadata),),
        room=rule.room_prefix,
    )


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
    wanted = rule_as_wanted(spec)
    if match.conflict is not None:
        conflict = _conflict(spec, match.conflict)
        named = observed.rules_for(spec.inbound_trunk_id)
        others = [rule for rule in (*named, *observed.wildcard_rules) if rule is not ours]
        is_theirs = first_rule_conflict([*others, wanted]) is not None
        return [conflict, *faults] if is_theirs else [*faults, conflict]
    other = match.rule
    if other is None or (faults and not (other.trunk_ids and matching.rank(other) < matching.rank(wanted))):
        return faults
    why = ", ".join(_WHAT_STOPS[fault.code] for fault in _faults_of_rule(spec, arrived, trunk, other))
    detail = f"{_named(other)} is matched before ours and {why}"
    return [Reason(_Code.RULE_OVERRIDDEN, (DISPATCH_RULE, other.id), detail), *faults]


_WHAT_STOPS = {
    _Code.RULE_PIN: "asks for a PIN",
    _Code.RULE_LOST_AGENT: "does not start the agent",
    _Code.RULE_PRESET: "names a room preset that the LiveKit server does not have",
    _Code.RULE_ENCRYPTION: "requires encrypted media",
    _Code.RULE_CHANGED: "has codecs with which no call is answered",
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
        detail = f"{_named(first)} names something twice, or is of an unknown kind: LiveKit refuses every call"
        code = _Code.RULE_CHANGED if first.id == spec.rule_id else _Code.RULE_CONFLICT
        return Reason(code, (DISPATCH_RULE, first.id), detail)
    other = second if first.id == spec.rule_id else first
    return Reason(_Code.RULE_CONFLICT, (DISPATCH_RULE, other.id), f"{_named(first)} and {_named(second)}")


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
        media = _faults_of_media(spec, arrived, trunk, rule_as_wanted(spec))
        return [_missing(observed, _Code.RULE_GONE, resource), *media]
    faults = []
    if ours.trunk_ids and spec.inbound_trunk_id not in ours.trunk_ids:
        faults.append(Reason(_Code.RULE_DEAD_TRUNK, resource, f"names {shown(', '.join(ours.trunk_ids))}"))
    elif not ours.trunk_ids and (match.rule is not None or (match.conflict is not None and ours in match.conflict)):
        faults.append(Reason(_Code.RULE_WILDCARD, resource, "names no trunk: any rule that names one goes before it"))
    if ours.inbound_numbers and caller not in ours.inbound_numbers:
        faults.append(Reason(_Code.RULE_FILTERED, resource, "inbound_numbers lets in only some callers"))
    if ours.numbers and arrived.called not in ours.numbers:
        faults.append(Reason(_Code.RULE_FILTERED, resource, "numbers does not have the called number"))
    return [*faults, *_faults_of_rule(spec, arrived, trunk, ours)]
