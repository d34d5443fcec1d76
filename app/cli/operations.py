"""`operations`: what runs and what ran; re-enqueue by hand."""

import click
from flask.cli import AppGroup

from app.api.operation_schemas import OperationOut, OperationPage
from app.cli.agents import limited
from app.cli.context import as_json, for_people, origin, reader, wiring
from app.cli.output import coloured, moment, print_json, print_table, short, tell
from app.cli.phones import finish
from app.cli.progress import NEVER
from app.cli.references import agent_named, operation_named
from app.cli.shown import show_operation
from app.domain.statuses import OperationStatus

operations = AppGroup("operations", help="Operations: list, show, retry.")


@operations.command("list")
@click.option("--status", type=click.Choice([status.value for status in OperationStatus]), help="Only those in it.")
@click.option("--agent", help="Only those of this agent: id or name.")
@limited
@as_json
@for_people
def list_operations(status: str | None, agent: str | None, limit: int, is_json: bool) -> None:
    """List what runs and what ran, the newest first."""
    agent_id = agent_named(agent).id if agent else None
    page = reader().operations(limit=limit, status=OperationStatus(status) if status else None, agent_id=agent_id)
    if is_json:
        print_json({"items": page.items, "next_cursor": page.next_cursor}, OperationPage())
        return
    if not page.items:
        tell("There are none.", err=True)
        return
    rows = [
        (
            short(one.row.id),
            one.row.kind.value,
            coloured(one.row.status),
            one.row.phone_number,
            moment(one.row.created_at),
            one.row.error_code or one.current_step or "",
        )
        for one in page.items
    ]
    print_table(("operation", "kind", "status", "number", "asked for (UTC)", "at"), rows)
    if page.next_cursor:
        tell(f"There are more: --limit {limit * 2}", err=True)


@operations.command("show")
@click.argument("operation_id")
@as_json
@for_people
def show(operation_id: str, is_json: bool) -> None:
    """Show one operation: its steps, and its trail."""
    view = reader().operation(operation_named(operation_id))
    if is_json:
        print_json(view, OperationOut())
    else:
        show_operation(view, with_timeline=True)


@operations.command("retry")
@click.argument("operation_id")
@click.option("--wait/--no-wait", default=False, show_default=True, help="Stay until it is over.")
@as_json
@for_people
def retry(operation_id: str, wait: bool, is_json: bool) -> None:
    """Queue an open operation again; start a failed or cancelled provisioning afresh."""
    before = reader().operation(operation_named(operation_id))
    operation = wiring().provisioning.retry(before.row.id, origin=origin())
    tried = before.attempts if operation.id == before.row.id else NEVER
    finish(operation, wait=wait, is_json=is_json, done=f"Operation {operation.id} succeeded.", tried=tried)
