"""/api/trunks: the Twilio trunks of the installation, and how many more numbers fit.

A module of its own because every resource of the API has one.
"""

from typing import Any

from apiflask import APIBlueprint
from flask import Response
from marshmallow import RAISE

from app.api.provisionings import accepted
from app.api.responses import idempotent, packed
from app.domain.errors import ErrorCode
from app.views.bulk_schemas import BulkAccepted
from app.views.trunk_schemas import ConsolidateQuery, ConsolidationOut, TrunkPageOut, TrunkQuery
from app.web.authentication import charge_items
from app.web.context import origin, web_services, wiring
from app.web.documented import responds_with

blueprint = APIBlueprint("trunks", __name__, url_prefix="/api/trunks", tag="Trunks")

_PLAN = ConsolidationOut()


@blueprint.get("")
@blueprint.input(TrunkQuery, location="query", unknown=RAISE)
@blueprint.output(TrunkPageOut, description="One page.")
@responds_with(ErrorCode.VALIDATION_FAILED)
def list_trunks(query_data: dict[str, Any]) -> object:
    """List the Twilio trunks that numbers share and those of single agents, the newest first."""
    page = web_services().trunk_reader.trunks(**query_data)
    return {"items": page.items, "next_cursor": page.next_cursor, "headroom": wiring().headroom.of()}


@blueprint.post("/consolidate")
@idempotent
@blueprint.input(ConsolidateQuery, location="query", unknown=RAISE)
@blueprint.output(BulkAccepted, 202, description="The numbers are moved as a bulk: poll `statusUrl`.")
@responds_with(
    ErrorCode.VALIDATION_FAILED,
    bodies={200: (ConsolidationOut, "With `dryRun`, or where nothing is to be moved: what there is to do.")},
    headers={202: ["Location", "Retry-After"]},
)
def consolidate(query_data: dict[str, Any]) -> Response:
    """Move every number from a trunk of its own to shared ones, ringing throughout; with `dryRun`, only say what."""
    plan = wiring().consolidation.plan()
    if query_data["dry_run"] or not plan.agents:
        return packed(_PLAN, plan, 200, {})
    charge_items(plan.agents)
    plan, bulk = wiring().consolidation.start(origin=origin())
    return packed(_PLAN, plan, 200, {}) if bulk is None else accepted(bulk, None)
