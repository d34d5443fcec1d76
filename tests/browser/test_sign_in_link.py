"""The link that `./run.py` prints, opened in Chromium: it signs one browser in once, and leaves nothing behind."""

from datetime import timedelta

from playwright.sync_api import Browser, BrowserContext, Page, expect
from sqlalchemy import func, select, update

from app.db.access import ConsoleSession, SignInLink
from tests.support.stack import Stack

REFUSED = "This link was used before, or has expired."


def new_link(stack: Stack) -> tuple[str, str]:
    """Return a link as a start of the stack prints it, and the token in it."""
    status, made = stack.api.call("POST", "/api/sign-in-links")
    assert status == 201, made
    return made["url"], made["url"].partition("#link=")[2]


def signed_in(stack: Stack) -> int:
    """Count the browsers that are signed in."""
    with stack.sessions() as session:
        return session.scalars(select(func.count()).select_from(ConsoleSession)).one()


def test_a_link_signs_in_by_one_click_once_and_leaves_the_address(
    page: Page, context: BrowserContext, chromium: Browser, stack: Stack
) -> None:
    link, token = new_link(stack)
    sent: list[str] = []
    context.on("request", lambda request: sent.append(request.url))
    page.goto(link)
    expect(page.get_by_text("A link was opened.")).to_be_visible()
    expect(page.get_by_label("API key")).to_be_hidden()
    assert token not in page.url
    before = signed_in(stack)

    page.keyboard.press("Enter")

    expect(page.get_by_role("button", name="Sign out")).to_be_visible()
    expect(page.locator(".who")).to_have_text("tests")
    assert signed_in(stack) == before + 1
    page.go_back()
    assert token not in page.url
    assert token not in "".join([*sent, page.content()])

    other = chromium.new_context(base_url=stack.api.base_url)
    second = other.new_page()
    second.goto(link)
    second.get_by_role("button", name="Sign in").click()
    expect(second.get_by_role("alert")).to_have_text(REFUSED)
    expect(second.get_by_label("API key")).to_be_visible()
    second.goto("/")
    expect(second.get_by_role("heading", name="Sign in")).to_be_visible()
    other.close()


def test_an_expired_link_says_so_and_a_key_still_signs_in(page: Page, stack: Stack, key: str) -> None:
    link, _ = new_link(stack)
    with stack.sessions.begin() as session:
        session.execute(update(SignInLink).values(expires_at=func.now() - timedelta(seconds=1)))
    page.goto(link)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_have_text(REFUSED)
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    expect(page.locator(".who")).to_have_text("operator")
