"""Webhooks in the console: the secret that is shown once, the delivery log, and the actions each scope allows."""

import re

import pytest
from werkzeug.test import TestResponse

from app.access import Scope
from app.db.webhooks import WebhookDelivery, WebhookEndpoint
from app.domain.events import DeliveryStatus, DisabledReason
from app.webhooks.deliveries import secret_field
from app.webhooks.endpoints import MAX_ENDPOINTS
from tests.support.api import NOBODY, Api
from tests.support.console import BrowserClient, signed_in

SCRIPT = "<script>alert(1)</script>"
URL = "https://93.184.215.14/hook"
SECRET = re.compile(r"whsec_[A-Za-z0-9+/=]{44}")


@pytest.fixture
def browser(api: Api) -> BrowserClient:
    return signed_in(api, Scope.ADMIN)


def register(browser: BrowserClient, url: str = URL, **more: object) -> TestResponse:
    return browser.post("/webhooks", url=url, description="", **more)


def registered(api: Api, browser: BrowserClient, **more: object) -> str:
    """Register an endpoint, and return its page."""
    assert register(browser, **more).status_code == 201
    return f"/webhooks/{api.wiring.webhooks.all()[-1].id}"


def set_endpoint(api: Api, **values: object) -> None:
    with api.wiring.sessions.begin() as session:
        endpoint = session.query(WebhookEndpoint).one()
        for name, value in values.items():
            setattr(endpoint, name, value)


def set_delivery(api: Api, **values: object) -> None:
    with api.wiring.sessions.begin() as session:
        delivery = session.query(WebhookDelivery).one()
        for name, value in values.items():
            setattr(delivery, name, value)


def test_the_empty_page_says_what_a_webhook_is_for(api: Api, browser: BrowserClient) -> None:
    assert "No webhooks yet" in browser.get("/webhooks").text
    assert "needs a key with the scope" in signed_in(api, Scope.WRITE).get("/webhooks").text


def test_a_secret_is_shown_once_and_kept_by_no_browser(api: Api, browser: BrowserClient) -> None:
    response = register(browser, events=["phone.failed", "phone.drifted"])

    assert response.status_code == 201
    assert response.headers["Cache-Control"] == "no-store"
    endpoint = api.wiring.webhooks.all()[0]
    assert secret_of(api) in response.text
    assert (endpoint.url, endpoint.events, endpoint.description) == (URL, ["phone.failed", "phone.drifted"], None)
    for path in ("/webhooks", f"/webhooks/{endpoint.id}", f"/webhooks/{endpoint.id}/live"):
        page = browser.get(path).text
        assert URL in page, path
        assert "phone.drifted" in page, path
        assert not SECRET.search(page), path


def test_with_no_event_chosen_it_receives_every_event(api: Api, browser: BrowserClient) -> None:
    page = registered(api, browser)

    assert api.wiring.webhooks.all()[0].events is None
    assert "every event" in browser.get(page).text


@pytest.mark.parametrize("url", ["", "nonsense", "http://127.0.0.1/", "https://10.0.0.1/", "https://a/" + "x" * 2000])
def test_a_wrong_url_is_shown_beside_its_field_with_what_was_typed(api: Api, browser: BrowserClient, url: str) -> None:
    response = register(browser, url, events="phone.failed")

    assert response.status_code == 422
    assert 'aria-describedby="url-wrong"' in response.text
    assert f'value="{url}"' in response.text
    assert 'value="phone.failed" checked' in response.text
    assert api.count("webhook_endpoints") == 0


def test_an_unknown_event_is_refused(api: Api, browser: BrowserClient) -> None:
    assert register(browser, events="phone.rang").status_code == 422
    assert api.count("webhook_endpoints") == 0


def test_one_too_many_is_refused_on_the_page(api: Api, browser: BrowserClient) -> None:
    with api.wiring.sessions.begin() as session:
        session.add_all(WebhookEndpoint(url=URL, sealed_secret="whsec_") for _ in range(MAX_ENDPOINTS))

    response = register(browser)

    assert response.status_code == 409
    assert "delete one" in response.text


def secret_of(api: Api) -> str:
    endpoint = api.wiring.webhooks.all()[0]
    return api.wiring.webhooks.sealer.open(endpoint.sealed_secret, secret_field(endpoint.id))


def test_a_new_secret_is_shown_once_and_the_old_one_goes_on_for_a_day(api: Api, browser: BrowserClient) -> None:
    page = registered(api, browser)
    old = secret_of(api)

    response = browser.post(f"{page}/rotate")

    now = secret_of(api)
    assert now != old
    assert now in response.text
    assert old not in response.text
    assert response.headers["Cache-Control"] == "no-store"
    assert "the old secret also signs until" in browser.get(page).text


def test_a_test_is_queued_logged_and_sent_again(api: Api, browser: BrowserClient) -> None:
    page = registered(api, browser)
    assert "No deliveries yet" in browser.get(page).text
    browser.post(f"{page}/ping")
    shown = browser.get(page).text
    assert "A test event is queued." in shown
    assert "<code>ping</code>" in shown
    assert 'data-open="yes"' in shown
    assert "/redeliver" not in shown
    set_delivery(api, status=DeliveryStatus.FAILED, attempts=8, response_status=503, next_at=None)

    over = browser.get(f"{page}?status=failed").text
    assert "Failed" in over
    assert "503" in over
    assert 'data-open="no"' in over
    again = re.findall(r'action="([^"]+/redeliver)"', over)
    browser.post(again[0])

    with api.wiring.sessions() as session:
        delivery = session.query(WebhookDelivery).one()
        assert (delivery.status, delivery.attempts) == (DeliveryStatus.PENDING, 0)
    assert len(api.publisher.webhooks) == 2


def test_the_live_part_is_sent_once_until_a_delivery_changes(api: Api, browser: BrowserClient) -> None:
    page = registered(api, browser)
    browser.post(f"{page}/ping")
    known = {"If-None-Match": browser.get(f"{page}/live").headers["ETag"]}
    assert browser.get(f"{page}/live", headers=known).status_code == 304

    set_delivery(api, attempts=1, error="connection_failed")

    assert "Connection failed" in browser.get(f"{page}/live", headers=known).text


@pytest.mark.parametrize(
    ("reason", "words"),
    [(DisabledReason.GONE, "it responded 410"), (DisabledReason.FAILING, "it kept failing")],
)
def test_a_disabled_webhook_shows_why_and_can_be_enabled(
    api: Api, browser: BrowserClient, reason: DisabledReason, words: str
) -> None:
    page = registered(api, browser)
    browser.post(f"{page}/disable")
    assert api.wiring.webhooks.all()[0].disabled_reason == DisabledReason.REQUESTED
    set_endpoint(api, disabled_reason=reason)
    shown = browser.get(page).text
    assert words in shown
    assert f"{page}/ping" not in shown
    refused = browser.post(f"{page}/ping")
    assert refused.status_code == 409
    assert "Enable the webhook, then" in refused.text

    browser.post(f"{page}/enable")

    assert api.wiring.webhooks.all()[0].disabled_at is None
    assert f"{page}/ping" in browser.get(page).text


def test_deleting_asks_first(api: Api, browser: BrowserClient) -> None:
    page = registered(api, browser)
    assert "Delete this webhook?" in browser.get(f"{page}/delete").text
    assert api.count("webhook_endpoints") == 1

    browser.post(f"{page}/delete")

    assert api.count("webhook_endpoints") == 0
    assert "The webhook is deleted." in browser.get("/webhooks").text


def test_foreign_text_is_escaped_on_every_page(api: Api, browser: BrowserClient) -> None:
    page = registered(api, browser)
    browser.post(f"{page}/ping")
    set_endpoint(api, url=f"{URL}?{SCRIPT}", description=SCRIPT)
    set_delivery(api, error=SCRIPT)

    for path in ("/webhooks", page, f"{page}/live", f"{page}/delete"):
        text = browser.get(path).text
        assert SCRIPT not in text, path
        assert "&lt;script&gt;" in text, path


def test_a_key_without_the_admin_scope_has_no_actions(api: Api, browser: BrowserClient) -> None:
    page = registered(api, browser)
    writer = signed_in(api, Scope.WRITE)
    for path in ("/webhooks", page):
        shown = writer.get(path).text
        assert URL in shown
        assert f'action="{page}' not in shown
        assert 'action="/webhooks' not in shown

    for name in ("ping", "rotate", "enable", "disable", "delete", f"deliveries/{NOBODY}/redeliver"):
        assert writer.post(f"{page}/{name}").status_code == 403, name
    refused = register(writer)
    assert refused.status_code == 403
    assert "scope &#39;admin&#39;" in refused.text
    assert api.count("webhook_endpoints") == 1


def test_a_form_without_a_token_registers_nothing(api: Api, browser: BrowserClient) -> None:
    assert browser.client.post("/webhooks", data={"url": URL}).status_code == 400
    assert api.count("webhook_endpoints") == 0


@pytest.mark.parametrize("path", [f"/webhooks/{NOBODY}", f"/webhooks/{NOBODY}/live", "/webhooks/nonsense"])
def test_a_missing_webhook_is_an_error_page(browser: BrowserClient, path: str) -> None:
    response = browser.get(path)

    assert response.status_code == 404
    assert "No such webhook" in response.text


def test_a_missing_delivery_is_an_error_page(api: Api, browser: BrowserClient) -> None:
    response = browser.post(f"{registered(api, browser)}/deliveries/{NOBODY}/redeliver")

    assert response.status_code == 404
    assert "No such delivery" in response.text
