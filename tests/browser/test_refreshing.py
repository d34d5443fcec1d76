"""Pages that refresh themselves: what the reader does on them stays, and the server is asked sparingly."""

from datetime import UTC, datetime

import pytest
from playwright.sync_api import Page, Request, Route, expect
from sqlalchemy import insert

from app.db.models import Agent
from app.domain.operations import PhoneStatus
from tests.browser.console_user import ConsoleUser
from tests.support.stack import Stack, eventually

POLL_HEADER = "x-poll"

IDLE_POLL_MS = 5_000
"""Milliseconds between two polls of a list, by console.js."""

SCROLLED = 700
"""Pixels that the reader has scrolled down."""


@pytest.fixture
def clocked(user: ConsoleUser, stack: Stack) -> ConsoleUser:
    """A user on Numbers with 60 agents, in a tab whose clock only the test moves on."""
    status = {"phone_provisioning_status": PhoneStatus.NOT_PROVISIONED, "livekit_agent_name": "desk"}
    with stack.sessions.begin() as session:
        session.execute(insert(Agent), [{"name": f"Desk {n}", "agent_metadata": {}, **status} for n in range(60)])
    user.page.clock.install(time=datetime(2026, 11, 29, 12, 0, 5, tzinfo=UTC))
    user.page.goto("/")
    user.mark_page()
    return user


def polls(page: Page) -> list[Request]:
    """Return the list that every later poll of this tab is added to."""
    found: list[Request] = []
    page.on("request", lambda request: found.append(request) if POLL_HEADER in request.headers else None)
    return found


def place_of_a_row_in_sight(page: Page) -> tuple[str, float]:
    """Return the id of the first row in the window and its distance from the top."""
    found = page.evaluate("""() => {
        const row = [...document.querySelectorAll("tbody tr")].find((one) => one.getBoundingClientRect().top > 0);
        return [row.id, row.getBoundingClientRect().top];
    }""")
    return found[0], found[1]


def test_a_list_shows_what_is_new_and_keeps_place_focus_selection_and_what_is_open(
    clocked: ConsoleUser, stack: Stack
) -> None:
    page = clocked.page
    page.locator("summary", has_text="New agent").click()
    page.get_by_label("Name", exact=True).fill("half a na")
    page.get_by_label("Search").fill("half a que")
    page.evaluate(f"window.scrollTo(0, {SCROLLED})")
    row, top = place_of_a_row_in_sight(page)
    link = page.locator(f"#{row} a").first
    link.evaluate("(one) => one.focus({ preventScroll: true })")

    new = stack.api.agent("Brand new")
    page.clock.run_for(IDLE_POLL_MS)

    expect(page.locator(f"#agent-{new}")).to_contain_text("Brand new")
    expect(page.locator("#announcement")).to_contain_text("1 new")
    expect(link).to_be_focused()
    assert abs(page.locator(f"#{row}").evaluate("(one) => one.getBoundingClientRect().top") - top) < 2
    expect(page.get_by_label("Search")).to_have_value("half a que")
    expect(page.locator("#new")).to_have_attribute("open", "")
    expect(page.get_by_label("Name", exact=True)).to_have_value("half a na")
    assert clocked.was_not_reloaded()

    asked = polls(page)
    link.evaluate("(one) => window.getSelection().selectAllChildren(one)")
    selected = page.evaluate("window.getSelection().toString()")
    page.clock.run_for(4 * IDLE_POLL_MS)
    assert (asked, page.evaluate("window.getSelection().toString()")) == ([], selected)
    expect(page.locator("#refresh-note")).to_contain_text("text is selected")
    page.evaluate("window.getSelection().removeAllRanges()")
    page.clock.run_for(IDLE_POLL_MS)
    expect(page.locator("#refresh-note")).to_be_hidden()


def test_a_hidden_tab_asks_for_nothing_until_it_is_looked_at(clocked: ConsoleUser) -> None:
    page, asked = clocked.page, polls(clocked.page)
    page.evaluate("Object.defineProperty(document, 'hidden', { configurable: true, get: () => true })")
    page.clock.run_for(10 * IDLE_POLL_MS)
    assert asked == []

    page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    with page.expect_response(lambda response: POLL_HEADER in response.request.headers):
        page.clock.run_for(10)
    assert len(asked) == 1


def test_a_server_that_is_away_is_asked_ever_less_often_and_the_page_says_since_when(clocked: ConsoleUser) -> None:
    page, asked = clocked.page, polls(clocked.page)
    since = page.evaluate("new Date().toTimeString().slice(0, 5)")

    def drop(route: Route) -> None:
        if POLL_HEADER in route.request.headers:
            route.abort()
        else:
            route.fallback()

    page.route("**/*", drop)
    _let_pass(page, 24)
    expect(page.locator("#refresh-note")).to_contain_text(f"Not refreshed since {since}")
    assert 1 < len(asked) <= 5  # after 5, 15, 35, 75 and 135 seconds
    page.unroute("**/*")
    _let_pass(page, 12)
    expect(page.locator("#refresh-note")).to_be_hidden()


def test_a_server_that_never_answers_is_given_up_and_asked_again(clocked: ConsoleUser) -> None:
    page, asked = clocked.page, polls(clocked.page)

    def hold(route: Route) -> None:
        if POLL_HEADER not in route.request.headers:
            route.fallback()

    page.route("**/*", hold)
    _let_pass(page, 5)
    expect(page.locator("#refresh-note")).to_contain_text("the server does not respond")
    _let_pass(page, 3)
    assert len(asked) == 2


def _let_pass(page: Page, times: int) -> None:
    """Let time pass in pieces, so that the answer to each request is taken before the next one is due."""
    for _ in range(times):
        page.clock.run_for(IDLE_POLL_MS)
        page.wait_for_timeout(20)


def test_an_agent_at_rest_shows_a_provisioning_that_somebody_else_began(
    user: ConsoleUser, stack: Stack, number: str
) -> None:
    agent_id = stack.api.agent("Front desk")
    user.page.clock.install()
    user.open_agent(agent_id)
    user.sees_status("No number")
    user.mark_page()
    stack.api.provision(agent_id, number)
    eventually(lambda: stack.api.phone(agent_id)["hasPhone"], "somebody else has provisioned it")
    user.page.clock.run_for(IDLE_POLL_MS)
    user.sees_status("Provisioned")
    assert user.was_not_reloaded()
