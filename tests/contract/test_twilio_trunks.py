"""TwilioCarrier: trunks and origination URLs; against the sandbox, or any emulator of Twilio."""

from dataclasses import replace
from typing import Any

import pytest

from app.domain.errors import ErrorCode
from app.path.spec import ORIGINATION_PRIORITY, ORIGINATION_WEIGHT, TrunkSpec
from app.providers.errors import RejectedError
from app.providers.twilio import TwilioCarrier
from tests.support.adapters import (
    LABEL,
    SIP_URL,
    TRUNK_SPEC,
    UNROUTED,
    URL_SPEC,
)
from tests.support.sandbox import Sandbox
from tests.support.twilio_server import TRUNKING, V1_TRUNKS, Call, TwilioServer


def test_a_trunk_is_created_in_one_request_and_read_back(twilio_carrier: TwilioCarrier, twilio: TwilioServer) -> None:
    made = twilio_carrier.create_trunk(TRUNK_SPEC)
    assert twilio.calls == [Call("POST", "Trunks", {"FriendlyName": LABEL.tag})]
    assert (made.tag, made.is_secure) == (LABEL.tag, False)
    assert made.created_at is not None
    assert twilio_carrier.get_trunk(made.sid) == made
    assert twilio.trunk_record(made.sid)["domain_name"] is None


def test_trunks_are_listed_oldest_first_and_by_sid_within_a_second(
    twilio_carrier: TwilioCarrier, twilio: TwilioServer
) -> None:
    made = {twilio_carrier.create_trunk(TrunkSpec(f"tag {index}")).sid for index in range(12)}
    trunks = twilio_carrier.list_trunks()
    assert made <= {trunk.sid for trunk in trunks}
    assert [(trunk.created_at, trunk.sid) for trunk in trunks] == sorted((t.created_at, t.sid) for t in trunks)


def test_a_deleted_trunk_is_gone_and_can_be_deleted_again(twilio_carrier: TwilioCarrier) -> None:
    trunk = twilio_carrier.create_trunk(TRUNK_SPEC)
    assert twilio_carrier.delete_trunk(trunk.sid)
    assert not twilio_carrier.delete_trunk(trunk.sid)
    assert twilio_carrier.get_trunk(trunk.sid) is None
    assert trunk.sid not in {one.sid for one in twilio_carrier.list_trunks()}
    assert twilio_carrier.list_trunk_numbers(trunk.sid) == []
    assert twilio_carrier.list_origination_urls(trunk.sid) == []


def test_the_trunk_limit_is_told_apart(carrier: TwilioCarrier, sandbox: Sandbox) -> None:
    sandbox.switch(trunkLimit=1)
    carrier.create_trunk(TRUNK_SPEC)
    with pytest.raises(RejectedError) as caught:
        carrier.create_trunk(TRUNK_SPEC)
    assert caught.value.code is ErrorCode.TWILIO_TRUNK_LIMIT


def test_an_origination_url_is_created_enabled_in_one_request(
    twilio_carrier: TwilioCarrier, twilio: TwilioServer
) -> None:
    trunk = twilio_carrier.create_trunk(TRUNK_SPEC)
    twilio.calls.clear()
    made = twilio_carrier.create_origination_url(trunk.sid, URL_SPEC)
    assert [(call.method, call.resource) for call in twilio.calls] == [("POST", "OriginationUrls")]
    assert (made.trunk_sid, made.sip_url, made.is_enabled, made.tag) == (trunk.sid, SIP_URL, True, LABEL.tag)
    assert twilio_carrier.list_origination_urls(trunk.sid) == [made]
    assert twilio_carrier.delete_origination_url(trunk.sid, made.sid)
    assert not twilio_carrier.delete_origination_url(trunk.sid, made.sid)
    assert twilio_carrier.list_origination_urls(trunk.sid) == []


def test_the_eleventh_origination_url_is_told_apart(twilio_carrier: TwilioCarrier) -> None:
    trunk = twilio_carrier.create_trunk(TRUNK_SPEC)
    for _ in range(10):
        twilio_carrier.create_origination_url(trunk.sid, URL_SPEC)
    with pytest.raises(RejectedError) as caught:
        twilio_carrier.create_origination_url(trunk.sid, URL_SPEC)
    assert caught.value.code is ErrorCode.TWILIO_ORIGINATION_LIMIT


def test_nothing_is_put_on_a_trunk_that_is_gone(twilio_carrier: TwilioCarrier, twilio: TwilioServer) -> None:
    number, trunk = twilio.number(), twilio_carrier.create_trunk(TRUNK_SPEC)
    twilio_carrier.delete_trunk(trunk.sid)
    for call in (
        lambda: twilio_carrier.create_origination_url(trunk.sid, URL_SPEC),
        lambda: twilio_carrier.attach_number(trunk.sid, number["sid"], UNROUTED),
    ):
        with pytest.raises(RejectedError) as caught:
            call()
        assert caught.value.code is ErrorCode.TWILIO_TRUNK_GONE
    assert not twilio.record(number["sid"])["trunk_sid"]


def test_a_404_for_the_urls_of_a_trunk_that_is_there_is_told_apart(carrier: TwilioCarrier, sandbox: Sandbox) -> None:
    trunk = carrier.create_trunk(TRUNK_SPEC)
    sandbox.fault("twilio.create_origination_url", "reject", status=404, code=20404, message="not found")
    with pytest.raises(RejectedError, match="The trunk is there") as caught:
        carrier.create_origination_url(trunk.sid, URL_SPEC)
    assert caught.value.code is ErrorCode.TWILIO_UNSUPPORTED


@pytest.mark.parametrize(
    ("spec", "sent"),
    [
        (TrunkSpec("tag"), {"FriendlyName": "tag"}),
        (TrunkSpec("tag", is_secure=True), {"FriendlyName": "tag", "Secure": "true"}),
        (TrunkSpec("tag", transfer_mode="sip-only"), {"FriendlyName": "tag", "TransferMode": "sip-only"}),
    ],
)
def test_a_trunk_is_created_with_what_the_spec_names(
    spec: TrunkSpec, sent: dict[str, str], twilio_carrier: TwilioCarrier, twilio: TwilioServer
) -> None:
    made = twilio_carrier.create_trunk(spec)
    assert twilio.calls == [Call("POST", "Trunks", sent)]
    assert (made.is_secure, made.transfer_mode) == (spec.is_secure, spec.transfer_mode or "disable-all")
    assert made.raw == twilio.trunk_record(made.sid)


TRUNK_CHANGES: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({}, {}),
    ({"tag": "new"}, {"FriendlyName": "new"}),
    ({"is_secure": True}, {"Secure": "true"}),
    ({"transfer_mode": "enable-all", "is_secure": True}, {"TransferMode": "enable-all", "Secure": "true"}),
]


@pytest.mark.parametrize(("changes", "sent"), TRUNK_CHANGES)
def test_only_what_differs_is_written_to_a_trunk(
    changes: dict[str, Any], sent: dict[str, str], twilio_carrier: TwilioCarrier, twilio: TwilioServer
) -> None:
    now = twilio_carrier.create_trunk(TRUNK_SPEC)
    wanted = replace(now, **changes)
    twilio.calls.clear()
    assert twilio_carrier.update_trunk(now, wanted)
    assert twilio.calls == ([Call("POST", "Trunks", sent)] if sent else [])
    assert twilio_carrier.get_trunk(now.sid) == wanted


URL_CHANGES: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({}, {}),
    ({"tag": "new"}, {"FriendlyName": "new"}),
    ({"is_enabled": False}, {"Enabled": "false"}),
    ({"sip_url": "sip:b.example"}, {"SipUrl": "sip:b.example"}),
    ({"priority": 0, "weight": 7}, {"Priority": 0, "Weight": 7}),
]


@pytest.mark.parametrize(("changes", "sent"), URL_CHANGES)
def test_only_what_differs_is_written_to_an_origination_url(
    changes: dict[str, Any], sent: dict[str, str], twilio_carrier: TwilioCarrier, twilio: TwilioServer
) -> None:
    now = twilio_carrier.create_origination_url(twilio_carrier.create_trunk(TRUNK_SPEC).sid, URL_SPEC)
    assert (now.priority, now.weight) == (ORIGINATION_PRIORITY, ORIGINATION_WEIGHT)
    wanted = replace(now, **changes)
    twilio.calls.clear()
    assert twilio_carrier.update_origination_url(now, wanted)
    assert twilio.calls == ([Call("POST", "OriginationUrls", sent)] if sent else [])
    assert twilio_carrier.list_origination_urls(now.trunk_sid) == [wanted]


@pytest.mark.parametrize(
    ("parameter", "field", "value"),
    [
        ("TransferMode", "transfer_mode", "sip-only"),
        ("TransferCallerId", "transfer_caller_id", "from-transferor"),
        ("Secure", "secure", "true"),
        ("CnamLookupEnabled", "cnam_lookup_enabled", "true"),
        ("DisasterRecoveryUrl", "disaster_recovery_url", "https://example.com/recovery"),
    ],
)
def test_what_is_set_on_a_trunk_by_hand_survives_an_update(
    parameter: str, field: str, value: str, twilio_carrier: TwilioCarrier, twilio: TwilioServer
) -> None:
    sid = twilio_carrier.create_trunk(TRUNK_SPEC).sid
    by_hand = twilio.raw("POST", f"{V1_TRUNKS}/{sid}", TRUNKING, data={parameter: value}).json()
    assert str(by_hand[field]).lower() == value

    now = twilio_carrier.get_trunk(sid)
    assert twilio_carrier.update_trunk(now, replace(now, tag="new"))

    now_there = twilio.trunk_record(sid)
    assert now_there == {**by_hand, "friendly_name": "new", "date_updated": now_there["date_updated"]}


@pytest.mark.parametrize(
    ("parameter", "field", "value"),
    [("Enabled", "enabled", False), ("Priority", "priority", 3), ("Weight", "weight", 9)],
)
def test_what_is_set_on_an_origination_url_by_hand_survives_an_update(
    parameter: str, field: str, value: int, twilio_carrier: TwilioCarrier, twilio: TwilioServer
) -> None:
    made = twilio_carrier.create_origination_url(twilio_carrier.create_trunk(TRUNK_SPEC).sid, URL_SPEC)
    path = f"{V1_TRUNKS}/{made.trunk_sid}/OriginationUrls/{made.sid}"
    by_hand = twilio.raw("POST", path, TRUNKING, data={parameter: str(value).lower()}).json()
    assert by_hand[field] == value

    [now] = twilio_carrier.list_origination_urls(made.trunk_sid)
    assert twilio_carrier.update_origination_url(now, replace(now, tag="new"))

    now_there = twilio.raw("GET", path, TRUNKING).json()
    assert now_there == {**by_hand, "friendly_name": "new", "date_updated": now_there["date_updated"]}
