"""`flask provision`: many numbers from a file, watched to their end."""

import sys
import time
import uuid
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from app.bulk.files import InvalidFileError, items_from_file, report_text
from app.bulk.items import read_items
from app.cli.context import ATTENTION, INTERRUPTED, DefaultGroup, as_json, for_people, hint, origin, wiring
from app.cli.output import failure, print_json, progress_console, tell
from app.cli.phones import provision_number
from app.db.models import COUNTS, Bulk
from app.domain.statuses import BulkStatus
from app.numbers.inventory import headroom_sentence

POLL_S = 0.5
"""Seconds between looks at a bulk that somebody watches: the sweeper moves it once a second."""

provision = DefaultGroup(
    "provision",
    default="number",
    help="Connect a number, or many from a file.",
    subcommand_metavar="{AGENT NUMBER | COMMAND} [ARGS]...",
)
provision.add_command(provision_number)

waits = click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until every item has finished.")
report_file = click.option(
    "--report", type=click.Path(dir_okay=False, writable=True, path_type=Path), help="Write every item to a CSV file."
)
bulk_id_argument = click.argument("bulk_id", type=click.UUID)


@provision.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@waits
@report_file
@as_json
@for_people
def import_file(file: Path, wait: bool, report: Path | None, is_json: bool) -> None:
    """Connect the numbers of FILE, CSV or JSON.

    CSV has a header row; a name that ends in .json means JSON.

    Exit code 0: every item succeeded, or was accepted with --no-wait; 3: some did not succeed; 130: interrupted.
    """
    try:
        items = read_items(items_from_file(file))
    except InvalidFileError as error:
        raise failure(f"{file} {error}.") from error
    room = wiring().headroom.now()
    bulk = wiring().bulk.accept(items, origin=origin())
    _tell(f"Bulk {bulk.id} has {bulk.total} items; {bulk.failed} of them invalid.", is_json=is_json)
    _tell(headroom_sentence(room, bulk.pending), is_json=is_json)
    _finish(bulk, wait=wait, report=report, is_json=is_json)


@provision.command("resume")
@bulk_id_argument
@waits
@report_file
@as_json
@for_people
def resume(bulk_id: uuid.UUID, wait: bool, report: Path | None, is_json: bool) -> None:
    """Retry the failed and cancelled items of a bulk; exit codes as for import."""
    _finish(wiring().bulk.resume(bulk_id, origin=origin()), wait=wait, report=report, is_json=is_json)


@provision.command("watch")
@bulk_id_argument
@waits
@report_file
@as_json
@for_people
def watch(bulk_id: uuid.UUID, wait: bool, report: Path | None, is_json: bool) -> None:
    """Watch a bulk, read-only; exit codes as for import."""
    _finish(wiring().bulk.get(bulk_id), wait=wait, report=report, is_json=is_json)


@provision.command("cancel")
@bulk_id_argument
@as_json
@for_people
def cancel(bulk_id: uuid.UUID, is_json: bool) -> None:
    """Start no further items of a bulk; items that have started will finish."""
    told = wiring().bulk.cancel(bulk_id, origin=origin())
    figures = {
        "cancelledNow": told.cancelled_now,
        "stillRunning": told.still_running,
        "alreadyDone": told.already_done,
    }
    _show(told.bulk, is_json=is_json, cancellation=figures)
    if not is_json:
        tell(f"{told.cancelled_now} cancelled, {told.still_running} still running, {told.already_done} already done.")


def _finish(bulk: Bulk, *, wait: bool, report: Path | None, is_json: bool) -> None:
    if wait:
        try:
            bulk = _watch(bulk)
        except KeyboardInterrupt:
            _tell(f"The bulk continues. Watch it again with: {hint(f'provision watch {bulk.id}')}", is_json=is_json)
            _tell(f"Cancel the rest with: {hint(f'provision cancel {bulk.id}')}", is_json=is_json)
            sys.exit(INTERRUPTED)
    if report is not None:
        report.write_text(report_text(wiring().bulk.items(bulk.id)), encoding="utf-8", newline="")
    _show(bulk, is_json=is_json)
    if bulk.status.is_final and bulk.status is not BulkStatus.SUCCEEDED:
        sys.exit(ATTENTION)


def _watch(bulk: Bulk) -> Bulk:
    """Draw the bulk's progress on stderr until it is over; on what is no terminal, nothing moves."""
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


def _show(bulk: Bulk, *, is_json: bool, **more: Any) -> None:
    counts: dict[str, int] = {name: getattr(bulk, name) for name in COUNTS}
    if is_json:
        shown: dict[str, Any] = {"id": str(bulk.id), "status": bulk.status.value, "total": bulk.total, "counts": counts}
        print_json(shown | more)
        return
    told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    tell(f"Bulk {bulk.id} is {bulk.status.value}: {told}.")


def _tell(line: str, *, is_json: bool) -> None:
    tell(line, err=is_json)
