"""The choice of a number on the page that provisions: a search, what is shown of it, and what else the page keeps."""

import re
from datetime import datetime, timedelta
from html import unescape

import pytest

from app.access import Scope
from app.console.number_choice import MAX_SHOWN, MAX_UNAVAILABLE
from app.domain.errors import ErrorCode
from app.path.observed import NumberRouting
from app.providers.errors import TransientError
from tests.support.api import NUMBER, OTHER_NUMBER, Api
from tests.support.console import BrowserClient, signed_in
from tests.support.numbers import APPLICATION, FOREIGN_TRUNK, Account, held

_OPTION = re.compile(r'<label class="check choice">(.*?)</label>', re.DOTALL)


@pytest.fixture
def browser(own_api: Api) -> BrowserClient:
    return signed_in(own_api, Scope.WRITE)


def options(page: str) -> list[str]:
    """Return what each number that can be chosen is shown with, in words."""
    texts = (re.sub(r"<[^>]+>", " ", one) for one in _OPTION.findall(page))
    return [" ".join(unescape(text).split()) for text in texts]


def numbers(page: str) -> list[str]:
    return [one.split()[0] for one in options(page)]


def chosen(page: str) -> list[str]:
    return re.findall(r'name="chosen" value="([^"]+)" checked', page)


def test_each_number_stands_with_its_use_and_those_first_that_cost_nobody_calls(
    own_api: Api, account: Account, browser: BrowserClient
) -> None:
    account.own("+15145550001", NumberRouting(FOREIGN_TRUNK, None, None))
    account.own("+15145550002", NumberRouting(None, APPLICATION, None))
    account.own("+15145550003", NumberRouting(None, None, "https://flows.example.com/FW1"))
    account.own("+15145550004")
    account.own("+15145550005", has_voice=False)
    account.own(NUMBER)
    rings = held(own_api, NUMBER, "Front <desk>")
    page = browser.get(f"/agents/{own_api.agent()}/provision").text

    assert options(page) == [
        "+15145550004 Free",
        "+15145550003 Voice URL its callers reach flows.example.com now and will reach the agent",
        f"+15145550002 Voice application needs takeover: it is on {APPLICATION}",
        f"+15145550001 Another trunk needs takeover, or its path is adopted: it is on {FOREIGN_TRUNK}",
    ]
    assert "Numbers that cannot be chosen (2)" in page
    assert f'rings <a href="/agents/{rings}">Front &lt;desk&gt;</a>' in page
    assert '+15145550005</span> <span class="muted">takes no voice calls' in page
    assert "Listed by Twilio" in page
    assert "of 4 numbers are shown" not in page


def test_a_search_and_a_use_narrow_the_choice(own_api: Api, account: Account, browser: BrowserClient) -> None:
    for number in ("+15145550001", "+14385550002"):
        account.own(number)
    account.own(NUMBER)
    held(own_api, NUMBER, "Night line")
    path = f"/agents/{own_api.agent()}/provision"

    assert numbers(browser.get(f"{path}?q=(438)+555").text) == ["+14385550002"]
    found = browser.get(f"{path}?q=night").text
    assert numbers(found) == []
    assert "No number that can be connected matches." in found
    assert '<details class="panel" id="unavailable" open>' in found
    assert numbers(browser.get(f"{path}?q=555&use=free").text) == ["+14385550002", "+15145550001"]
    assert numbers(browser.get(f"{path}?use=trunk").text) == []
    kept = browser.get(f"{path}?q=%22%3E&use=free").text
    assert 'id="q" name="q" type="search" maxlength="200" autocomplete="off" value="&#34;&gt;"' in kept
    assert '<option value="free" selected>' in kept
    for wrong in ("?use=FREE", "?q=%00", "?fresh=maybe"):
        assert browser.get(path + wrong).status_code == 422
    assert browser.get(f"{path}?other=1&use=&q=").status_code == 200


def test_of_ten_thousand_numbers_a_page_shows_a_few_and_says_so(
    own_api: Api, account: Account, browser: BrowserClient
) -> None:
    for n in range(10_000):
        account.own(f"+1438{n:07}", has_voice=n < 9_000)
    path = f"/agents/{own_api.agent()}/provision"
    whole = browser.get(path).text

    assert numbers(whole) == [f"+1438{n:07}" for n in range(MAX_SHOWN)]
    assert f"{MAX_SHOWN} of 9,000 numbers are shown" in whole
    assert "Numbers that cannot be chosen (1,000)" in whole
    assert f"{1_000 - MAX_UNAVAILABLE} more match." in whole
    assert len(whole) < 60_000
    assert numbers(browser.get(f"{path}?q=8999").text) == ["+14380008999"]
    assert account.lists == 1


def test_what_was_chosen_searched_and_ticked_is_kept_with_an_error(
    own_api: Api, account: Account, browser: BrowserClient
) -> None:
    for n in range(MAX_SHOWN + 10):
        account.own(f"+1514555{n:04}")
    last = f"+1514555{MAX_SHOWN + 9:04}"
    path = f"/agents/{own_api.agent()}/provision"
    form = {"chosen": last, "q": "555", "use": "free", "takeover": "on"}
    wrong = browser.post(path, path, **form, typed="514")

    assert (wrong.status_code, chosen(wrong.text), numbers(wrong.text)[0]) == (422, [last], last)
    assert '<input type="hidden" name="q" value="555"><input type="hidden" name="use" value="free">' in wrong.text
    assert 'name="takeover" checked' in wrong.text
    held(own_api, last, "quicker")
    refused = browser.post(path, path, **form)
    # It is another agent's now.
    assert (refused.status_code, chosen(refused.text)) == (409, [])
    tampered = browser.post(path, path, typed="514", q="\0", use="other")
    assert (tampered.status_code, len(numbers(tampered.text))) == (422, MAX_SHOWN)


def test_a_chosen_number_is_provisioned_and_a_typed_one_goes_first(
    own_api: Api, account: Account, browser: BrowserClient
) -> None:
    account.own(NUMBER)
    first, second = own_api.agent("first"), own_api.agent("second")
    path = f"/agents/{first}/provision"
    assert browser.post(path, path, chosen=NUMBER, q="", use="").status_code == 303
    assert own_api.status(first).json["phoneNumber"] == NUMBER
    browser.post(f"/agents/{second}/provision", path, chosen=NUMBER, typed=OTHER_NUMBER)
    assert own_api.status(second).json["phoneNumber"] == OTHER_NUMBER


def test_read_again_asks_twilio(own_api: Api, account: Account, browser: BrowserClient) -> None:
    path = f"/agents/{own_api.agent()}/provision"
    page = browser.get(f"{path}?q=555").text
    assert "No number that can be connected matches." in page
    account.own(NUMBER)
    assert numbers(browser.get(f"{path}?q=555").text) == []
    (again,) = re.findall(r'<a href="([^"]+)">Read again</a>', page)
    shown = browser.get(unescape(again)).text
    assert numbers(shown) == numbers(browser.get(path).text) == [NUMBER]
    assert account.lists == 2
    # From here on no other process shows an older list: both forms say since when.
    (since, same) = re.findall(r'<input type="hidden" name="since" value="([^"]+)">', shown)
    assert since == same
    assert numbers(browser.get(path, query_string={"since": since}).text) == [NUMBER]
    assert account.lists == 2
    later = datetime.fromisoformat(since) + timedelta(seconds=1)
    browser.get(path, query_string={"since": later.isoformat()})
    assert account.lists == 3


def test_an_account_without_a_number_is_told(own_api: Api, account: Account, browser: BrowserClient) -> None:
    path = f"/agents/{own_api.agent()}/provision"
    page = browser.get(path).text
    assert "The account has no number that can be connected." in page
    assert "The account has no free number. Buy one at Twilio" in page
    assert "The account has no free number." not in browser.get(f"{path}?q=1").text
    account.unreadable = 3
    assert "Records that cannot be read: 3." in browser.get(f"{path}?fresh=1").text


def test_a_number_can_be_entered_when_the_list_cannot_be_read(
    own_api: Api, account: Account, browser: BrowserClient
) -> None:
    account.error = TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "Twilio does not answer.")
    agent_id = own_api.agent()
    path = f"/agents/{agent_id}/provision"
    page = browser.get(path)

    assert page.status_code == 200
    assert "Twilio does not answer." in page.text
    assert 'name="typed"' in page.text
    # What was chosen before is not lost.
    own_api.provision(own_api.agent("other"), NUMBER)
    again = browser.post(path, path, chosen=NUMBER)
    assert (again.status_code, f'maxlength="32" value="{NUMBER}"' in again.text) == (409, True)


def test_nobody_sees_numbers_of_another_workspace(own_api: Api, account: Account) -> None:
    for number in (OTHER_NUMBER, "+15145550001"):
        account.own(number)
    held(own_api.in_workspace("acme"), "+15145550001", "acme's secret desk")
    globex = own_api.in_workspace("globex")
    visitor = BrowserClient(globex)
    visitor.sign_in()
    page = visitor.get(f"/agents/{globex.agent()}/provision").text
    assert numbers(page) == [OTHER_NUMBER]
    assert "+15145550001" not in page
    assert "secret" not in page
