"""What a person does in the console, and how its pages are looked at."""

from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

AWAITED_MS = 30_000
"""Milliseconds that a status may take to appear."""

_SERIOUS = {"serious", "critical"}


class Person:
    """Somebody at a browser."""

    def __init__(self, page: Page, pictures: Path) -> None:
        self.page = page
        self._pictures = pictures
        pictures.mkdir(parents=True, exist_ok=True)

    def sign_in(self, key: str) -> None:
        """Sign in, from whatever page leads there."""
        self.page.goto("/")
        self.page.get_by_label("API key").fill(key)
        self.page.get_by_role("button", name="Sign in").click()
        expect(self.page.get_by_role("button", name="Sign out")).to_be_visible()

    def open_agent(self, agent_id: str) -> None:
        """Open an agent's page."""
        self.page.goto(f"/agents/{agent_id}")

    def press(self, name: str) -> None:
        """Press a button or follow a link that looks like one."""
        self.page.locator("main").get_by_role("button", name=name, exact=True).or_(
            self.page.locator("main").get_by_role("link", name=name, exact=True)
        ).first.click()

    def sees_status(self, words: str) -> None:
        """Wait until the page says this of its agent or operation."""
        expect(self.page.locator(".sheet .facts .badge").first).to_have_text(words, timeout=AWAITED_MS)

    def sees(self, words: str) -> None:
        """Wait until these words stand on the page."""
        expect(self.page.locator("main")).to_contain_text(words, timeout=AWAITED_MS)

    def mark(self) -> None:
        """Leave a mark that does not survive a reload."""
        self.page.evaluate("window.marked = true")

    def never_reloaded(self) -> bool:
        """Say whether the mark is still there."""
        return bool(self.page.evaluate("window.marked === true"))

    def links(self) -> list[str]:
        """Return the tone of every link on the path, from the caller to the agent."""
        return [str(one.get_attribute("class")).removeprefix("link ") for one in self.page.locator(".path .link").all()]

    def picture(self, name: str) -> None:
        """Keep what the page looks like, whole."""
        self.page.screenshot(path=self._pictures / f"{name}.png", full_page=True)

    def faults(self) -> list[str]:
        """Return what axe finds serious or critical on the page as it is."""
        found: list[dict[str, Any]] = Axe().run(self.page).response["violations"]
        return [
            f"{one['id']}: {node['html'][:160]} {node['failureSummary'][:200]}"
            for one in found
            if one["impact"] in _SERIOUS
            for node in one["nodes"]
        ]

    def overflows(self) -> bool:
        """Say whether the page is wider than its window."""
        return bool(
            self.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth + 1")
        )
