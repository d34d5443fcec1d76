"""The fields of an agent's options in a form, and the change that such a form asks for."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from werkzeug.datastructures import MultiDict

from app.console.forms import load, without_empty
from app.domain.errors import validation_failed
from app.domain.operations import TrunkMode
from app.domain.options import OPTIONS, AgentOptions, Option, options_json, options_of
from app.domain.texts import InvalidTextError, read_json
from app.numbers.changing import AgentFields, Decide
from app.path.options import RANGES
from app.views.agent_schemas import AgentIn, AgentPatchIn
from app.views.fields import WHOLE_NUMBER
from app.views.option_schemas import CHOICES, GROUPS, SHAPES, WORDS, OptionsPatchIn, OptionWords, Shape, path_of
from app.views.option_texts import FLAGS, OPTION_AT, put, read_value, show_value, value_at

PREFIX = "options."
"""Before an option's path in the name of its field, as in the errors of the API."""

OTHERS = "other"
"""The group of what is in none."""

_LINES = {Shape.PAIRS, Shape.CALLERS, Shape.AGENTS}
_LONG = {"participant_metadata"}
_LINE_HINTS = {
    Shape.CALLERS: "One a line.",
    Shape.PAIRS: "One a line, as name=value; or a JSON object.",
    Shape.AGENTS: "Names, one a line; or a JSON list of objects with name and metadata.",
}


@dataclass(frozen=True, slots=True)
class OptionInput:
    """One field of a form."""

    name: str
    path: str
    words: OptionWords
    hint: str
    value: str
    now: str | None
    """What stands there, if it is not what the form has; None: the same, or nobody asks."""
    choices: Sequence[str]
    """Of a select."""
    is_long: bool
    """Whether it takes several lines."""
    is_number: bool


@dataclass(frozen=True, slots=True)
class OptionGroup:
    """The options of one kind."""

    title: str
    about: str
    inputs: Sequence[OptionInput]


@dataclass(frozen=True, slots=True)
class ShownOption:
    """An option that is set, as a page shows it."""

    label: str
    path: str
    value: str
    default: str


def option_groups(
    stored: Mapping[str, Any], given: Mapping[str, str] | None = None, *, compares: bool = False
) -> list[OptionGroup]:
    """Return the fields of all options, with what was `given`, else with what is `stored`.

    `compares`: each also says what is stored, where that differs.
    """
    groups: dict[str, list[OptionInput]] = {}
    for path, option in OPTION_AT.items():
        value = value_at(stored, option)
        now = "" if value is None else show_value(option, value)
        shape, name = SHAPES[option.field], PREFIX + path
        shown = now if given is None else given.get(name, "")
        choices = [one.value for one in CHOICES[option.field]] if shape is Shape.CHOICE else []
        group = option.path[0] if len(option.path) > 1 else OTHERS
        groups.setdefault(group, []).append(
            OptionInput(
                name,
                path,
                WORDS[path],
                _hint(option),
                shown,
                now if compares and is_other(now, shown) else None,
                list(FLAGS) if shape is Shape.FLAG else choices,
                shape in _LINES or option.field in _LONG,
                shape is Shape.WHOLE,
            )
        )
    return [
        OptionGroup(group.capitalize(), GROUPS.get(group, "For the whole number."), inputs)
        for group, inputs in groups.items()
    ]


def _hint(option: Option) -> str:
    if option.field in RANGES:
        least, most = RANGES[option.field]
        return f"{least} to {most:,}."
    return _LINE_HINTS.get(SHAPES[option.field], "")


def shown_options(stored: Mapping[str, Any]) -> list[ShownOption]:
    """Return the options that are set."""
    values = ((path, option, value_at(stored, option)) for path, option in OPTION_AT.items())
    return [
        ShownOption(WORDS[path].label, path, show_value(option, value) or "(empty)", WORDS[path].default)
        for path, option, value in values
        if value is not None
    ]


def read_new_agent(given: MultiDict[str, str]) -> dict[str, Any]:
    """Read the form for a new agent, as `AgentIn` does; `RefusedError` 422."""
    body: dict[str, Any] = {"name": given.get("name", "")}
    body |= {name: value for name, value in without_empty(given).items() if name in {"livekitAgentName", "trunkMode"}}
    options = _options(given, None)
    return load(AgentIn(), body | ({"options": options} if options else {}))


def read_version(given: MultiDict[str, str]) -> int:
    """Read the version of the agent that a form was made for; 0, which none has, where it is not told."""
    text = given.get("version", "")
    return int(text) if WHOLE_NUMBER.fullmatch(text) else 0


def read_agent_change(given: MultiDict[str, str]) -> Decide:
    """Return what a form makes of an agent: all fields as they are in it, an empty one is not set; `RefusedError` 422.

    A field that nobody has touched stays to the letter.
    """
    names = load(AgentPatchIn(), {name: given.get(name, "").strip() for name in ("name", "livekitAgentName")})

    def decide(now: AgentFields) -> AgentFields:
        return replace(
            now,
            **names,
            metadata=_metadata(given, now.metadata),
            options=options_of(_options(given, now.options)),
            trunk_mode=TrunkMode(given["trunkMode"]) if given.get("trunkMode") in list(TrunkMode) else now.trunk_mode,
        )

    return decide


def show_metadata(metadata: Mapping[str, Any]) -> str:
    """Return an agent's metadata as the text of a form."""
    return json.dumps(metadata, indent=2, ensure_ascii=False) if metadata else ""


def _metadata(given: MultiDict[str, str], now: Mapping[str, Any]) -> Mapping[str, Any]:
    text = given.get("metadata", "")
    if _plain(text) == _plain(show_metadata(now)):
        return now
    try:
        found = read_json(text) if text.strip() else {}
    except InvalidTextError as error:
        raise validation_failed({"metadata": [f"{error}."]}) from error
    return load(AgentPatchIn(), {"metadata": found})["agent_metadata"]  # type: ignore[no-any-return]  # a dict


def _options(given: MultiDict[str, str], now: AgentOptions | None) -> dict[str, Any]:
    """Return the options of a form as JSON; what it has as it stands is taken from there."""
    stored = options_json(now) if now is not None else {}
    found: dict[str, Any] = {}
    read: dict[str, Any] = {}
    errors: dict[str, list[str]] = {}
    for option in OPTIONS:
        name = PREFIX + path_of(option)
        text, value = _plain(given.get(name, "")), value_at(stored, option)
        if value is not None and text == _plain(show_value(option, value)):
            put(found, option, value)
        elif text:
            try:
                put(read, option, read_value(option, text))
            except InvalidTextError as error:
                errors[name] = [f"{error}."]
    if errors:
        raise validation_failed(errors)
    checked = load(OptionsPatchIn(), read, PREFIX)
    for option in OPTIONS:
        if (value := value_at(checked, option)) is not None:
            put(found, option, value)
    return found


def field_errors(errors: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return errors by the form's fields: what is wrong with an entry of a list is wrong with its field."""
    found: dict[str, list[str]] = {}
    for name, sentences in errors.items():
        parts = name.split(".")
        paths = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
        field = next((path for path in paths if path.removeprefix(PREFIX) in OPTION_AT), name)
        at = name.removeprefix(f"{field}.").partition(".")[0]
        entry = f"Entry {int(at) + 1} " if field != name and at.isdecimal() else ""
        found.setdefault(field, []).extend(f"{entry}{sentence}" for sentence in sentences)
    return found


def is_other(text: str, other: str) -> bool:
    """Tell whether two texts of a form differ by more than a browser changes, or the layout of JSON."""
    if _plain(text) == _plain(other):
        return False
    try:
        return read_json(text) != read_json(other)
    except InvalidTextError:
        return True


def _plain(text: str) -> str:
    """Return a text without what a browser makes of its line ends."""
    return text.replace("\r\n", "\n").strip()
