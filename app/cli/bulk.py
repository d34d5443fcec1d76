"""`provision` with its subcommands for bulks: import, watch, resume, cancel."""

import sys
import time
import uuid
from pathlib import Path

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from app.bulk.files import InvalidFileError, checked_count, items_from_file
from app.cli.client import client
from app.cli.context import (
    EXIT_ATTENTION,
    EXIT_INTERRUPTED,
    DefaultGroup,
    NewFile,
    Row,
    command_line,
    json_option,
    user_command,
)
from app.cli.output import command_error, print_json, print_line, progress_console
from app.cli.phones import provision_number
from app.domain.numbers import NumberUse
from app.domain.operations import UNKNOWN_ROOM, BulkKind, BulkStatus

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
report_option = click.option("--report", type=NewFile(), help="Write every item to a CSV file.")
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
        items = items_from_file(file) if file else _numbers_on_trunks()
    except InvalidFileError as error:
        raise command_error(f"{file} {error}.") from error
    accepted = client().post("/api/provisionings", {"items": items}, kind=kind.value)
    bulk_id, invalid = accepted["bulkId"], accepted["counts"]["failed"]
    _print_line(f"Bulk {bulk_id} has {accepted['total']} items; {invalid} of them invalid.", is_json=is_json)
    if kind is BulkKind.PROVISION:
        room = accepted["headroom"]
        _print_line(room["reason"] if room else UNKNOWN_ROOM, is_json=is_json)
    finish_bulk(bulk_id, wait=wait, report=report, is_json=is_json)


def _numbers_on_trunks() -> list[object]:
    """Return an item for each number of the account that is on somebody's trunk."""
    with progress_console().status("Reading from Twilio"):
        owned, _last = client().pages("/api/numbers", None, use=NumberUse.TRUNK.value, fresh=True)
    found: list[object] = [{"phoneNumber": one["phoneNumber"]} for one in owned]
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
    client().post(f"/api/provisionings/{bulk_id}/resume")
    finish_bulk(str(bulk_id), wait=wait, report=report, is_json=is_json)


@provision.command("watch")
@bulk_id_argument
@wait_option
@report_option
@json_option
@user_command
def watch(bulk_id: uuid.UUID, wait: bool, report: Path | None, is_json: bool) -> None:
    """Watch a bulk, read-only; exit codes as for import."""
    finish_bulk(str(bulk_id), wait=wait, report=report, is_json=is_json)


@provision.command("cancel")
@bulk_id_argument
@json_option
@user_command
def cancel(bulk_id: uuid.UUID, is_json: bool) -> None:
    """Start no further items of a bulk; items that have started will finish."""
    bulk = client().post(f"/api/provisionings/{bulk_id}/cancel")
    _print_bulk(bulk, is_json=is_json)
    if not is_json:
        done = bulk["cancellation"]
        print_line(
            f"{done['cancelledNow']} cancelled, {done['stillRunning']} still running, "
            f"{done['alreadyDone']} already done."
        )


def read_bulk(bulk_id: str) -> Row:
    """Return one bulk, as the API shows it."""
    return dict(client().get(f"/api/provisionings/{bulk_id}"))


def finish_bulk(bulk_id: str, *, wait: bool, report: Path | None, is_json: bool) -> None:
    """Watch the bulk to its end, if asked to; print it, write its report, and exit as `import` does."""
    bulk = read_bulk(bulk_id)
    if wait:
        try:
            bulk = watch_bulk(bulk, is_json=is_json)
        except KeyboardInterrupt:
            watching, cancelling = (
                command_line(f"provision watch {bulk_id}"),
                command_line(f"provision cancel {bulk_id}"),
            )
            _print_line(f"The bulk continues. Watch it again with: {watching}", is_json=is_json)
            _print_line(f"Cancel the rest with: {cancelling}", is_json=is_json)
            sys.exit(EXIT_INTERRUPTED)
    if report is not None:
        report.write_text(client().get(f"/api/provisionings/{bulk_id}/report"), encoding="utf-8", newline="")
    _print_bulk(bulk, is_json=is_json)
    if BulkStatus(bulk["status"]).is_final and bulk["status"] != BulkStatus.SUCCEEDED:
        sys.exit(EXIT_ATTENTION)


def watch_bulk(bulk: Row, *, is_json: bool) -> Row:
    """Show a progress bar on stderr until the bulk has finished, then return it.

    It is not animated without a terminal, and not shown where the result is JSON.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=progress_console(), disable=is_json) as progress:
        bar = progress.add_task(bulk["status"], total=bulk["total"])
        while True:
            counts = bulk["counts"]
            done = counts["succeeded"] + counts["failed"] + counts["cancelled"]
            progress.update(bar, completed=done, description=f"{bulk['status']}, {counts['failed']} failed")
            if BulkStatus(bulk["status"]).is_final:
                return bulk
            time.sleep(POLL_S)
            bulk = read_bulk(bulk["id"])


def _print_bulk(bulk: Row, *, is_json: bool) -> None:
    if is_json:
        print_json(bulk)
        return
    summary = ", ".join(f"{count} {name}" for name, count in bulk["counts"].items() if count)
    name = "Bulk" if bulk["kind"] in {BulkKind.PROVISION, BulkKind.MIXED} else f"Bulk of {bulk['kind']}s"
    print_line(f"{name} {bulk['id']} is {bulk['status']}: {summary}.")


def _print_line(line: str, *, is_json: bool) -> None:
    print_line(line, err=is_json)
