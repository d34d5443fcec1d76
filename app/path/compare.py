"""What differs: the findings about one path, those that stop calls and the others."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from typing import TypeVar

from app.domain.findings import Finding, FindingCode, Severity
from app.domain.numbers import mask_numbers
from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK, NUMBER, ORIGINATION_URL, TRUNK
from app.domain.options import NO_OPTIONS, OPTIONS, AgentOptions, Option, options_json
from app.domain.texts import shown
from app.path.arrival import leads_to
from app.path.corrections import (
    corrected_inbound_trunk,
    corrected_rule,
    corrected_trunk,
    corrected_url,
    is_anothers,
    takes_encrypted_media,
)
from app.path.livekit_matching import (
    is_open_to_all,
)
from app.path.marks import has_mark
from app.path.observed import (
    CarrierTrunk,
    DispatchRule,
    Encryption,
    InboundTrunk,
    Media,
    Observed,
    OriginationUrl,
    ResourceKey,
)
from app.path.options import RECORD_FIELDS, observed_options
from app.path.reach import reach
from app.path.spec import PathSpec

_Code = FindingCode


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
    return [_left_to_others(spec, finding) for finding in critical + rest]


_MADE_ANEW = frozenset({_Code.TRUNK_GONE, _Code.LIVEKIT_TRUNK_GONE, _Code.RULE_GONE, _Code.RULE_DEAD_TRUNK})
"""Codes that say that an object is no longer on the path: a repair makes one of ours, whoever had made the other."""


def _left_to_others(spec: PathSpec, finding: Finding) -> Finding:
    """Return the finding as one that no repair fixes, where it is about what other numbers use too."""
    kind, external_id = finding.resource or ("", "")
    is_theirs = is_anothers(spec, kind, external_id) and finding.code not in _MADE_ANEW
    return replace(finding, is_anothers=True) if is_theirs else finding


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
    names = () if spec.options == NO_OPTIONS else (one.field for one in OPTIONS)
    present = observed_options(inbound, rule, trunk, names) if names else NO_OPTIONS
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
    for one in OPTIONS if changed else ():
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
