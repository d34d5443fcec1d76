"""What the sandbox's Twilio does on its own account: seeded and bought numbers, switches, hosts, long lists."""

import pytest
from test_sandbox_process import RunningSandbox, emptied_sandbox, eventually
from twilio.base.exceptions import TwilioRestException
from twilio.rest.trunking.v1.trunk import TrunkList

from app.dev.sandbox import ACCOUNT_SID, API_KEY_SECRET, API_KEY_SID
from tests.support.twilio_server import TRUNKING, V1_TRUNKS, refused

NUMBER = "+15145551234"
NUMBERS = f"/2010-04-01/Accounts/{ACCOUNT_SID}/IncomingPhoneNumbers"


@pytest.fixture
def sandbox() -> RunningSandbox:
    return emptied_sandbox()


@pytest.fixture
def trunks(sandbox: RunningSandbox) -> TrunkList:
    return sandbox.twilio().trunking.v1.trunks


def trunk_of(sandbox: RunningSandbox, number_sid: str) -> str | None:
    return sandbox.twilio().incoming_phone_numbers(number_sid).fetch().trunk_sid


def test_an_api_key_is_valid_for_its_account(sandbox: RunningSandbox) -> None:
    number = sandbox.add_number(NUMBER)
    keyed = sandbox.twilio(API_KEY_SID, API_KEY_SECRET, ACCOUNT_SID)
    assert keyed.incoming_phone_numbers(number["sid"]).fetch().phone_number == NUMBER
    with refused(404, 20404):
        sandbox.twilio(API_KEY_SID, API_KEY_SECRET).incoming_phone_numbers(number["sid"]).fetch()


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


def test_a_seeded_number_is_seeded_once(sandbox: RunningSandbox) -> None:
    first = sandbox.control("POST", "numbers", {"phoneNumber": NUMBER}, status=201)
    assert sandbox.control("POST", "numbers", {"phoneNumber": NUMBER, "voice": False}, status=200) == first
    many = sandbox.control("POST", "numbers", {"numbers": [{"phoneNumber": NUMBER}, {"phoneNumber": "+14165550187"}]})
    assert [row["phone_number"] for row in many["numbers"]] == [NUMBER, "+14165550187"]


def test_attaching_moves_a_number_or_is_refused_as_the_switch_says(sandbox: RunningSandbox, trunks: TrunkList) -> None:
    sid, one, two = sandbox.add_number(NUMBER)["sid"], trunks.create(), trunks.create()
    trunks(one.sid).phone_numbers.create(sid)
    trunks(two.sid).phone_numbers.create(sid)
    assert trunk_of(sandbox, sid) == two.sid
    sandbox.control("PUT", "switches", {"attachConflict": "reject409"})
    with pytest.raises(TwilioRestException, match="already associated", check=lambda error: error.status == 409):
        trunks(one.sid).phone_numbers.create(sid)
    assert trunk_of(sandbox, sid) == two.sid


def test_the_sub_resource_is_missing_where_the_region_lacks_it(sandbox: RunningSandbox, trunks: TrunkList) -> None:
    sid, trunk = sandbox.add_number(NUMBER)["sid"], trunks.create()
    sandbox.control("PUT", "switches", {"trunkSubresource": False})
    with refused(404, 20404):
        trunks(trunk.sid).phone_numbers.create(sid)
    assert sandbox.twilio().incoming_phone_numbers(sid).update(trunk_sid=trunk.sid).trunk_sid == trunk.sid


def test_trunks_may_have_the_same_name_until_the_account_is_full(sandbox: RunningSandbox, trunks: TrunkList) -> None:
    sandbox.control("PUT", "switches", {"trunkLimit": 2})
    assert trunks.create(friendly_name="same").sid != trunks.create(friendly_name="same").sid
    with refused(400, 21244):
        trunks.create(friendly_name="same")


def test_a_trunk_with_an_emergency_number_stays(sandbox: RunningSandbox, trunks: TrunkList) -> None:
    sid, trunk = sandbox.add_number(NUMBER, emergencyStatus="Active")["sid"], trunks.create()
    trunks(trunk.sid).phone_numbers.create(sid)
    with refused(400, 21634):
        trunks(trunk.sid).delete()
    assert trunk_of(sandbox, sid) == trunk.sid
