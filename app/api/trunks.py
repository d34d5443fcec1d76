"""/api/trunks: the Twilio trunks of the installation, and how many more numbers fit.

A module of its own because every resource of the API has one.
"""

from typing import Any

from apiflask import APIBlueprint
from marshmallow import RAISE

from app.domain.errors import ErrorCode
from app.views.trunk_schemas import TrunkPageOut, TrunkQuery
from app.web.context import web_services, wiring
from app.web.documented import responds_with

blueprint = APIBlueprint("trunks", __name__, url_prefix="/api/trunks", tag="Trunks")


@blueprint.get("")
@blueprint.input(TrunkQuery, location="query", unknown=RAISE)
@blueprint.output(TrunkPageOut, description="One page.")
@responds_with(ErrorCode.VALIDATION_FAILED)
def list_trunks(query_data: dict[str, Any]) -> object:
    """List the Twilio trunks that numbers share and those of single agents, the newest first."""
    page = web_services().trunk_reader.trunks(**query_data)
    return {"items": page.items, "next_cursor": page.next_cursor, "headroom": wiring().headroom.now()}
