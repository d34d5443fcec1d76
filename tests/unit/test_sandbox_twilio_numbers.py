"""Twilio's numbers, credentials and pages in the sandbox, driven by the real SDK."""

from contextlib import AbstractContextManager
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from test_sandbox_process import RunningSandbox, emptied_sandbox, eventually
from twilio.base.exceptions import TwilioException, TwilioRestException
from twilio.rest.trunking.v1.trunk import TrunkList

from app.dev.sandbox import ACCOUNT_SID, API_KEY_SECRET, API_KEY_SID

NUMBER = "+15145551234"
URL = {"weight": 1, "priority": 1, "enabled": True, "friendly_name": "LiveKit", "sip_url": "sip:a.sip.livekit.cloud"}
TRUNKING = "trunking.twilio.com"
V1_TRUNKS = "/v1/Trunks"
NUMBERS = f"/2010-04-01/Accounts/{ACCOUNT_SID}/IncomingPhoneNumbers"


@pytest.fixture
def sandbox() -> RunningSandbox:
    return emptied_sandbox()


@pytest.fixture
def trunks(sandbox: RunningSandbox) -> TrunkList:
    return sandbox.twilio().trunking.v1.trunks


def refused(status: int, code: int | str) -> AbstractContextManager[Any]:
    return pytest.raises(TwilioRestException, check=lambda error: (error.status, error.code) == (status, code))


def trunk_of(sandbox: RunningSandbox, number_sid: str) -> str | None:
    return sandbox.twilio().incoming_phone_numbers(number_sid).fetch().trunk_sid


@pytest.mark.parametrize("auth", [None, (ACCOUNT_SID, "wrong"), ("AC" + "f" * 32, "sandbox-token")])
@pytest.mark.parametrize(("host", "path"), [("api.twilio.com", f"{NUMBERS}.json"), (TRUNKING, V1_TRUNKS)])
def test_wrong_credentials_are_refused_on_both_hosts(
    sandbox: RunningSandbox, auth: tuple[str, str] | None, host: str, path: str
) -> None:
    answer = sandbox.raw_twilio("GET", path, host, auth=auth)
    assert answer.status_code == 401
    assert answer.json() == {
        "code": 20003,
        "message": "Authenticate",
        "more_info": "https://www.twilio.com/docs/errors/20003",
        "status": 401,
    }


def test_a_list_with_wrong_credentials_raises_the_bare_sdk_exception(sandbox: RunningSandbox) -> None:
    with pytest.raises(TwilioException, check=lambda error: error.args[1].status_code == 401):
        sandbox.twilio(password="wrong").incoming_phone_numbers.list()


def test_an_api_key_is_valid_for_its_account(sandbox: RunningSandbox) -> None:
    number = sandbox.add_number(NUMBER)
    keyed = sandbox.twilio(API_KEY_SID, API_KEY_SECRET, ACCOUNT_SID)
    assert keyed.incoming_phone_numbers(number["sid"]).fetch().phone_number == NUMBER
    with refused(404, 20404):
        sandbox.twilio(API_KEY_SID, API_KEY_SECRET).incoming_phone_numbers(number["sid"]).fetch()


def test_a_foreign_account_in_the_path_is_not_found(sandbox: RunningSandbox) -> None:
    with refused(404, 20404):
        sandbox.twilio(account_sid="AC" + "f" * 32).incoming_phone_numbers("PN" + "0" * 32).fetch()


def test_the_path_alone_picks_the_api_and_page_links_name_the_host_that_was_asked(
    sandbox: RunningSandbox, trunks: TrunkList
) -> None:
    trunks.create()
    trunks.create()
    port = sandbox.url.rsplit(":", 1)[1]
    for host, scheme in ((f"127.0.0.1:{port}", "http"), (TRUNKING, "https")):
        meta = sandbox.raw_twilio("GET", f"{V1_TRUNKS}?PageSize=1", host).json()["meta"]
        assert meta["next_page_url"].startswith(f"{scheme}://{host}/v1/Trunks?PageSize=1&Page=1&PageToken=")
        assert meta["url"] == meta["first_page_url"] == f"{scheme}://{host}/v1/Trunks?PageSize=1&Page=0"
        assert (meta["key"], meta["previous_page_url"]) == ("trunks", None)
    assert sandbox.raw_twilio("GET", f"{NUMBERS}.json", f"127.0.0.1:{port}").status_code == 200
    assert sandbox.raw_twilio("GET", V1_TRUNKS, "api.twilio.com").status_code == 404


def test_a_2010_page_has_the_envelope_of_the_reference_and_nothing_else(sandbox: RunningSandbox) -> None:
    sandbox.add_number(NUMBER)
    page = sandbox.raw_twilio("GET", f"{NUMBERS}.json?PhoneNumber=%2B15145551234").json()
    assert page.pop("incoming_phone_numbers")[0]["phone_number"] == NUMBER
    link = f"{NUMBERS}.json?PhoneNumber=%2B15145551234&PageSize=50&Page=0"
    ends = {"start": 0, "end": 0, "page": 0, "page_size": 50, "next_page_uri": None, "previous_page_uri": None}
    assert page == {**ends, "uri": link, "first_page_uri": link}


def test_dates_follow_the_style_of_each_api(sandbox: RunningSandbox, trunks: TrunkList) -> None:
    number = sandbox.add_number(NUMBER)
    assert parsedate_to_datetime(number["date_created"])
    trunk = sandbox.raw_twilio("POST", V1_TRUNKS, TRUNKING).json()
    assert datetime.fromisoformat(trunk["date_created"])
    attached = trunks(trunk["sid"]).phone_numbers.create(number["sid"])
    assert attached.date_created.utcoffset() is not None


def test_paging_follows_tokens_to_the_end_and_cannot_be_counted(sandbox: RunningSandbox) -> None:
    wanted = [f"+1514555{n:04}" for n in range(25)]
    sandbox.control("POST", "numbers", {"numbers": [{"phoneNumber": number} for number in wanted]})
    listed = sandbox.twilio().incoming_phone_numbers.list(page_size=10)
    assert [row.phone_number for row in listed] == wanted
    answer = sandbox.raw_twilio("GET", f"{NUMBERS}.json?PageSize=10&Page=1")
    assert (answer.status_code, answer.json()["code"]) == (400, 20001)
    assert answer.json()["message"] == "PageToken is required for paging."
    assert sandbox.raw_twilio("GET", f"{NUMBERS}.json?Page=1&PageToken=oops").json()["code"] == 21481


def test_every_page_but_the_first_knows_the_one_before_it(sandbox: RunningSandbox, trunks: TrunkList) -> None:
    wanted = [f"+1514555{n:04}" for n in range(11)]
    sandbox.control("POST", "numbers", {"numbers": [{"phoneNumber": number} for number in wanted]})
    trunk = trunks.create()
    for number in sandbox.control("GET", "state")["numbers"]:
        trunks(trunk.sid).phone_numbers.create(number["sid"])
    for listed in (sandbox.twilio().incoming_phone_numbers, trunks(trunk.sid).phone_numbers):
        for filters in ({}, {"phone_number": "+1514555"}) if "Incoming" in type(listed).__name__ else ({},):
            pages = [listed.page(page_size=3, **filters)]
            while following := pages[-1].next_page():
                pages.append(following)
            read = [[row.phone_number for row in page] for page in pages]
            assert read == [wanted[start : start + 3] for start in range(0, 11, 3)]
            back = [page.previous_page() for page in pages]
            assert back[0] is None
            assert [[row.phone_number for row in page] for page in back[1:]] == read[:-1]


def test_the_numbers_of_each_kind_have_a_list_of_their_own(sandbox: RunningSandbox) -> None:
    local, free, mobile = NUMBER, "+18005550100", "+447911123456"
    sandbox.add_number(local)
    sandbox.add_number(mobile, type="mobile")
    numbers = sandbox.twilio().incoming_phone_numbers
    assert numbers.toll_free.create(phone_number=free).phone_number == free
    for listed, wanted in ((numbers.local, local), (numbers.mobile, mobile), (numbers.toll_free, free)):
        assert [row.phone_number for row in listed.list()] == [wanted]
        assert [row.phone_number for row in listed.list(phone_number=wanted)] == [wanted]
        assert listed.list(phone_number="+1999") == []
    page = sandbox.raw_twilio("GET", f"{NUMBERS}/TollFree.json").json()
    assert page["uri"] == f"{NUMBERS}/TollFree.json?PageSize=50&Page=0"
    with refused(400, 21458):
        numbers.local.create(phone_number="+18335550100")
    with refused(400, 21458):
        numbers.toll_free.create(phone_number="+14165550187")
    assert numbers.mobile.create(phone_number="+447911123457").phone_number == "+447911123457"
    assert len(numbers.mobile.list()) == 2


def test_the_account_can_be_fetched_and_no_other(sandbox: RunningSandbox) -> None:
    account = sandbox.twilio().api.accounts(ACCOUNT_SID).fetch()
    assert (account.sid, account.status, account.type) == (ACCOUNT_SID, "active", "Full")
    assert account.subresource_uris["incoming_phone_numbers"] == f"{NUMBERS}.json"
    with refused(404, 20404):
        sandbox.twilio().api.accounts("AC" + "f" * 32).fetch()


def test_v1_lists_page_to_the_end(sandbox: RunningSandbox, trunks: TrunkList) -> None:
    sandbox.control("PUT", "switches", {"trunkLimit": 1000})
    made = [trunks.create(friendly_name=f"t{n}").sid for n in range(7)]
    assert [trunk.sid for trunk in trunks.list(page_size=3)] == made


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("+15145551234", ["+15145551234"]),
        ("+1514555", ["+15145551234", "+15145559999"]),
        ("5559999", ["+15145559999"]),
        ("+1514555****", ["+15145551234", "+15145559999"]),
        ("*5551234", ["+15145551234", "+14165551234"]),
        ("+1999", []),
        ("%2B15145551234", []),
    ],
)
def test_the_number_filter_is_a_pattern(sandbox: RunningSandbox, pattern: str, matches: list[str]) -> None:
    for number in ("+15145551234", "+15145559999", "+14165551234"):
        sandbox.add_number(number)
    found = sandbox.twilio().incoming_phone_numbers.list(phone_number=pattern)
    assert [row.phone_number for row in found] == matches


def test_the_filter_for_names_is_exact(sandbox: RunningSandbox) -> None:
    sid = sandbox.add_number(NUMBER)["sid"]
    sandbox.add_number("+15145559999")
    sandbox.twilio().incoming_phone_numbers(sid).update(friendly_name="front desk")
    found = sandbox.twilio().incoming_phone_numbers.list(friendly_name="front desk")
    assert [row.sid for row in found] == [sid]


def test_a_trunk_removes_the_application_and_overrides_the_url(sandbox: RunningSandbox, trunks: TrunkList) -> None:
    application = "AP" + "a" * 32
    sid = sandbox.add_number(NUMBER, voiceUrl="https://example.com/voice", voiceApplicationSid=application)["sid"]
    number, trunk = sandbox.twilio().incoming_phone_numbers(sid), trunks.create()
    on_trunk = number.update(trunk_sid=trunk.sid)
    assert (on_trunk.trunk_sid, on_trunk.voice_application_sid) == (trunk.sid, "")
    assert on_trunk.voice_url == "https://example.com/voice"
    on_application = number.update(voice_application_sid=application)
    assert (on_application.trunk_sid, on_application.voice_application_sid) == (None, application)


def test_only_an_empty_trunk_sid_clears_and_unknown_parameters_are_ignored(
    sandbox: RunningSandbox, trunks: TrunkList
) -> None:
    sid, trunk = sandbox.add_number(NUMBER)["sid"], trunks.create()
    number = sandbox.twilio().incoming_phone_numbers(sid)
    number.update(trunk_sid=trunk.sid)
    assert number.update(trunk_sid=None).trunk_sid == trunk.sid
    assert sandbox.raw_twilio("POST", f"{NUMBERS}/{sid}.json", data={"Nonsense": "1"}).json()["trunk_sid"] == trunk.sid
    assert number.update(trunk_sid="").trunk_sid is None
    with refused(404, 20404):
        number.update(trunk_sid="TK" + "0" * 32)


def test_buying_an_owned_number_returns_it_without_a_second_row(sandbox: RunningSandbox) -> None:
    sid = sandbox.add_number(NUMBER)["sid"]
    again = sandbox.twilio().incoming_phone_numbers.create(phone_number=NUMBER, friendly_name="ignored")
    assert (again.sid, again.status) == (sid, "in-use")
    assert len(sandbox.control("GET", "state")["numbers"]) == 1


@pytest.mark.parametrize(("number", "code"), [("+15005550000", 21422), ("+15005550001", 21421), ("5551234", 21421)])
def test_a_number_that_cannot_be_bought_is_refused(sandbox: RunningSandbox, number: str, code: int | str) -> None:
    with refused(400, code):
        sandbox.twilio().incoming_phone_numbers.create(phone_number=number)


def test_a_number_can_be_bought_onto_a_trunk_and_released(sandbox: RunningSandbox, trunks: TrunkList) -> None:
    trunk = trunks.create()
    bought = sandbox.twilio().incoming_phone_numbers.create(phone_number="+14165550187", trunk_sid=trunk.sid)
    assert trunk_of(sandbox, bought.sid) == trunk.sid
    sandbox.twilio().incoming_phone_numbers(bought.sid).delete()
    assert sandbox.control("GET", "state")["numbers"] == []


def test_number_reads_lag_behind_writes_when_told_to(sandbox: RunningSandbox, trunks: TrunkList) -> None:
    sid, trunk = sandbox.add_number(NUMBER)["sid"], trunks.create()
    sandbox.control("PUT", "switches", {"staleReadS": 60})
    trunks(trunk.sid).phone_numbers.create(sid)
    assert trunk_of(sandbox, sid) is None
    assert sandbox.twilio().incoming_phone_numbers.list()[0].trunk_sid is None
    sandbox.control("PUT", "switches", {"staleReadS": 0.2})
    eventually(lambda: trunk_of(sandbox, sid) == trunk.sid)


def test_sids_are_two_letters_and_thirty_two_hex_digits(sandbox: RunningSandbox, trunks: TrunkList) -> None:
    sid, trunk = sandbox.add_number(NUMBER)["sid"], trunks.create()
    url = trunks(trunk.sid).origination_urls.create(**URL)
    for prefix, value in (("PN", sid), ("TK", trunk.sid), ("OU", url.sid)):
        assert value.startswith(prefix)
        assert len(bytes.fromhex(value[2:])) == 16


def test_a_seeded_number_is_seeded_once(sandbox: RunningSandbox) -> None:
    first = sandbox.control("POST", "numbers", {"phoneNumber": NUMBER}, status=201)
    assert sandbox.control("POST", "numbers", {"phoneNumber": NUMBER, "voice": False}, status=200) == first
    many = sandbox.control("POST", "numbers", {"numbers": [{"phoneNumber": NUMBER}, {"phoneNumber": "+14165550187"}]})
    assert [row["phone_number"] for row in many["numbers"]] == [NUMBER, "+14165550187"]
