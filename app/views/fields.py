"""Fields that take a value as it is or not at all: no `"true"` for true, no text that a database cannot hold."""

import re
import uuid
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

from marshmallow import ValidationError, fields
from webargs.multidictproxy import MultiDictProxy
from werkzeug.datastructures import MultiDict

from app.domain.numbers import InvalidNumberError, parse_e164
from app.domain.texts import STEERING, UNSEEN, InvalidTextError, check_metadata, read_uuid, visible_line

VISIBLE_LINE = rf"^[^{STEERING}]*[^\s{STEERING}{UNSEEN}][^{STEERING}]*$"
"""What `Name` takes, for the API reference; beyond the basic plane, and of marks, `visible_line` says more."""

WHOLE_NUMBER = re.compile(r"-?[0-9]{1,9}", re.ASCII)
"""An integer of a URL, a header or a command; `int()` takes blanks, `_`, `+` and the digits of every script too."""

E164_PATTERN = r"^\+[1-9][0-9]{1,14}$"
"""What a number looks like; whether its country has such is the code's to say."""


def repeated_parameters(query: MultiDict[str, str] | MultiDictProxy, names: Iterable[str]) -> dict[str, list[str]]:
    """Return an error for each parameter that is given more than once, which could be read either way."""
    return {name: ["Given twice."] for name in names if len(query.getlist(name)) > 1}


class StrictBoolean(fields.Boolean):
    """True or false; marshmallow's own also takes 1, "yes" and "on"."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


class WholeNumber(fields.Integer):
    """An integer of a URL, in plain digits."""

    def _validated(self, value: Any) -> int:
        if isinstance(value, str) and not WHOLE_NUMBER.fullmatch(value):
            raise self.make_error("invalid", input=value)
        return super()._validated(value)


class Id(fields.UUID):
    """A UUID in its canonical form only."""

    def _validated(self, value: Any) -> uuid.UUID:
        found = read_uuid(value)
        if found is None:
            raise self.make_error("invalid_uuid")
        return found


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
