"""`operations` and `activity`: operations and their requesters, and the activity log."""

import uuid
from typing import Any

import click
from flask.cli import AppGroup, with_appcontext

from app.cli.agents import limit_option
from app.cli.context import find_agent, find_operation_id, json_option, origin, reader, user_command, wiring
from app.cli.output import coloured, format_time, print_json, print_line, print_table, short_id
from app.cli.phones import finish_operation
from app.cli.progress import NO_ATTEMPTS, show_operation
from app.db.access import Activity, list_activity
from app.domain.statuses import OperationStatus
from app.views.operation_schemas import OperationOut, OperationPage

operations = AppGroup("operations", help="Operations: list, show, retry.")


@operations.command("list")
@click.option(
    "--status",
    type=click.Choice([status.value for status in OperationStatus]),
    help="Only operations with this status.",
)
@click.option("--agent", help="Only operations of this agent: id or name.")
@limit_option
@json_option
@user_command
def list_operations(status: str | None, agent: str | None, limit: int, is_json: bool) -> None:
    """List operations, newest first."""
    agent_id = find_agent(agent).id if agent else None
    page = reader().operations(limit=limit, status=OperationStatus(status) if status else None, agent_id=agent_id)
    if is_json:
        print_json({"items": page.items, "next_cursor": page.next_cursor}, OperationPage())
        return
    if not page.items:
        print_line("No operations.", err=True)
        return
    rows = [
        (
            short_id(one.id),
            one.kind.value,
            coloured(one.status),
            one.phone_number,
            format_time(one.created_at),
            (one.error.code if one.error else one.current_step) or "",
        )
        for one in page.items
    ]
    print_table(("operation", "kind", "status", "number", "requested (UTC)", "at"), rows)
    if page.next_cursor:
        print_line(f"There are more: use --limit {limit * 2}", err=True)


@operations.command("show")
@click.argument("operation_id")
@json_option
@user_command
def show(operation_id: str, is_json: bool) -> None:
    """Show one operation: its steps and its event log."""
    view = reader().operation(find_operation_id(operation_id))
    if is_json:
        print_json(view, OperationOut())
    else:
        show_operation(view, with_events=True)


@operations.command("retry")
@click.argument("operation_id")
@click.option("--wait/--no-wait", default=False, show_default=True, help="Wait until it has finished.")
@json_option
@user_command
def retry(operation_id: str, wait: bool, is_json: bool) -> None:
    """Queue an open operation again, or start a new one after a failed or cancelled provisioning."""
    before = reader().operation(find_operation_id(operation_id))
    operation = wiring().provisioning.retry(before.id, origin=origin())
    attempts_before = before.attempts if operation.id == before.id else NO_ATTEMPTS
    finish_operation(
        operation,
        wait=wait,
        is_json=is_json,
        done=f"Operation {operation.id} succeeded.",
        attempts_before=attempts_before,
    )


@click.command("activity")
@click.option("--about", type=click.UUID, help="Only changes to this agent, operation, bulk, webhook or key.")
@limit_option
@json_option
@with_appcontext
@user_command
def activity(about: uuid.UUID | None, limit: int, is_json: bool) -> None:
    """List changes, sign-ins and refusals, and who made them, newest first."""
    with wiring().sessions() as session:
        rows = list_activity(session, subject_id=about, limit=limit)
    if is_json:
        print_json({"items": [_as_json(row) for row in rows]})
        return
    if not rows:
        print_line("No activity.", err=True)
        return
    columns = ("time (UTC)", "actor", "channel", "address", "action", "subject", "request")
    print_table(columns, [_as_cells(row) for row in rows])


def _as_json(row: Activity) -> dict[str, Any]:
    ids = {"subjectId": row.subject_id, "keyId": row.key_id}
    return {
        "at": row.at.isoformat(),
        "action": row.action,
        "channel": row.channel,
        "actor": row.actor,
        "address": row.address,
        "requestId": row.request_id,
        **{name: str(found) if found else None for name, found in ids.items()},
        "detail": row.detail,
    }


def _as_cells(row: Activity) -> tuple[str, ...]:
    who = row.actor or "anonymous"
    return (
        format_time(row.at),
        who,
        row.channel,
        row.address or "",
        row.action,
        short_id(row.subject_id) or str(row.detail.get("reason", "")),
        row.request_id or "",
    )
