"""/api/provisionings: many numbers in one request."""

import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from apiflask import APIBlueprint, Schema
from flask import Response
from flask.typing import ResponseReturnValue
from marshmallow import RAISE

from app.api.responses import POLL_AFTER_S, idempotent, packed
from app.bulk.items import read_items
from app.bulk.preview import BulkPreview
from app.db.models import Bulk
from app.domain.errors import ErrorCode
from app.domain.operations import BulkKind, ItemStatus
from app.numbers.headroom import Headroom
from app.views.bulk_schemas import (
    MAX_FAILURES,
    BulkAccepted,
    BulkCancelled,
    BulkIn,
    BulkItemPage,
    BulkItemQuery,
    BulkKindQuery,
    BulkOut,
    BulkPage,
    BulkPlanOut,
    BulkQuery,
)
from app.views.bulks import BulkView, ItemView, bulk_url, report_download
from app.views.option_schemas import read_options
from app.web.authentication import charge_items
from app.web.context import origin, web_services, wiring
from app.web.documented import responds_with
from app.web.problems import hinted

blueprint = APIBlueprint("provisionings", __name__, url_prefix="/api/provisionings", tag="Bulk")

_ACCEPTED, _BULK, _CANCELLED, _BULK_PLAN = BulkAccepted(), BulkOut(), BulkCancelled(), BulkPlanOut()


@blueprint.post("")
@idempotent
@blueprint.input(BulkKindQuery, location="query", unknown=RAISE)
@blueprint.input(BulkIn)
@blueprint.output(BulkAccepted, 202, description="Stored: poll `statusUrl`. Invalid items have failed already.")
@responds_with(
    bodies={200: (BulkPlanOut, "With `dryRun`: what would become of each item.")},
    headers={202: ["Location", "Retry-After"]},
)
def start_bulk(json_data: dict[str, Any], query_data: dict[str, Any]) -> Response:
    """Connect up to 10,000 numbers, or adopt their paths, as JSON or CSV; with `dryRun`, only say what would be."""
    kind = BulkKind(query_data["kind"])
    items = read_items(json_data["items"], read_options, kind)
    if query_data["dry_run"]:
        return _plan(wiring().bulk_preview.preview(items, kind))
    charge_items(len(items))
    # Before anything is stored: after that, nothing may fail.
    room = wiring().headroom.for_items(items) if kind is BulkKind.PROVISION else None
    bulk = wiring().bulk.accept(items, origin=origin(), kind=kind)
    return accepted(bulk, room)


def accepted(bulk: Bulk, room: Headroom | None) -> Response:
    """Return 202 for a bulk that was just stored; `room` is None where it is unknown, or matters to no number."""
    url = bulk_url(bulk.id)
    fields = {"status": bulk.status, "total": bulk.total, "counts": BulkView.of(bulk).counts, "headroom": room}
    body = {"success": True, "bulk_id": bulk.id, "status_url": url, "failures": _failures_of(bulk), **fields}
    return packed(_ACCEPTED, body, 202, {"Location": url, "Retry-After": str(POLL_AFTER_S)})


def _failures_of(bulk: Bulk) -> Sequence[ItemView]:
    reader = web_services().bulk_reader
    return reader.items(bulk.id, limit=MAX_FAILURES, status=ItemStatus.FAILED).items if bulk.failed else ()


def _plan(preview: BulkPreview) -> Response:
    obstacles = [replace(one, detail=hinted(one.code, one.detail)) if one.blocks else one for one in preview.obstacles]
    body = {name: getattr(preview, name) for name in ("kind", "total", "would_start", "are_numbers_known", "headroom")}
    return packed(_BULK_PLAN, {"success": True, "is_dry_run": True, "obstacles": obstacles, **body}, 200, {})


@blueprint.get("/<bulk_id>")
@blueprint.output(BulkOut, description="The bulk.")
@responds_with(ErrorCode.BULK_NOT_FOUND)
def get_bulk(bulk_id: uuid.UUID) -> object:
    """Get one bulk: counts, progress, times, links."""
    return BulkView.of(wiring().bulk.get(bulk_id))


@blueprint.get("")
@blueprint.input(BulkQuery, location="query", unknown=RAISE)
@blueprint.output(BulkPage, description="One page.")
@responds_with(ErrorCode.VALIDATION_FAILED)
def list_bulks(query_data: dict[str, Any]) -> object:
    """List bulks, the newest first."""
    return web_services().bulk_reader.bulks(**query_data)


@blueprint.get("/<bulk_id>/items")
@blueprint.input(BulkItemQuery, location="query", unknown=RAISE)
@blueprint.output(BulkItemPage, description="One page.")
@responds_with(ErrorCode.BULK_NOT_FOUND, ErrorCode.VALIDATION_FAILED)
def list_bulk_items(bulk_id: uuid.UUID, query_data: dict[str, Any]) -> object:
    """List the items and their results, in the order of the request."""
    return web_services().bulk_reader.items(bulk_id, **query_data)


@blueprint.get("/<bulk_id>/report")
@responds_with(ErrorCode.BULK_NOT_FOUND, texts={200: ("text/csv", "Every item, one line each, with a header row.")})
def get_bulk_report(bulk_id: uuid.UUID) -> ResponseReturnValue:
    """Get the result of each item as a CSV file."""
    return report_download(bulk_id, wiring().bulk.items(bulk_id))


@blueprint.post("/<bulk_id>/cancel")
@blueprint.output(BulkCancelled, 202, description="No further item starts; items that have started run to completion.")
@responds_with(ErrorCode.BULK_NOT_FOUND, headers={202: ["Location", "Retry-After"]})
def cancel_bulk(bulk_id: uuid.UUID) -> Response:
    """Cancel every item for which no provider has been called yet."""
    told = wiring().bulk.cancel(bulk_id, origin=origin())
    return _changed(_CANCELLED, told.bulk, cancellation=told)


@blueprint.post("/<bulk_id>/resume")
@blueprint.output(BulkOut, 202, description="The items are pending again.")
@responds_with(ErrorCode.BULK_NOT_FOUND, headers={202: ["Location", "Retry-After"]})
def resume_bulk(bulk_id: uuid.UUID) -> Response:
    """Retry every item that failed or was cancelled, except invalid ones."""
    charge_items(wiring().bulk.resumable(bulk_id))
    return _changed(_BULK, wiring().bulk.resume(bulk_id, origin=origin()))


def _changed(schema: Schema, bulk: Bulk, **more: object) -> Response:
    view = BulkView.of(bulk)
    body = {name: getattr(view, name) for name in _BULK.fields} | more
    return packed(schema, body, 202, {"Location": bulk_url(bulk.id), "Retry-After": str(POLL_AFTER_S)})
