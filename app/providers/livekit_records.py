"""LiveKit's objects as our records, and our changes in them.

An update replaces a whole object, so it starts from the record's `raw`: only fields of our records are written, and all
others stay as they are, also those that this SDK does not know.
"""

import re
from collections.abc import Collection, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import fields
from datetime import timedelta
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration
from livekit import api
from livekit.protocol import sip
from livekit.protocol.agent_dispatch import AgentDispatch

from app.domain.calls import CallRoom
from app.domain.options import HeaderSet, Pairs, RuleAgent
from app.domain.texts import storable
from app.path.marks import TAG_PREFIX
from app.path.observed import DispatchRule, Encryption, InboundTrunk, Media, RuleKind, Unreadable
from app.path.spec import DispatchRuleSpec, InboundTrunkSpec

_ID = re.compile(r"(?P<kind>[A-Z]+)_[A-Za-z0-9]{4,64}")
"""LiveKit's ids are `ST_` or `SDR_` and 12 letters and digits; LiveKit Cloud promises no length."""

_ENCRYPTIONS = {
    Encryption.DISABLE: sip.SIP_MEDIA_ENCRYPT_DISABLE,
    Encryption.ALLOW: sip.SIP_MEDIA_ENCRYPT_ALLOW,
    Encryption.REQUIRE: sip.SIP_MEDIA_ENCRYPT_REQUIRE,
}

_KINDS = {
    RuleKind.DIRECT: "dispatch_rule_direct",
    RuleKind.INDIVIDUAL: "dispatch_rule_individual",
    RuleKind.CALLEE: "dispatch_rule_callee",
}

_HEADERS = {
    HeaderSet.NONE: sip.SIP_NO_HEADERS,
    HeaderSet.X: sip.SIP_X_HEADERS,
    HeaderSet.ALL: sip.SIP_ALL_HEADERS,
}

_HEADER_SETS = {number: name.value for name, number in _HEADERS.items()}

_OTHER_HEADERS = "other"
"""A set of headers that only a newer server knows."""

_CREDENTIALS = {"has_username": "auth_username", "has_password": "auth_password"}

Record = TypeVar("Record", InboundTrunk, DispatchRule)


def checked_id(value: str, kind: str) -> str:
    """Return `value` when it is an id of this kind: an empty one would mean every trunk of the project."""
    match = _ID.fullmatch(value)
    if match is None or match["kind"] != kind:
        raise ValueError(f"not a {kind}_ id")
    return value


def unreadable_record(info: api.SIPInboundTrunkInfo | api.SIPDispatchRuleInfo) -> Unreadable:
    """Describe an object without a valid id; its name and metadata say whether it may be ours."""
    return Unreadable("", may_be_ours=TAG_PREFIX in info.name or TAG_PREFIX in info.metadata)


def read_trunk(info: api.SIPInboundTrunkInfo) -> InboundTrunk:
    """Read an inbound trunk; `ValueError` where it has no proper id."""
    return InboundTrunk(
        id=checked_id(info.sip_trunk_id, "ST"),
        name=storable(info.name),
        metadata=storable(info.metadata),
        numbers=_texts(info.numbers),
        allowed_addresses=_texts(info.allowed_addresses),
        allowed_numbers=_texts(info.allowed_numbers),
        has_username=bool(info.auth_username),
        has_password=bool(info.auth_password),
        media=_media(info),
        ringing_timeout_s=_seconds(info.ringing_timeout),
        max_call_duration_s=_seconds(info.max_call_duration),
        krisp=info.krisp_enabled,
        headers_to_attributes=_pairs(info.headers_to_attributes),
        include_headers=_HEADER_SETS.get(info.include_headers, _OTHER_HEADERS),
        raw=info.SerializeToString(),
    )


def read_rule(info: api.SIPDispatchRuleInfo) -> DispatchRule:
    """Read a dispatch rule; `ValueError` where it has no proper id."""
    kind = _kind(info.rule)
    rule = getattr(info.rule, _KINDS[kind]) if kind in _KINDS else None
    return DispatchRule(
        id=checked_id(info.sip_dispatch_rule_id, "SDR"),
        name=storable(info.name),
        metadata=storable(info.metadata),
        trunk_ids=_texts(info.trunk_ids),
        agents=tuple(
            RuleAgent(storable(agent.agent_name), storable(agent.metadata)) for agent in info.room_config.agents
        ),
        inbound_numbers=_texts(info.inbound_numbers),
        numbers=_texts(info.numbers),
        kind=kind,
        room=storable(getattr(rule, _room_field(kind), "")),
        pin=storable(getattr(rule, "pin", "")),
        is_fixed_room=_is_fixed_room(info.rule),
        hides_caller=info.hide_phone_number,
        room_preset=storable(info.room_preset),
        attributes=_pairs(info.attributes),
        empty_timeout_s=info.room_config.empty_timeout,
        departure_timeout_s=info.room_config.departure_timeout,
        max_participants=info.room_config.max_participants,
        krisp=info.krisp_enabled,
        media=_media(info),
        raw=info.SerializeToString(),
    )


def new_trunk(spec: InboundTrunkSpec) -> api.SIPInboundTrunkInfo:
    """Return the trunk to create."""
    info = api.SIPInboundTrunkInfo()
    _write_trunk(info, InboundTrunk("", "", "", ()), spec.record())
    return info


def new_rule(spec: DispatchRuleSpec) -> api.SIPDispatchRuleInfo:
    """Return the rule to create."""
    info = api.SIPDispatchRuleInfo()
    _write_rule(info, DispatchRule("", "", "", (), kind=RuleKind.UNKNOWN), spec.record())
    return info


def changed_trunk(now: InboundTrunk, wanted: InboundTrunk) -> api.SIPInboundTrunkInfo:
    """Return the trunk as it is, but for the fields in which `wanted` differs; `ValueError` where that cannot be."""
    info = api.SIPInboundTrunkInfo.FromString(now.raw)
    _check_same(info.sip_trunk_id, now.id, wanted.id)
    _write_trunk(info, now, wanted)
    return info


def _write_trunk(info: api.SIPInboundTrunkInfo, now: InboundTrunk, wanted: InboundTrunk) -> None:
    changed = _changed(now, wanted)
    for name in changed & {"name", "metadata"}:
        setattr(info, name, getattr(wanted, name))
    for name in changed & {"numbers", "allowed_addresses", "allowed_numbers"}:
        getattr(info, name)[:] = getattr(wanted, name)
    for name in changed & {"ringing_timeout_s", "max_call_duration_s"}:
        _write_seconds(info, name.removesuffix("_s"), getattr(wanted, name))
    for name in changed & _CREDENTIALS.keys():
        if getattr(wanted, name):
            raise ValueError("a record does not hold credentials")
        info.ClearField(_CREDENTIALS[name])
    if "krisp" in changed:
        info.krisp_enabled = wanted.krisp
    if "headers_to_attributes" in changed:
        _write_pairs(info.headers_to_attributes, wanted.headers_to_attributes)
    if "include_headers" in changed:
        info.include_headers = _HEADERS[HeaderSet(wanted.include_headers)]
    _write_media(info, now.media, wanted.media)


def changed_rule(now: DispatchRule, wanted: DispatchRule) -> api.SIPDispatchRuleInfo:
    """Return the rule as it is, but for the fields in which `wanted` differs; `ValueError` where that cannot be."""
    info = api.SIPDispatchRuleInfo.FromString(now.raw)
    _check_same(info.sip_dispatch_rule_id, now.id, wanted.id)
    _write_rule(info, now, wanted)
    return info


def _write_rule(info: api.SIPDispatchRuleInfo, now: DispatchRule, wanted: DispatchRule) -> None:
    changed = _changed(now, wanted)
    if "trunk_ids" in changed:
        info.trunk_ids[:] = [checked_id(trunk_id, "ST") for trunk_id in wanted.trunk_ids]
    for name in changed & {"name", "metadata", "room_preset"}:
        setattr(info, name, getattr(wanted, name))
    for name in changed & {"inbound_numbers", "numbers"}:
        getattr(info, name)[:] = getattr(wanted, name)
    if "agents" in changed:
        _write_agents(info, now.agents, wanted.agents)
    for name in changed & {"empty_timeout_s", "departure_timeout_s", "max_participants"}:
        setattr(info.room_config, name.removesuffix("_s"), getattr(wanted, name))
    if "attributes" in changed:
        _write_pairs(info.attributes, wanted.attributes)
    if "hides_caller" in changed:
        info.hide_phone_number = wanted.hides_caller
    if "krisp" in changed:
        info.krisp_enabled = wanted.krisp
    if changed & {"kind", "room", "pin", "is_fixed_room"}:
        _write_kind(info.rule, now, wanted)
    _write_media(info, now.media, wanted.media)


def _check_same(raw_id: str, now_id: str, wanted_id: str) -> None:
    """Refuse a record without its `raw`: what replaces the object would be empty."""
    if not raw_id == now_id == wanted_id:
        raise ValueError("not records of one object, as it was read")


def _changed(now: Record, wanted: Record) -> set[str]:
    names = (one.name for one in fields(now) if one.compare)
    return {name for name in names if getattr(now, name) != getattr(wanted, name)}


def _kind(rule: api.SIPDispatchRule) -> RuleKind:
    one = rule.WhichOneof("rule")
    return next((kind for kind, name in _KINDS.items() if name == one), RuleKind.UNKNOWN)


def _is_fixed_room(rule: api.SIPDispatchRule) -> bool:
    """Tell whether rooms have no random part: each kind has its own default (livekit/protocol sip/sip.go:930-950)."""
    if rule.HasField("dispatch_rule_callee"):
        return not rule.dispatch_rule_callee.randomize
    return rule.HasField("dispatch_rule_direct") or rule.dispatch_rule_individual.no_randomness


def _room_field(kind: RuleKind) -> str:
    return "room_name" if kind is RuleKind.DIRECT else "room_prefix"


def _write_kind(rule: api.SIPDispatchRule, now: DispatchRule, wanted: DispatchRule) -> None:
    if wanted.kind not in _KINDS:
        raise ValueError("a rule of an unknown kind cannot be written")
    if now.kind is RuleKind.UNKNOWN:
        # A kind that only the server knows would stand beside the new one.
        rule.Clear()
    written = getattr(rule, _KINDS[wanted.kind])
    if now.kind is not wanted.kind:
        written.Clear()
        written.SetInParent()
    if now.kind is not wanted.kind or now.room != wanted.room:
        setattr(written, _room_field(wanted.kind), wanted.room)
    if now.kind is not wanted.kind or now.pin != wanted.pin:
        written.pin = wanted.pin
    if wanted.kind is RuleKind.INDIVIDUAL:
        written.no_randomness = wanted.is_fixed_room
    elif wanted.kind is RuleKind.CALLEE:
        written.randomize = not wanted.is_fixed_room


def _write_agents(info: api.SIPDispatchRuleInfo, now: Sequence[RuleAgent], wanted: Sequence[RuleAgent]) -> None:
    """Write the agents; each keeps the other fields of the one that it was, or whose place in the list it takes."""
    former = list(info.room_config.agents)
    places = _former_places(now, wanted)
    written = [api.RoomAgentDispatch() for _ in wanted]
    for dispatch, place, agent in zip(written, places, wanted, strict=True):
        if place is not None:
            dispatch.CopyFrom(former[place])
        if place is None or now[place].name != agent.name:
            dispatch.agent_name = agent.name
        if place is None or now[place].metadata != agent.metadata:
            dispatch.metadata = agent.metadata
    del info.room_config.agents[:]
    info.room_config.agents.extend(written)


def _former_places(now: Sequence[RuleAgent], wanted: Sequence[RuleAgent]) -> list[int | None]:
    """Return for each wanted agent the index of the one that it was: the same, of the same name, in the same place."""
    free = list(range(len(now)))
    places: list[int | None] = [None] * len(wanted)
    for is_former in (
        lambda one, other: now[other] == wanted[one],
        lambda one, other: now[other].name == wanted[one].name,
        lambda one, other: other == one,
    ):
        for one in range(len(wanted)):
            if places[one] is None:
                places[one] = next((other for other in free if is_former(one, other)), None)
                free = [other for other in free if other != places[one]]
    return places


def _media(info: api.SIPInboundTrunkInfo | api.SIPDispatchRuleInfo) -> Media:
    """Read what LiveKit goes by: `media.encryption`, or else the older field (livekit/protocol livekit/sip.go:1274)."""
    media = info.media
    value = media.encryption if media.HasField("encryption") else info.media_encryption
    # A value that this release does not know is read as the one with which every call may get through.
    encryption = next((one for one, number in _ENCRYPTIONS.items() if number == value), Encryption.ALLOW)
    return Media(encryption, tuple(map(_codec_text, media.codecs)), media.only_listed_codecs)


def _write_media(info: api.SIPInboundTrunkInfo | api.SIPDispatchRuleInfo, now: Media, wanted: Media) -> None:
    if now.encryption is not wanted.encryption:
        _write_encryption(info, wanted.encryption)
    if now.codecs != wanted.codecs:
        _write_codecs(info.media, wanted.codecs)
    if now.only_listed_codecs is not wanted.only_listed_codecs:
        info.media.only_listed_codecs = wanted.only_listed_codecs


def _write_encryption(info: api.SIPInboundTrunkInfo | api.SIPDispatchRuleInfo, encryption: Encryption) -> None:
    """Write both fields, as LiveKit itself does: an older server reads only the older one."""
    info.media_encryption = info.media.encryption = _ENCRYPTIONS[encryption]


def _codec_text(codec: sip.SIPCodec) -> str:
    """Return `PCMU`, or with a clock rate `PCMU/8000`: LiveKit allows no slash in a name."""
    return storable(f"{codec.name}/{codec.rate}" if codec.rate else codec.name)


def _write_codecs(media: sip.SIPMediaConfig, codecs: Iterable[str]) -> None:
    """Write the codecs; those that are there already keep whatever else they have."""
    former = list(media.codecs)
    written = []
    for text in codecs:
        name, _, rate = text.partition("/")
        kept = next((one for one in former if _codec_text(one) == text), None)
        written.append(kept or sip.SIPCodec(name=name, rate=int(rate or 0)))
    del media.codecs[:]
    media.codecs.extend(written)


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=seconds))
    return duration


def _write_seconds(info: api.SIPInboundTrunkInfo, name: str, seconds: float) -> None:
    if seconds:
        getattr(info, name).CopyFrom(_duration(seconds))
    else:
        info.ClearField(name)


def _pairs(values: Mapping[str, str]) -> Pairs:
    return tuple(sorted((storable(name), storable(value)) for name, value in values.items()))


def _write_pairs(written: MutableMapping[str, str], wanted: Pairs) -> None:
    """Write a mapping; a pair that is there already stays as it came."""
    for name in [name for name in written if (storable(name), storable(written[name])) not in wanted]:
        del written[name]
    kept = {storable(name) for name in written}
    written.update({name: value for name, value in wanted if name not in kept})


def _texts(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(map(storable, values))


MOST_ROOMS = 12
"""Rooms of a project whose participants are looked at for one call: those that are named for it, then the newest."""

_HIDDEN_DIGITS = 4
"""Of a hidden caller's number so many digits are in the room's name (livekit/protocol sip/sip.go:867-950)."""


def rooms_of_call(rooms: Iterable[api.Room], caller: str, called: str, others: Collection[str]) -> list[str]:
    """Return the names of the rooms in which a call may be, the likeliest first; `MOST_ROOMS`, and none of `others`."""

    def likelihood(room: api.Room) -> tuple[bool, bool, int]:
        is_of_caller, is_of_called = caller in room.name, called in room.name
        is_of_hidden = caller[-_HIDDEN_DIGITS:] in room.name
        return is_of_caller or is_of_called, is_of_hidden, room.creation_time_ms or room.creation_time * 1000

    possible = [room for room in rooms if room.name and room.name not in others]
    return [room.name for room in sorted(possible, key=likelihood, reverse=True)[:MOST_ROOMS]]


def is_of_other_call(name: str, participants: Iterable[api.ParticipantInfo], called: str) -> bool:
    """Tell whether a room was made for another call alone: somebody calls there, and it is not named for the number."""
    return called not in name and any(one.kind == api.ParticipantInfo.Kind.SIP for one in participants)


def is_caller(participant: api.ParticipantInfo, sip_call_id: str, caller: str, called: str) -> bool:
    """Tell whether a participant is the caller of this call.

    By the SIP Call-ID; a server that does not show it (`sip.callIDFull`, livekit/sip pkg/sip/types.go:277) shows the
    numbers, unless the rule hides them.
    """
    if participant.kind != api.ParticipantInfo.Kind.SIP:
        return False
    shown = participant.attributes
    if "sip.callIDFull" in shown:
        return bool(shown["sip.callIDFull"] == sip_call_id)
    return (shown.get("sip.phoneNumber"), shown.get("sip.trunkPhoneNumber")) == (caller, called)


def read_call_room(
    name: str,
    caller: api.ParticipantInfo,
    participants: Iterable[api.ParticipantInfo],
    dispatches: Iterable[AgentDispatch],
) -> CallRoom:
    """Read the room of a call: its caller, whom LiveKit was asked for, and which agents are there."""
    return CallRoom(
        name=storable(name),
        identity=storable(caller.identity),
        trunk_id=storable(caller.attributes.get("sip.trunkID", "")),
        rule_id=storable(caller.attributes.get("sip.ruleID", "")),
        agents=tuple(sorted({storable(one.agent_name) for one in dispatches})),
        joined=_texts(sorted(one.identity for one in participants if one.kind == api.ParticipantInfo.Kind.AGENT)),
    )
