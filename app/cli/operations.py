"""`operations` and `activity`: what runs, what ran, and who asked for it."""

import uuid
from typing import Any

import click
from flask.cli import AppGroup, with_appcontext

from app.cli.agents import limited
from app.cli.context import agent_named, as_json, for_people, operation_named, origin, reader, wiring
from app.cli.output import coloured, moment, print_json, print_table, short, tell
from app.cli.phones import finish
from app.cli.progress import NEVER, show_operation
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
@limited
@as_json
@for_people
def list_operations(status: str | None, agent: str | None, limit: int, is_json: bool) -> None:
    """List operations, newest first."""
    agent_id = agent_named(agent).id if agent else None
    page = reader().operations(limit=limit, status=OperationStatus(status) if status else None, agent_id=agent_id)
    if is_json:
        print_json({"items": page.items, "next_cursor": page.next_cursor}, OperationPage())
        return
    if not page.items:
        tell("No operations.", err=True)
        return
    rows = [
        (
            short(one.id),
            one.kind.value,
            coloured(one.status),
            one.phone_number,
            moment(one.created_at),
            (one.error.code if one.error else one.current_step) or "",
        )
        for one in page.items
    ]
    print_table(("operation", "kind", "status", "number", "requested (UTC)", "at"), rows)
    if page.next_cursor:
        tell(f"There are more: use --limit {limit * 2}", err=True)


@operations.command("show")
@click.argument("operation_id")
@as_json
@for_people
def show(operation_id: str, is_json: bool) -> None:
    """Show one operation: its steps and its event log."""
    view = reader().operation(operation_named(operation_id))
    if is_json:
        print_json(view, OperationOut())
    else:
        show_operation(view, with_timeline=True)


@operations.command("retry")
@click.argument("operation_id")
@click.option("--wait/--no-wait", default=False, show_default=True, help="Wait until it has finished.")
@as_json
@for_people
def retry(operation_id: str, wait: bool, is_json: bool) -> None:
    """Queue an open operation again, or start a new one after a failed or cancelled provisioning."""
    before = reader().operation(operation_named(operation_id))
    operation = wiring().provisioning.retry(before.id, origin=origin())
    tried = before.attempts if operation.id == before.id else NEVER
    finish(operation, wait=wait, is_json=is_json, done=f"Operation {operation.id} succeeded.", tried=tried)


@click.command("activity")
@click.option("--about", type=click.UUID, help="Only changes to this agent, operation, bulk, webhook or key.")
@limited
@as_json
@with_appcontext
@for_people
def activity(about: uuid.UUID | None, limit: int, is_json: bool) -> None:
    """List changes, sign-ins and refusals, and who made them, newest first."""
    with wiring().sessions() as session:
        rows = list_activity(session, subject_id=about, limit=limit)
    if is_json:
        print_json({"items": [_as_json(row) for row in rows]})
        return
    if not rows:
        tell("No activity.", err=True)
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
        moment(row.at),
        who,
        row.channel,
        row.address or "",
        row.action,
        short(row.subject_id) or str(row.detail.get("reason", "")),
        row.request_id or "",
    )
