"""The sandbox keeps every field: all that Twilio's resources take, and LiveKit fields of versions to come."""

import inspect
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.unknown_fields import UnknownFieldSet
from livekit import api
from livekit.protocol.models import ListUpdate
from test_sandbox_livekit import INDIVIDUAL, add_rule, add_trunk
from test_sandbox_process import RunningSandbox, emptied_sandbox, running
from twilio.base.exceptions import TwilioRestException
from twilio.rest.api.v2010.account.incoming_phone_number import IncomingPhoneNumberContext, IncomingPhoneNumberList
from twilio.rest.trunking.v1.trunk import TrunkContext, TrunkList
from twilio.rest.trunking.v1.trunk.origination_url import OriginationUrlContext, OriginationUrlList

from app.dev.sandbox import ACCOUNT_SID
from tests.support.twilio_server import TRUNKING, V1_TRUNKS, refused

NUMBER = "+15145551234"
OTHER = "+15145559999"
NUMBERS = f"/2010-04-01/Accounts/{ACCOUNT_SID}/IncomingPhoneNumbers"
URL = {"weight": 1, "priority": 1, "enabled": True, "friendly_name": "LiveKit", "sip_url": "sip:a.sip.livekit.cloud"}
AP, AD, BU, RI = (prefix + "aB" * 16 for prefix in ("AP", "AD", "BU", "RI"))
LINK = "https://example.com/x?y=1"

NUMBER_FIELDS: dict[str, Any] = {
    "address_sid": AD,
    "api_version": "2008-08-01",
    "bundle_sid": BU,
    "emergency_address_sid": AD,
    "emergency_status": "Active",
    "friendly_name": "x" * 64,
    "identity_sid": RI,
    "sms_application_sid": AP,
    "sms_fallback_method": "GET",
    "sms_fallback_url": LINK,
    "sms_method": "GET",
    "sms_url": LINK,
    "status_callback": LINK,
    "status_callback_method": "GET",
    "voice_application_sid": AP,
    "voice_caller_id_lookup": True,
    "voice_fallback_method": "GET",
    "voice_fallback_url": LINK,
    "voice_method": "GET",
    "voice_receive_mode": "fax",
    "voice_url": LINK,
}
"""What may be set of a number, but for its trunk, which excludes the application."""

TRUNK_FIELDS: dict[str, Any] = {
    "cnam_lookup_enabled": True,
    "disaster_recovery_method": "GET",
    "disaster_recovery_url": LINK,
    "domain_name": "ours.pstn.twilio.com",
    "friendly_name": "x" * 65,
    "secure": True,
    "transfer_caller_id": "from-transferor",
    "transfer_mode": "sip-only",
}

URL_FIELDS: dict[str, Any] = {
    "enabled": False,
    "friendly_name": "x" * 64,
    "priority": 65535,
    "sip_url": "SIPS:[2001:db8::1]:5061;edge=dublin?X-A=b",
    "weight": 0,
}


@pytest.fixture
def sandbox() -> RunningSandbox:
    return emptied_sandbox()


@pytest.mark.parametrize(
    ("call", "fields", "others"),
    [
        (IncomingPhoneNumberList.create, NUMBER_FIELDS, {"trunk_sid", "phone_number", "area_code"}),
        (IncomingPhoneNumberContext.update, NUMBER_FIELDS, {"trunk_sid", "account_sid"}),
        (TrunkList.create, TRUNK_FIELDS, set()),
        (TrunkContext.update, TRUNK_FIELDS, set()),
        (OriginationUrlList.create, URL_FIELDS, set()),
        (OriginationUrlContext.update, URL_FIELDS, set()),
    ],
)
def test_these_are_all_fields_that_the_sdk_knows(call: Any, fields: dict[str, Any], others: set[str]) -> None:
    assert inspect.signature(call).parameters.keys() - {"self"} == fields.keys() | others


def changes(fields: dict[str, Any]) -> list[Any]:
    """Return one test case for each field alone, and one for all at once."""
    return [*({name: value} for name, value in fields.items()), fields]


@pytest.mark.parametrize("fields", changes(NUMBER_FIELDS), ids=lambda fields: "+".join(fields)[:24])
def test_every_field_of_a_number_is_kept(sandbox: RunningSandbox, fields: dict[str, Any]) -> None:
    numbers = sandbox.twilio().incoming_phone_numbers
    bought = numbers.create(phone_number=OTHER, **fields)
    changed = numbers(sandbox.add_number(NUMBER)["sid"]).update(**fields)
    for number in (bought, changed):
        raw = sandbox.raw_twilio("GET", f"{NUMBERS}/{number.sid}.json").json()
        assert {name: raw[name] for name in fields} == fields
        assert raw["emergency_address_status"] == (
            "registered" if "emergency_address_sid" in fields else "unregistered"
        )


@pytest.mark.parametrize("fields", changes(TRUNK_FIELDS), ids=lambda fields: "+".join(fields)[:24])
def test_every_field_of_a_trunk_is_kept(sandbox: RunningSandbox, fields: dict[str, Any]) -> None:
    trunks = sandbox.twilio().trunking.v1.trunks
    other = {**fields, "domain_name": "other.pstn.twilio.com"} if "domain_name" in fields else fields
    for trunk, sent in ((trunks.create(**fields), fields), (trunks(trunks.create().sid).update(**other), other)):
        raw = sandbox.raw_twilio("GET", f"{V1_TRUNKS}/{trunk.sid}", TRUNKING).json()
        assert {name: raw[name] for name in sent} == sent


@pytest.mark.parametrize("fields", changes(URL_FIELDS), ids=lambda fields: "+".join(fields)[:24])
def test_every_field_of_an_origination_url_is_kept(sandbox: RunningSandbox, fields: dict[str, Any]) -> None:
    trunk = sandbox.twilio().trunking.v1.trunks.create().sid
    urls = sandbox.twilio().trunking.v1.trunks(trunk).origination_urls
    for url in (urls.create(**{**URL, **fields}), urls(urls.create(**URL).sid).update(**fields)):
        raw = sandbox.raw_twilio("GET", f"{V1_TRUNKS}/{trunk}/OriginationUrls/{url.sid}", TRUNKING).json()
        assert {name: raw[name] for name in URL} == {**URL, **fields}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "PATCH") for name in NUMBER_FIELDS if name.endswith("_method")),
        *((name, "XX" + "a" * 32) for name in NUMBER_FIELDS if name.endswith("_sid")),
        *((name, "AP" + "g" * 32) for name in NUMBER_FIELDS if name.endswith("_sid")),
        ("emergency_status", "active"),
        ("friendly_name", "x" * 65),
        ("voice_receive_mode", "both"),
    ],
)
def test_a_number_takes_no_wrong_value(sandbox: RunningSandbox, name: str, value: str) -> None:
    number = sandbox.twilio().incoming_phone_numbers(sandbox.add_number(NUMBER)["sid"])
    with refused(400, 20001):
        number.update(**{name: value})


@pytest.mark.parametrize(
    "name", ["voice_application_sid", "sms_application_sid", "address_sid", "emergency_address_sid"]
)
def test_an_empty_sid_clears_the_field(sandbox: RunningSandbox, name: str) -> None:
    number = sandbox.twilio().incoming_phone_numbers(sandbox.add_number(NUMBER)["sid"])
    assert getattr(number.update(**{name: NUMBER_FIELDS[name]}), name)
    assert not getattr(number.update(**{name: ""}), name)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"transfer_mode": "all"}, 20001),
        ({"transfer_caller_id": "me"}, 20001),
        ({"disaster_recovery_method": "get"}, 20001),
        ({"domain_name": "ours"}, 21245),
    ],
)
def test_a_trunk_takes_no_wrong_value(sandbox: RunningSandbox, fields: dict[str, str], code: int) -> None:
    trunks = sandbox.twilio().trunking.v1.trunks
    for call in (trunks.create, trunks(trunks.create().sid).update):
        with refused(400, code):
            call(**fields)


@pytest.mark.parametrize(
    ("resource", "name", "value"),
    [
        ("", "Secure", "yes"),
        ("", "CnamLookupEnabled", "1"),
        ("/OriginationUrls/{url}", "Enabled", ""),
        ("/OriginationUrls/{url}", "Weight", "-1"),
        ("/OriginationUrls/{url}", "Weight", "65536"),
        ("/OriginationUrls/{url}", "Priority", "\uff11"),
    ],
)
def test_a_flag_and_a_whole_number_are_what_they_say(
    sandbox: RunningSandbox, resource: str, name: str, value: str
) -> None:
    trunk = sandbox.twilio().trunking.v1.trunks.create().sid
    url = sandbox.twilio().trunking.v1.trunks(trunk).origination_urls.create(**URL).sid
    path = f"{V1_TRUNKS}/{trunk}{resource.format(url=url)}"
    answer = sandbox.raw_twilio("POST", path, TRUNKING, data={name: value})
    assert (answer.status_code, answer.json()["code"]) == (400, 20001)


def test_a_number_of_an_area_code_is_one_that_the_account_has_not(sandbox: RunningSandbox) -> None:
    numbers = sandbox.twilio().incoming_phone_numbers
    bought = [numbers.create(area_code="514").phone_number for _ in range(2)]
    assert bought == ["+15145550100", "+15145550101"]
    with refused(400, 21451):
        numbers.create(area_code="51")
    with refused(400, 21421):
        numbers.create()


def test_a_number_stays_with_its_account(sandbox: RunningSandbox) -> None:
    number = sandbox.twilio().incoming_phone_numbers(sandbox.add_number(NUMBER)["sid"])
    assert number.update(account_sid=number.fetch().account_sid, friendly_name="n").friendly_name == "n"
    with refused(400, 21473):
        number.update(account_sid="AC" + "f" * 32)


def test_where_the_sub_resource_is_missing_every_verb_is_404(sandbox: RunningSandbox) -> None:
    sid, trunk = sandbox.add_number(NUMBER)["sid"], sandbox.twilio().trunking.v1.trunks.create().sid
    numbers = sandbox.twilio().trunking.v1.trunks(trunk).phone_numbers
    number = sandbox.twilio().incoming_phone_numbers(sid)
    sandbox.control("PUT", "switches", {"trunkSubresource": False})
    assert number.update(trunk_sid=trunk).trunk_sid == trunk
    for call in (numbers(sid).fetch, numbers(sid).delete, lambda: numbers.create(sid)):
        with refused(404, 20404):
            call()
    listed = sandbox.raw_twilio("GET", f"{V1_TRUNKS}/{trunk}/PhoneNumbers", TRUNKING)
    assert (listed.status_code, listed.json()["code"]) == (404, 20404)
    assert number.fetch().trunk_sid == trunk
    assert number.update(trunk_sid="").trunk_sid is None
    with pytest.raises(TwilioRestException, check=lambda error: error.status == 404):
        number.update(trunk_sid="TK" + "0" * 32)


LATER = b"\xfa\x7d\x05later"
"""Field 2015, a text: of a version that nobody knows yet."""


def with_later_fields(message: Any, *nested: Any) -> Any:
    """Add a field of a later version to a message and to those inside it."""
    for each in (message, *nested):
        each.MergeFromString(LATER)
    return message


def later_fields(message: Any) -> list[bytes]:
    return [field.data for field in UnknownFieldSet(message) if field.field_number == 2015]


def later_trunk(**fields: Any) -> api.SIPInboundTrunkInfo:
    info = api.SIPInboundTrunkInfo(numbers=[NUMBER], **fields)
    return with_later_fields(info, info.media)


def later_rule(**fields: Any) -> api.SIPDispatchRuleInfo:
    info = api.SIPDispatchRuleInfo(rule=INDIVIDUAL, trunk_ids=["ST_x"], **fields)
    agent = info.room_config.agents.add(agent_name="front-desk")
    return with_later_fields(info, info.rule.dispatch_rule_individual, info.room_config, agent)


def kept_of_trunk(trunk: Any) -> bool:
    return all(later_fields(each) == [b"later"] for each in (trunk, trunk.media))


def kept_of_rule(rule: Any) -> bool:
    inside = (rule, rule.rule.dispatch_rule_individual, rule.room_config, rule.room_config.agents[0])
    return all(later_fields(each) == [b"later"] for each in inside)


def listed(sandbox: RunningSandbox) -> tuple[Any, Any]:
    """Return the one trunk and the one rule as they are listed."""
    [trunk] = sandbox.livekit(lambda sip: sip.list_inbound_trunk(api.ListSIPInboundTrunkRequest())).items
    [rule] = sandbox.livekit(lambda sip: sip.list_dispatch_rule(api.ListSIPDispatchRuleRequest())).items
    return trunk, rule


def create_both(sandbox: RunningSandbox) -> tuple[Any, Any]:
    trunk = api.CreateSIPInboundTrunkRequest(trunk=later_trunk())
    rule = api.CreateSIPDispatchRuleRequest(dispatch_rule=later_rule())
    return (
        sandbox.livekit(lambda sip: sip.create_inbound_trunk(trunk)),
        sandbox.livekit(lambda sip: sip.create_dispatch_rule(rule)),
    )


def replace_both(sandbox: RunningSandbox) -> tuple[Any, Any]:
    trunk, rule = add_trunk(sandbox, NUMBER), add_rule(sandbox, "ST_x")
    return (
        sandbox.livekit(lambda sip: sip.update_inbound_trunk(trunk.sip_trunk_id, later_trunk(name="n"))),
        sandbox.livekit(lambda sip: sip.update_dispatch_rule(rule, later_rule(name="n"))),
    )


def patch_both(sandbox: RunningSandbox) -> tuple[Any, Any]:
    trunk, rule = create_both(sandbox)
    more = ListUpdate(add=["+1"])
    return (
        sandbox.livekit(lambda sip: sip.update_inbound_trunk_fields(trunk.sip_trunk_id, name="n", numbers=more)),
        sandbox.livekit(lambda sip: sip.update_dispatch_rule_fields(rule.sip_dispatch_rule_id, name="n")),
    )


@pytest.mark.parametrize("write", [create_both, replace_both, patch_both])
def test_fields_of_a_later_version_are_kept(
    sandbox: RunningSandbox, write: Callable[[RunningSandbox], tuple[Any, Any]]
) -> None:
    for trunk, rule in (write(sandbox), listed(sandbox)):
        assert kept_of_trunk(trunk)
        assert kept_of_rule(rule)


def test_fields_of_a_later_version_outlive_a_kill(tmp_path: Path) -> None:
    state = str(tmp_path / "sandbox.jsonl")
    with running("--state", state) as first:
        create_both(first)
        before = listed(first)
        first.stop(signal.SIGKILL)
    for _ in range(2):
        with running("--state", state) as second:
            assert listed(second) == before
            assert kept_of_trunk(before[0])
            assert kept_of_rule(before[1])


def test_a_journal_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    state = tmp_path / "sandbox.jsonl"
    trunk = api.SIPInboundTrunkInfo(sip_trunk_id="ST_x", numbers=[NUMBER], krisp_enabled=True)
    rule = api.SIPDispatchRuleInfo(sip_dispatch_rule_id="SDR_x", rule=INDIVIDUAL, trunk_ids=["ST_x"])
    rows = [("livekit_trunks", "ST_x", trunk), ("livekit_rules", "SDR_x", rule)]
    puts = [["put", kind, row_id, MessageToDict(row, preserving_proto_field_name=True)] for kind, row_id, row in rows]
    state.write_text(json.dumps(puts) + "\n")
    with running("--state", str(state)) as own:
        assert listed(own) == (trunk, rule)
