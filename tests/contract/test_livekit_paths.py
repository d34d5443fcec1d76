"""LiveKitPlatform against the sandbox: inbound trunks and dispatch rules."""

import pytest

from app.domain.errors import ErrorCode
from app.providers.errors import RejectedError
from app.providers.livekit import LiveKitPlatform
from tests.support.adapters import (
    ADDRESSES,
    E164,
    LABEL,
    last_seen,
    made_by_hand,
    operations,
)
from tests.support.sandbox import Sandbox


def test_a_trunk_is_created_for_one_number_without_a_password(platform: LiveKitPlatform, sandbox: Sandbox) -> None:
    made = platform.create_inbound_trunk(E164, LABEL)
    assert operations(sandbox) == ["livekit.create_inbound_trunk"]
    assert (made.name, made.metadata, made.numbers) == (LABEL.tag, LABEL.metadata, (E164,))
    assert made.allowed_addresses == ADDRESSES
    assert not made.has_auth
    kept = sandbox.state()["livekitTrunks"][0]
    assert kept["sip_trunk_id"] == made.id
    assert kept["ringing_timeout"] == "30s"
    assert not kept.get("auth_username")
    assert not kept.get("auth_password")
    assert platform.list_inbound_trunks(E164) == [made]


def test_a_number_that_another_trunk_has_is_a_conflict(platform: LiveKitPlatform) -> None:
    platform.create_inbound_trunk(E164, LABEL)
    with pytest.raises(RejectedError) as caught:
        platform.create_inbound_trunk(E164, LABEL)
    assert caught.value.code is ErrorCode.LIVEKIT_NUMBER_CONFLICT


def test_only_trunks_with_exactly_this_number_are_listed(platform: LiveKitPlatform, sandbox: Sandbox) -> None:
    wildcard = made_by_hand(sandbox, "CreateSIPInboundTrunk", {"trunk": {"allowed_addresses": ["192.0.2.0/24"]}})
    spaced = made_by_hand(sandbox, "CreateSIPInboundTrunk", {"trunk": {"numbers": ["+1 514 555 9999"]}})
    other = platform.create_inbound_trunk("+15145550000", LABEL)
    ours = platform.create_inbound_trunk(E164, LABEL)
    assert platform.list_inbound_trunks(E164) == [ours]
    assert platform.list_inbound_trunks("+15145559999") == []
    everything = [wildcard["sip_trunk_id"], spaced["sip_trunk_id"], other.id, ours.id]
    assert [trunk.id for trunk in platform.list_inbound_trunks()] == sorted(everything)


def test_a_trunk_with_a_password_says_so_and_keeps_it_to_itself(platform: LiveKitPlatform, sandbox: Sandbox) -> None:
    trunk = {"numbers": [E164], "auth_username": "someone", "auth_password": "hush-hush"}
    made_by_hand(sandbox, "CreateSIPInboundTrunk", {"trunk": trunk})
    (found,) = platform.list_inbound_trunks(E164)
    assert found.has_auth
    assert "hush-hush" not in repr(found)


@pytest.mark.parametrize("status", [200, 404])
def test_a_trunk_can_be_deleted_again(status: int, platform: LiveKitPlatform, sandbox: Sandbox) -> None:
    sandbox.switch(deleteUnknownTrunkStatus=status)
    trunk = platform.create_inbound_trunk(E164, LABEL)
    platform.delete_trunk(trunk.id)
    platform.delete_trunk(trunk.id)
    assert platform.list_inbound_trunks() == []


def test_a_rule_names_its_trunk_and_its_agent_and_filters_no_caller(
    platform: LiveKitPlatform, sandbox: Sandbox
) -> None:
    trunk = platform.create_inbound_trunk(E164, LABEL)
    start = last_seen(sandbox)
    made = platform.create_dispatch_rule(trunk.id, "receptionist", '{"tenant":7}', LABEL)
    assert operations(sandbox, start) == ["livekit.create_dispatch_rule"]
    # Everybody in the room reads a rule's metadata.
    assert (made.name, made.metadata) == (LABEL.tag, "")
    assert (made.trunk_ids, made.agent_names) == ((trunk.id,), ("receptionist",))
    assert (made.inbound_numbers, made.numbers) == ((), ())
    kept = sandbox.state()["livekitRules"][0]
    assert kept["sip_dispatch_rule_id"] == made.id
    assert kept["rule"]["dispatch_rule_individual"]["room_prefix"] == "call"
    agent = kept["room_config"]["agents"][0]
    assert (agent["agent_name"], agent["metadata"]) == ("receptionist", '{"tenant":7}')
    assert platform.list_dispatch_rules(trunk.id) == [made]


def test_a_second_rule_for_the_trunk_is_a_conflict(platform: LiveKitPlatform) -> None:
    trunk = platform.create_inbound_trunk(E164, LABEL)
    platform.create_dispatch_rule(trunk.id, "receptionist", "{}", LABEL)
    with pytest.raises(RejectedError) as caught:
        platform.create_dispatch_rule(trunk.id, "receptionist", "{}", LABEL)
    assert caught.value.code is ErrorCode.LIVEKIT_RULE_CONFLICT


def test_a_wildcard_rule_is_nobodys_but_shows_in_the_whole_list(platform: LiveKitPlatform, sandbox: Sandbox) -> None:
    trunk = platform.create_inbound_trunk(E164, LABEL)
    body = {"dispatch_rule": {"rule": {"dispatch_rule_individual": {"room_prefix": "x"}}}}
    wildcard = made_by_hand(sandbox, "CreateSIPDispatchRule", body)
    ours = platform.create_dispatch_rule(trunk.id, "receptionist", "{}", LABEL)
    assert platform.list_dispatch_rules(trunk.id) == [ours]
    everything = platform.list_dispatch_rules()
    assert [rule.id for rule in everything] == sorted([ours.id, wildcard["sip_dispatch_rule_id"]])
    assert () in {rule.trunk_ids for rule in everything}


def test_a_rule_can_be_deleted_again(platform: LiveKitPlatform) -> None:
    trunk = platform.create_inbound_trunk(E164, LABEL)
    rule = platform.create_dispatch_rule(trunk.id, "receptionist", "{}", LABEL)
    platform.delete_dispatch_rule(rule.id)
    platform.delete_dispatch_rule(rule.id)
    assert platform.list_dispatch_rules() == []


def test_no_page_is_ever_asked_for(platform: LiveKitPlatform, sandbox: Sandbox) -> None:
    platform.list_inbound_trunks()
    platform.list_inbound_trunks(E164)
    platform.list_dispatch_rules()
    platform.ping()
    assert all("page" not in request["body"] for request in sandbox.requests())
