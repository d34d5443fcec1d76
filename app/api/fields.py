"""Fields that take a value as it is or not at all: no `"true"` for true, no text that a database cannot hold."""

import json
import unicodedata
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from marshmallow import ValidationError, fields

from app.domain.numbers import InvalidNumberError, parse_e164

MAX_METADATA_BYTES = 16 * 1024
"""Bytes of an agent's metadata as JSON: it travels with every dispatched call."""


class StrictBoolean(fields.Boolean):
    """True or false; marshmallow's own also takes 1, "yes" and "on"."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


class Name(fields.String):
    """One line of visible text; blanks around it are dropped."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **more: Any) -> str:
        text = str(super()._deserialize(value, attr, data, **more)).strip()
        # Cc: control characters, NUL among them; Cs: half of a surrogate pair; Zl, Zp: line ends of other kinds.
        if any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in text):
            raise ValidationError("must not contain control characters")
        return text


class PhoneNumberField(fields.String):
    """A number that is E.164 already."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **more: Any) -> str:
        try:
            return parse_e164(str(super()._deserialize(value, attr, data, **more)))
        except InvalidNumberError as error:
            raise ValidationError(str(error)) from error


class Metadata(fields.Dict):
    """A JSON object of the client's own, kept and passed on unread."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **more: Any) -> Any:
        found = super()._deserialize(value, attr, data, **more)  # type: ignore[no-untyped-call]  # marshmallow's own
        _check_text(found)
        if len(json.dumps(found, ensure_ascii=False).encode()) > MAX_METADATA_BYTES:
            raise ValidationError(f"must be at most {MAX_METADATA_BYTES} bytes as JSON")
        return found


def _check_text(value: object) -> None:
    """Raise for a NUL, which PostgreSQL refuses, or half of a surrogate pair, which is no Unicode, anywhere inside."""
    if isinstance(value, str) and any(char == "\0" or "\ud800" <= char <= "\udfff" for char in value):
        raise ValidationError("must not contain NUL bytes or unpaired surrogates")
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_text(name)
            _check_text(inner)
    elif isinstance(value, list):
        for inner in value:
            _check_text(inner)


def choice(values: type[StrEnum], description: str, **more: Any) -> fields.Enum[StrEnum]:
    """Return a field for one status of a closed list."""
    return fields.Enum(values, by_value=True, metadata={"description": description}, **more)
