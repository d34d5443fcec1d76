"""LiveKitPlatform against the sandbox: inbound trunks and dispatch rules."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from app.domain.errors import ErrorCode
from app.path.observed import DispatchRule, Encryption, InboundTrunk, RuleAgent, RuleKind
from app.providers.errors import RejectedError
from app.providers.livekit import LiveKitPlatform
from tests.support.adapters import (
    ADDRESSES,
    E164,
    LABEL,
    inbound_spec,
    last_seen,
    made_by_hand,
    operations,
    rule_spec,
)
from tests.support.sandbox import Sandbox


def test_a_trunk_is_created_for_one_number_without_a_password(platform: LiveKitPlatform, sandbox: Sandbox) -> None:
    made = platform.create_inbound_trunk(inbound_spec())
    assert operations(sandbox) == ["livekit.create_inbound_trunk"]
    assert (made.name, made.metadata, made.numbers) == (LABEL.tag, LABEL.metadata, (E164,))
    assert made.allowed_addresses == ADDRESSES
    assert not made.has_username
    assert not made.has_password
    assert made.media.encryption is Encryption.DISABLE
    kept = sandbox.state()["livekitTrunks"][0]
    assert kept["sip_trunk_id"] == made.id
    assert kept["ringing_timeout"] == "30s"
    assert not kept.get("auth_username")
    assert not kept.get("auth_password")
    assert platform.list_inbound_trunks(E164) == [made]


def test_a_number_that_another_trunk_has_is_a_conflict(platform: LiveKitPlatform) -> None:
    platform.create_inbound_trunk(inbound_spec())
    with pytest.raises(RejectedError) as caught:
        platform.create_inbound_trunk(inbound_spec())
    assert caught.value.code is ErrorCode.LIVEKIT_NUMBER_CONFLICT


def test_a_secure_trunk_takes_encrypted_media_only(platform: LiveKitPlatform, sandbox: Sandbox) -> None:
    made = platform.create_inbound_trunk(replace(inbound_spec(), is_secure=True))
    assert made.media.encryption is Encryption.REQUIRE
    kept = sandbox.state()["livekitTrunks"][0]
    assert kept["media_encryption"] == kept["media"]["encryption"] == "SIP_MEDIA_ENCRYPT_REQUIRE"


def test_trunks_are_listed_by_a_number_in_any_form_with_those_that_take_any(
    platform: LiveKitPlatform, sandbox: Sandbox
) -> None:
    wildcard = made_by_hand(sandbox, "CreateSIPInboundTrunk", {"trunk": {"allowed_addresses": ["192.0.2.0/24"]}})
    spaced = made_by_hand(sandbox, "CreateSIPInboundTrunk", {"trunk": {"numbers": ["1 (514) 555-9999"]}})
    other = platform.create_inbound_trunk(inbound_spec("+15145550000"))
    ours = platform.create_inbound_trunk(inbound_spec())
    assert _ids(platform.list_inbound_trunks(E164)) == sorted([wildcard["sip_trunk_id"], ours.id])
    assert _ids(platform.list_inbound_trunks("+15145559999")) == sorted(
        [wildcard["sip_trunk_id"], spaced["sip_trunk_id"]]
    )
    everything = [wildcard["sip_trunk_id"], spaced["sip_trunk_id"], other.id, ours.id]
    assert _ids(platform.list_inbound_trunks()) == sorted(everything)
    assert platform.get_inbound_trunk(ours.id) == ours
    assert platform.get_inbound_trunk("ST_" + "z" * 12) is None


def test_a_trunk_with_a_password_says_so_and_keeps_it_to_itself(platform: LiveKitPlatform, sandbox: Sandbox) -> None:
    trunk = {"numbers": [E164], "auth_username": "someone", "auth_password": "hush-hush"}
    made_by_hand(sandbox, "CreateSIPInboundTrunk", {"trunk": trunk})
    (found,) = platform.list_inbound_trunks(E164)
    assert found.asks_password
    assert "hush-hush" not in repr(found)
    assert b"hush-hush" in found.raw


@pytest.mark.parametrize("status", [200, 404])
def test_a_trunk_can_be_deleted_again(status: int, platform: LiveKitPlatform, sandbox: Sandbox) -> None:
    sandbox.switch(deleteUnknownTrunkStatus=status)
    trunk = platform.create_inbound_trunk(inbound_spec())
    platform.delete_trunk(trunk.id)
    platform.delete_trunk(trunk.id)
    assert platform.list_inbound_trunks() == []


def test_a_rule_names_its_trunk_and_its_agent_and_filters_no_caller(
    platform: LiveKitPlatform, sandbox: Sandbox
) -> None:
    trunk = platform.create_inbound_trunk(inbound_spec())
    start = last_seen(sandbox)
    made = platform.create_dispatch_rule(rule_spec(trunk.id))
    assert operations(sandbox, start) == ["livekit.create_dispatch_rule"]
    # Everybody in the room reads a rule's metadata.
    assert (made.name, made.metadata) == (LABEL.tag, "")
    assert (made.trunk_ids, made.agents) == ((trunk.id,), (RuleAgent("receptionist", '{"role": "front desk"}'),))
    assert (made.inbound_numbers, made.numbers) == ((), ())
    assert (made.kind, made.room, made.pin) == (RuleKind.INDIVIDUAL, "call", "")
    kept = sandbox.state()["livekitRules"][0]
    assert kept["sip_dispatch_rule_id"] == made.id
    assert kept["rule"]["dispatch_rule_individual"]["room_prefix"] == "call"
    agent = kept["room_config"]["agents"][0]
    assert (agent["agent_name"], agent["metadata"]) == ("receptionist", '{"role": "front desk"}')
    assert platform.list_dispatch_rules(trunk.id) == [made]
    assert platform.get_dispatch_rule(made.id) == made
    assert platform.get_dispatch_rule("SDR_" + "z" * 12) is None


def test_a_second_rule_for_the_trunk_is_a_conflict(platform: LiveKitPlatform) -> None:
    trunk = platform.create_inbound_trunk(inbound_spec())
    platform.create_dispatch_rule(rule_spec(trunk.id))
    with pytest.raises(RejectedError) as caught:
        platform.create_dispatch_rule(rule_spec(trunk.id))
    assert caught.value.code is ErrorCode.LIVEKIT_RULE_CONFLICT


def test_rules_are_listed_by_their_trunk_with_those_that_take_any(platform: LiveKitPlatform, sandbox: Sandbox) -> None:
    trunk, other = (platform.create_inbound_trunk(inbound_spec(e164)) for e164 in (E164, "+15145550000"))
    body = {"dispatch_rule": {"rule": {"dispatch_rule_individual": {"room_prefix": "x"}}}}
    wildcard = made_by_hand(sandbox, "CreateSIPDispatchRule", body)["sip_dispatch_rule_id"]
    ours, others = (platform.create_dispatch_rule(rule_spec(one.id)) for one in (trunk, other))
    assert _ids(platform.list_dispatch_rules(trunk.id)) == sorted([ours.id, wildcard])
    assert _ids(platform.list_dispatch_rules()) == sorted([ours.id, others.id, wildcard])


def test_a_rule_can_be_deleted_again(platform: LiveKitPlatform) -> None:
    trunk = platform.create_inbound_trunk(inbound_spec())
    rule = platform.create_dispatch_rule(rule_spec(trunk.id))
    platform.delete_dispatch_rule(rule.id)
    platform.delete_dispatch_rule(rule.id)
    assert platform.list_dispatch_rules() == []


def test_no_page_is_ever_asked_for(platform: LiveKitPlatform, sandbox: Sandbox) -> None:
    platform.list_inbound_trunks()
    platform.list_inbound_trunks(E164)
    platform.list_dispatch_rules()
    platform.ping()
    assert all("page" not in request["body"] for request in sandbox.requests())


def _ids(records: Sequence[InboundTrunk | DispatchRule]) -> list[str]:
    return [record.id for record in records]
