"""Bulk: many numbers from one file, how far each bulk is, and what became of every row."""

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
from app.console.pages import desk, done, origin, page, polled, visitor
from app.console.presentation import bulk_tally, trouble_of
from app.console.reads import PAGE_ROWS
from app.domain.errors import RefusedError
from app.numbers.inventory import headroom_sentence
from app.views.bulks import BulkView
from app.views.reports import report_download
from app.web.authentication import charge_items
from app.web.bodies import parse_json
from app.web.context import web_services, wiring
from app.web.problems import status_of, validation_failed

FIELD = "file"


def read_bulk_file(given: MultiDict[str, FileStorage]) -> list[Item]:
    """Read the file's items: JSON where its name ends so, else CSV; `RefusedError` 422 for what is neither."""
    upload = given.get(FIELD)
    if upload is None or not upload.filename:
        raise validation_failed({FIELD: ["Choose a file."]})
    is_json, raw = upload.filename.lower().endswith(".json"), upload.read().removeprefix(BOM_UTF8)
    try:
        return read_items(items_from_document(parse_json(raw)) if is_json else items_from_csv(raw.decode()))
    except UnicodeDecodeError as error:
        raise _unreadable("is not UTF-8: save it as CSV UTF-8") from error
    except InvalidFileError as error:
        raise _unreadable(str(error)) from error
    except RefusedError as error:
        raise _unreadable(*error.errors["body"]) from error


def _unreadable(message: str) -> RefusedError:
    return validation_failed({FIELD: [f"The file {message}."]})


@dataclass(frozen=True, slots=True)
class Preview:
    """What a file would do."""

    name: str
    total: int
    wrong: Sequence[Item]
    """The rows that cannot work."""
    room: str
    """How many of the others the Twilio account has room for."""


def register_bulks(blueprint: Blueprint) -> None:
    """Add the list with its upload, the pages of one bulk, and what their buttons do."""
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
    """Show one page of bulks."""
    return bulks_page()


def create_bulk() -> ResponseReturnValue:
    """Store the uploaded file as a bulk, and go on to its page."""
    items = read_bulk_file(request.files)
    charge_items(len(items))
    room = wiring().headroom.now()
    made = wiring().bulk.accept(items, origin=origin())
    return done(f"The file is accepted. {headroom_sentence(room, made.pending)}", "console.bulk", bulk_id=made.id)


def check_bulk() -> ResponseReturnValue:
    """Say what an uploaded file would do, and store nothing."""
    items = read_bulk_file(request.files)
    wrong = [item for item in items if item.problem]
    room = headroom_sentence(wiring().headroom.now(), len(items) - len(wrong))
    return bulks_page(preview=Preview(request.files[FIELD].filename or "", len(items), wrong, room))


def bulk(bulk_id: uuid.UUID) -> ResponseReturnValue:
    """Show one bulk."""
    return bulk_page(bulk_id)


def bulk_live(bulk_id: uuid.UUID) -> ResponseReturnValue:
    """Show the part of the page that changes, for our script."""
    sheet = _sheet(bulk_id)
    return polled("bulk_live.html", sheet["version"], **sheet)


def bulk_report(bulk_id: uuid.UUID) -> ResponseReturnValue:
    """Send what became of each row as a CSV file."""
    return report_download(bulk_id, wiring().bulk.items(bulk_id))


def cancel_form(bulk_id: uuid.UUID) -> ResponseReturnValue:
    """Ask whether what has not begun is really not to begin."""
    row = wiring().bulk.get(bulk_id)
    return page("bulk_cancel.html", bulk=BulkView.of(row), waiting=wiring().bulk.not_begun(row))


def cancel_bulk(bulk_id: uuid.UUID) -> ResponseReturnValue:
    """Cancel every item for which no provider was called yet."""
    told = wiring().bulk.cancel(bulk_id, origin=origin())
    message = (
        f"{told.cancelled_now:,} cancelled, {told.still_running:,} still running, {told.already_done:,} already done. "
        "No further numbers are started."
    )
    return done(message, "console.bulk", bulk_id=bulk_id)


def resume_bulk(bulk_id: uuid.UUID) -> ResponseReturnValue:
    """Try again what failed or was cancelled."""
    charge_items(wiring().bulk.resumable(bulk_id))
    waiting = wiring().bulk.resume(bulk_id, origin=origin()).pending
    message = f"{waiting:,} waiting to be retried." if waiting else "Nothing to retry: correct these rows in the file."
    return done(message, "console.bulk", bulk_id=bulk_id)


def bulks_page(refusal: RefusedError | None = None, preview: Preview | None = None) -> Response:
    """Render the list, with what came of an upload that was refused, or of one that was to be looked at only."""
    return page(
        "bulks.html",
        status_of(refusal),
        found=web_services().bulk_reader.bulks(limit=PAGE_ROWS, cursor=read_cursor(request.args)),
        refusal=trouble_of(refusal),
        errors=refusal.errors if refusal else {},
        preview=preview,
    )


def bulk_page(bulk_id: uuid.UUID, refusal: RefusedError | None = None) -> Response:
    """Render the page of one bulk."""
    return page("bulk.html", status_of(refusal), refusal=trouble_of(refusal), **_sheet(bulk_id))


def _sheet(bulk_id: uuid.UUID) -> dict[str, Any]:
    status, cursor = read_items_query(request.args)
    row, who = wiring().bulk.get(bulk_id), visitor()
    waiting = wiring().bulk.not_begun(row)
    where: dict[str, Any] = {"bulk_id": row.id} | ({"status": status.value} if status else {})
    found = web_services().bulk_reader.items(bulk_id, limit=PAGE_ROWS, status=status, cursor=cursor)
    return {
        "bulk": BulkView.of(row),
        "found": found,
        "names": desk().reader.names({item.agent_id for item in found.items if item.agent_id}),
        "tally": bulk_tally(row),
        "where": where,
        "live_url": url_for("console.bulk_live", cursor=request.args.get("cursor"), **where),
        "actions": bulk_actions(row, waiting, may_write=who is not None and who.may(Scope.WRITE)),
        # Whatever becomes of an item shows in the counts; whether anything is left to cancel, in what has not begun.
        "version": ".".join(
            str(part) for part in (row.status, *BulkView.of(row).counts.values(), row.finished_at, waiting > 0)
        ),
    }
