"""Pages of bulks: the list with its upload, and one bulk with its progress and rows."""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Response, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import FileStorage, MultiDict

from app.access import Scope
from app.bulk.files import FileItems, InvalidFileError, items_from_document, read_file, template_text
from app.bulk.items import Item, read_items
from app.console.forms import read_cursor, read_items_query
from app.console.operation_pages import bulk_actions
from app.console.pages import (
    console_services,
    list_page,
    live_fragment,
    origin,
    page,
    redirect_with_message,
    signed_in_caller,
)
from app.console.presentation import bulk_counts, error_notice
from app.console.reader import PAGE_ROWS
from app.domain.errors import RefusedError, validation_failed
from app.domain.operations import UNKNOWN_ROOM, BulkKind
from app.domain.texts import InvalidTextError, read_json, shown
from app.views.bulks import BulkView, report_download
from app.views.option_schemas import read_options
from app.web.authentication import charge_items
from app.web.context import web_services, wiring
from app.web.problems import status_of

FILE_FIELD = "file"
ITEMS_FIELD, NAME_FIELD = "items", "fileName"
"""The fields by which a preview sends what it has read, so that nobody has to choose the file again."""

MAX_OBSTACLES = 200
"""Obstacles that a preview names; the API's dry run has them all."""


@dataclass(frozen=True, slots=True)
class BulkFile:
    """A file as it was uploaded, and its items."""

    name: str
    found: str
    """What kind of file it is: a sentence."""
    raw_items: Sequence[object]
    items: Sequence[Item]


def read_bulk_file(form: MultiDict[str, str], files: MultiDict[str, FileStorage]) -> BulkFile:
    """Read the uploaded file, or what a preview has read of it; `RefusedError` 422 if it is invalid."""
    upload = files.get(FILE_FIELD)
    name = (upload.filename if upload else None) or ""
    if not name and not form.get(ITEMS_FIELD):
        raise validation_failed({FILE_FIELD: ["Choose a file."]})
    try:
        if upload and name:
            read = read_file(name, upload.read())
        else:
            name = form.get(NAME_FIELD, "") or "numbers.json"
            read = FileItems(items_from_document(read_json(form[ITEMS_FIELD])), "")
    except (InvalidFileError, InvalidTextError) as error:
        raise validation_failed({FILE_FIELD: [f"The file {error}."]}) from error
    return BulkFile(shown(name), read.found, read.items, read_items(read.items, read_options))


def register_bulks(blueprint: Blueprint) -> None:
    """Register the list with its upload, and the pages and actions of one bulk."""
    blueprint.get("/bulks", endpoint="bulks")(bulks)
    blueprint.post("/bulks", endpoint="create_bulk")(create_bulk)
    blueprint.post("/bulks/check", endpoint="check_bulk")(check_bulk)
    blueprint.get("/bulks/template", endpoint="bulk_template")(bulk_template)
    for path, endpoint, view in (
        ("", "bulk", bulk),
        ("/live", "bulk_live", bulk_live),
        ("/report", "bulk_report", bulk_report),
        ("/cancel", "bulk_cancel", cancel_form),
        ("/resume", "bulk_resume", resume_form),
    ):
        blueprint.get(f"/bulks/<bulk_id>{path}", endpoint=endpoint)(view)
    blueprint.post("/bulks/<bulk_id>/cancel", endpoint="cancel_bulk")(cancel_bulk)
    blueprint.post("/bulks/<bulk_id>/resume", endpoint="resume_bulk")(resume_bulk)


def bulks() -> ResponseReturnValue:
    """Show the list of bulks."""
    return bulks_page()


def create_bulk() -> ResponseReturnValue:
    """Store the uploaded file as a bulk and redirect to its page."""
    file = read_bulk_file(request.form, request.files)
    charge_items(len(file.items))
    room = wiring().headroom.for_items(file.items)
    made = wiring().bulk.accept(file.items, origin=origin(), file_name=file.name)
    message = f"{file.name} is accepted. {_invalid_rows(made.failed)}{room.reason if room else UNKNOWN_ROOM}"
    return redirect_with_message(message, "console.bulk", bulk_id=made.id)


def _invalid_rows(count: int) -> str:
    if not count:
        return ""
    return "1 row is invalid and has failed. " if count == 1 else f"{count:,} rows are invalid and have failed. "


def check_bulk() -> ResponseReturnValue:
    """Say what would become of the uploaded file, and offer to start it; nothing is stored."""
    file = read_bulk_file(request.form, request.files)
    found = wiring().bulk_preview.preview(file.items, BulkKind.PROVISION)
    return page(
        "bulk_preview.html",
        file=file,
        found=found,
        obstacles=found.obstacles[:MAX_OBSTACLES],
        blocked=found.total - found.would_start,
        notes=sum(not one.blocks for one in found.obstacles),
        headroom=found.headroom.reason if found.headroom else UNKNOWN_ROOM,
        short=max(found.would_start - found.headroom.fits, 0) if found.headroom else 0,
        items_text=json.dumps(file.raw_items, separators=(",", ":")),
    )


def bulk_template() -> ResponseReturnValue:
    """Send a CSV file that has the columns and no row."""
    headers = {"Content-Disposition": 'attachment; filename="numbers.csv"', "Content-Type": "text/csv; charset=utf-8"}
    return template_text(), headers


def bulk(bulk_id: uuid.UUID) -> ResponseReturnValue:
    """Show one bulk."""
    return bulk_page(bulk_id)


def bulk_live(bulk_id: uuid.UUID) -> ResponseReturnValue:
    """Return the live part of the page, which the script polls."""
    details = _page_data(bulk_id)
    return live_fragment("bulk_live.html", details["version"], lambda: details)


def bulk_report(bulk_id: uuid.UUID) -> ResponseReturnValue:
    """Send the status of every row as a CSV file."""
    return report_download(bulk_id, wiring().bulk.items(bulk_id))


def cancel_form(bulk_id: uuid.UUID) -> ResponseReturnValue:
    """Ask for confirmation."""
    row = wiring().bulk.get(bulk_id)
    return page("bulk_cancel.html", bulk=BulkView.of(row), waiting=wiring().bulk.not_begun(row))


def cancel_bulk(bulk_id: uuid.UUID) -> ResponseReturnValue:
    """Cancel every item that has not started."""
    result = wiring().bulk.cancel(bulk_id, origin=origin())
    message = (
        f"{result.cancelled_now:,} cancelled, {result.still_running:,} still running, {result.already_done:,} already "
        "done. No further numbers are started."
    )
    return redirect_with_message(message, "console.bulk", bulk_id=bulk_id)


def resume_form(bulk_id: uuid.UUID) -> ResponseReturnValue:
    """Ask for confirmation."""
    return page("bulk_resume.html", bulk=BulkView.of(wiring().bulk.get(bulk_id)))


def resume_bulk(bulk_id: uuid.UUID) -> ResponseReturnValue:
    """Retry the failed and cancelled items."""
    charge_items(wiring().bulk.resumable(bulk_id))
    waiting = wiring().bulk.resume(bulk_id, origin=origin()).pending
    message = f"{waiting:,} waiting to be retried." if waiting else "Nothing to retry: correct these rows in the file."
    return redirect_with_message(message, "console.bulk", bulk_id=bulk_id)


def bulks_page(refusal: RefusedError | None = None) -> Response:
    """Render the list, with the error of a refused upload."""
    reader = web_services().bulk_reader
    found = reader.bulks(limit=PAGE_ROWS, cursor=read_cursor(request.args))
    return list_page(
        "bulks",
        "console.bulks",
        status_of(refusal),
        found=found,
        files=reader.file_names([row.id for row in found.items]),
        refusal=error_notice(refusal),
        errors=refusal.errors if refusal else {},
    )


def bulk_page(bulk_id: uuid.UUID, refusal: RefusedError | None = None) -> Response:
    """Render the page of one bulk."""
    return page("bulk.html", status_of(refusal), refusal=error_notice(refusal), **_page_data(bulk_id))


def _page_data(bulk_id: uuid.UUID) -> dict[str, Any]:
    status, cursor = read_items_query(request.args)
    row, who = wiring().bulk.get(bulk_id), signed_in_caller()
    waiting = wiring().bulk.not_begun(row)
    query: dict[str, Any] = {"bulk_id": row.id} | ({"status": status.value} if status else {})
    found = web_services().bulk_reader.items(bulk_id, limit=PAGE_ROWS, status=status, cursor=cursor)
    return {
        "bulk": BulkView.of(row),
        "file": web_services().bulk_reader.file_names([row.id]).get(row.id),
        "found": found,
        "names": console_services().reader.names({item.agent_id for item in found.items if item.agent_id}),
        "counts": bulk_counts(row),
        "query": query,
        "live_url": url_for("console.bulk_live", cursor=request.args.get("cursor"), **query),
        "actions": bulk_actions(row, waiting, may_write=who is not None and who.may(Scope.WRITE)),
        # Every change of an item changes the counts; `waiting` decides whether the cancel button is shown.
        "version": ".".join(
            str(part) for part in (row.status, *BulkView.of(row).counts.values(), row.finished_at, waiting > 0)
        ),
    }
