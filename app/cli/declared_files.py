"""Files of declarations, YAML or JSON: read with the line of each value, and written.

YAML is read as JSON has it, the core of YAML 1.2: `no` and dates are text, `0123` is, and so is a phone number with its
plus sign, which YAML 1.1 takes for a number.
"""

import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # it has no types

from app.cli.output import CommandError, command_error
from app.domain.texts import InvalidTextError, escaped, read_json

STDIN = "-"

TAGS = {
    "null": (r"~|null|Null|NULL|", "~nN\0"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"-?(?:0|[1-9][0-9]*)", "-0123456789"),
    "float": (r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?", "-0123456789"),
    "merge": (r"<<", "<"),
}
"""What a plain word may be beside text: its pattern, and what it begins with."""

COLLECTIONS = frozenset({"tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"})
"""Tags of a list and an object."""

LINE = 120
"""Columns after which a long text is folded."""

MOST_VALUES = 1_000_000
"""Values of a file, each as often as an anchor repeats it: a hundred for each of the agents that a file may have."""

LONGEST_SHOWN = 40
"""Characters of a refused value that are shown."""

_NO_ACCESS = "cannot be read"


@dataclass(frozen=True, slots=True)
class DeclaredFile:
    """A file as read."""

    name: str
    document: Any
    lines: Mapping[str, int] = field(default_factory=dict)
    """JSON pointer -> the line, from 1, that the value begins on."""

    def place_of(self, pointer: str) -> str:
        """Return where a pointer leads in the file, or where its nearest parent does: `numbers.yaml:12`."""
        at = pointer
        while at and at not in self.lines:
            at = at.rpartition("/")[0]
        return f"{self.name}:{self.lines[at]}" if at in self.lines else self.name


def read_file(path: str) -> DeclaredFile:
    """Read a file, `-` for standard input; a name that ends in .json means JSON. `CommandError` names the line."""
    name = "standard input" if path == STDIN else path
    try:
        text = sys.stdin.read() if path == STDIN else Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise command_error(f"{name} {_NO_ACCESS}: {why}.") from error
    if path.endswith(".json"):
        try:
            document = read_json(text)
        except InvalidTextError as error:
            raise command_error(f"{name} {error}.") from error
        return DeclaredFile(name, document, _lines_of(name, text))
    return DeclaredFile(name, *_Reader(name, text).read())


def write_text(document: Any, *, is_json: bool) -> str:
    """Return a document as the text of a file; in ASCII where it has characters that could control a terminal."""
    text = _write(document, is_json=is_json, is_ascii=False)
    return text if escaped(text, keep="\n") == text else _write(document, is_json=is_json, is_ascii=True)


def _write(document: Any, *, is_json: bool, is_ascii: bool) -> str:
    if is_json:
        return json.dumps(document, ensure_ascii=is_ascii, indent=2) + "\n"
    return str(yaml.dump(document, Dumper=_dumper(), sort_keys=False, allow_unicode=not is_ascii, width=LINE))


def _lines_of(name: str, text: str) -> Mapping[str, int]:
    """Return the line of each value of a JSON text, as far as it is YAML too: all of it but some escapes."""
    try:
        # YAML takes no tabs between values; JSON has none in them.
        return _Reader(name, text.replace("\t", " ")).read()[1]
    except CommandError:
        return {}


class _Reader:
    def __init__(self, name: str, text: str) -> None:
        self._name, self._text = name, text
        self._lines: dict[str, int] = {}
        self._within: set[int] = set()
        self._count = 0
        self._loader: Any = None

    def read(self) -> tuple[Any, dict[str, int]]:
        """Return the document, and the line of each value."""
        try:
            self._loader = _loader()(self._text)
            try:
                node = self._loader.get_single_node()
                return (None if node is None else self._value(node, "")), self._lines
            finally:
                self._loader.dispose()
        except yaml.YAMLError as error:
            raise self._error(error) from error
        except RecursionError as error:
            raise command_error(f"{self._name} is nested too deeply.") from error

    def _error(self, error: Any) -> CommandError:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        place = f"{self._name}:{mark.line + 1}" if mark else self._name
        said = getattr(error, "problem", None) or getattr(error, "context", None) or str(error)
        return command_error(f"{place}: this is not YAML: {said}.")

    def _value(self, node: Any, pointer: str) -> Any:
        self._lines.setdefault(pointer, node.start_mark.line + 1)
        self._count += 1
        if self._count > MOST_VALUES:
            raise self._refused(node, f"the file has more than {MOST_VALUES:,} values, those of its anchors included")
        if isinstance(node, yaml.ScalarNode):
            return self._plain_value(node)
        if id(node) in self._within:
            raise self._refused(node, "this contains itself")
        if node.tag not in COLLECTIONS:
            raise self._refused(node, f"JSON has nothing like {node.tag.rpartition(':')[2]}")
        self._within.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self._value(one, f"{pointer}/{place}") for place, one in enumerate(node.value)]
            return self._mapping(node, pointer)
        finally:
            self._within.discard(id(node))

    def _plain_value(self, node: Any) -> object:
        """Return a value that JSON has too; a tag may ask for another, or for one that its text is not."""
        try:
            value: object = self._loader.construct_object(node)
        except (ValueError, LookupError, AttributeError) as error:
            raise self._refused(
                node, f"{node.value[:LONGEST_SHOWN]!r} is not what its tag says, or too long"
            ) from error
        if isinstance(value, float) and not math.isfinite(value):
            raise self._refused(node, f"the number {node.value[:LONGEST_SHOWN]} is out of range")
        if value is not None and not isinstance(value, str | int | float):
            raise self._refused(node, f"JSON has nothing like {node.tag.rpartition(':')[2]}")
        return value

    def _refused(self, node: Any, why: str) -> CommandError:
        return command_error(f"{self._name}:{node.start_mark.line + 1}: {why}.")

    def _mapping(self, node: Any, pointer: str) -> dict[str, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            is_word = isinstance(key, yaml.ScalarNode)
            if not is_word or key.value in seen:
                what = f"{escaped(key.value)} stands twice in one object" if is_word else "a name must be text"
                raise command_error(f"{self._name}:{key.start_mark.line + 1}: {what}.")
            seen.add(key.value)
        self._loader.flatten_mapping(node)
        found = {}
        for key, value in node.value:
            escaped_name = key.value.replace("~", "~0").replace("/", "~1")
            found[key.value] = self._value(value, f"{pointer}/{escaped_name}")
        return found


@cache
def _loader() -> Any:
    """Return the class that parses: libyaml's where the wheel has it, which is ten times as fast."""
    loader: Any = type("Loader", (getattr(yaml, "CSafeLoader", yaml.SafeLoader),), {"yaml_implicit_resolvers": {}})
    for tag, (pattern, first) in TAGS.items():
        starts = ["" if one == "\0" else one for one in first]
        loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), starts)
    return loader


@cache
def _dumper() -> Any:
    """Return the class that writes: in quotes all that some YAML takes for something else than text."""
    dumper: Any = type("Dumper", (yaml.SafeDumper,), {"ignore_aliases": lambda *_: True})
    dumper.add_multi_representer(dict, yaml.SafeDumper.represent_dict)
    pattern, first = TAGS["float"]
    dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^(?:{pattern})$"), list(first))
    return dumper
