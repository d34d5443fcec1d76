"""LiveKitPlatform: inbound trunks and dispatch rules; against the sandbox, or any LiveKit server."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from app.domain.errors import ErrorCode
from app.domain.options import RuleAgent
from app.path.observed import DispatchRule, Encryption, InboundTrunk, RuleKind
from app.providers.errors import RejectedError
from app.providers.livekit import LiveKitPlatform
from tests.support.adapters import ADDRESSES, E164, LABEL, inbound_spec, rule_spec
from tests.support.livekit_server import LiveKitServer
from tests.support.sandbox import Sandbox

GONE_RULE = "SDR_nobody"


def test_a_trunk_is_created_for_one_number_without_a_password(
    livekit_platform: LiveKitPlatform, livekit: LiveKitServer
) -> None:
    number = livekit.number()
    made = livekit_platform.create_inbound_trunk(inbound_spec(number))
    assert livekit.calls == ["create_inbound_trunk"]
    assert (made.name, made.metadata, made.numbers) == (LABEL.tag, LABEL.metadata, (number,))
    assert made.allowed_addresses == ADDRESSES
    assert not made.has_username
    assert not made.has_password
    assert made.media.encryption is Encryption.DISABLE
    kept = livekit.trunk(made.id)
    assert kept.ringing_timeout.seconds == 30
    assert (kept.auth_username, kept.auth_password) == ("", "")
    assert made in livekit_platform.list_inbound_trunks(number)


def test_a_number_that_another_trunk_has_is_a_conflict(
    livekit_platform: LiveKitPlatform, livekit: LiveKitServer
) -> None:
    number = livekit.number()
    livekit_platform.create_inbound_trunk(inbound_spec(number))
    with pytest.raises(RejectedError) as caught:
        livekit_platform.create_inbound_trunk(inbound_spec(number))
    assert caught.value.code is ErrorCode.LIVEKIT_NUMBER_CONFLICT


def test_a_secure_trunk_takes_encrypted_media_only(livekit_platform: LiveKitPlatform, livekit: LiveKitServer) -> None:
    made = livekit_platform.create_inbound_trunk(replace(inbound_spec(livekit.number()), is_secure=True))
    assert made.media.encryption is Encryption.REQUIRE
    kept = livekit.twirp("ListSIPInboundTrunk", {"trunk_ids": [made.id]}).json()["items"][0]
    assert kept["media_encryption"] == kept["media"]["encryption"] == "SIP_MEDIA_ENCRYPT_REQUIRE"


def test_trunks_are_listed_by_a_number_in_any_form_with_those_that_take_any(
    livekit_platform: LiveKitPlatform, livekit: LiveKitServer
) -> None:
    number, second = livekit.number(), livekit.number()
    wildcard = livekit.add_trunk(allowed_addresses=["192.0.2.1/32"], allowed_numbers=[livekit.number()]).sip_trunk_id
    spaced = livekit.add_trunk(f"{second[1:4]} ({second[4:7]}) {second[7:]}").sip_trunk_id
    other = livekit_platform.create_inbound_trunk(inbound_spec(livekit.number()))
    ours = livekit_platform.create_inbound_trunk(inbound_spec(number))
    assert _own_ids(livekit, livekit_platform.list_inbound_trunks(number)) == sorted([wildcard, ours.id])
    assert _own_ids(livekit, livekit_platform.list_inbound_trunks(second)) == sorted([wildcard, spaced])
    everything = [wildcard, spaced, other.id, ours.id]
    assert _own_ids(livekit, livekit_platform.list_inbound_trunks()) == sorted(everything)
    assert livekit_platform.get_inbound_trunk(ours.id) == ours
    assert livekit_platform.get_inbound_trunk(livekit.trunk_id()) is None


def test_a_trunk_with_a_password_says_so_and_keeps_it_to_itself(
    livekit_platform: LiveKitPlatform, livekit: LiveKitServer
) -> None:
    made = livekit.add_trunk(livekit.number(), auth_username="someone", auth_password="hush-hush")
    found = livekit_platform.get_inbound_trunk(made.sip_trunk_id)
    assert found.asks_password
    assert "hush-hush" not in repr(found)
    assert b"hush-hush" in found.raw


def test_a_trunk_can_be_deleted_again(livekit_platform: LiveKitPlatform, livekit: LiveKitServer) -> None:
    trunk = livekit_platform.create_inbound_trunk(inbound_spec(livekit.number()))
    livekit_platform.delete_trunk(trunk.id)
    livekit_platform.delete_trunk(trunk.id)
    assert livekit_platform.get_inbound_trunk(trunk.id) is None


@pytest.mark.parametrize("status", [200, 404])
def test_a_trunk_can_be_deleted_again_whatever_that_answers(
    status: int, platform: LiveKitPlatform, sandbox: Sandbox
) -> None:
    sandbox.switch(deleteUnknownTrunkStatus=status)
    platform.delete_trunk("ST_" + "x" * 12)


def test_a_rule_names_its_trunk_and_its_agent_and_filters_no_caller(
    livekit_platform: LiveKitPlatform, livekit: LiveKitServer
) -> None:
    trunk = livekit_platform.create_inbound_trunk(inbound_spec(livekit.number()))
    made = livekit_platform.create_dispatch_rule(rule_spec(trunk.id))
    assert livekit.calls == ["create_inbound_trunk", "create_dispatch_rule"]
    # Everybody in the room reads a rule's metadata.
    assert (made.name, made.metadata) == (LABEL.tag, "")
    assert (made.trunk_ids, made.agents) == ((trunk.id,), (RuleAgent("receptionist", '{"role": "front desk"}'),))
    assert (made.inbound_numbers, made.numbers) == ((), ())
    assert (made.kind, made.room, made.pin) == (RuleKind.INDIVIDUAL, "call", "")
    kept = livekit.rule(made.id)
    assert kept.rule.dispatch_rule_individual.room_prefix == "call"
    [agent] = kept.room_config.agents
    assert (agent.agent_name, agent.metadata) == ("receptionist", '{"role": "front desk"}')
    assert made in livekit_platform.list_dispatch_rules(trunk.id)
    assert livekit_platform.get_dispatch_rule(made.id) == made
    assert livekit_platform.get_dispatch_rule(GONE_RULE) is None


def test_a_second_rule_for_the_trunk_is_a_conflict(livekit_platform: LiveKitPlatform, livekit: LiveKitServer) -> None:
    trunk_id = livekit.trunk_id()
    livekit_platform.create_dispatch_rule(rule_spec(trunk_id))
    with pytest.raises(RejectedError) as caught:
        livekit_platform.create_dispatch_rule(rule_spec(trunk_id))
    assert caught.value.code is ErrorCode.LIVEKIT_RULE_CONFLICT


def test_rules_are_listed_by_their_trunk_with_those_that_take_any(
    livekit_platform: LiveKitPlatform, livekit: LiveKitServer
) -> None:
    trunk, other = livekit.trunk_id(), livekit.trunk_id()
    wildcard = livekit.add_rule(numbers=[livekit.number()]).sip_dispatch_rule_id
    ours, others = (livekit_platform.create_dispatch_rule(rule_spec(one)).id for one in (trunk, other))
    assert _own_ids(livekit, livekit_platform.list_dispatch_rules(trunk)) == sorted([ours, wildcard])
    assert _own_ids(livekit, livekit_platform.list_dispatch_rules()) == sorted([ours, others, wildcard])


def test_a_rule_can_be_deleted_again(livekit_platform: LiveKitPlatform, livekit: LiveKitServer) -> None:
    rule = livekit_platform.create_dispatch_rule(rule_spec(livekit.trunk_id()))
    assert livekit_platform.delete_dispatch_rule(rule.id)
    assert not livekit_platform.delete_dispatch_rule(rule.id)
    assert livekit_platform.get_dispatch_rule(rule.id) is None


def test_an_update_of_what_is_gone_says_so(livekit_platform: LiveKitPlatform, livekit: LiveKitServer) -> None:
    livekit.requires("updates")
    trunk = livekit_platform.create_inbound_trunk(inbound_spec(livekit.number()))
    rule = livekit_platform.create_dispatch_rule(rule_spec(trunk.id))
    livekit_platform.delete_dispatch_rule(rule.id)
    livekit_platform.delete_trunk(trunk.id)
    assert not livekit_platform.update_dispatch_rule(rule, replace(rule, name="other"))
    assert not livekit_platform.update_inbound_trunk(trunk, replace(trunk, name="other"))


def test_an_update_without_a_difference_sends_nothing(
    livekit_platform: LiveKitPlatform, livekit: LiveKitServer
) -> None:
    trunk = livekit_platform.create_inbound_trunk(inbound_spec(livekit.number()))
    rule = livekit_platform.create_dispatch_rule(rule_spec(trunk.id))
    livekit.calls.clear()
    assert livekit_platform.update_inbound_trunk(trunk, trunk)
    assert livekit_platform.update_dispatch_rule(rule, rule)
    assert livekit.calls == []


def test_ping_takes_one_request(livekit_platform: LiveKitPlatform, livekit: LiveKitServer) -> None:
    livekit_platform.ping()
    assert livekit.calls == ["ping"]


@pytest.mark.parametrize("wrong", [{"secret": "x" * 40}, {"key": "nobody"}])
def test_a_wrong_key_or_secret_is_told_apart_on_every_kind_of_call(
    wrong: dict[str, str], livekit: LiveKitServer
) -> None:
    platform = livekit.platform(**wrong)
    for call in (
        platform.ping,
        platform.list_dispatch_rules,
        lambda: platform.create_inbound_trunk(inbound_spec(livekit.number())),
        lambda: platform.delete_dispatch_rule(GONE_RULE),
    ):
        with pytest.raises(RejectedError) as caught:
            call()
        assert caught.value.code is ErrorCode.LIVEKIT_BAD_CREDENTIALS
    platform.close()


def test_an_address_with_a_foreign_path_is_a_misconfiguration_even_for_a_delete(livekit: LiveKitServer) -> None:
    platform = livekit.platform(path="/elsewhere")
    for call in (platform.ping, lambda: platform.delete_dispatch_rule(GONE_RULE)):
        with pytest.raises(RejectedError) as caught:
            call()
        assert caught.value.code is ErrorCode.LIVEKIT_MISCONFIGURED
    platform.close()


def test_many_threads_get_their_own_answers(livekit_platform: LiveKitPlatform, livekit: LiveKitServer) -> None:
    numbers = [livekit.number() for _ in range(100)]
    with ThreadPoolExecutor(32) as pool:
        made = list(pool.map(lambda e164: livekit_platform.create_inbound_trunk(inbound_spec(e164)), numbers))
        found = list(pool.map(livekit_platform.list_inbound_trunks, numbers))
    assert [trunk.numbers for trunk in made] == [(e164,) for e164 in numbers]
    assert [[one for one in listed if one.numbers] for listed in found] == [[trunk] for trunk in made]


def test_no_page_is_ever_asked_for(platform: LiveKitPlatform, sandbox: Sandbox) -> None:
    platform.list_inbound_trunks()
    platform.list_inbound_trunks(E164)
    platform.list_dispatch_rules()
    platform.ping()
    assert all("page" not in request["body"] for request in sandbox.requests())


def _own_ids(livekit: LiveKitServer, records: Sequence[InboundTrunk | DispatchRule]) -> list[str]:
    return [record.id for record in records if record.id in livekit.made]
