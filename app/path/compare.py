"""What differs: the record that each of ours should be, and the findings about one path.

`corrected_*` is the one statement of what we own in an object: a repair writes its result, and a finding is raised
where it differs from what is there. What it copies is for somebody else to set.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from typing import TypeVar

from app.domain.findings import Finding, FindingCode, Severity
from app.domain.numbers import mask_numbers
from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK, NUMBER, ORIGINATION_URL, TRUNK
from app.domain.options import OPTIONS, AgentOptions, Option, RuleAgent, TransferMode, options_json
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
from app.path.options import RECORD_FIELDS, observed_options, said_fields
from app.path.reach import reach
from app.path.spec import NOTHING_FORMER, Adopted, Former, PathSpec, built_inbound_trunk, built_rule

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
    if _is_anothers(spec, TRUNK, now.sid):
        return now
    profile = spec.profile
    return replace(
        now,
        tag=spec.trunk.tag,
        is_secure=profile.is_secure or (now.is_secure and livekit_encrypts),
        transfer_mode=profile.transfer_mode or (TWILIO_TRANSFER_MODE if former.options.transfer else now.transfer_mode),
    )


def corrected_url(now: OriginationUrl, spec: PathSpec, *, is_secure: bool) -> OriginationUrl:
    """Return the origination URL as it should be; `is_secure` says whether its trunk is or will be.

    One that was adopted keeps its place among the others of its trunk.
    """
    if _is_anothers(spec, ORIGINATION_URL, now.sid):
        return now
    wanted = spec.origination_url
    is_adopted = _adopted(spec, ORIGINATION_URL, now.sid) is not None
    return replace(
        now,
        tag=wanted.tag,
        is_enabled=True,
        sip_url=_corrected_sip_url(now.sip_url, wanted.uri, is_secure=is_secure),
        priority=now.priority if is_adopted else wanted.priority,
        weight=now.weight if is_adopted else wanted.weight,
    )


def _adopted(spec: PathSpec, step: str, external_id: str) -> Adopted | None:
    adopted = spec.adopted.get(step)
    return adopted if adopted is not None and adopted.id == external_id else None


def _is_anothers(spec: PathSpec, step: str, external_id: str) -> bool:
    """Tell whether it was adopted and other numbers use it too: then it is never changed."""
    adopted = _adopted(spec, step, external_id)
    return adopted is not None and adopted.is_shared


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
    now: InboundTrunk, spec: PathSpec, *, twilio_encrypts: bool, former: Former = NOTHING_FORMER
) -> InboundTrunk:
    """Return the LiveKit trunk as it should be: with our number and mark, and without what stops calls.

    An option that is set has its value, one that only `former` set has that of a new path, any other is left alone.
    """
    wanted = built_inbound_trunk(spec)
    has_number = normalised(spec.phone_number) in map(normalised, now.numbers)
    numbers = now.numbers if has_number else (*now.numbers, spec.phone_number)
    if _is_anothers(spec, INBOUND_TRUNK, now.id):
        # One without numbers has every number.
        return replace(now, numbers=numbers) if now.numbers else now
    corrected = replace(
        now,
        name=wanted.name if not now.name or mark_in(now.name) else now.name,
        metadata=now.metadata if _is_marked(spec, now.metadata) else with_mark(now.metadata, wanted.metadata),
        numbers=numbers,
        allowed_addresses=_corrected_addresses(now.allowed_addresses, spec),
        has_username=False,
        has_password=False,
        media=_corrected_media(now.media, is_secure=spec.profile.is_secure, twilio_encrypts=twilio_encrypts),
        ringing_timeout_s=(
            wanted.ringing_timeout_s if 0 < now.ringing_timeout_s < SHORTEST_RINGING_S else now.ringing_timeout_s
        ),
        max_call_duration_s=0.0 if 0 < now.max_call_duration_s < SHORTEST_CALL_S else now.max_call_duration_s,
    )
    said = said_fields(INBOUND_TRUNK, spec.options, former.options) - {"allowed_numbers"}
    are_same_callers = set(map(normalised, now.allowed_numbers)) == set(map(normalised, wanted.allowed_numbers))
    return replace(
        corrected,
        allowed_numbers=now.allowed_numbers if are_same_callers else wanted.allowed_numbers,
        **{name: getattr(wanted, name) for name in said},
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
    """Return the dispatch rule as it should be: for our trunk and agents, and without what stops calls.

    Other trunks and other agents stay. `former` is what the path was made for before this operation. An option that is
    set has its value, one that only `former` set has that of a new path, any other is left alone. Krisp, which LiveKit
    turns on where trunk or rule says so, is only ever turned off here (livekit/protocol sip/sip.go,
    EvaluateDispatchRule).
    """
    if _is_anothers(spec, DISPATCH_RULE, now.id):
        return now
    wanted, presets = built_rule(spec), spec.profile.room_presets
    corrected = replace(
        now,
        name=wanted.name,
        metadata=without_mark(now.metadata),
        trunk_ids=(tuple(dict.fromkeys(now.trunk_ids)) if wanted.trunk_ids[0] in now.trunk_ids else wanted.trunk_ids),
        inbound_numbers=(),
        numbers=now.numbers if spec.phone_number in now.numbers else (),
        pin=wanted.pin,
        agents=_corrected_agents(now.agents, wanted.agents, former),
        room_preset="" if presets is not None and now.room_preset not in presets else now.room_preset,
        krisp=now.krisp and spec.options.krisp is not False,
        media=_corrected_media(now.media, is_secure=False, twilio_encrypts=twilio_encrypts or spec.profile.is_secure),
    )
    said = said_fields(DISPATCH_RULE, spec.options, former.options)
    others = {name: getattr(wanted, name) for name in said - {"kind", "room", "is_fixed_room", "agents"}}
    return _with_room(replace(corrected, **others), wanted, said, spec.phone_number)


def _with_room(now: DispatchRule, wanted: DispatchRule, said: frozenset[str], phone_number: str) -> DispatchRule:
    """Return the rule with its kind, and its rooms' names where options say them or calls would get none.

    Of a kind other than `individual` only who asks for it knows whether its rooms have a random part.
    """
    is_same_kind = now.kind is wanted.kind
    is_said = "is_fixed_room" in said or not is_same_kind or wanted.kind is not RuleKind.CALLEE
    ours = replace(now, kind=wanted.kind, is_fixed_room=wanted.is_fixed_room if is_said else now.is_fixed_room)
    has_own_room = is_same_kind and is_room_named(ours, phone_number, LONGEST_CALLER)
    return ours if has_own_room and "room" not in said else replace(ours, room=wanted.room)


def _corrected_agents(
    now: tuple[RuleAgent, ...], wanted: tuple[RuleAgent, ...], former: Former
) -> tuple[RuleAgent, ...]:
    """Return the agents with each of ours in its own place, or at the end; what only `former` named goes.

    The agent itself, the first of those wanted, takes the former one's place, else that of ours under another name.
    """
    ours, *extras = wanted
    names = {agent.name for agent in wanted}
    left = {agent.name for agent in former.options.agents or ()} - names
    found = [agent for agent in now if agent.name not in left]
    at = _place_of(ours, found, former.agent_name, names)
    found = [ours, *found] if at is None else _placed(found, at, ours)
    if former.agent_name not in names:
        found = [agent for agent in found if agent.name != former.agent_name]
    for extra in extras:
        at = next((place for place, agent in enumerate(found) if agent.name == extra.name), None)
        found = [*found, extra] if at is None else _placed(found, at, extra)
    return tuple(found)


def _place_of(ours: RuleAgent, found: Sequence[RuleAgent], former_name: str, names: Collection[str]) -> int | None:
    ways: tuple[Callable[[RuleAgent], bool], ...] = (
        lambda agent: agent.name == ours.name,
        lambda agent: agent.name == former_name and former_name not in names,
        lambda agent: agent.name not in names and is_same_job(agent.metadata, ours.metadata),
    )
    for is_ours in ways:
        at = next((place for place, agent in enumerate(found) if is_ours(agent)), None)
        if at is not None:
            return at
    return None


def _placed(agents: Sequence[RuleAgent], at: int, ours: RuleAgent) -> list[RuleAgent]:
    """Return the agents with ours at this place; one that means the same is left as it is written."""
    now = agents[at]
    is_same = now.name == ours.name and is_same_job(now.metadata, ours.metadata)
    return [*agents[:at], now if is_same else ours, *agents[at + 1 :]]


def is_same_job(metadata: str, other: str) -> bool:
    """Tell whether two texts give an agent's job the same: JSON by its content, where both are; empty is `{}`."""
    first, second = _canonical(metadata or "{}"), _canonical(other or "{}")
    return metadata == other if first is None or second is None else first == second


def _canonical(text: str) -> str | None:
    """Return JSON with sorted keys and without blanks; None where it is not JSON, or is nested too deep to read."""
    try:
        return json.dumps(json.loads(text), sort_keys=True)
    except (ValueError, RecursionError):
        return None


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
    names = (one.field for one in OPTIONS if getattr(spec.options, one.field) is not None)
    present = observed_options(inbound, rule, trunk, names)
    if trunk is not None:
        wanted_trunk = corrected_trunk(trunk, spec, livekit_encrypts=takes_encrypted_media(inbound, rule))
        yield from _of_trunk(spec, trunk, wanted_trunk, present)
    for url in observed.urls.get(spec.trunk_sid, ()):
        if url.sid == spec.url_sid:
            yield from _of_url(spec, url, corrected_url(url, spec, is_secure=encrypts))
    if inbound is not None:
        wanted = corrected_inbound_trunk(inbound, spec, twilio_encrypts=encrypts)
        yield from _of_inbound_trunk(spec, inbound, wanted, present)
    if rule is not None:
        yield from _of_rule(spec, rule, corrected_rule(rule, spec, twilio_encrypts=encrypts), present)


Record = TypeVar("Record", CarrierTrunk, OriginationUrl, InboundTrunk, DispatchRule)


def _changed(now: Record, wanted: Record) -> set[str]:
    return {one.name for one in fields(now) if one.compare and getattr(now, one.name) != getattr(wanted, one.name)}


_MOST_SHOWN = 100
"""Characters of an option's value that a detail shows."""


def _option_details(spec: PathSpec, step: str, changed: set[str], present: AgentOptions) -> dict[str, str]:
    """Return record fields that options set and that differ, with a sentence on each; a PIN is not shown."""
    details: dict[str, str] = {}
    for one in OPTIONS:
        wanted, now = getattr(spec.options, one.field), getattr(present, one.field)
        name = RECORD_FIELDS.get(one.field, "")
        if wanted is None or step not in one.steps or name not in changed or now == wanted or one.field == "agents":
            continue
        option = f"Option {'.'.join(one.path)}"
        if one.field == "pin":
            details[name] = f"{option} is {'another one than is set' if now else 'not set at LiveKit'}."
        else:
            details[name] = f"{option} is {_shown_option(present, one)}, not {_shown_option(spec.options, one)}."
    return details


def _shown_option(options: AgentOptions, one: Option) -> str:
    value: object = options_json(options.only([one.field]))
    for part in one.path:
        value = value.get(part) if isinstance(value, dict) else None
    text = mask_numbers(json.dumps(value, ensure_ascii=False)) if value is not None else "something else"
    return shown(text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}\N{HORIZONTAL ELLIPSIS}")


def _of_trunk(spec: PathSpec, now: CarrierTrunk, wanted: CarrierTrunk, present: AgentOptions) -> Iterator[Finding]:
    resource, changed = (TRUNK, now.sid), _changed(now, wanted)
    if "is_secure" in changed:
        detail = "It takes plain calls." if wanted.is_secure else "It encrypts, and LiveKit does not."
        yield _warning(spec, _Code.TRUNK_CHANGED if wanted.is_secure else _Code.TRUNK_SECURE, resource, detail)
    if "transfer_mode" in changed:
        detail = f"Its transfer mode is {shown(now.transfer_mode) or 'not set'}, not {wanted.transfer_mode}."
        detail = _option_details(spec, TRUNK, changed, present).get("transfer_mode", detail)
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


def _of_inbound_trunk(
    spec: PathSpec, now: InboundTrunk, wanted: InboundTrunk, present: AgentOptions
) -> Iterator[Finding]:
    resource, changed = (INBOUND_TRUNK, now.id), _changed(now, wanted)
    if "numbers" in changed:
        yield _warning(spec, _Code.LIVEKIT_TRUNK_LOST_NUMBER, resource)
    by_option = _option_details(spec, INBOUND_TRUNK, changed, present)
    for detail in by_option.values():
        yield _warning(spec, _Code.LIVEKIT_TRUNK_CHANGED, resource, detail)
    changed -= by_option.keys()
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


def _of_rule(spec: PathSpec, now: DispatchRule, wanted: DispatchRule, present: AgentOptions) -> Iterator[Finding]:
    resource, changed = (DISPATCH_RULE, now.id), _changed(now, wanted)
    by_option = _option_details(spec, DISPATCH_RULE, changed, present)
    for name, detail in by_option.items():
        # Another PIN stops calls, and is said already then.
        yield _warning(spec, _Code.RULE_PIN if name == "pin" and now.pin else _Code.RULE_CHANGED, resource, detail)
    changed -= by_option.keys()
    if "trunk_ids" in changed:
        yield _trunks_finding(spec, now)
    if changed & {"inbound_numbers", "numbers"}:
        yield _warning(spec, _Code.RULE_FILTERED, resource)
    if "pin" in changed:
        yield _warning(spec, _Code.RULE_PIN, resource)
    if changed & {"kind", "is_fixed_room"} and "kind" not in by_option:
        kind = "dispatches each caller to a fixed room" if now.kind is wanted.kind else f"is {now.kind or 'unknown'}"
        detail = f"It {kind}: callers may share a room, and only the first one gets the agent."
        yield _warning(spec, _Code.RULE_CHANGED, resource, detail)
    if "agents" in changed:
        yield from _of_agents(spec, now, wanted)
    if "media" in changed:
        code = _Code.RULE_ENCRYPTION if _is_mended(now.media, wanted.media) else _Code.RULE_CHANGED
        yield _warning(spec, code, resource, _media_detail(now.media, wanted.media))
    is_unknown = now.room_preset and not spec.options.room_preset and spec.profile.room_presets is None
    if "room_preset" in changed or is_unknown:
        yield _warning(spec, _Code.RULE_PRESET, resource, f"It is {shown(now.room_preset)}.")
    if "name" in changed:
        yield _warning(spec, _Code.MARK_LOST, resource, _renamed(now.name))


def _of_agents(spec: PathSpec, now: DispatchRule, wanted: DispatchRule) -> Iterator[Finding]:
    """Say what is not there of the agents that we want, and whose job is given something else."""
    resource = (DISPATCH_RULE, now.id)
    names = {agent.name for agent in now.agents}
    if spec.agent_name not in names:
        named = shown(", ".join(agent.name for agent in now.agents)) or "no agent"
        yield _warning(spec, _Code.RULE_LOST_AGENT, resource, f"It names {named}.")
    for agent in wanted.agents:
        if agent in now.agents or agent.name == spec.agent_name not in names:
            continue
        if agent.name == spec.agent_name:
            detail = "The metadata of the agent's jobs was changed."
        elif agent.name in names:
            detail = f"Option agents: the metadata of the jobs of {shown(agent.name)} is not what is set."
        else:
            detail = f"Option agents: it does not name {shown(agent.name)}."
        yield _warning(spec, _Code.RULE_CHANGED, resource, detail)


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
