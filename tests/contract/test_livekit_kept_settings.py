"""What an operator sets on our trunk or rule by hand is there after our adapter's update, which replaces the object.

One test for each field that Trunkline does not name, against the sandbox or any LiveKit server. The update changes all
that the adapter's records name and could take the field along with it.
"""

from dataclasses import replace

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from livekit import api
from livekit.protocol import sip

from app.domain.options import RuleAgent
from app.providers.livekit import LiveKitPlatform
from tests.support.adapters import inbound_spec, rule_spec
from tests.support.livekit_server import LiveKitServer, canonical

UNKNOWN_FIELD = b"\xca\xbb\x18\x05later"
"""A text in field 50105, which no version of the protocol has: what a newer LiveKit may add."""

TRUNK_SETTINGS: dict[str, api.SIPInboundTrunkInfo | bytes] = {
    "krisp_enabled": api.SIPInboundTrunkInfo(krisp_enabled=True),
    "headers": api.SIPInboundTrunkInfo(headers={"X-Tenant": "7"}),
    "headers_to_attributes": api.SIPInboundTrunkInfo(headers_to_attributes={"X-Caller-Name": "name"}),
    "attributes_to_headers": api.SIPInboundTrunkInfo(attributes_to_headers={"ticket": "X-Ticket"}),
    "include_headers": api.SIPInboundTrunkInfo(include_headers=sip.SIP_X_HEADERS),
    "max_call_duration": api.SIPInboundTrunkInfo(max_call_duration=Duration(seconds=1800)),
    "ringing_timeout": api.SIPInboundTrunkInfo(ringing_timeout=Duration(seconds=60)),
    "media_timeout": api.SIPInboundTrunkInfo(media=sip.SIPMediaConfig(media_timeout=Duration(seconds=45))),
    "codecs": api.SIPInboundTrunkInfo(
        media=sip.SIPMediaConfig(only_listed_codecs=True, codecs=[api.SIPCodec(name="PCMU", rate=8000)])
    ),
    "encryption": api.SIPInboundTrunkInfo(
        media=sip.SIPMediaConfig(encryption=sip.SIP_MEDIA_ENCRYPT_ALLOW), media_encryption=sip.SIP_MEDIA_ENCRYPT_ALLOW
    ),
    "allowed_numbers": api.SIPInboundTrunkInfo(allowed_numbers=["+9990000000001"]),
    "password": api.SIPInboundTrunkInfo(auth_username="u", auth_password="p", auth_realm="r"),
    "unknown field": UNKNOWN_FIELD,
}

CONFIG = api.RoomConfiguration

RULE_SETTINGS: dict[str, api.SIPDispatchRuleInfo | bytes] = {
    "attributes": api.SIPDispatchRuleInfo(attributes={"tenant": "7"}),
    "metadata": api.SIPDispatchRuleInfo(metadata='{"team": "night"}'),
    "hide_phone_number": api.SIPDispatchRuleInfo(hide_phone_number=True),
    "room_preset": api.SIPDispatchRuleInfo(room_preset="recorded"),
    "krisp_enabled": api.SIPDispatchRuleInfo(krisp_enabled=True),
    "second agent": api.SIPDispatchRuleInfo(
        room_config=CONFIG(agents=[api.RoomAgentDispatch(agent_name="recorder", metadata='{"bucket": "b"}')])
    ),
    "empty_timeout": api.SIPDispatchRuleInfo(room_config=CONFIG(empty_timeout=90)),
    "departure_timeout": api.SIPDispatchRuleInfo(room_config=CONFIG(departure_timeout=15)),
    "max_participants": api.SIPDispatchRuleInfo(room_config=CONFIG(max_participants=3)),
    "room metadata": api.SIPDispatchRuleInfo(room_config=CONFIG(metadata="from the operator")),
    "playout delay": api.SIPDispatchRuleInfo(room_config=CONFIG(min_playout_delay=20, max_playout_delay=200)),
    "media_timeout": api.SIPDispatchRuleInfo(media=sip.SIPMediaConfig(media_timeout=Duration(seconds=45))),
    "pin": api.SIPDispatchRuleInfo(
        rule=api.SIPDispatchRule(dispatch_rule_individual=api.SIPDispatchRuleIndividual(pin="1234"))
    ),
    "callers": api.SIPDispatchRuleInfo(inbound_numbers=["+9990000000001"]),
    "unknown field": UNKNOWN_FIELD,
}


def with_setting(info: Message, setting: Message | bytes) -> Message:
    """Return the object with one more setting, as somebody writes it at LiveKit: lists are appended to."""
    added = setting if isinstance(setting, bytes) else setting.SerializeToString()
    return type(info).FromString(info.SerializeToString() + added)


@pytest.mark.parametrize("setting", TRUNK_SETTINGS.values(), ids=list(TRUNK_SETTINGS))
def test_what_is_set_on_a_trunk_by_hand_survives_an_update(
    livekit_platform: LiveKitPlatform, livekit: LiveKitServer, setting: api.SIPInboundTrunkInfo | bytes
) -> None:
    livekit.requires("updates")
    livekit.requires("checked media")
    number, second = livekit.number(), livekit.number()
    made = livekit_platform.create_inbound_trunk(inbound_spec(number))
    by_hand = with_setting(livekit.trunk(made.id), setting)
    livekit.sip(lambda sip: sip.update_inbound_trunk(made.id, by_hand))
    assert canonical(livekit.trunk(made.id)) == canonical(by_hand)

    now = livekit_platform.get_inbound_trunk(made.id)
    wanted = replace(
        now, name="new", metadata="{}", numbers=(*now.numbers, second), allowed_addresses=("192.0.2.0/24",)
    )
    assert livekit_platform.update_inbound_trunk(now, wanted)

    expected = api.SIPInboundTrunkInfo.FromString(by_hand.SerializeToString())
    expected.name, expected.metadata = "new", "{}"
    expected.numbers.append(second)
    expected.allowed_addresses[:] = ["192.0.2.0/24"]
    assert canonical(livekit.trunk(made.id)) == canonical(expected)
    assert livekit_platform.get_inbound_trunk(made.id) == wanted


@pytest.mark.parametrize("setting", RULE_SETTINGS.values(), ids=list(RULE_SETTINGS))
def test_what_is_set_on_a_rule_by_hand_survives_an_update(
    livekit_platform: LiveKitPlatform, livekit: LiveKitServer, setting: api.SIPDispatchRuleInfo | bytes
) -> None:
    livekit.requires("updates")
    livekit.requires("checked media")
    trunk_id, second = livekit.trunk_id(), livekit.trunk_id()
    made = livekit_platform.create_dispatch_rule(rule_spec(trunk_id))
    by_hand = with_setting(livekit.rule(made.id), setting)
    livekit.sip(lambda sip: sip.update_dispatch_rule(made.id, by_hand))
    assert canonical(livekit.rule(made.id)) == canonical(by_hand)

    now = livekit_platform.get_dispatch_rule(made.id)
    moved = (RuleAgent("other", "{}"), *now.agents[1:])
    assert livekit_platform.update_dispatch_rule(now, replace(now, name="new", trunk_ids=(second,), agents=moved))

    expected = api.SIPDispatchRuleInfo.FromString(by_hand.SerializeToString())
    expected.name, expected.trunk_ids[:] = "new", [second]
    expected.room_config.agents[0].agent_name, expected.room_config.agents[0].metadata = "other", "{}"
    assert canonical(livekit.rule(made.id)) == canonical(expected)


def test_a_server_keeps_what_it_does_not_know(livekit: LiveKitServer) -> None:
    livekit.requires("updates")
    made = livekit.add_trunk(livekit.number())
    livekit.sip(lambda sip: sip.update_inbound_trunk(made.sip_trunk_id, with_setting(made, UNKNOWN_FIELD)))
    assert livekit.trunk(made.sip_trunk_id).SerializeToString().endswith(UNKNOWN_FIELD)
