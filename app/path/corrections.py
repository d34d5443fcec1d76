"""The record that each of our objects should be, made of the one that is there: what we own in it, and only that.

A repair writes it, and a finding is raised where it differs from what is there. What it copies is for somebody else to
set.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK, ORIGINATION_URL, TRUNK
from app.domain.options import RuleAgent, TransferMode
from app.domain.sip_uris import SipUri
from app.path.arrival import leads_to, parsed_url
from app.path.livekit_matching import (
    LONGEST_CALLER,
    SHORTEST_CALL_S,
    SHORTEST_RINGING_S,
    accepts_twilio_codecs,
    admits,
    covers,
    is_open_to_all,
    is_room_named,
    sources_of,
)
from app.path.marks import has_mark, mark_in, takes_mark, with_mark, without_mark
from app.path.observed import (
    CarrierTrunk,
    DispatchRule,
    Encryption,
    InboundTrunk,
    Media,
    OriginationUrl,
    RuleKind,
    normalised,
)
from app.path.options import said_fields
from app.path.spec import NOTHING_FORMER, Adopted, Former, PathSpec, built_inbound_trunk, built_rule

TWILIO_TRANSFER_MODE = TransferMode.DISABLED.value
"""What Twilio makes a trunk with (https://www.twilio.com/docs/sip-trunking/api/trunk-resource, TransferMode)."""


def corrected_trunk(
    now: CarrierTrunk, spec: PathSpec, *, livekit_encrypts: bool, former: Former = NOTHING_FORMER
) -> CarrierTrunk:
    """Return the Twilio trunk as it should be.

    A line that is not secure by its profile may be encrypted by hand: it stays so while LiveKit's end, whose media
    settings the caller has read, takes encrypted media too.
    """
    if is_anothers(spec, TRUNK, now.sid):
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

    One that was adopted keeps its place among the others of its trunk, and its way to LiveKit, whichever that is.
    """
    if is_anothers(spec, ORIGINATION_URL, now.sid):
        return now
    wanted = spec.origination_url
    is_adopted = _adopted(spec, ORIGINATION_URL, now.sid) is not None
    is_right = is_adopted and leads_to(now.sip_url, spec.profile, spec.phone_number)
    return replace(
        now,
        tag=wanted.tag,
        is_enabled=True,
        sip_url=now.sip_url if is_right else _corrected_sip_url(now.sip_url, wanted.uri, is_secure=is_secure),
        priority=now.priority if is_adopted else wanted.priority,
        weight=now.weight if is_adopted else wanted.weight,
    )


def _adopted(spec: PathSpec, step: str, external_id: str) -> Adopted | None:
    adopted = spec.adopted.get(step)
    return adopted if adopted is not None and adopted.id == external_id else None


def is_anothers(spec: PathSpec, step: str, external_id: str) -> bool:
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
    if is_anothers(spec, INBOUND_TRUNK, now.id):
        return now
    is_adopted = _adopted(spec, INBOUND_TRUNK, now.id) is not None
    is_marked, has_room = _is_marked(spec, now.metadata), not is_adopted or takes_mark(now.metadata)
    said = said_fields(INBOUND_TRUNK, spec.options, former.options) - {"allowed_numbers"}
    are_same_callers = set(map(normalised, now.allowed_numbers)) == set(map(normalised, wanted.allowed_numbers))
    is_ringing_too_short = 0 < now.ringing_timeout_s < SHORTEST_RINGING_S
    is_cut = 0 < now.max_call_duration_s < SHORTEST_CALL_S
    changes: dict[str, Any] = {
        # Where its metadata says something else, an adopted one has our mark in its name alone.
        "name": wanted.name if not now.name or mark_in(now.name) or not (is_marked or has_room) else now.name,
        "metadata": now.metadata if is_marked or not has_room else with_mark(now.metadata, wanted.metadata),
        "numbers": now.numbers if has_number else (*now.numbers, spec.phone_number),
        "allowed_addresses": _corrected_addresses(now.allowed_addresses, spec, is_adopted=is_adopted),
        "allowed_numbers": now.allowed_numbers if are_same_callers else wanted.allowed_numbers,
        "has_username": False,
        "has_password": False,
        "media": _corrected_media(now.media, is_secure=spec.profile.is_secure, twilio_encrypts=twilio_encrypts),
        "ringing_timeout_s": wanted.ringing_timeout_s if is_ringing_too_short else now.ringing_timeout_s,
        "max_call_duration_s": 0.0 if is_cut else now.max_call_duration_s,
    }
    return replace(now, **{**changes, **{name: getattr(wanted, name) for name in said}})


def _corrected_addresses(now: tuple[str, ...], spec: PathSpec, *, is_adopted: bool) -> tuple[str, ...]:
    """Return the allowed addresses; wider blocks are fine, as long as they are not the whole Internet.

    On a trunk that was adopted all are fine that let every call in.
    """
    wanted = spec.profile.allowed_addresses
    if is_adopted and all(admits(now, address) for address in sources_of(wanted)):
        return now
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
    if is_anothers(spec, DISPATCH_RULE, now.id):
        return now
    wanted, presets = built_rule(spec), spec.profile.room_presets
    said = said_fields(DISPATCH_RULE, spec.options, former.options)
    has_trunk = wanted.trunk_ids[0] in now.trunk_ids
    encrypts = twilio_encrypts or spec.profile.is_secure
    changes: dict[str, Any] = {
        "name": wanted.name,
        "metadata": without_mark(now.metadata),
        "trunk_ids": tuple(dict.fromkeys(now.trunk_ids)) if has_trunk else wanted.trunk_ids,
        "inbound_numbers": (),
        "numbers": now.numbers if spec.phone_number in now.numbers else wanted.numbers,
        "pin": wanted.pin,
        "room_preset": "" if presets is not None and now.room_preset not in presets else now.room_preset,
        "krisp": now.krisp and spec.options.krisp is not False,
        "media": _corrected_media(now.media, is_secure=False, twilio_encrypts=encrypts),
    }
    changes |= {name: getattr(wanted, name) for name in said}
    changes |= {"agents": _corrected_agents(now.agents, wanted.agents, former), "kind": wanted.kind}
    return _with_room(replace(now, **changes), now, wanted, said, spec.phone_number)


def _with_room(
    corrected: DispatchRule, now: DispatchRule, wanted: DispatchRule, said: frozenset[str], phone_number: str
) -> DispatchRule:
    """Return the corrected rule with its rooms' names where options say them, or where calls would get none.

    Of a kind other than `individual` only who asks for it knows whether its rooms have a random part.
    """
    is_same_kind = now.kind is wanted.kind
    is_said = "is_fixed_room" in said or not is_same_kind or wanted.kind is not RuleKind.CALLEE
    is_fixed = wanted.is_fixed_room if is_said else now.is_fixed_room
    ours = corrected if corrected.is_fixed_room is is_fixed else replace(corrected, is_fixed_room=is_fixed)
    has_own_room = is_same_kind and is_room_named(ours, phone_number, LONGEST_CALLER)
    return ours if has_own_room or "room" in said else replace(ours, room=wanted.room)


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
    at = _place_of(ours, found, former.agent_name)
    found = [ours, *found] if at is None else _placed(found, at, ours)
    if former.agent_name and former.agent_name not in names:
        found = [agent for agent in found if agent.name != former.agent_name]
    for extra in extras:
        at = next((place for place, agent in enumerate(found) if agent.name == extra.name), None)
        found = [*found, extra] if at is None else _placed(found, at, extra)
    return tuple(found)


def _place_of(ours: RuleAgent, found: Sequence[RuleAgent], former_name: str) -> int | None:
    ways: tuple[Callable[[RuleAgent], bool], ...] = (
        lambda agent: agent.name == ours.name,
        lambda agent: bool(former_name) and agent.name == former_name,
        lambda agent: is_same_job(agent.metadata, ours.metadata),
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
    if metadata == other:
        return True
    first, second = _canonical(metadata or "{}"), _canonical(other or "{}")
    return first is not None and first == second


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
