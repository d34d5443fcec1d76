"""What differs: the record that each of ours should be, and the findings about one path.

`corrected_*` is the one statement of what we own in an object: a repair writes its result, and a finding is raised
where it differs from what is there. What it copies is for somebody else to set.
"""

from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from typing import TypeVar

from app.domain.findings import Finding, FindingCode, Severity
from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK, NUMBER, ORIGINATION_URL, TRUNK
from app.domain.options import RuleAgent, TransferMode
from app.domain.sip_uris import SipUri
from app.domain.texts import shown
from app.path.arrival import leads_to, parsed_url
from app.path.livekit_matching import (
    LONGEST_CALLER,
    SHORTEST_CALL_S,
    SHORTEST_RINGING_S,
    accepts_twilio_codecs,
    covers,
    is_open_to_all,
    is_room_named,
)
from app.path.marks import has_mark, mark_in, with_mark, without_mark
from app.path.observed import (
    CarrierTrunk,
    DispatchRule,
    Encryption,
    InboundTrunk,
    Media,
    Observed,
    OriginationUrl,
    ResourceKey,
    RuleKind,
    normalised,
)
from app.path.reach import reach
from app.path.spec import NOTHING_FORMER, Former, PathSpec

_Code = FindingCode


TWILIO_TRANSFER_MODE = TransferMode.DISABLED.value
"""What Twilio makes a trunk with (https://www.twilio.com/docs/sip-trunking/api/trunk-resource, TransferMode)."""


def corrected_trunk(
    now: CarrierTrunk, spec: PathSpec, *, livekit_encrypts: bool, former: Former = NOTHING_FORMER
) -> CarrierTrunk:
    """Return the Twilio trunk as it should be.

    A line that is not secure by its profile may be encrypted by hand: it stays so while LiveKit's end, whose media
    settings the caller has read, takes encrypted media too.
    """
    profile = spec.profile
    return replace(
        now,
        tag=spec.trunk.tag,
        is_secure=profile.is_secure or (now.is_secure and livekit_encrypts),
        transfer_mode=profile.transfer_mode or (TWILIO_TRANSFER_MODE if former.options.transfer else now.transfer_mode),
    )


def corrected_url(now: OriginationUrl, spec: PathSpec, *, is_secure: bool) -> OriginationUrl:
    """Return the origination URL as it should be; `is_secure` says whether its trunk is or will be."""
    wanted = spec.origination_url
    return replace(
        now,
        tag=wanted.tag,
        is_enabled=True,
        sip_url=_corrected_sip_url(now.sip_url, wanted.uri, is_secure=is_secure),
        priority=wanted.priority,
        weight=wanted.weight,
    )


def _corrected_sip_url(now: str, wanted: SipUri, *, is_secure: bool) -> str:
    """Return `now` where it means what is wanted; an edge and headers that the setting does not name are kept."""
    found = parsed_url(now)
    if found is None:
        return str(wanted)
    if found.host == wanted.host:
        ours = dict(wanted.parameters)
        extra = () if wanted.edge and found.edge else found.parameters
        wanted = replace(wanted, parameters=tuple(sorted({**dict(extra), **ours}.items())), headers=found.headers)
    # Twilio calls over TLS from a secure trunk, whatever transport the URI names.
    same = found.over_tls() == wanted.over_tls() if is_secure else found == wanted
    return now if same else str(wanted)


def corrected_inbound_trunk(
    now: InboundTrunk,
    spec: PathSpec,
    *,
    twilio_encrypts: bool,
    former: Former = NOTHING_FORMER,  # noqa: ARG001  # next
) -> InboundTrunk:
    """Return the LiveKit trunk as it should be: with our number and mark, and without what stops calls."""
    wanted = spec.inbound_trunk
    has_number = normalised(spec.phone_number) in map(normalised, now.numbers)
    return replace(
        now,
        name=wanted.label.tag if not now.name or mark_in(now.name) else now.name,
        metadata=now.metadata if _is_marked(spec, now.metadata) else with_mark(now.metadata, wanted.label.metadata),
        numbers=now.numbers if has_number else (*now.numbers, spec.phone_number),
        allowed_addresses=_corrected_addresses(now.allowed_addresses, spec),
        allowed_numbers=(),
        has_username=False,
        has_password=False,
        media=_corrected_media(now.media, is_secure=spec.profile.is_secure, twilio_encrypts=twilio_encrypts),
        ringing_timeout_s=(
            wanted.ringing_timeout.total_seconds()
            if 0 < now.ringing_timeout_s < SHORTEST_RINGING_S
            else now.ringing_timeout_s
        ),
        max_call_duration_s=0.0 if 0 < now.max_call_duration_s < SHORTEST_CALL_S else now.max_call_duration_s,
    )


def _corrected_addresses(now: tuple[str, ...], spec: PathSpec) -> tuple[str, ...]:
    """Return the allowed addresses; wider blocks are fine, as long as they are not the whole Internet."""
    wanted = spec.profile.allowed_addresses
    return now if covers(now, wanted) and (not wanted or not is_open_to_all(now)) else wanted


def _corrected_media(now: Media, *, is_secure: bool, twilio_encrypts: bool) -> Media:
    encryption = now.encryption
    if is_secure:
        encryption = Encryption.REQUIRE
    elif encryption is Encryption.REQUIRE and not twilio_encrypts:
        encryption = Encryption.DISABLE
    if accepts_twilio_codecs(now):
        return replace(now, encryption=encryption)
    return replace(now, encryption=encryption, codecs=(), only_listed_codecs=False)


def corrected_rule(
    now: DispatchRule, spec: PathSpec, *, twilio_encrypts: bool, former: Former = NOTHING_FORMER
) -> DispatchRule:
    """Return the dispatch rule as it should be: for our trunk and agent, and without what stops calls.

    Other trunks and other agents stay. `former` is what the path was made for before this operation.
    """
    wanted, presets = spec.dispatch_rule, spec.profile.room_presets
    ours = replace(now, kind=RuleKind.INDIVIDUAL, is_fixed_room=False)
    has_own_room = now.kind is RuleKind.INDIVIDUAL and is_room_named(ours, spec.phone_number, LONGEST_CALLER)
    return replace(
        ours,
        name=wanted.tag,
        metadata=without_mark(now.metadata),
        trunk_ids=tuple(dict.fromkeys(now.trunk_ids)) if wanted.trunk_id in now.trunk_ids else (wanted.trunk_id,),
        inbound_numbers=(),
        numbers=now.numbers if spec.phone_number in now.numbers else (),
        room=now.room if has_own_room else wanted.room_prefix,
        pin="",
        agents=_corrected_agents(now.agents, RuleAgent(wanted.agent_name, wanted.job_metadata), former.agent_name),
        room_preset="" if presets is not None and now.room_preset not in presets else now.room_preset,
        media=_corrected_media(now.media, is_secure=False, twilio_encrypts=twilio_encrypts or spec.profile.is_secure),
    )


def _corrected_agents(now: tuple[RuleAgent, ...], ours: RuleAgent, former: str) -> tuple[RuleAgent, ...]:
    """Return the agents with ours in its place, else in the former one's, else in that of ours under another name."""
    names = [agent.name for agent in now]
    jobs = [agent.metadata for agent in now]
    if ours.name in names:
        at = names.index(ours.name)
        if (jobs[at] or _NO_METADATA) == ours.metadata:
            return now
    elif former in names:
        at = names.index(former)
    elif ours.metadata in jobs:
        at = jobs.index(ours.metadata)
    else:
        return (ours, *now)
    return (*now[:at], ours, *now[at + 1 :])


_NO_METADATA = "{}"
"""What an agent without metadata gives to its job; an empty text means the same to whoever reads it."""


def takes_encrypted_media(trunk: InboundTrunk | None, rule: DispatchRule | None) -> bool:
    """Tell whether LiveKit's end of a line takes encrypted media."""
    return any(one is not None and one.media.encryption is not Encryption.DISABLE for one in (trunk, rule))


def _is_marked(spec: PathSpec, *texts: str) -> bool:
    return has_mark(spec.instance, spec.agent_id, *texts)


def compare(spec: PathSpec, observed: Observed) -> list[Finding]:
    """Return every reason why calls fail, and then every difference that stops none; both empty: all is well."""
    found = reach(observed, spec)
    critical = [
        Finding(
            _Code.TWIN if _is_twin(spec, observed, reason.resource) else reason.code,
            spec.agent_id,
            reason.resource,
            detail=reason.detail,
            # What cannot be read is not known to stop a call.
            severity_override=None if reason.code is _Code.UNREADABLE else Severity.CRITICAL,
            callers=None if reason.code is _Code.UNREADABLE else callers,
        )
        for reason, callers in found.reasons
    ]
    told = {(_SAME_FIELD.get(finding.code, finding.code), finding.resource) for finding in critical}
    rest = [
        finding
        for finding in (*_missing(spec, observed), *_differences(spec, observed))
        if (_SAME_FIELD.get(finding.code, finding.code), finding.resource) not in told
        and (_Code.UNREADABLE, finding.resource) not in told
    ]
    return critical + rest


_SAME_FIELD = {_Code.ORIGINATION_HOST_WRONG: _Code.ORIGINATION_URL_CHANGED}
"""Codes that are about the same field: what one has said of it, the other need not."""


def _is_twin(spec: PathSpec, observed: Observed, resource: ResourceKey | None) -> bool:
    """Tell whether what stops a call is a duplicate: another resource with this agent's own mark, ours to delete."""
    kind, external_id = resource or ("", "")
    if not kind or external_id == spec.ids.get(kind):
        return False
    trunk, rule = observed.inbound_trunks.get(external_id), observed.rules.get(external_id)
    texts = (trunk.metadata,) if trunk else (rule.name, rule.metadata) if rule else ()
    return _is_marked(spec, *texts)


def is_broken(findings: Iterable[Finding]) -> bool:
    """Tell whether calls fail."""
    return any(finding.severity is Severity.CRITICAL for finding in findings)


def _warning(spec: PathSpec, code: FindingCode, resource: ResourceKey, detail: str = "") -> Finding:
    return Finding(code, spec.agent_id, resource, detail=detail, severity_override=Severity.WARNING)


def _missing(spec: PathSpec, observed: Observed) -> Iterator[Finding]:
    """Yield what is not there, although calls may get through another way."""
    number = observed.numbers.get(spec.number_sid)
    if number is not None and number.routing.trunk_sid not in {spec.trunk_sid, None}:
        detail = f"Now on {shown(number.routing.trunk_sid or '')}."
        yield _warning(spec, _Code.NUMBER_MOVED, (NUMBER, spec.number_sid), detail)
    url_is_there = any(url.sid == spec.url_sid for url in observed.urls.get(spec.trunk_sid, ()))
    for is_there, code, kind, external_id, parent in (
        (spec.trunk_sid in observed.trunks, _Code.TRUNK_GONE, TRUNK, spec.trunk_sid, ""),
        (
            url_is_there or spec.trunk_sid not in observed.trunks,
            _Code.ORIGINATION_URL_MISSING,
            ORIGINATION_URL,
            spec.url_sid,
            spec.trunk_sid,
        ),
        (
            spec.inbound_trunk_id in observed.inbound_trunks,
            _Code.LIVEKIT_TRUNK_GONE,
            INBOUND_TRUNK,
            spec.inbound_trunk_id,
            "",
        ),
        (spec.rule_id in observed.rules, _Code.RULE_GONE, DISPATCH_RULE, spec.rule_id, ""),
    ):
        if not is_there:
            is_unreadable = observed.may_hold(kind, external_id, parent)
            yield _warning(spec, _Code.UNREADABLE if is_unreadable else code, (kind, external_id))


def _differences(spec: PathSpec, observed: Observed) -> Iterator[Finding]:
    """Yield a finding for each field of ours that is not as it should be."""
    trunk = observed.trunks.get(spec.trunk_sid)
    inbound = observed.inbound_trunks.get(spec.inbound_trunk_id)
    rule = observed.rules.get(spec.rule_id)
    encrypts = trunk is not None and trunk.is_secure
    if trunk is not None:
        yield from _of_trunk(
            spec, trunk, corrected_trunk(trunk, spec, livekit_encrypts=takes_encrypted_media(inbound, rule))
        )
    for url in observed.urls.get(spec.trunk_sid, ()):
        if url.sid == spec.url_sid:
            yield from _of_url(spec, url, corrected_url(url, spec, is_secure=encrypts))
    if inbound is not None:
        wanted = corrected_inbound_trunk(inbound, spec, twilio_encrypts=encrypts)
        yield from _of_inbound_trunk(spec, inbound, wanted)
    if rule is not None:
        yield from _of_rule(spec, rule, corrected_rule(rule, spec, twilio_encrypts=encrypts))


Record = TypeVar("Record", CarrierTrunk, OriginationUrl, InboundTrunk, DispatchRule)


def _changed(now: Record, wanted: Record) -> set[str]:
    return {one.name for one in fields(now) if one.compare and getattr(now, one.name) != getattr(wanted, one.name)}


def _of_trunk(spec: PathSpec, now: CarrierTrunk, wanted: CarrierTrunk) -> Iterator[Finding]:
    resource, changed = (TRUNK, now.sid), _changed(now, wanted)
    if "is_secure" in changed:
        detail = "It takes plain calls." if wanted.is_secure else "It encrypts, and LiveKit does not."
        yield _warning(spec, _Code.TRUNK_CHANGED if wanted.is_secure else _Code.TRUNK_SECURE, resource, detail)
    if "transfer_mode" in changed:
        detail = f"Its transfer mode is {shown(now.transfer_mode) or 'not set'}, not {wanted.transfer_mode}."
        yield _warning(spec, _Code.TRUNK_CHANGED, resource, detail)
    if "tag" in changed:
        yield _warning(spec, _Code.MARK_LOST, resource, _renamed(now.tag))


def _of_url(spec: PathSpec, now: OriginationUrl, wanted: OriginationUrl) -> Iterator[Finding]:
    resource, changed = (ORIGINATION_URL, now.sid), _changed(now, wanted)
    if "is_enabled" in changed:
        yield _warning(spec, _Code.ORIGINATION_URL_DISABLED, resource)
    if "sip_url" in changed:
        detail = f"It is {shown(now.sip_url)}."
        wrong_host = not leads_to(now.sip_url, spec.profile)
        code = _Code.ORIGINATION_HOST_WRONG if wrong_host else _Code.ORIGINATION_URL_CHANGED
        yield _warning(spec, code, resource, detail)
    if changed & {"priority", "weight"}:
        detail = f"Its priority is {now.priority} and its weight {now.weight}."
        yield _warning(spec, _Code.ORIGINATION_URL_CHANGED, resource, detail)
    if "tag" in changed:
        yield _warning(spec, _Code.MARK_LOST, resource, _renamed(now.tag))


def _of_inbound_trunk(spec: PathSpec, now: InboundTrunk, wanted: InboundTrunk) -> Iterator[Finding]:
    resource, changed = (INBOUND_TRUNK, now.id), _changed(now, wanted)
    if "numbers" in changed:
        yield _warning(spec, _Code.LIVEKIT_TRUNK_LOST_NUMBER, resource)
    if "allowed_numbers" in changed:
        yield _warning(spec, _Code.LIVEKIT_TRUNK_CALLERS, resource)
    if "allowed_addresses" in changed:
        if is_open_to_all(now.allowed_addresses):
            yield _warning(spec, _Code.LIVEKIT_TRUNK_OPEN, resource)
        else:
            detail = "Its allowed addresses lack some of those that are set."
            yield _warning(spec, _Code.LIVEKIT_TRUNK_CHANGED, resource, detail)
    details = {
        "has_username": "It has half of a password: LiveKit asks for none.",
        "max_call_duration_s": f"Calls are cut after {now.max_call_duration_s:g} s.",
        "ringing_timeout_s": f"Calls ring for {now.ringing_timeout_s:g} s only.",
    }
    names = {"has_username" if name == "has_password" else name for name in changed}
    for name in sorted(names & details.keys()):
        yield _warning(spec, _Code.LIVEKIT_TRUNK_CHANGED, resource, details[name])
    if "media" in changed:
        code = _Code.LIVEKIT_TRUNK_ENCRYPTION if _is_mended(now.media, wanted.media) else _Code.LIVEKIT_TRUNK_CHANGED
        yield _warning(spec, code, resource, _media_detail(now.media, wanted.media))
    if changed & {"name", "metadata"}:
        yield _warning(spec, _Code.MARK_LOST, resource, _renamed(now.name))


def _of_rule(spec: PathSpec, now: DispatchRule, wanted: DispatchRule) -> Iterator[Finding]:
    resource, changed = (DISPATCH_RULE, now.id), _changed(now, wanted)
    if "trunk_ids" in changed:
        yield _trunks_finding(spec, now)
    if changed & {"inbound_numbers", "numbers"}:
        yield _warning(spec, _Code.RULE_FILTERED, resource)
    if "pin" in changed:
        yield _warning(spec, _Code.RULE_PIN, resource)
    if "kind" in changed or "is_fixed_room" in changed:
        kind = "dispatches each caller to a fixed room" if now.kind is wanted.kind else f"is {now.kind or 'unknown'}"
        detail = f"It {kind}: callers may share a room, and only the first one gets the agent."
        yield _warning(spec, _Code.RULE_CHANGED, resource, detail)
    if "agents" in changed:
        if spec.agent_name in {agent.name for agent in now.agents}:
            yield _warning(spec, _Code.RULE_CHANGED, resource, "The metadata of the agent's jobs was changed.")
        else:
            names = shown(", ".join(agent.name for agent in now.agents)) or "no agent"
            yield _warning(spec, _Code.RULE_LOST_AGENT, resource, f"It names {names}.")
    if "media" in changed:
        code = _Code.RULE_ENCRYPTION if _is_mended(now.media, wanted.media) else _Code.RULE_CHANGED
        yield _warning(spec, code, resource, _media_detail(now.media, wanted.media))
    if "room_preset" in changed or (now.room_preset and spec.profile.room_presets is None):
        yield _warning(spec, _Code.RULE_PRESET, resource, f"It is {shown(now.room_preset)}.")
    if "name" in changed:
        yield _warning(spec, _Code.MARK_LOST, resource, _renamed(now.name))


def _trunks_finding(spec: PathSpec, now: DispatchRule) -> Finding:
    resource = (DISPATCH_RULE, now.id)
    if not now.trunk_ids:
        return _warning(spec, _Code.RULE_WILDCARD, resource)
    is_twice = spec.inbound_trunk_id in now.trunk_ids
    detail = f"It names {shown(', '.join(now.trunk_ids))}."
    return _warning(spec, _Code.RULE_CHANGED if is_twice else _Code.RULE_DEAD_TRUNK, resource, detail)


def _is_mended(now: Media, wanted: Media) -> bool:
    """Tell whether encryption was required, and should not be."""
    return now.encryption is Encryption.REQUIRE and wanted.encryption is not Encryption.REQUIRE


def _media_detail(now: Media, wanted: Media) -> str:
    if now.encryption is not wanted.encryption:
        return f"Its media encryption is {now.encryption}, not {wanted.encryption}."
    return f"It takes only the codecs {shown(', '.join(now.codecs))}."


def _renamed(name: str) -> str:
    return f"Its name is {shown(name)}." if name else "Its name is empty."
