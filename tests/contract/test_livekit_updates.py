"""Updates of LiveKit's trunks and rules: what differs is written, and all else stays as somebody set it.

True of the sandbox and of any LiveKit server: each object is changed by hand with the SDK first, and read whole after.
"""

from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from livekit import api

from app.domain.options import RuleAgent
from app.path.observed import DispatchRule, Encryption, InboundTrunk, Media, RuleKind
from app.path.spec import DispatchRuleSpec, InboundTrunkSpec, Label
from app.providers.livekit import LiveKitPlatform
from tests.support.livekit_server import LiveKitServer, canonical

UNKNOWN_FIELD = b"\xc2\x3e\x07unknown"
"""Field 1000, a text: what a later release of LiveKit may have."""

REQUIRE, ALLOW, DISABLE = (f"SIP_MEDIA_ENCRYPT_{name}" for name in ("REQUIRE", "ALLOW", "DISABLE"))

TRUNK_BY_HAND: dict[str, dict[str, Any]] = {
    "krisp": {"krisp_enabled": True},
    "headers": {"headers": {"X-Tenant": "7"}, "include_headers": "SIP_X_HEADERS"},
    "headers to attributes": {"headers_to_attributes": {"X-Tenant": "tenant"}},
    "attributes to headers": {"attributes_to_headers": {"tenant": "X-Tenant"}},
    "durations": {"max_call_duration": "1800s", "ringing_timeout": "60.500s"},
    "callers": {"allowed_numbers": ["+4721234567"]},
    "a password": {"auth_username": "u", "auth_password": "p", "auth_realm": "r"},
    "media": {"media": {"codecs": [{"name": "PCMU", "rate": 8000}], "only_listed_codecs": True, "media_timeout": "9s"}},
    "encryption": {"media_encryption": ALLOW, "media": {"encryption": ALLOW}},
    "the older encryption": {"media_encryption": REQUIRE},
    "the newer encryption": {"media": {"encryption": REQUIRE}},
}
RULE_BY_HAND: dict[str, dict[str, Any]] = {
    "krisp": {"krisp_enabled": True},
    "hidden numbers": {"hide_phone_number": True},
    "attributes": {"attributes": {"tenant": "7"}},
    "metadata": {"metadata": '{"theirs": 1}'},
    "a preset": {"room_preset": "recorded"},
    "a room": {"room_config": {"empty_timeout": 30, "max_participants": 5, "metadata": "m"}},
    "a second agent": {"room_config": {"agents": [{"agent_name": "front-desk"}, {"agent_name": "recorder"}]}},
    "agents of a kind": {"room_config": {"agents": [{"agent_name": "a", "attributes": {"k": "v"}, "deployment": "d"}]}},
    "a PIN": {"rule": {"dispatch_rule_individual": {"room_prefix": "theirs", "pin": "1234"}}},
    "another kind": {"rule": {"dispatch_rule_callee": {"room_prefix": "theirs", "randomize": True}}},
    "media": {"media": {"codecs": [{"name": "PCMA"}], "encryption": ALLOW}},
    "callers": {"inbound_numbers": ["+4721234567"]},
}


@pytest.fixture
def trunk(livekit: LiveKitServer, livekit_platform: LiveKitPlatform) -> InboundTrunk:
    livekit.requires("updates")
    spec = InboundTrunkSpec(Label("trunkline/x/1", '{"mark": 1}'), livekit.number(), ("54.172.60.0/30",))
    return livekit_platform.create_inbound_trunk(spec)


@pytest.fixture
def rule(livekit: LiveKitServer, livekit_platform: LiveKitPlatform) -> DispatchRule:
    livekit.requires("updates")
    return livekit_platform.create_dispatch_rule(
        DispatchRuleSpec("trunkline/x/1", livekit.trunk_id(), "front-desk", "{}")
    )


def set_trunk(livekit: LiveKitServer, trunk_id: str, fields: dict[str, Any]) -> api.SIPInboundTrunkInfo:
    """Set fields of a trunk as somebody with the SDK would, and one that no SDK has yet; return all of it."""
    info = ParseDict(fields, livekit.trunk(trunk_id))
    info.MergeFromString(UNKNOWN_FIELD)
    livekit.sip(lambda sip: sip.update_inbound_trunk(trunk_id, info))
    return livekit.trunk(trunk_id)


def set_rule(livekit: LiveKitServer, rule_id: str, fields: dict[str, Any]) -> api.SIPDispatchRuleInfo:
    """Set fields of a rule likewise; agents of a rule are replaced, not added."""
    info = livekit.rule(rule_id)
    if "agents" in fields.get("room_config", {}):
        info.room_config.ClearField("agents")
    ParseDict(fields, info)
    info.MergeFromString(UNKNOWN_FIELD)
    livekit.sip(lambda sip: sip.update_dispatch_rule(rule_id, info))
    return livekit.rule(rule_id)


@pytest.mark.parametrize("fields", TRUNK_BY_HAND.values(), ids=list(TRUNK_BY_HAND))
def test_what_was_set_by_hand_on_a_trunk_survives_an_update(
    fields: dict[str, Any], trunk: InboundTrunk, livekit: LiveKitServer, livekit_platform: LiveKitPlatform
) -> None:
    before = set_trunk(livekit, trunk.id, fields)
    now = livekit_platform.get_inbound_trunk(trunk.id)
    assert now
    assert livekit_platform.update_inbound_trunk(now, replace(now, name="new", metadata="{}"))
    before.name, before.metadata = "new", "{}"
    assert canonical(livekit.trunk(trunk.id)) == canonical(before)
    assert b"unknown" in before.SerializeToString()


@pytest.mark.parametrize("fields", RULE_BY_HAND.values(), ids=list(RULE_BY_HAND))
def test_what_was_set_by_hand_on_a_rule_survives_an_update(
    fields: dict[str, Any], rule: DispatchRule, livekit: LiveKitServer, livekit_platform: LiveKitPlatform
) -> None:
    before = set_rule(livekit, rule.id, fields)
    now = livekit_platform.get_dispatch_rule(rule.id)
    assert now
    assert livekit_platform.update_dispatch_rule(now, replace(now, name="new"))
    before.name = "new"
    assert canonical(livekit.rule(rule.id)) == canonical(before)
    assert b"unknown" in before.SerializeToString()


def test_numbers_are_taken_off_a_trunk_and_what_somebody_set_meanwhile_stays(
    trunk: InboundTrunk, livekit: LiveKitServer, livekit_platform: LiveKitPlatform
) -> None:
    first, second = livekit.number(), livekit.number()
    before = set_trunk(livekit, trunk.id, {"numbers": [*trunk.numbers, first, second, first], "krisp_enabled": True})
    assert livekit_platform.take_numbers_off(trunk.id, [first, first, "+15145550000"])
    now = livekit.trunk(trunk.id)
    assert list(now.numbers) == [*trunk.numbers, second]
    assert (now.krisp_enabled, now.name, b"unknown" in now.SerializeToString()) == (True, before.name, True)
    livekit_platform.delete_trunk(trunk.id)
    assert not livekit_platform.take_numbers_off(trunk.id, [second])


def test_an_update_without_a_difference_sends_nothing(
    trunk: InboundTrunk, rule: DispatchRule, livekit: LiveKitServer, livekit_platform: LiveKitPlatform
) -> None:
    livekit.calls.clear()
    assert livekit_platform.update_inbound_trunk(trunk, replace(trunk, raw=b""))
    assert livekit_platform.update_dispatch_rule(rule, replace(rule, raw=b""))
    assert livekit.calls == []


def test_what_is_gone_is_not_updated(
    trunk: InboundTrunk, rule: DispatchRule, livekit: LiveKitServer, livekit_platform: LiveKitPlatform
) -> None:
    livekit_platform.delete_trunk(trunk.id)
    livekit_platform.delete_dispatch_rule(rule.id)
    assert not livekit_platform.update_inbound_trunk(trunk, replace(trunk, name="new"))
    assert not livekit_platform.update_dispatch_rule(rule, replace(rule, name="new"))
    assert livekit_platform.get_inbound_trunk(trunk.id) is None
    assert livekit_platform.get_dispatch_rule(rule.id) is None


TRUNK_CHANGES: dict[str, dict[str, Any]] = {
    "name": {"name": "new"},
    "metadata": {"metadata": '{"a": "é"}'},
    "numbers": {"numbers": ("+999000000001", "999 000 000 (002)")},
    "addresses": {"allowed_addresses": ("192.0.2.0/24", "198.51.100.1")},
    "no addresses": {"allowed_addresses": ()},
    "callers": {"allowed_numbers": ("+4721234567",)},
    "ringing": {"ringing_timeout_s": 12.5},
    "own ringing": {"ringing_timeout_s": 0.0},
    "duration": {"max_call_duration_s": 7200.0},
    "encryption": {"media": Media(Encryption.REQUIRE)},
    "codecs": {"media": Media(codecs=("PCMU/8000", "opus"), only_listed_codecs=True)},
    "krisp": {"krisp": False},
    "headers to attributes": {"headers_to_attributes": (("X-A", "other"), ("X-Team", "team"))},
    "no headers to attributes": {"headers_to_attributes": ()},
    "headers": {"include_headers": "all"},
    "headers of its own": {"include_headers": "x"},
}


@pytest.mark.parametrize("changes", TRUNK_CHANGES.values(), ids=list(TRUNK_CHANGES))
def test_every_field_of_a_trunk_is_written_alone_and_back_again(
    changes: dict[str, Any], trunk: InboundTrunk, livekit: LiveKitServer, livekit_platform: LiveKitPlatform
) -> None:
    by_hand = {"krisp_enabled": True, "headers": {"X-A": "b"}, "headers_to_attributes": {"X-A": "a", "X-B": "b"}}
    before = set_trunk(livekit, trunk.id, by_hand)
    now = livekit_platform.get_inbound_trunk(trunk.id)
    assert now
    wanted = replace(now, **changes)
    assert livekit_platform.update_inbound_trunk(now, wanted)
    changed = livekit_platform.get_inbound_trunk(trunk.id)
    assert changed == wanted
    assert livekit_platform.update_inbound_trunk(wanted if changed is None else changed, now)
    after = livekit.trunk(trunk.id)
    _forget_explicit_defaults(after, before)
    assert canonical(after) == canonical(before)


def test_a_password_is_taken_off_and_never_made_up(
    trunk: InboundTrunk, livekit: LiveKitServer, livekit_platform: LiveKitPlatform
) -> None:
    set_trunk(livekit, trunk.id, TRUNK_BY_HAND["a password"])
    now = livekit_platform.get_inbound_trunk(trunk.id)
    assert now
    assert (now.has_username, now.has_password, now.asks_password) == (True, True, True)
    assert livekit_platform.update_inbound_trunk(now, replace(now, has_password=False))
    assert (livekit.trunk(trunk.id).auth_username, livekit.trunk(trunk.id).auth_password) == ("u", "")
    with pytest.raises(ValueError, match="credentials"):
        livekit_platform.update_inbound_trunk(trunk, replace(trunk, has_username=True))


RULE_CHANGES: dict[str, dict[str, Any]] = {
    "name": {"name": "new"},
    "metadata": {"metadata": '{"a": "é"}'},
    "trunks": {"trunk_ids": ("ST_nobody222222", "ST_nobody333333")},
    "callers": {"inbound_numbers": ("+4721234567", "4721234567x")},
    "numbers": {"numbers": ("+999000000001",)},
    "another agent": {"agents": (RuleAgent("sales", "job"),)},
    "two agents": {"agents": (RuleAgent("recorder"), RuleAgent("front-desk", "{}"))},
    "no agent": {"agents": ()},
    "room": {"room": "desk"},
    "a PIN": {"pin": "1234"},
    "fixed rooms": {"is_fixed_room": True},
    "one room": {"kind": RuleKind.DIRECT, "room": "lobby", "pin": "99", "is_fixed_room": True},
    "a room for each number": {"kind": RuleKind.CALLEE, "room": "line", "is_fixed_room": True},
    "a preset": {"room_preset": "recorded"},
    "encryption": {"media": Media(Encryption.ALLOW)},
    "codecs": {"media": Media(codecs=("PCMA",))},
    "a random room for each call to a number": {"kind": RuleKind.CALLEE, "room": "line", "is_fixed_room": False},
    "attributes": {"attributes": (("a", "c"), ("d", "e"))},
    "no attributes": {"attributes": ()},
    "a hidden number": {"hides_caller": True},
    "krisp": {"krisp": False},
    "timeouts": {"empty_timeout_s": 90, "departure_timeout_s": 15},
    "participants": {"max_participants": 3},
    "no limit": {"max_participants": 0},
}


@pytest.mark.parametrize("changes", RULE_CHANGES.values(), ids=list(RULE_CHANGES))
def test_every_field_of_a_rule_is_written_alone_and_back_again(
    changes: dict[str, Any], rule: DispatchRule, livekit: LiveKitServer, livekit_platform: LiveKitPlatform
) -> None:
    room_config = {"max_participants": 5, "metadata": "m"}
    by_hand = {"krisp_enabled": True, "attributes": {"a": "b", "c": "d"}, "room_config": room_config}
    before = set_rule(livekit, rule.id, by_hand)
    now = livekit_platform.get_dispatch_rule(rule.id)
    assert now
    wanted = replace(now, **changes)
    assert livekit_platform.update_dispatch_rule(now, wanted)
    changed = livekit_platform.get_dispatch_rule(rule.id)
    assert changed == wanted
    assert livekit_platform.update_dispatch_rule(wanted if changed is None else changed, now)
    after = livekit.rule(rule.id)
    _forget_explicit_defaults(after, before)
    assert canonical(after) == canonical(before)


def _forget_explicit_defaults(after: Any, before: Any) -> None:
    """Take "not encrypted" out where it was said by silence before, and an empty message likewise."""
    if not before.media.HasField("encryption") and after.media.encryption == 0:
        after.media.ClearField("encryption")
    if not before.HasField("media") and not after.media.ByteSize():
        after.ClearField("media")


def test_headers_of_a_kind_that_only_a_newer_server_knows_are_kept_and_not_made_up(
    trunk: InboundTrunk, livekit: LiveKitServer, livekit_platform: LiveKitPlatform
) -> None:
    before = set_trunk(livekit, trunk.id, {"include_headers": 7})
    now = livekit_platform.get_inbound_trunk(trunk.id)
    assert now
    assert now.include_headers not in {"none", "x", "all"}
    assert livekit_platform.update_inbound_trunk(now, replace(now, name="new"))
    assert livekit.trunk(trunk.id).include_headers == before.include_headers == 7
    with pytest.raises(ValueError, match="other"):
        livekit_platform.update_inbound_trunk(trunk, replace(trunk, include_headers="other"))


def test_both_fields_for_encryption_are_read_as_livekit_does_and_written_alike(
    trunk: InboundTrunk, livekit: LiveKitServer, livekit_platform: LiveKitPlatform
) -> None:
    for by_hand, expected in (
        ({"media_encryption": REQUIRE}, Encryption.REQUIRE),
        ({"media_encryption": REQUIRE, "media": {"encryption": ALLOW}}, Encryption.ALLOW),
        ({"media_encryption": REQUIRE, "media": {"encryption": DISABLE}}, Encryption.DISABLE),
        ({"media_encryption": DISABLE, "media": {"encryption": REQUIRE}}, Encryption.REQUIRE),
    ):
        set_trunk(livekit, trunk.id, by_hand)
        now = livekit_platform.get_inbound_trunk(trunk.id)
        assert now
        assert now.media.encryption is expected
        other = Encryption.DISABLE if expected is Encryption.REQUIRE else Encryption.REQUIRE
        assert livekit_platform.update_inbound_trunk(now, replace(now, media=replace(now.media, encryption=other)))
        info = livekit.trunk(trunk.id)
        assert info.media_encryption == info.media.encryption
        assert livekit_platform.get_inbound_trunk(trunk.id) == replace(now, media=Media(other))


def test_a_value_of_a_later_release_is_read_and_kept(
    trunk: InboundTrunk, rule: DispatchRule, livekit: LiveKitServer, livekit_platform: LiveKitPlatform
) -> None:
    # Numbers, since this SDK has no names for them.
    set_trunk(livekit, trunk.id, {"media_encryption": 9, "media": {"encryption": 9}, "include_headers": 9})
    set_rule(livekit, rule.id, {"media_encryption": 9, "media": {"encryption": 9}})
    now, rule_now = livekit_platform.get_inbound_trunk(trunk.id), livekit_platform.get_dispatch_rule(rule.id)
    assert now
    assert rule_now
    assert livekit_platform.update_inbound_trunk(now, replace(now, name="new"))
    assert livekit_platform.update_dispatch_rule(rule_now, replace(rule_now, name="new"))
    kept = livekit.trunk(trunk.id)
    assert (kept.media.encryption, kept.include_headers, livekit.rule(rule.id).media.encryption) == (9, 9, 9)


def test_an_agent_keeps_its_fields_by_name_and_else_by_its_place(
    rule: DispatchRule, livekit: LiveKitServer, livekit_platform: LiveKitPlatform
) -> None:
    agents = [
        {"agent_name": name, "metadata": f"job of {name}", "attributes": {"was": name}, "deployment": f"{name}-1"}
        for name in ("sales", "recorder", "front-desk")
    ]
    set_rule(livekit, rule.id, {"room_config": {"agents": agents}})
    now = livekit_platform.get_dispatch_rule(rule.id)
    assert now
    wanted = (RuleAgent("billing", "new job"), now.agents[2], RuleAgent("recorder", "another job"), RuleAgent("extra"))
    assert livekit_platform.update_dispatch_rule(now, replace(now, agents=wanted))
    found = [
        (agent.agent_name, agent.metadata, dict(agent.attributes), agent.deployment)
        for agent in livekit.rule(rule.id).room_config.agents
    ]
    assert found == [
        ("billing", "new job", {"was": "sales"}, "sales-1"),
        ("front-desk", "job of front-desk", {"was": "front-desk"}, "front-desk-1"),
        ("recorder", "another job", {"was": "recorder"}, "recorder-1"),
        ("extra", "", {}, ""),
    ]


def test_a_codec_keeps_its_clock_rate(
    trunk: InboundTrunk, livekit: LiveKitServer, livekit_platform: LiveKitPlatform
) -> None:
    set_trunk(livekit, trunk.id, {"media": {"codecs": [{"name": "PCMU", "rate": 8000}, {"name": "opus"}]}})
    now = livekit_platform.get_inbound_trunk(trunk.id)
    assert now
    assert now.media.codecs == ("PCMU/8000", "opus")
    wanted = replace(now, media=replace(now.media, codecs=("G722/8000", "PCMU/8000")))
    assert livekit_platform.update_inbound_trunk(now, wanted)
    codecs = [(codec.name, codec.rate) for codec in livekit.trunk(trunk.id).media.codecs]
    assert codecs == [("G722", 8000), ("PCMU", 8000)]
