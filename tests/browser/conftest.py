"""Fixtures of the browser tests: Chromium, the running stack, a signed-in user, and screenshots."""

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize, sync_playwright

from app.access import KeyService, Scope
from app.dev.localstack.servers import PostgresServer
from tests.browser.console_user import ConsoleUser
from tests.browser.fixtures import delete_rows
from tests.support.receiver import LOOPBACK
from tests.support.sandbox import ControlledSandbox, Sandbox
from tests.support.servers import ROOT, running_valkey
from tests.support.stack import Stack, Timings, running_stack

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
CHROMIUM_FLAGS += ["--no-first-run"]

SCREENSHOTS = ROOT / "build" / "screenshots"
"""Build output: a screenshot of every page, for people to look at."""

TIMEOUT_MS = 30_000
"""Milliseconds to wait for anything in the browser; it usually takes one or two seconds."""

_numbers = itertools.count(4000)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """One Chromium per xdist worker."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def shared_stack(
    chromium: Browser,
    postgres_server: PostgresServer,
    template_database: str,
    sandbox_server: ControlledSandbox,
) -> Iterator[Stack]:
    """Web, worker and sweeper, started only if there is a browser."""
    postgres_server.create_database("browser", template_database)
    url = postgres_server.url("browser")
    timings = Timings(provider_timeout=3)
    with (
        running_valkey() as valkey,
        running_stack(url, valkey.url, sandbox_server.control, timings, start=False) as stack,
    ):
        stack.environ["WEBHOOK_ALLOWED_NETWORKS"] = LOOPBACK
        stack.start()
        yield stack


@pytest.fixture
def stack(shared_stack: Stack, sandbox: Sandbox) -> Stack:
    """The stack, with no rows and an empty sandbox; a test that watches progress holds a call of the providers."""
    delete_rows(shared_stack)
    return shared_stack


@pytest.fixture
def number(sandbox: Sandbox) -> str:
    """A free number of the account that no other test uses."""
    found = f"+1514555{next(_numbers)}"
    sandbox.number(found, voiceUrl="https://example.com/voice")
    return found


@pytest.fixture
def numbers(sandbox: Sandbox) -> list[str]:
    """Three free numbers."""
    found = [f"+1514555{next(_numbers)}" for _ in range(3)]
    for one in found:
        sandbox.number(one, voiceUrl="https://example.com/voice")
    return found


@pytest.fixture(scope="session")
def key(shared_stack: Stack) -> str:
    """A key with the scope `admin`."""
    return KeyService(shared_stack.sessions).create("operator", [Scope.ADMIN])[1]


@pytest.fixture
def context(chromium: Browser, stack: Stack) -> Iterator[BrowserContext]:
    """A new browser context, without cookies; nothing moves on its pages, since every frame is drawn by the CPU."""
    viewport: ViewportSize = {"width": 1280, "height": 900}
    found = chromium.new_context(base_url=stack.api.base_url, viewport=viewport, reduced_motion="reduce")
    found.set_default_timeout(TIMEOUT_MS)
    yield found
    found.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """An empty tab; a script error or a violation of the content security policy fails the test."""
    script_errors: list[str] = []
    page = context.new_page()
    page.on("pageerror", lambda error: script_errors.append(str(error)))
    page.on(
        "console", lambda message: script_errors.append(message.text) if "Content Security" in message.text else None
    )
    yield page
    assert script_errors == []


@pytest.fixture(scope="session")
def cookies(chromium: Browser, shared_stack: Stack, key: str) -> Any:
    """The cookies of a signed-in browser; sign-ins are rate-limited, so this signs in once."""
    context = chromium.new_context(base_url=shared_stack.api.base_url)
    ConsoleUser(context.new_page(), SCREENSHOTS).sign_in(key)
    found = context.cookies()
    context.close()
    return found


@pytest.fixture
def user(page: Page, cookies: Any, stack: Stack) -> ConsoleUser:
    """A signed-in user with an empty tab."""
    page.context.add_cookies(cookies)
    return ConsoleUser(page, SCREENSHOTS)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Save a screenshot and the processes' last log lines when a test has failed."""
    report = yield
    page, stack = getattr(item, "funcargs", {}).get("page"), getattr(item, "funcargs", {}).get("stack")
    if report.failed and call.when == "call" and page and stack:
        page.screenshot(path=Path(SCREENSHOTS) / f"failed-{item.name[:80]}.png", full_page=True)
        report.sections.append(("processes of the stack", stack.log_tails()))
    return report
