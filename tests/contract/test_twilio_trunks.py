"""TwilioCarrier against the sandbox: trunks and origination URLs."""

import pytest

from app.domain.errors import ErrorCode
from app.path.spec import Label
from app.providers.errors import RejectedError, TransientError
from app.providers.twilio import TwilioCarrier
from tests.support.adapters import (
    E164,
    LABEL,
    SIP_URL,
    last_seen,
    operations,
)
from tests.support.sandbox import Sandbox


def test_a_trunk_is_created_in_one_request_and_read_back(carrier: TwilioCarrier, sandbox: Sandbox) -> None:
    made = carrier.create_trunk(LABEL)
    assert operations(sandbox) == ["twilio.create_trunk"]
    assert (made.tag, made.is_secure) == (LABEL.tag, False)
    assert made.created_at is not None
    assert carrier.get_trunk(made.sid) == made
    assert sandbox.state()["trunks"][0]["domain_name"] is None


def test_trunks_are_listed_oldest_first_and_by_sid_within_a_second(carrier: TwilioCarrier) -> None:
    for index in range(12):
        carrier.create_trunk(Label(f"tag {index}"))
    trunks = carrier.list_trunks()
    assert len(trunks) == 12
    assert [(trunk.created_at, trunk.sid) for trunk in trunks] == sorted((t.created_at, t.sid) for t in trunks)


def test_a_deleted_trunk_is_gone_and_can_be_deleted_again(carrier: TwilioCarrier) -> None:
    trunk = carrier.create_trunk(LABEL)
    carrier.delete_trunk(trunk.sid)
    carrier.delete_trunk(trunk.sid)
    assert carrier.get_trunk(trunk.sid) is None
    assert carrier.list_trunks() == []
    assert carrier.list_trunk_numbers(trunk.sid) == []
    assert carrier.list_origination_urls(trunk.sid) == []


def test_the_trunk_limit_is_told_apart(carrier: TwilioCarrier, sandbox: Sandbox) -> None:
    sandbox.switch(trunkLimit=1)
    carrier.create_trunk(LABEL)
    with pytest.raises(RejectedError) as caught:
        carrier.create_trunk(LABEL)
    assert caught.value.code is ErrorCode.TWILIO_TRUNK_LIMIT


def test_an_origination_url_is_created_enabled_in_one_request(carrier: TwilioCarrier, sandbox: Sandbox) -> None:
    trunk = carrier.create_trunk(LABEL)
    start = last_seen(sandbox)
    made = carrier.create_origination_url(trunk.sid, SIP_URL, LABEL)
    assert operations(sandbox, start) == ["twilio.create_origination_url"]
    assert (made.trunk_sid, made.sip_url, made.is_enabled, made.tag) == (trunk.sid, SIP_URL, True, LABEL.tag)
    assert carrier.list_origination_urls(trunk.sid) == [made]
    carrier.delete_origination_url(trunk.sid, made.sid)
    carrier.delete_origination_url(trunk.sid, made.sid)
    assert carrier.list_origination_urls(trunk.sid) == []


def test_the_eleventh_origination_url_is_told_apart(carrier: TwilioCarrier) -> None:
    trunk = carrier.create_trunk(LABEL)
    for _ in range(10):
        carrier.create_origination_url(trunk.sid, SIP_URL, LABEL)
    with pytest.raises(RejectedError) as caught:
        carrier.create_origination_url(trunk.sid, SIP_URL, LABEL)
    assert caught.value.code is ErrorCode.TWILIO_ORIGINATION_LIMIT


def test_a_trunk_that_twilio_has_not_seen_yet_is_worth_another_try(carrier: TwilioCarrier, sandbox: Sandbox) -> None:
    number = sandbox.number(E164)
    with pytest.raises(TransientError):
        carrier.create_origination_url("TK" + "0" * 32, SIP_URL, LABEL)
    with pytest.raises(TransientError):
        carrier.attach_number("TK" + "0" * 32, number["sid"])
