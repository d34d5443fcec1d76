"""Pages of bulks: the list with its upload, and one bulk with its progress and rows."""

import uuid
from codecs import BOM_UTF8
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Response, request, url_for
from flask.typing import ResponseReturnValue
from werkzeug.datastructures import FileStorage, MultiDict

from app.access import Scope
from app.bulk.files import InvalidFileError, items_from_csv, items_from_document
from app.bulk.items import Item, read_items
from app.console.forms import read_cursor, read_items_query
from app.console.operation_pages import bulk_actions
from app.console.pages import console_services, live_fragment, origin, page, redirect_with_message, signed_in_caller
from app.console.presentation import bulk_counts, error_notice
from app.console.reader import PAGE_ROWS
from app.domain.errors import RefusedError, validation_failed
from app.numbers.headroom import UNKNOWN_ROOM
from app.views.bulks import BulkView, report_download
from app.views.option_schemas import read_options
from app.web.authentication import charge_items
from app.web.bodies import parse_json
from app.web.context import web_services, wiring
from app.web.problems import status_of

FILE_FIELD = "file"


def read_bulk_file(given: MultiDict[str, FileStorage]) -> list[Item]:
    """Read the items of the uploaded file: JSON if its name ends in .json, else CSV; `RefusedError` 422 if invalid."""
    upload = given.get(FILE_FIELD)
    if upload is None or not upload.filename:
        raise validation_failed({FILE_FIELD: ["Choose a file."]})
    is_json, raw = upload.filename.lower().endswith(".json"), upload.read().removeprefix(BOM_UTF8)
    try:
        items = items_from_document(parse_json(raw)) if is_json else items_from_csv(raw.decode())
        return read_items(items, read_options)
    except UnicodeDecodeError as error:
        raise _unreadable("is not UTF-8: save it as CSV UTF-8") from error
    except InvalidFileError as error:
        raise _unreadable(str(error)) from error
    except RefusedError as error:
        raise _unreadable(*error.errors["body"]) from error


def _unreadable(message: str) -> RefusedError:
    return validation_failed({FILE_FIELD: [f"The file {message}."]})


@dataclass(frozen=True, slots=True)
class FilePreview:
    """The preview of an uploaded file."""

    name: str
    total: int
    invalid: Sequence[Item]
    """The invalid rows."""
    headroom: str
    """A sentence: how many of the valid rows the Twilio account has room for."""


def register_bulks(blueprint: Blueprint) -> None:
    """Register the list with its upload, and the pages and actions of one bulk."""
    blueprint.get("/bulks", endpoint="bulks")(bulks)
    blueprint.post("/bulks", endpoint="create_bulk")(create_bulk)
    blueprint.post("/bulks/check", endpoint="check_bulk")(check_bulk)
    for path, endpoint, view in (
        ("", "bulk", bulk),
        ("/live", "bulk_live", bulk_live),
        ("/report", "bulk_report", bulk_report),
        ("/cancel", "bulk_cancel", cancel_form),
    ):
        blueprint.get(f"/bulks/<bulk_id>{path}", endpoint=endpoint)(view)
    blueprint.post("/bulks/<bulk_id>/cancel", endpoint="cancel_bulk")(cancel_bulk)
    blueprint.post("/bulks/<bulk_id>/resume", endpoint="resume_bulk")(resume_bulk)


def bulks() -> ResponseReturnValue:
    """Show the list of bulks."""
    return bulks_page()


def create_bulk() -> ResponseReturnValue:
    """Store the uploaded file as a bulk and redirect to its page."""
    items = read_bulk_file(request.files)
    charge_items(len(items))
    room = wiring().headroom.for_items(items)
    made = wiring().bulk.accept(items, origin=origin())
    message = f"The file is accepted. {room.reason if room else UNKNOWN_ROOM}"
    return redirect_with_message(message, "console.bulk", bulk_id=made.id)


def check_bulk() -> ResponseReturnValue:
    """Preview an uploaded file without storing it."""
    items = read_bulk_file(request.files)
    invalid = [item for item in items if item.problem]
    room = wiring().headroom.for_items(items)
    headroom = room.reason if room else UNKNOWN_ROOM
    return bulks_page(preview=FilePreview(request.files[FILE_FIELD].filename or "", len(items), invalid, headroom))


def bulk(bulk_id: uuid.UUID) -> ResponseReturnValue:
    """Show one bulk."""
    return bulk_page(bulk_id)


def bulk_live(bulk_id: uuid.UUID) -> ResponseReturnValue:
    """Return the live part of the page, which the script polls."""
    details = _page_data(bulk_id)
    return live_fragment("bulk_live.html", details["version"], **details)


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


def resume_bulk(bulk_id: uuid.UUID) -> ResponseReturnValue:
    """Retry the failed and cancelled items."""
    charge_items(wiring().bulk.resumable(bulk_id))
    waiting = wiring().bulk.resume(bulk_id, origin=origin()).pending
    message = f"{waiting:,} waiting to be retried." if waiting else "Nothing to retry: correct these rows in the file."
    return redirect_with_message(message, "console.bulk", bulk_id=bulk_id)


def bulks_page(refusal: RefusedError | None = None, preview: FilePreview | None = None) -> Response:
    """Render the list, with the error of a refused upload or the preview of a checked one."""
    return page(
        "bulks.html",
        status_of(refusal),
        found=web_services().bulk_reader.bulks(limit=PAGE_ROWS, cursor=read_cursor(request.args)),
        refusal=error_notice(refusal),
        errors=refusal.errors if refusal else {},
        preview=preview,
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
