"""Strict marshmallow fields: no `"true"` for true, no text that a database cannot store."""

import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from marshmallow import RAISE, ValidationError, fields

from app.domain.numbers import InvalidNumberError, parse_e164
from app.domain.texts import (
    STEERING,
    UNSEEN,
    InvalidTextError,
    check_metadata,
    external_id,
    read_uuid,
    visible_line,
)

if TYPE_CHECKING:
    from apiflask import Schema as Schema  # noqa: PLC0414 - an export, and mypy needs it said
else:
    # All that APIFlask's class is; its package brings the whole web framework to every command.
    from marshmallow import Schema

VISIBLE_LINE = rf"^[^{STEERING}]*[^\s{STEERING}{UNSEEN}][^{STEERING}]*$"
"""The pattern of `Name` in the API reference; `visible_line` also covers combining marks and supplementary planes."""

WHOLE_NUMBER = re.compile(r"-?[0-9]{1,9}", re.ASCII)
"""An integer in a URL, header or command; `int()` would also take blanks, `_`, `+` and digits of other scripts."""

E164_PATTERN = r"^\+[1-9][0-9]{1,14}$"
"""The pattern of a number in the API reference; `parse_e164` also checks it against its country's numbering plan."""


@runtime_checkable
class Parameters(Protocol):
    """The parameters of a request, each of which may be given several times: Werkzeug's, and webargs' of them."""

    def __iter__(self) -> Iterator[str]: ...

    def getlist(self, name: str, /) -> list[str]:
        """Return what a parameter was given as."""


def repeated_parameters(query: Parameters, names: Iterable[str]) -> dict[str, list[str]]:
    """Return an error for each parameter that is given more than once, which could be read either way."""
    return {name: ["Given twice."] for name in names if len(query.getlist(name)) > 1}


def flat_errors(messages: object, prefix: str = "") -> dict[str, list[str]]:
    """Turn marshmallow's nested messages into one flat map of field -> messages."""
    if not isinstance(messages, dict):
        found = messages if isinstance(messages, list) else [messages]
        return {prefix or "body": [str(message) for message in found]}
    flat: dict[str, list[str]] = {}
    for name, inner in messages.items():
        path = prefix if name == "_schema" else f"{prefix}.{name}".removeprefix(".")
        flat.update(flat_errors(inner, path))
    return flat


class Strict(Schema):
    """Refuses unknown fields."""

    class Meta:
        """marshmallow's options."""

        unknown = RAISE


class StrictBoolean(fields.Boolean):
    """True or false only; marshmallow's own field also takes 1, "yes" and "on"."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


class WholeNumber(fields.Integer):
    """An integer in a URL, in plain digits."""

    def _validated(self, value: Any) -> int:
        if isinstance(value, str) and not WHOLE_NUMBER.fullmatch(value):
            raise self.make_error("invalid", input=value)
        return super()._validated(value)


class JsonInteger(fields.Integer):
    """An integer in a body: `20`, and `20.0` too, which is the same number in JSON; no text, no truth value."""

    def _validated(self, value: Any) -> int:
        is_whole = isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
        if not is_whole:
            raise self.make_error("invalid", input=value)
        return super()._validated(int(value))


class Id(fields.UUID):
    """A UUID in its canonical form only."""

    def _validated(self, value: Any) -> uuid.UUID:
        found = read_uuid(value)
        if found is None:
            raise self.make_error("invalid_uuid")
        return found


class Name(fields.String):
    """One line of visible text, stripped."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **more: Any) -> str:
        try:
            return visible_line(str(super()._deserialize(value, attr, data, **more)))
        except InvalidTextError as error:
            raise ValidationError(str(error)) from error


class ExternalId(fields.String):
    """An id that a client gives."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> str:
        try:
            return external_id(value)
        except InvalidTextError as error:
            raise ValidationError(str(error)) from error


class PhoneNumberField(fields.String):
    """A phone number in E.164 form; no other form is converted."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **more: Any) -> str:
        try:
            return parse_e164(str(super()._deserialize(value, attr, data, **more)))
        except InvalidNumberError as error:
            raise ValidationError(str(error)) from error


class Texts(fields.Dict):
    """An object whose values are texts; an error is told of its name, where marshmallow's own field adds one."""

    def _deserialize(self, value: Any, *given: Any, **more: Any) -> Any:
        try:
            return super()._deserialize(value, *given, **more)  # type: ignore[no-untyped-call]  # marshmallow's own
        except ValidationError as error:
            if isinstance(error.messages, dict):
                told = {name: next(iter(parts.values())) for name, parts in error.messages.items()}
                raise ValidationError(told) from error
            raise


class Metadata(fields.Dict):
    """A JSON object of the client, stored and passed on unread."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **more: Any) -> Any:
        found = super()._deserialize(value, attr, data, **more)  # type: ignore[no-untyped-call]  # marshmallow's own
        try:
            check_metadata(found)
        except InvalidTextError as error:
            raise ValidationError(str(error)) from error
        return found


def choice(values: type[StrEnum], description: str, **more: Any) -> fields.Enum[StrEnum]:
    """Return a field for a value of a closed list."""
    return fields.Enum(values, by_value=True, metadata={"description": description}, **more)
