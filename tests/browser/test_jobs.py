"""Each of the console's jobs, done by a person in Chromium against the running stack."""

import re

from playwright.sync_api import Page, expect

from app.access import KeyService, Scope
from tests.browser.conftest import SCREENSHOTS
from tests.browser.person import Person
from tests.browser.subjects import provisioned, take_off_trunk
from tests.support.receiver import receiver
from tests.support.sandbox import Sandbox
from tests.support.stack import Stack, eventually

WHOLE = ["good"] * 6


def test_a_provisioning_is_watched_from_click_to_provisioned(person: Person, number: str, sandbox: Sandbox) -> None:
    page = person.page
    page.locator("summary", has_text="New agent").click()
    page.get_by_label("Name", exact=True).fill("Front desk")
    person.press("Create")
    person.sees_status("No number")
    person.press("Provision a number…")
    page.get_by_label("Number in the Twilio account").select_option(number)
    person.press("Preview")
    person.sees("No obstacles")
    person.picture("provision-preview")
    slow = sandbox.fault("livekit.create_dispatch_rule", "hold_before", times=1)
    person.press("Provision")
    person.mark()
    eventually(lambda: sandbox.held(slow) == 1, "the rule is being made")
    expect(page.locator(".bar.open").first).to_be_visible()
    person.picture("agent-provisioning")
    sandbox.release(slow)
    person.sees_status("Provisioned")
    assert person.never_reloaded()
    assert person.links() == WHOLE
    assert sandbox.call(number)["agentName"] == "Front desk"
    expect(page.locator("#said")).to_have_text("Succeeded.")
    person.picture("agent-provisioned")


def test_a_failure_and_its_rollback_are_watched_and_retried(
    person: Person, stack: Stack, number: str, sandbox: Sandbox
) -> None:
    agent_id = stack.api.agent("Night line")
    sandbox.fault("livekit.create_dispatch_rule", "500", times=1)
    sandbox.fault("livekit.create_dispatch_rule", "reject", times=1)
    slow = sandbox.fault("twilio.delete_trunk", "hold_before", times=1)
    person.page.goto(f"/agents/{agent_id}/provision")
    person.page.get_by_label("Or enter a number").fill(number)
    person.press("Provision")
    person.mark()
    person.sees_status("Rolling back")
    eventually(lambda: sandbox.held(slow) == 1, "the rollback waits at Twilio")
    expect(person.page.locator(".bar.undo.open")).to_be_visible()
    person.picture("agent-rolling-back")
    sandbox.release(slow)
    person.sees_status("Failed")
    person.sees("What to do:")
    assert person.never_reloaded()
    assert person.links()[4] == "bad"
    assert person.page.locator(".bar.wait").count() >= 1
    person.picture("agent-failed")
    person.press(f"Retry with {number}")
    person.sees_status("Succeeded")
    person.picture("operation-succeeded")


def test_a_drift_is_found_by_verify_and_repaired(person: Person, stack: Stack, number: str, sandbox: Sandbox) -> None:
    agent_id = provisioned(stack, "Sales", number)
    person.open_agent(agent_id)
    person.press("Verify")
    person.sees("Every check passed.")
    take_off_trunk(stack, sandbox, agent_id)
    person.press("Verify")
    person.sees("The number is on no trunk.")
    assert person.links() == ["good", "bad", "good", "good", "good", "good"]
    person.picture("agent-drifted")
    person.mark()
    person.press("Repair")
    expect(person.page.get_by_role("heading", name="Repair")).to_be_visible()
    expect(person.page.locator(".link.bad")).to_have_count(0)
    eventually(lambda: sandbox.call(number)["reaches"], "the number rings again")


def test_a_number_moves_to_another_agent(person: Person, stack: Stack, number: str) -> None:
    agent_id, target = provisioned(stack, "Old crew", number), stack.api.agent("New crew")
    person.open_agent(agent_id)
    person.press("Move…")
    person.page.get_by_label("Find an agent").fill("new crew")
    person.press("Find")
    person.page.get_by_label("New crew").check()
    person.picture("move")
    person.press("Move the number")
    person.sees_status("No number")
    person.open_agent(target)
    person.sees_status("Provisioned")
    person.sees("from Old crew")


def test_a_deprovisioning_asks_first(person: Person, stack: Stack, number: str, sandbox: Sandbox) -> None:
    agent_id = provisioned(stack, "Pop-up", number)
    person.open_agent(agent_id)
    person.press("Deprovision…")
    person.sees(f"Disconnect {number}?")
    assert stack.api.phone(agent_id)["hasPhone"]
    person.picture("deprovision")
    person.press("Disconnect the number")
    person.sees_status("No number")
    assert not sandbox.call(number)["reaches"]


def test_what_needs_attention_is_shown_with_its_leftovers_and_goes_on_when_pressed(
    person: Person, stack: Stack, number: str, sandbox: Sandbox
) -> None:
    agent_id = provisioned(stack, "Stuck", number)
    trunk = stack.api.phone(agent_id)["twilioTrunkSid"]
    sandbox.fault("twilio.delete_trunk", "reject", times=None)
    stack.api.deprovision(agent_id)
    eventually(lambda: stack.api.phone(agent_id)["operation"]["status"] == "needs_attention", "a person is called")
    person.page.goto("/operations?tab=attention")
    person.sees("Stuck")
    person.picture("operations-attention")
    person.press("Deprovision")
    person.sees_status("Needs attention")
    person.sees("Still at the providers")
    person.sees(trunk)
    person.picture("operation-needs-attention")
    sandbox.clear_faults()
    person.press("Retry now")
    person.sees_status("Succeeded")


def test_an_audit_finds_a_drift_and_with_fix_mends_it(
    person: Person, stack: Stack, number: str, sandbox: Sandbox
) -> None:
    agent_id = provisioned(stack, "Branch office", number)
    take_off_trunk(stack, sandbox, agent_id)
    person.page.goto("/audit")
    person.press("Run")
    person.sees("The number is on no trunk.")
    expect(person.page.locator("#live")).to_have_attribute("data-open", "no")
    person.picture("audit")
    person.press("Run with fix")
    person.sees("Repair ")
    eventually(lambda: sandbox.call(number)["reaches"], "the number rings again")


def test_an_agent_is_found_by_name_number_and_status(person: Person, stack: Stack, number: str) -> None:
    provisioned(stack, "Harbour pilots", number)
    stack.api.agent("Harbour masters")
    for typed in ("harbour pil", number, number[-7:], number.replace("+1514", "+1 (514) ")):
        person.page.goto("/")
        person.page.get_by_label("Search").fill(typed)
        person.press("Show")
        expect(person.page.locator("tbody tr")).to_have_count(1)
        person.sees("Harbour pilots")
    person.page.get_by_label("Search").fill("harbour")
    person.page.get_by_label("Status").select_option("No number")
    person.press("Show")
    expect(person.page.locator("tbody tr")).to_have_count(1)
    person.sees("Harbour masters")


def test_a_bulk_is_uploaded_and_watched_to_its_end(person: Person, numbers: list[str], sandbox: Sandbox) -> None:
    page = person.page
    slow = sandbox.fault("livekit.create_dispatch_rule", "hold_before", times=1)
    rows = "".join(f"{number},Desk {place}\n" for place, number in enumerate(numbers, start=1))
    page.get_by_role("link", name="Bulk").click()
    page.get_by_label("CSV or JSON file").set_input_files(
        {"name": "numbers.csv", "mimeType": "text/csv", "buffer": f"phoneNumber,agent\n{rows}".encode()}
    )
    person.press("Upload and start")
    person.mark()
    person.sees("2 of 3 done (66 %)")
    person.picture("bulk-running")
    sandbox.release(slow)
    person.sees_status("Succeeded")
    person.sees("3 of 3 done (100 %)")
    assert person.never_reloaded()
    expect(page.get_by_role("progressbar")).to_have_js_property("value", 3)
    assert all(sandbox.call(number)["reaches"] for number in numbers)
    with page.expect_download() as report:
        person.press("Report (CSV)")
    assert report.value.path().read_text(encoding="utf-8").count("succeeded") == len(numbers)


def test_a_webhook_is_registered_and_its_test_is_logged(person: Person) -> None:
    page = person.page
    with receiver() as hook:
        page.get_by_role("link", name="Webhooks").click()
        page.locator("summary", has_text="New webhook").click()
        page.get_by_label("URL").fill(hook.url)
        page.get_by_label("phone.failed").check()
        person.picture("webhook-new")
        person.press("Register")
        hook.secret = page.locator(".secret code").inner_text()
        person.picture("webhook-secret")
        person.press("I have copied it")
        expect(page.get_by_text(hook.secret)).to_have_count(0)
        person.press("Send a test")
        person.mark()
        expect(page.locator("tbody .badge")).to_have_text("Delivered")
        assert person.never_reloaded()
        person.picture("webhook-delivered")
        person.press("Redeliver")
        eventually(lambda: [one.type for one in hook.messages()] == ["ping", "ping"], "it is sent again")
    person.press("Delete…")
    person.press("Delete the webhook")
    person.sees("No webhooks yet")


def test_a_page_left_open_after_its_key_was_revoked_shows_nothing_more(page: Page, stack: Stack) -> None:
    keys = KeyService(stack.sessions)
    made, text = keys.create("temporary", [Scope.READ])
    visitor = Person(page, SCREENSHOTS)
    visitor.sign_in(text)
    expect(page.get_by_text("(read-only)")).to_be_visible()
    expect(page.locator("summary", has_text="New agent")).to_have_count(0)
    keys.revoke(str(made.id))
    page.get_by_role("link", name="Audit").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert re.search(r"next=%2Faudit|next=/audit", page.url)
