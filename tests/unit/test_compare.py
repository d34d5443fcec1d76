"""What we own in each object: what a repair writes, and what it leaves to others."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from app.domain.findings import FindingCode, Severity
from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK, NUMBER, ORIGINATION_URL, TRUNK
from app.domain.options import RuleAgent
from app.domain.sip_uris import parse_sip_uri
from app.path.compare import compare
from app.path.corrections import corrected_inbound_trunk, corrected_rule, corrected_trunk, corrected_url
from app.path.marks import tag_of
from app.path.observed import (
    CarrierNumber,
    CarrierTrunk,
    DispatchRule,
    Encryption,
    InboundTrunk,
    Media,
    NumberRouting,
    Observed,
    OriginationUrl,
    RuleKind,
)
from app.path.spec import Former, Label, PathSpec, Profile

E164 = "+15145550001"
AGENT = UUID(int=7)
TAG = tag_of("test", AGENT)
MARK = f'{{"managedBy": "trunkline", "instance": "test", "agentId": "{AGENT}"}}'
TWILIO = (
    "54.172.60.0/30",
    "54.244.51.0/30",
    "54.171.127.192/30",
    "35.156.191.128/30",
    "54.65.63.192/30",
    "54.169.127.128/30",
    "54.252.254.64/30",
    "177.71.206.192/30",
)
IDS = {
    NUMBER: "PN" + "1" * 32,
    TRUNK: "TK" + "1" * 32,
    ORIGINATION_URL: "OU" + "1" * 32,
    INBOUND_TRUNK: "ST_aaaaaaaaaaaa",
    DISPATCH_RULE: "SDR_aaaaaaaaaaaa",
}
URI = "sip:abc.sip.livekit.cloud;transport=tcp"


def spec(**profile: object) -> PathSpec:
    base = Profile(parse_sip_uri(URI), allowed_addresses=TWILIO, ringing_timeout=timedelta(seconds=30))
    changed = replace(base, **profile)  # type: ignore[arg-type]  # fields of Profile
    return PathSpec(changed, "test", str(AGENT), "front-desk", '{"a": 1}', E164, Label(TAG, MARK), IDS)


TRUNK_NOW = CarrierTrunk(IDS[TRUNK], TAG, is_secure=False, created_at=None, transfer_mode="disable-all")
URL_NOW = OriginationUrl(
    IDS[ORIGINATION_URL], IDS[TRUNK], URI, is_enabled=True, tag=TAG, created_at=None, priority=10, weight=10
)
INBOUND_NOW = InboundTrunk(IDS[INBOUND_TRUNK], TAG, MARK, (E164,), TWILIO, ringing_timeout_s=30)
RULE_NOW = DispatchRule(
    IDS[DISPATCH_RULE], TAG, "", (IDS[INBOUND_TRUNK],), (RuleAgent("front-desk", '{"a": 1}'),), room="call"
)


def observed(
    trunk: CarrierTrunk = TRUNK_NOW,
    url: OriginationUrl = URL_NOW,
    inbound: InboundTrunk = INBOUND_NOW,
    rule: DispatchRule = RULE_NOW,
) -> Observed:
    number = CarrierNumber(IDS[NUMBER], E164, "AC" + "1" * 32, NumberRouting(IDS[TRUNK], None, None))
    return Observed(
        {number.sid: number}, {trunk.sid: trunk}, {trunk.sid: [url]}, {inbound.id: inbound}, {rule.id: rule}
    )


def test_a_path_as_we_made_it_has_no_findings() -> None:
    assert compare(spec(), observed()) == []


KEPT_ON_THE_TRUNK = {
    "its name, when it is no mark": {"name": "Reception"},
    "more numbers": {"numbers": ("+15145559999", E164)},
    "the number written another way": {"numbers": ("1 (514) 555-0001",)},
    "wider addresses": {"allowed_addresses": ("54.0.0.0/8", "35.156.0.0/16", "177.71.0.0/16")},
    "a longer ring": {"ringing_timeout_s": 60.0},
    "a limit of half an hour": {"max_call_duration_s": 1800.0},
    "keys beside the mark": {"metadata": MARK.replace("{", '{"team": "sales", ', 1)},
    "encryption that is only allowed": {"media": Media(Encryption.ALLOW)},
    "codecs that Twilio has": {"media": Media(codecs=("PCMU", "opus/48000"), only_listed_codecs=True)},
}


@pytest.mark.parametrize("name", KEPT_ON_THE_TRUNK)
def test_what_others_set_on_a_livekit_trunk_is_kept_and_no_finding(name: str) -> None:
    now = replace(INBOUND_NOW, **KEPT_ON_THE_TRUNK[name])  # type: ignore[arg-type]  # fields of InboundTrunk
    assert corrected_inbound_trunk(now, spec(), twilio_encrypts=False) == now
    assert compare(spec(), observed(inbound=now)) == []


MENDED_ON_THE_TRUNK = {
    "a password": ({"has_username": True, "has_password": True}, {"has_username": False, "has_password": False}),
    "some callers only": ({"allowed_numbers": ("+1555",)}, {"allowed_numbers": ()}),
    "addresses of somebody else": ({"allowed_addresses": ("10.0.0.0/8",)}, {"allowed_addresses": TWILIO}),
    "no addresses": ({"allowed_addresses": ()}, {"allowed_addresses": TWILIO}),
    "the whole Internet": ({"allowed_addresses": ("0.0.0.0/0",)}, {"allowed_addresses": TWILIO}),
    "encryption that Twilio does not do": ({"media": Media(Encryption.REQUIRE)}, {"media": Media()}),
    "codecs that Twilio lacks": ({"media": Media(codecs=("opus/48000",), only_listed_codecs=True)}, {"media": Media()}),
    "calls that are cut": ({"max_call_duration_s": 1.0}, {"max_call_duration_s": 0.0}),
    "a ring that nobody can answer": ({"ringing_timeout_s": 0.5}, {"ringing_timeout_s": 30.0}),
    "no number": ({"numbers": ()}, {"numbers": (E164,)}),
    "an empty mark": ({"metadata": "", "name": ""}, {"metadata": MARK, "name": TAG}),
}


@pytest.mark.parametrize("name", MENDED_ON_THE_TRUNK)
def test_what_stops_calls_on_a_livekit_trunk_is_mended_and_nothing_else(name: str) -> None:
    change, mended = MENDED_ON_THE_TRUNK[name]
    now = replace(INBOUND_NOW, **change)  # type: ignore[arg-type]  # fields of InboundTrunk
    wanted = corrected_inbound_trunk(now, spec(), twilio_encrypts=False)
    assert wanted == replace(now, **mended)  # type: ignore[arg-type]  # fields of InboundTrunk
    assert compare(spec(), observed(inbound=now))
    assert compare(spec(), observed(inbound=wanted)) == []


def test_our_agent_takes_its_own_place_and_the_recorder_stays() -> None:
    recorder = RuleAgent("recorder", "{}")
    ours = RuleAgent("front-desk", '{"a": 1}')
    for now, wanted in (
        ((recorder, replace(ours, metadata="changed")), (recorder, ours)),
        ((recorder,), (ours, recorder)),
        ((RuleAgent("renamed", '{"a": 1}'), recorder), (ours, recorder)),
        ((), (ours,)),
        ((recorder, RuleAgent("before", '{"b": 2}')), (recorder, ours)),
    ):
        rule = replace(RULE_NOW, agents=now)
        assert corrected_rule(rule, spec(), twilio_encrypts=False, former=Former("before")).agents == wanted


CHANGED_RULES = {
    "a PIN": ({"pin": "1234"}, FindingCode.RULE_PIN, Severity.CRITICAL),
    "made direct": ({"kind": RuleKind.DIRECT, "room": "lobby"}, FindingCode.RULE_CHANGED, Severity.WARNING),
    "a fixed room": ({"is_fixed_room": True}, FindingCode.RULE_CHANGED, Severity.WARNING),
    "another job": ({"agents": (RuleAgent("front-desk", "{}"),)}, FindingCode.RULE_CHANGED, Severity.WARNING),
    "an unknown preset": ({"room_preset": "studio"}, FindingCode.RULE_PRESET, Severity.WARNING),
    "a lost name": ({"name": ""}, FindingCode.MARK_LOST, Severity.WARNING),
    "no agent": ({"agents": ()}, FindingCode.RULE_LOST_AGENT, Severity.CRITICAL),
    "another trunk": ({"trunk_ids": ("ST_bbbbbbbbbbbb",)}, FindingCode.RULE_DEAD_TRUNK, Severity.CRITICAL),
    "its trunk twice": ({"trunk_ids": (IDS[INBOUND_TRUNK],) * 2}, FindingCode.RULE_CHANGED, Severity.CRITICAL),
}


@pytest.mark.parametrize("name", CHANGED_RULES)
def test_a_changed_rule_has_one_finding_that_says_whether_calls_fail(name: str) -> None:
    change, code, severity = CHANGED_RULES[name]
    now = replace(RULE_NOW, **change)  # type: ignore[arg-type]  # fields of DispatchRule
    found = {(finding.code, finding.severity) for finding in compare(spec(), observed(rule=now))}
    assert (code, severity) in found
    wanted = corrected_rule(now, spec(), twilio_encrypts=False)
    assert not [one for one in compare(spec(), observed(rule=wanted)) if one.code is not FindingCode.RULE_PRESET]


def test_a_preset_that_the_server_has_is_no_finding_and_one_that_it_lacks_stops_calls() -> None:
    now = replace(RULE_NOW, room_preset="studio")
    assert compare(spec(room_presets=frozenset({"studio"})), observed(rule=now)) == []
    (finding,) = compare(spec(room_presets=frozenset()), observed(rule=now))
    assert (finding.code, finding.severity) == (FindingCode.RULE_PRESET, Severity.CRITICAL)
    assert corrected_rule(now, spec(room_presets=frozenset()), twilio_encrypts=False).room_preset == ""


def test_a_line_that_somebody_encrypted_at_both_ends_stays_so() -> None:
    trunk = replace(TRUNK_NOW, is_secure=True)
    url = replace(URL_NOW, sip_url="sip:abc.sip.livekit.cloud;transport=tls")
    inbound = replace(INBOUND_NOW, media=Media(Encryption.REQUIRE))
    assert compare(spec(), observed(trunk, url, inbound)) == []
    assert corrected_trunk(trunk, spec(), livekit_encrypts=True) == trunk
    assert corrected_inbound_trunk(inbound, spec(), twilio_encrypts=True) == inbound
    assert corrected_url(url, spec(), is_secure=True) == url


HALVES: dict[str, tuple[Observed, FindingCode]] = {
    "Twilio only": (observed(replace(TRUNK_NOW, is_secure=True)), FindingCode.TRUNK_SECURE),
    "LiveKit only": (
        observed(inbound=replace(INBOUND_NOW, media=Media(Encryption.REQUIRE))),
        FindingCode.LIVEKIT_TRUNK_ENCRYPTION,
    ),
    "the rule only": (
        observed(rule=replace(RULE_NOW, media=Media(Encryption.REQUIRE))),
        FindingCode.RULE_ENCRYPTION,
    ),
}


@pytest.mark.parametrize("name", HALVES)
def test_a_line_that_only_one_end_encrypts_stops_calls(name: str) -> None:
    seen, code = HALVES[name]
    (finding,) = compare(spec(), seen)
    assert (finding.code, finding.severity) == (code, Severity.CRITICAL)


def test_a_secure_profile_asks_for_encryption_at_both_ends() -> None:
    secure = spec(is_secure=True, sip_uri=parse_sip_uri(URI).over_tls())
    codes = {finding.code for finding in compare(secure, observed())}
    assert codes == {
        FindingCode.TRUNK_CHANGED,
        FindingCode.ORIGINATION_URL_CHANGED,
        FindingCode.LIVEKIT_TRUNK_CHANGED,
    }
    assert corrected_trunk(TRUNK_NOW, secure, livekit_encrypts=False).is_secure
    inbound = corrected_inbound_trunk(INBOUND_NOW, secure, twilio_encrypts=False)
    assert inbound.media.encryption is Encryption.REQUIRE


SAME_URLS = (
    "sip:abc.sip.livekit.cloud:5060;transport=tcp",
    "SIP:ABC.sip.livekit.cloud;transport=TCP",
    "sip:abc.sip.livekit.cloud;transport=tcp;edge=dublin",
    "sip:abc.sip.livekit.cloud;edge=dublin;transport=tcp?X-Team=sales",
)


@pytest.mark.parametrize("url", SAME_URLS)
def test_a_url_that_means_the_same_is_no_change(url: str) -> None:
    assert compare(spec(), observed(url=replace(URL_NOW, sip_url=url))) == []


def test_an_edge_is_kept_when_the_rest_of_the_url_is_put_right() -> None:
    now = replace(URL_NOW, sip_url="sip:abc.sip.livekit.cloud;transport=udp;edge=dublin")
    wanted = corrected_url(now, spec(), is_secure=False)
    assert parse_sip_uri(wanted.sip_url) == parse_sip_uri(f"{URI};edge=dublin")
    (finding,) = compare(spec(), observed(url=now))
    assert (finding.code, finding.severity) == (FindingCode.ORIGINATION_URL_CHANGED, Severity.WARNING)


def test_a_transfer_mode_is_compared_only_where_it_is_set() -> None:
    now = replace(TRUNK_NOW, transfer_mode="enable-all")
    assert compare(spec(), observed(now)) == []
    (finding,) = compare(spec(transfer_mode="sip-only"), observed(now))
    assert finding.code is FindingCode.TRUNK_CHANGED


def test_a_correction_corrects_nothing_twice() -> None:
    rule = replace(RULE_NOW, pin="1", kind=RuleKind.CALLEE, inbound_numbers=("+1",), agents=())
    once = corrected_rule(rule, spec(), twilio_encrypts=False)
    assert corrected_rule(once, spec(), twilio_encrypts=False) == once
    inbound = replace(INBOUND_NOW, numbers=(), allowed_numbers=("+1",), metadata="[", allowed_addresses=("x",))
    first = corrected_inbound_trunk(inbound, spec(), twilio_encrypts=False)
    assert corrected_inbound_trunk(first, spec(), twilio_encrypts=False) == first
