"""`audit`: compares every row with both providers and prints the report."""

import json
import sys

import click
from flask.cli import with_appcontext
from rich.table import Table

from app.cli.context import EXIT_ATTENTION, EXIT_FAILED, EXIT_OK, json_option, origin, user_command, wiring
from app.cli.output import command_error, print_line, print_result, progress_console
from app.db.models import Audit
from app.domain.findings import AuditStatus

FIXED_PREFIXES = ("repair ", "deleted")
"""How `fixed` starts where a finding was fixed or queued for repair."""


def report_as_json(report: Audit) -> str:
    """Return the report as JSON, in the format of `GET /api/audit`."""
    times = {"createdAt": report.created_at, "startedAt": report.started_at, "finishedAt": report.finished_at}
    return json.dumps(
        {
            "id": str(report.id),
            "status": report.status,
            "fix": report.fix,
            **{name: time.isoformat() if time else None for name, time in times.items()},
            "agentsChecked": report.agents_checked,
            "findings": report.findings,
            "requestedBy": report.requested_by,
            "error": report.error_detail,
        }
    )


def print_report(report: Audit) -> None:
    """Print the report for a person."""
    if report.status is not AuditStatus.DONE:
        print_line(f"The audit failed: {report.error_detail}", err=True)
        return
    if report.findings:
        table = Table("severity", "finding", "agent", "resource", "what was done" if report.fix else "fix")
        for finding in report.findings:
            resource = finding["resource"] or {}
            done = finding["fixed"] or "nothing" if report.fix else finding["fix"]
            sentence = f"{finding['code']}: {finding['sentence']} {finding['detail']}".strip()
            table.add_row(finding["severity"], sentence, finding["agentId"] or "", resource.get("id", ""), done)
        print_result(table)
    print_line(f"{report.agents_checked} agents checked, {len(report.findings)} findings.")


def exit_code(report: Audit) -> int:
    """Return 0 if everything is in sync or fixed, 3 if drift is left, 1 if the audit failed."""
    if report.status is not AuditStatus.DONE:
        return EXIT_FAILED
    left = [finding for finding in report.findings if not str(finding["fixed"]).startswith(FIXED_PREFIXES)]
    return EXIT_ATTENTION if left else EXIT_OK


@click.command("audit")
@click.option("--fix", is_flag=True, help="Queue repairs, and delete our orphaned resources.")
@json_option
@with_appcontext
@user_command
def audit(fix: bool, is_json: bool) -> None:
    """Compare every row with both providers now.

    Exit code 0: in sync, or every finding was fixed or queued for repair; 3: configuration drift is left; 1: the audit
    failed.
    """
    audit_id = wiring().audits.request_audit(fix=fix, origin=origin())
    with progress_console().status("Comparing every row with both providers"):
        report = wiring().audits.run_audit(audit_id)
    if report is None:
        raise command_error("A worker took over this audit: see GET /api/audit.")
    if is_json:
        print_line(report_as_json(report))
    else:
        print_report(report)
    sys.exit(exit_code(report))
