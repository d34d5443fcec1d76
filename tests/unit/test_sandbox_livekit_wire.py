"""The wire format of LiveKit's side of the sandbox: routes, encodings and tokens."""

import time
from contextlib import AbstractContextManager
from typing import Any

import jwt
import pytest
from livekit import api
from test_sandbox_process import RunningSandbox, emptied_sandbox

from app.dev.sandbox import LIVEKIT_API_KEY, LIVEKIT_API_SECRET

N, M = "+15145551234", "+15145559999"
INDIVIDUAL = api.SIPDispatchRule(dispatch_rule_individual=api.SIPDispatchRuleIndividual(room_prefix="call"))


@pytest.fixture
def sandbox() -> RunningSandbox:
    return emptied_sandbox()


def refused(status: int, code: int | str, message: str | None = None) -> AbstractContextManager[Any]:
    def fits(error: Any) -> bool:
        return (error.status, error.code) == (status, code) and message in (None, error.message)

    return pytest.raises(api.ServerError, check=fits)


def add_trunk(sandbox: RunningSandbox, *numbers: str, **fields: Any) -> api.SIPInboundTrunkInfo:
    info = api.SIPInboundTrunkInfo(numbers=numbers, **fields)
    return sandbox.livekit(lambda sip: sip.create_inbound_trunk(api.CreateSIPInboundTrunkRequest(trunk=info)))


def add_rule(
    sandbox: RunningSandbox, *trunk_ids: str, rule: api.SIPDispatchRule = INDIVIDUAL, **fields: Any
) -> api.SIPDispatchRuleInfo:
    info = api.SIPDispatchRuleInfo(rule=rule, trunk_ids=trunk_ids, **fields)
    request = api.CreateSIPDispatchRuleRequest(dispatch_rule=info)
    return sandbox.livekit(lambda sip: sip.create_dispatch_rule(request))


def trunk_ids(sandbox: RunningSandbox, **filters: Any) -> list[str]:
    request = api.ListSIPInboundTrunkRequest(**filters)
    return [row.sip_trunk_id for row in sandbox.livekit(lambda sip: sip.list_inbound_trunk(request)).items]


def rule_ids(sandbox: RunningSandbox, **filters: Any) -> list[str]:
    request = api.ListSIPDispatchRuleRequest(**filters)
    return [row.sip_dispatch_rule_id for row in sandbox.livekit(lambda sip: sip.list_dispatch_rule(request)).items]


def token(secret: str = LIVEKIT_API_SECRET, **claims: Any) -> str:
    whole = {"iss": LIVEKIT_API_KEY, "exp": int(time.time()) + 3600, "sip": {"admin": True}, **claims}
    return "Bearer " + jwt.encode({k: v for k, v in whole.items() if v is not None}, secret, "HS256")


def bad_route(message: str, route: str) -> dict[str, Any]:
    return {"code": "bad_route", "msg": message, "meta": {"twirp_invalid_route": route}}


@pytest.mark.parametrize("path", ["/twirp/livekit.SIP/NoSuchMethod", "/twirp/livekit.Nothing/ListSIPInboundTrunk"])
def test_an_unknown_method_is_a_bad_route(sandbox: RunningSandbox, path: str) -> None:
    answer = sandbox.twirp(path, {})
    assert answer.status_code == 404
    assert answer.json() == bad_route(f'no handler for path "{path}"', f"POST {path}")


@pytest.mark.parametrize("verb", ["GET", "PUT", "DELETE"])
def test_another_verb_is_a_bad_route_whatever_the_method(sandbox: RunningSandbox, verb: str) -> None:
    path = "/twirp/livekit.SIP/ListSIPInboundTrunk"
    answer = sandbox.http.request(verb, sandbox.url + path)
    assert answer.status_code == 404
    assert answer.json() == bad_route(f'unsupported method "{verb}" (only POST is allowed)', f"{verb} {path}")


def test_another_content_type_is_a_bad_route(sandbox: RunningSandbox) -> None:
    answer = sandbox.twirp("ListSIPInboundTrunk", {}, **{"Content-Type": "text/plain"})
    route = "POST /twirp/livekit.SIP/ListSIPInboundTrunk"
    assert (answer.status_code, answer.json()) == (404, bad_route('unexpected Content-Type: "text/plain"', route))


def test_json_keys_come_in_both_cases_and_unknown_ones_are_dropped(sandbox: RunningSandbox) -> None:
    body = {"trunk": {"numbers": [N], "ringingTimeout": "30s", "auth_realm": "r", "nonsense": 1}, "other": 2}
    made = sandbox.twirp("CreateSIPInboundTrunk", body, **{"Content-Type": "application/json; charset=utf-8"}).json()
    assert (made["ringing_timeout"], made["auth_realm"], made["krisp_enabled"]) == ("30s", "r", False)
    flat = sandbox.twirp("CreateSIPInboundTrunk", {"name": "n", "numbers": [M]})
    assert (flat.status_code, flat.json()) == (400, {"code": "invalid_argument", "msg": "missing trunk"})


def test_unset_messages_are_null_in_json_and_members_of_a_oneof_are_left_out(sandbox: RunningSandbox) -> None:
    made = sandbox.twirp("CreateSIPInboundTrunk", {"trunk": {"numbers": [N], "media": {}}}).json()
    assert [made[name] for name in ("ringing_timeout", "max_call_duration", "created_at", "updated_at")] == [None] * 4
    assert made["media"] == {"only_listed_codecs": False, "codecs": []}
    rule = {"rule": {"dispatch_rule_individual": {}}, "trunk_ids": ["ST_x"]}
    sandbox.twirp("CreateSIPDispatchRule", {"dispatch_rule": rule})
    [kept] = sandbox.twirp("ListSIPDispatchRule", {}).json()["items"]
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
def test_json_that_is_no_object_or_names_a_field_twice_is_malformed(sandbox: RunningSandbox, body: str) -> None:
    answer = sandbox.twirp("UpdateSIPInboundTrunk", body)
    assert answer.status_code == 400
    assert answer.json() == {"code": "malformed", "msg": "the json request could not be decoded"}


@pytest.mark.parametrize(
    ("kind", "body"),
    [("application/json", "{"), ("application/json", ""), ("application/protobuf", b"\xff\xff")],
)
def test_a_body_that_cannot_be_decoded_is_malformed(sandbox: RunningSandbox, kind: str, body: bytes | str) -> None:
    answer = sandbox.twirp("ListSIPInboundTrunk", body, **{"Content-Type": kind})
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed")


@pytest.mark.parametrize(
    ("authorization", "text"),
    [
        ("Basic abc", "invalid authorization header. Must start with Bearer "),
        ("Bearer nonsense", "invalid authorization token"),
        (token(iss="other"), "invalid API key"),
        (token(secret="x" * 40), "invalid authorization token: token signature is invalid: signature is invalid"),
        (token(exp=1), "invalid authorization token: token has invalid claims: token is expired"),
        (token(exp="soon"), "invalid authorization token"),
        *(
            (token(**claims), f"invalid authorization token: token is malformed: could not JSON decode claim: {name}")
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
def test_an_invalid_token_is_refused_in_plain_text(
    sandbox: RunningSandbox, authorization: str | None, text: str
) -> None:
    answer = sandbox.twirp("ListSIPInboundTrunk", {}, Authorization=authorization)
    assert (answer.status_code, answer.text) == (401, text)
    assert answer.headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize(
    "authorization", [None, "", token(sip=None), token(sip={"call": True}), token(sip={"admin": None})]
)
def test_a_caller_without_the_admin_grant_is_unauthenticated(
    sandbox: RunningSandbox, authorization: str | None
) -> None:
    answer = sandbox.twirp("ListSIPInboundTrunk", {}, Authorization=authorization)
    assert (answer.status_code, answer.json()) == (401, {"code": "unauthenticated", "msg": "permissions denied"})


@pytest.mark.parametrize("claims", [{"exp": None}, {"iat": int(time.time()) + 9999}, {"sub": 7}])
def test_a_token_needs_no_expiry_and_may_be_of_the_future(sandbox: RunningSandbox, claims: dict[str, Any]) -> None:
    assert sandbox.twirp("ListSIPInboundTrunk", {}, Authorization=token(**claims)).status_code == 200


def test_a_token_may_come_in_the_query_where_there_is_no_header(sandbox: RunningSandbox) -> None:
    path = f"/twirp/livekit.SIP/ListSIPInboundTrunk?access_token={token().removeprefix('Bearer ')}"
    assert [sandbox.twirp(path, {}, Authorization=each).status_code for each in (None, "", "Basic x")] == [
        200,
        200,
        401,
    ]


def test_clocks_may_differ_by_a_minute(sandbox: RunningSandbox) -> None:
    answer = sandbox.twirp("ListSIPInboundTrunk", {}, Authorization=token(exp=int(time.time()) - 30))
    assert answer.status_code == 200


def test_the_sdk_sees_a_wrong_secret_as_an_unknown_error(sandbox: RunningSandbox) -> None:
    with refused(401, "unknown", ""):
        sandbox.livekit(lambda sip: sip.list_inbound_trunk(api.ListSIPInboundTrunkRequest()), api_secret="x" * 40)


def test_get_returns_one_trunk(sandbox: RunningSandbox) -> None:
    made = add_trunk(sandbox, N)
    answer = sandbox.twirp("GetSIPInboundTrunk", {"sipTrunkId": made.sip_trunk_id})
    assert answer.json()["trunk"]["numbers"] == [N]
    unknown = sandbox.twirp("GetSIPInboundTrunk", {"sip_trunk_id": "ST_none"})
    assert (unknown.status_code, unknown.json()["msg"]) == (404, "requested sip trunk does not exist")
    assert sandbox.twirp("GetSIPInboundTrunk", {}).json()["msg"] == "trunk ID is required"


def test_an_update_of_nothing_or_without_an_id_is_refused(sandbox: RunningSandbox) -> None:
    assert sandbox.twirp("UpdateSIPInboundTrunk", {}).json()["msg"] == "trunk id must be set"
    only_id = sandbox.twirp("UpdateSIPInboundTrunk", {"sip_trunk_id": "ST_x"})
    assert only_id.json()["msg"] == "missing or unsupported update action"
    unknown = sandbox.twirp("UpdateSIPInboundTrunk", {"sip_trunk_id": "ST_x", "update": {"name": "n"}})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
    unknown = sandbox.twirp("UpdateSIPDispatchRule", {"sip_dispatch_rule_id": "SDR_x", "update": {"name": "n"}})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")


def test_a_server_without_redis_answers_500(sandbox: RunningSandbox) -> None:
    sandbox.control("PUT", "switches", {"livekitRedis": False})
    with refused(500, "internal", "twirp error unknown: sip not connected (redis required)"):
        trunk_ids(sandbox)
