"""The commands on one number: `provision`, `status`, `deprovision`, `move`, `verify` and `repair`."""

import sys
from collections.abc import Callable, Sequence

import click
from rich.text import Text

from app.cli.client import Response, client
from app.cli.context import (
    EXIT_ATTENTION,
    EXIT_FAILED,
    EXIT_OK,
    PhoneNumber,
    Row,
    command_line,
    find_agent,
    json_option,
    takeover_hint,
    user_command,
    without_hint,
)
from app.cli.output import (
    BAD,
    GOOD,
    WARNING,
    choose,
    confirm,
    print_json,
    print_line,
    print_result,
    print_table,
    progress_console,
)
from app.cli.progress import (
    NO_ATTEMPTS,
    exit_code,
    findings_of,
    is_settled,
    print_findings,
    read_operation,
    show_operation,
    show_phone,
    verdict_line,
    watch_operation,
)
from app.domain.findings import Finding, Fix, Health, Severity, failed_checks, worst_first
from app.domain.operations import OperationKind, OperationStatus, PathChoice, PhoneStatus, TrunkMode, trunk_in_words

KIND_NAMES = {
    OperationKind.PROVISION: "provisioning",
    OperationKind.DEPROVISION: "deprovisioning",
    OperationKind.REPAIR: "repair",
    OperationKind.MOVE: "move",
    OperationKind.REHOME: "rehome",
    OperationKind.UPDATE: "update",
    OperationKind.ADOPT: "adoption",
}

agent_argument = click.argument("agent")
wait_option = click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until it has finished.")
takeover_option = click.option(
    "--takeover", is_flag=True, help="Take over a number that is on another trunk or application."
)


@click.command("number")
@agent_argument
@click.argument("number", type=PhoneNumber())
@takeover_option
@click.option("--dry-run", is_flag=True, help="Preview: show the calls and the obstacles; read-only.")
@wait_option
@json_option
@user_command
def provision_number(agent: str, number: str, takeover: bool, dry_run: bool, wait: bool, is_json: bool) -> None:
    """Connect NUMBER, as +15145551234, to AGENT.

    Exit code 0: the number is connected, or was queued with --no-wait; 1: refused, or failed and rolled back; 3: it
    needs attention; 130: interrupted.
    """
    found = find_agent(agent)
    path, body = f"/api/agents/{found['id']}/provision-phone", {"phoneNumber": number, "takeover": takeover}
    if dry_run:
        with progress_console().status("Reading from both providers"):
            plan = client().post(path, body, dryRun=True)
        _finish_preview(plan, is_json=is_json)
    accepted = client().post(path, body)
    finish_operation(
        accepted["operationId"], wait=wait, is_json=is_json, done=f"{number} is connected to {found['name']}."
    )


@click.command("status")
@agent_argument
@click.option(
    "--watch", "is_watching", is_flag=True, help="Wait while an operation is in progress, and show its steps."
)
@json_option
@user_command
def status(agent: str, is_watching: bool, is_json: bool) -> None:
    """Show the number of AGENT: path, health and operation.

    Exit code 0: in sync, or in progress; 1: it failed; 3: it needs attention, or has drifted; 130: interrupted.
    """
    found = find_agent(agent)
    phone = _phone_of(found)
    if is_watching and phone["operation"] and not is_settled(phone["operation"]):
        watch_operation(phone["operation"]["id"], is_quiet=is_json)
        phone = _phone_of(found)
    if is_json:
        print_json(phone)
    else:
        show_phone(found, phone)
    sys.exit(_status_exit_code(phone))


def _phone_of(agent: Row) -> Row:
    return dict(client().get(f"/api/agents/{agent['id']}/phone-status"))


@click.command("deprovision")
@agent_argument
@click.option(
    "--path",
    type=click.Choice([one.value for one in PathChoice]),
    help="What becomes of a path that was adopted: keep leaves it as it was found, remove takes it down.",
)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@wait_option
@json_option
@user_command
def deprovision(agent: str, path: str | None, yes: bool, wait: bool, is_json: bool) -> None:
    """Disconnect the number of AGENT.

    Cancels a provisioning or an adoption that is in progress, and clears a failure. Of a path that was adopted it asks
    whether to keep it, where --path does not say so.

    Exit code 0: it has no number, or was queued with --no-wait; 1: refused; 3: it needs attention.
    """
    found = find_agent(agent)
    if not yes:
        path = _ask(found, path)
    response = client().request("DELETE", f"/api/agents/{found['id']}/deprovision-phone", query={"path": path})
    if "operationId" not in response.body:
        _finish_at_once(found, response, is_json=is_json)
        return
    operation = read_operation(response.body["operationId"])
    is_removal = operation["kind"] == OperationKind.DEPROVISION
    finish_operation(
        operation["id"],
        wait=wait,
        is_json=is_json,
        done=f"{found['name']} no longer has a number.",
        wanted=OperationStatus.SUCCEEDED if is_removal else OperationStatus.CANCELLED,
    )


def _ask(found: Row, path: str | None) -> str | None:
    """Ask whether to disconnect the number, and what becomes of a path that was adopted; return the latter."""
    number, name = found["phoneNumber"], found["name"]
    if number is None:
        return path
    is_whole = found["phoneProvisioningStatus"] == PhoneStatus.PROVISIONED
    if path is None and is_whole and _phone_of(found)["adopted"]:
        question = f"The path of {number} was adopted: keep it as it was found, or remove it?"
        path = choose(question, [one.value for one in PathChoice])
    is_kept = path == PathChoice.KEEP
    ends = f"It will ring as before {name} had it." if is_kept else "Its calls will no longer be answered."
    confirm(f"Disconnect {number} from {name}? {ends}")
    return path


def _finish_at_once(found: Row, response: Response, *, is_json: bool) -> None:
    """Print what a request to disconnect found that has nothing left to do."""
    had_none = found["phoneProvisioningStatus"] == PhoneStatus.NOT_PROVISIONED
    if is_json:
        print_json(response.body)
    else:
        print_line(f"{found['name']} {'has no number' if had_none else 'no longer has a number'}.")


@click.command("move")
@agent_argument
@click.argument("to_agent")
@wait_option
@json_option
@user_command
def move(agent: str, to_agent: str, wait: bool, is_json: bool) -> None:
    """Move the number of AGENT to TO_AGENT.

    Callers always reach one of the two. Exit codes as for provision.
    """
    source, target = find_agent(agent), find_agent(to_agent)
    accepted = client().post(f"/api/agents/{source['id']}/move-phone", {"toAgentId": target["id"]})
    done = f"{accepted['phoneNumber']} is connected to {target['name']}."
    finish_operation(accepted["operationId"], wait=wait, is_json=is_json, done=done)


def finish_operation(
    operation_id: str,
    *,
    wait: bool,
    is_json: bool,
    done: str | Callable[[], str],
    wanted: OperationStatus = OperationStatus.SUCCEEDED,
    attempts_before: int = NO_ATTEMPTS,
) -> None:
    """Watch an operation until it is settled if `wait`, print the result, and exit."""
    operation = (
        watch_operation(operation_id, is_quiet=is_json, attempts_before=attempts_before)
        if wait
        else read_operation(operation_id)
    )
    if is_json:
        print_json(operation)
    elif operation["status"] == wanted:
        print_result(Text(done if isinstance(done, str) else done(), "green"))
        for warning in operation["warnings"]:
            print_line(f"Warning: {warning['detail']}", err=True)
    elif is_settled(operation):
        _print_failure(operation)
    else:
        print_line(f"Operation {operation['id']} is {operation['status']}.")
        watching = command_line(f"status {operation['agentId']} --watch")
        print_line(f"Watch it: {watching}", err=True)
    sys.exit(exit_code(operation, wanted))


def _print_failure(operation: Row) -> None:
    if operation["status"] == OperationStatus.NEEDS_ATTENTION:
        show_operation(operation)
        return
    kind, error = OperationKind(operation["kind"]), operation["error"]
    ended = "was cancelled" if operation["status"] == OperationStatus.CANCELLED else "failed"
    why = f" {error['detail']} ({error['code']})" if error else ""
    left = " Nothing is left at either provider." if kind is OperationKind.PROVISION else ""
    hint = takeover_hint(error["code"]) if error else ""
    print_line(f"Error: the {KIND_NAMES[kind]} {ended}.{why}{left}{hint}", err=True)


def _finish_preview(plan: Row, *, is_json: bool) -> None:
    if is_json:
        print_json(plan)
    else:
        print_table(
            ("step", "provider", "", "path"),
            [(call["step"], call["provider"], call["method"], call["path"]) for call in plan["calls"]],
        )
        print_result("")
        for obstacle in plan["obstacles"]:
            label = Text("blocks", "red") if obstacle["blocks"] else Text("note", "yellow")
            hint = takeover_hint(obstacle["code"]) if obstacle["blocks"] else ""
            print_result(label, f"{without_hint(obstacle['detail'])} ({obstacle['code']}){hint}")
        trunk, room = plan["trunk"], plan["trunks"]
        where = trunk_in_words(TrunkMode(trunk["mode"]), trunk["twilioTrunkSid"], trunk["members"], trunk["capacity"])
        conclusion = "No obstacles." if plan["wouldSucceed"] else "It would fail."
        print_line(f"{where}.")
        print_line(f"{room['free']} of {room['limit']} trunks are free. {conclusion}")
    sys.exit(EXIT_OK if plan["wouldSucceed"] else EXIT_FAILED)


def _status_exit_code(phone: Row) -> int:
    operation = phone["operation"]
    if operation and operation["status"] == OperationStatus.NEEDS_ATTENTION:
        return EXIT_ATTENTION
    if phone["hasPhone"] and phone["health"]["state"] == Health.DRIFTED:
        return EXIT_ATTENTION
    return EXIT_FAILED if phone["phoneProvisioningStatus"] == PhoneStatus.FAILED else EXIT_OK


@click.command("verify")
@agent_argument
@json_option
@user_command
def verify(agent: str, is_json: bool) -> None:
    """Compare the path of AGENT with both providers: whether calls fail, and what is not as it was made.

    Exit code 0: in sync; 3: configuration drift, whether calls fail or not; 1: it has no number, or a provider could
    not be read.
    """
    found = find_agent(agent)
    with progress_console().status("Reading from both providers"):
        verified = client().post(f"/api/agents/{found['id']}/verify")
    if is_json:
        print_json(verified)
    else:
        findings = findings_of(verified["health"])
        _print_verification(verified, findings)
        takeover = " --takeover" if any(finding.fix is Fix.TAKE_BACK for finding in findings) else ""
        if any(finding.steps for finding in findings):
            repairing = command_line(f"repair {found['id']}{takeover}")
            print_line(f"Repair it: {repairing}", err=True)
    sys.exit(EXIT_OK if verified["success"] else EXIT_ATTENTION)


def _print_verification(verified: Row, findings: Sequence[Finding]) -> None:
    """Print first whether calls fail, then which part of the path it is, then each finding with what to do."""
    failed = failed_checks(findings)
    print_result(verdict_line(findings))
    for name in (check["name"] for check in verified["checks"]):
        marks = {Severity.CRITICAL: Text("✗", BAD), Severity.WARNING: Text("!", WARNING)}
        print_result(marks[worst_first(failed[name])[0].severity] if name in failed else Text("✓", GOOD), name)
    print_findings(findings)


@click.command("repair")
@agent_argument
@click.option("--takeover", is_flag=True, help="Take the number back from somebody else's trunk or application.")
@wait_option
@json_option
@user_command
def repair(agent: str, takeover: bool, wait: bool, is_json: bool) -> None:
    """Repair what is missing or changed in the path of AGENT.

    The rest of the path is left alone, and so is what is not ours: where calls fail because of that, it is named.

    Exit code 0: repaired, or nothing to repair; 1: refused or failed; 3: it needs attention.
    """
    found = find_agent(agent)
    with progress_console().status("Reading from both providers"):
        response = client().post(f"/api/agents/{found['id']}/repair", {"takeover": takeover})
    if "operationId" in response:
        finish_operation(response["operationId"], wait=wait, is_json=is_json, done=lambda: _repaired(found))
    elif is_json:
        print_json(response)
    else:
        print_line(response["message"])


def _repaired(agent: Row) -> str:
    """Return what to say after a repair: what it cannot change is left to a person."""
    findings = findings_of(_phone_of(agent)["health"])
    left = [one for one in findings if not one.steps and one.severity is not Severity.FOREIGN]
    return " ".join(["The path was repaired.", *(one.instruction for one in left)])
