"""One agent's number at the command line: provision, status, verify, repair, move, deprovision."""

import json
import uuid

import pytest

from tests.support.commands import Shell
from tests.support.sandbox_app import FOREIGN_NUMBER, NUMBER

FREE = "+15145550001"
RULE = "livekit.create_dispatch_rule"


@pytest.fixture
def desk(shell: Shell) -> str:
    """An agent without a number, in an account with a free one."""
    shell.live.sandbox.number(FREE)
    return shell.run("agents", "create", "desk").stdout.strip()


@pytest.fixture
def own_desk(shell: Shell) -> str:
    """The same, and the number is to have a trunk of its own."""
    shell.live.sandbox.number(FREE)
    return shell.run("agents", "create", "desk", "--trunk-mode", "dedicated").stdout.strip()


def test_a_number_is_connected_with_a_line_for_each_step(shell: Shell, desk: str) -> None:
    result = shell.run("provision", "desk", FREE)

    assert (result.exit_code, result.stdout) == (0, f"{FREE} is connected to desk.\n")
    steps = [line.split()[:2] for line in result.stderr.splitlines()]
    assert steps[0] == ["DONE", "twilio_number"]
    assert steps[-1] == ["DONE", "verification"]
    assert len(steps) == 7
    assert shell.live.sandbox.call(FREE)["reaches"]


@pytest.mark.parametrize("words", [("provision", "desk", FREE), ("provision", "number", "--takeover", "desk", FREE)])
def test_json_is_the_operation_as_the_api_shows_it(shell: Shell, desk: str, words: tuple[str, ...]) -> None:
    shown = shell.json(*words)

    assert (shown["status"], shown["agentId"], shown["phoneNumber"]) == ("succeeded", desk, FREE)
    assert shown["requestedBy"] == "trunkline provision number"
    assert len(shown["steps"]) == 7


def test_without_waiting_the_command_says_how_to_watch(shell: Shell, desk: str) -> None:
    result = shell.run("provision", "desk", FREE, "--no-wait")

    assert (result.exit_code, "is queued." in result.stdout) == (0, True)
    assert f"status {desk} --watch" in result.stderr
    watched = shell.run("status", "desk", "--watch")
    assert (watched.exit_code, "DONE    verification" in watched.stderr) == (0, True)
    assert "PROVISIONED" in watched.stdout


def test_ctrl_c_ends_only_the_display(shell: Shell, desk: str) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    shell.meanwhile = interrupt
    result = shell.run("provision", "desk", FREE)
    assert (result.exit_code, "The operation continues: trunkline operations show" in result.stderr) == (130, True)
    shell.meanwhile = shell.live.drive
    assert shell.run("status", "desk", "--watch").exit_code == 0


def test_a_failure_says_why_and_that_nothing_is_left(shell: Shell, desk: str) -> None:
    shell.live.sandbox.fault(RULE, "reject")

    result = shell.run("provision", "desk", FREE)

    assert (result.exit_code, result.stdout) == (1, "")
    assert "UNDONE  twilio_trunk" in result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith("Error: the provisioning failed. LiveKit refused create_dispatch_rule")
    assert last.endswith("(livekit_rejected) Nothing is left at either provider.")
    status = shell.run("status", "desk")
    assert (status.exit_code, "livekit_rejected" in status.stdout) == (1, True)


def test_an_undo_that_is_stuck_needs_attention(shell: Shell, own_desk: str) -> None:
    shell.live.sandbox.fault(RULE, "reject")
    shell.live.sandbox.fault("twilio.delete_trunk", "reject", times=None)

    result = shell.run("provision", "desk", FREE)

    assert (result.exit_code, "still at the provider: twilio twilio_trunk TK" in result.stdout) == (3, True), (
        result.output
    )
    assert "operations retry" in result.stderr
    assert shell.run("status", "desk").exit_code == 3
    (stuck,) = shell.json("operations", "list", "--status", "needs_attention")["items"]
    shell.live.sandbox.clear_faults()
    retried = shell.run("operations", "retry", stuck["id"][:8], "--wait")
    assert (retried.exit_code, "the provisioning failed" in retried.stderr) == (1, True), retried.output


def test_a_number_in_use_is_refused_before_anything_is_queued(shell: Shell, desk: str) -> None:
    result = shell.run("provision", "desk", NUMBER)

    assert result.exit_code == 1
    assert result.stderr == "Error: The number belongs to another agent. (number_in_use)\n"


def test_a_number_that_is_no_e164_is_a_wrong_command_line(shell: Shell, desk: str) -> None:
    result = shell.run("provision", "desk", "5145550001")

    assert (result.exit_code, "'5145550001' must be E.164" in result.stderr) == (2, True)


def test_a_dry_run_shows_the_calls_and_the_obstacles(shell: Shell, desk: str) -> None:
    free = shell.run("provision", "desk", FREE, "--dry-run")
    assert (free.exit_code, "No obstacles." in free.stdout) == (0, True)
    assert "/twirp/livekit.SIP/CreateSIPDispatchRule" in free.stdout

    taken = shell.run("provision", "desk", FOREIGN_NUMBER, "--dry-run")
    assert (taken.exit_code, "number_already_routed" in taken.stdout) == (1, True)
    plan = shell.json("provision", "desk", FOREIGN_NUMBER, "--dry-run", "--takeover", code=1)
    assert [(one["code"], one["blocks"]) for one in plan["obstacles"]] == [
        ("number_already_routed", False),
        ("livekit_number_conflict", True),
    ]
    assert shell.json("operations", "list", "--agent", "desk")["items"] == []


def test_a_number_is_disconnected_after_a_question(shell: Shell) -> None:
    asked = shell.run("deprovision", "front desk", typed="n\n")
    assert (asked.exit_code, f"Disconnect {NUMBER} from front desk?" in asked.stderr) == (1, True)
    assert shell.live.rings() == "front-desk"

    done = shell.run("deprovision", "front desk", typed="y\n")

    assert (done.exit_code, done.stdout) == (0, "front desk no longer has a number.\n")
    assert shell.live.rings() is None
    again = shell.run("deprovision", "front desk")
    assert (again.exit_code, again.stdout) == (0, "front desk has no number.\n")
    assert shell.json("deprovision", "front desk")["success"] is True


def test_deprovisioning_cancels_a_provisioning_in_progress(shell: Shell, desk: str) -> None:
    shell.run("provision", "desk", FREE, "--no-wait")

    done = shell.run("deprovision", "desk", "--yes")

    assert (done.exit_code, done.stdout) == (0, "desk no longer has a number.\n"), done.output
    assert [one["status"] for one in shell.json("operations", "list", "--agent", desk)["items"]] == ["cancelled"]


def test_drift_is_found_by_verify_and_fixed_by_repair(shell: Shell) -> None:
    assert shell.run("verify", "front desk").exit_code == 0
    assert shell.run("repair", "front desk").stdout == "All is well: nothing to repair.\n"
    shell.live.wiring.platform.delete_dispatch_rule(str(shell.live.agent.livekit_dispatch_rule_id))

    drifted = shell.run("verify", "front desk")
    assert (drifted.exit_code, drifted.stdout.splitlines()[0]) == (3, "Calls fail.")
    assert "✗ dispatch_rule" in drifted.stdout
    assert drifted.stderr.splitlines()[-1] == f"Repair it: trunkline repair {shell.live.agent_id}"
    checks = {one["name"]: one["ok"] for one in shell.json("verify", "front desk", code=3)["checks"]}
    assert [name for name, is_ok in checks.items() if not is_ok] == ["dispatch_rule"]
    status = shell.run("status", "front desk")
    assert (status.exit_code, "rule_gone" in status.stdout) == (3, True)

    repaired = shell.run("repair", "front desk")
    assert (repaired.exit_code, repaired.stdout) == (0, "The path was repaired.\n")
    assert shell.live.rings() == "front-desk"


def _put_url_before_ours(shell: Shell) -> str:
    path = f"/v1/Trunks/{shell.live.agent.twilio_trunk_sid}/OriginationUrls"
    theirs = {"FriendlyName": "theirs", "SipUrl": "sip:elsewhere.example.com", "Enabled": "true"}
    return str(shell.live.console.twilio("POST", path, Priority="1", Weight="1", **theirs)["sid"])


def test_what_is_not_ours_is_named_with_what_to_do_and_never_nothing_to_repair(shell: Shell) -> None:
    sid = _put_url_before_ours(shell)

    verified = shell.run("verify", "front desk")
    repaired = shell.run("repair", "front desk")
    status = shell.run("status", "front desk")
    audited = shell.run("audit", "--fix")

    assert (verified.exit_code, verified.stdout.splitlines()[0]) == (3, "Calls fail.")
    assert "Repair it" not in verified.stderr
    (line,) = [line for line in verified.stdout.splitlines() if line.startswith("Calls fail ")]
    assert f"origination_url_overridden, Origination URL {sid}  Ask whose the other URL is" in line
    assert (repaired.exit_code, repaired.stdout) == (1, "")
    assert sid in repaired.stderr
    assert repaired.stderr.endswith("(not_ours_to_repair)\n")
    assert (audited.exit_code, audited.stdout.splitlines()[0]) == (3, "Calls to 1 agent fail.")
    assert "Not repaired: not_ours_to_repair. Ask whose the other URL is" in audited.stdout
    assert f"agent front desk {shell.live.agent_id}  " in audited.stdout
    assert (status.exit_code, f"{sid}  Ask whose the other URL is" in status.stdout) == (3, True)
    assert "DRIFTED" in shell.run("agents", "show", "front desk").stdout
    assert "Calls fail." in shell.run("agents", "show", "front desk").stdout


def test_a_change_that_stops_no_call_is_shown_as_one(shell: Shell) -> None:
    rule = str(shell.live.agent.livekit_dispatch_rule_id)
    shell.live.console.livekit("UpdateSIPDispatchRule", sip_dispatch_rule_id=rule, update={"name": "by hand"})

    found = shell.run("verify", "front desk")

    assert (found.exit_code, found.stdout.splitlines()[0]) == (
        3,
        "No call is known to fail, but the path is not as we made it.",
    )
    assert "! dispatch_rule" in found.stdout
    assert "✗" not in found.stdout
    assert shell.run("audit").stdout.splitlines()[0] == "No call is known to fail."
    assert shell.run("audit", "--fix").exit_code == 0


def test_what_is_someone_elses_is_told_and_is_no_drift(shell: Shell) -> None:
    kind = {"dispatch_rule_individual": {"room_prefix": "all"}}
    shell.live.console.livekit("CreateSIPDispatchRule", dispatch_rule={"name": "all", "rule": kind})

    audit = shell.run("audit")

    assert (audit.exit_code, audit.stdout.splitlines()[0]) == (0, "No call is known to fail.")
    assert any(line.startswith("Someone else's  ") for line in audit.stdout.splitlines())
    assert shell.run("verify", "front desk").exit_code == 0


def test_a_number_that_was_moved_away_is_repaired_with_the_option_that_the_hint_names(shell: Shell) -> None:
    trunk = shell.live.console.twilio("POST", "/v1/Trunks", FriendlyName="theirs")["sid"]
    number = str(shell.live.agent.twilio_phone_number_sid)
    shell.live.console.twilio("POST", f"/v1/Trunks/{trunk}/PhoneNumbers", PhoneNumberSid=number)

    hint = shell.run("verify", "front desk").stderr.splitlines()[-1]

    assert hint == f"Repair it: trunkline repair {shell.live.agent_id} --takeover"
    assert shell.run("repair", "front desk").exit_code == 1
    assert shell.run("repair", "front desk", "--takeover").exit_code == 0


def test_a_number_is_moved(shell: Shell, desk: str) -> None:
    result = shell.run("move", "front desk", "desk")

    assert (result.exit_code, result.stdout) == (0, f"{NUMBER} is connected to desk.\n"), result.output
    assert shell.live.rings() == "desk"


def test_operations_are_listed_and_one_is_shown_with_its_event_log(shell: Shell) -> None:
    (one,) = shell.json("operations", "list", "--agent", "front desk", "--status", "succeeded")["items"]
    rows = shell.run("operations", "list").stdout.splitlines()
    assert rows[1].split()[:4] == [one["id"], "provision", "succeeded", NUMBER]

    shown = shell.run("operations", "show", one["id"][:8])

    assert shown.exit_code == 0
    assert "✓  twilio trunk" in shown.stdout
    assert "operation_succeeded" in shown.stdout
    whole = shell.json("operations", "show", one["id"])
    assert whole["timeline"][0]["event"] == "operation_queued"
    assert shell.run("operations", "show", str(uuid.uuid4())).exit_code == 1


def test_an_audit_prints_json_and_its_exit_code_shows_drift(shell: Shell) -> None:
    assert json.loads(shell.run("audit", "--json").stdout)["requestedBy"] == "trunkline audit"
    shell.live.wiring.platform.delete_dispatch_rule(str(shell.live.agent.livekit_dispatch_rule_id))
    assert shell.run("audit").exit_code == 3


def test_the_status_of_an_agent_without_a_number_says_what_to_do_next(shell: Shell, desk: str) -> None:
    result = shell.run("status", "desk")

    assert (result.exit_code, result.stderr) == (0, "No number yet: trunkline provision AGENT NUMBER\n")
    assert "NOT_PROVISIONED" in result.stdout
    assert shell.json("status", desk)["hasPhone"] is False


def test_webhooks_are_listed_without_their_secrets(shell: Shell) -> None:
    assert "No webhooks" in shell.run("webhooks", "list").stderr
    shown = shell.live.wiring.webhooks.create("https://example.com/hook", None, None)

    result = shell.run("webhooks", "list")

    assert "https://example.com/hook" in result.stdout
    assert shown.secret not in result.output
    assert shown.secret not in json.dumps(shell.json("webhooks", "list"))
