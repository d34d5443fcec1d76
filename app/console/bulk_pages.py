"""Bulk: many numbers from one file, how far each bulk is, and what became of every row."""

import uuid
from typing import Any

from flask import Blueprint, Response, request, url_for
from flask.typing import ResponseReturnValue

from app.access import Scope
from app.api.answers import report_answer
from app.api.bulk_reads import BulkView
from app.api.context import door, wiring
from app.console.actions import bulk_actions
from app.console.context import desk, origin, visitor
from app.console.findings import trouble_of
from app.console.forms import read_cursor, read_items_query
from app.console.pages import done, page, polled
from app.console.reads import PAGE_ROWS
from app.console.tallies import bulk_tally
from app.console.uploads import read_bulk_file
from app.domain.errors import RefusedError
from app.provisioning.bulk_files import report_text


def register_bulks(blueprint: Blueprint) -> None:
    """Add the list with its upload, the pages of one bulk, and what their buttons do."""
    blueprint.get("/bulks", endpoint="bulks")(bulks)
    blueprint.post("/bulks", endpoint="create_bulk")(create_bulk)
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
    made = wiring().bulk.accept(read_bulk_file(request.files), origin=origin())
    return done("The file is accepted.", "console.bulk", bulk_id=made.id)


def bulk(bulk_id: uuid.UUID) -> ResponseReturnValue:
    """Show one bulk."""
    return bulk_page(bulk_id)


def bulk_live(bulk_id: uuid.UUID) -> ResponseReturnValue:
    """Show the part of the page that changes, for our script."""
    sheet = _sheet(bulk_id)
    return polled("bulk_live.html", sheet["version"], **sheet)


def bulk_report(bulk_id: uuid.UUID) -> ResponseReturnValue:
    """Send what became of each row as a CSV file."""
    return report_answer(bulk_id, report_text(wiring().bulk.items(bulk_id)))


def cancel_form(bulk_id: uuid.UUID) -> ResponseReturnValue:
    """Ask whether what has not begun is really not to begin."""
    return page("bulk_cancel.html", bulk=BulkView(wiring().bulk.get(bulk_id)))


def cancel_bulk(bulk_id: uuid.UUID) -> ResponseReturnValue:
    """Cancel every item that has not begun."""
    wiring().bulk.cancel(bulk_id, origin=origin())
    return done("Nothing more begins; what had begun runs to its end.", "console.bulk", bulk_id=bulk_id)


def resume_bulk(bulk_id: uuid.UUID) -> ResponseReturnValue:
    """Try again what failed or was cancelled."""
    waiting = wiring().bulk.resume(bulk_id, origin=origin()).pending
    message = (
        f"{waiting:,} waiting to be tried." if waiting else "Nothing to try again: correct these rows in the file."
    )
    return done(message, "console.bulk", bulk_id=bulk_id)


def bulks_page(refusal: RefusedError | None = None) -> Response:
    """Render the list."""
    return page(
        "bulks.html",
        refusal.status if refusal else 200,
        found=door().bulk_reader.bulks(limit=PAGE_ROWS, cursor=read_cursor(request.args)),
        refusal=trouble_of(refusal),
        errors=refusal.errors if refusal else {},
    )


def bulk_page(bulk_id: uuid.UUID, refusal: RefusedError | None = None) -> Response:
    """Render the page of one bulk."""
    return page("bulk.html", refusal.status if refusal else 200, refusal=trouble_of(refusal), **_sheet(bulk_id))


def _sheet(bulk_id: uuid.UUID) -> dict[str, Any]:
    status, cursor = read_items_query(request.args)
    row, who = wiring().bulk.get(bulk_id), visitor()
    where: dict[str, Any] = {"bulk_id": row.id} | ({"status": status.value} if status else {})
    found = door().bulk_reader.items(bulk_id, limit=PAGE_ROWS, status=status, cursor=cursor)
    return {
        "bulk": BulkView(row),
        "found": found,
        "names": desk().reader.names({item.row.agent_id for item in found.items if item.row.agent_id}),
        "tally": bulk_tally(row),
        "where": where,
        "live_url": url_for("console.bulk_live", cursor=request.args.get("cursor"), **where),
        "actions": bulk_actions(row, may_write=who is not None and who.may(Scope.WRITE)),
        # Whatever becomes of an item shows in the counts.
        "version": ".".join(str(part) for part in (row.status, *BulkView(row).counts.values(), row.finished_at)),
    }
