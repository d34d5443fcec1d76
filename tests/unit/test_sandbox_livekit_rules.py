"""LiveKit's dispatch rules in the sandbox, driven by the real SDK, and updates of both kinds."""

import re
from contextlib import AbstractContextManager
from typing import Any

import pytest
from livekit import api
from livekit.protocol.models import ListUpdate
from test_sandbox_livekit_wire import INDIVIDUAL, M, N, add_rule, add_trunk, refused
from test_sandbox_process import RunningSandbox, emptied_sandbox


@pytest.fixture
def sandbox() -> RunningSandbox:
    return emptied_sandbox()


def test_fields_beside_the_dispatch_rule_are_ignored(sandbox: RunningSandbox) -> None:
    request = api.CreateSIPDispatchRuleRequest(
        dispatch_rule=api.SIPDispatchRuleInfo(rule=INDIVIDUAL),
        trunk_ids=["ST_x"],
        room_config=api.RoomConfiguration(agents=[api.RoomAgentDispatch(agent_name="a")]),
    )
    made = sandbox.livekit(lambda sip: sip.create_dispatch_rule(request))
    assert re.fullmatch(r"SDR_[2-9A-HJ-NP-Za-km-z]{12}", made.sip_dispatch_rule_id)
    assert list(made.trunk_ids) == []
    assert list(made.room_config.agents) == []
    assert made.HasField("media")


def test_the_old_shape_still_makes_a_rule(sandbox: RunningSandbox) -> None:
    config = api.RoomConfiguration(agents=[api.RoomAgentDispatch(agent_name="a")])
    request = api.CreateSIPDispatchRuleRequest(rule=INDIVIDUAL, trunk_ids=["ST_x"], name="n", room_config=config)
    made = sandbox.livekit(lambda sip: sip.create_dispatch_rule(request))
    assert (list(made.trunk_ids), made.name, made.room_config.agents[0].agent_name) == (["ST_x"], "n", "a")


@pytest.mark.parametrize(
    ("info", "message"),
    [
        (api.SIPDispatchRuleInfo(trunk_ids=["ST_x"]), "missing rule"),
        (api.SIPDispatchRuleInfo(sip_dispatch_rule_id="SDR_x", rule=INDIVIDUAL), "rule id must not be set"),
        (
            api.SIPDispatchRuleInfo(rule=api.SIPDispatchRule()),
            "twirp error unknown: unsupported SIP Dispatch Rule: <nil>",
        ),
    ],
)
def test_an_invalid_rule_is_refused(sandbox: RunningSandbox, info: api.SIPDispatchRuleInfo, message: str) -> None:
    request = api.CreateSIPDispatchRuleRequest(dispatch_rule=info)
    with refused(400, "invalid_argument", message):
        sandbox.livekit(lambda sip: sip.create_dispatch_rule(request))


def conflict(who: str) -> AbstractContextManager[Any]:
    start = "Dispatch rule for the same trunk, inbound number, number, and PIN combination"
    return refused(400, "invalid_argument", f"{start} already exists in dispatch rule {who}")


def test_a_second_rule_of_a_trunk_conflicts_and_quotes_the_first(sandbox: RunningSandbox) -> None:
    first = add_rule(sandbox, "ST_x", name="first")
    with conflict(f'"{first.sip_dispatch_rule_id}" "first"'):
        add_rule(sandbox, "ST_x", name="second")
    add_rule(sandbox, "ST_x", numbers=[N])
    add_rule(sandbox, "ST_y")


@pytest.mark.parametrize(
    "twice",
    [
        {"trunk_ids": ["ST_x", "ST_x"]},
        {"numbers": [N, "1 514 555 1234"]},
        {"inbound_numbers": [N, N]},
    ],
)
def test_a_rule_that_names_something_twice_conflicts_with_itself(
    sandbox: RunningSandbox, twice: dict[str, list[str]]
) -> None:
    info = api.SIPDispatchRuleInfo(**{"rule": INDIVIDUAL, "trunk_ids": ["ST_x"], **twice})
    for dispatch_rule, quoted in ((info, "<blank name>"), (api.SIPDispatchRuleInfo(name="n"), "n")):
        dispatch_rule.MergeFrom(info if quoted == "n" else api.SIPDispatchRuleInfo())
        request = api.CreateSIPDispatchRuleRequest(dispatch_rule=dispatch_rule)
        with conflict(f'"<new>" "{quoted}"'):
            sandbox.livekit(lambda sip, request=request: sip.create_dispatch_rule(request))
    made = add_rule(sandbox, "ST_x")
    with conflict(f'"{made.sip_dispatch_rule_id}" "<blank name>"'):
        sandbox.livekit(lambda sip: sip.update_dispatch_rule(made.sip_dispatch_rule_id, info))


def test_a_new_rule_has_media_settings_and_a_replaced_one_those_it_is_given(sandbox: RunningSandbox) -> None:
    require = api.SIPMediaEncryption.SIP_MEDIA_ENCRYPT_REQUIRE
    made = add_rule(sandbox, "ST_x", media_encryption=require)
    assert made.media.encryption == require
    info = api.SIPDispatchRuleInfo(rule=INDIVIDUAL, trunk_ids=["ST_x"])
    assert not sandbox.livekit(lambda sip: sip.update_dispatch_rule(made.sip_dispatch_rule_id, info)).HasField("media")
    patched = sandbox.livekit(lambda sip: sip.update_dispatch_rule_fields(made.sip_dispatch_rule_id, name="n"))
    assert patched.HasField("media")


def test_with_more_rules_around_the_conflict_names_the_new_rule_itself(sandbox: RunningSandbox) -> None:
    rules = {add_rule(sandbox, f"ST_{n}").sip_dispatch_rule_id: f"ST_{n}" for n in "ab"}
    last = rules[max(rules)]
    with conflict('"<new>" "<blank name>"'):
        add_rule(sandbox, last)


def test_rules_with_different_pins_do_not_conflict(sandbox: RunningSandbox) -> None:
    add_rule(sandbox, "ST_x")
    pinned = api.SIPDispatchRule(dispatch_rule_direct=api.SIPDispatchRuleDirect(room_name="r", pin="1234"))
    add_rule(sandbox, "ST_x", rule=pinned)
    with pytest.raises(api.ServerError, match="PIN combination"):
        add_rule(sandbox, "ST_x", rule=pinned)


def test_deleting_an_unknown_rule_is_not_found(sandbox: RunningSandbox) -> None:
    rule = add_rule(sandbox, "ST_x")
    request = api.DeleteSIPDispatchRuleRequest(sip_dispatch_rule_id=rule.sip_dispatch_rule_id)
    sandbox.livekit(lambda sip: sip.delete_dispatch_rule(request))
    with refused(404, "not_found", "requested sip dispatch rule does not exist"):
        sandbox.livekit(lambda sip: sip.delete_dispatch_rule(request))


def test_replacing_clears_fields_that_are_left_out(sandbox: RunningSandbox) -> None:
    made = add_trunk(sandbox, N, name="n", metadata="m")
    wanted = api.SIPInboundTrunkInfo(numbers=[N], name="other")
    replaced = sandbox.livekit(lambda sip: sip.update_inbound_trunk(made.sip_trunk_id, wanted))
    assert (replaced.name, replaced.metadata, replaced.sip_trunk_id) == ("other", "", made.sip_trunk_id)
    rule = add_rule(sandbox, made.sip_trunk_id, metadata="m")
    info = api.SIPDispatchRuleInfo(rule=INDIVIDUAL, trunk_ids=[made.sip_trunk_id])
    assert sandbox.livekit(lambda sip: sip.update_dispatch_rule(rule.sip_dispatch_rule_id, info)).metadata == ""


def test_a_patch_changes_only_what_it_names(sandbox: RunningSandbox) -> None:
    made = add_trunk(sandbox, N, name="n", metadata="m")
    patch = {"numbers": ListUpdate(add=[M], remove=[N]), "name": "other"}
    patched = sandbox.livekit(lambda sip: sip.update_inbound_trunk_fields(made.sip_trunk_id, **patch))
    assert (list(patched.numbers), patched.name, patched.metadata) == ([M], "other", "m")
    rule = add_rule(sandbox, made.sip_trunk_id, attributes={"a": "1", "b": "2"}, hide_phone_number=True)
    patch = {"trunk_ids": ListUpdate(set=["ST_y"]), "attributes": {"a": "", "c": "3"}}
    patched = sandbox.livekit(lambda sip: sip.update_dispatch_rule_fields(rule.sip_dispatch_rule_id, **patch))
    assert (list(patched.trunk_ids), dict(patched.attributes)) == (["ST_y"], {"b": "2", "c": "3"})
    assert patched.hide_phone_number


def test_one_old_conflict_among_rules_blocks_every_new_one(sandbox: RunningSandbox) -> None:
    mover = add_rule(sandbox, "ST_a")
    add_rule(sandbox, "ST_b")
    move = ListUpdate(set=["ST_b"])
    sandbox.livekit(lambda sip: sip.update_dispatch_rule_fields(mover.sip_dispatch_rule_id, trunk_ids=move))
    with pytest.raises(api.ServerError, match="PIN combination"):
        add_rule(sandbox, "ST_c")
