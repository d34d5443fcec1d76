"""What the sandbox's LiveKit does on its own account: switches, and conflicts that would disturb a project in use."""

import pytest
from livekit import api
from livekit.protocol.models import ListUpdate
from test_sandbox_process import RunningSandbox, emptied_sandbox

N = "+15145551234"
INDIVIDUAL = api.SIPDispatchRule(dispatch_rule_individual=api.SIPDispatchRuleIndividual(room_prefix="call"))


@pytest.fixture
def sandbox() -> RunningSandbox:
    return emptied_sandbox()


def add_trunk(sandbox: RunningSandbox, *numbers: str, **fields: object) -> api.SIPInboundTrunkInfo:
    request = api.CreateSIPInboundTrunkRequest(trunk=api.SIPInboundTrunkInfo(numbers=numbers, **fields))
    return sandbox.livekit(lambda sip: sip.create_inbound_trunk(request))


def add_rule(sandbox: RunningSandbox, *trunk_ids: str, **fields: object) -> str:
    info = api.SIPDispatchRuleInfo(rule=INDIVIDUAL, trunk_ids=trunk_ids, **fields)
    request = api.CreateSIPDispatchRuleRequest(dispatch_rule=info)
    return sandbox.livekit(lambda sip: sip.create_dispatch_rule(request)).sip_dispatch_rule_id


@pytest.mark.parametrize("status", [200, 404])
def test_deleting_an_unknown_trunk_does_what_the_switch_says(sandbox: RunningSandbox, status: int) -> None:
    sandbox.control("PUT", "switches", {"deleteUnknownTrunkStatus": status})
    assert sandbox.twirp("DeleteSIPTrunk", {"sip_trunk_id": "ST_none"}).status_code == status


def test_a_server_without_redis_answers_500(sandbox: RunningSandbox) -> None:
    sandbox.control("PUT", "switches", {"livekitRedis": False})
    answer = sandbox.twirp("ListSIPInboundTrunk", {})
    no_redis = {"code": "internal", "msg": "twirp error unknown: sip not connected (redis required)"}
    assert (answer.status_code, answer.json()) == (500, no_redis)


def test_a_conflict_with_a_later_trunk_is_quoted_the_other_way_round(sandbox: RunningSandbox) -> None:
    wildcard = add_trunk(sandbox, allowed_addresses=["10.0.0.0/8"])
    offender = add_trunk(sandbox, N)
    while offender.sip_trunk_id < wildcard.sip_trunk_id:
        unlucky = api.DeleteSIPTrunkRequest(sip_trunk_id=offender.sip_trunk_id)
        sandbox.livekit(lambda sip, request=unlucky: sip.delete_trunk(request))
        offender = add_trunk(sandbox, N)
    with pytest.raises(api.ServerError, match=f'"{offender.sip_trunk_id}" and "<new>"'):
        add_trunk(sandbox, N)


def test_there_is_one_wildcard_trunk(sandbox: RunningSandbox) -> None:
    add_trunk(sandbox, allowed_addresses=["10.0.0.0/8"])
    with pytest.raises(api.ServerError, match="<any> without AllowedNumbers set"):
        add_trunk(sandbox, allowed_addresses=["11.0.0.0/8"])


def test_a_conflict_of_rules_names_the_first_of_them_unless_there_are_more(sandbox: RunningSandbox) -> None:
    first = add_rule(sandbox, "ST_x", name="first")
    with pytest.raises(api.ServerError, match=f'already exists in dispatch rule "{first}" "first"'):
        add_rule(sandbox, "ST_x")
    rules = {first: "ST_x", add_rule(sandbox, "ST_y"): "ST_y"}
    with pytest.raises(api.ServerError, match='already exists in dispatch rule "<new>" "<blank name>"'):
        add_rule(sandbox, rules[max(rules)])


def test_one_old_conflict_among_rules_blocks_every_new_one(sandbox: RunningSandbox) -> None:
    mover = add_rule(sandbox, "ST_a")
    add_rule(sandbox, "ST_b")
    move = ListUpdate(set=["ST_b"])
    sandbox.livekit(lambda sip: sip.update_dispatch_rule_fields(mover, trunk_ids=move))
    with pytest.raises(api.ServerError, match="PIN combination"):
        add_rule(sandbox, "ST_c")
