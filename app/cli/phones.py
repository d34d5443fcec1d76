"""`provision`, `status`, `deprovision`, `move`, `verify`, `repair`, `numbers`: one number, watched while it changes."""

import sys
from typing import Any

import click
from flask.cli import AppGroup, with_appcontext
from rich.text import Text

from app.cli.context import (
    ATTENTION,
    DONE,
    FAILED,
    PhoneNumber,
    agent_named,
    as_json,
    for_people,
    hint,
    origin,
    reader,
    wiring,
)
from app.cli.output import coloured, confirm, print_json, print_table, progress_console, say, short, tell
from app.cli.progress import NEVER, exit_code, is_over, show_operation, show_phone, watch
from app.db.models import Agent, Operation
from app.domain.findings import Health
from app.domain.statuses import OperationKind, OperationStatus, PhoneStatus
from app.numbers.dry_run import Preview
from app.numbers.inventory import NumberUse, OwnedNumber
from app.numbers.service import OpenedOperation
from app.views.operation_schemas import OperationOut, PhoneOut, PlanOut, VerifiedOut
from app.views.operations import OperationView, PhoneView
from app.views.reports import plan_body, verification_body

NOUNS = {
    OperationKind.PROVISION: "provisioning",
    OperationKind.DEPROVISION: "deprovisioning",
    OperationKind.REPAIR: "repair",
    OperationKind.MOVE: "move",
}

agent_argument = click.argument("agent")
waits = click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until it has finished.")
takes_over = click.option(
    "--takeover", is_flag=True, help="Take over a number that is on another trunk or application."
)


@click.command("number")
@agent_argument
@click.argument("number", type=PhoneNumber())
@takes_over
@click.option("--dry-run", is_flag=True, help="Preview: show the calls and the obstacles; read-only.")
@waits
@as_json
@with_appcontext
@for_people
def provision_number(agent: str, number: str, takeover: bool, dry_run: bool, wait: bool, is_json: bool) -> None:
    """Connect NUMBER, as +15145551234, to AGENT.

    Exit code 0: the number is connected, or was queued with --no-wait; 1: refused, or failed and rolled back; 3: it
    needs attention; 130: interrupted.
    """
    found = agent_named(agent)
    if dry_run:
        with progress_console().status("Reading from both providers"):
            preview = wiring().planning.preview(found.id, number, takeover=takeover)
        _finish_plan(preview, is_json=is_json)
    operation = wiring().provisioning.provision(found.id, number, takeover=takeover, origin=origin())
    finish(operation, wait=wait, is_json=is_json, done=f"{number} is connected to {found.name}.")


@click.command("status")
@agent_argument
@click.option(
    "--watch", "is_watching", is_flag=True, help="Wait while an operation is in progress, and show its steps."
)
@as_json
@with_appcontext
@for_people
def status(agent: str, is_watching: bool, is_json: bool) -> None:
    """Show the number of AGENT: path, health and operation.

    Exit code 0: in sync, or in progress; 1: it failed; 3: it needs attention, or has drifted; 130: interrupted.
    """
    view = reader().phone(agent_named(agent).id)
    if is_watching and view.operation and not is_over(view.operation):
        watch(view.operation.id, is_quiet=is_json)
        view = reader().phone(view.agent.id)
    if is_json:
        print_json(view, PhoneOut())
    else:
        show_phone(view)
    sys.exit(_status_code(view))


@click.command("deprovision")
@agent_argument
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@waits
@as_json
@with_appcontext
@for_people
def deprovision(agent: str, yes: bool, wait: bool, is_json: bool) -> None:
    """Disconnect the number of AGENT.

    Cancels a provisioning that is in progress, and clears a failure.

    Exit code 0: it has no number, or was queued with --no-wait; 1: refused; 3: it needs attention.
    """
    found = agent_named(agent)
    if found.twilio_phone_number and not yes:
        question = f"Disconnect {found.twilio_phone_number} from {found.name}? Its calls will no longer be answered."
        confirm(question)
    operation = wiring().provisioning.deprovision(found.id, origin=origin())
    if operation is None:
        _tell_without(found, is_json=is_json)
        return
    wanted = OperationStatus.SUCCEEDED if operation.kind is OperationKind.DEPROVISION else OperationStatus.CANCELLED
    finish(operation, wait=wait, is_json=is_json, done=f"{found.name} no longer has a number.", wanted=wanted)


@click.command("move")
@agent_argument
@click.argument("to_agent")
@waits
@as_json
@with_appcontext
@for_people
def move(agent: str, to_agent: str, wait: bool, is_json: bool) -> None:
    """Move the number of AGENT to TO_AGENT.

    Callers always reach one of the two. Exit codes as for provision.
    """
    source, target = agent_named(agent), agent_named(to_agent)
    operation = wiring().maintenance.move(source.id, target.id, origin=origin())
    finish(operation, wait=wait, is_json=is_json, done=f"{operation.phone_number} is connected to {target.name}.")


def finish(
    operation: Operation | OpenedOperation,
    *,
    wait: bool,
    is_json: bool,
    done: str,
    wanted: OperationStatus = OperationStatus.SUCCEEDED,
    tried: int = NEVER,
) -> None:
    """Watch an operation to its end if wanted, say how it ended, and exit."""
    view = watch(operation.id, is_quiet=is_json, tried=tried) if wait else reader().operation(operation.id)
    if is_json:
        print_json(view, OperationOut())
    elif view.status is wanted:
        say(Text(done, "green"))
    elif is_over(view):
        _tell_failure(view)
    else:
        tell(f"Operation {view.id} is {view.status}.")
        tell(f"Watch it: {hint(f'status {view.agent_id} --watch')}", err=True)
    sys.exit(exit_code(view, wanted))


def _tell_failure(view: OperationView) -> None:
    if view.status is OperationStatus.NEEDS_ATTENTION:
        show_operation(view)
        return
    ended = "was cancelled" if view.status is OperationStatus.CANCELLED else "failed"
    why = f" {view.error.detail} ({view.error.code})" if view.error else ""
    left = " Nothing is left at either provider." if view.kind is OperationKind.PROVISION else ""
    tell(f"Error: the {NOUNS[view.kind]} {ended}.{why}{left}", err=True)


def _tell_without(agent: Agent, *, is_json: bool) -> None:
    if is_json:
        print_json({"success": True, "message": "The agent has no number."})
    else:
        tell(f"{agent.name} has no number.")


def _finish_plan(preview: Preview, *, is_json: bool) -> None:
    if is_json:
        print_json(plan_body(preview), PlanOut())
    else:
        calls = [(call.step, call.provider, call.method, call.path) for call in preview.calls]
        print_table(("step", "provider", "", "path"), calls)
        say("")
        for obstacle in preview.obstacles:
            word = Text("blocks", "red") if obstacle.blocks else Text("note", "yellow")
            say(word, f"{obstacle.detail} ({obstacle.code})")
        free = max(preview.trunks_limit - preview.trunks_used, 0)
        verdict = "No obstacles." if preview.would_succeed else "It would fail."
        tell(f"{free} of {preview.trunks_limit} trunks are free. {verdict}")
    sys.exit(DONE if preview.would_succeed else FAILED)


def _status_code(view: PhoneView) -> int:
    if view.operation and view.operation.status is OperationStatus.NEEDS_ATTENTION:
        return ATTENTION
    if view.has_phone and view.agent.health_state is Health.DRIFTED:
        return ATTENTION
    return FAILED if view.agent.phone_provisioning_status is PhoneStatus.FAILED else DONE


HELP = {
    NumberUse.TRUNK: "on another trunk: use --takeover",
    NumberUse.APPLICATION: "on an application: use --takeover",
    NumberUse.NO_VOICE: "no voice capability",
}
"""What a use means for whoever looks for a number."""

numbers = AppGroup("numbers", help="The numbers of the Twilio account.")


@numbers.command("list")
@click.option("--free", "only_free", is_flag=True, help="Only free numbers.")
@as_json
@for_people
def list_numbers(only_free: bool, is_json: bool) -> None:
    """List the numbers of the Twilio account, and what each is used for."""
    with progress_console().status("Reading from Twilio"):
        owned = wiring().inventory.numbers()
    shown = [one for one in owned if not only_free or one.use is NumberUse.FREE]
    if is_json:
        print_json([_as_json(one) for one in shown])
        return
    if not owned:
        tell("The account has no numbers: buy one in the Twilio console.", err=True)
        return
    print_table(
        ("number", "use", "", "Twilio sid"),
        [(one.phone_number, coloured(one.use), _told(one), one.sid) for one in shown],
    )
    free = sum(one.use is NumberUse.FREE for one in owned)
    tell(f"{len(owned)} numbers, {free} free. Connect one: {hint('provision AGENT NUMBER')}", err=True)


def _told(one: OwnedNumber) -> str:
    return f"{one.agent_name} ({short(one.agent_id)})" if one.agent_id else HELP.get(one.use, "")


def _as_json(one: OwnedNumber) -> dict[str, Any]:
    agent = {"agentId": str(one.agent_id) if one.agent_id else None, "agentName": one.agent_name}
    return {"phoneNumber": one.phone_number, "sid": one.sid, "use": one.use.value, **agent}


@click.command("verify")
@agent_argument
@as_json
@with_appcontext
@for_people
def verify(agent: str, is_json: bool) -> None:
    """Compare the path of AGENT with both providers.

    Exit code 0: in sync; 3: configuration drift; 1: it has no number, or a provider could not be read.
    """
    found = agent_named(agent)
    with progress_console().status("Reading from both providers"):
        body = verification_body(wiring().maintenance.verify(found.id))
    if is_json:
        print_json(body, VerifiedOut())
    else:
        for check in body["checks"]:
            mark = Text("✓", "green") if check["ok"] else Text("✗", "red")
            say(mark, f"{check['name']:<22} {check['detail'] or ''}".rstrip())
        if not body["success"]:
            tell(f"Fix it with: {hint(f'repair {found.id}')}", err=True)
    sys.exit(DONE if body["success"] else ATTENTION)


@click.command("repair")
@agent_argument
@click.option("--takeover", is_flag=True, help="Take the number back from somebody else's trunk or application.")
@waits
@as_json
@with_appcontext
@for_people
def repair(agent: str, takeover: bool, wait: bool, is_json: bool) -> None:
    """Repair what is missing or changed in the path of AGENT.

    The rest of the path is left alone.

    Exit code 0: in sync; 1: refused or failed; 3: it needs attention.
    """
    found = agent_named(agent)
    with progress_console().status("Reading from both providers"):
        operation = wiring().maintenance.repair(found.id, takeover=takeover, origin=origin())
    if operation is not None:
        finish(operation, wait=wait, is_json=is_json, done="The path was repaired.")
    elif is_json:
        print_json({"success": True, "message": "Nothing to repair."})
    else:
        tell("Nothing to repair.")
