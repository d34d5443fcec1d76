"""LiveKit's trunks; true of the sandbox and of any LiveKit server.

A trunk without numbers has an allowed number that nobody has: otherwise it would stand in the way of others.
"""

import re
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from livekit import api
from livekit.protocol.models import ListUpdate

from tests.support.livekit_server import LiveKitServer, refused


def duration(seconds: int) -> Duration:
    return Duration(seconds=seconds)


def spelt(number: str) -> str:
    """Return another spelling of a number: LiveKit ignores the plus sign, spaces, dashes and parentheses."""
    return f"{number[1:4]} ({number[4:7]}) {number[7:10]}-{number[10:]}"


def test_a_trunk_is_kept_as_it_was_sent(livekit: LiveKitServer) -> None:
    number = livekit.number()
    made = livekit.add_trunk(number, name="n", metadata="{}", allowed_addresses=["54.172.60.0/30"], auth_password="p")
    assert re.fullmatch(r"ST_[2-9A-HJ-NP-Za-km-z]{12}", made.sip_trunk_id)
    kept = livekit.trunk(made.sip_trunk_id)
    assert kept == made
    assert (list(kept.numbers), kept.auth_password) == ([number], "p")
    assert not kept.HasField("created_at")


OUT_OF_RANGE = "out of range, consider explicilty adding utf8 characters"

HEADERS = [
    ("headers", {"a b": "c"}, "name: header name a b contains invalid characters: char 32 not allowed"),
    ("headers", {"X:Y": "c"}, "name: header name X:Y contains invalid characters: char 58 not allowed"),
    (
        "headers",
        {"Xé": "c"},
        f"name: header name Xé contains invalid characters: char 233 {OUT_OF_RANGE}",
    ),
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
]

MEDIA = [
    ({"media_timeout": duration(-1)}, "media_timeout must not be negative"),
    ({"media_timeout": duration(601)}, "media_timeout must not exceed 10m0s"),
    ({"codecs": [api.SIPCodec()]}, "missing codec name"),
    ({"codecs": [api.SIPCodec(name="PC MU")]}, "invalid codec name"),
    ({"codecs": [api.SIPCodec(name="PCMU/8000")]}, "codec name must not contain '/'"),
]


def check_trunk_refused(livekit: LiveKitServer, message: str, **fields: Any) -> None:
    with refused(400, "invalid_argument", message):
        livekit.add_trunk(*fields.pop("numbers", [livekit.number()]), **fields)


def test_a_trunk_that_anybody_could_call_is_refused(livekit: LiveKitServer) -> None:
    message = "for security, one of the fields must be set: AuthUsername+AuthPassword, AllowedAddresses or Numbers"
    check_trunk_refused(livekit, message, numbers=[])


def test_a_trunk_gets_its_id_from_livekit(livekit: LiveKitServer) -> None:
    check_trunk_refused(livekit, "trunk id must not be set", sip_trunk_id=livekit.trunk_id())


@pytest.mark.parametrize(("field", "headers", "message"), HEADERS)
def test_headers_that_cannot_be_sent_are_refused(
    livekit: LiveKitServer, field: str, headers: dict[str, str], message: str
) -> None:
    livekit.requires("checked headers")
    check_trunk_refused(livekit, f"invalid header {message}", **{field: headers})


@pytest.mark.parametrize(("media", "message"), MEDIA)
def test_media_settings_that_cannot_be_are_refused(livekit: LiveKitServer, media: Any, message: str) -> None:
    livekit.requires("checked media")
    check_trunk_refused(livekit, message, media=api.SIPMediaConfig(**media))


def test_headers_that_livekit_does_not_write_itself_are_accepted(livekit: LiveKitServer) -> None:
    headers = {"X-Name_1": "Zoë\t;", "To": "x", "X": ""}
    made = livekit.add_trunk(livekit.number(), headers=headers, headers_to_attributes={"Call-ID": "a"})
    assert made.headers["X-Name_1"] == "Zoë\t;"


def test_a_second_trunk_of_a_number_conflicts_in_any_spelling(livekit: LiveKitServer) -> None:
    number, other = livekit.number(), livekit.number()
    first = livekit.add_trunk(number)
    new = f'["{other}" "{spelt(number)}"]'
    # Which of the two LiveKit reads first depends on their ids.
    pairs = [(f'"<new>" and "{first.sip_trunk_id}"', new), (f'"{first.sip_trunk_id}" and "<new>"', f'["{number}"]')]
    with pytest.raises(api.ServerError) as caught:
        livekit.add_trunk(other, spelt(number), allowed_addresses=["10.0.0.0/8"])
    assert (caught.value.status, caught.value.code) == (400, "invalid_argument")
    assert caught.value.message in {
        f"Conflicting inbound SIP Trunks: {both}, using the same number(s) {numbers} without AllowedNumbers set"
        for both, numbers in pairs
    }


def test_trunks_of_one_number_with_different_callers_do_not_conflict(livekit: LiveKitServer) -> None:
    number, caller = livekit.number(), livekit.number()
    livekit.add_trunk(number, allowed_numbers=[caller])
    livekit.add_trunk(number, allowed_numbers=[livekit.number()])
    livekit.add_trunk(number)
    with pytest.raises(api.ServerError, match=rf'and AllowedNumber "{re.escape(caller)}"'):
        livekit.add_trunk(number, allowed_numbers=[caller])


def test_trunks_without_numbers_conflict_with_each_other_and_with_no_number(livekit: LiveKitServer) -> None:
    caller, addresses = livekit.number(), ["192.0.2.1/32"]
    livekit.add_trunk(livekit.number(), allowed_numbers=[caller])
    livekit.add_trunk(allowed_addresses=addresses, allowed_numbers=[caller])
    with pytest.raises(api.ServerError, match=rf'the same number\(s\) <any> and AllowedNumber "{re.escape(caller)}"'):
        livekit.add_trunk(allowed_addresses=["192.0.2.2/32"], allowed_numbers=[caller])


def test_lists_are_sorted_and_have_wildcards_too(livekit: LiveKitServer) -> None:
    number = livekit.number()
    ours, other = (livekit.add_trunk(one).sip_trunk_id for one in (number, livekit.number()))
    wildcard = livekit.add_trunk(allowed_addresses=["192.0.2.1/32"], allowed_numbers=[livekit.number()]).sip_trunk_id
    assert livekit.own_trunk_ids() == sorted([ours, other, wildcard])
    assert livekit.own_trunk_ids(numbers=[spelt(number)]) == sorted([ours, wildcard])
    assert livekit.own_trunk_ids(trunk_ids=[other, livekit.trunk_id(), ours]) == sorted([ours, other])
    rule = livekit.add_rule(ours).sip_dispatch_rule_id
    catch_all = livekit.add_rule(numbers=[livekit.number()]).sip_dispatch_rule_id
    livekit.add_rule(other)
    assert livekit.own_rule_ids(trunk_ids=[ours]) == sorted([rule, catch_all])
    assert livekit.own_rule_ids(dispatch_rule_ids=[rule]) == [rule]


def test_a_page_is_everything_after_its_cursor_and_loses_rows_under_a_filter(livekit: LiveKitServer) -> None:
    ids = sorted(livekit.add_trunk(livekit.number()).sip_trunk_id for _ in range(4))
    page = {"after_id": ids[0], "limit": 1}
    assert livekit.own_trunk_ids(page=page) == ids[1:]
    assert livekit.own_trunk_ids(page={"limit": -1}) == ids
    assert livekit.own_trunk_ids(page=page, trunk_ids=[ids[3]]) == []


def test_deleting_an_unknown_trunk_is_fine_or_not_found(livekit: LiveKitServer) -> None:
    unknown = livekit.trunk_id()
    answer = livekit.twirp("DeleteSIPTrunk", {"sip_trunk_id": unknown})
    if answer.ok:
        assert answer.json()["sip_trunk_id"] == unknown
    else:
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_deletion_checks_nothing_and_leaves_dangling_rules(livekit: LiveKitServer) -> None:
    trunk = livekit.add_trunk(livekit.number())
    rule = livekit.add_rule(trunk.sip_trunk_id)
    livekit.sip(lambda sip: sip.delete_trunk(api.DeleteSIPTrunkRequest(sip_trunk_id=trunk.sip_trunk_id)))
    assert livekit.own_trunk_ids() == []
    assert livekit.own_rule_ids(trunk_ids=[trunk.sip_trunk_id]) == [rule.sip_dispatch_rule_id]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "unsupported list update operation"),
        ({"set": ["+1"], "add": ["+2"]}, "cannot set and change the list at the same time"),
        ({"clear": True, "add": ["+2"]}, "cannot clear and change the list at the same time"),
        ({"clear": True, "set": ["+2"]}, "cannot clear and change the list at the same time"),
        ({"clear": True, "set": ["+2"], "remove": ["+1"]}, "cannot clear and change the list at the same time"),
        ({"add": [""]}, "empty element in the list"),
    ],
)
def test_a_contradictory_list_update_is_refused(livekit: LiveKitServer, change: dict[str, Any], message: str) -> None:
    livekit.requires("updates")
    made = livekit.add_trunk(livekit.number())
    for trunk_id in (made.sip_trunk_id, livekit.trunk_id()):
        body = {"sip_trunk_id": trunk_id, "update": {"numbers": change}}
        answer = livekit.twirp("UpdateSIPInboundTrunk", body)
        assert (answer.status_code, answer.json()["msg"]) == (400, message)


def test_an_update_to_all_new_numbers_is_not_checked_for_conflicts(livekit: LiveKitServer) -> None:
    livekit.requires("updates")
    number = livekit.number()
    ours, _owner = livekit.add_trunk(livekit.number()).sip_trunk_id, livekit.add_trunk(number)
    with pytest.raises(api.ServerError, match="Conflicting inbound SIP Trunks"):
        livekit.sip(lambda sip: sip.update_inbound_trunk_fields(ours, numbers=ListUpdate(add=[number])))
    livekit.sip(lambda sip: sip.update_inbound_trunk_fields(ours, numbers=ListUpdate(set=[number])))
    assert len(livekit.own_trunk_ids(numbers=[number])) == 2
    with pytest.raises(api.ServerError, match="Conflicting inbound SIP Trunks"):
        livekit.add_trunk(number, allowed_numbers=[livekit.number()])


def test_a_partial_update_that_opens_a_trunk_to_everybody_is_refused(livekit: LiveKitServer) -> None:
    livekit.requires("updates")
    made = livekit.add_trunk(livekit.number())
    body = {"sip_trunk_id": made.sip_trunk_id, "update": {"numbers": {"clear": True}}}
    answer = livekit.twirp("UpdateSIPInboundTrunk", body)
    assert answer.status_code == 400
    assert answer.json()["msg"].startswith("twirp error unknown: for security, one of the fields must be set: ")
    assert list(livekit.trunk(made.sip_trunk_id).numbers) == list(made.numbers)


def test_a_list_update_removes_the_first_of_two(livekit: LiveKitServer) -> None:
    livekit.requires("updates")
    twice, once = livekit.number(), livekit.number()
    made = livekit.add_trunk(twice, twice, once)
    change = ListUpdate(remove=[twice], add=[once])
    patched = livekit.sip(lambda sip: sip.update_inbound_trunk_fields(made.sip_trunk_id, numbers=change))
    assert list(patched.numbers) == [twice, once]


def test_a_partial_update_sets_media_and_keeps_both_encryption_fields_equal(livekit: LiveKitServer) -> None:
    livekit.requires("checked media")
    number = livekit.number()
    made = livekit.add_trunk(number)
    assert not made.HasField("media")

    def patch(**fields: Any) -> dict[str, Any]:
        body = {"sip_trunk_id": made.sip_trunk_id, "update": fields}
        answer = livekit.twirp("UpdateSIPInboundTrunk", body).json()
        return {"media": answer["media"].get("encryption"), "old": answer["media_encryption"]}

    assert patch(name="n") == {"media": None, "old": "SIP_MEDIA_ENCRYPT_DISABLE"}
    require, allow = "SIP_MEDIA_ENCRYPT_REQUIRE", "SIP_MEDIA_ENCRYPT_ALLOW"
    assert patch(media_encryption=require) == {"media": require, "old": require}
    assert patch(media={"encryption": allow}) == {"media": allow, "old": allow}
    wanted = api.SIPInboundTrunkInfo(numbers=[number], media_encryption=require)
    replaced = livekit.sip(lambda sip: sip.update_inbound_trunk(made.sip_trunk_id, wanted))
    assert not replaced.HasField("media")


OUTBOUND = {"numbers": ["+99900"], "address": "sip.example.com", "name": "out", "auth_username": "u"}


def test_an_outbound_trunk_can_be_made_listed_read_changed_and_deleted(livekit: LiveKitServer) -> None:
    livekit.requires("outbound trunks")
    number, second = livekit.number(), livekit.number()
    info = api.SIPOutboundTrunkInfo(**{**OUTBOUND, "numbers": [number]})
    made = livekit.sip(lambda sip: sip.create_outbound_trunk(api.CreateSIPOutboundTrunkRequest(trunk=info)))
    own = {"sip_trunk_id": made.sip_trunk_id}
    duplicate = livekit.twirp("CreateSIPOutboundTrunk", {"trunk": {**OUTBOUND, "numbers": [number]}}).json()[
        "sip_trunk_id"
    ]
    inbound = livekit.add_trunk(number, name="in").sip_trunk_id
    assert livekit.twirp("GetSIPOutboundTrunk", own).json()["trunk"]["address"] == "sip.example.com"
    change = {"update": {"numbers": {"add": [second]}, "transport": 2}}
    patched = livekit.twirp("UpdateSIPOutboundTrunk", own | change).json()
    seen = (patched["numbers"], patched["transport"], patched["name"])
    assert seen == ([number, second], "SIP_TRANSPORT_TCP", "out")

    def listed(method: str, **filters: Any) -> list[str]:
        ids = [row["sip_trunk_id"] for row in livekit.twirp(method, filters).json()["items"]]
        return [one for one in ids if one in livekit.made]

    assert listed("ListSIPOutboundTrunk") == sorted([made.sip_trunk_id, duplicate])
    assert listed("ListSIPOutboundTrunk", numbers=[second]) == [made.sip_trunk_id]
    assert listed("ListSIPOutboundTrunk", trunk_ids=[duplicate, inbound]) == [duplicate]
    assert listed("ListSIPTrunk") == sorted([made.sip_trunk_id, duplicate, inbound])
    assert livekit.own_trunk_ids() == [inbound]
    old = {row["sip_trunk_id"]: row for row in livekit.twirp("ListSIPTrunk", {}).json()["items"]}
    row = old[duplicate]
    assert (row["kind"], row["outbound_username"], row["outbound_number"]) == ("TRUNK_OUTBOUND", "u", number)
    row = old[inbound]
    assert (row["kind"], row["outbound_number"], row["name"]) == ("TRUNK_INBOUND", number, "in")
    emptied = livekit.twirp("UpdateSIPOutboundTrunk", own | {"update": {"numbers": {"clear": True}}})
    assert (emptied.status_code, emptied.json()) == (500, {"code": "unknown", "msg": "no trunk numbers specified"})
    replaced = livekit.twirp("UpdateSIPOutboundTrunk", own | {"replace": {"numbers": [second], "address": "h"}}).json()
    assert (replaced["numbers"], replaced["name"]) == ([second], "")
    assert livekit.twirp("DeleteSIPTrunk", own).status_code == 200
    gone = {"code": "not_found", "msg": "requested sip trunk does not exist"}
    for method, body in (("GetSIPOutboundTrunk", own), ("UpdateSIPOutboundTrunk", own | {"update": {"name": "n"}})):
        assert livekit.twirp(method, body).json() == gone
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
def test_an_invalid_outbound_trunk_is_refused(livekit: LiveKitServer, fields: dict[str, Any], message: str) -> None:
    for capability in ("outbound trunks", "checked headers", "checked media"):
        livekit.requires(capability)
    answer = livekit.twirp("CreateSIPOutboundTrunk", {"trunk": OUTBOUND | fields})
    assert (answer.status_code, answer.json()) == (400, {"code": "invalid_argument", "msg": message})
