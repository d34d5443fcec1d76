"""Values of options as people type them into a form or a command, and as they are shown there."""

import json
from collections.abc import Mapping
from typing import Any

from app.domain.options import OPTIONS, Option
from app.domain.texts import InvalidTextError, read_json
from app.views.fields import WHOLE_NUMBER
from app.views.option_schemas import SHAPES, Shape, path_of

OPTION_AT: Mapping[str, Option] = {path_of(option): option for option in OPTIONS}
"""Path -> the option."""

FLAGS = {"true": True, "false": False}


def read_value(option: Option, text: str) -> Any:  # noqa: PLR0911  # one for each shape
    """Return the JSON value that a text stands for; `InvalidTextError` for one that stands for none.

    Callers are one a line, or between commas; pairs are `name=value`, one a line, or a JSON object; other agents are
    names, one a line, or a JSON list. What is not of the option's type is returned as it is: its schema refuses it.
    """
    match SHAPES[option.field]:
        case Shape.FLAG:
            return FLAGS.get(text.strip(), text)
        case Shape.WHOLE:
            return int(text) if WHOLE_NUMBER.fullmatch(text.strip()) else text
        case Shape.CHOICE:
            return text.strip()
        case Shape.CALLERS:
            return text.replace(",", " ").split()
        case Shape.PAIRS:
            return read_json(text) if text.lstrip().startswith("{") else dict(map(_pair, _lines(text)))
        case Shape.AGENTS:
            return read_json(text) if text.lstrip().startswith("[") else [{"name": name} for name in _lines(text)]
        case Shape.TEXT:
            return text.strip()


def show_value(option: Option, value: Any) -> str:
    """Return a value as a text that `read_value` makes the same of."""
    match SHAPES[option.field]:
        case Shape.FLAG:
            return str(value).lower()
        case Shape.CALLERS:
            return "\n".join(value)
        case Shape.PAIRS:
            lines = "\n".join(f"{name}={inner}" for name, inner in value.items())
            return lines if value and _is_same(option, lines, value) else json.dumps(value, ensure_ascii=False)
        case Shape.AGENTS:
            lines = "\n".join(str(one["name"]) for one in value)
            is_plain = value and all(not one.get("metadata") for one in value) and len(lines.splitlines()) == len(value)
            return lines if is_plain and not lines.startswith("[") else json.dumps(value, ensure_ascii=False)
    return str(value)


def _is_same(option: Option, text: str, value: Any) -> bool:
    try:
        return bool(read_value(option, text) == value)
    except InvalidTextError:
        return False


def _lines(text: str) -> list[str]:
    return [line for line in map(str.strip, text.splitlines()) if line]


def _pair(line: str) -> tuple[str, str]:
    name, sign, value = line.partition("=")
    if not sign:
        raise InvalidTextError("must be name=value, one a line, or a JSON object")
    return name.strip(), value.strip()


def value_at(options: Mapping[str, Any], option: Option) -> Any:
    """Return what options in JSON have for one; None where it is not set."""
    value: Any = options
    for name in option.path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def put(options: dict[str, Any], option: Option, value: Any) -> None:
    """Set one option in JSON."""
    *groups, last = option.path
    for group in groups:
        options = options.setdefault(group, {})
    options[last] = value
