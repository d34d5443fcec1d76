"""Every page, light and dark, on a desktop and on a phone, checked for accessibility with axe."""

from datetime import timedelta
from typing import Any

import pytest
from playwright.sync_api import Browser, expect
from sqlalchemy import func, update

from app.access import KeyService
from app.db.models import Operation
from app.domain.workspaces import ENVIRONMENT_ACCOUNT
from app.workspaces import WorkspaceService
from tests.browser.conftest import SCREENSHOTS, TIMEOUT_MS
from tests.browser.console_user import ConsoleUser
from tests.browser.fixtures import (
    change_what_stops_no_call,
    create_failed_bulk,
    create_failing_webhook,
    provisioned,
    take_half_of_the_calls,
    take_off_trunk,
)
from tests.support.sandbox import Sandbox
from tests.support.stack import Stack, eventually

PHONE = {"width": 360, "height": 740}
TABLET = {"width": 768, "height": 1024}
DESKTOP = {"width": 1280, "height": 900}
WIDE = {"width": 1440, "height": 900}
LONG_AGO = timedelta(minutes=83)
"""How long the operation that keeps retrying has been at it, so that its timeline's labels are long."""


@pytest.fixture
def agents(stack: Stack, sandbox: Sandbox, numbers: list[str]) -> tuple[str, str, str, str]:
    """The ids of four agents: calls fail, some calls fail, it has failed, it keeps retrying."""
    number, second, _ = numbers
    good = provisioned(stack, "Reception with a long name that has to wrap somewhere", number)
    take_off_trunk(stack, sandbox, good)
    some = provisioned(stack, "Sales", second)
    take_half_of_the_calls(stack, sandbox, some)
    change_what_stops_no_call(stack, sandbox, some)
    for each in (good, some):
        stack.api.call("POST", f"/api/agents/{each}/verify")
    failed = stack.api.agent("Fax machine")
    other = f"+1438{number[-7:]}"
    stack.api.provision(failed, other)
    eventually(lambda: stack.api.phone(failed)["phoneProvisioningStatus"] == "FAILED", "it has failed")
    busy = stack.api.agent("Half-way")
    sandbox.number(other)
    sandbox.fault("livekit.create_dispatch_rule", "503_html", times=None)
    stack.api.provision(busy, other)
    eventually(lambda: stack.api.phone(busy)["operation"]["attempts"] > 5, "it has tried a few times")
    return good, some, failed, busy


def test_every_page_is_accessible(
    chromium: Browser, stack: Stack, cookies: Any, agents: tuple[str, str, str, str]
) -> None:
    good, some, failed, busy = agents
    operation = stack.api.phone(busy)["operation"]["id"]
    audit_url = stack.api.call("POST", "/api/audit", {})[1]["statusUrl"]
    bulk, webhook = create_failed_bulk(stack), create_failing_webhook(stack)
    delivery = stack.api.call("GET", f"/api/webhooks/{webhook}/deliveries")[1]["items"][0]["id"]
    trunk = next(one["id"] for one in stack.api.call("GET", "/api/trunks?mode=shared")[1]["items"])
    eventually(lambda: stack.api.call("GET", audit_url)[1]["status"] == "done", "the audit is done")
    workspace = WorkspaceService(stack.sessions).create("acme", "Acme Incorporated of the long name that has to wrap")
    newest = KeyService(stack.sessions).all()[-1]
    with stack.sessions.begin() as session:
        session.execute(update(Operation).where(Operation.id == operation).values(created_at=func.now() - LONG_AGO))
    pages = {
        "sign-in": "/sign-in",
        "numbers": "/",
        "overview": "/overview",
        "codes": "/codes",
        "agent-drift": f"/agents/{good}",
        "agent-some-calls-fail": f"/agents/{some}",
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
        "bulk-resume": f"/bulks/{bulk}/resume",
        "trunks": "/trunks",
        "trunk": f"/trunks/{trunk}",
        "consolidation": "/trunks/consolidate",
        "audit": "/audit",
        "audit-fix": "/audit/fix",
        "webhooks": "/webhooks",
        "webhook": f"/webhooks/{webhook}",
        "webhook-edit": f"/webhooks/{webhook}/edit",
        "webhook-rotate": f"/webhooks/{webhook}/rotate",
        "webhook-disable": f"/webhooks/{webhook}/disable",
        "webhook-delivery": f"/webhooks/{webhook}/deliveries/{delivery}",
        "webhook-delete": f"/webhooks/{webhook}/delete",
        "agent-edit": f"/agents/{failed}/edit",
        "agent-delete": f"/agents/{failed}/delete",
        "accounts": "/accounts",
        "account": f"/carrier-accounts/{ENVIRONMENT_ACCOUNT}",
        "account-delete": f"/carrier-accounts/{ENVIRONMENT_ACCOUNT}/delete",
        "workspaces": "/workspaces",
        "workspace": f"/workspaces/{workspace.id}",
        "workspace-delete": f"/workspaces/{workspace.id}/delete",
        "keys": "/keys",
        "key-revoke": f"/keys/{newest.id}/revoke",
        "activity": "/activity",
        "system": "/system",
        "not-found": "/agents/nothing",
    }
    context = chromium.new_context(base_url=stack.api.base_url, viewport=DESKTOP)
    context.set_default_timeout(TIMEOUT_MS)
    user = ConsoleUser(context.new_page(), SCREENSHOTS)
    accessibility_problems, wide, unreadable = {}, [], {}
    for name, path in pages.items():
        if name == "numbers":
            context.add_cookies(cookies)
        user.page.goto(path)
        for scheme in ("light", "dark"):
            user.page.emulate_media(color_scheme=scheme)
            user.save_screenshot(f"{scheme}-{name}")
            if found := user.accessibility_problems(of_colours=scheme == "dark"):
                accessibility_problems[f"{scheme} {name}"] = found
        user.page.emulate_media(color_scheme="light")
        for width, size in (("wide", WIDE), ("desktop", DESKTOP), ("tablet", TABLET), ("phone", PHONE)):
            user.page.set_viewport_size(size)
            user.save_screenshot(f"{width}-{name}")
            wide += [f"{width} {name}"] if user.overflows() else []
            if found := user.broken_words() + user.overlapping_labels():
                unreadable[f"{width} {name}"] = found
        user.page.set_viewport_size(DESKTOP)
    context.close()
    assert accessibility_problems == {}
    assert wide == []
    assert unreadable == {}


def test_without_javascript_every_action_works_and_pages_refresh(
    chromium: Browser, stack: Stack, key: str, number: str, sandbox: Sandbox
) -> None:
    busy = stack.api.agent("Half-way")
    sandbox.fault("livekit.create_dispatch_rule", "503_html", times=None)
    stack.api.provision(busy, number)
    context = chromium.new_context(base_url=stack.api.base_url, java_script_enabled=False)
    context.set_default_timeout(TIMEOUT_MS)
    user = ConsoleUser(context.new_page(), SCREENSHOTS)
    user.sign_in(key)
    user.open_agent(busy)
    assert user.page.locator('meta[http-equiv="refresh"]').count() == 1
    user.press("Cancel…")
    user.press("Cancel and roll back")
    expect(user.page.locator(".flash")).to_have_text("The number is being disconnected.")
    user.sees_status("No number")
    assert user.page.locator('meta[http-equiv="refresh"]').count() == 0
    context.close()
