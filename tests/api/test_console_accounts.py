"""Accounts in the console: stored, checked, rotated and deleted; a secret is on no page, not even after a mistake."""

from collections.abc import Iterator

import pytest

from app.access import Scope
from app.db.models import CarrierAccount, Workspace
from app.domain.workspaces import ENVIRONMENT_ACCOUNT, AccountKind
from tests.support.accounts import (
    PROJECT_KEY,
    PROJECT_SECRET,
    PROJECT_URL,
    SID,
    TOKEN,
    FakeAccounts,
    accepting,
    with_accounts,
)
from tests.support.api import Api
from tests.support.console import BrowserClient, signed_in

NEW = "marked-new-token"
SIP_URI = "sip:4nd0vfrjcr1.sip.livekit.cloud"


@pytest.fixture
def providers(api: Api) -> Iterator[FakeAccounts]:
    providers = accepting()
    with with_accounts(api, providers):
        yield providers


@pytest.fixture
def browser(api: Api, providers: FakeAccounts) -> BrowserClient:
    assert providers
    return signed_in(api, Scope.ADMIN)


def stored(browser: BrowserClient, **more: str) -> str:
    """Store the Twilio account, and return its page."""
    form = {"name": "Acme", "accountSid": SID, "secret": TOKEN, "username": "", "baseUrl": ""} | more
    response = browser.post("/carrier-accounts", **form)
    assert response.status_code == 303, response.text
    return str(response.headers["Location"])


def test_a_carrier_account_is_stored_and_shown_with_its_checks(browser: BrowserClient) -> None:
    page = browser.get(stored(browser)).text

    assert "Verified" in page
    assert SID in page
    assert "the account owns 0 numbers" in page
    assert TOKEN not in page
    assert "Acme" in browser.get("/accounts").text


def test_a_voice_project_is_stored_and_shown(browser: BrowserClient) -> None:
    form = {"name": "Acme voice", "url": PROJECT_URL, "username": PROJECT_KEY, "secret": PROJECT_SECRET}
    response = browser.post("/voice-projects", **form, sipUri=SIP_URI)

    page = browser.get(response.headers["Location"]).text
    assert "Verified" in page
    assert f"{SIP_URI};transport=tcp" in page
    assert PROJECT_SECRET not in page


def test_a_mistake_is_told_at_its_field_and_the_secret_is_not_repeated(browser: BrowserClient) -> None:
    response = browser.post("/carrier-accounts", name="Acme", accountSid="AC1", secret=TOKEN)

    assert response.status_code == 422
    assert 'id="accountSid-wrong"' in response.text
    assert 'value="AC1"' in response.text
    assert response.text.count(" open>") == 1
    assert TOKEN not in response.text


def test_a_refused_credential_is_shown_with_what_to_do_and_a_rotation_puts_it_right(
    browser: BrowserClient, providers: FakeAccounts
) -> None:
    path = stored(browser, secret="wrong")
    assert "The credential is refused" in browser.get(path).text

    refused = browser.post(f"{path}/rotate", secret=NEW, username="", oldValidForS="0")
    assert refused.status_code == 409
    assert "nothing was changed" in refused.text
    assert NEW not in refused.text

    providers.accepted.add((SID, SID, NEW))
    assert browser.post(f"{path}/rotate", secret=NEW, username="", oldValidForS="0").status_code == 303
    page = browser.get(path).text
    assert "Verified" in page
    assert "The credential is refused" not in page


def test_a_check_on_demand_shows_what_the_provider_says_now(browser: BrowserClient, providers: FakeAccounts) -> None:
    path = stored(browser)
    providers.accepted.clear()

    assert browser.post(f"{path}/check").status_code == 303
    assert "Refused" in browser.get(path).text


def test_an_account_is_deleted_after_a_question_unless_it_is_used(api: Api, browser: BrowserClient) -> None:
    path = stored(browser)
    agent_id = api.agent(carrierAccountId=path.rsplit("/", 1)[-1])
    assert "Delete Acme?" in browser.get(f"{path}/delete").text
    used = browser.post(f"{path}/delete")
    assert (used.status_code, "1 agents" in used.text) == (409, True)

    api.delete(f"/api/agents/{agent_id}")

    assert browser.post(f"{path}/delete").headers["Location"] == "/accounts"
    assert browser.get(path).status_code == 404


def test_the_environments_account_is_checked_and_not_changed(browser: BrowserClient) -> None:
    path = f"/carrier-accounts/{ENVIRONMENT_ACCOUNT}"
    page = browser.get(path).text

    assert "TWILIO_*" in page
    assert f"{path}/rotate" not in page
    assert browser.post(f"{path}/check").status_code == 303
    assert browser.post(f"{path}/delete").status_code == 403


def test_a_key_that_may_not_administer_sees_accounts_and_no_buttons(api: Api, browser: BrowserClient) -> None:
    path = stored(browser)
    reader = signed_in(api, Scope.WRITE)

    for page in (reader.get("/accounts").text, reader.get(path).text):
        assert "Acme" in page
        assert "/rotate" not in page
        assert "Store and check" not in page
    assert reader.post(f"{path}/check").status_code == 403


def test_a_workspace_sees_only_the_name_and_status_of_an_account_that_is_the_installations(
    api: Api, browser: BrowserClient
) -> None:
    path = stored(browser, shared="on")
    acme = api.in_workspace("acme", Scope.ADMIN)
    with api.wiring.sessions.begin() as session:
        account = session.query(CarrierAccount).filter_by(name="Acme").one()
        session.query(Workspace).filter_by(slug="acme").one().carrier_account_id = account.id
    theirs = BrowserClient(acme)
    theirs.sign_in()

    page = theirs.get(path).text
    assert "Verified" in page
    assert SID not in page
    assert "the account owns" not in page
    assert f"{path}/check" not in page
    assert "Workspace" not in theirs.get("/accounts").text


def test_every_kind_has_its_pages(browser: BrowserClient) -> None:
    page = browser.get("/accounts").text

    assert all(f"new-{kind}" in page for kind in AccountKind)
