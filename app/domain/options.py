"""What an agent may be given beside its name: how LiveKit dispatches its calls, and how the line behaves.

An option that is not set is nobody's: a path is built with the installation's default, and what an operator sets at
the provider is left alone. An option that is set is part of what the path should be: compared, repaired, restored.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any, NamedTuple

from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK, TRUNK


class DispatchKind(StrEnum):
    """Which callers share a room."""

    INDIVIDUAL = "individual"
    """None: a room for each call."""
    DIRECT = "direct"
    """All callers, in one room of a fixed name; only the first gets the agents (livekit.md, section 6)."""
    CALLEE = "callee"
    """All callers of the number."""


class HeaderSet(StrEnum):
    """Which headers of the INVITE become attributes of the caller: `SIPHeaderOptions` of LiveKit."""

    NONE = "none"
    X = "x"
    ALL = "all"


class TransferMode(StrEnum):
    """Twilio's TransferMode of a trunk: what a SIP REFER of LiveKit may do."""

    DISABLED = "disable-all"
    ENABLED = "enable-all"
    SIP_ONLY = "sip-only"


@dataclass(frozen=True, slots=True)
class RuleAgent:
    """An agent that a rule dispatches, and what its job is given."""

    name: str
    metadata: str = ""


Pairs = tuple[tuple[str, str], ...]
"""A mapping of texts that can be compared and hashed: sorted by key."""


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """The options of an agent; None: not set."""

    dispatch_kind: DispatchKind | None = None
    room_prefix: str | None = None
    room_name: str | None = None
    """Of the one room of kind `direct`."""
    randomize: bool | None = None
    """Whether a room's name ends in random characters; not set, it does for `individual` and does not for `callee`."""
    pin: str | None = None
    agents: tuple[RuleAgent, ...] | None = None
    """Agents that are dispatched beside the agent itself."""
    empty_timeout_s: int | None = None
    departure_timeout_s: int | None = None
    max_participants: int | None = None
    room_preset: str | None = None
    participant_metadata: str | None = None
    """What everybody in the room reads of the caller: the rule's `metadata`."""
    participant_attributes: Pairs | None = None
    hide_phone_number: bool | None = None
    ringing_s: int | None = None
    max_duration_s: int | None = None
    krisp: bool | None = None
    allowed_callers: tuple[str, ...] | None = None
    headers_to_attributes: Pairs | None = None
    include_headers: HeaderSet | None = None
    transfer: TransferMode | None = None
    monitor_every_minutes: int | None = None

    def over(self, other: "AgentOptions") -> "AgentOptions":
        """Return these options, and those of `other` that are not set here."""
        given = {one.field: getattr(self, one.field) for one in OPTIONS}
        return replace(other, **{name: value for name, value in given.items() if value is not None})

    def only(self, names: Iterable[str]) -> "AgentOptions":
        """Return the options of these fields alone."""
        return AgentOptions(**{name: getattr(self, name) for name in names})

    def differing(self, other: "AgentOptions") -> frozenset[str]:
        """Return the fields in which two differ."""
        names = (one.name for one in fields(self))
        return frozenset(name for name in names if getattr(self, name) != getattr(other, name))


NO_OPTIONS = AgentOptions()
"""None is set."""


class Option(NamedTuple):
    """One option: its field, where it stands in JSON, and the step whose resource it is written to."""

    field: str
    path: tuple[str, ...]
    step: str | None
    """None: at no provider."""
    also: str | None = None
    """A second step on whose resource its effect depends."""

    @property
    def steps(self) -> frozenset[str]:
        """Every step whose resource it may change."""
        return frozenset(filter(None, (self.step, self.also)))


def _option(field: str, path: str, step: str | None, also: str | None = None) -> Option:
    return Option(field, tuple(path.split(".")), step, also)


OPTIONS = (
    _option("dispatch_kind", "dispatch.kind", DISPATCH_RULE),
    _option("room_prefix", "dispatch.roomPrefix", DISPATCH_RULE),
    _option("room_name", "dispatch.roomName", DISPATCH_RULE),
    _option("randomize", "dispatch.randomize", DISPATCH_RULE),
    _option("pin", "dispatch.pin", DISPATCH_RULE),
    _option("agents", "agents", DISPATCH_RULE),
    _option("empty_timeout_s", "room.emptyTimeoutS", DISPATCH_RULE),
    _option("departure_timeout_s", "room.departureTimeoutS", DISPATCH_RULE),
    _option("max_participants", "room.maxParticipants", DISPATCH_RULE),
    _option("room_preset", "room.preset", DISPATCH_RULE),
    _option("participant_metadata", "participant.metadata", DISPATCH_RULE),
    _option("participant_attributes", "participant.attributes", DISPATCH_RULE),
    _option("hide_phone_number", "participant.hidePhoneNumber", DISPATCH_RULE),
    _option("ringing_s", "call.ringingS", INBOUND_TRUNK),
    _option("max_duration_s", "call.maxDurationS", INBOUND_TRUNK),
    # LiveKit cancels noise where trunk or rule says so.
    _option("krisp", "call.krisp", INBOUND_TRUNK, DISPATCH_RULE),
    _option("allowed_callers", "call.allowedCallers", INBOUND_TRUNK),
    _option("headers_to_attributes", "call.headersToAttributes", INBOUND_TRUNK),
    _option("include_headers", "call.includeHeaders", INBOUND_TRUNK),
    _option("transfer", "transfer", TRUNK),
    _option("monitor_every_minutes", "monitor.everyMinutes", None),
)
"""Every option, in the order in which documents and pages show them."""

STEP_OF = {one.field: one.step for one in OPTIONS}


def steps_of(names: Iterable[str]) -> frozenset[str]:
    """Return every step whose resource these fields may change."""
    wanted = frozenset(names)
    return frozenset[str]().union(*(one.steps for one in OPTIONS if one.field in wanted))


def options_of(stored: Mapping[str, Any]) -> AgentOptions:
    """Read options from their JSON, as the API takes it and `agents.options` keeps it: without what is not set."""
    found = {}
    for one in OPTIONS:
        value: Any = stored
        for name in one.path:
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is not None:
            found[one.field] = _READERS.get(one.field, _as_it_is)(value)
    return AgentOptions(**found)


def options_json(options: AgentOptions) -> dict[str, Any]:
    """Write options as JSON; the reverse of `options_of`."""
    found: dict[str, Any] = {}
    for one in OPTIONS:
        value = getattr(options, one.field)
        if value is None:
            continue
        *groups, last = one.path
        place = found
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = _WRITERS.get(one.field, _as_it_is)(value)
    return found


def job_metadata(metadata: Mapping[str, Any]) -> str:
    """Return what an agent's job is given, as text."""
    return json.dumps(metadata)


def _as_it_is(value: Any) -> Any:
    return value


def _pairs(value: Mapping[str, str]) -> Pairs:
    return tuple(sorted(value.items()))


def _agents(value: Iterable[Mapping[str, Any]]) -> tuple[RuleAgent, ...]:
    return tuple(RuleAgent(one["name"], _metadata_text(one.get("metadata"))) for one in value)


def _metadata_text(metadata: Any) -> str:
    return metadata if isinstance(metadata, str) else job_metadata(metadata or {})


def _agents_json(value: Iterable[RuleAgent]) -> list[dict[str, Any]]:
    return [{"name": one.name, "metadata": _metadata_json(one.metadata)} for one in value]


def _metadata_json(text: str) -> Any:
    """Return metadata as JSON; as its text where it is another's, which JSON would not give back to the letter."""
    try:
        metadata = json.loads(text)
        return metadata if isinstance(metadata, dict) and job_metadata(metadata) == text else text
    except (ValueError, RecursionError):
        return text


_READERS: Mapping[str, Any] = {
    "dispatch_kind": DispatchKind,
    "agents": _agents,
    "participant_attributes": _pairs,
    "allowed_callers": tuple,
    "headers_to_attributes": _pairs,
    "include_headers": HeaderSet,
    "transfer": TransferMode,
}

_WRITERS: Mapping[str, Any] = {
    "agents": _agents_json,
    "participant_attributes": dict,
    "allowed_callers": list,
    "headers_to_attributes": dict,
}
