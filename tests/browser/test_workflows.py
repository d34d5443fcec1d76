"""Each task of the console, done in Chromium against the running stack."""

import re
import time

from playwright.sync_api import Page, expect

from app.access import KeyService, Scope
from tests.browser.conftest import SCREENSHOTS
from tests.browser.console_user import ConsoleUser
from tests.browser.fixtures import provisioned, take_half_of_the_calls, take_off_trunk
from tests.support.receiver import receiver
from tests.support.sandbox import Sandbox
from tests.support.stack import Stack, eventually

ALL_CONNECTED = ["good"] * 6


def test_a_provisioning_is_watched_from_click_to_provisioned(user: ConsoleUser, number: str, sandbox: Sandbox) -> None:
    page = user.page
    page.goto("/")
    page.locator("summary", has_text="New agent").click()
    page.get_by_label("Name", exact=True).fill("Front desk")
    page.evaluate("""() => {
        window.sent = 0;
        window.addEventListener("submit", (one) => { window.sent += !one.defaultPrevented; one.preventDefault(); });
    }""")
    page.get_by_role("button", name="Create").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert page.evaluate("window.sent") == 1, "pressed twice, it is sent once"
    page.reload()
    page.locator("summary", has_text="New agent").click()
    page.get_by_label("Name", exact=True).fill("Front desk")
    user.press("Create")
    user.sees_status("No number")
    user.press("Provision a number…")
    page.get_by_label("Or enter a number").fill("514")
    user.press("Provision")
    expect(page.get_by_label("Or enter a number")).to_be_focused()
    page.get_by_label("Or enter a number").clear()
    user.press("Read again")
    page.get_by_label("Search the numbers").fill(number[-7:])
    page.keyboard.press("Enter")
    page.get_by_label(number).check()
    user.press("Preview")
    user.sees("No obstacles")
    expect(page.get_by_label(number)).to_be_checked()
    user.save_screenshot("provision-preview")
    slow = sandbox.fault("livekit.create_dispatch_rule", "hold_before", times=1)
    user.press("Provision")
    user.mark_page()
    eventually(lambda: sandbox.held(slow) == 1, "the rule is being made")
    expect(page.locator(".bar.open").first).to_be_visible()
    user.save_screenshot("agent-provisioning")
    sandbox.release(slow)
    user.sees_status("Provisioned")
    assert user.was_not_reloaded()
    assert user.links() == ALL_CONNECTED
    assert sandbox.call(number)["agentName"] == "Front desk"
    expect(page.locator("#announcement")).to_have_text("Succeeded.")
    user.save_screenshot("agent-provisioned")


def test_one_of_ten_thousand_numbers_is_found_and_chosen_with_the_keyboard_alone(
    user: ConsoleUser, stack: Stack, sandbox: Sandbox
) -> None:
    sandbox.numbers([f"+1438{n:07}" for n in range(9_990)])
    sandbox.number("+14385550001", voiceUrl="https://flows.example.com/v1/Accounts/AC1/Flows/FW1")
    sandbox.number("+14385550002", trunkSid="TK" + "f" * 32)
    sandbox.number("+14385550003", voiceApplicationSid="AP" + "f" * 32)
    agent_id = stack.api.agent("Front desk")
    page = user.page
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(f"/agents/{agent_id}/provision?fresh=1")
    user.sees("50 of 9,993 numbers are shown")
    user.save_screenshot("phone-provision-many")
    assert not user.overflows()
    page.get_by_label("Search the numbers").press_sequentially("(438) 555-000")
    page.keyboard.press("Enter")
    expect(page.locator(".choice")).to_have_count(3)
    user.sees("needs takeover")
    user.save_screenshot("phone-provision-search")
    assert not user.overflows()
    page.get_by_role("radio").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    expect(page.get_by_label("+14385550003")).to_be_checked()
    page.get_by_label("Take over").focus()
    page.keyboard.press("Space")
    page.keyboard.press("Enter")
    user.sees_status("Provisioned")
    assert sandbox.call("+14385550003")["agentName"] == "Front desk"


def test_a_wrong_livekit_agent_name_is_corrected_in_a_minute_by_keyboard_on_a_phone(
    user: ConsoleUser, stack: Stack, number: str, sandbox: Sandbox
) -> None:
    agent_id = provisioned(stack, "Night line", number, livekitAgentName="nigth-line")
    page = user.page
    page.set_viewport_size({"width": 390, "height": 844})
    slow = sandbox.fault("livekit.update_dispatch_rule", "hold_before", times=1)
    began = time.monotonic()
    user.open_agent(agent_id)
    change = page.get_by_role("link", name="Change", exact=True)
    change.focus()
    page.keyboard.press("Enter")
    field = page.get_by_label("LiveKit agent name")
    expect(field).to_have_value("nigth-line")
    assert not user.overflows()
    field.focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("night-line")
    page.keyboard.press("Enter")
    expect(page.locator(".flash")).to_have_text("The change is queued.")
    eventually(lambda: sandbox.held(slow) == 1, "the rule is being changed")
    sandbox.release(slow)
    expect(page.locator("#announcement")).to_have_text("Succeeded.")
    assert time.monotonic() - began < 60
    assert sandbox.call(number)["agentName"] == "night-line"
    user.sees("night-line")
    user.save_screenshot("agent-changed-phone")


def test_a_failure_and_its_rollback_are_watched_and_retried(
    user: ConsoleUser, stack: Stack, number: str, sandbox: Sandbox
) -> None:
    agent_id = stack.api.agent("Night line", trunkMode="dedicated")
    sandbox.fault("livekit.create_dispatch_rule", "429", times=1)
    sandbox.fault("livekit.create_dispatch_rule", "reject", times=1)
    slow = sandbox.fault("twilio.delete_trunk", "hold_before", times=1)
    user.page.goto(f"/agents/{agent_id}/provision")
    user.page.get_by_label("Or enter a number").fill(number)
    user.press("Provision")
    user.mark_page()
    user.sees_status("Rolling back")
    eventually(lambda: sandbox.held(slow) == 1, "the rollback waits at Twilio")
    expect(user.page.locator(".bar.undo.open")).to_be_visible()
    user.save_screenshot("agent-rolling-back")
    sandbox.release(slow)
    user.sees_status("Failed")
    user.sees("What to do:")
    assert user.was_not_reloaded()
    assert user.links()[4] == "bad"
    assert user.page.locator(".bar.wait").count() >= 1
    user.save_screenshot("agent-failed")
    user.press(f"Retry with {number}")
    user.sees_status("Succeeded")
    user.save_screenshot("operation-succeeded")


def test_drift_is_found_by_verify_and_repaired(user: ConsoleUser, stack: Stack, number: str, sandbox: Sandbox) -> None:
    agent_id = provisioned(stack, "Sales", number)
    user.open_agent(agent_id)
    user.press("Verify")
    user.sees("Every check passed.")
    take_off_trunk(stack, sandbox, agent_id)
    user.press("Verify")
    expect(user.page.locator(".flash")).to_have_text("Calls fail.")
    user.sees("The number is on no trunk.")
    assert user.links() == ["good", "bad", "good", "good", "good", "good"]
    user.save_screenshot("agent-drifted")
    user.mark_page()
    user.press("Repair")
    expect(user.page.get_by_role("heading", name="Repair")).to_be_visible()
    expect(user.page.locator(".link.bad")).to_have_count(0)
    eventually(lambda: sandbox.call(number)["reaches"], "the number rings again")


def test_what_no_repair_can_change_is_named_with_what_to_do(
    user: ConsoleUser, stack: Stack, number: str, sandbox: Sandbox
) -> None:
    agent_id = provisioned(stack, "Sales", number)
    take_half_of_the_calls(stack, sandbox, agent_id)
    user.open_agent(agent_id)
    user.press("Verify")
    expect(user.page.locator(".flash")).to_have_text("Some calls fail.")
    assert user.links() == ["good", "good", "bad", "good", "good", "good"]
    user.page.goto("/?health=CALLS_FAIL")
    user.sees("Sales")
    user.open_agent(agent_id)
    user.press("Repair")
    user.sees("What stops the calls is not ours")
    user.sees("delete it in the Twilio console")


def test_a_number_moves_to_another_agent(user: ConsoleUser, stack: Stack, number: str) -> None:
    agent_id, target = provisioned(stack, "Old crew", number), stack.api.agent("New crew")
    user.open_agent(agent_id)
    user.press("Move…")
    user.page.get_by_label("Find an agent").fill("new crew")
    user.press("Find")
    user.page.get_by_label("New crew").check()
    user.save_screenshot("move")
    user.press("Move the number")
    user.sees_status("No number")
    user.open_agent(target)
    user.sees_status("Provisioned")
    user.sees("from Old crew")


def test_a_deprovisioning_asks_first(user: ConsoleUser, stack: Stack, number: str, sandbox: Sandbox) -> None:
    agent_id = provisioned(stack, "Pop-up", number)
    user.open_agent(agent_id)
    user.press("Deprovision…")
    user.sees(f"Disconnect {number}?")
    user.sees("taken off its shared Twilio trunk, which stays")
    assert stack.api.phone(agent_id)["hasPhone"]
    user.save_screenshot("deprovision")
    user.press("Disconnect the number")
    user.sees_status("No number")
    assert not sandbox.call(number)["reaches"]


def test_what_needs_attention_is_shown_with_its_leftovers_and_goes_on_when_pressed(
    user: ConsoleUser, stack: Stack, number: str, sandbox: Sandbox
) -> None:
    agent_id = provisioned(stack, "Stuck", number, trunkMode="dedicated")
    trunk = stack.api.phone(agent_id)["twilioTrunkSid"]
    sandbox.fault("twilio.delete_trunk", "reject", times=None)
    stack.api.deprovision(agent_id)
    eventually(lambda: stack.api.phone(agent_id)["operation"]["status"] == "needs_attention", "it needs attention")
    user.page.goto("/operations?tab=attention")
    user.sees("Stuck")
    user.save_screenshot("operations-attention")
    user.press("Deprovision")
    user.sees_status("Needs attention")
    user.sees("Still at the providers")
    user.sees(trunk)
    user.save_screenshot("operation-needs-attention")
    sandbox.clear_faults()
    user.press("Retry now")
    user.sees_status("Succeeded")


def test_an_audit_finds_drift_and_fixes_it_on_request(
    user: ConsoleUser, stack: Stack, number: str, sandbox: Sandbox
) -> None:
    agent_id = provisioned(stack, "Branch office", number)
    take_off_trunk(stack, sandbox, agent_id)
    user.page.goto("/audit")
    user.press("Run")
    user.sees("The number is on no trunk.")
    expect(user.page.locator("#live")).to_have_attribute("data-open", "no")
    user.save_screenshot("audit")
    user.press("Run with fix…")
    user.sees("1 agent would be repaired")
    user.press("Run with fix")
    user.sees("Repair ")
    eventually(lambda: sandbox.call(number)["reaches"], "the number rings again")


def test_an_agent_is_found_by_name_number_and_status(user: ConsoleUser, stack: Stack, number: str) -> None:
    provisioned(stack, "Harbour pilots", number)
    stack.api.agent("Harbour masters")
    for typed in ("harbour pil", number, number[-7:], number.replace("+1514", "+1 (514) ")):
        user.page.goto("/")
        user.page.get_by_label("Search").fill(typed)
        user.press("Show")
        expect(user.page.locator("tbody tr")).to_have_count(1)
        user.sees("Harbour pilots")
    user.page.get_by_label("Search").fill("harbour")
    user.page.get_by_label("Status").select_option("No number")
    user.press("Show")
    expect(user.page.locator("tbody tr")).to_have_count(1)
    user.sees("Harbour masters")


def test_a_bulk_is_uploaded_and_watched_to_its_end(user: ConsoleUser, numbers: list[str], sandbox: Sandbox) -> None:
    page = user.page
    slow = sandbox.fault("livekit.create_dispatch_rule", "hold_before", times=1)
    rows = "".join(f"{number},Desk {index}\n" for index, number in enumerate(numbers, start=1))
    page.goto("/")
    page.get_by_role("link", name="Bulk").click()
    page.get_by_label("CSV or JSON file").set_input_files(
        {"name": "numbers.csv", "mimeType": "text/csv", "buffer": f"phoneNumber,agent\n{rows}12,Wrong\n".encode()}
    )
    user.press("Check…")
    user.sees("separated by commas, with the columns phoneNumber, agent.")
    user.sees("phoneNumber: must be E.164")
    user.save_screenshot("bulk-check")
    assert user.accessibility_problems() == []
    page.get_by_role("link", name="Choose another file").click()
    page.get_by_label("CSV or JSON file").set_input_files(
        {"name": "numbers.txt", "mimeType": "text/plain", "buffer": f"phoneNumber,agent\n{rows}".encode("utf-16")}
    )
    user.press("Check…")
    user.sees("numbers.txt: 3 rows")
    user.press("Start 3 numbers")
    user.mark_page()
    eventually(lambda: sandbox.held(slow) == 1, "a rule is being made, which the verification of all three waits for")
    user.sees_status("Running")
    user.sees("0 of 3 done (0 %)")
    user.sees("numbers.txt uploaded")
    user.save_screenshot("bulk-running")
    sandbox.release(slow)
    user.sees_status("Succeeded")
    user.sees("3 of 3 done (100 %)")
    assert user.was_not_reloaded()
    expect(page.get_by_role("progressbar")).to_have_js_property("value", 3)
    assert all(sandbox.call(number)["reaches"] for number in numbers)
    with page.expect_download() as report:
        user.press("Report (CSV)")
    assert report.value.path().read_text(encoding="utf-8").count("succeeded") == len(numbers)


def test_a_webhook_is_registered_and_its_test_is_logged(user: ConsoleUser) -> None:
    page = user.page
    with receiver() as hook:
        page.goto("/")
        page.get_by_role("link", name="Webhooks").click()
        page.locator("summary", has_text="New webhook").click()
        page.get_by_label("URL").fill(hook.url)
        page.get_by_label("phone.failed").check()
        user.save_screenshot("webhook-new")
        user.press("Register")
        hook.secret = page.locator(".secret code").inner_text()
        user.save_screenshot("webhook-secret")
        user.press("I have copied it")
        expect(page.get_by_text(hook.secret)).to_have_count(0)
        user.press("Send a test")
        user.mark_page()
        expect(page.locator("tbody .badge")).to_have_text("Delivered")
        assert user.was_not_reloaded()
        user.save_screenshot("webhook-delivered")
        user.press("Redeliver")
        eventually(lambda: [one.type for one in hook.messages()] == ["ping", "ping"], "it is sent again")
        page.locator("tbody a").first.click()
        user.sees('"type": "ping"')
        page.go_back()
    user.press("Edit…")
    page.get_by_label("Description").fill("Pager")
    user.press("Save")
    user.sees("Pager")
    for name, question, answer in (
        ("Disable…", "Disable this webhook?", "Disable the webhook"),
        ("Rotate secret…", "Give this webhook a new secret?", "Rotate the secret"),
    ):
        page.get_by_role("link", name=name).focus()
        page.keyboard.press("Enter")
        user.sees(question)
        page.get_by_role("button", name=answer).focus()
        page.keyboard.press("Enter")
    user.press("I have copied it")
    user.press("Delete…")
    user.press("Delete the webhook")
    user.sees("No webhooks yet")


def test_a_workspace_gets_a_key_that_sees_nothing_else_until_it_is_revoked(page: Page, stack: Stack, key: str) -> None:
    stack.api.agent("Hidden")
    user = ConsoleUser(page, SCREENSHOTS)
    user.sign_in(key)  # not as the other tests are: this one signs out
    page.get_by_role("link", name="Workspaces").click()
    page.locator("summary", has_text="New workspace").click()
    page.get_by_label("Name").fill("Acme")
    page.get_by_label("Slug").fill("acme")
    user.press("Create")
    user.sees("Acme was created.")
    page.get_by_role("link", name="Keys").click()
    page.locator("summary", has_text="New key").click()
    page.get_by_label("Name").fill("theirs")
    page.get_by_label("May").select_option("admin")
    page.get_by_label("Sees").select_option("acme")
    user.save_screenshot("key-new")
    user.press("Make the key")
    user.save_screenshot("key-secret")
    text = page.locator(".secret code").inner_text()
    user.press("I have copied it")
    expect(page.get_by_text(text)).to_have_count(0)
    page.get_by_role("button", name="Sign out").click()
    user.sign_in(text)
    expect(page.get_by_text("in acme")).to_be_visible()
    user.sees("No agents yet")
    expect(page.get_by_role("link", name="Workspaces")).to_have_count(0)
    page.get_by_role("link", name="Activity").click()
    user.sees("Sign in")
    page.get_by_role("link", name="Keys").click()
    user.press("Revoke… theirs")
    user.sees("You are signed in with it.")
    user.press("Revoke the key")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_a_page_left_open_after_its_key_was_revoked_shows_nothing_more(page: Page, stack: Stack) -> None:
    keys = KeyService(stack.sessions)
    made, text = keys.create("temporary", [Scope.READ])
    user = ConsoleUser(page, SCREENSHOTS)
    user.sign_in(text)
    expect(page.get_by_text("(read-only)")).to_be_visible()
    expect(page.locator("summary", has_text="New agent")).to_have_count(0)
    keys.revoke(made.id)
    page.get_by_role("link", name="Audit").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert re.search(r"next=%2Faudit|next=/audit", page.url)
