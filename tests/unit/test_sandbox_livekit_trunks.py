"""LiveKit's inbound trunks in the sandbox, driven by the real SDK."""

import re
from typing import Any

import pytest
from livekit import api
from livekit.protocol.models import ListUpdate
from test_sandbox_livekit_wire import M, N, add_rule, add_trunk, refused, rule_ids, trunk_ids
from test_sandbox_process import Stage, emptied_stage


@pytest.fixture
def stage() -> Stage:
    return emptied_stage()


def test_a_trunk_is_kept_as_it_was_sent(stage: Stage) -> None:
    made = add_trunk(stage, N, name="n", metadata="{}", allowed_addresses=["54.172.60.0/30"], auth_password="p")
    assert re.fullmatch(r"ST_[2-9A-HJ-NP-Za-km-z]{12}", made.sip_trunk_id)
    [kept] = stage.livekit(lambda sip: sip.list_inbound_trunk(api.ListSIPInboundTrunkRequest())).items
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
        ({"numbers": [N], "headers": {"a b": "c"}}, "invalid header name: a b"),
    ],
)
def test_a_trunk_that_makes_no_sense_is_refused(stage: Stage, fields: dict[str, Any], message: str) -> None:
    request = api.CreateSIPInboundTrunkRequest(trunk=api.SIPInboundTrunkInfo(**fields))
    with refused(400, "invalid_argument", message):
        stage.livekit(lambda sip: sip.create_inbound_trunk(request))


def test_a_second_trunk_of_a_number_conflicts_in_any_spelling(stage: Stage) -> None:
    first = add_trunk(stage, N)
    message = (
        f'Conflicting inbound SIP Trunks: "<new>" and "{first.sip_trunk_id}", '
        f'using the same number(s) ["{M}" "+1 (514) 555-1234"] without AllowedNumbers set'
    )
    with refused(400, "invalid_argument", message):
        add_trunk(stage, M, "+1 (514) 555-1234", allowed_addresses=["10.0.0.0/8"])


def test_a_conflict_with_a_later_trunk_is_quoted_the_other_way_round(stage: Stage) -> None:
    wildcard = add_trunk(stage, allowed_addresses=["10.0.0.0/8"])
    offender = add_trunk(stage, N)
    while offender.sip_trunk_id < wildcard.sip_trunk_id:
        unlucky = api.DeleteSIPTrunkRequest(sip_trunk_id=offender.sip_trunk_id)
        stage.livekit(lambda sip, request=unlucky: sip.delete_trunk(request))
        offender = add_trunk(stage, N)
    with pytest.raises(api.ServerError, match=f'"{offender.sip_trunk_id}" and "<new>"'):
        add_trunk(stage, N)


def test_callers_tell_trunks_of_one_number_apart(stage: Stage) -> None:
    add_trunk(stage, N, allowed_numbers=["+13105550100"])
    add_trunk(stage, N, allowed_numbers=["+13105550101"])
    add_trunk(stage, N)
    with pytest.raises(api.ServerError, match=r'and AllowedNumber "\+13105550100"'):
        add_trunk(stage, N, allowed_numbers=["+13105550100"])


def test_there_is_one_wildcard_trunk_and_it_conflicts_with_no_number(stage: Stage) -> None:
    add_trunk(stage, N)
    add_trunk(stage, allowed_addresses=["10.0.0.0/8"])
    with pytest.raises(api.ServerError, match=r'\["<any>"\] without AllowedNumbers set'):
        add_trunk(stage, allowed_addresses=["11.0.0.0/8"])


def test_lists_are_sorted_and_let_wildcards_through(stage: Stage) -> None:
    ours, other = add_trunk(stage, N).sip_trunk_id, add_trunk(stage, M).sip_trunk_id
    wildcard = add_trunk(stage, allowed_addresses=["10.0.0.0/8"]).sip_trunk_id
    assert trunk_ids(stage) == sorted([ours, other, wildcard])
    assert trunk_ids(stage, numbers=["1 514 555 1234"]) == sorted([ours, wildcard])
    assert trunk_ids(stage, trunk_ids=[other, "ST_none", ours]) == sorted([ours, other])
    rule, catch_all = add_rule(stage, ours).sip_dispatch_rule_id, add_rule(stage).sip_dispatch_rule_id
    add_rule(stage, other)
    assert rule_ids(stage, trunk_ids=[ours]) == sorted([rule, catch_all])
    assert rule_ids(stage, dispatch_rule_ids=[rule]) == [rule]


def test_a_page_is_everything_after_its_cursor_and_loses_rows_under_a_filter(stage: Stage) -> None:
    ids = sorted(add_trunk(stage, f"+1514555000{n}").sip_trunk_id for n in range(4))
    page = api.ListSIPInboundTrunkRequest(page={"after_id": ids[0], "limit": 1})
    listed = stage.livekit(lambda sip: sip.list_inbound_trunk(page)).items
    assert [row.sip_trunk_id for row in listed] == ids[1:]
    page.trunk_ids.append(ids[3])
    assert list(stage.livekit(lambda sip: sip.list_inbound_trunk(page)).items) == []


def test_deleting_an_unknown_trunk_is_fine_unless_the_switch_says_otherwise(stage: Stage) -> None:
    request = api.DeleteSIPTrunkRequest(sip_trunk_id="ST_none")
    assert stage.livekit(lambda sip: sip.delete_trunk(request)).sip_trunk_id == "ST_none"
    stage.control("PUT", "switches", {"deleteUnknownTrunkStatus": 404})
    with refused(404, "not_found"):
        stage.livekit(lambda sip: sip.delete_trunk(request))


def test_deletion_asks_nobody_and_leaves_dangling_rules(stage: Stage) -> None:
    trunk = add_trunk(stage, N)
    rule = add_rule(stage, trunk.sip_trunk_id)
    stage.livekit(lambda sip: sip.delete_trunk(api.DeleteSIPTrunkRequest(sip_trunk_id=trunk.sip_trunk_id)))
    assert trunk_ids(stage) == []
    assert rule_ids(stage, trunk_ids=[trunk.sip_trunk_id]) == [rule.sip_dispatch_rule_id]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "unsupported list update operation"),
        ({"set": [N], "add": [M]}, "cannot set and change the list at the same time"),
        ({"clear": True, "add": [M]}, "cannot clear and change the list at the same time"),
        ({"add": [""]}, "empty element in the list"),
    ],
)
def test_a_contradictory_list_update_is_refused(stage: Stage, change: dict[str, Any], message: str) -> None:
    made = add_trunk(stage, N)
    body = {"sip_trunk_id": made.sip_trunk_id, "update": {"numbers": change}}
    answer = stage.twirp("UpdateSIPInboundTrunk", body)
    assert (answer.status_code, answer.json()["msg"]) == (400, message)


def test_an_update_to_all_new_numbers_slips_past_the_conflict_check(stage: Stage) -> None:
    ours, _owner = add_trunk(stage, N), add_trunk(stage, M)
    with pytest.raises(api.ServerError, match="Conflicting inbound SIP Trunks"):
        stage.livekit(lambda sip: sip.update_inbound_trunk_fields(ours.sip_trunk_id, numbers=ListUpdate(add=[M])))
    stage.livekit(lambda sip: sip.update_inbound_trunk_fields(ours.sip_trunk_id, numbers=ListUpdate(set=[M])))
    assert len(trunk_ids(stage, numbers=[M])) == 2
    with pytest.raises(api.ServerError, match="Conflicting inbound SIP Trunks"):
        add_trunk(stage, M, allowed_numbers=["+13105550100"])
