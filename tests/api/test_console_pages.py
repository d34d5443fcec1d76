"""The console's pages over real rows: what they show, their actions, and their errors."""

import re

import pytest

from app.access import Scope
from app.console.reader import ConsoleReader
from app.db.models import Operation
from app.domain.errors import ErrorCode
from app.providers.errors import TransientError
from tests.support.api import NOBODY, NUMBER, OTHER_NUMBER, Api
from tests.support.console import BrowserClient, signed_in

SCRIPT = "<script>alert(1)</script>"
ESCAPED = "&lt;script&gt;alert(1)&lt;/script&gt;"


@pytest.fixture
def browser(api: Api) -> BrowserClient:
    return signed_in(api, Scope.WRITE)


def test_empty_pages_say_what_to_do_next(browser: BrowserClient) -> None:
    assert "No agents yet" in browser.get("/").text
    assert "Nothing is running" in browser.get("/operations").text
    assert "Nothing needs attention" in browser.get("/operations?tab=attention").text
    assert "Never audited" in browser.get("/audit").text
    assert ".venv/bin/trunkline keys create" in BrowserClient(browser.api).get("/sign-in").text


def test_a_name_is_escaped_on_every_page(api: Api, browser: BrowserClient) -> None:
    made = browser.post("/", "/", name=SCRIPT)
    page = made.headers["Location"]
    operation_id = api.provision(page.rpartition("/")[2]).json["operationId"]
    with api.wiring.sessions.begin() as session:
        session.get_one(Operation, operation_id).error_detail = SCRIPT
        session.get_one(Operation, operation_id).error_code = ErrorCode.TWILIO_REJECTED
    shown = ["/", page, f"{page}/live", f"{page}/deprovision", "/operations", f"/operations/{operation_id}"]

    for path in shown:
        text = browser.get(path).text
        assert SCRIPT not in text, path
        assert ESCAPED in text, path
    assert SCRIPT not in browser.get(f"/?q={SCRIPT}").text


def test_a_new_agent_leads_to_its_page(api: Api, browser: BrowserClient) -> None:
    response = browser.post("/", "/", name="Front desk", livekitAgentName="front-desk")

    assert response.status_code == 303
    page = browser.get(response.headers["Location"]).text
    assert "Front desk was created." in page
    assert "front-desk" in page
    assert "Provision a number" in page
    assert "Front desk was created." not in browser.get(response.headers["Location"]).text


@pytest.mark.parametrize("name", ["", " ", "a" * 201, "a\x00b"])
def test_a_wrong_name_is_shown_beside_its_field(api: Api, browser: BrowserClient, name: str) -> None:
    response = browser.post("/", "/", name=name)

    assert response.status_code == 422
    assert 'aria-describedby="name-wrong"' in response.text
    assert api.count("agents") == 0


def test_an_action_records_the_key_that_requested_it(api: Api, browser: BrowserClient) -> None:
    agent_id = api.agent()

    response = browser.post(f"/agents/{agent_id}/provision", typed=NUMBER)

    assert response.headers["Location"] == f"/agents/{agent_id}"
    assert api.status(agent_id).json["phoneNumber"] == NUMBER
    with api.wiring.sessions() as session:
        assert session.query(Operation).one().requested_by == "write-person (console)"
    assert len(api.publisher.plans) == 1


@pytest.mark.parametrize(("typed", "words"), [("", "Choose or enter a number"), ("514 555 1234", "must be E.164")])
def test_a_wrong_number_is_shown_beside_its_field_with_what_was_typed(
    api: Api, browser: BrowserClient, typed: str, words: str
) -> None:
    response = browser.post(f"/agents/{api.agent()}/provision", typed=typed)

    assert response.status_code == 422
    assert words in response.text
    assert f'value="{typed}"' in response.text
    assert api.count("operations") == 0


def test_a_refusal_is_shown_with_advice(api: Api, browser: BrowserClient) -> None:
    api.provision(api.agent("first"), NUMBER)
    second = api.agent("second")

    response = browser.post(f"/agents/{second}/provision", typed=NUMBER)

    assert response.status_code == 409
    assert "The number belongs to another agent" in response.text
    assert "move this one from" in response.text
    assert "number_in_use" in response.text


def test_an_unavailable_provider_is_shown_on_the_page(api: Api, browser: BrowserClient) -> None:
    agent_id = api.agent()
    api.succeed(api.provision(agent_id).json["operationId"])

    def get_number(_sid: str) -> None:
        raise TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "Twilio does not answer.")

    api.carrier.get_number = get_number  # type: ignore[attr-defined]

    response = browser.post(f"/agents/{agent_id}/verify")

    assert response.status_code == 503
    assert "Twilio does not answer." in response.text
    assert "status page" in response.text


def test_the_live_part_is_sent_once_until_something_changes(api: Api, browser: BrowserClient) -> None:
    agent_id = api.agent()
    operation_id = api.provision(agent_id).json["operationId"]
    for path in (f"/agents/{agent_id}/live", f"/operations/{operation_id}/live"):
        first = browser.get(path)
        known = {"If-None-Match": first.headers["ETag"]}

        again = browser.get(path, headers=known)

        assert (first.status_code, again.status_code, again.text) == (200, 304, "")
        assert 'data-open="yes"' in first.text
    api.succeed(operation_id)
    last = browser.get(path, headers=known)
    assert last.status_code == 200
    assert 'data-open="no"' in last.text
    assert "<html" not in last.text


def test_without_javascript_a_page_refreshes_while_an_operation_runs(api: Api, browser: BrowserClient) -> None:
    agent_id = api.agent()
    refresh = '<noscript><meta http-equiv="refresh"'
    assert refresh not in browser.get(f"/agents/{agent_id}").text

    api.provision(agent_id)

    assert refresh in browser.get(f"/agents/{agent_id}").text


def test_a_failed_provisioning_is_retried_from_its_page(api: Api, browser: BrowserClient) -> None:
    agent_id = api.agent("night line")
    operation_id = api.provision(agent_id).json["operationId"]
    api.fail(operation_id, "number_not_voice", "The number cannot take voice calls.")
    tab = browser.get("/operations?tab=failed").text
    assert "night line" in tab
    assert f"/operations/{operation_id}/retry" in tab

    response = browser.post(f"/operations/{operation_id}/retry")

    assert response.status_code == 303
    assert operation_id not in response.headers["Location"]
    assert api.status(agent_id).json["phoneProvisioningStatus"] == "PENDING"
    assert f"/operations/{operation_id}/retry" not in browser.get("/operations?tab=failed").text


def test_an_operation_that_needs_attention_is_listed_with_its_leftovers(api: Api, browser: BrowserClient) -> None:
    operation_id = api.provision(api.agent()).json["operationId"]
    api.get_stuck(operation_id)

    assert f"/operations/{operation_id}" in browser.get("/operations?tab=attention").text
    page = browser.get(f"/operations/{operation_id}").text
    assert "Still at the providers" in page
    assert "TK" + "2" * 32 in page


def test_a_failure_is_cleared_by_one_press(api: Api, browser: BrowserClient) -> None:
    agent_id = api.agent()
    api.fail(api.provision(agent_id).json["operationId"], "number_not_voice", "No voice.")

    browser.post(f"/agents/{agent_id}/deprovision")

    assert api.status(agent_id).json["phoneProvisioningStatus"] == "NOT_PROVISIONED"


def test_an_audit_is_requested_with_and_without_fix(api: Api, browser: BrowserClient) -> None:
    browser.post("/audit")
    assert "Queued" in browser.get("/audit").text
    browser.post("/audit", fix="on")

    assert len(api.publisher.audits) == 2
    asked = [api.app.extensions["trunkline.web"].reader.audit(audit_id) for audit_id in api.publisher.audits]
    assert [(audit.fix, audit.requested_by) for audit in asked] == [
        (False, "write-person (console)"),
        (True, "write-person (console)"),
    ]


def test_numbers_come_in_pages_and_filters(api: Api, browser: BrowserClient) -> None:
    for count in range(53):
        api.agent(f"desk {count}")
    api.provision(api.agent("busy"), OTHER_NUMBER)

    first = browser.get("/").text
    assert first.count('<tr id="agent-') == 50
    assert "desk 0<" not in first
    older = first.split('rel="next" href="')[1].split('"')[0].replace("&amp;", "&")
    assert browser.get(older).text.count('<tr id="agent-') == 4
    assert browser.get("/?status=moving").text.count('<tr id="agent-') == 1
    assert browser.get("/?status=failed").text.count("No matches") == 1
    assert browser.get("/?health=DRIFTED").text.count("No matches") == 1
    assert browser.get("/?health=CALLS_FAIL").text.count("No matches") == 1


@pytest.mark.parametrize("query", ["?status=x", "?health=x", "?cursor=x", "?q=" + "a" * 201, "?q=%00"])
def test_an_invalid_query_is_an_error_page(browser: BrowserClient, query: str) -> None:
    response = browser.get(f"/{query}")

    assert response.status_code == 422
    assert response.content_type.startswith("text/html")


@pytest.mark.parametrize("path", ["/agents/nonsense", f"/agents/{NOBODY}", f"/operations/{NOBODY}", "/nonsense"])
def test_a_missing_page_is_html_for_a_browser(browser: BrowserClient, path: str) -> None:
    response = browser.get(path)

    assert response.status_code == 404
    assert response.content_type.startswith("text/html")
    assert "What to do" in response.text


@pytest.mark.parametrize("path", ["/api/nonsense", "/nonsense"])
def test_a_missing_page_is_a_problem_for_a_program(api: Api, path: str) -> None:
    response = api.get(path)

    assert (response.status_code, response.content_type) == (404, "application/problem+json")


def test_under_api_a_browser_too_gets_a_problem(api: Api) -> None:
    response = api.get("/api/nonsense", headers={"Accept": "text/html"})

    assert response.content_type == "application/problem+json"


def test_an_unexpected_error_page_shows_only_the_request_id(
    api: Api, browser: BrowserClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def numbers(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(ConsoleReader, "numbers", numbers)

    response = browser.get("/")

    assert response.status_code == 500
    assert response.content_type.startswith("text/html")
    assert "secret detail" not in response.text
    assert response.headers["X-Request-ID"] in response.text


@pytest.mark.parametrize(("name", "shown"), [("127.0.0.1", "http://127.0.0.1:5555/"), ("console.example.com", None)])
def test_flower_is_linked_where_the_browser_can_reach_it(browser: BrowserClient, name: str, shown: str | None) -> None:
    held = browser.client.get_cookie("trunkline_console")
    assert held
    browser.client.set_cookie("trunkline_console", held.value, domain=name)

    page = browser.get("/", base_url=f"http://{name}:8080").text

    assert (">Flower" in page) == (shown is not None)
    if shown:
        assert f'href="{shown}"' in page


def test_a_list_is_sent_to_the_script_once_until_something_changes(own_api: Api) -> None:
    browser, poll = signed_in(own_api, Scope.ADMIN), {"X-Poll": "1"}
    tags = {}
    for path in ("/", "/?q=x&status=failed", "/operations", "/bulks", "/trunks", "/webhooks", "/activity"):
        page, first = browser.get(path).text, browser.get(path, headers=poll)
        assert f'data-live="{path.replace("&", "&amp;")}"' in page
        assert ("<html" in first.text, first.text.strip() in page) == (False, True), path
        tags[path] = first.headers["ETag"]
        again = browser.get(path, headers=poll | {"If-None-Match": tags[path]})
        assert (again.status_code, again.text) == (304, ""), path

    agent_id = own_api.agent("Brand new")
    own_api.provision(agent_id)

    changed = {
        path
        for path, tag in tags.items()
        if browser.get(path, headers=poll | {"If-None-Match": tag}).status_code != 304
    }
    assert changed == {"/", "/?q=x&status=failed", "/operations", "/trunks", "/activity"}


def test_a_refused_form_is_refreshed_from_the_page_that_it_stands_on(browser: BrowserClient) -> None:
    assert 'data-live="/"' in browser.post("/", "/", name="").text


def test_a_number_whose_operation_needs_a_person_says_so_and_not_what_it_was_at(
    api: Api, browser: BrowserClient
) -> None:
    agent_id = api.agent()
    api.succeed(api.provision(agent_id).json["operationId"])
    api.get_stuck(api.deprovision(agent_id).json["operationId"])
    for path in ("/", f"/agents/{agent_id}"):
        page = browser.get(path).text
        assert '<span class="badge bad">Needs attention</span>' in page, path
        assert "Rolling back</span>" not in page, path


def test_search_filters_and_order_stay_in_every_address_of_the_list(api: Api, browser: BrowserClient) -> None:
    for name in ("Beta", "alpha", "Gamma"):
        api.agent(name)
    page = browser.get("/?q=a&status=empty&sort=name").text

    assert re.findall(r'<a href="/agents/[^"]+">([^<]+)</a>', page) == ["alpha", "Beta", "Gamma"]
    assert 'aria-sort="ascending"><a class="sort ascending" href="/?q=a&amp;status=empty&amp;sort=-name">' in page
    assert 'href="/?q=a&amp;status=empty&amp;sort=-changed"' in page
    assert '<option value="name" selected>' in page
    back = browser.get("/?sort=-name").text
    assert re.findall(r'<a href="/agents/[^"]+">([^<]+)</a>', back) == ["Gamma", "Beta", "alpha"]
    assert browser.get("/?sort=price").status_code == 422
    assert browser.get("/?sort=").status_code == 200


def test_a_failed_agent_is_shown_with_the_number_that_it_failed_with(api: Api, browser: BrowserClient) -> None:
    api.fail(api.provision(api.agent()).json["operationId"], "number_not_in_account", "Not ours.")

    assert f'does not have it">{NUMBER}</td>' in browser.get(f"/?q={NUMBER}").text
