"""What an agent's options mean at the providers: where they stand, what stands there now, and what cannot be.

Sources: livekit/protocol (sip/sip.go, livekit/sip_validation.go), livekit/sip (pkg/sip/inbound.go), livekit/livekit
(pkg/config/config.go: the size limits that an installation starts with).
"""

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

from app.domain.numbers import InvalidNumberError, parse_e164
from app.domain.options import NO_OPTIONS, OPTIONS, AgentOptions, DispatchKind, HeaderSet, Pairs, TransferMode
from app.domain.texts import MAX_METADATA_BYTES, MAX_NAME, InvalidTextError, excerpt, storable, visible_line
from app.path.livekit_matching import LONGEST_CALLER, LONGEST_ROOM_NAME, is_room_named
from app.path.marks import mark_in, without_mark
from app.path.observed import CarrierTrunk, DispatchRule, InboundTrunk, RuleKind

RECORD_FIELDS = {
    "dispatch_kind": "kind",
    "room_prefix": "room",
    "room_name": "room",
    "randomize": "is_fixed_room",
    "pin": "pin",
    "agents": "agents",
    "empty_timeout_s": "empty_timeout_s",
    "departure_timeout_s": "departure_timeout_s",
    "max_participants": "max_participants",
    "room_preset": "room_preset",
    "participant_metadata": "metadata",
    "participant_attributes": "attributes",
    "hide_phone_number": "hides_caller",
    "ringing_s": "ringing_timeout_s",
    "max_duration_s": "max_call_duration_s",
    "krisp": "krisp",
    "allowed_callers": "allowed_numbers",
    "headers_to_attributes": "headers_to_attributes",
    "include_headers": "include_headers",
    "transfer": "transfer_mode",
}
"""Option -> the field of a record that it sets; the records are those of its steps."""

ROOM_OPTIONS = frozenset({"dispatch_kind", "room_prefix", "room_name", "randomize"})
"""They stand together in one part of a rule: LiveKit has another for each kind."""


def said_fields(step: str, *options: AgentOptions) -> frozenset[str]:
    """Return the fields of a step's record that one of these sets of options says."""
    # Most agents have none, and an audit asks for each of them.
    given = [each for each in options if each != NO_OPTIONS]
    return frozenset(
        RECORD_FIELDS[one.field]
        for one in (OPTIONS if given else ())
        if one.step == step and any(getattr(each, one.field) is not None for each in given)
    )


def observed_options(
    trunk: InboundTrunk | None,
    rule: DispatchRule | None,
    carrier_trunk: CarrierTrunk | None,
    names: Iterable[str],
    extras: Collection[str] = (),
) -> AgentOptions:
    """Return what stands in these objects for the options of these fields, each with a value: False, 0 and "" too.

    An operation that changes the options and fails writes this back, over the agent's own, so that all is as it stood.
    One of the options of a room stands for all of them. `extras` are the names of agents that are ours or are to be:
    what options name, and the agent itself by its present name and by a new one; those of them that the rule has are
    the option `agents`. What cannot be expressed as an option, or stands in an object that is not there, is not set.
    """
    wanted = frozenset(names)
    if wanted & ROOM_OPTIONS:
        wanted |= ROOM_OPTIONS
    found: dict[str, Any] = {}
    if rule is not None:
        found |= _of_rule(rule, frozenset(extras))
    if trunk is not None:
        found |= _of_inbound_trunk(trunk)
        # Either of both is enough for LiveKit (livekit/protocol sip/sip.go, EvaluateDispatchRule).
        found["krisp"] = trunk.krisp or (rule is not None and rule.krisp)
    if carrier_trunk is not None:
        found["transfer"] = _member(TransferMode, carrier_trunk.transfer_mode)
    return AgentOptions(**{name: value for name, value in found.items() if name in wanted})


def _of_rule(rule: DispatchRule, extras: frozenset[str]) -> dict[str, Any]:
    is_direct = rule.kind is RuleKind.DIRECT
    return {
        "dispatch_kind": _member(DispatchKind, rule.kind.value),
        "room_prefix": None if is_direct else rule.room,
        "room_name": rule.room if is_direct else None,
        "randomize": None if is_direct else not rule.is_fixed_room,
        "pin": rule.pin,
        "agents": tuple(agent for agent in rule.agents if agent.name in extras),
        "empty_timeout_s": rule.empty_timeout_s,
        "departure_timeout_s": rule.departure_timeout_s,
        "max_participants": rule.max_participants,
        "room_preset": rule.room_preset,
        "participant_metadata": without_mark(rule.metadata),
        "participant_attributes": rule.attributes,
        "hide_phone_number": rule.hides_caller,
    }


def _of_inbound_trunk(trunk: InboundTrunk) -> dict[str, Any]:
    return {
        "ringing_s": _figure(trunk.ringing_timeout_s),
        "max_duration_s": _figure(trunk.max_call_duration_s),
        "allowed_callers": trunk.allowed_numbers,
        "headers_to_attributes": trunk.headers_to_attributes,
        "include_headers": _member(HeaderSet, trunk.include_headers),
    }


def _figure(seconds: float) -> float:
    """Return whole seconds as such; parts of one, which somebody else has set, stay what they are."""
    return int(seconds) if seconds == int(seconds) else seconds


def _member(kind: type[DispatchKind | HeaderSet | TransferMode], text: str) -> Any:
    """Return the member of this value; None where a provider has another kind than we know."""
    return next((one for one in kind if one.value == text), None)


_PIN = re.compile(r"[0-9]{1,16}", re.ASCII)
"""What a caller can dial before the `#` that ends it (livekit/sip pkg/sip/inbound.go, pinPrompt: 16 at most)."""

_HEADER_NAME = re.compile(r"[A-Za-z0-9.!%*_+`'~-]{1,255}", re.ASCII)
"""RFC 3261's token, as LiveKit checks it (livekit/protocol livekit/sip_validation.go, ValidateHeaderName)."""

_RESERVED = ("sip.", "lk.")
"""How LiveKit's own attributes begin: a call's own go over those of its rule (sip/sip.go, EvaluateDispatchRule)."""

MAX_ATTRIBUTES_BYTES = 32 * 1024
"""Half of what a participant may have, keys and values together: the call's own are added (pkg/config/config.go)."""

MAX_PAIRS = 100
"""Attributes, or headers that become some; more than any real call has."""

MAX_AGENTS = 10
"""Agents beside the agent itself."""

MAX_CALLERS = 1000
"""Callers that are let in. LiveKit reads them all at every call."""


HIDDEN_CALLER = "+266696687"
"""Stands for callers who hide their number: "anonymous" on a telephone's keys (https://www.twilio.com/docs/voice)."""


class _Range(NamedTuple):
    least: int
    most: int


RANGES = {
    # From pkg/rtc/room.go: a room is closed once so many seconds have gone by; 0 means LiveKit's own figure.
    "empty_timeout_s": _Range(1, 86_400),
    "departure_timeout_s": _Range(1, 86_400),
    # The caller is one. Agents and recorders do not count (pkg/rtc/room.go, Join).
    "max_participants": _Range(1, 10_000),
    # LiveKit's own is 3 minutes; nobody waits longer (livekit/sip pkg/sip/participant.go).
    "ringing_s": _Range(1, 180),
    # The ringing counts too, and LiveKit cuts every call after 24 hours (inbound.go, handleInvite).
    "max_duration_s": _Range(10, 86_400),
    "monitor_every_minutes": _Range(5, 1440),
}

_PATHS = {one.field: ".".join(one.path) for one in OPTIONS}

Problem = tuple[str, str]
"""A dotted JSON path and a sentence without a subject, as in `("dispatch.pin", "must be ...")`."""


def problems_of(options: AgentOptions, phone_number: str | None = None) -> dict[str, list[str]]:
    """Return what is wrong, by dotted JSON path as in `dispatch.pin`; empty: nothing. A PIN is never repeated.

    An adopted path may have what could not be set: who changes other options looks at the paths of those alone.
    `phone_number` is the agent's own, where it has one: a room of kind `callee` is named by it.
    """
    found: dict[str, list[str]] = {}
    for path, problem in (
        *_of_dispatch(options, phone_number or LONGEST_CALLER),
        *_of_agents(options),
        *_of_figures(options),
        *_of_participant(options),
        *_of_call(options),
    ):
        found.setdefault(path, []).append(problem)
    return found


def _of_dispatch(options: AgentOptions, phone_number: str) -> Iterator[Problem]:
    is_direct = options.dispatch_kind is DispatchKind.DIRECT
    if is_direct and options.room_name is None:
        yield _PATHS["room_name"], "is needed where dispatch.kind is direct."
    if not is_direct and options.room_name is not None:
        yield _PATHS["room_name"], "is only for dispatch.kind direct."
    for name in ("room_prefix", "randomize"):
        if is_direct and getattr(options, name) is not None:
            yield _PATHS[name], "is not for dispatch.kind direct: its room has the name of dispatch.roomName."
    for name in ("room_prefix", "room_name"):
        yield from _of_line(_PATHS[name], getattr(options, name), may_be_empty=name == "room_prefix")
    if is_direct and _size(options.room_name or "") > LONGEST_ROOM_NAME:
        yield _PATHS["room_name"], f"must be at most {LONGEST_ROOM_NAME} bytes."
    if not is_direct and options.room_prefix is not None and not _leaves_room(options, phone_number):
        problem = f"is too long: with the number of a call, a room's name must be at most {LONGEST_ROOM_NAME} bytes."
        yield _PATHS["room_prefix"], problem
    if options.pin is not None and not _PIN.fullmatch(options.pin):
        yield _PATHS["pin"], "must be 1 to 16 digits."


def _leaves_room(options: AgentOptions, phone_number: str) -> bool:
    kind = RuleKind((options.dispatch_kind or DispatchKind.INDIVIDUAL).value)
    # The longer of both, where it is not said: what is not set may be changed at LiveKit.
    rule = DispatchRule("", "", "", (), kind=kind, room=options.room_prefix or "", is_fixed_room=False)
    return is_room_named(rule, phone_number, LONGEST_CALLER)


def _of_agents(options: AgentOptions) -> Iterator[Problem]:
    path, agents = _PATHS["agents"], options.agents or ()
    if len(agents) > MAX_AGENTS:
        yield path, f"must be at most {MAX_AGENTS} agents."
    names = [agent.name for agent in agents]
    if len(set(names)) < len(names):
        yield path, "must not name an agent twice."
    for at, agent in enumerate(agents):
        yield from _of_line(f"{path}.{at}.name", agent.name)
        if len(agent.name) > MAX_NAME:
            yield f"{path}.{at}.name", f"must be at most {MAX_NAME} characters."
        if _size(agent.metadata) > MAX_METADATA_BYTES:
            yield f"{path}.{at}.metadata", f"must be at most {MAX_METADATA_BYTES} bytes as JSON."


def _of_figures(options: AgentOptions) -> Iterator[Problem]:
    for name, (least, most) in RANGES.items():
        value = getattr(options, name)
        if value is not None and not least <= value <= most:
            yield _PATHS[name], f"must be from {least} to {most}."


def _of_participant(options: AgentOptions) -> Iterator[Problem]:
    yield from _of_line(_PATHS["room_preset"], options.room_preset)
    metadata, path = options.participant_metadata, _PATHS["participant_metadata"]
    if metadata is not None:
        if _size(metadata) > MAX_METADATA_BYTES:
            yield path, f"must be at most {MAX_METADATA_BYTES} bytes."
        yield from _of_text(path, metadata)
        if mark_in(metadata):
            yield path, "must not be one of Trunkline's own marks."
    yield from _of_attributes(options.participant_attributes or ())


def _of_attributes(attributes: Pairs) -> Iterator[Problem]:
    path = _PATHS["participant_attributes"]
    if len(attributes) > MAX_PAIRS:
        yield path, f"must be at most {MAX_PAIRS} attributes."
    for key, _ in attributes:
        yield from _of_attribute_key(path, key)
    if any(not value for _, value in attributes):
        yield path, "must not have an empty value, which is how LiveKit takes an attribute away."
    yield from _of_text(path, *(value for _, value in attributes))
    if sum(_size(text) for pair in attributes for text in pair) > MAX_ATTRIBUTES_BYTES:
        yield path, f"must be at most {MAX_ATTRIBUTES_BYTES} bytes, keys and values together."


def _of_attribute_key(path: str, key: str) -> Iterator[Problem]:
    if not key or not key.isprintable():
        yield path, "must not have an attribute with an empty name, or one with control characters."
    if key.startswith(_RESERVED):
        yield path, f"must not have {excerpt(key)}: names that begin with sip. or lk. are LiveKit's own."


def _of_call(options: AgentOptions) -> Iterator[Problem]:
    yield from _of_callers(options.allowed_callers)
    path, headers = _PATHS["headers_to_attributes"], options.headers_to_attributes or ()
    if len(headers) > MAX_PAIRS:
        yield path, f"must be at most {MAX_PAIRS} headers."
    for name, key in headers:
        if not _HEADER_NAME.fullmatch(name):
            problem = "names a header with other characters than letters, digits and -.!%*_+`'~, or one over 255 long."
            yield path, problem
        yield from _of_attribute_key(path, key)
    names = [name.lower() for name, _ in headers]
    if len(set(names)) < len(names):
        yield path, "must not name a header twice: upper and lower case are the same."


def _of_callers(callers: Iterable[str] | None) -> Iterator[Problem]:
    path = _PATHS["allowed_callers"]
    named = tuple(callers or ())
    if callers is not None and not named:
        yield path, "must name a caller: an empty list lets everybody in. Leave it out for that."
    if len(named) > MAX_CALLERS:
        yield path, f"must be at most {MAX_CALLERS} callers."
    if len(set(named)) < len(named):
        yield path, "must not name a caller twice."
    for at, caller in enumerate(named):
        if caller == HIDDEN_CALLER:
            continue
        try:
            parse_e164(caller)
        except InvalidNumberError as error:
            yield f"{path}.{at}", f"{error}."


def _size(text: str) -> int:
    return len(text.encode(errors="replace"))


def _of_text(path: str, *texts: str) -> Iterator[Problem]:
    if any(storable(text) != text for text in texts):
        yield path, "must not contain NUL bytes or unpaired surrogates."


def _of_line(path: str, text: str | None, *, may_be_empty: bool = False) -> Iterator[Problem]:
    if text is None or (may_be_empty and not text):
        return
    try:
        line = visible_line(text)
    except InvalidTextError as error:
        yield path, f"{error}."
        return
    if line != text:
        yield path, "must not begin or end with a blank."
