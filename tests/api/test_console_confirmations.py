"""What is rotated, disabled, deleted or fixed at large asks first, on a page that says what will happen."""

import uuid
from datetime import UTC, datetime

import pytest

from app.access import Scope
from app.db.models import Audit
from app.domain.findings import AuditStatus, Finding, FindingCode, finding_json
from tests.api.test_bulk import advance, fresh, items_of, start
from tests.api.test_console_webhooks import registered
from tests.support.api import Api
from tests.support.console import BrowserClient, signed_in

FIX = 'name="fix" value="on"'


@pytest.fixture
def browser(api: Api) -> BrowserClient:
    return signed_in(api, Scope.ADMIN)


def reported(api: Api, *findings: Finding) -> None:
    with api.wiring.sessions.begin() as session:
        found = [finding_json(one) for one in findings]
        session.add(Audit(status=AuditStatus.DONE, findings=found, finished_at=datetime.now(UTC)))


def test_a_fix_at_large_asks_first_and_says_what_the_last_report_would_have_it_do(
    api: Api, browser: BrowserClient
) -> None:
    first, second = str(uuid.uuid4()), str(uuid.uuid4())
    reported(
        api,
        Finding(FindingCode.TRUNK_CHANGED, first, detail="It differs."),
        Finding(FindingCode.RULE_GONE, first, detail="It is gone."),
        Finding(FindingCode.RULE_GONE, second, detail="It is gone."),
        Finding(FindingCode.NUMBER_MOVED, second, detail="It was moved."),
        Finding(FindingCode.ORPHAN, resource=("twilio_trunk", "TK1"), detail="Nobody's."),
        Finding(FindingCode.NUMBER_GONE, first, detail="It is gone."),
    )
    assert FIX not in browser.get("/audit").text
    assert 'href="/audit/fix"' in browser.get("/audit").text

    asked = browser.get("/audit/fix").text

    assert FIX in asked
    assert "<strong>2</strong> agents would be repaired" in asked
    assert "<strong>1</strong> resource would be deleted" in asked
    assert "<strong>2</strong> findings would be left for a person" in asked
    assert api.publisher.audits == []
    browser.post("/audit", "/audit/fix", fix="on")
    assert len(api.publisher.audits) == 1


def test_without_a_report_a_fix_says_that_nothing_is_known(browser: BrowserClient) -> None:
    assert "There is no report yet" in browser.get("/audit/fix").text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("rotate", "signed with both secrets for 1 d"),
        ("disable", "are not recorded for it, and are not sent later"),
        ("delete", "Its secret, its delivery log and its pending deliveries are deleted too"),
    ],
)
def test_a_webhook_asks_before_it_changes_for_good(api: Api, browser: BrowserClient, name: str, words: str) -> None:
    page = registered(api, browser)
    action = f'action="{page}/{name}"'
    assert action not in browser.get(page).text
    assert f'href="{page}/{name}"' in browser.get(page).text
    before = vars(api.wiring.webhooks.all()[0]) | {"_sa_instance_state": None}

    asked = browser.get(f"{page}/{name}").text

    assert words in asked
    assert action in asked
    assert 'id="confirm"' in asked
    assert vars(api.wiring.webhooks.all()[0]) | {"_sa_instance_state": None} == before
    assert action not in signed_in(api, Scope.WRITE).get(f"{page}/{name}").text


def test_what_is_disabled_already_has_nothing_to_confirm(api: Api, browser: BrowserClient) -> None:
    page = registered(api, browser)
    browser.post(f"{page}/disable")

    assert 'id="confirm"' not in browser.get(f"{page}/disable").text


def test_a_retry_of_a_bulk_asks_first_and_counts(api: Api, browser: BrowserClient) -> None:
    response = start(api, [*fresh(2), {"phoneNumber": "12"}])
    advance(api)
    for item in items_of(api, response)[:2]:
        api.fail(item["operationId"], "number_not_in_account", "No.")
    advance(api)
    page = f"/bulks/{response.json['bulkId']}"
    assert f'action="{page}/resume"' not in browser.get(page).text
    assert f'href="{page}/resume"' in browser.get(page).text

    asked = browser.get(f"{page}/resume").text

    assert "<strong>Up to 3 of 3 numbers are started again:</strong> 3 failed and 0 cancelled." in asked
    assert f'action="{page}/resume"' in asked
    assert "Nothing to retry" in browser.get(f"/bulks/{start(api, fresh(1, 5000)).json['bulkId']}/resume").text


# The webhook's form, and a delivery


def test_a_webhook_is_edited_and_keeps_what_was_not_changed(api: Api, browser: BrowserClient) -> None:
    page = registered(api, browser, events=["phone.failed"])
    form = browser.get(f"{page}/edit").text
    assert 'value="phone.failed" checked' in form
    assert 'value="https://93.184.215.14/hook"' in form
    secret = api.wiring.webhooks.all()[0].sealed_secret

    response = browser.post(
        f"{page}/edit", url="https://93.184.215.14/new", events="phone.drifted", description="Pager"
    )

    assert response.headers["Location"] == page
    endpoint = api.wiring.webhooks.all()[0]
    assert (endpoint.url, endpoint.events) == ("https://93.184.215.14/new", ["phone.drifted"])
    assert (endpoint.description, endpoint.sealed_secret) == ("Pager", secret)
    browser.post(f"{page}/edit", url="https://93.184.215.14/new", description="")
    endpoint = api.wiring.webhooks.all()[0]
    assert (endpoint.events, endpoint.description) == (None, None)


def test_a_refused_edit_shows_what_was_typed_and_changes_nothing(api: Api, browser: BrowserClient) -> None:
    page = registered(api, browser)

    response = browser.post(f"{page}/edit", url="https://10.0.0.1/", events="phone.failed", description="<b>")

    assert response.status_code == 422
    assert 'aria-describedby="url-wrong"' in response.text
    assert 'value="https://10.0.0.1/"' in response.text
    assert 'value="phone.failed" checked' in response.text
    assert "&lt;b&gt;" in response.text
    assert api.wiring.webhooks.all()[0].url == "https://93.184.215.14/hook"


def test_a_delivery_shows_its_payload_and_what_the_receiver_answered(api: Api, browser: BrowserClient) -> None:
    page = registered(api, browser)
    browser.post(f"{page}/ping")
    [row] = api.get(f"/api{page}/deliveries").json["items"]
    path = f"{page}/deliveries/{row['id']}"
    assert f'href="{path}"' in browser.get(page).text
    assert "not sent yet" in browser.get(path).text
    with api.wiring.engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE webhook_deliveries SET attempts = 2, response_status = 503, response_body = '<i>no</i>'"
        )

    shown = browser.get(path).text

    assert "&#34;type&#34;: &#34;ping&#34;" in shown
    assert "<strong>503</strong>" in shown
    assert "&lt;i&gt;no&lt;/i&gt;" in shown
    assert f'action="{path}/redeliver"' in shown
    assert f'action="{path}/redeliver"' not in signed_in(api, Scope.READ).get(path).text
    other = registered(api, browser)
    assert browser.get(f"{other}/deliveries/{row['id']}").status_code == 404
