"""`operations`, `activity` and `audit`: operations, the activity log and the audit."""

import sys
import time
import uuid
from collections.abc import Sequence
from http import HTTPStatus

import click
from rich.text import Text

from app.cli.agents import limit_option
from app.cli.client import client
from app.cli.context import (
    EXIT_ATTENTION,
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    Row,
    find_agent,
    find_operation_id,
    json_option,
    user_command,
)
from app.cli.output import (
    BAD,
    GOOD,
    coloured,
    format_time,
    print_json,
    print_line,
    print_result,
    print_table,
    progress_console,
    short_id,
)
from app.cli.phones import finish_operation
from app.cli.progress import NO_ATTEMPTS, findings_of, print_findings, read_operation, show_operation
from app.domain.findings import AuditStatus, Finding, Health, all_calls_in_words, failing_callers, health_of
from app.domain.operations import OperationStatus

AUDIT_POLL_S = 1.0
"""Seconds between two looks at an audit, which takes seconds to minutes."""

MAX_NAMES = 50
"""Agents whose names are looked up for the findings of an audit, a request each; of others the ids are shown."""

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
    agent_id = find_agent(agent)["id"] if agent else None
    items, last = client().pages("/api/operations", limit, status=status, agentId=agent_id)
    if is_json:
        print_json({**last, "items": items})
        return
    if not items:
        print_line("No operations.", err=True)
        return
    rows = [
        (
            short_id(one["id"]),
            one["kind"],
            coloured(one["status"]),
            one["phoneNumber"],
            format_time(one["createdAt"]),
            (one["error"]["code"] if one["error"] else one["currentStep"]) or "",
        )
        for one in items
    ]
    print_table(("operation", "kind", "status", "number", "requested (UTC)", "at"), rows)
    if last["nextCursor"]:
        print_line(f"There are more: use --limit {limit * 2}", err=True)


@operations.command("show")
@click.argument("operation_id")
@json_option
@user_command
def show(operation_id: str, is_json: bool) -> None:
    """Show one operation: its steps and its event log."""
    operation = read_operation(find_operation_id(operation_id))
    if is_json:
        print_json(operation)
    else:
        show_operation(operation, with_events=True)


@operations.command("retry")
@click.argument("operation_id")
@click.option("--wait/--no-wait", default=False, show_default=True, help="Wait until it has finished.")
@json_option
@user_command
def retry(operation_id: str, wait: bool, is_json: bool) -> None:
    """Queue an open operation again, or start a new one after a failed or cancelled provisioning."""
    before = read_operation(find_operation_id(operation_id))
    retried = client().post(f"/api/operations/{before['id']}/retry")["operationId"]
    finish_operation(
        retried,
        wait=wait,
        is_json=is_json,
        done=f"Operation {retried} succeeded.",
        attempts_before=before["attempts"] if retried == before["id"] else NO_ATTEMPTS,
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
    items, last = client().pages("/api/activity", limit, subjectId=about)
    if is_json:
        print_json({**last, "items": items})
        return
    if not items:
        print_line("No activity.", err=True)
        return
    columns = ("time (UTC)", "actor", "channel", "address", "action", "workspace", "subject", "request")
    print_table(columns, [_as_cells(row) for row in items])
    if last["nextCursor"]:
        print_line(f"There are more: use --limit {limit * 2}", err=True)


def _as_cells(row: Row) -> tuple[str, ...]:
    return (
        format_time(row["at"]),
        row["actor"] or "anonymous",
        row["channel"],
        row["address"] or "",
        row["action"],
        row["workspace"] or "",
        short_id(row["subjectId"]) or str(row["detail"].get("reason", "")),
        row["requestId"] or "",
    )


@click.command("audit")
@click.option("--fix", is_flag=True, help="Queue repairs, and delete our orphaned resources.")
@json_option
@user_command
def audit(fix: bool, is_json: bool) -> None:
    """Compare every row with both providers now.

    Exit code 0: in sync, or every drift was fixed or queued for repair; 3: configuration drift is left; 1: the audit
    failed.
    """
    audit_id = client().post("/api/audit", {"fix": fix})["auditId"]
    with progress_console().status("Comparing every row with both providers"):
        if client().is_local:
            from app.cli.installation import run_audit  # noqa: PLC0415  # what brings the database is imported here

            run_audit(audit_id)
        report = _finished(audit_id)
    if is_json:
        print_json(report)
    else:
        _print_audit(report)
    sys.exit(_exit_code(report))


def _finished(audit_id: str) -> Row:
    """Return the audit once it has ended; on Ctrl-C exit with 130."""
    place = f"/api/audit/{audit_id}"
    try:
        while not (report := dict(client().get(place)))["finishedAt"]:
            time.sleep(AUDIT_POLL_S)
    except KeyboardInterrupt:
        print_line(f"The audit continues: see GET {place}", err=True)
        sys.exit(EXIT_INTERRUPTED)
    return report


def _print_audit(report: Row) -> None:
    """Print the report for a person."""
    if report["status"] != AuditStatus.DONE:
        print_line(f"The audit failed: {report['error']}", err=True)
        return
    if report["error"]:
        print_line(report["error"], err=True)
    findings = findings_of(report)
    print_result(Text(all_calls_in_words(findings), BAD if failing_callers(findings) else GOOD))
    print_findings(findings, _names_of(findings))
    print_line(f"{report['agentsChecked']} agents checked, {len(findings)} findings.")


def _names_of(findings: Sequence[Finding]) -> dict[str, str]:
    """Return the names of the agents that findings concern, by id, as far as they still exist."""
    names = {}
    for agent_id in list(dict.fromkeys(one.agent_id for one in findings if one.agent_id))[:MAX_NAMES]:
        response = client().request("GET", f"/api/agents/{agent_id}", accepted=(HTTPStatus.NOT_FOUND,))
        if response.status == HTTPStatus.OK:
            names[agent_id] = str(response.body["name"])
    return names


def _exit_code(report: Row) -> int:
    """Return 0 if everything is in sync or fixed, 3 if drift is left, 1 if the audit failed.

    What is someone else's is no drift.
    """
    if report["status"] != AuditStatus.DONE:
        return EXIT_FAILED
    left = [one for one in findings_of(report) if not one.is_fixed]
    return EXIT_ATTENTION if health_of(left) is Health.DRIFTED else EXIT_OK
