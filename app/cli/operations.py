"""`operations`, `activity`, `audit` and `sweep`: operations, the activity log, the audit and the sweeper's process."""

import json
import signal
import sys
import threading
import uuid

import click
from rich.text import Text

from app.cli.agents import limit_option
from app.cli.context import (
    EXIT_ATTENTION,
    EXIT_FAILED,
    EXIT_OK,
    find_agent,
    find_operation_id,
    json_option,
    one_line_errors,
    origin,
    reader,
    user_command,
    wiring,
)
from app.cli.output import (
    BAD,
    GOOD,
    coloured,
    command_error,
    format_time,
    print_json,
    print_line,
    print_result,
    print_table,
    progress_console,
    short_id,
)
from app.cli.phones import finish_operation
from app.cli.progress import NO_ATTEMPTS, print_findings, show_operation
from app.db.access import Activity
from app.db.console_queries import names_of
from app.db.models import Audit
from app.domain.findings import AuditStatus, Health, failing_callers, health_of, stored_finding
from app.domain.operations import OperationStatus
from app.views.operation_schemas import OperationOut, OperationPage
from app.views.operations import all_calls_in_words
from app.views.team_schemas import ActivityPage, workspace_slug

operations = click.Group("operations", help="Operations: list, show, retry.")


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
@click.option(
    "--about", type=click.UUID, help="Only changes to this agent, operation, bulk, webhook, key or workspace."
)
@limit_option
@json_option
@user_command
def activity(about: uuid.UUID | None, limit: int, is_json: bool) -> None:
    """List changes, sign-ins and refusals, and who made them, newest first."""
    page = reader().activity(subject_id=about, limit=limit)
    if is_json:
        print_json({"items": page.items, "next_cursor": page.next_cursor}, ActivityPage())
        return
    if not page.items:
        print_line("No activity.", err=True)
        return
    columns = ("time (UTC)", "actor", "channel", "address", "action", "workspace", "subject", "request")
    print_table(columns, [_as_cells(row) for row in page.items])
    if page.next_cursor:
        print_line(f"There are more: use --limit {limit * 2}", err=True)


def _as_cells(row: Activity) -> tuple[str, ...]:
    who = row.actor or "anonymous"
    return (
        format_time(row.at),
        who,
        row.channel,
        row.address or "",
        row.action,
        workspace_slug(row) or "",
        short_id(row.subject_id) or str(row.detail.get("reason", "")),
        row.request_id or "",
    )


def audit_as_json(report: Audit) -> str:
    """Return the report as JSON, in the format of `GET /api/audit`."""
    times = {"createdAt": report.created_at, "startedAt": report.started_at, "finishedAt": report.finished_at}
    return json.dumps(
        {
            "id": str(report.id),
            "status": report.status,
            "fix": report.fix,
            **{name: time.isoformat() if time else None for name, time in times.items()},
            "agentsChecked": report.agents_checked,
            "findings": [{"callers": None, **finding} for finding in report.findings],
            "requestedBy": report.requested_by,
            "error": report.error_detail,
        }
    )


def print_audit(report: Audit) -> None:
    """Print the report for a person."""
    if report.status is not AuditStatus.DONE:
        print_line(f"The audit failed: {report.error_detail}", err=True)
        return
    if report.error_detail:
        print_line(report.error_detail, err=True)
    findings = [stored_finding(one) for one in report.findings]
    print_result(Text(all_calls_in_words(findings), BAD if failing_callers(findings) else GOOD))
    with wiring().sessions() as session:
        names = names_of(session, {uuid.UUID(finding.agent_id) for finding in findings if finding.agent_id})
    print_findings(findings, names)
    print_line(f"{report.agents_checked} agents checked, {len(findings)} findings.")


def audit_exit_code(report: Audit) -> int:
    """Return 0 if everything is in sync or fixed, 3 if drift is left, 1 if the audit failed.

    What is someone else's is no drift.
    """
    if report.status is not AuditStatus.DONE:
        return EXIT_FAILED
    left = [one for one in map(stored_finding, report.findings) if not one.is_fixed]
    return EXIT_ATTENTION if health_of(left) is Health.DRIFTED else EXIT_OK


@click.command("audit")
@click.option("--fix", is_flag=True, help="Queue repairs, and delete our orphaned resources.")
@json_option
@user_command
def audit(fix: bool, is_json: bool) -> None:
    """Compare every row with both providers now.

    Exit code 0: in sync, or every drift was fixed or queued for repair; 3: configuration drift is left; 1: the audit
    failed.
    """
    audit_id = wiring().audits.request_audit(fix=fix, origin=origin())
    with progress_console().status("Comparing every row with both providers"):
        report = wiring().audits.run_audit(audit_id)
    if report is None:
        raise command_error("A worker took over this audit: see GET /api/audit.")
    if is_json:
        print_line(audit_as_json(report))
    else:
        print_audit(report)
    sys.exit(audit_exit_code(report))


@click.command("sweep")
@one_line_errors
def sweep() -> None:
    """Publish operations whose message was lost, until stopped."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    wiring().sweeper.run(stop)
    wiring().close()
