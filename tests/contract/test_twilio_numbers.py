"""TwilioCarrier: finding numbers, attaching, detaching, restoring; against the sandbox, or any emulator of Twilio."""

import json
from collections.abc import Iterator

import pytest

from app.dev.sandbox import ACCOUNT_SID, AUTH_TOKEN
from app.domain.errors import ErrorCode
from app.path.observed import NumberRouting
from app.providers.errors import RejectedError, TransientError
from app.providers.twilio import TwilioCarrier
from tests.support.adapters import (
    APPLICATION,
    E164,
    TRUNK_SPEC,
    UNROUTED,
    number_of,
    operations,
)
from tests.support.sandbox import Sandbox
from tests.support.scripted_server import Answer, scripted_server
from tests.support.twilio_server import Call, TwilioServer


def attach(carrier: TwilioCarrier, trunk_sid: str, number_sid: str) -> None:
    """Attach as the saga does: having looked directly before."""
    carrier.attach_number(trunk_sid, number_sid, carrier.get_number(number_sid).routing)


def test_a_number_is_found_by_its_exact_text_in_one_request(
    twilio_carrier: TwilioCarrier, twilio: TwilioServer
) -> None:
    url = "https://example.com/voice"
    wanted = twilio.number(VoiceUrl=url)
    found = twilio_carrier.find_number(wanted["phone_number"])
    assert (found.sid, found.phone_number) == (wanted["sid"], wanted["phone_number"])
    assert found.account_sid == twilio.account_sid
    assert found.is_voice
    assert found.routing == NumberRouting(None, None, url)
    assert [(call.method, call.resource) for call in twilio.calls] == [("GET", "IncomingPhoneNumbers")]


def test_a_longer_number_is_another_one(carrier: TwilioCarrier, sandbox: Sandbox) -> None:
    longer, wanted = sandbox.number(E164 + "5"), sandbox.number(E164)
    assert carrier.find_number(E164).sid == wanted["sid"]
    assert carrier.find_number(E164 + "5").sid == longer["sid"]


def test_a_number_that_only_resembles_is_not_in_the_account(carrier: TwilioCarrier, sandbox: Sandbox) -> None:
    sandbox.number(E164 + "5")
    with pytest.raises(RejectedError) as caught:
        carrier.find_number(E164)
    assert caught.value.code is ErrorCode.NUMBER_NOT_IN_ACCOUNT


def test_a_number_that_left_the_account_is_not_in_the_account(twilio_carrier: TwilioCarrier) -> None:
    with pytest.raises(RejectedError) as caught:
        twilio_carrier.get_number("PN" + "0" * 32)
    assert caught.value.code is ErrorCode.NUMBER_NOT_IN_ACCOUNT


@pytest.mark.parametrize(
    ("options", "is_voice"),
    [
        ({}, True),
        ({"status": ""}, True),
        ({"voice": False}, False),
        ({"voiceReceiveMode": "fax"}, False),
        ({"status": "suspended"}, False),
    ],
)
def test_only_a_number_in_use_for_voice_is_a_voice_number(
    options: dict[str, object], is_voice: bool, carrier: TwilioCarrier, sandbox: Sandbox
) -> None:
    sandbox.number(E164, **options)
    assert carrier.find_number(E164).is_voice is is_voice


def test_a_number_tells_where_it_sends_its_calls(twilio_carrier: TwilioCarrier, twilio: TwilioServer) -> None:
    number = twilio.number(VoiceApplicationSid=APPLICATION)
    assert twilio_carrier.find_number(number["phone_number"]).routing.voice_application_sid == APPLICATION
    trunk = twilio_carrier.create_trunk(TRUNK_SPEC)
    attach(twilio_carrier, trunk.sid, number["sid"])
    routing = twilio_carrier.get_number(number["sid"]).routing
    assert (routing.trunk_sid, routing.voice_application_sid) == (trunk.sid, None)


def test_every_number_is_listed_through_all_pages(carrier: TwilioCarrier, sandbox: Sandbox) -> None:
    wanted = [f"+1514555{index:04}" for index in range(2345)]
    sandbox.numbers(wanted)
    assert sorted(number.phone_number for number in carrier.list_numbers()) == wanted
    assert operations(sandbox) == ["twilio.list_numbers"] * 3


@pytest.mark.parametrize("rows", [0, 2])
def test_a_number_of_another_account_or_found_twice_is_refused(rows: int) -> None:
    record = {
        "sid": "PN" + "1" * 32,
        "account_sid": "AC" + "2" * 32 if rows == 0 else ACCOUNT_SID,
        "phone_number": E164,
        "capabilities": {"voice": True},
    }
    with scripted_server() as server:
        carrier = TwilioCarrier(ACCOUNT_SID, ACCOUNT_SID, AUTH_TOKEN, timeout_s=5, base_url=server.url)
        server.answer(Answer(200, json.dumps({"incoming_phone_numbers": [record] * (rows or 1)}).encode()))
        with pytest.raises(RejectedError) as caught:
            carrier.find_number(E164)
        assert caught.value.code is ErrorCode.NUMBER_NOT_IN_ACCOUNT
        carrier.close()


def test_a_number_is_attached_in_one_request_and_detached(twilio_carrier: TwilioCarrier, twilio: TwilioServer) -> None:
    number, trunk = twilio.number()["sid"], twilio_carrier.create_trunk(TRUNK_SPEC)
    routing = twilio_carrier.get_number(number).routing
    twilio.calls.clear()
    twilio_carrier.attach_number(trunk.sid, number, routing)
    assert twilio.calls == [Call("POST", "PhoneNumbers", {"PhoneNumberSid": number})]
    assert twilio_carrier.list_trunk_numbers(trunk.sid) == [number]
    twilio_carrier.detach_number(trunk.sid, number)
    twilio_carrier.detach_number(trunk.sid, number)
    assert twilio_carrier.list_trunk_numbers(trunk.sid) == []
    assert twilio_carrier.get_trunk(trunk.sid) is not None
    assert twilio_carrier.get_number(number).routing == routing


def test_a_number_moves_from_trunk_to_trunk_in_one_request(twilio_carrier: TwilioCarrier, twilio: TwilioServer) -> None:
    theirs, ours = twilio_carrier.create_trunk(TRUNK_SPEC), twilio_carrier.create_trunk(TRUNK_SPEC)
    number = twilio.number_of_trunk(theirs.sid)["sid"]
    twilio.calls.clear()
    twilio_carrier.move_number(number, ours.sid)
    assert [(call.method, call.body) for call in twilio.calls] == [("POST", {"TrunkSid": ours.sid})]
    assert twilio_carrier.get_number(number).routing.trunk_sid == ours.sid
    assert twilio_carrier.list_trunk_numbers(theirs.sid) == []


def test_a_move_to_a_trunk_that_is_gone_changes_nothing(twilio_carrier: TwilioCarrier, twilio: TwilioServer) -> None:
    ours, gone = twilio_carrier.create_trunk(TRUNK_SPEC), twilio_carrier.create_trunk(TRUNK_SPEC)
    number = twilio.number_of_trunk(ours.sid)["sid"]
    twilio_carrier.delete_trunk(gone.sid)
    with pytest.raises(RejectedError) as caught:
        twilio_carrier.move_number(number, gone.sid)
    assert caught.value.code is ErrorCode.TWILIO_TRUNK_GONE
    assert twilio_carrier.get_number(number).routing.trunk_sid == ours.sid


@pytest.mark.parametrize("policy", ["move", "reject409"])
def test_a_move_works_where_an_attachment_would_be_refused(
    policy: str, carrier: TwilioCarrier, sandbox: Sandbox
) -> None:
    theirs, ours = carrier.create_trunk(TRUNK_SPEC), carrier.create_trunk(TRUNK_SPEC)
    number = sandbox.number(E164, trunkSid=theirs.sid)
    sandbox.switch(attachConflict=policy)
    carrier.move_number(number["sid"], ours.sid)
    assert number_of(sandbox)["trunk_sid"] == ours.sid


def test_attaching_again_is_success(twilio_carrier: TwilioCarrier, twilio: TwilioServer) -> None:
    number, trunk = twilio.number()["sid"], twilio_carrier.create_trunk(TRUNK_SPEC)
    attach(twilio_carrier, trunk.sid, number)
    attach(twilio_carrier, trunk.sid, number)
    assert twilio_carrier.list_trunk_numbers(trunk.sid) == [number]


@pytest.mark.parametrize("policy", ["move", "reject409"])
def test_attaching_to_the_same_trunk_again_is_success(policy: str, carrier: TwilioCarrier, sandbox: Sandbox) -> None:
    number, trunk = sandbox.number(E164), carrier.create_trunk(TRUNK_SPEC)
    sandbox.switch(attachConflict=policy)
    attach(carrier, trunk.sid, number["sid"])
    attach(carrier, trunk.sid, number["sid"])
    assert carrier.list_trunk_numbers(trunk.sid) == [number["sid"]]


def test_a_refusal_for_a_number_on_another_trunk_stays_one(carrier: TwilioCarrier, sandbox: Sandbox) -> None:
    theirs, ours = carrier.create_trunk(TRUNK_SPEC), carrier.create_trunk(TRUNK_SPEC)
    number = sandbox.number(E164, trunkSid=theirs.sid)
    sandbox.switch(attachConflict="reject409")
    with pytest.raises(RejectedError, match="attach_number: HTTP 409") as caught:
        attach(carrier, ours.sid, number["sid"])
    assert caught.value.code is ErrorCode.TWILIO_REJECTED
    assert number_of(sandbox)["trunk_sid"] == theirs.sid


def test_a_number_that_moved_away_is_left_alone_by_detaching(
    twilio_carrier: TwilioCarrier, twilio: TwilioServer
) -> None:
    theirs, ours = twilio_carrier.create_trunk(TRUNK_SPEC), twilio_carrier.create_trunk(TRUNK_SPEC)
    number = twilio.number_of_trunk(theirs.sid)["sid"]
    twilio_carrier.detach_number(ours.sid, number)
    assert twilio.record(number)["trunk_sid"] == theirs.sid


def test_an_emergency_number_on_the_trunk_is_told_apart(carrier: TwilioCarrier, sandbox: Sandbox) -> None:
    trunk = carrier.create_trunk(TRUNK_SPEC)
    sandbox.number(E164, trunkSid=trunk.sid, emergencyStatus="Active")
    with pytest.raises(RejectedError) as caught:
        carrier.delete_trunk(trunk.sid)
    assert caught.value.code is ErrorCode.TWILIO_EMERGENCY_NUMBER


@pytest.fixture
def region(sandbox: Sandbox) -> Iterator[None]:
    """The account is in a region without the trunk's PhoneNumbers, IE1 or AU1."""
    sandbox.switch(trunkSubresource=False)
    yield
    sandbox.switch(trunkSubresource=True)


@pytest.mark.usefixtures("region")
def test_without_the_sub_resource_a_number_is_attached_listed_and_detached_by_itself(
    carrier: TwilioCarrier, sandbox: Sandbox
) -> None:
    number, trunk = sandbox.number(E164), carrier.create_trunk(TRUNK_SPEC)
    sandbox.number(E164 + "5", trunkSid=carrier.create_trunk(TRUNK_SPEC).sid)
    sandbox.number(E164 + "6")
    attach(carrier, trunk.sid, number["sid"])
    attach(carrier, trunk.sid, number["sid"])
    assert number_of(sandbox)["trunk_sid"] == trunk.sid
    assert carrier.list_trunk_numbers(trunk.sid) == [number["sid"]]
    carrier.detach_number(trunk.sid, number["sid"])
    carrier.detach_number(trunk.sid, number["sid"])
    assert number_of(sandbox)["trunk_sid"] is None
    assert carrier.list_trunk_numbers(trunk.sid) == []
    carrier.delete_trunk(trunk.sid)
    assert carrier.list_trunk_numbers(trunk.sid) == []


@pytest.mark.usefixtures("region")
def test_without_the_sub_resource_a_number_that_moved_away_is_left_alone(
    carrier: TwilioCarrier, sandbox: Sandbox
) -> None:
    theirs, ours = carrier.create_trunk(TRUNK_SPEC), carrier.create_trunk(TRUNK_SPEC)
    number = sandbox.number(E164, trunkSid=theirs.sid)
    carrier.detach_number(ours.sid, number["sid"])
    with pytest.raises(TransientError, match="routing changed"):
        carrier.attach_number(ours.sid, number["sid"], UNROUTED)
    assert number_of(sandbox)["trunk_sid"] == theirs.sid

    attach(carrier, ours.sid, number["sid"])  # with takeover, the step has seen the other trunk and goes on
    assert number_of(sandbox)["trunk_sid"] == ours.sid


def test_one_stale_read_of_a_number_does_not_take_it_off_the_trunk_that_it_moved_to(
    carrier: TwilioCarrier, sandbox: Sandbox
) -> None:
    theirs, ours = carrier.create_trunk(TRUNK_SPEC), carrier.create_trunk(TRUNK_SPEC)
    number = sandbox.number(E164, trunkSid=ours.sid)
    sandbox.switch(staleReadS=60)
    carrier.attach_number(theirs.sid, number["sid"], UNROUTED)
    assert carrier.get_number(number["sid"]).routing.trunk_sid == ours.sid
    carrier.detach_number(ours.sid, number["sid"])
    assert number_of(sandbox)["trunk_sid"] == theirs.sid


@pytest.mark.usefixtures("region")
def test_where_neither_way_attaches_the_region_is_named(carrier: TwilioCarrier, sandbox: Sandbox) -> None:
    number, trunk = sandbox.number(E164), carrier.create_trunk(TRUNK_SPEC)
    sandbox.fault("twilio.update_number", "reject", status=400, code=20001, message="no")
    with pytest.raises(RejectedError, match="HTTP 400, code 20001") as caught:
        attach(carrier, trunk.sid, number["sid"])
    assert caught.value.code is ErrorCode.TWILIO_UNSUPPORTED


def restore(carrier: TwilioCarrier, number_sid: str, routing: NumberRouting) -> None:
    """Restore as the saga does: having looked directly before."""
    carrier.restore_routing(number_sid, routing, carrier.get_number(number_sid).routing)


@pytest.mark.parametrize(
    "before",
    [
        {},
        {"VoiceUrl": "https://example.com/voice"},
        {"VoiceApplicationSid": APPLICATION},
        {"VoiceApplicationSid": APPLICATION, "VoiceUrl": "https://example.com/voice"},
    ],
)
def test_what_attaching_took_is_restored_and_nothing_written_twice(
    before: dict[str, str], twilio_carrier: TwilioCarrier, twilio: TwilioServer
) -> None:
    number = twilio.number(**before)["sid"]
    routing = twilio_carrier.get_number(number).routing
    trunk = twilio_carrier.create_trunk(TRUNK_SPEC)
    attach(twilio_carrier, trunk.sid, number)
    twilio_carrier.detach_number(trunk.sid, number)

    twilio.written()
    restore(twilio_carrier, number, routing)
    # Detaching brings the voice URL back by itself; the application was deleted by attaching.
    assert len(twilio.written()) == ("VoiceApplicationSid" in before)
    assert twilio_carrier.get_number(number).routing == routing

    twilio.written()
    restore(twilio_carrier, number, routing)
    assert twilio.written() == []


def test_a_voice_url_is_put_back_where_there_is_none_now(twilio_carrier: TwilioCarrier, twilio: TwilioServer) -> None:
    number = twilio.number(VoiceUrl="")["sid"]
    restore(twilio_carrier, number, NumberRouting(None, None, "https://example.com/voice"))
    assert twilio.record(number)["voice_url"] == "https://example.com/voice"


def test_a_voice_url_that_somebody_chose_meanwhile_is_left_alone(
    twilio_carrier: TwilioCarrier, twilio: TwilioServer
) -> None:
    number = twilio.number(VoiceUrl="https://example.com/other")["sid"]
    for before in (NumberRouting(None, None, "https://example.com/voice"), UNROUTED):
        restore(twilio_carrier, number, before)
        assert twilio.record(number)["voice_url"] == "https://example.com/other"


def test_a_former_trunk_gets_its_number_back(twilio_carrier: TwilioCarrier, twilio: TwilioServer) -> None:
    theirs, ours = twilio_carrier.create_trunk(TRUNK_SPEC), twilio_carrier.create_trunk(TRUNK_SPEC)
    number = twilio.number_of_trunk(theirs.sid)["sid"]
    routing = twilio_carrier.get_number(number).routing
    attach(twilio_carrier, ours.sid, number)
    twilio_carrier.detach_number(ours.sid, number)
    restore(twilio_carrier, number, routing)
    assert twilio.record(number)["trunk_sid"] == theirs.sid

    twilio.written()
    restore(twilio_carrier, number, routing)
    assert twilio.written() == []


def test_a_former_trunk_that_is_gone_leaves_the_number_detached_with_its_voice_settings(
    twilio_carrier: TwilioCarrier, twilio: TwilioServer
) -> None:
    number, url = twilio.number(VoiceApplicationSid=APPLICATION)["sid"], "https://example.com/voice"
    twilio.raw("POST", f"{twilio.numbers_path}/{number}.json", data={"VoiceApplicationSid": "", "VoiceUrl": ""})
    restore(twilio_carrier, number, NumberRouting("TK" + "0" * 32, APPLICATION, url))
    assert twilio_carrier.get_number(number).routing == NumberRouting(None, APPLICATION, url)


@pytest.mark.parametrize(
    ("parameter", "field", "value"),
    [
        ("FriendlyName", "friendly_name", "front desk"),
        ("VoiceFallbackUrl", "voice_fallback_url", "https://example.com/fallback"),
        ("StatusCallback", "status_callback", "https://example.com/status"),
        ("SmsUrl", "sms_url", "https://example.com/sms"),
        ("VoiceCallerIdLookup", "voice_caller_id_lookup", "true"),
    ],
)
def test_what_is_set_on_a_number_by_hand_survives_attaching_and_detaching(
    parameter: str, field: str, value: str, twilio_carrier: TwilioCarrier, twilio: TwilioServer
) -> None:
    by_hand = twilio.number(**{parameter: value})
    assert str(by_hand[field]).lower() == value
    trunk = twilio_carrier.create_trunk(TRUNK_SPEC)
    attach(twilio_carrier, trunk.sid, by_hand["sid"])
    assert str(twilio.record(by_hand["sid"])[field]).lower() == value
    twilio_carrier.detach_number(trunk.sid, by_hand["sid"])
    now_there = twilio.record(by_hand["sid"])
    assert now_there == {**by_hand, "date_updated": now_there["date_updated"]}


@pytest.mark.parametrize("where", ["TrunkSid", "VoiceApplicationSid"])
def test_a_number_that_somebody_has_routed_is_not_restored(
    where: str, twilio_carrier: TwilioCarrier, twilio: TwilioServer
) -> None:
    theirs, former = twilio_carrier.create_trunk(TRUNK_SPEC), twilio_carrier.create_trunk(TRUNK_SPEC)
    number = twilio.number(**{where: theirs.sid if where == "TrunkSid" else APPLICATION})["sid"]
    twilio.written()
    restore(twilio_carrier, number, NumberRouting(former.sid, "AP" + "9" * 32, None))
    assert twilio.written() == []
