"""Twirp on the wire: errors, and messages as protobuf or JSON."""

from dataclasses import dataclass
from typing import Any

from google.protobuf.json_format import MessageToDict, Parse, ParseError
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

    def answer(self) -> Answer:
        """Return the body that the SDKs read."""
        return json_answer(STATUS.get(self.code, 500), {"code": self.code, "msg": self.message})


def invalid(message: str) -> TwirpError:
    """Return the error for a request that LiveKit refuses."""
    return TwirpError("invalid_argument", message)


def media_type(exchange: Exchange) -> str:
    """Return the Content-Type without its parameters."""
    return exchange.content_type.partition(";")[0].strip().lower()


def decode(exchange: Exchange, kind: type[Message]) -> Message:
    """Read the request's message; JSON keys may be snake_case or camelCase, unknown ones are dropped."""
    message = kind()
    if media_type(exchange) == PROTOBUF:
        try:
            message.ParseFromString(exchange.body)
        except DecodeError:
            raise TwirpError("malformed", "the protobuf request could not be decoded") from None
        return message
    try:
        return Parse(exchange.body, message, ignore_unknown_fields=True)
    except (ParseError, UnicodeDecodeError):
        raise TwirpError("malformed", "the json request could not be decoded") from None


def plain(message: Message) -> dict[str, Any]:
    """Return a message as LiveKit's JSON shows it: snake_case, defaults included."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def encode(exchange: Exchange, message: Message) -> Answer:
    """Pack a message in the encoding of the request."""
    if media_type(exchange) == PROTOBUF:
        return Answer(200, message.SerializeToString(), PROTOBUF)
    return json_answer(200, plain(message))
