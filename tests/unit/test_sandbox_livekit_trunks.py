"""LiveKit's inbound trunks in the sandbox, driven by the real SDK."""

import re
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from livekit import api
from livekit.protocol.models import ListUpdate
from test_sandbox_livekit_wire import M, N, add_rule, add_trunk, refused, rule_ids, trunk_ids
from test_sandbox_process import RunningSandbox, emptied_sandbox


@pytest.fixture
def sandbox() -> RunningSandbox:
    return emptied_sandbox()


def duration(seconds: int) -> Duration:
    return Duration(seconds=seconds)


def test_a_trunk_is_kept_as_it_was_sent(sandbox: RunningSandbox) -> None:
    made = add_trunk(sandbox, N, name="n", metadata="{}", allowed_addresses=["54.172.60.0/30"], auth_password="p")
    assert re.fullmatch(r"ST_[2-9A-HJ-NP-Za-km-z]{12}", made.sip_trunk_id)
    [kept] = sandbox.livekit(lambda sip: sip.list_inbound_trunk(api.ListSIPInboundTrunkRequest())).items
    assert kept == made
    assert kept.auth_password == "p"
    assert not kept.HasField("created_at")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {},
            "for security, one of the fields must be set: AuthUsername+AuthPassword, AllowedAddresses or Numbers",
        ),
        ({"numbers": [N], "sip_trunk_id": "ST_x"}, "trunk id must not be set"),
        *(
            ({"numbers": [N], field: headers}, f"invalid header {message}")
            for field, headers, message in (
                ("headers", {"a b": "c"}, "name: header name a b contains invalid characters: char 32 not allowed"),
                ("headers", {"X:Y": "c"}, "name: header name X:Y contains invalid characters: char 58 not allowed"),
                ("headers", {"Xé": "c"}, "name: header name Xé contains invalid characters: char 233 out of range"),
                ("headers", {"": "c"}, "name: header name cannot be empty"),
                ("headers", {"x" * 256: "c"}, "name: header name too long (max 255 characters)"),
                ("headers", {"Call-ID": "c"}, "name: header name Call-ID not supported"),
                ("headers", {"m": "c"}, "name: header name m not supported"),
                ("headers", {"X": "a\r\nY: b"}, "value for X: header X: value: char 13 not allowed"),
                ("headers", {"X": "a\n"}, "value for X: header X: value: char 10 not allowed"),
                ("headers", {"X": "x" * 1025}, "value for X: header X: value too long (max 1024 characters)"),
                (
                    "headers_to_attributes",
                    {"a b": "c"},
                    "name: header name a b contains invalid characters: char 32 not allowed",
                ),
                (
                    "attributes_to_headers",
                    {"a": "b\n"},
                    "name: header name b\n contains invalid characters: char 10 not allowed",
                ),
            )
        ),
        *(
            ({"numbers": [N], "media": api.SIPMediaConfig(**media)}, message)
            for media, message in (
                ({"media_timeout": duration(-1)}, "media_timeout must not be negative"),
                ({"media_timeout": duration(601)}, "media_timeout must not exceed 10m0s"),
                ({"codecs": [api.SIPCodec()]}, "missing codec name"),
                ({"codecs": [api.SIPCodec(name="PC MU")]}, "invalid codec name"),
                ({"codecs": [api.SIPCodec(name="PCMU/8000")]}, "codec name must not contain '/'"),
            )
        ),
    ],
)
def test_an_invalid_trunk_is_refused(sandbox: RunningSandbox, fields: dict[str, Any], message: str) -> None:
    request = api.CreateSIPInboundTrunkRequest(trunk=api.SIPInboundTrunkInfo(**fields))
    with refused(400, "invalid_argument", message):
        sandbox.livekit(lambda sip: sip.create_inbound_trunk(request))


def test_headers_that_livekit_does_not_write_itself_are_accepted(sandbox: RunningSandbox) -> None:
    made = add_trunk(
        sandbox, N, headers={"X-Name_1": "Zoë\t;", "To": "x", "X": ""}, headers_to_attributes={"Call-ID": "a"}
    )
    assert made.headers["X-Name_1"] == "Zoë\t;"


def test_a_second_trunk_of_a_number_conflicts_in_any_spelling(sandbox: RunningSandbox) -> None:
    first = add_trunk(sandbox, N)
    message = (
        f'Conflicting inbound SIP Trunks: "<new>" and "{first.sip_trunk_id}", '
        f'using the same number(s) ["{M}" "+1 (514) 555-1234"] without AllowedNumbers set'
    )
    with refused(400, "invalid_argument", message):
        add_trunk(sandbox, M, "+1 (514) 555-1234", allowed_addresses=["10.0.0.0/8"])


def test_a_conflict_with_a_later_trunk_is_quoted_the_other_way_round(sandbox: RunningSandbox) -> None:
    wildcard = add_trunk(sandbox, allowed_addresses=["10.0.0.0/8"])
    offender = add_trunk(sandbox, N)
    while offender.sip_trunk_id < wildcard.sip_trunk_id:
        unlucky = api.DeleteSIPTrunkRequest(sip_trunk_id=offender.sip_trunk_id)
        sandbox.livekit(lambda sip, request=unlucky: sip.delete_trunk(request))
        offender = add_trunk(sandbox, N)
    with pytest.raises(api.ServerError, match=f'"{offender.sip_trunk_id}" and "<new>"'):
        add_trunk(sandbox, N)


def test_trunks_of_one_number_with_different_callers_do_not_conflict(sandbox: RunningSandbox) -> None:
    add_trunk(sandbox, N, allowed_numbers=["+13105550100"])
    add_trunk(sandbox, N, allowed_numbers=["+13105550101"])
    add_trunk(sandbox, N)
    with pytest.raises(api.ServerError, match=r'and AllowedNumber "\+13105550100"'):
        add_trunk(sandbox, N, allowed_numbers=["+13105550100"])


def test_there_is_one_wildcard_trunk_and_it_conflicts_with_no_number(sandbox: RunningSandbox) -> None:
    add_trunk(sandbox, N)
    add_trunk(sandbox, allowed_addresses=["10.0.0.0/8"])
    with pytest.raises(api.ServerError, match=r'\["<any>"\] without AllowedNumbers set'):
        add_trunk(sandbox, allowed_addresses=["11.0.0.0/8"])


def test_lists_are_sorted_and_have_wildcards_too(sandbox: RunningSandbox) -> None:
    ours, other = add_trunk(sandbox, N).sip_trunk_id, add_trunk(sandbox, M).sip_trunk_id
    wildcard = add_trunk(sandbox, allowed_addresses=["10.0.0.0/8"]).sip_trunk_id
    assert trunk_ids(sandbox) == sorted([ours, other, wildcard])
    assert trunk_ids(sandbox, numbers=["1 514 555 1234"]) == sorted([ours, wildcard])
    assert trunk_ids(sandbox, trunk_ids=[other, "ST_none", ours]) == sorted([ours, other])
    rule, catch_all = (
        add_rule(sandbox, ours).sip_dispatch_rule_id,
        add_rule(sandbox).sip_dispatch_rule_id,
    )
    add_rule(sandbox, other)
    assert rule_ids(sandbox, trunk_ids=[ours]) == sorted([rule, catch_all])
    assert rule_ids(sandbox, dispatch_rule_ids=[rule]) == [rule]


def test_a_page_is_everything_after_its_cursor_and_loses_rows_under_a_filter(sandbox: RunningSandbox) -> None:
    ids = sorted(add_trunk(sandbox, f"+1514555000{n}").sip_trunk_id for n in range(4))
    page = api.ListSIPInboundTrunkRequest(page={"after_id": ids[0], "limit": 1})
    listed = sandbox.livekit(lambda sip: sip.list_inbound_trunk(page)).items
    assert [row.sip_trunk_id for row in listed] == ids[1:]
    page.trunk_ids.append(ids[3])
    assert list(sandbox.livekit(lambda sip: sip.list_inbound_trunk(page)).items) == []


def test_deleting_an_unknown_trunk_is_fine_unless_the_switch_says_otherwise(sandbox: RunningSandbox) -> None:
    request = api.DeleteSIPTrunkRequest(sip_trunk_id="ST_none")
    assert sandbox.livekit(lambda sip: sip.delete_trunk(request)).sip_trunk_id == "ST_none"
    sandbox.control("PUT", "switches", {"deleteUnknownTrunkStatus": 404})
    with refused(404, "not_found"):
        sandbox.livekit(lambda sip: sip.delete_trunk(request))


def test_deletion_checks_nothing_and_leaves_dangling_rules(sandbox: RunningSandbox) -> None:
    trunk = add_trunk(sandbox, N)
    rule = add_rule(sandbox, trunk.sip_trunk_id)
    sandbox.livekit(lambda sip: sip.delete_trunk(api.DeleteSIPTrunkRequest(sip_trunk_id=trunk.sip_trunk_id)))
    assert trunk_ids(sandbox) == []
    assert rule_ids(sandbox, trunk_ids=[trunk.sip_trunk_id]) == [rule.sip_dispatch_rule_id]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "unsupported list update operation"),
        ({"set": [N], "add": [M]}, "cannot set and change the list at the same time"),
        ({"clear": True, "add": [M]}, "cannot clear and change the list at the same time"),
        ({"clear": True, "set": [M]}, "cannot clear and change the list at the same time"),
        ({"clear": True, "set": [M], "remove": [N]}, "cannot clear and change the list at the same time"),
        ({"add": [""]}, "empty element in the list"),
    ],
)
def test_a_contradictory_list_update_is_refused(sandbox: RunningSandbox, change: dict[str, Any], message: str) -> None:
    made = add_trunk(sandbox, N)
    body = {"sip_trunk_id": made.sip_trunk_id, "update": {"numbers": change}}
    for each in (body, body | {"sip_trunk_id": "ST_unknown"}):
        answer = sandbox.twirp("UpdateSIPInboundTrunk", each)
        assert (answer.status_code, answer.json()["msg"]) == (400, message)


def test_an_update_to_all_new_numbers_is_not_checked_for_conflicts(sandbox: RunningSandbox) -> None:
    ours, _owner = add_trunk(sandbox, N), add_trunk(sandbox, M)
    with pytest.raises(api.ServerError, match="Conflicting inbound SIP Trunks"):
        sandbox.livekit(lambda sip: sip.update_inbound_trunk_fields(ours.sip_trunk_id, numbers=ListUpdate(add=[M])))
    sandbox.livekit(lambda sip: sip.update_inbound_trunk_fields(ours.sip_trunk_id, numbers=ListUpdate(set=[M])))
    assert len(trunk_ids(sandbox, numbers=[M])) == 2
    with pytest.raises(api.ServerError, match="Conflicting inbound SIP Trunks"):
        add_trunk(sandbox, M, allowed_numbers=["+13105550100"])


def test_a_list_update_removes_the_first_of_two(sandbox: RunningSandbox) -> None:
    made = add_trunk(sandbox, N, N, M)
    change = ListUpdate(remove=[N], add=[M])
    patched = sandbox.livekit(lambda sip: sip.update_inbound_trunk_fields(made.sip_trunk_id, numbers=change))
    assert list(patched.numbers) == [N, M]


def test_a_partial_update_sets_media_and_keeps_both_encryption_fields_equal(sandbox: RunningSandbox) -> None:
    made = add_trunk(sandbox, N)
    assert not made.HasField("media")

    def patch(**fields: Any) -> dict[str, Any]:
        body = {"sip_trunk_id": made.sip_trunk_id, "update": fields}
        answer = sandbox.twirp("UpdateSIPInboundTrunk", body).json()
        return {"media": answer["media"].get("encryption"), "old": answer["media_encryption"]}

    assert patch(name="n") == {"media": None, "old": "SIP_MEDIA_ENCRYPT_DISABLE"}
    require, allow = "SIP_MEDIA_ENCRYPT_REQUIRE", "SIP_MEDIA_ENCRYPT_ALLOW"
    assert patch(media_encryption=require) == {"media": require, "old": require}
    assert patch(media={"encryption": allow}) == {"media": allow, "old": allow}
    wanted = api.SIPInboundTrunkInfo(numbers=[N], media_encryption=require)
    replaced = sandbox.livekit(lambda sip: sip.update_inbound_trunk(made.sip_trunk_id, wanted))
    assert not replaced.HasField("media")


OUTBOUND = {"numbers": [N], "address": "sip.example.com", "name": "out", "auth_username": "u"}


def test_an_outbound_trunk_can_be_made_listed_read_changed_and_deleted(sandbox: RunningSandbox) -> None:
    made = sandbox.livekit(
        lambda sip: sip.create_outbound_trunk(
            api.CreateSIPOutboundTrunkRequest(trunk=api.SIPOutboundTrunkInfo(**OUTBOUND))
        )
    )
    own = {"sip_trunk_id": made.sip_trunk_id}
    duplicate = sandbox.twirp("CreateSIPOutboundTrunk", {"trunk": OUTBOUND}).json()["sip_trunk_id"]
    inbound = add_trunk(sandbox, N, name="in").sip_trunk_id
    assert sandbox.twirp("GetSIPOutboundTrunk", own).json()["trunk"]["address"] == "sip.example.com"
    patched = sandbox.twirp(
        "UpdateSIPOutboundTrunk", own | {"update": {"numbers": {"add": [M]}, "transport": 2}}
    ).json()
    assert (patched["numbers"], patched["transport"], patched["name"]) == ([N, M], "SIP_TRANSPORT_TCP", "out")

    def listed(method: str, **filters: Any) -> list[str]:
        return [row["sip_trunk_id"] for row in sandbox.twirp(method, filters).json()["items"]]

    assert listed("ListSIPOutboundTrunk") == sorted([made.sip_trunk_id, duplicate])
    assert listed("ListSIPOutboundTrunk", numbers=[M]) == [made.sip_trunk_id]
    assert listed("ListSIPOutboundTrunk", trunk_ids=[duplicate, inbound]) == [duplicate]
    assert listed("ListSIPTrunk") == sorted([made.sip_trunk_id, duplicate, inbound])
    assert trunk_ids(sandbox) == [inbound]
    old = {row["sip_trunk_id"]: row for row in sandbox.twirp("ListSIPTrunk", {}).json()["items"]}
    assert (old[duplicate]["kind"], old[duplicate]["outbound_username"], old[duplicate]["outbound_number"]) == (
        "TRUNK_OUTBOUND",
        "u",
        N,
    )
    assert (old[inbound]["kind"], old[inbound]["outbound_number"], old[inbound]["name"]) == ("TRUNK_INBOUND", N, "in")
    replaced = sandbox.twirp("UpdateSIPOutboundTrunk", own | {"replace": {"numbers": [M], "address": "h"}}).json()
    assert (replaced["numbers"], replaced["name"]) == ([M], "")
    assert sandbox.twirp("DeleteSIPTrunk", own).status_code == 200
    for method, body in (("GetSIPOutboundTrunk", own), ("UpdateSIPOutboundTrunk", own | {"update": {"name": "n"}})):
        assert sandbox.twirp(method, body).json() == {
            "code": "not_found",
            "msg": "requested sip trunk does not exist",
        }
    assert listed("ListSIPOutboundTrunk") == [duplicate]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"numbers": []}, "no trunk numbers specified"),
        ({"address": ""}, "no outbound address specified"),
        ({"address": "h;transport=tcp"}, "trunk address should not contain transport parameter"),
        ({"address": "sip:h"}, "trunk address should be a hostname or IP, not SIP URI"),
        ({"from_host": "a@h"}, "from_host should be a hostname or IP, not SIP URI"),
        ({"headers": {"CSeq": "1"}}, "invalid header name: header name CSeq not supported"),
        ({"media": {"media_timeout": "-1s"}}, "media_timeout must not be negative"),
        ({"sip_trunk_id": "ST_x"}, "trunk id must not be set"),
    ],
)
def test_an_invalid_outbound_trunk_is_refused(sandbox: RunningSandbox, fields: dict[str, Any], message: str) -> None:
    answer = sandbox.twirp("CreateSIPOutboundTrunk", {"trunk": OUTBOUND | fields})
    assert (answer.status_code, answer.json()) == (400, {"code": "invalid_argument", "msg": message})
