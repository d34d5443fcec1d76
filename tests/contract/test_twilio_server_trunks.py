"""Twilio's trunks, origination URLs and attachments; true of the sandbox and of any emulator of Twilio."""

from typing import Any
from urllib.parse import urlsplit

import pytest
from twilio.base.exceptions import TwilioRestException
from twilio.rest.trunking.v1.trunk import TrunkList

from tests.support.twilio_server import TRUNKING, V1_TRUNKS, TwilioServer, random_text, refused

SPECIFIED = {
    "phone_number": {
        *("account_sid", "address_requirements", "api_version", "beta", "capabilities", "date_created", "date_updated"),
        *("friendly_name", "links", "phone_number", "sid", "sms_application_sid", "sms_fallback_method"),
        *("sms_fallback_url", "sms_method", "sms_url", "status_callback", "status_callback_method", "trunk_sid", "url"),
        *("voice_application_sid", "voice_caller_id_lookup", "voice_fallback_method", "voice_fallback_url"),
        *("voice_method", "voice_url"),
    },
    "list": {"account_sid", "sid", "trunk_sid", "friendly_name", "date_created", "date_updated", "url"},
}
"""The fields that Twilio's OpenAPI names (twilio-oai, trunking v1)."""


URL = {"weight": 1, "priority": 1, "enabled": True, "friendly_name": "LiveKit", "sip_url": "sip:a.sip.livekit.cloud"}


@pytest.fixture
def trunks(twilio: TwilioServer) -> TrunkList:
    return twilio.client().trunking.v1.trunks


def unused_name() -> str:
    return f"ours{random_text.randrange(10**9)}"


def trunk_of(twilio: TwilioServer, number_sid: str) -> str | None:
    return twilio.client().incoming_phone_numbers(number_sid).fetch().trunk_sid


def test_attach_and_detach_write_the_row_that_the_other_host_shows(twilio: TwilioServer, trunks: TrunkList) -> None:
    sid, trunk = twilio.number()["sid"], trunks.create()
    attached = trunks(trunk.sid).phone_numbers.create(sid)
    assert urlsplit(attached.url).path == f"{V1_TRUNKS}/{trunk.sid}/PhoneNumbers/{sid}"
    raw = twilio.raw("GET", f"{V1_TRUNKS}/{trunk.sid}/PhoneNumbers/{sid}", TRUNKING).json()
    assert raw.keys() == SPECIFIED["phone_number"]
    assert raw["address_requirements"] == "none"
    assert trunk_of(twilio, sid) == trunk.sid
    assert [row.sid for row in trunks(trunk.sid).phone_numbers.list()] == [sid]
    assert trunks(trunk.sid).phone_numbers(sid).delete()
    assert trunk_of(twilio, sid) is None
    with refused(404, 20404):
        trunks(trunk.sid).phone_numbers(sid).delete()


def test_detaching_from_the_wrong_trunk_is_not_found_and_moves_nothing(twilio: TwilioServer, trunks: TrunkList) -> None:
    sid, right, wrong = twilio.number()["sid"], trunks.create(), trunks.create()
    trunks(right.sid).phone_numbers.create(sid)
    with refused(404, 20404):
        trunks(wrong.sid).phone_numbers(sid).delete()
    assert trunk_of(twilio, sid) == right.sid


@pytest.mark.parametrize("missing", ["Weight", "Priority", "Enabled", "FriendlyName", "SipUrl"])
def test_an_origination_url_needs_all_five_parameters(twilio: TwilioServer, trunks: TrunkList, missing: str) -> None:
    path = f"{V1_TRUNKS}/{trunks.create().sid}/OriginationUrls"
    form = {"Weight": "1", "Priority": "1", "Enabled": "true", "FriendlyName": "f", "SipUrl": "sip:h"}
    assert twilio.raw("POST", path, TRUNKING, data=form).status_code == 201
    answer = twilio.raw("POST", path, TRUNKING, data={k: v for k, v in form.items() if k != missing})
    assert (answer.status_code, answer.json()["code"]) == (400, 20001)
    assert missing in answer.json()["message"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"sip_url": "sips:"},
        {"sip_url": "https://h"},
        {"weight": 65536},
        {"priority": 65536},
        {"friendly_name": "x" * 65},
    ],
)
def test_an_origination_url_out_of_range_is_refused(trunks: TrunkList, wrong: dict[str, Any]) -> None:
    with pytest.raises(TwilioRestException, check=lambda error: error.status == 400):
        trunks(trunks.create().sid).origination_urls.create(**{**URL, **wrong})


def test_an_origination_url_can_be_listed_read_changed_and_deleted(trunks: TrunkList) -> None:
    urls = trunks(trunks.create().sid).origination_urls
    made = urls.create(**URL)
    assert urls(made.sid).fetch().sip_url == URL["sip_url"]
    changed = urls(made.sid).update(enabled=False)
    assert (changed.enabled, changed.priority) == (False, 1)
    assert [url.sid for url in urls.list()] == [made.sid]
    urls(made.sid).delete()
    assert urls.list() == []
    with refused(404, 20404):
        urls(made.sid).delete()


def test_the_eleventh_origination_url_is_one_too_many(trunks: TrunkList) -> None:
    urls = trunks(trunks.create().sid).origination_urls
    for _ in range(10):
        urls.create(**URL)
    with refused(400, 21249):
        urls.create(**URL)


def test_a_trunk_can_be_read_and_changed(trunks: TrunkList) -> None:
    made = trunks.create(friendly_name="before")
    assert (made.secure, made.domain_name, made.transfer_mode) == (False, None, "disable-all")
    assert trunks(made.sid).update(friendly_name="after", secure=True).secure is True
    assert trunks(made.sid).fetch().friendly_name == "after"
    with refused(404, 20404):
        trunks("TK" + "0" * 32).fetch()


def test_attaching_moves_a_number_or_is_refused(twilio: TwilioServer, trunks: TrunkList) -> None:
    sid, one, two = twilio.number()["sid"], trunks.create(), trunks.create()
    trunks(one.sid).phone_numbers.create(sid)
    path = f"{V1_TRUNKS}/{two.sid}/PhoneNumbers"
    answer = twilio.raw("POST", path, TRUNKING, data={"PhoneNumberSid": sid})
    # Twilio's documents leave it open.
    assert (answer.status_code, trunk_of(twilio, sid)) in {(201, two.sid), (409, one.sid)}


def test_trunks_may_have_the_same_name(trunks: TrunkList) -> None:
    assert trunks.create(friendly_name="same").sid != trunks.create(friendly_name="same").sid


def test_deleting_a_trunk_detaches_its_numbers_and_deletes_its_urls(twilio: TwilioServer, trunks: TrunkList) -> None:
    sid, trunk = twilio.number()["sid"], trunks.create()
    trunks(trunk.sid).phone_numbers.create(sid)
    url = trunks(trunk.sid).origination_urls.create(**URL)
    assert trunks(trunk.sid).delete()
    assert trunk_of(twilio, sid) is None
    with refused(404, 20404):
        trunks(trunk.sid).origination_urls(url.sid).fetch()
    with refused(404, 20404):
        trunks(trunk.sid).delete()


@pytest.mark.parametrize(
    ("domain", "code"),
    [("bare", 21245), ("ours.example.com", 21245), ("a.{ours}.pstn.twilio.com", 21247)],
)
def test_a_domain_must_be_a_host_under_the_suffix(trunks: TrunkList, domain: str, code: int | str) -> None:
    with refused(400, code):
        trunks.create(domain_name=domain.format(ours=unused_name()))


def test_a_domain_is_taken_while_in_use_and_reserved_after_the_deletion(trunks: TrunkList) -> None:
    domain = f"{unused_name()}.pstn.twilio.com"
    made = trunks.create(domain_name=domain)
    with refused(400, 21248):
        trunks.create(domain_name=domain)
    trunks(made.sid).delete()
    with refused(400, 21248):
        trunks.create(domain_name=domain)


def test_a_trunk_with_a_sub_domain_stays(trunks: TrunkList) -> None:
    domain = f"{unused_name()}.pstn.twilio.com"
    parent = trunks.create(domain_name=domain)
    child = trunks.create(domain_name=f"a.{domain}")
    with refused(400, 21247):
        trunks(parent.sid).delete()
    trunks(child.sid).delete()
    assert trunks(parent.sid).delete()


def test_recording_is_read_and_changed_beside_the_trunk_that_shows_it(twilio: TwilioServer, trunks: TrunkList) -> None:
    twilio.requires("recording")
    trunk = trunks(trunks.create().sid)
    recording = trunk.recordings()
    assert (recording.fetch().mode, recording.fetch().trim) == ("do-not-record", "do-not-trim")
    changed = recording.update(mode="record-from-answer-dual")
    assert (changed.mode, changed.trim) == ("record-from-answer-dual", "do-not-trim")
    assert trunk.fetch().recording == {"mode": "record-from-answer-dual", "trim": "do-not-trim"}
    with refused(400, 20001):
        recording.update(trim="short")
    with refused(404, 20404):
        trunks("TK" + "0" * 32).recordings().fetch()


KINDS = [
    ("credential_lists", "credentials_lists", "CL", 21240, 21241),
    ("ip_access_control_lists",) * 2 + ("AL", 21235, 21236),
]


@pytest.mark.parametrize(("of_account", "of_trunk", "prefix", "taken", "in_use"), KINDS)
def test_a_trunk_uses_lists_of_the_account(
    twilio: TwilioServer,
    trunks: TrunkList,
    of_account: str,
    of_trunk: str,
    prefix: str,
    taken: int | str,
    in_use: int | str,
) -> None:
    twilio.requires("lists")
    name = unused_name()
    lists, trunk = getattr(twilio.client().sip, of_account), trunks(trunks.create().sid)
    uses = getattr(trunk, of_trunk)
    made = lists.create(friendly_name=name)
    assert made.sid.startswith(prefix)
    with refused(400, taken):
        lists.create(friendly_name=name)
    use = uses.create(made.sid)
    assert (use.sid, use.friendly_name, use.trunk_sid) == (made.sid, name, trunk.fetch().sid)
    raw = twilio.raw("GET", urlsplit(use.url).path, TRUNKING).json()
    assert raw.keys() == SPECIFIED["list"]
    with refused(400, 21245):
        uses.create(made.sid)
    assert [row.sid for row in uses.list()] == [made.sid]
    assert [row.sid for row in lists.list() if row.friendly_name == name] == [made.sid]
    assert trunk.fetch().auth_type == ("CREDENTIAL_LIST" if prefix == "CL" else "IP_ACL")
    with refused(400, in_use):
        lists(made.sid).delete()
    lists(made.sid).update(friendly_name=f"{name} moved")
    assert uses(made.sid).fetch().friendly_name == f"{name} moved"
    assert uses(made.sid).delete()
    assert (uses.list(), trunk.fetch().auth_type) == ([], "")
    assert lists(made.sid).fetch().friendly_name == f"{name} moved"
    for call in (uses(made.sid).fetch, uses(made.sid).delete, lambda: uses.create(prefix + "0" * 32)):
        with refused(404, 20404):
            call()
    assert lists(made.sid).delete()
    with refused(404, 20404):
        lists(made.sid).fetch()


def test_a_trunk_uses_lists_of_both_kinds_which_remain_when_it_is_deleted(
    twilio: TwilioServer, trunks: TrunkList
) -> None:
    twilio.requires("lists")
    name = unused_name()
    sip, trunk = twilio.client().sip, trunks(trunks.create().sid)
    credentials, addresses = sip.credential_lists.create(name), sip.ip_access_control_lists.create(name)
    trunk.credentials_lists.create(credentials.sid)
    trunk.ip_access_control_lists.create(addresses.sid)
    assert trunk.fetch().auth_type_set == ["IP_ACL", "CREDENTIAL_LIST"]
    with refused(404, 20404):
        trunk.credentials_lists.create(addresses.sid)
    with refused(404, 20404):
        sip.credential_lists(addresses.sid).fetch()
    trunk.delete()
    assert sip.credential_lists(credentials.sid).delete()
