"""`flask audit`: one comparison of every row with both providers, at the terminal."""

import sys

import click
from flask.cli import with_appcontext

from app.audit_report import as_text, exit_code, show
from app.cli.context import as_json, for_people, origin, wiring
from app.cli.output import failure, progress_console, tell


@click.command("audit")
@click.option("--fix", is_flag=True, help="Queue repairs, and delete what is ours and no row knows.")
@as_json
@with_appcontext
@for_people
def audit(fix: bool, is_json: bool) -> None:
    """Compare every row with both providers now.

    Exit code 0: in sync, or everything found was fixed or queued for repair; 3: drift that is left; 1: not audited.
    """
    audit_id = wiring().audits.ask(fix=fix, origin=origin())
    with progress_console().status("Comparing every row with both providers"):
        report = wiring().audits.run(audit_id)
    if report is None:
        raise failure("A worker took this audit over: see GET /api/audit.")
    if is_json:
        tell(as_text(report))
    else:
        show(report)
    sys.exit(exit_code(report))
