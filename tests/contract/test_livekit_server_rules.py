"""LiveKit's dispatch rules, and updates of both kinds; true of the sandbox and of any LiveKit server.

A rule without a trunk has a number that nobody has: otherwise it would take the calls of others.
"""

import re
from contextlib import AbstractContextManager
from typing import Any

import pytest
from livekit import api
from livekit.protocol.models import ListUpdate

from tests.support.livekit_server import INDIVIDUAL, LiveKitServer, refused

BAD_REQUEST = (400, "invalid_argument")


def test_fields_beside_the_dispatch_rule_are_ignored(livekit: LiveKitServer) -> None:
    request = api.CreateSIPDispatchRuleRequest(
        dispatch_rule=api.SIPDispatchRuleInfo(rule=INDIVIDUAL, numbers=[livekit.number()]),
        trunk_ids=[livekit.trunk_id()],
        room_config=api.RoomConfiguration(agents=[api.RoomAgentDispatch(agent_name="a")]),
    )
    made = livekit.sip(lambda sip: sip.create_dispatch_rule(request))
    assert re.fullmatch(r"SDR_[2-9A-HJ-NP-Za-km-z]{12}", made.sip_dispatch_rule_id)
    assert list(made.trunk_ids) == []
    assert list(made.room_config.agents) == []
    assert made.HasField("media")


def test_the_old_shape_still_makes_a_rule(livekit: LiveKitServer) -> None:
    config = api.RoomConfiguration(agents=[api.RoomAgentDispatch(agent_name="a")])
    trunk = livekit.trunk_id()
    request = api.CreateSIPDispatchRuleRequest(rule=INDIVIDUAL, trunk_ids=[trunk], name="n", room_config=config)
    made = livekit.sip(lambda sip: sip.create_dispatch_rule(request))
    assert (list(made.trunk_ids), made.name, made.room_config.agents[0].agent_name) == ([trunk], "n", "a")


@pytest.mark.parametrize(
    ("info", "message"),
    [
        (api.SIPDispatchRuleInfo(trunk_ids=["ST_nobody"]), "missing rule"),
        (api.SIPDispatchRuleInfo(sip_dispatch_rule_id="SDR_x", rule=INDIVIDUAL), "rule id must not be set"),
        (
            api.SIPDispatchRuleInfo(rule=api.SIPDispatchRule()),
            "twirp error unknown: unsupported SIP Dispatch Rule: <nil>",
        ),
    ],
)
def test_an_invalid_rule_is_refused(livekit: LiveKitServer, info: api.SIPDispatchRuleInfo, message: str) -> None:
    request = api.CreateSIPDispatchRuleRequest(dispatch_rule=info)
    with refused(400, "invalid_argument", message):
        livekit.sip(lambda sip: sip.create_dispatch_rule(request))


def conflict(*who: str) -> AbstractContextManager[Any]:
    """Expect the conflict with one of these: which one LiveKit names depends on what else the project has."""
    start = "Dispatch rule for the same trunk, inbound number, number, and PIN combination"
    texts = {f"{start} already exists in dispatch rule {one}" for one in who}
    return pytest.raises(
        api.ServerError, check=lambda error: (error.status, error.code) == BAD_REQUEST and error.message in texts
    )


def test_a_second_rule_of_a_trunk_conflicts_and_quotes_one_of_the_two(livekit: LiveKitServer) -> None:
    trunk, other = livekit.trunk_id(), livekit.trunk_id()
    first = livekit.add_rule(trunk, name="first")
    with conflict(f'"{first.sip_dispatch_rule_id}" "first"', '"<new>" "second"'):
        livekit.add_rule(trunk, name="second")
    livekit.add_rule(trunk, numbers=[livekit.number()])
    livekit.add_rule(other)


@pytest.mark.parametrize("twice", ["trunk_ids", "numbers", "inbound_numbers"])
def test_a_rule_that_names_something_twice_conflicts_with_itself(livekit: LiveKitServer, twice: str) -> None:
    number, trunk = livekit.number(), livekit.trunk_id()
    other_form = f"{number[1:5]} ({number[5:7]}) {number[7:]}"
    values = [trunk, trunk] if twice == "trunk_ids" else [number, other_form]
    info = api.SIPDispatchRuleInfo(**{"rule": INDIVIDUAL, "trunk_ids": [trunk], twice: values})
    for name, quoted in (("", "<blank name>"), ("n", "n")):
        info.name = name
        request = api.CreateSIPDispatchRuleRequest(dispatch_rule=info)
        with conflict(f'"<new>" "{quoted}"'):
            livekit.sip(lambda sip, request=request: sip.create_dispatch_rule(request))
    made = livekit.add_rule(trunk)
    with conflict(f'"{made.sip_dispatch_rule_id}" "n"'):
        livekit.sip(lambda sip: sip.update_dispatch_rule(made.sip_dispatch_rule_id, info))


def test_a_new_rule_has_media_settings_and_a_replaced_one_those_it_is_given(livekit: LiveKitServer) -> None:
    require, trunk = api.SIPMediaEncryption.SIP_MEDIA_ENCRYPT_REQUIRE, livekit.trunk_id()
    made = livekit.add_rule(trunk, media_encryption=require)
    assert made.media.encryption == require
    info = api.SIPDispatchRuleInfo(rule=INDIVIDUAL, trunk_ids=[trunk])
    assert not livekit.sip(lambda sip: sip.update_dispatch_rule(made.sip_dispatch_rule_id, info)).HasField("media")
    patched = livekit.sip(lambda sip: sip.update_dispatch_rule_fields(made.sip_dispatch_rule_id, name="n"))
    assert patched.HasField("media")


def test_rules_with_different_pins_do_not_conflict(livekit: LiveKitServer) -> None:
    trunk = livekit.trunk_id()
    livekit.add_rule(trunk)
    pinned = api.SIPDispatchRule(dispatch_rule_direct=api.SIPDispatchRuleDirect(room_name="r", pin="1234"))
    livekit.add_rule(trunk, rule=pinned)
    with pytest.raises(api.ServerError, match="PIN combination"):
        livekit.add_rule(trunk, rule=pinned)


def test_a_rule_for_any_trunk_conflicts_with_its_like_alone(livekit: LiveKitServer) -> None:
    number = livekit.number()
    livekit.add_rule(numbers=[number])
    livekit.add_rule(livekit.trunk_id(), numbers=[number])
    with pytest.raises(api.ServerError, match="PIN combination"):
        livekit.add_rule(numbers=[number])


def test_deleting_an_unknown_rule_is_not_found(livekit: LiveKitServer) -> None:
    rule = livekit.add_rule(livekit.trunk_id())
    request = api.DeleteSIPDispatchRuleRequest(sip_dispatch_rule_id=rule.sip_dispatch_rule_id)
    livekit.sip(lambda sip: sip.delete_dispatch_rule(request))
    with refused(404, "not_found", "requested sip dispatch rule does not exist"):
        livekit.sip(lambda sip: sip.delete_dispatch_rule(request))


def test_replacing_clears_fields_that_are_left_out(livekit: LiveKitServer) -> None:
    livekit.requires("updates")
    number = livekit.number()
    made = livekit.add_trunk(number, name="n", metadata="m")
    wanted = api.SIPInboundTrunkInfo(numbers=[number], name="other")
    replaced = livekit.sip(lambda sip: sip.update_inbound_trunk(made.sip_trunk_id, wanted))
    assert (replaced.name, replaced.metadata, replaced.sip_trunk_id) == ("other", "", made.sip_trunk_id)
    rule = livekit.add_rule(made.sip_trunk_id, metadata="m")
    info = api.SIPDispatchRuleInfo(rule=INDIVIDUAL, trunk_ids=[made.sip_trunk_id])
    assert livekit.sip(lambda sip: sip.update_dispatch_rule(rule.sip_dispatch_rule_id, info)).metadata == ""


def test_a_patch_changes_only_what_it_names(livekit: LiveKitServer) -> None:
    livekit.requires("updates")
    before, after = livekit.number(), livekit.number()
    made = livekit.add_trunk(before, name="n", metadata="m")
    patch = {"numbers": ListUpdate(add=[after], remove=[before]), "name": "other"}
    patched = livekit.sip(lambda sip: sip.update_inbound_trunk_fields(made.sip_trunk_id, **patch))
    assert (list(patched.numbers), patched.name, patched.metadata) == ([after], "other", "m")
    rule = livekit.add_rule(made.sip_trunk_id, attributes={"a": "1", "b": "2"}, hide_phone_number=True)
    moved = livekit.trunk_id()
    patch = {"trunk_ids": ListUpdate(set=[moved]), "attributes": {"a": "", "c": "3"}}
    patched = livekit.sip(lambda sip: sip.update_dispatch_rule_fields(rule.sip_dispatch_rule_id, **patch))
    assert (list(patched.trunk_ids), dict(patched.attributes)) == ([moved], {"b": "2", "c": "3"})
    assert patched.hide_phone_number
