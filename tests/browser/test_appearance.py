"""Every page, light and dark, on a desktop and on a phone, checked for accessibility with axe."""

import os
from datetime import timedelta
from typing import Any

import pytest
from playwright.sync_api import Browser, expect
from sqlalchemy import func, update

from app.access import MAX_NAME_LENGTH, KeyService, Scope
from app.db.models import Operation
from app.domain.texts import MAX_NAME
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
from tests.support.stack import Api, Stack, eventually

PHONE = {"width": 360, "height": 740}
DESKTOP = {"width": 1280, "height": 900}

EVERYTHING = os.environ.get("APPEARANCE") == "all"
"""Whether pages are seen at every width, and the colours of every element are read; `APPEARANCE=all` takes a minute."""

WIDTHS = {"desktop": DESKTOP, "phone": PHONE}
if EVERYTHING:
    WIDTHS |= {"wide": {"width": 1440, "height": 900}, "tablet": {"width": 768, "height": 1024}}

LONGEST = "W" * MAX_NAME
"""A name that can be broken at no blank; its beginning is that of a key."""

LONG_AGO = timedelta(minutes=83)
"""How long the operation that keeps retrying has been at it, so that its timeline's labels are long."""


@pytest.fixture
def agents(stack: Stack, sandbox: Sandbox, numbers: list[str]) -> tuple[str, str, str, str]:
    """The ids of four agents: calls fail, some calls fail, it has failed, it keeps retrying."""
    number, second, _ = numbers
    failed, busy = stack.api.agent(LONGEST), stack.api.agent("Half-way")
    other = f"+1438{number[-7:]}"
    somebody = Api(stack.api.base_url, KeyService(stack.sessions).create(LONGEST[:MAX_NAME_LENGTH], [Scope.WRITE])[1])
    somebody.provision(failed, other)
    eventually(lambda: stack.api.phone(failed)["phoneProvisioningStatus"] == "FAILED", "it has failed")
    sandbox.number(other)
    sandbox.fault("livekit.create_dispatch_rule", "503_html", times=None, number=other)
    stack.api.provision(busy, other)
    good = provisioned(stack, "Reception with a long name that has to wrap somewhere", number)
    take_off_trunk(stack, sandbox, good)
    some = provisioned(stack, "Sales", second)
    take_half_of_the_calls(stack, sandbox, some)
    change_what_stops_no_call(stack, sandbox, some)
    for each in (good, some):
        stack.api.call("POST", f"/api/agents/{each}/verify")
    eventually(lambda: stack.api.phone(busy)["operation"]["attempts"] > (5 if EVERYTHING else 1), "it has tried again")
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
    context = chromium.new_context(base_url=stack.api.base_url, viewport=DESKTOP, reduced_motion="reduce")
    context.set_default_timeout(TIMEOUT_MS)
    user = ConsoleUser(context.new_page(), SCREENSHOTS)
    problems: dict[str, list[str]] = {}
    for name, path in pages.items():
        if name == "numbers":
            context.add_cookies(cookies)
        user.page.set_viewport_size(DESKTOP)
        user.page.goto(path)
        user.save_screenshot(f"light-{name}")
        problems[f"light {name}"] = user.accessibility_problems(every_element=EVERYTHING)
        user.page.emulate_media(color_scheme="dark")
        user.save_screenshot(f"dark-{name}")
        problems[f"dark {name}"] = user.problems_of_colours(every_element=EVERYTHING)
        user.page.emulate_media(color_scheme="light")
        for width, size in WIDTHS.items():
            user.page.set_viewport_size(size)
            user.save_screenshot(f"{width}-{name}")
            problems[f"{width} {name}"] = user.layout_problems()
    context.close()
    assert {where: found for where, found in problems.items() if found} == {}


def test_without_javascript_every_action_works_and_pages_refresh(
    chromium: Browser, stack: Stack, key: str, number: str, sandbox: Sandbox
) -> None:
    busy = stack.api.agent("Half-way")
    sandbox.fault("livekit.create_dispatch_rule", "429", times=None)
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
