"""`doctor`: everything that must hold before a number can be connected, checked at once, even on broken settings."""

import logging
import sys
import uuid
from collections.abc import Sequence

import click
from rich.table import Table
from rich.text import Text

from app.cli.context import ATTENTION, DONE, FAILED, as_json, for_people
from app.cli.doctor_checks import PROCESS_CHECKS, STORE_CHECKS, Examination, Result, Verdict, read_settings, results_of
from app.cli.doctor_providers import PROVIDER_CHECKS
from app.cli.output import print_json, progress_console, say
from app.observability.logs import configure
from app.saga.chain_plan import Plan
from app.wiring import build

CHECKS = (*STORE_CHECKS, *PROVIDER_CHECKS, *PROCESS_CHECKS)

MARKS = {
    Verdict.OK: ("✓", "green"),
    Verdict.WARNING: ("!", "yellow"),
    Verdict.FAILED: ("✗", "red"),
    Verdict.SKIPPED: ("·", "dim"),
}

NAME_WIDTH = 14
"""Columns of the longest name of a check."""


class Silent:
    """A publisher for a process that queues nothing: the real one needs settings that are right."""

    def publish(self, plan: Plan) -> bool:
        """Queue nothing."""
        del plan
        return False

    def publish_audit(self, audit_id: uuid.UUID) -> bool:
        """Queue nothing."""
        del audit_id
        return False

    def publish_webhooks(self, endpoint_id: uuid.UUID) -> bool:
        """Queue nothing."""
        del endpoint_id
        return False


@click.command("doctor")
@as_json
@for_people
def doctor(is_json: bool) -> None:
    """Check this installation, and say how to fix what is wrong.

    Checks every setting, PostgreSQL and Redis, both providers and the processes. Read-only, but for one key in Redis
    that expires after a minute. Exit code 0: every check passed; 3: warnings; 1: failures.
    """
    results = _examine(is_quiet=is_json)
    verdicts = {result.finding.verdict for result in results}
    if is_json:
        shown = [
            {
                "name": each.name,
                "verdict": each.finding.verdict,
                "detail": each.finding.detail,
                "mend": each.finding.mend,
            }
            for each in results
        ]
        print_json({"ok": not verdicts & {Verdict.FAILED, Verdict.WARNING}, "checks": shown})
    else:
        _summarise(results)
    sys.exit(FAILED if Verdict.FAILED in verdicts else ATTENTION if Verdict.WARNING in verdicts else DONE)


def _examine(*, is_quiet: bool) -> list[Result]:
    """Run every check, and print each result as it comes."""
    settings, problems = read_settings()
    results = results_of(settings, problems)
    show = (lambda _: None) if is_quiet else _show
    for result in results:
        show(result)
    # Nobody has done it yet: without, what is logged goes to stdout, where JSON may be wanted. A check tells it better.
    configure(settings.log_format)
    logging.getLogger().setLevel(logging.ERROR)
    # Not through the rate limiters: they need Redis, which may be what is wrong.
    ungoverned = settings.model_copy(update={"twilio_rate": "off", "livekit_rate": "off"})
    wiring = build(ungoverned, publisher=Silent())
    console = progress_console()
    try:
        examination = Examination(wiring, problems)
        for check in CHECKS:
            with console.status(check.name):
                results.append(examination.run(check))
            show(results[-1])
    finally:
        wiring.close()
    return results


def _show(result: Result) -> None:
    finding = result.finding
    mark, colour = MARKS[finding.verdict]
    line = Table.grid(padding=(0, 2, 0, 0))
    line.add_column(width=1)
    line.add_column(width=NAME_WIDTH)
    line.add_column(overflow="fold")
    dim = "dim" if finding.verdict is Verdict.SKIPPED else ""
    line.add_row(Text(mark, colour), Text(result.name, dim), Text(finding.detail, dim))
    if finding.mend:
        line.add_row("", "", Text(f"→ {finding.mend}", colour))
    say(line)


def _summarise(results: Sequence[Result]) -> None:
    counts = {verdict: sum(each.finding.verdict is verdict for each in results) for verdict in Verdict}
    told = [f"{counts[Verdict.FAILED]} failed"] if counts[Verdict.FAILED] else []
    told += [f"{counts[Verdict.WARNING]} warnings"] if counts[Verdict.WARNING] else []
    told += [f"{counts[Verdict.SKIPPED]} not checked"] if counts[Verdict.SKIPPED] else []
    say(Text(f"{', '.join(told)}." if told else "All checks passed.", "bold"))
