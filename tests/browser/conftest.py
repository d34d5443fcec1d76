"""Chromium before the running stack: a person who is signed in, and pictures of what they saw."""

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from app.access import KeyService, Scope
from app.dev.localstack.servers import PostgresServer
from tests.browser.person import Person
from tests.browser.subjects import forget_all
from tests.support.receiver import LOOPBACK
from tests.support.sandbox import ControlledSandbox, Sandbox
from tests.support.servers import ROOT, running_valkey
from tests.support.stack import Stack, Timings, running_stack

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
SWITCHES += ["--no-first-run"]

SCREENSHOTS = ROOT / "build" / "screenshots"
"""Build output: what every page looked like, for people to look at."""

PATIENCE_MS = 30_000
"""Milliseconds that anything awaited in the browser may take: one or two seconds as a rule."""

THINKING_MS = 120
"""Milliseconds that the providers take for an answer, as real ones do: so that there is something to watch."""

_numbers = itertools.count(4000)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """One Chromium for all tests of one xdist worker."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def shared_stack(
    chromium: Browser,
    postgres_server: PostgresServer,
    template_database: str,
    sandbox_server: ControlledSandbox,
) -> Iterator[Stack]:
    """Web, worker and sweeper; only where there is a browser to look at them."""
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
    """The stack over an emptied sandbox that takes its time."""
    forget_all(shared_stack)
    sandbox.latency(twilio_ms=THINKING_MS, livekit_ms=THINKING_MS)
    return shared_stack


@pytest.fixture
def number(sandbox: Sandbox) -> str:
    """A free number of the account that no other test has."""
    found = f"+1514555{next(_numbers)}"
    sandbox.number(found, voiceUrl="https://example.com/voice")
    return found


@pytest.fixture
def numbers(sandbox: Sandbox) -> list[str]:
    """Three of them."""
    found = [f"+1514555{next(_numbers)}" for _ in range(3)]
    for one in found:
        sandbox.number(one, voiceUrl="https://example.com/voice")
    return found


@pytest.fixture(scope="session")
def key(shared_stack: Stack) -> str:
    """A key that may do everything."""
    return KeyService(shared_stack.sessions).create("Ada", [Scope.ADMIN])[1]


@pytest.fixture
def context(chromium: Browser, stack: Stack) -> Iterator[BrowserContext]:
    """A window of its own: no cookies yet."""
    found = chromium.new_context(base_url=stack.api.base_url, viewport={"width": 1280, "height": 900})
    found.set_default_timeout(PATIENCE_MS)
    yield found
    found.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """An empty tab; a fault of a script, or anything that the page's own policy stops, fails the test."""
    faults: list[str] = []
    page = context.new_page()
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if "Content Security" in message.text else None)
    yield page
    assert faults == []


@pytest.fixture(scope="session")
def cookies(chromium: Browser, shared_stack: Stack, key: str) -> Any:
    """What a browser holds once somebody has signed in: tries are counted, so that this is done once."""
    context = chromium.new_context(base_url=shared_stack.api.base_url)
    Person(context.new_page(), SCREENSHOTS).sign_in(key)
    found = context.cookies()
    context.close()
    return found


@pytest.fixture
def person(page: Page, cookies: Any, stack: Stack) -> Person:
    """Somebody who is signed in, and sees Numbers."""
    page.context.add_cookies(cookies)
    page.goto("/")
    return Person(page, SCREENSHOTS)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Keep a picture and the processes' last log lines where a test has failed."""
    report = yield
    page, stack = getattr(item, "funcargs", {}).get("page"), getattr(item, "funcargs", {}).get("stack")
    if report.failed and call.when == "call" and page and stack:
        page.screenshot(path=Path(SCREENSHOTS) / f"failed-{item.name[:80]}.png", full_page=True)
        report.sections.append(("processes of the stack", stack.log_tails()))
    return report
