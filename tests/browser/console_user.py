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

_AXE = Axe().axe_script

_RUN_AXE = """([context, options]) => axe.run(context, options).then(({ violations }) => violations
    .filter((one) => ["serious", "critical"].includes(one.impact))
    .flatMap((one) => one.nodes.map((node) =>
        `${one.id}: ${node.html.slice(0, 160)} ${node.failureSummary.slice(0, 200)}`)))"""

_MARK_LOOKS = """() => {
    const seen = new Set(JSON.parse(sessionStorage.getItem("looks") ?? "[]"));
    const before = seen.size;
    for (const one of document.querySelectorAll("[data-look]")) one.removeAttribute("data-look");
    const ground = (style) => [style.backgroundColor, style.backgroundImage, style.opacity].join();
    for (const one of document.body.querySelectorAll("*")) {
        const says = [...one.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
        if (!says && !one.matches("input, select, textarea") || !one.getClientRects().length) continue;
        const style = getComputedStyle(one);
        const look = [one.localName, one.className, style.color, style.fontSize, style.fontWeight];
        look.push(style.textDecorationLine, getComputedStyle(one.parentNode).color);
        const grounds = [];
        for (let at = one; at; at = at.parentElement) grounds.push(ground(getComputedStyle(at)));
        look.push(...grounds.filter((found, at) => found !== grounds[at - 1]));
        if (seen.has(look.join("|"))) continue;
        seen.add(look.join("|"));
        one.setAttribute("data-look", "");
    }
    sessionStorage.setItem("looks", JSON.stringify([...seen]));
    return seen.size - before;
}"""
"""Marks one element of each look that this tab has not had before: colour, size and weight of its text, and all that is
behind it. Returns how many."""

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


_FORMS_OUT_OF_SIGHT = """() => [...document.querySelectorAll(".pop")].filter((pop) => {
    const wasOpen = pop.open;
    pop.open = true;
    const { left, right } = pop.querySelector("form").getBoundingClientRect();
    pop.open = wasOpen;
    return left < 0 || right > document.documentElement.clientWidth;
}).map((pop) => pop.querySelector("summary").textContent)"""


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

    def accessibility_problems(self, *, every_element: bool = True) -> list[str]:
        """Return the serious and critical problems that axe finds on the page.

        Colours are most of the work: without `every_element` they are read once for each look that this tab has had.
        """
        if every_element:
            return self._run_axe([["html"]], {})
        others = {"rules": {rule: {"enabled": False} for rule in OF_COLOURS}}
        return self._run_axe([["html"]], others) + self.problems_of_colours(every_element=False)

    def problems_of_colours(self, *, every_element: bool = True) -> list[str]:
        """Return those of its colours: all that can change with light and dark."""
        if not every_element and not self.page.evaluate(_MARK_LOOKS):
            return []
        include = [["html"]] if every_element else [["[data-look]"]]
        return self._run_axe(include, {"runOnly": {"type": "rule", "values": OF_COLOURS}})

    def _run_axe(self, include: list[list[str]], options: dict[str, Any]) -> list[str]:
        if not self.page.evaluate("'axe' in window"):
            self.page.evaluate(_AXE)
        # Nothing is preloaded for the rules about sound and video, since no page has any.
        options = {"resultTypes": ["violations"], "preload": False, **options}
        found: list[str] = self.page.evaluate(_RUN_AXE, [{"include": include}, options])
        return found

    def layout_problems(self) -> list[str]:
        """Return what is wrong with the page at this width.

        It is wider than the window; words of tables are broken over two lines, which only ids and addresses may be;
        labels of timelines overlap the one before; forms open beyond the window's edge, on the left for nobody to see.
        """
        found: list[str] = [] if not self.overflows() else ["the page is wider than its window"]
        for problem in (_BROKEN_WORDS, _OVERLAPPING_LABELS, _FORMS_OUT_OF_SIGHT):
            found += self.page.evaluate(problem)
        return found

    def overflows(self) -> bool:
        """Return whether the page is wider than its window."""
        return bool(
            self.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth + 1")
        )
