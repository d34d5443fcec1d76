"""The actions of a user in the console, and checks on its pages."""

import os
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

STATUS_TIMEOUT_MS = 30_000
"""Milliseconds that a status may take to appear."""

OF_COLOURS = ["color-contrast", "link-in-text-block"]
"""The rules of axe that read colours; all others read what does not change with them."""

_SERIOUS = {"serious", "critical"}

_BROKEN_WORDS = """() => {
    const broken = [];
    for (const table of document.querySelectorAll("table")) {
        const walker = document.createTreeWalker(table, NodeFilter.SHOW_TEXT);
        for (let text = walker.nextNode(); text; text = walker.nextNode()) {
            if (text.parentNode.closest("code, .address, svg, .visually-hidden, caption")) continue;
            for (const found of text.data.matchAll(/[^\\s-]+/g)) {
                const range = document.createRange();
                range.setStart(text, found.index);
                range.setEnd(text, found.index + found[0].length);
                const tops = new Set([...range.getClientRects()].map((one) => Math.round(one.top)));
                if (tops.size > 1 && found[0].length < 30) broken.push(found[0]);
            }
        }
    }
    return broken;
}"""

_OVERLAPPING_LABELS = """() => [...document.querySelectorAll(".scale")].flatMap((scale) => {
    const labels = [...scale.querySelectorAll("text")].map((one) => [one.textContent, one.getBoundingClientRect()])
        .filter(([, box]) => box.width > 0);
    return labels.filter(([, box], at) => at > 0 && box.left < labels[at - 1][1].right + 4).map(([label]) => label);
})"""


class ConsoleUser:
    """A user with one browser tab."""

    def __init__(self, page: Page, screenshots: Path) -> None:
        self.page = page
        self._screenshots = screenshots
        screenshots.mkdir(parents=True, exist_ok=True)

    def sign_in(self, key: str) -> None:
        """Sign in with a key."""
        self.page.goto("/")
        self.page.get_by_label("API key").fill(key)
        self.page.get_by_role("button", name="Sign in").click()
        expect(self.page.get_by_role("button", name="Sign out")).to_be_visible()

    def open_agent(self, agent_id: str) -> None:
        """Open an agent's page."""
        self.page.goto(f"/agents/{agent_id}")

    def press(self, name: str) -> None:
        """Press a button, or follow a link styled as a button."""
        self.page.locator("main").get_by_role("button", name=name, exact=True).or_(
            self.page.locator("main").get_by_role("link", name=name, exact=True)
        ).first.click()

    def sees_status(self, label: str) -> None:
        """Wait until the page shows this status of its agent or operation."""
        expect(self.page.locator(".page-content .facts .badge").first).to_have_text(label, timeout=STATUS_TIMEOUT_MS)

    def sees(self, text: str) -> None:
        """Wait until this text is on the page."""
        expect(self.page.locator("main")).to_contain_text(text, timeout=STATUS_TIMEOUT_MS)

    def mark_page(self) -> None:
        """Mark the page; the mark does not survive a reload."""
        self.page.evaluate("window.marked = true")

    def was_not_reloaded(self) -> bool:
        """Return whether the page still has its mark."""
        return bool(self.page.evaluate("window.marked === true"))

    def links(self) -> list[str]:
        """Return the tone of every link on the path, from the caller to the agent."""
        return [str(one.get_attribute("class")).removeprefix("link ") for one in self.page.locator(".path .link").all()]

    def save_screenshot(self, name: str) -> None:
        """Save a screenshot of the whole page, where somebody wants to look at them (`SCREENSHOTS=1`)."""
        if os.environ.get("SCREENSHOTS"):
            self.page.screenshot(path=self._screenshots / f"{name}.png", full_page=True)

    def accessibility_problems(self, *, of_colours: bool = False) -> list[str]:
        """Return the serious and critical problems that axe finds on the page, or only those of its colours."""
        options: dict[str, Any] = {"resultTypes": ["violations"]}
        if of_colours:
            options["runOnly"] = {"type": "rule", "values": OF_COLOURS}
        found: list[dict[str, Any]] = Axe().run(self.page, options=options).response["violations"]
        return [
            f"{one['id']}: {node['html'][:160]} {node['failureSummary'][:200]}"
            for one in found
            if one["impact"] in _SERIOUS
            for node in one["nodes"]
        ]

    def broken_words(self) -> list[str]:
        """Return the words of tables that are broken over two lines; ids and addresses may be."""
        found: list[str] = self.page.evaluate(_BROKEN_WORDS)
        return found

    def overlapping_labels(self) -> list[str]:
        """Return the labels of timelines that overlap the one before them."""
        found: list[str] = self.page.evaluate(_OVERLAPPING_LABELS)
        return found

    def overflows(self) -> bool:
        """Return whether the page is wider than its window."""
        return bool(
            self.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth + 1")
        )
