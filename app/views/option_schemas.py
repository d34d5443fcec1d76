"""The options of an agent: as a request gives them, as a response has them, and in words.

The schemas are built from the table of options, one for each use: a request (`OptionsIn`), a merge patch, in which
null stands for "not set" (`OptionsPatchIn`), and a response (`OptionsOut`). Their fields are named as in the JSON, so
that what they load is what is stored. They say what is of which type; what may not be said is in
`app.path.options`.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple, cast

from marshmallow import ValidationError, fields, validates_schema

from app.domain.options import (
    NO_OPTIONS,
    OPTIONS,
    AgentOptions,
    DispatchKind,
    HeaderSet,
    Option,
    TransferMode,
    options_of,
)
from app.domain.texts import MAX_NAME, InvalidTextError, check_metadata, excerpt
from app.path.options import MAX_AGENTS, MAX_CALLERS, MAX_PAIRS, RANGES, problems_of
from app.views.fields import E164_PATTERN, JsonInteger, Name, Schema, Strict, StrictBoolean, Texts, flat_errors


class OptionWords(NamedTuple):
    """What people read of an option."""

    label: str
    help: str
    """What it does."""
    default: str
    """What holds where it is not set."""
    example: object


WORDS: Mapping[str, OptionWords] = {
    "dispatch.kind": OptionWords(
        "Rooms",
        "Which callers share a room. `individual`: none. `direct`: all, in that of `dispatch.roomName`, where only the "
        "first one gets the agents. `callee`: all callers of the number.",
        "individual",
        "callee",
    ),
    "dispatch.roomPrefix": OptionWords(
        "Room prefix", "What the names of rooms begin with; not for `direct`.", "call", "desk"
    ),
    "dispatch.roomName": OptionWords("Room name", "The one room of `direct`.", "none", "lobby"),
    "dispatch.randomize": OptionWords(
        "Random room names",
        "Whether the name of a room ends in random characters, so that no two calls share one; not for `direct`.",
        "true for individual, false for callee",
        True,
    ),
    "dispatch.pin": OptionWords("PIN", "Digits that every caller must dial before the call goes on.", "none", "4711"),
    "agents": OptionWords(
        "Other agents",
        "Agents that LiveKit dispatches to each call beside this one, and the metadata of their jobs.",
        "none",
        [{"name": "recorder", "metadata": {"consent": "asked"}}],
    ),
    "room.emptyTimeoutS": OptionWords(
        "Empty room", "Seconds for which LiveKit keeps a room that nobody has joined.", "the server's, as 300", 60
    ),
    "room.departureTimeoutS": OptionWords(
        "Left room", "Seconds for which LiveKit keeps a room that everybody has left.", "the server's, as 20", 30
    ),
    "room.maxParticipants": OptionWords(
        "Participants", "Participants of a room at most; agents do not count.", "no limit", 4
    ),
    "room.preset": OptionWords(
        "Room preset", "The room configuration of this name that the LiveKit server has.", "none", "support"
    ),
    "participant.metadata": OptionWords(
        "Caller's metadata",
        "The caller's `participant.metadata`: everybody in the room reads it, so no secrets.",
        "empty",
        "from the front desk",
    ),
    "participant.attributes": OptionWords(
        "Caller's attributes",
        "Attributes of the caller: everybody in the room reads them, so no secrets.",
        "none",
        {"line": "front desk"},
    ),
    "participant.hidePhoneNumber": OptionWords(
        "Hide the caller's number", "Whether the caller's number is kept from all others in the room.", "false", True
    ),
    "call.ringingS": OptionWords("Ringing", "Seconds for which it rings when no agent answers.", "30", 20),
    "call.maxDurationS": OptionWords(
        "Longest call", "Seconds after which LiveKit ends a call, its ringing included.", "a day", 1800
    ),
    "call.krisp": OptionWords(
        "Noise cancellation", "Whether LiveKit Cloud takes the noise out of what the caller says.", "false", True
    ),
    "call.allowedCallers": OptionWords(
        "Allowed callers", "The numbers that may call, in E.164.", "everybody", ["+15145550100"]
    ),
    "call.headersToAttributes": OptionWords(
        "Headers to attributes",
        "Headers of the SIP INVITE that become attributes of the caller, each with the name of its attribute.",
        "none",
        {"X-Campaign": "campaign"},
    ),
    "call.includeHeaders": OptionWords(
        "Headers as attributes",
        "Which headers of the SIP INVITE become attributes of the caller under their own names: `none`, `x` (those "
        "that begin with X-) or `all`.",
        "none",
        "x",
    ),
    "transfer": OptionWords(
        "Transfer",
        "Whom a transfer (SIP REFER) by the agent may reach: nobody (`disable-all`), SIP addresses (`sip-only`), or "
        "phone numbers too (`enable-all`). Numbers share a Twilio trunk with those that have the same.",
        "TRUNK_TRANSFER_MODE, else disable-all",
        "enable-all",
    ),
    "monitor.everyMinutes": OptionWords(
        "Monitor", "Minutes between test calls of its number by themselves.", "no test calls", 60
    ),
}
"""Path -> the option in words, for the reference, the console and the guide."""

GROUPS: Mapping[str, str] = {
    "dispatch": "Which room a call goes to.",
    "room": "The rooms of its calls.",
    "participant": "The caller as a participant of the room.",
    "call": "The line, until the caller is in the room.",
    "monitor": "Test calls.",
}
"""Group -> what its options are about."""


def path_of(option: Option) -> str:
    """Return where an option stands in JSON, with dots."""
    return ".".join(option.path)


class _Use(NamedTuple):
    """What a set of schemas is for."""

    suffix: str
    base: type[Schema] = Strict
    takes_null: bool = False
    is_response: bool = False


_REQUEST, _PATCH = _Use("In"), _Use("PatchIn", takes_null=True)
_RESPONSE = _Use("Out", base=Schema, is_response=True)


class _Checked(Strict):
    @validates_schema
    def _check(self, given: Mapping[str, Any], **_: object) -> None:
        if problems := problems_of(options_of(given)):
            raise ValidationError(_nested(problems))


def _nested(problems: Mapping[str, list[str]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path, sentences in problems.items():
        *groups, last = path.split(".")
        place = found
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = sentences
    return found


class JobMetadata(fields.Field[Any]):
    """What a job is given: a JSON object, or a text that is passed on as it is."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> Any:
        if not isinstance(value, dict | str):
            raise ValidationError("must be a JSON object, or text")
        try:
            check_metadata(value)
        except InvalidTextError as error:
            raise ValidationError(str(error)) from error
        return value


class Shape(StrEnum):
    """What kind of value an option has."""

    TEXT = "text"
    FLAG = "flag"
    WHOLE = "whole number"
    CHOICE = "choice"
    PAIRS = "pairs"
    CALLERS = "callers"
    AGENTS = "agents"


SHAPES: Mapping[str, Shape] = {
    "dispatch_kind": Shape.CHOICE,
    "room_prefix": Shape.TEXT,
    "room_name": Shape.TEXT,
    "randomize": Shape.FLAG,
    "pin": Shape.TEXT,
    "agents": Shape.AGENTS,
    "room_preset": Shape.TEXT,
    "participant_metadata": Shape.TEXT,
    "participant_attributes": Shape.PAIRS,
    "hide_phone_number": Shape.FLAG,
    "krisp": Shape.FLAG,
    "allowed_callers": Shape.CALLERS,
    "headers_to_attributes": Shape.PAIRS,
    "include_headers": Shape.CHOICE,
    "transfer": Shape.CHOICE,
    **dict.fromkeys(RANGES, Shape.WHOLE),
}
"""Option -> the shape of its value."""

CHOICES: Mapping[str, type[StrEnum]] = {
    "dispatch_kind": DispatchKind,
    "include_headers": HeaderSet,
    "transfer": TransferMode,
}

_PATTERNS = {"pin": "^[0-9]{1,16}$"}
"""For the reference; what is checked is `problems_of`."""


def _field(  # noqa: PLR0911  # one for each shape
    use: _Use, name: str, known: dict[str, Any], **more: Any
) -> fields.Field[Any]:
    """Return the field of an option; `known` is its documentation."""
    match SHAPES[name]:
        case Shape.TEXT:
            pattern = {"pattern": _PATTERNS[name]} if name in _PATTERNS else {}
            return fields.String(metadata=known | pattern, **more)
        case Shape.FLAG:
            return StrictBoolean(metadata=known, **more)
        case Shape.WHOLE if use.is_response:
            # An adopted path may have parts of a second.
            return fields.Raw(metadata=known | {"type": "number"}, **more)
        case Shape.WHOLE:
            least, most = RANGES[name]
            return JsonInteger(metadata=known | {"minimum": least, "maximum": most}, **more)
        case Shape.CHOICE if use.is_response:
            return fields.String(metadata=known | {"enum": [one.value for one in CHOICES[name]]}, **more)
        case Shape.CHOICE:
            return fields.Enum(CHOICES[name], by_value=True, metadata=known, **more)
        case Shape.PAIRS:
            value = fields.String(allow_none=use.takes_null)
            return Texts(fields.String(), value, metadata=known | {"maxProperties": MAX_PAIRS}, **more)
        case Shape.CALLERS:
            one = fields.String(metadata={"pattern": E164_PATTERN})
            limits = {"minItems": 1, "maxItems": MAX_CALLERS, "uniqueItems": True}
            return fields.List(one, metadata=known | limits, **more)
        case Shape.AGENTS:
            # In a patch too a list is replaced as a whole.
            return fields.List(fields.Nested(_rule_agent(use)), metadata=known | {"maxItems": MAX_AGENTS}, **more)


def _rule_agent(use: _Use) -> type[Schema]:
    name = {"description": "Its agent name at LiveKit.", "maxLength": MAX_NAME}
    metadata = {"description": "Given to its job: an object, or text.", "type": ["object", "string"]}
    one: dict[str, fields.Field[Any]] = {
        "name": Name(required=True, metadata=name),
        "metadata": JobMetadata(metadata=metadata),
    }
    return _schema(use, "RuleAgent", "An agent that is dispatched to the call.", one)


def _schema(
    use: _Use, name: str, about: str, its_fields: Mapping[str, fields.Field[Any]], base: type[Schema] | None = None
) -> type[Schema]:
    made = (base or use.base).from_dict(dict(its_fields), name=f"{name}{use.suffix}")
    made.__doc__ = about
    return cast("type[Schema]", made)


def _options(use: _Use, base: type[Schema]) -> type[Schema]:
    null: dict[str, Any] = {"allow_none": True} if use.takes_null else {}
    top: dict[str, fields.Field[Any]] = {}
    groups: dict[str, dict[str, fields.Field[Any]]] = {}
    for option in OPTIONS:
        *group, last = option.path
        words = WORDS[path_of(option)]
        known = {"description": f"{words.help} Not set: {words.default}.", "example": words.example}
        place = groups.setdefault(group[0], {}) if group else top
        place[last] = _field(use, option.field, known, **null)
    for name, inner in groups.items():
        nested = _schema(use, f"{name.capitalize()}Options", GROUPS[name], inner)
        top[name] = fields.Nested(nested, metadata={"description": GROUPS[name]}, **null)
    # In the order of the table.
    order = dict.fromkeys(option.path[0] for option in OPTIONS)
    return _schema(use, "Options", "What is set for its calls.", {name: top[name] for name in order}, base)


OptionsIn = _options(_REQUEST, _Checked)
OptionsPatchIn = _options(_PATCH, Strict)
"""A change of them; what it comes to is checked by whoever applies it."""

OptionsOut = _options(_RESPONSE, Schema)
"""Only what is set."""


_READER = OptionsIn()


def read_options(value: object) -> AgentOptions:
    """Read the options of an agent to create; `ValueError` names the first that is wrong: `.dispatch.pin: must ...`."""
    if not isinstance(value, dict):
        raise ValueError(": must be an object.")  # noqa: TRY004  # said of what a client has sent
    try:
        return options_of(_READER.load(value)) if value else NO_OPTIONS
    except ValidationError as error:
        path, sentences = next(iter(flat_errors(error.messages).items()))
        raise ValueError(f".{excerpt(path)}: {' '.join(sentences)}") from error
