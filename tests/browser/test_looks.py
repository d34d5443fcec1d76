"""Every page as it is seen: light and dark, on a desk and on a phone, with axe looking for what shuts people out."""

from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import PATIENCE_MS, SCREENSHOTS
from tests.browser.person import Person
from tests.browser.subjects import a_bulk, a_webhook, provisioned, take_off_trunk
from tests.support.sandbox import Sandbox
from tests.support.stack import Stack, eventually

PHONE = {"width": 360, "height": 740}
DESK = {"width": 1280, "height": 900}


@pytest.fixture
def agents(stack: Stack, sandbox: Sandbox, number: str) -> tuple[str, str, str]:
    """One agent with a drifted path, one that failed, one that is stuck half-way; their ids."""
    good = provisioned(stack, "Reception with a long name that has to wrap somewhere", number)
    take_off_trunk(stack, sandbox, good)
    stack.api.call("POST", f"/api/agents/{good}/verify")
    failed = stack.api.agent("Fax machine")
    other = f"+1438{number[-7:]}"
    stack.api.provision(failed, other)
    eventually(lambda: stack.api.phone(failed)["phoneProvisioningStatus"] == "FAILED", "it has failed")
    busy = stack.api.agent("Half-way")
    sandbox.number(other)
    sandbox.fault("livekit.create_dispatch_rule", "503_html", times=None)
    stack.api.provision(busy, other)
    eventually(lambda: stack.api.phone(busy)["operation"]["attempts"] > 5, "it has tried a few times")
    return good, failed, busy


def test_no_page_shuts_anybody_out(chromium: Browser, stack: Stack, cookies: Any, agents: tuple[str, str, str]) -> None:
    good, failed, busy = agents
    operation = stack.api.phone(busy)["operation"]["id"]
    stack.api.call("POST", "/api/audit", {})
    bulk, webhook = a_bulk(stack), a_webhook(stack)
    pages = {
        "sign-in": "/sign-in",
        "numbers": "/",
        "agent-drift": f"/agents/{good}",
        "agent-failure": f"/agents/{failed}",
        "agent-busy": f"/agents/{busy}",
        "provision": f"/agents/{failed}/provision",
        "confirm": f"/agents/{good}/deprovision",
        "move-number": f"/agents/{good}/move",
        "operations": "/operations",
        "operations-failed": "/operations?tab=failed",
        "operation": f"/operations/{operation}",
        "bulk": "/bulks",
        "bulk-one": f"/bulks/{bulk}",
        "bulk-cancel": f"/bulks/{bulk}/cancel",
        "audit": "/audit",
        "webhooks": "/webhooks",
        "webhook": f"/webhooks/{webhook}",
        "webhook-delete": f"/webhooks/{webhook}/delete",
        "not-found": "/agents/nothing",
    }
    context = chromium.new_context(base_url=stack.api.base_url, viewport=DESK)
    context.set_default_timeout(PATIENCE_MS)
    person = Person(context.new_page(), SCREENSHOTS)
    faults, wide = {}, []
    for name, path in pages.items():
        if name == "numbers":
            context.add_cookies(cookies)
        person.page.goto(path)
        for scheme in ("light", "dark"):
            person.page.emulate_media(color_scheme=scheme)
            person.picture(f"{scheme}-{name}")
            if found := person.faults():
                faults[f"{scheme} {name}"] = found
        person.page.set_viewport_size(PHONE)
        person.page.emulate_media(color_scheme="light")
        person.picture(f"phone-{name}")
        wide += [name] if person.overflows() else []
        person.page.set_viewport_size(DESK)
    context.close()
    assert faults == {}
    assert wide == []


def test_without_script_everything_is_there_and_comes_anew_by_itself(
    chromium: Browser, stack: Stack, key: str, number: str, sandbox: Sandbox
) -> None:
    busy = stack.api.agent("Half-way")
    sandbox.fault("livekit.create_dispatch_rule", "503_html", times=None)
    stack.api.provision(busy, number)
    context = chromium.new_context(base_url=stack.api.base_url, java_script_enabled=False)
    context.set_default_timeout(PATIENCE_MS)
    person = Person(context.new_page(), SCREENSHOTS)
    person.sign_in(key)
    person.open_agent(busy)
    assert person.page.locator('meta[http-equiv="refresh"]').count() == 1
    person.press("Cancel…")
    person.press("Cancel and roll back")
    expect(person.page.locator(".flash")).to_have_text("The number is being disconnected.")
    person.sees_status("No number")
    assert person.page.locator('meta[http-equiv="refresh"]').count() == 0
    context.close()
