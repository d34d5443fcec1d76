"""The commands on one number: `provision`, `status`, `deprovision`, `move`, `verify` and `repair`."""

import sys
from typing import TYPE_CHECKING

import click
from rich.text import Text

from app.cli.context import (
    EXIT_ATTENTION,
    EXIT_FAILED,
    EXIT_OK,
    PhoneNumber,
    command_line,
    find_agent,
    json_option,
    origin,
    reader,
    takeover_hint,
    user_command,
    wiring,
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
    is_settled,
    print_findings,
    show_operation,
    show_phone,
    verdict_line,
    watch_operation,
)
from app.db.models import Agent, Operation
from app.domain.findings import Fix, Health, Severity, failed_checks, worst_first
from app.domain.operations import OperationKind, OperationStatus, PathChoice, PhoneStatus
from app.views.operation_schemas import OperationOut, PhoneOut, PlanOut, VerifiedOut
from app.views.operations import (
    OperationView,
    PhoneView,
    adopted_of,
    plan_body,
    repair_message,
    trunk_in_words,
    verification_body,
)

if TYPE_CHECKING:
    from app.numbers.dry_run import Preview
    from app.numbers.maintenance import VerifyResult
    from app.numbers.service import OpenedOperation

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
    if dry_run:
        with progress_console().status("Reading from both providers"):
            preview = wiring().planning.preview(found.id, number, takeover=takeover)
        _finish_preview(preview, is_json=is_json)
    operation = wiring().provisioning.provision(found.id, number, takeover=takeover, origin=origin())
    finish_operation(operation, wait=wait, is_json=is_json, done=f"{number} is connected to {found.name}.")


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
    view = reader().phone(find_agent(agent).id)
    if is_watching and view.operation and not is_settled(view.operation):
        watch_operation(view.operation.id, is_quiet=is_json)
        view = reader().phone(view.agent.id)
    if is_json:
        print_json(view, PhoneOut())
    else:
        show_phone(view)
    sys.exit(_status_exit_code(view))


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
    is_whole = found.phone_provisioning_status is PhoneStatus.PROVISIONED
    if is_whole and adopted_of(found) and path is None and not yes:
        question = f"The path of {found.twilio_phone_number} was adopted: keep it as it was found, or remove it?"
        path = choose(question, [one.value for one in PathChoice])
    if found.twilio_phone_number and not yes:
        ends = (
            f"It will ring as before {found.name} had it."
            if path == PathChoice.KEEP
            else "Its calls will no longer be answered."
        )
        confirm(f"Disconnect {found.twilio_phone_number} from {found.name}? {ends}")
    choice = PathChoice(path) if path else None
    operation = wiring().provisioning.deprovision(found.id, origin=origin(), path=choice)
    if operation is None:
        _print_no_number(found, is_json=is_json)
        return
    wanted = OperationStatus.SUCCEEDED if operation.kind is OperationKind.DEPROVISION else OperationStatus.CANCELLED
    finish_operation(operation, wait=wait, is_json=is_json, done=f"{found.name} no longer has a number.", wanted=wanted)


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
    operation = wiring().maintenance.move(source.id, target.id, origin=origin())
    finish_operation(
        operation, wait=wait, is_json=is_json, done=f"{operation.phone_number} is connected to {target.name}."
    )


def finish_operation(
    operation: "Operation | OpenedOperation",
    *,
    wait: bool,
    is_json: bool,
    done: str,
    wanted: OperationStatus = OperationStatus.SUCCEEDED,
    attempts_before: int = NO_ATTEMPTS,
) -> None:
    """Watch an operation until it is settled if `wait`, print the result, and exit."""
    view = (
        watch_operation(operation.id, is_quiet=is_json, attempts_before=attempts_before)
        if wait
        else reader().operation(operation.id)
    )
    if is_json:
        print_json(view, OperationOut())
    elif view.status is wanted:
        print_result(Text(done, "green"))
        for warning in view.warnings:
            print_line(f"Warning: {warning.detail}", err=True)
    elif is_settled(view):
        _print_failure(view)
    else:
        print_line(f"Operation {view.id} is {view.status}.")
        print_line(f"Watch it: {command_line(f'status {view.agent_id} --watch')}", err=True)
    sys.exit(exit_code(view, wanted))


def _print_failure(view: OperationView) -> None:
    if view.status is OperationStatus.NEEDS_ATTENTION:
        show_operation(view)
        return
    ended = "was cancelled" if view.status is OperationStatus.CANCELLED else "failed"
    why = f" {view.error.detail} ({view.error.code})" if view.error else ""
    left = " Nothing is left at either provider." if view.kind is OperationKind.PROVISION else ""
    hint = takeover_hint(view.error.code) if view.error else ""
    print_line(f"Error: the {KIND_NAMES[view.kind]} {ended}.{why}{left}{hint}", err=True)


def _print_no_number(agent: Agent, *, is_json: bool) -> None:
    if is_json:
        print_json({"success": True, "message": "The agent has no number."})
    else:
        print_line(f"{agent.name} has no number.")


def _finish_preview(preview: "Preview", *, is_json: bool) -> None:
    if is_json:
        print_json(plan_body(preview), PlanOut())
    else:
        calls = [(call.step, call.provider, call.method, call.path) for call in preview.calls]
        print_table(("step", "provider", "", "path"), calls)
        print_result("")
        for obstacle in preview.obstacles:
            label = Text("blocks", "red") if obstacle.blocks else Text("note", "yellow")
            hint = takeover_hint(obstacle.code) if obstacle.blocks else ""
            print_result(label, f"{obstacle.detail} ({obstacle.code}){hint}")
        print_line(f"{trunk_in_words(preview.trunk)}.")
        free = max(preview.trunks_limit - preview.trunks_used, 0)
        conclusion = "No obstacles." if preview.would_succeed else "It would fail."
        print_line(f"{free} of {preview.trunks_limit} trunks are free. {conclusion}")
    sys.exit(EXIT_OK if preview.would_succeed else EXIT_FAILED)


def _status_exit_code(view: PhoneView) -> int:
    if view.operation and view.operation.status is OperationStatus.NEEDS_ATTENTION:
        return EXIT_ATTENTION
    if view.has_phone and view.agent.health_state is Health.DRIFTED:
        return EXIT_ATTENTION
    return EXIT_FAILED if view.agent.phone_provisioning_status is PhoneStatus.FAILED else EXIT_OK


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
        result = wiring().maintenance.verify(found.id)
    body = verification_body(result)
    if is_json:
        print_json(body, VerifiedOut())
    else:
        _print_verification(result)
        takeover = " --takeover" if any(finding.fix is Fix.TAKE_BACK for finding in result.findings) else ""
        if any(finding.steps for finding in result.findings):
            print_line(f"Repair it: {command_line(f'repair {found.id}{takeover}')}", err=True)
    sys.exit(EXIT_OK if body["success"] else EXIT_ATTENTION)


def _print_verification(result: "VerifyResult") -> None:
    """Print first whether calls fail, then which part of the path it is, then each finding with what to do."""
    failed = failed_checks(result.findings)
    print_result(verdict_line(result.findings))
    for name in result.checks:
        marks = {Severity.CRITICAL: Text("✗", BAD), Severity.WARNING: Text("!", WARNING)}
        print_result(marks[worst_first(failed[name])[0].severity] if name in failed else Text("✓", GOOD), name)
    print_findings(result.findings)


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
        result = wiring().maintenance.repair(found.id, takeover=takeover, origin=origin())
    if result.operation is not None:
        done = repair_message(result, "The path was repaired.")
        finish_operation(result.operation, wait=wait, is_json=is_json, done=done)
        return
    message = repair_message(result, "Nothing to repair.")
    if is_json:
        print_json({"success": True, "message": message})
    else:
        print_line(message)
