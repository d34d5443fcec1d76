"""Fields that take a value as it is or not at all: no `"true"` for true, no text that a database cannot hold."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from marshmallow import ValidationError, fields

from app.domain.numbers import InvalidNumberError, parse_e164
from app.domain.texts import InvalidTextError, check_metadata, visible_line

_CONTROL = r"\u0000-\u001f\u007f-\u009f\u2028\u2029"

VISIBLE_LINE = rf"^[^{_CONTROL}]*[^\s{_CONTROL}][^{_CONTROL}]*$"
"""What `Name` takes, for the API reference: no control character, and something to see."""

E164_PATTERN = r"^\+[1-9][0-9]{1,14}$"
"""What a number looks like; whether its country has such is the code's to say."""


class StrictBoolean(fields.Boolean):
    """True or false; marshmallow's own also takes 1, "yes" and "on"."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


class Name(fields.String):
    """One line of visible text; blanks around it are dropped."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **more: Any) -> str:
        try:
            return visible_line(str(super()._deserialize(value, attr, data, **more)))
        except InvalidTextError as error:
            raise ValidationError(str(error)) from error


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
        try:
            check_metadata(found)
        except InvalidTextError as error:
            raise ValidationError(str(error)) from error
        return found


def choice(values: type[StrEnum], description: str, **more: Any) -> fields.Enum[StrEnum]:
    """Return a field for one status of a closed list."""
    return fields.Enum(values, by_value=True, metadata={"description": description}, **more)
