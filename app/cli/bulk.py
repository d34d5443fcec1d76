"""`provision` with its subcommands for bulks: import, watch, resume, cancel."""

import sys
import time
import uuid
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from app.bulk.files import InvalidFileError, checked_count, items_from_file, report_text
from app.bulk.items import read_items
from app.cli.context import (
    EXIT_ATTENTION,
    EXIT_INTERRUPTED,
    DefaultGroup,
    command_line,
    json_option,
    origin,
    user_command,
    wiring,
)
from app.cli.output import command_error, print_json, print_line, progress_console
from app.cli.phones import provision_number
from app.db.models import COUNTS, Bulk
from app.domain.operations import BulkKind, BulkStatus
from app.numbers.headroom import UNKNOWN_ROOM
from app.numbers.inventory import NEWEST, NumberFilter, NumberUse
from app.views.option_schemas import read_options

POLL_S = 0.5
"""Seconds between two polls of a bulk that is watched: the sweeper advances it once a second."""

provision = DefaultGroup(
    "provision",
    default="number",
    help="Connect a number, or many from a file.",
    subcommand_metavar="{AGENT NUMBER | COMMAND} [ARGS]...",
)
provision.add_command(provision_number)

wait_option = click.option(
    "--wait/--no-wait", default=True, show_default=True, help="Wait until every item has finished."
)
report_option = click.option(
    "--report", type=click.Path(dir_okay=False, writable=True, path_type=Path), help="Write every item to a CSV file."
)
bulk_id_argument = click.argument("bulk_id", type=click.UUID)


@provision.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
@click.option("--adopt", "is_adoption", is_flag=True, help="Adopt the paths that the numbers ring by already.")
@click.option("--all", "is_all", is_flag=True, help="With --adopt, no FILE: all numbers that are on somebody's trunk.")
@wait_option
@report_option
@json_option
@user_command
def import_file(
    file: Path | None, is_adoption: bool, is_all: bool, wait: bool, report: Path | None, is_json: bool
) -> None:
    """Connect the numbers of FILE, CSV or JSON, or adopt their paths.

    CSV has a header row; a name that ends in .json means JSON. An agent is made for each number that names none, if
    its path is adopted.

    Exit code 0: every item succeeded, or was accepted with --no-wait; 3: some did not succeed; 130: interrupted.
    """
    if is_all is not (file is None) or (is_all and not is_adoption):
        raise click.UsageError("Give a FILE, or --adopt --all.")
    kind = BulkKind.ADOPT if is_adoption else BulkKind.PROVISION
    try:
        items = read_items(items_from_file(file) if file else _numbers_on_trunks(), read_options, kind)
    except InvalidFileError as error:
        raise command_error(f"{file} {error}.") from error
    room = wiring().headroom.for_items(items) if kind is BulkKind.PROVISION else None
    bulk = wiring().bulk.accept(items, origin=origin(), kind=kind)
    _print_line(f"Bulk {bulk.id} has {bulk.total} items; {bulk.failed} of them invalid.", is_json=is_json)
    if kind is BulkKind.PROVISION:
        _print_line(room.reason if room else UNKNOWN_ROOM, is_json=is_json)
    finish_bulk(bulk, wait=wait, report=report, is_json=is_json)


def _numbers_on_trunks() -> list[object]:
    """Return an item for each number of the account that is on somebody's trunk."""
    with progress_console().status("Reading from Twilio"):
        owned = wiring().inventory.of_account(wanted=NumberFilter(NumberUse.TRUNK), not_before=NEWEST).numbers
    found: list[object] = [{"phoneNumber": one.phone_number} for one in owned]
    if not found:
        raise command_error("No number of the account is on a trunk that Trunkline has not made.")
    return checked_count(found)


@provision.command("resume")
@bulk_id_argument
@wait_option
@report_option
@json_option
@user_command
def resume(bulk_id: uuid.UUID, wait: bool, report: Path | None, is_json: bool) -> None:
    """Retry the failed and cancelled items of a bulk; exit codes as for import."""
    finish_bulk(wiring().bulk.resume(bulk_id, origin=origin()), wait=wait, report=report, is_json=is_json)


@provision.command("watch")
@bulk_id_argument
@wait_option
@report_option
@json_option
@user_command
def watch(bulk_id: uuid.UUID, wait: bool, report: Path | None, is_json: bool) -> None:
    """Watch a bulk, read-only; exit codes as for import."""
    finish_bulk(wiring().bulk.get(bulk_id), wait=wait, report=report, is_json=is_json)


@provision.command("cancel")
@bulk_id_argument
@json_option
@user_command
def cancel(bulk_id: uuid.UUID, is_json: bool) -> None:
    """Start no further items of a bulk; items that have started will finish."""
    result = wiring().bulk.cancel(bulk_id, origin=origin())
    counts = {
        "cancelledNow": result.cancelled_now,
        "stillRunning": result.still_running,
        "alreadyDone": result.already_done,
    }
    _print_bulk(result.bulk, is_json=is_json, cancellation=counts)
    if not is_json:
        print_line(
            f"{result.cancelled_now} cancelled, {result.still_running} still running, "
            f"{result.already_done} already done."
        )


def finish_bulk(bulk: Bulk, *, wait: bool, report: Path | None, is_json: bool) -> None:
    """Watch the bulk to its end, if asked to; print it, write its report, and exit as `import` does."""
    if wait:
        try:
            bulk = _watch_bulk(bulk)
        except KeyboardInterrupt:
            _print_line(
                f"The bulk continues. Watch it again with: {command_line(f'provision watch {bulk.id}')}",
                is_json=is_json,
            )
            _print_line(f"Cancel the rest with: {command_line(f'provision cancel {bulk.id}')}", is_json=is_json)
            sys.exit(EXIT_INTERRUPTED)
    if report is not None:
        report.write_text(report_text(wiring().bulk.items(bulk.id)), encoding="utf-8", newline="")
    _print_bulk(bulk, is_json=is_json)
    if bulk.status.is_final and bulk.status is not BulkStatus.SUCCEEDED:
        sys.exit(EXIT_ATTENTION)


def _watch_bulk(bulk: Bulk) -> Bulk:
    """Show a progress bar on stderr until the bulk has finished, then return it; not animated without a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=progress_console()) as progress:
        bar = progress.add_task(bulk.status.value, total=bulk.total)
        while True:
            done = bulk.succeeded + bulk.failed + bulk.cancelled
            progress.update(bar, completed=done, description=f"{bulk.status.value}, {bulk.failed} failed")
            if bulk.status.is_final:
                return bulk
            time.sleep(POLL_S)
            bulk = wiring().bulk.get(bulk.id)


def _print_bulk(bulk: Bulk, *, is_json: bool, **more: Any) -> None:
    counts: dict[str, int] = {name: getattr(bulk, name) for name in COUNTS}
    if is_json:
        shown: dict[str, Any] = {"id": str(bulk.id), "kind": bulk.kind.value, "status": bulk.status.value}
        print_json(shown | {"total": bulk.total, "counts": counts} | more)
        return
    summary = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    name = "Bulk" if bulk.kind is BulkKind.PROVISION else f"Bulk of {bulk.kind.value}s"
    print_line(f"{name} {bulk.id} is {bulk.status.value}: {summary}.")


def _print_line(line: str, *, is_json: bool) -> None:
    print_line(line, err=is_json)
