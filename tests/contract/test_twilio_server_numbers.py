"""Twilio's numbers, credentials and pages; true of the sandbox and of any emulator of Twilio."""

from datetime import datetime
from email.utils import parsedate_to_datetime

import pytest
from twilio.base.exceptions import TwilioException
from twilio.rest.trunking.v1.trunk import TrunkList

from tests.support.adapters import APPLICATION
from tests.support.twilio_server import API, TRUNKING, V1_TRUNKS, TwilioServer, random_text, refused

NOBODY = "AC" + "f" * 32
URL = {"weight": 1, "priority": 1, "enabled": True, "friendly_name": "LiveKit", "sip_url": "sip:a.sip.livekit.cloud"}


@pytest.fixture
def trunks(twilio: TwilioServer) -> TrunkList:
    return twilio.client().trunking.v1.trunks


@pytest.mark.parametrize("login", ["none", "password", "account"])
@pytest.mark.parametrize("host", [API, TRUNKING])
def test_wrong_credentials_are_refused_on_both_hosts(twilio: TwilioServer, login: str, host: str) -> None:
    twilio.requires("credentials")
    path = f"{twilio.numbers_path}.json" if host == API else V1_TRUNKS
    auth = {"none": None, "password": (twilio.account_sid, "wrong"), "account": (NOBODY, "wrong")}[login]
    answer = twilio.raw("GET", path, host, auth=auth)
    assert answer.status_code == 401
    assert answer.json() == {
        "code": 20003,
        "message": "Authenticate",
        "more_info": "https://www.twilio.com/docs/errors/20003",
        "status": 401,
    }


def test_a_list_with_wrong_credentials_raises_the_bare_sdk_exception(twilio: TwilioServer) -> None:
    twilio.requires("credentials")
    with pytest.raises(TwilioException, check=lambda error: error.args[1].status_code == 401):
        twilio.client(password="wrong").incoming_phone_numbers.list()


def test_a_foreign_account_in_the_path_is_not_found(twilio: TwilioServer) -> None:
    with refused(404, 20404):
        twilio.client(account_sid=NOBODY).incoming_phone_numbers("PN" + "0" * 32).fetch()


def test_a_2010_page_has_the_envelope_of_the_reference_and_nothing_else(twilio: TwilioServer) -> None:
    number = twilio.number()["phone_number"]
    query = f"PhoneNumber=%2B{number[1:]}"
    page = twilio.raw("GET", f"{twilio.numbers_path}.json?{query}").json()
    assert page.pop("incoming_phone_numbers")[0]["phone_number"] == number
    link = f"{twilio.numbers_path}.json?{query}&PageSize=50&Page=0"
    ends = {"start": 0, "end": 0, "page": 0, "page_size": 50, "next_page_uri": None, "previous_page_uri": None}
    assert page == {**ends, "uri": link, "first_page_uri": link}


def test_a_page_cannot_be_asked_for_by_its_number(twilio: TwilioServer) -> None:
    answer = twilio.raw("GET", f"{twilio.numbers_path}.json?PageSize=10&Page=1")
    assert (answer.status_code, answer.json()["code"]) == (400, 20001)
    assert answer.json()["message"] == "PageToken is required for paging."


def test_dates_follow_the_style_of_each_api(twilio: TwilioServer, trunks: TrunkList) -> None:
    number = twilio.number()
    assert parsedate_to_datetime(number["date_created"])
    trunk = twilio.raw("POST", V1_TRUNKS, TRUNKING).json()
    assert datetime.fromisoformat(trunk["date_created"])
    attached = trunks(trunk["sid"]).phone_numbers.create(number["sid"])
    assert attached.date_created.utcoffset() is not None


def test_the_account_can_be_fetched_and_no_other(twilio: TwilioServer) -> None:
    twilio.requires("account")
    account = twilio.client().api.accounts(twilio.account_sid).fetch()
    assert (account.sid, account.status) == (twilio.account_sid, "active")
    assert account.subresource_uris["incoming_phone_numbers"] == f"{twilio.numbers_path}.json"
    with refused(404, 20404):
        twilio.client().api.accounts(NOBODY).fetch()


def test_v1_lists_page_to_the_end(twilio: TwilioServer, trunks: TrunkList) -> None:
    made = [trunks.create(friendly_name=f"t{n}").sid for n in range(7)]
    assert [trunk.sid for trunk in trunks.list(page_size=3) if trunk.sid in made] == made


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("{number}", True),
        ("{start}", True),
        ("{end}", True),
        ("{start}****", True),
        ("*{end}", True),
        ("+1999", False),
        ("%2B{digits}", False),
    ],
)
def test_the_number_filter_is_a_pattern(twilio: TwilioServer, pattern: str, matches: bool) -> None:
    number = twilio.number()["phone_number"]
    wanted = pattern.format(number=number, start=number[:-4], end=number[-7:], digits=number[1:])
    found = twilio.client().incoming_phone_numbers.list(phone_number=wanted)
    assert (number in {row.phone_number for row in found}) is matches


def test_the_filter_for_names_is_exact(twilio: TwilioServer) -> None:
    name = f"front desk {random_text.randrange(10**9)}"
    sid = twilio.number(FriendlyName=name)["sid"]
    numbers = twilio.client().incoming_phone_numbers
    assert [row.sid for row in numbers.list(friendly_name=name)] == [sid]
    assert numbers.list(friendly_name=name[:-1]) == []


def test_a_trunk_removes_the_application_and_overrides_the_url(twilio: TwilioServer, trunks: TrunkList) -> None:
    sid = twilio.number(VoiceUrl="https://example.com/voice", VoiceApplicationSid=APPLICATION)["sid"]
    number, trunk = twilio.client().incoming_phone_numbers(sid), trunks.create()
    on_trunk = number.update(trunk_sid=trunk.sid)
    assert (on_trunk.trunk_sid, on_trunk.voice_application_sid) == (trunk.sid, "")
    assert on_trunk.voice_url == "https://example.com/voice"
    on_application = number.update(voice_application_sid=APPLICATION)
    assert (on_application.trunk_sid, on_application.voice_application_sid) == (None, APPLICATION)


def test_only_an_empty_trunk_sid_clears_and_unknown_parameters_are_ignored(
    twilio: TwilioServer, trunks: TrunkList
) -> None:
    sid, trunk = twilio.number()["sid"], trunks.create()
    number = twilio.client().incoming_phone_numbers(sid)
    number.update(trunk_sid=trunk.sid)
    assert number.update(trunk_sid=None).trunk_sid == trunk.sid
    changed = twilio.raw("POST", f"{twilio.numbers_path}/{sid}.json", data={"Nonsense": "1"})
    assert changed.json()["trunk_sid"] == trunk.sid
    assert number.update(trunk_sid="").trunk_sid is None
    with refused(404, 20404):
        number.update(trunk_sid="TK" + "0" * 32)


def test_sids_are_two_letters_and_thirty_two_hex_digits(twilio: TwilioServer, trunks: TrunkList) -> None:
    sid, trunk = twilio.number()["sid"], trunks.create()
    url = trunks(trunk.sid).origination_urls.create(**URL)
    for prefix, value in (("PN", sid), ("TK", trunk.sid), ("OU", url.sid)):
        assert value.startswith(prefix)
        assert len(bytes.fromhex(value[2:])) == 16
