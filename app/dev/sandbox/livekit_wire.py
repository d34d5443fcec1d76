"""LiveKit's wire format: errors, messages as protobuf or JSON, pages, and values that its objects share."""

import json
import re
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import DecodeError, Message
from livekit.protocol import sip
from livekit.protocol.models import ListUpdate, Pagination

from app.dev.sandbox.exchange import Exchange, Response, json_response

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
    """An error response: always JSON, whatever the request was."""

    code: str
    message: str
    meta: dict[str, str] = field(default_factory=dict)

    def response(self) -> Response:
        """Return the body that the SDKs read."""
        content: dict[str, Any] = {"code": self.code, "msg": self.message}
        if self.meta:
            content["meta"] = self.meta
        return json_response(STATUS.get(self.code, 500), content)


def invalid(message: str) -> TwirpError:
    """Return the error for a request that LiveKit refuses."""
    return TwirpError("invalid_argument", message)


def unknown(message: str) -> TwirpError:
    """Return the error for an object that does not exist."""
    return TwirpError("not_found", message)


def bad_route(message: str, exchange: Exchange) -> TwirpError:
    """Return the error for a request that matches no method."""
    return TwirpError("bad_route", message, {"twirp_invalid_route": f"{exchange.method} {exchange.path}"})


def media_type(exchange: Exchange) -> str:
    """Return the Content-Type without its parameters."""
    return exchange.content_type.partition(";")[0].strip().lower()


def decode(exchange: Exchange, kind: type[Message]) -> Message:
    """Read the request's message; JSON keys may be snake_case or camelCase, unknown ones are dropped.

    As in Twirp, what follows the first JSON value is ignored.
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
    """Make an object of its pairs; raise ValueError for a repeated key."""
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key is repeated")
    return content


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no JSON")


JSON_READER = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_no_number)


def _check_object(content: Any, kind: Any) -> None:
    """Raise ValueError unless this is an object that names no field in both spellings, at any depth.

    `kind` is the descriptor of the message that it stands for.
    """
    if kind.file.package == "google.protobuf":
        return
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - an error of the request, as any other here
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


def encode(exchange: Exchange, message: Message) -> Response:
    """Encode a message as the request was encoded."""
    if media_type(exchange) == PROTOBUF:
        return Response(200, message.SerializeToString(), PROTOBUF)
    content = plain(message)
    _add_nulls(content, message)
    return json_response(200, content)


def _add_nulls(content: dict[str, Any], message: Message) -> None:
    """Show unset messages as null, as Go's protojson does (EmitUnpopulated); members of a oneof are left out."""
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


Item = TypeVar("Item")

ID_ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
"""shortuuid's: no 0, 1, I, O, l (livekit/protocol utils/guid/id.go)."""

ID_LENGTH = 12
"""Characters after the prefix."""


def new_id(prefix: str) -> str:
    """Return a fresh id, such as `ST_` + 12 characters."""
    return prefix + "".join(secrets.choice(ID_ALPHABET) for _ in range(ID_LENGTH))


def paged(
    items: list[Item], page: Pagination | None, id_of: Callable[[Item], str], keep: Callable[[Item], bool]
) -> list[Item]:
    """Filter items that are sorted by id.

    `limit` is only a batch size: everything after `after_id` is returned, except that a batch with no match ends the
    list early (livekit/protocol livekit/types.go:416-442).
    """
    if page is None:
        return [item for item in items if keep(item)]
    rest = [item for item in items if id_of(item) > page.after_id]
    size = page.limit if page.limit > 0 else len(rest) or 1
    found: list[Item] = []
    for start in range(0, len(rest), size):
        batch = [item for item in rest[start : start + size] if keep(item)]
        if not batch:
            break
        found += batch
    return found


def check_list_update(change: ListUpdate, *, is_set: bool) -> None:
    """Raise LiveKit's 400 when a ListUpdate is empty or contradicts itself (livekit/types.go:448-478)."""
    if not is_set:
        return
    wanted, edits = list(change.set), [*change.add, *change.remove]
    if not (change.clear or wanted or edits):
        raise invalid("unsupported list update operation")
    if change.clear and (wanted or edits):
        raise invalid("cannot clear and change the list at the same time")
    if wanted and edits:
        raise invalid("cannot set and change the list at the same time")
    if "" in wanted + edits:
        raise invalid("empty element in the list")


def updated(current: Iterable[str], change: ListUpdate) -> list[str]:
    """Apply a valid ListUpdate: of a repeated text the first is removed (livekit/types.go:500-530)."""
    if change.clear or change.set:
        return list(change.set)
    kept = list(current)
    for element in change.remove:
        if element in kept:
            kept.remove(element)
    for element in change.add:
        if element not in kept:
            kept.append(element)
    return kept


WILDCARD = ""
"""Key of a trunk without numbers and of a rule without trunks."""

_DIALLABLE = re.compile(r"\+?[\d \-()]+", re.ASCII)
_PUNCTUATION = re.compile(r"[ \-()+]")

RuleKey = tuple[str, str, str, str]


def normalised(number: str) -> str:
    """Return `+` and digits for anything that reads as a phone number, anything else unchanged.

    Source: livekit/protocol livekit/sip.go:1177-1202.
    """
    if not _DIALLABLE.fullmatch(number):
        return number
    return "+" + _PUNCTUATION.sub("", number)


def called_numbers(trunk: sip.SIPInboundTrunkInfo) -> list[str]:
    """Return the normalised numbers of a trunk, or the wildcard."""
    return [normalised(number) for number in trunk.numbers] or [WILDCARD]


def pin_of(rule: sip.SIPDispatchRule) -> str:
    """Return the PIN that a rule asks for, or the empty text."""
    kind = rule.WhichOneof("rule")
    return str(getattr(rule, kind).pin) if kind else ""


def rule_keys(rule: sip.SIPDispatchRuleInfo) -> Iterable[RuleKey]:
    """Yield PIN x trunk x caller x called number; rules that share one conflict (livekit/protocol sip/sip.go:185)."""
    pin = pin_of(rule.rule)
    for trunk_id in rule.trunk_ids or [WILDCARD]:
        for caller in rule.inbound_numbers or [""]:
            for called in rule.numbers or [""]:
                yield (pin, trunk_id, normalised(caller), normalised(called))


MAX_MEDIA_TIMEOUT_S = 600
"""Seconds: longer media timeouts are refused (livekit/protocol livekit/sip.go, MaxSIPMediaTimeout)."""

DISABLE = sip.SIPMediaEncryption.SIP_MEDIA_ENCRYPT_DISABLE
REQUIRE = sip.SIPMediaEncryption.SIP_MEDIA_ENCRYPT_REQUIRE


def check_media(media: sip.SIPMediaConfig) -> None:
    """Raise LiveKit's 400 for media settings that it refuses."""
    for codec in media.codecs:
        if not codec.name:
            raise invalid("missing codec name")
        if re.search(r"[ \t\r\n]", codec.name):
            raise invalid("invalid codec name")
        if "/" in codec.name:
            raise invalid("codec name must not contain '/'")
    timeout_s = media.media_timeout.ToTimedelta().total_seconds()
    if timeout_s < 0:
        raise invalid("media_timeout must not be negative")
    if timeout_s > MAX_MEDIA_TIMEOUT_S:
        raise invalid("media_timeout must not exceed 10m0s")


def upgrade(info: Any) -> None:
    """Set the media settings of a trunk or rule; the old `media_encryption` applies where the new field is not set."""
    info.media.SetInParent()
    if not info.media.HasField("encryption") and info.media_encryption != DISABLE:
        info.media.encryption = info.media_encryption


def patch_media(info: Any, change: Any) -> None:
    """Apply a partial update of a trunk or rule; the new and the old field agree afterwards."""
    if change.HasField("media"):
        info.media.CopyFrom(change.media)
    if change.HasField("media_encryption"):
        info.media_encryption = change.media_encryption
    upgrade(info)
    info.media_encryption = info.media.encryption
