"""Bulks in the console: uploads, pages and actions."""

import io
from dataclasses import replace

import pytest
from werkzeug.test import TestResponse

from app.access import Scope
from app.console.reader import PAGE_ROWS
from app.web.bodies import MAX_BULK_BODY_BYTES
from tests.support.api import NOBODY, Api
from tests.support.console import BrowserClient, signed_in

SCRIPT = "<script>alert(1)</script>"
CSV = "phoneNumber,agent\n+15145551001,desk one\n+15145551002,desk two\n12,desk three\n"


@pytest.fixture
def browser(api: Api) -> BrowserClient:
    return signed_in(api, Scope.WRITE)


def upload(browser: BrowserClient, content: str | bytes, name: str = "numbers.csv") -> TestResponse:
    raw = content.encode() if isinstance(content, str) else content
    response = browser.post("/bulks", file=(io.BytesIO(raw), name))
    response.request.environ["wsgi.input"].close()  # the test client writes a large form to a file of its own
    return response


def accepted(browser: BrowserClient, content: str = CSV, name: str = "numbers.csv") -> str:
    """Upload a file, and return the page of its bulk."""
    response = upload(browser, content, name)
    assert response.status_code == 303, response.text
    return response.headers["Location"]


def test_the_empty_page_shows_the_columns(browser: BrowserClient) -> None:
    page = browser.get("/bulks").text

    assert "No bulks yet" in page
    assert "phoneNumber,agent,livekitAgentName,agentId,takeover" in page
    assert 'type="file"' in page


def test_a_csv_file_becomes_a_bulk_whose_page_shows_every_row(api: Api, browser: BrowserClient) -> None:
    page = browser.get(accepted(browser)).text

    assert "numbers.csv is accepted. 1 row is invalid and has failed. 2 of 2 numbers fit: 0 places are free" in page
    assert '<progress id="progress" max="3" value="1">33 %</progress>' in page
    assert "1 of 3 done" in page
    assert "desk two" in page
    assert "phoneNumber: must be E.164" in page
    assert api.get("/api/provisionings").json["items"][0]["createdBy"] == "write-person (console)"
    assert "3 numbers" in browser.get("/bulks").text


def test_the_file_is_named_where_its_bulk_is(api: Api, browser: BrowserClient) -> None:
    page = accepted(browser, name="Montréal <b>desks</b>.csv")
    api.post("/api/provisionings", {"items": [{"phoneNumber": "+15145551001", "agent": "no file"}]})

    assert "is accepted" in browser.get(page).text
    for path in (page, f"{page}/live", "/bulks"):
        found = browser.get(path).text
        assert (found.count("Montréal &lt;b&gt;desks&lt;/b&gt;.csv"), found.count("desks")) == (1, 1), path
    trail = replace(api, key=api.new_key(Scope.ADMIN)).get("/api/activity").json["items"]
    assert [row["detail"].get("name") for row in trail if row["action"] == "bulk.create"][
        -1
    ] == "Montréal <b>desks</b>.csv"


@pytest.mark.parametrize("content", ['{"items": [{"phoneNumber": "+15145551001", "agent": "one"}]}', "\ufeff[7]"])
def test_a_json_file_is_read_too(browser: BrowserClient, content: str) -> None:
    assert "Bulk of 1 number" in browser.get(accepted(browser, content, "numbers.JSON")).text


@pytest.mark.parametrize(
    ("content", "name", "words"),
    [
        ("", "", "Choose a file."),
        ("number;agent\n", "a.csv", "The file must begin with a header row"),
        ("phoneNumber\n", "a.csv", "The file must have 1 to 10000 items"),
        (b"phoneNumber,agent\n+15145551001,\xe9\n", "a.csv", "The file is not UTF-8"),
        ("{", "a.json", "The file is not JSON (line 1, column 2)"),
        ('{"items": 7}', "a.json", "The file must be a list of items"),
        ('[{"agent": "a", "agent": "b"}]', "a.json", "a name appears twice"),
        ("[" * 40 + "]" * 40, "a.json", "The file is nested too deeply"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_beside_its_field(
    api: Api, browser: BrowserClient, content: str | bytes, name: str, words: str
) -> None:
    response = upload(browser, content, name)

    assert response.status_code == 422
    assert words in response.text
    assert 'aria-describedby="file-wrong"' in response.text
    assert api.count("bulks") == 0


def test_a_file_may_be_as_large_as_the_api_takes_and_no_larger(api: Api, browser: BrowserClient) -> None:
    padding = "\n" * (MAX_BULK_BODY_BYTES // 2)
    accepted(browser, CSV + padding)

    assert upload(browser, CSV + padding * 2).status_code == 413
    assert api.count("bulks") == 1


def test_uploaded_text_is_escaped_on_every_page(browser: BrowserClient) -> None:
    page = accepted(browser, f"phoneNumber,agent\n+15145551001,{SCRIPT}\n{SCRIPT},desk\n")

    for path in (page, f"{page}/live", f"{page}/cancel", "/bulks"):
        assert SCRIPT not in browser.get(path).text, path
    assert "&lt;script&gt;" in browser.get(page).text


def test_rows_come_in_pages_and_by_their_status(browser: BrowserClient) -> None:
    rows = "".join(f"+1514555{n},desk {n}\n" for n in range(1000, 1003 + PAGE_ROWS))
    page = accepted(browser, "phoneNumber,agent\n12,bad\n" + rows)

    first = browser.get(page).text
    assert first.count('<tr id="row-') == PAGE_ROWS
    following = first.split('rel="next" href="')[1].split('"')[0].replace("&amp;", "&")
    second = browser.get(following).text
    assert second.count('<tr id="row-') == 4
    assert "/live?cursor=" in second
    assert browser.get(f"{page}?status=failed").text.count('<tr id="row-') == 1
    assert "/live?status=failed" in browser.get(f"{page}?status=failed").text
    assert "No matching rows" in browser.get(f"{page}?status=succeeded").text


def test_the_live_part_is_sent_once_until_a_row_changes(api: Api, browser: BrowserClient) -> None:
    page = accepted(browser)
    first = browser.get(f"{page}/live")
    known = {"If-None-Match": first.headers["ETag"]}
    assert 'data-open="yes"' in first.text
    assert browser.get(f"{page}/live", headers=known).status_code == 304

    api.wiring.sweeper.dispatcher.advance()

    moved = browser.get(f"{page}/live", headers=known)
    assert moved.status_code == 200
    assert "Timeline" in moved.text
    assert "<html" not in moved.text


def test_cancelling_asks_first_and_what_was_cancelled_can_be_resumed(api: Api, browser: BrowserClient) -> None:
    page = accepted(browser)
    assert f"{page}/cancel" in browser.get(page).text
    assert "2 of 3 numbers have not started" in browser.get(f"{page}/cancel").text

    browser.post(f"{page}/cancel")
    cancelled = browser.get(page).text
    assert "2 cancelled, 0 still running, 1 already done. No further numbers are started." in cancelled
    assert f"{page}/cancel" not in cancelled
    assert 'data-open="no"' in cancelled

    browser.post(f"{page}/resume")
    resumed = browser.get(page).text
    assert "2 waiting to be retried." in resumed
    assert 'data-open="yes"' in resumed


def test_queued_items_can_be_cancelled_and_started_ones_cannot(api: Api, browser: BrowserClient) -> None:
    page = accepted(browser)
    api.wiring.sweeper.dispatcher.advance()
    begun = api.publisher.plans[0].operation_id
    api.begin(str(begun))
    assert f"{page}/cancel" in browser.get(page).text
    asked = browser.get(f"{page}/cancel").text
    assert "1 of 3 numbers have not started" in asked
    assert "1 have started and will finish, 1 are done" in asked

    known = {"If-None-Match": browser.get(f"{page}/live").headers["ETag"]}
    api.begin(str(api.publisher.plans[1].operation_id))
    assert f"{page}/cancel" not in browser.get(f"{page}/live", headers=known).text
    assert "Nothing to cancel" in browser.get(f"{page}/cancel").text


def test_a_check_without_a_file_says_so(browser: BrowserClient) -> None:
    assert "Choose a file." in browser.post("/bulks/check", file=(io.BytesIO(b""), "")).text


def test_an_invalid_row_is_not_retried(browser: BrowserClient) -> None:
    page = accepted(browser, "phoneNumber,agent\n12,bad\n")

    browser.post(f"{page}/resume")

    assert "Nothing to retry" in browser.get(page).text


def test_the_report_is_the_file_that_the_api_gives(api: Api, browser: BrowserClient) -> None:
    page = accepted(browser)

    report = browser.get(f"{page}/report")

    assert report.headers["Content-Disposition"].startswith("attachment;")
    assert report.text == api.get(f"/api/provisionings/{page.removeprefix('/bulks/')}/report").text


def test_a_read_only_key_sees_bulks_and_starts_none(api: Api, browser: BrowserClient) -> None:
    page, reader = accepted(browser), signed_in(api, Scope.READ)

    assert 'type="file"' not in reader.get("/bulks").text
    assert f"{page}/cancel" not in reader.get(page).text
    assert upload(reader, CSV).status_code == 403
    assert reader.post(f"{page}/cancel").status_code == 403
    assert api.count("bulks") == 1


@pytest.mark.parametrize("path", [f"/bulks/{NOBODY}", f"/bulks/{NOBODY}/report", "/bulks/nonsense"])
def test_a_missing_bulk_is_an_error_page(browser: BrowserClient, path: str) -> None:
    response = browser.get(path)

    assert response.status_code == 404
    assert "No such bulk" in response.text


@pytest.mark.parametrize("query", ["?status=x", "?cursor=x"])
def test_an_invalid_query_is_an_error_page(browser: BrowserClient, query: str) -> None:
    assert browser.get(f"{accepted(browser)}{query}").status_code == 422
    assert browser.get("/bulks?cursor=x").status_code == 422
