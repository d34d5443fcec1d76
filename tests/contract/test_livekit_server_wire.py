"""The wire format of LiveKit: routes, encodings and tokens; true of the sandbox and of any LiveKit server."""

import re
import time
from typing import Any

import pytest
from livekit import api

from tests.support.livekit_server import LiveKitServer, refused

UNREADABLE = {"exp": "soon", "sub": 7, "jti": 7, "aud": 7}
"""Registered claims of another type than RFC 7519 has."""


def bad_route(message: str, route: str) -> dict[str, Any]:
    return {"code": "bad_route", "msg": message, "meta": {"twirp_invalid_route": route}}


def test_an_unknown_method_is_a_bad_route(livekit: LiveKitServer) -> None:
    path = "/twirp/livekit.SIP/NoSuchMethod"
    answer = livekit.twirp(path, {})
    assert answer.status_code == 404
    assert answer.json() == bad_route(f'no handler for path "{path}"', f"POST {path}")


@pytest.mark.parametrize("path", ["/twirp/livekit.Nothing/ListSIPInboundTrunk", "/twirp/"])
def test_an_unknown_service_is_no_page_at_all(livekit: LiveKitServer, path: str) -> None:
    answer = livekit.twirp(path, {})
    assert (answer.status_code, answer.text) == (404, "404 page not found\n")
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize("verb", ["GET", "PUT", "DELETE"])
def test_another_verb_is_a_bad_route_whatever_the_method(livekit: LiveKitServer, verb: str) -> None:
    path = "/twirp/livekit.SIP/ListSIPInboundTrunk"
    answer = livekit.http.request(verb, livekit.url + path, headers={"Authorization": livekit.token()}, timeout=10)
    assert answer.status_code == 404
    assert answer.json() == bad_route(f'unsupported method "{verb}" (only POST is allowed)', f"{verb} {path}")


def test_another_content_type_is_a_bad_route(livekit: LiveKitServer) -> None:
    answer = livekit.twirp("ListSIPInboundTrunk", {}, **{"Content-Type": "text/plain"})
    route = "POST /twirp/livekit.SIP/ListSIPInboundTrunk"
    assert (answer.status_code, answer.json()) == (404, bad_route('unexpected Content-Type: "text/plain"', route))


def test_json_keys_come_in_both_cases_and_unknown_ones_are_dropped(livekit: LiveKitServer) -> None:
    number = livekit.number()
    body = {"trunk": {"numbers": [number], "ringingTimeout": "30s", "auth_realm": "r", "nonsense": 1}, "other": 2}
    made = livekit.twirp("CreateSIPInboundTrunk", body, **{"Content-Type": "application/json; charset=utf-8"}).json()
    assert (made["ringing_timeout"], made["auth_realm"], made["krisp_enabled"]) == ("30s", "r", False)
    flat = livekit.twirp("CreateSIPInboundTrunk", {"name": "n", "numbers": [livekit.number()]})
    assert (flat.status_code, flat.json()) == (400, {"code": "invalid_argument", "msg": "missing trunk"})


def test_unset_messages_are_null_in_json_and_members_of_a_oneof_are_left_out(livekit: LiveKitServer) -> None:
    made = livekit.twirp("CreateSIPInboundTrunk", {"trunk": {"numbers": [livekit.number()], "media": {}}}).json()
    assert [made[name] for name in ("ringing_timeout", "max_call_duration", "created_at", "updated_at")] == [None] * 4
    assert made["media"]["codecs"] == []
    assert made["media"].keys().isdisjoint({"encryption", "media_timeout"})
    rule = {"rule": {"dispatch_rule_individual": {}}, "trunk_ids": [livekit.trunk_id()]}
    made = livekit.twirp("CreateSIPDispatchRule", {"dispatch_rule": rule}).json()
    listed = livekit.twirp("ListSIPDispatchRule", {"dispatch_rule_ids": [made["sip_dispatch_rule_id"]]})
    [kept] = listed.json()["items"]
    assert (kept["room_config"], kept["created_at"]) == (None, None)
    assert list(kept["rule"]) == ["dispatch_rule_individual"]


@pytest.mark.parametrize(
    "body",
    [
        "[]",
        '[{"trunk": {}}]',
        "null",
        '"trunk"',
        '{"sip_trunk_id": "ST_x", "sipTrunkId": "ST_x"}',
        '{"sipTrunkId": "ST_x", "replace": {"ringingTimeout": "1s", "ringing_timeout": "1s"}}',
        '{"sipTrunkId": "ST_x", "sipTrunkId": "ST_x"}',
        '{"sipTrunkId": "ST_x", "replace": []}',
    ],
)
def test_json_that_is_no_object_or_names_a_field_twice_is_malformed(livekit: LiveKitServer, body: str) -> None:
    livekit.requires("updates")
    answer = livekit.twirp("UpdateSIPInboundTrunk", body)
    assert answer.status_code == 400
    assert answer.json() == {"code": "malformed", "msg": "the json request could not be decoded"}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", "{"),
        ("application/json", ""),
        ("application/json", '{"a": NaN}'),
        ("application/protobuf", b"\xff\xff"),
    ],
)
def test_a_body_that_cannot_be_decoded_is_malformed(livekit: LiveKitServer, kind: str, body: bytes | str) -> None:
    answer = livekit.twirp("ListSIPInboundTrunk", body, **{"Content-Type": kind})
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed")


def reason_of(text: str) -> str:
    """Return why a token is refused; up to 1.13.5 LiveKit quotes the token before it."""
    return re.sub(r"^invalid (?:authorization token|token: \S+, error): ", "", text)


@pytest.mark.parametrize(
    ("authorization", "text"),
    [
        ("Basic abc", "invalid authorization header. Must start with Bearer "),
        ("Bearer ", "invalid authorization header. Must start with Bearer "),
        ("Bearer nonsense", "invalid authorization token"),
    ],
)
def test_what_is_no_token_is_refused_in_plain_text(livekit: LiveKitServer, authorization: str, text: str) -> None:
    answer = livekit.twirp("ListSIPInboundTrunk", {}, Authorization=authorization)
    assert (answer.status_code, answer.text) == (401, text)
    assert answer.headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"iss": "nobody"}, "invalid API key"),
        ({"secret": "x" * 40}, "token signature is invalid: signature is invalid"),
        ({"exp": 1}, "token has invalid claims: token is expired"),
        ({"nbf": 4_000_000_000}, "token has invalid claims: token is not valid yet"),
        *(({name: value}, "invalid authorization token$") for name, value in UNREADABLE.items()),
        *(
            (claims, f"token is malformed: could not JSON decode claim: .*{re.escape(name)}")
            for name, claims in (
                ("sip.admin", {"sip": {"admin": "true"}}),
                ("sip.admin", {"sip": {"admin": 1}}),
                ("sip.call", {"sip": {"admin": True, "call": "no"}}),
                ("sip", {"sip": "admin"}),
                ("video", {"video": []}),
            )
        ),
    ],
)
def test_an_invalid_token_is_refused_in_plain_text(livekit: LiveKitServer, claims: dict[str, Any], reason: str) -> None:
    answer = livekit.twirp("ListSIPInboundTrunk", {}, Authorization=livekit.token(**claims))
    assert answer.status_code == 401
    assert re.match(reason, reason_of(answer.text))
    assert answer.headers["Content-Type"].startswith("text/plain")


def test_a_caller_without_a_token_is_unauthenticated(livekit: LiveKitServer) -> None:
    for authorization in (None, ""):
        check_unauthenticated(livekit, authorization)


@pytest.mark.parametrize("claims", [{"sip": None}, {"sip": {"call": True}}, {"sip": {"admin": None}}])
def test_a_caller_without_the_admin_grant_is_unauthenticated(livekit: LiveKitServer, claims: dict[str, Any]) -> None:
    check_unauthenticated(livekit, livekit.token(**claims))


def check_unauthenticated(livekit: LiveKitServer, authorization: str | None) -> None:
    answer = livekit.twirp("ListSIPInboundTrunk", {}, Authorization=authorization)
    assert (answer.status_code, answer.json()) == (401, {"code": "unauthenticated", "msg": "permissions denied"})


@pytest.mark.parametrize("claims", [{"exp": None}, {"iat": int(time.time()) + 9999}, {"aud": ["a"]}])
def test_a_token_needs_no_expiry_and_may_be_of_the_future(livekit: LiveKitServer, claims: dict[str, Any]) -> None:
    assert livekit.twirp("ListSIPInboundTrunk", {}, Authorization=livekit.token(**claims)).status_code == 200


def test_a_token_may_come_in_the_query_where_there_is_no_header(livekit: LiveKitServer) -> None:
    path = f"/twirp/livekit.SIP/ListSIPInboundTrunk?access_token={livekit.token().removeprefix('Bearer ')}"
    statuses = [livekit.twirp(path, {}, Authorization=each).status_code for each in (None, "", "Basic x")]
    assert statuses == [200, 200, 401]


def test_clocks_may_differ_by_a_minute(livekit: LiveKitServer) -> None:
    answer = livekit.twirp("ListSIPInboundTrunk", {}, Authorization=livekit.token(exp=int(time.time()) - 30))
    assert answer.status_code == 200


def test_the_sdk_sees_a_wrong_secret_as_an_unknown_error(livekit: LiveKitServer) -> None:
    with refused(401, "unknown", ""):
        livekit.sip(lambda sip: sip.list_inbound_trunk(api.ListSIPInboundTrunkRequest()), api_secret="x" * 40)


def test_get_returns_one_trunk(livekit: LiveKitServer) -> None:
    livekit.requires("reading one trunk")
    made = livekit.add_trunk(livekit.number())
    answer = livekit.twirp("GetSIPInboundTrunk", {"sipTrunkId": made.sip_trunk_id})
    assert answer.json()["trunk"]["numbers"] == list(made.numbers)
    unknown = livekit.twirp("GetSIPInboundTrunk", {"sip_trunk_id": livekit.trunk_id()})
    assert (unknown.status_code, unknown.json()["msg"]) == (404, "requested sip trunk does not exist")
    assert livekit.twirp("GetSIPInboundTrunk", {}).json()["msg"] == "trunk ID is required"


def test_an_update_of_nothing_or_without_an_id_is_refused(livekit: LiveKitServer) -> None:
    livekit.requires("updates")
    assert livekit.twirp("UpdateSIPInboundTrunk", {}).json()["msg"] == "trunk id must be set"
    trunk_id = livekit.trunk_id()
    only_id = livekit.twirp("UpdateSIPInboundTrunk", {"sip_trunk_id": trunk_id})
    assert only_id.json()["msg"] == "missing or unsupported update action"
    unknown = livekit.twirp("UpdateSIPInboundTrunk", {"sip_trunk_id": trunk_id, "update": {"name": "n"}})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
    body = {"sip_dispatch_rule_id": "SDR_nobody", "update": {"name": "n"}}
    unknown = livekit.twirp("UpdateSIPDispatchRule", body)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
