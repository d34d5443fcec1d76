"""LiveKit's side of the sandbox: Twirp routing, authentication, and the handler of each method."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import jwt
from google.protobuf.message import DecodeError, Message
from livekit.protocol import agent_dispatch, room, sip

from app.dev.sandbox import livekit_rules, livekit_trunks, owners, rooms
from app.dev.sandbox.exchange import LIVEKIT, Exchange, Response
from app.dev.sandbox.livekit_wire import JSON, PROTOBUF, TwirpError, bad_route, decode, encode, media_type, plain
from app.dev.sandbox.state import FIRST_PROJECT, Sandbox

LEEWAY_S = 60
"""Seconds by which the clocks of client and server may differ (livekit/protocol auth/verifier.go)."""

BEARER = "Bearer "
INVALID = "invalid authorization token"
UNKNOWN_KEY = "invalid API key"

TIMES = ("exp", "iat", "nbf")
TEXTS = ("iss", "sub", "jti")
GRANTS = ("sip", "video")
FLAGS = {"sip": ("admin", "call"), "video": ("roomAdmin", "roomList")}
"""Claims that LiveKit reads; one of another type makes the whole token unreadable."""


class TokenError(Exception):
    """The token is refused before the request is read: 401 with a text body."""

    def response(self) -> Response:
        """Return LiveKit's text/plain response."""
        return Response(401, str(self).encode(), "text/plain; charset=utf-8")


def verified_claims(exchange: Exchange, keys: Mapping[str, str]) -> dict[str, Any]:
    """Return the claims of a request; a missing or empty token means no claims, and is refused later.

    `keys` are the API keys of the project with their secrets. In LiveKit's order of checks: unreadable, unknown key,
    then signature and times.
    """
    if not exchange.authorization:
        token = exchange.parameters().get("access_token", "")
    elif not exchange.authorization.startswith(BEARER):
        raise TokenError("invalid authorization header. Must start with Bearer ")
    else:
        token = exchange.authorization.removeprefix(BEARER)
    if not token:
        return {}
    try:
        claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    except jwt.InvalidTokenError:
        raise TokenError(INVALID) from None
    if not _is_readable(claims):
        raise TokenError(INVALID)
    secret = keys.get(claims.get("iss") or "")
    if secret is None:
        raise TokenError(UNKNOWN_KEY)
    try:
        _verify(token, secret)
    except jwt.InvalidTokenError as error:
        raise _token_error(error) from None
    _check_types(claims)
    return claims


def _verify(token: str, secret: str) -> None:
    options: Any = {"verify_aud": False, "verify_iat": False, "verify_sub": False, "verify_jti": False}
    jwt.decode(token, secret, algorithms=["HS256"], leeway=LEEWAY_S, options=options)


def _token_error(error: jwt.InvalidTokenError) -> TokenError:
    """Return the 401 of a token whose signature or times are wrong."""
    reasons = {
        jwt.ExpiredSignatureError: "token has invalid claims: token is expired",
        jwt.ImmatureSignatureError: "token has invalid claims: token is not valid yet",
    }
    return TokenError(f"{INVALID}: {reasons.get(type(error), 'token signature is invalid: signature is invalid')}")


def _is_readable(claims: dict[str, Any]) -> bool:
    """Tell whether the registered claims have the types of RFC 7519."""
    audience = claims.get("aud")
    texts = [claims.get(name) for name in TEXTS] + (audience if isinstance(audience, list) else [audience])
    return all(isinstance(text, str | None) for text in texts) and not any(
        isinstance(claims.get(name), str | bool | list | dict) for name in TIMES
    )


def _check_types(claims: dict[str, Any]) -> None:
    """Raise the 401 of a token whose grants cannot be read."""
    wrong = [name for name in GRANTS if not isinstance(claims.get(name), dict | None)]
    for grant, flags in FLAGS.items():
        given = claims.get(grant)
        if isinstance(given, dict):
            wrong += [f"{grant}.{name}" for name in flags if not isinstance(given.get(name), bool | None)]
            wrong += [f"{grant}.room"] * (not isinstance(given.get("room"), str | None))
    if wrong:
        raise TokenError(f"{INVALID}: token is malformed: could not JSON decode claim: {wrong[0]}")


def _granted(claims: dict[str, Any], grant: str) -> dict[str, Any]:
    given = claims.get(grant)
    return given if isinstance(given, dict) else {}


def is_sip_admin(claims: dict[str, Any], _request: Any) -> bool:
    """Say whether the claims allow the management of trunks and rules."""
    return _granted(claims, "sip").get("admin") is True


def may_list_rooms(claims: dict[str, Any], _request: Any) -> bool:
    """Say whether the claims allow a list of rooms (livekit/livekit pkg/service/auth.go, EnsureListPermission)."""
    return _granted(claims, "video").get("roomList") is True


def is_room_admin(claims: dict[str, Any], request: Any) -> bool:
    """Say whether the claims are for this very room (the same file, EnsureAdminPermission)."""
    video = _granted(claims, "video")
    return video.get("roomAdmin") is True and video.get("room", "") == request.room


PROJECT = re.compile(r"/projects/(?P<name>[a-z0-9-]+)(?=/)")
PREFIX = "/twirp/"
SERVICES = ("livekit.SIP/", "livekit.RoomService/", "livekit.AgentDispatchService/")
UNKNOWN = f"{LIVEKIT}.unknown"
"""Operation of a request that matches no route."""


NO_PAGE = Response(404, b"404 page not found\n", "text/plain; charset=utf-8")
"""What LiveKit's web server says where it has no service at all."""


@dataclass(frozen=True)
class Method:
    """One method of a service."""

    request: type[Message]
    handler: Callable[[Sandbox, Any], Message]
    is_allowed: Callable[[dict[str, Any], Any], bool] = is_sip_admin
    """Says whether a request may be made with these claims."""

    @property
    def operation(self) -> str:
        """Name for faults and the request log."""
        return f"{LIVEKIT}.{self.handler.__name__}"


SIP_METHODS = {
    "CreateSIPInboundTrunk": Method(sip.CreateSIPInboundTrunkRequest, livekit_trunks.create_inbound_trunk),
    "ListSIPInboundTrunk": Method(sip.ListSIPInboundTrunkRequest, livekit_trunks.list_inbound_trunks),
    "GetSIPInboundTrunk": Method(sip.GetSIPInboundTrunkRequest, livekit_trunks.get_inbound_trunk),
    "UpdateSIPInboundTrunk": Method(sip.UpdateSIPInboundTrunkRequest, livekit_trunks.update_inbound_trunk),
    "CreateSIPOutboundTrunk": Method(sip.CreateSIPOutboundTrunkRequest, livekit_trunks.create_outbound_trunk),
    "ListSIPOutboundTrunk": Method(sip.ListSIPOutboundTrunkRequest, livekit_trunks.list_outbound_trunks),
    "GetSIPOutboundTrunk": Method(sip.GetSIPOutboundTrunkRequest, livekit_trunks.get_outbound_trunk),
    "UpdateSIPOutboundTrunk": Method(sip.UpdateSIPOutboundTrunkRequest, livekit_trunks.update_outbound_trunk),
    "ListSIPTrunk": Method(sip.ListSIPTrunkRequest, livekit_trunks.list_trunks),
    "DeleteSIPTrunk": Method(sip.DeleteSIPTrunkRequest, livekit_trunks.delete_trunk),
    "CreateSIPDispatchRule": Method(sip.CreateSIPDispatchRuleRequest, livekit_rules.create_dispatch_rule),
    "ListSIPDispatchRule": Method(sip.ListSIPDispatchRuleRequest, livekit_rules.list_dispatch_rules),
    "UpdateSIPDispatchRule": Method(sip.UpdateSIPDispatchRuleRequest, livekit_rules.update_dispatch_rule),
    "DeleteSIPDispatchRule": Method(sip.DeleteSIPDispatchRuleRequest, livekit_rules.delete_dispatch_rule),
}

METHODS = {f"livekit.SIP/{name}": method for name, method in SIP_METHODS.items()} | {
    "livekit.RoomService/ListRooms": Method(room.ListRoomsRequest, rooms.list_rooms, may_list_rooms),
    "livekit.RoomService/ListParticipants": Method(
        room.ListParticipantsRequest, rooms.list_participants, is_room_admin
    ),
    "livekit.AgentDispatchService/ListDispatch": Method(
        agent_dispatch.ListAgentDispatchRequest, rooms.list_dispatches, is_room_admin
    ),
}
"""By service and name."""

OPERATIONS = {method.operation: method for method in METHODS.values()}


def match_route(exchange: Exchange) -> bool:
    """Set provider, project and operation if the request is for LiveKit; say whether it is.

    At LiveKit each project has a host of its own. Here one port serves all: `/projects/<name>` before the path stands
    for the host, and the first project has none.
    """
    under = PROJECT.match(exchange.path)
    if under:
        exchange.path = exchange.path.removeprefix(under[0])
    if not exchange.path.startswith(PREFIX):
        return False
    exchange.owner = under["name"] if under else FIRST_PROJECT
    method = METHODS.get(exchange.path.removeprefix(PREFIX)) if exchange.method == "POST" else None
    exchange.provider, exchange.operation = LIVEKIT, method.operation if method else UNKNOWN
    return True


def read_body(exchange: Exchange) -> dict[str, Any]:
    """Return the fields of any provider's request, for the request log; empty when they cannot be read."""
    if exchange.provider != LIVEKIT:
        return dict(parse_qsl(exchange.body.decode("utf-8", "replace"), keep_blank_values=True))
    method = OPERATIONS.get(exchange.operation)
    try:
        if method and media_type(exchange) == PROTOBUF:
            return plain(method.request.FromString(exchange.body))
        content = json.loads(exchange.body)
    except (DecodeError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


class LiveKit:
    """LiveKit's behaviour over the sandbox's objects."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def owner(self, exchange: Exchange) -> str:
        """Return the name of the project that the URL names."""
        return exchange.owner

    def response(self, exchange: Exchange) -> Response:
        """Apply a request and return the response; runs inside a transaction."""
        try:
            return self._handle(exchange)
        except (TwirpError, TokenError) as error:
            return error.response()

    def _handle(self, exchange: Exchange) -> Response:
        project = owners.project_of(self._sandbox, exchange)
        if project is None:
            return NO_PAGE
        claims = verified_claims(exchange, project["keys"])
        method = OPERATIONS.get(exchange.operation)
        if not exchange.path.removeprefix(PREFIX).startswith(SERVICES):
            return NO_PAGE
        if exchange.method != "POST":
            raise bad_route(f'unsupported method "{exchange.method}" (only POST is allowed)', exchange)
        if method is None:
            raise bad_route(f'no handler for path "{exchange.path}"', exchange)
        if media_type(exchange) not in (PROTOBUF, JSON):
            raise bad_route(f'unexpected Content-Type: "{exchange.content_type}"', exchange)
        request = decode(exchange, method.request)
        if not method.is_allowed(claims, request):
            raise TwirpError("unauthenticated", "permissions denied")
        if method in SIP_METHODS.values() and not self._sandbox.switches.livekit_redis:
            raise TwirpError("internal", "twirp error unknown: sip not connected (redis required)")
        _check_hidden(exchange, request)
        response = method.handler(self._sandbox.of_project(project["name"]), request)
        if exchange.hidden and exchange.verb == "list":
            _remove_hidden(exchange, response)
        return encode(exchange, response)


ID_FIELDS = ("sip_trunk_id", "sip_dispatch_rule_id", "sid", "id")


def _id_of(message: Any) -> str:
    """Return the id that an object, or a request for one, carries."""
    return next(str(getattr(message, name)) for name in ID_FIELDS if name in message.DESCRIPTOR.fields_by_name)


def _check_hidden(exchange: Exchange, request: Message) -> None:
    """Raise the 404 of an object that a fault hides, whatever the real server does for unknown ones."""
    if exchange.hidden and exchange.verb != "list" and exchange.hides(_id_of(request)):
        is_rule = exchange.operation.endswith("dispatch_rule")
        raise TwirpError("not_found", livekit_rules.UNKNOWN if is_rule else livekit_trunks.UNKNOWN)


def _remove_hidden(exchange: Exchange, response: Any) -> None:
    """Remove the objects that a fault hides from a list's response."""
    items = getattr(response, response.DESCRIPTOR.fields[0].name)
    shown = [item for item in items if not exchange.hides(_id_of(item))]
    del items[:]
    items.extend(shown)
