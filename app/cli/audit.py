"""`flask audit`: one comparison of every row with both providers, at the terminal."""

import json
import sys

import click
from flask.cli import with_appcontext
from rich.table import Table

from app.cli.context import as_json, for_people, origin, wiring
from app.cli.output import failure, progress_console, say, tell
from app.db.models import Audit
from app.domain.findings import AuditStatus

IN_SYNC, NOT_AUDITED, DRIFT_LEFT = 0, 1, 3
"""Exit codes; 2 is click's own, for a command line that it cannot read."""

DONE = ("repair ", "deleted")
"""How `fixed` begins where something was done about a finding."""


def as_text(report: Audit) -> str:
    """Write the report as JSON, in the words of `GET /api/audit`."""
    times = {"createdAt": report.created_at, "startedAt": report.started_at, "finishedAt": report.finished_at}
    return json.dumps(
        {
            "id": str(report.id),
            "status": report.status,
            "fix": report.fix,
            **{name: moment.isoformat() if moment else None for name, moment in times.items()},
            "agentsChecked": report.agents_checked,
            "findings": report.findings,
            "requestedBy": report.requested_by,
            "error": report.error_detail,
        }
    )


def show(report: Audit) -> None:
    """Print the report for a person."""
    if report.status is not AuditStatus.DONE:
        tell(f"The audit failed: {report.error_detail}", err=True)
        return
    if report.findings:
        table = Table("severity", "finding", "agent", "resource", "what was done" if report.fix else "fix")
        for finding in report.findings:
            resource = finding["resource"] or {}
            done = finding["fixed"] or "nothing" if report.fix else finding["fix"]
            sentence = f"{finding['code']}: {finding['sentence']} {finding['detail']}".strip()
            table.add_row(finding["severity"], sentence, finding["agentId"] or "", resource.get("id", ""), done)
        say(table)
    tell(f"{report.agents_checked} agents checked, {len(report.findings)} findings.")


def exit_code(report: Audit) -> int:
    """Return 0 where nothing is left to do, 3 where drift is left, 1 where a provider could not be read."""
    if report.status is not AuditStatus.DONE:
        return NOT_AUDITED
    left = [finding for finding in report.findings if not str(finding["fixed"]).startswith(DONE)]
    return DRIFT_LEFT if left else IN_SYNC


@click.command("audit")
@click.option("--fix", is_flag=True, help="Queue repairs, and delete our orphaned resources.")
@as_json
@with_appcontext
@for_people
def audit(fix: bool, is_json: bool) -> None:
    """Compare every row with both providers now.

    Exit code 0: in sync, or every finding was fixed or queued for repair; 3: configuration drift is left; 1: the audit
    failed.
    """
    audit_id = wiring().audits.request_audit(fix=fix, origin=origin())
    with progress_console().status("Comparing every row with both providers"):
        report = wiring().audits.run_audit(audit_id)
    if report is None:
        raise failure("A worker took over this audit: see GET /api/audit.")
    if is_json:
        tell(as_text(report))
    else:
        show(report)
    sys.exit(exit_code(report))
