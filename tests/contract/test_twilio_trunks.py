"""TwilioCarrier against the sandbox: trunks and origination URLs."""

from dataclasses import replace
from typing import Any

import pytest

from app.domain.errors import ErrorCode
from app.path.spec import ORIGINATION_PRIORITY, ORIGINATION_WEIGHT, TrunkSpec
from app.providers.errors import RejectedError
from app.providers.twilio import TwilioCarrier
from tests.support.adapters import (
    E164,
    LABEL,
    SIP_URL,
    TRUNK_SPEC,
    UNROUTED,
    URL_SPEC,
    last_seen,
    number_of,
    operations,
)
from tests.support.sandbox import Sandbox


def test_a_trunk_is_created_in_one_request_and_read_back(carrier: TwilioCarrier, sandbox: Sandbox) -> None:
    made = carrier.create_trunk(TRUNK_SPEC)
    assert operations(sandbox) == ["twilio.create_trunk"]
    assert (made.tag, made.is_secure) == (LABEL.tag, False)
    assert made.created_at is not None
    assert carrier.get_trunk(made.sid) == made
    assert sandbox.state()["trunks"][0]["domain_name"] is None


def test_trunks_are_listed_oldest_first_and_by_sid_within_a_second(carrier: TwilioCarrier) -> None:
    for index in range(12):
        carrier.create_trunk(TrunkSpec(f"tag {index}"))
    trunks = carrier.list_trunks()
    assert len(trunks) == 12
    assert [(trunk.created_at, trunk.sid) for trunk in trunks] == sorted((t.created_at, t.sid) for t in trunks)


def test_a_deleted_trunk_is_gone_and_can_be_deleted_again(carrier: TwilioCarrier) -> None:
    trunk = carrier.create_trunk(TRUNK_SPEC)
    carrier.delete_trunk(trunk.sid)
    carrier.delete_trunk(trunk.sid)
    assert carrier.get_trunk(trunk.sid) is None
    assert carrier.list_trunks() == []
    assert carrier.list_trunk_numbers(trunk.sid) == []
    assert carrier.list_origination_urls(trunk.sid) == []


def test_the_trunk_limit_is_told_apart(carrier: TwilioCarrier, sandbox: Sandbox) -> None:
    sandbox.switch(trunkLimit=1)
    carrier.create_trunk(TRUNK_SPEC)
    with pytest.raises(RejectedError) as caught:
        carrier.create_trunk(TRUNK_SPEC)
    assert caught.value.code is ErrorCode.TWILIO_TRUNK_LIMIT


def test_an_origination_url_is_created_enabled_in_one_request(carrier: TwilioCarrier, sandbox: Sandbox) -> None:
    trunk = carrier.create_trunk(TRUNK_SPEC)
    start = last_seen(sandbox)
    made = carrier.create_origination_url(trunk.sid, URL_SPEC)
    assert operations(sandbox, start) == ["twilio.create_origination_url"]
    assert (made.trunk_sid, made.sip_url, made.is_enabled, made.tag) == (trunk.sid, SIP_URL, True, LABEL.tag)
    assert carrier.list_origination_urls(trunk.sid) == [made]
    carrier.delete_origination_url(trunk.sid, made.sid)
    carrier.delete_origination_url(trunk.sid, made.sid)
    assert carrier.list_origination_urls(trunk.sid) == []


def test_the_eleventh_origination_url_is_told_apart(carrier: TwilioCarrier) -> None:
    trunk = carrier.create_trunk(TRUNK_SPEC)
    for _ in range(10):
        carrier.create_origination_url(trunk.sid, URL_SPEC)
    with pytest.raises(RejectedError) as caught:
        carrier.create_origination_url(trunk.sid, URL_SPEC)
    assert caught.value.code is ErrorCode.TWILIO_ORIGINATION_LIMIT


def test_nothing_is_put_on_a_trunk_that_is_gone(carrier: TwilioCarrier, sandbox: Sandbox) -> None:
    number = sandbox.number(E164)
    for call in (
        lambda: carrier.create_origination_url("TK" + "0" * 32, URL_SPEC),
        lambda: carrier.attach_number("TK" + "0" * 32, number["sid"], UNROUTED),
    ):
        with pytest.raises(RejectedError) as caught:
            call()
        assert caught.value.code is ErrorCode.TWILIO_TRUNK_GONE
    assert number_of(sandbox)["trunk_sid"] is None


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
    spec: TrunkSpec, sent: dict[str, str], carrier: TwilioCarrier, sandbox: Sandbox
) -> None:
    made = carrier.create_trunk(spec)
    assert sandbox.requests()[-1]["body"] == sent
    assert (made.is_secure, made.transfer_mode) == (spec.is_secure, spec.transfer_mode or "disable-all")
    assert made.raw["cnam_lookup_enabled"] is False
    assert made.raw["date_created"] == sandbox.state()["trunks"][0]["date_created"]


TRUNK_CHANGES: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({}, {}),
    ({"tag": "new"}, {"FriendlyName": "new"}),
    ({"is_secure": True}, {"Secure": "true"}),
    ({"transfer_mode": "enable-all", "is_secure": True}, {"TransferMode": "enable-all", "Secure": "true"}),
]


@pytest.mark.parametrize(("changes", "sent"), TRUNK_CHANGES)
def test_only_what_differs_is_written_to_a_trunk(
    changes: dict[str, Any], sent: dict[str, str], carrier: TwilioCarrier, sandbox: Sandbox
) -> None:
    now = carrier.create_trunk(TRUNK_SPEC)
    wanted, start = replace(now, **changes), last_seen(sandbox)
    assert carrier.update_trunk(now, wanted)
    assert [request["body"] for request in sandbox.requests(start)] == ([sent] if sent else [])
    assert carrier.get_trunk(now.sid) == wanted


URL_CHANGES: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({}, {}),
    ({"tag": "new"}, {"FriendlyName": "new"}),
    ({"is_enabled": False}, {"Enabled": "false"}),
    ({"sip_url": "sip:b.example"}, {"SipUrl": "sip:b.example"}),
    ({"priority": 0, "weight": 7}, {"Priority": "0", "Weight": "7"}),
]


@pytest.mark.parametrize(("changes", "sent"), URL_CHANGES)
def test_only_what_differs_is_written_to_an_origination_url(
    changes: dict[str, Any], sent: dict[str, str], carrier: TwilioCarrier, sandbox: Sandbox
) -> None:
    now = carrier.create_origination_url(carrier.create_trunk(TRUNK_SPEC).sid, URL_SPEC)
    assert (now.priority, now.weight) == (ORIGINATION_PRIORITY, ORIGINATION_WEIGHT)
    wanted, start = replace(now, **changes), last_seen(sandbox)
    assert carrier.update_origination_url(now, wanted)
    assert [request["body"] for request in sandbox.requests(start)] == ([sent] if sent else [])
    assert carrier.list_origination_urls(now.trunk_sid) == [wanted]
