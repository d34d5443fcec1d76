"""`doctor`: checks settings, PostgreSQL, Redis, providers and processes, even if some settings are wrong."""

import logging
import sys
import uuid
from collections.abc import Sequence
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from app.accounts.checks import CheckOutcome, CheckStatus
from app.cli.context import EXIT_ATTENTION, EXIT_FAILED, EXIT_OK, json_option, server_command
from app.cli.doctor_checks import (
    PROCESS_CHECKS,
    STORE_CHECKS,
    CheckResult,
    CheckRun,
    read_settings,
    settings_results,
)
from app.cli.doctor_providers import PROVIDER_CHECKS
from app.cli.installation import wiring
from app.cli.output import print_json, print_result, progress_console
from app.domain.errors import account_not_found
from app.domain.workspaces import AccountKind
from app.observability.logs import configure
from app.saga.chain_plan import Plan
from app.wiring import build

CHECKS = (*STORE_CHECKS, *PROVIDER_CHECKS, *PROCESS_CHECKS)

MARKS = {
    CheckStatus.OK: ("✓", "green"),
    CheckStatus.WARNING: ("!", "yellow"),
    CheckStatus.FAILED: ("✗", "red"),
    CheckStatus.SKIPPED: ("·", "dim"),
}

NAME_WIDTH = 14
"""Columns: the length of the longest check name."""


class NullPublisher:
    """A publisher that queues nothing: the real one needs valid settings."""

    def publish(self, plan: Plan) -> bool:
        """Queue nothing."""
        del plan
        return False

    def publish_audit(self, audit_id: uuid.UUID) -> bool:
        """Queue nothing."""
        del audit_id
        return False

    def publish_call(self, call_id: uuid.UUID) -> bool:
        """Queue nothing."""
        del call_id
        return False

    def publish_retirement(self, trunk_id: uuid.UUID) -> bool:
        """Queue nothing."""
        del trunk_id
        return False

    def publish_adoptions(self, bulk_id: uuid.UUID) -> bool:
        """Queue nothing."""
        del bulk_id
        return False

    def publish_webhooks(self, endpoint_id: uuid.UUID) -> bool:
        """Queue nothing."""
        del endpoint_id
        return False


@click.command("doctor")
@click.option("--account", help="Check only the carrier account or voice project with this name or id.")
@json_option
@server_command
def doctor(account: str | None, is_json: bool) -> None:
    """Check this installation, and say how to fix what is wrong.

    Checks every setting, PostgreSQL and Redis, both providers and the processes. Read-only, but for one key in Redis
    that expires after a minute. Exit code 0: every check passed; 3: warnings; 1: failures.
    """
    results = _run_checks(is_quiet=is_json) if account is None else _check_account(account, is_quiet=is_json)
    statuses = {result.outcome.status for result in results}
    if is_json:
        shown = [
            {
                "name": each.name,
                "verdict": each.outcome.status,
                "detail": each.outcome.detail,
                "mend": each.outcome.fix,
            }
            for each in results
        ]
        print_json({"ok": not statuses & {CheckStatus.FAILED, CheckStatus.WARNING}, "checks": shown})
    else:
        _summarise(results)
    if CheckStatus.FAILED in statuses:
        sys.exit(EXIT_FAILED)
    sys.exit(EXIT_ATTENTION if CheckStatus.WARNING in statuses else EXIT_OK)


def _run_checks(*, is_quiet: bool) -> list[CheckResult]:
    """Run every check and print each result as soon as it is known."""
    settings, problems = read_settings()
    results = settings_results(settings, problems)
    show = (lambda _: None) if is_quiet else _show
    for result in results:
        show(result)
    # Without this, log lines would go to stdout and break --json. The checks report the same errors.
    configure(settings.log_format)
    logging.getLogger().setLevel(logging.ERROR)
    # Without rate limiters: they need Redis, which may be what is wrong.
    unlimited = settings.model_copy(update={"twilio_rate": "off", "livekit_rate": "off"})
    built = build(unlimited, publisher=NullPublisher())
    console = progress_console()
    try:
        check_run = CheckRun(built, problems)
        for check in CHECKS:
            with console.status(check.name):
                results.append(check_run.run_check(check))
            show(results[-1])
    finally:
        built.close()
    return results


def _check_account(text: str, *, is_quiet: bool) -> list[CheckResult]:
    """Make the named checks of an account now, and store what they found."""
    results = []
    for kind in AccountKind:
        for found in wiring().accounts.all(kind):
            if text not in {str(found.row.id), found.row.name}:
                continue
            checked = wiring().accounts.check(kind, found.row.id).row
            results += [CheckResult(one["name"], _outcome(one)) for one in checked.checks]
    if not results:
        raise account_not_found("account", text)
    for result in results:
        if not is_quiet:
            _show(result)
    return results


def _outcome(stored: dict[str, Any]) -> CheckOutcome:
    warning = CheckStatus.WARNING if stored["fix"] else CheckStatus.OK
    return CheckOutcome(warning if stored["ok"] else CheckStatus.FAILED, stored["detail"], stored["fix"] or "")


def _show(result: CheckResult) -> None:
    outcome = result.outcome
    mark, colour = MARKS[outcome.status]
    line = Table.grid(padding=(0, 2, 0, 0))
    line.add_column(width=1)
    line.add_column(width=NAME_WIDTH)
    line.add_column(overflow="fold")
    dim = "dim" if outcome.status is CheckStatus.SKIPPED else ""
    line.add_row(Text(mark, colour), Text(result.name, dim), Text(outcome.detail, dim))
    if outcome.fix:
        line.add_row("", "", Text(f"→ {outcome.fix}", colour))
    print_result(line)


def _summarise(results: Sequence[CheckResult]) -> None:
    counts = {status: sum(each.outcome.status is status for each in results) for status in CheckStatus}
    labels = {CheckStatus.FAILED: "failed", CheckStatus.WARNING: "warnings", CheckStatus.SKIPPED: "not checked"}
    parts = [f"{counts[status]} {label}" for status, label in labels.items() if counts[status]]
    print_result(Text(f"{', '.join(parts)}." if parts else "All checks passed.", "bold"))
