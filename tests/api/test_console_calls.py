"""Test calls in the console: the button, the verdict in words, and the verdict on the picture of the path."""

import uuid
from dataclasses import replace

import pytest

from app.access import Scope
from app.calls.verdicts import Outcome
from app.domain.calls import AGENT_HOP, CallRoom, CallVerdict
from app.domain.operations import INBOUND_TRUNK, NUMBER_ATTACHMENT
from tests.support.api import NUMBER, Api
from tests.support.console import BrowserClient, signed_in

ROOM = CallRoom("call_x", "sip_x", "ST_1", "SDR_1", ("front-desk",))


@pytest.fixture
def agent(api: Api) -> str:
    made = api.agent("front-desk")
    api.succeed(api.provision(made, NUMBER).json["operationId"])
    return made


@pytest.fixture
def browser(api: Api) -> BrowserClient:
    return signed_in(api, Scope.WRITE)


def call(api: Api, agent: str, outcome: Outcome) -> None:
    """Let a worker place a call that ends like this."""
    calls = replace(api.wiring.calls, place=lambda *_: outcome)
    asked = api.post(f"/api/agents/{agent}/test-calls").json["testCallId"]
    claimed = calls._claim(uuid.UUID(asked))  # without its provider
    assert claimed is not None
    calls._finish(claimed[0], outcome)


def test_the_button_asks_for_a_call_and_the_page_refreshes_itself(api: Api, browser: BrowserClient, agent: str) -> None:
    page = f"/agents/{agent}"
    assert browser.post(f"{page}/test-call", page).headers["Location"] == page
    text = browser.get(page).text
    assert f"{NUMBER} is being called." in text
    assert 'data-open="yes"' in text
    assert "Calling…" in text
    assert len(api.get(f"/api/agents/{agent}/test-calls").json["items"]) == 1


@pytest.mark.parametrize(
    ("outcome", "words", "passed"),
    [
        (Outcome(CallVerdict.ANSWERED, "", "An agent answered.", 200, 0.2, 1.5, ROOM), "answered after 1.5 s", 6),
        (Outcome(CallVerdict.NO_AGENT, AGENT_HOP, "Nobody called x.", 486, 0.2, None, ROOM), "No agent answered", 5),
        (Outcome(CallVerdict.NO_ROUTE, INBOUND_TRUNK, "No trunk.", 404), "No route", 3),
        (Outcome(CallVerdict.FAILED, NUMBER_ATTACHMENT, "Not attached."), "Failed", 1),
    ],
)
def test_the_verdict_stands_on_the_picture(
    api: Api, browser: BrowserClient, agent: str, outcome: Outcome, words: str, passed: int
) -> None:
    call(api, agent, outcome)
    text = browser.get(f"/agents/{agent}").text
    assert words in text
    assert outcome.detail in text
    assert text.count(">passed<") == passed
    assert 'data-open="no"' in text


def test_an_eleventh_call_is_refused_on_the_agents_page(browser: BrowserClient, agent: str) -> None:
    page = f"/agents/{agent}"
    token = browser.token(page)
    for _ in range(10):
        browser.client.post(f"{page}/test-call", data={"csrf_token": token})
    refused = browser.client.post(f"{page}/test-call", data={"csrf_token": token})
    assert (refused.status_code, "ten test calls" in refused.text or "10 test calls" in refused.text) == (429, True)


def test_who_may_only_read_has_no_button(api: Api, agent: str) -> None:
    assert 'id="test-call"' not in signed_in(api, Scope.READ).get(f"/agents/{agent}").text
