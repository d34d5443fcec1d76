"""Twirp on the wire: errors, and messages as protobuf or JSON."""

import json
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import DecodeError, Message

from app.sandbox.exchange import Answer, Exchange, json_answer

PROTOBUF = "application/protobuf"
JSON = "application/json"

STATUS = {
    "invalid_argument": 400,
    "malformed": 400,
    "out_of_range": 400,
    "unauthenticated": 401,
    "permission_denied": 403,
    "not_found": 404,
    "bad_route": 404,
    "deadline_exceeded": 408,
    "already_exists": 409,
    "aborted": 409,
    "failed_precondition": 412,
    "resource_exhausted": 429,
    "internal": 500,
    "unknown": 500,
    "unimplemented": 501,
    "unavailable": 503,
}
"""HTTP status of each Twirp code (twitchtv/twirp errors.go:267-310)."""


@dataclass
class TwirpError(Exception):
    """An error answer: always JSON, whatever the request was."""

    code: str
    message: str
    meta: dict[str, str] = field(default_factory=dict)

    def answer(self) -> Answer:
        """Return the body that the SDKs read."""
        content: dict[str, Any] = {"code": self.code, "msg": self.message}
        if self.meta:
            content["meta"] = self.meta
        return json_answer(STATUS.get(self.code, 500), content)


def invalid(message: str) -> TwirpError:
    """Return the error for a request that LiveKit refuses."""
    return TwirpError("invalid_argument", message)


def unknown(message: str) -> TwirpError:
    """Return the error for an object that is not there."""
    return TwirpError("not_found", message)


def bad_route(message: str, exchange: Exchange) -> TwirpError:
    """Return the error for a request that leads to no method."""
    return TwirpError("bad_route", message, {"twirp_invalid_route": f"{exchange.method} {exchange.path}"})


def media_type(exchange: Exchange) -> str:
    """Return the Content-Type without its parameters."""
    return exchange.content_type.partition(";")[0].strip().lower()


def decode(exchange: Exchange, kind: type[Message]) -> Message:
    """Read the request's message; JSON keys may be snake_case or camelCase, unknown ones are dropped.

    Like Twirp's own reader, what follows the first JSON value is not looked at.
    """
    message = kind()
    if media_type(exchange) == PROTOBUF:
        try:
            message.ParseFromString(exchange.body)
        except DecodeError:
            raise TwirpError("malformed", "the protobuf request could not be decoded") from None
        return message
    try:
        content, _ = JSON_READER.raw_decode(exchange.body.decode().lstrip(" \t\r\n"))
        _check_object(content, message.DESCRIPTOR)
        return ParseDict(content, message, ignore_unknown_fields=True)
    except (ParseError, ValueError, RecursionError):
        raise TwirpError("malformed", "the json request could not be decoded") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its pairs; raise ValueError when a key comes twice."""
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key comes twice")
    return content


JSON_READER = json.JSONDecoder(object_pairs_hook=_once)


def _check_object(content: Any, kind: Any) -> None:
    """Raise ValueError unless this is an object that names no field in both spellings, all the way down.

    `kind` is the descriptor of the message that it stands for.
    """
    if kind.file.package == "google.protobuf":
        return
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - a fault of the request, as any other here
    names = [
        each for each in kind.fields if {each.name, each.json_name} <= content.keys() and each.name != each.json_name
    ]
    if names:
        raise ValueError("a field comes in both spellings")
    for each in kind.fields:
        value = content.get(each.name, content.get(each.json_name))
        if each.message_type is None or value is None or each.message_type.GetOptions().map_entry:
            continue
        for part in value if each.is_repeated and isinstance(value, list) else [value]:
            _check_object(part, each.message_type)


def plain(message: Message) -> dict[str, Any]:
    """Return a message as LiveKit's JSON shows it: snake_case, defaults included."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def encode(exchange: Exchange, message: Message) -> Answer:
    """Pack a message in the encoding of the request."""
    if media_type(exchange) == PROTOBUF:
        return Answer(200, message.SerializeToString(), PROTOBUF)
    content = plain(message)
    _add_nulls(content, message)
    return json_answer(200, content)


def _add_nulls(content: dict[str, Any], message: Message) -> None:
    """Show unset messages as null, as Go's protojson does (EmitUnpopulated); members of a oneof stay away."""
    for each in message.DESCRIPTOR.fields:
        if each.message_type is None or each.message_type.GetOptions().map_entry:
            continue
        if each.is_repeated:
            for part, value in zip(content.get(each.name, []), getattr(message, each.name), strict=True):
                _add_nulls(part, value)
        elif each.name not in content:
            if each.containing_oneof is None:
                content[each.name] = None
        elif each.message_type.file.package != "google.protobuf":
            _add_nulls(content[each.name], getattr(message, each.name))
