"""/api/declarations: the agents and numbers of a workspace, as one document."""

from typing import Any

from apiflask import APIBlueprint
from flask import Response
from marshmallow import RAISE

from app.api.responses import POLL_AFTER_S, idempotent, packed
from app.domain.errors import ErrorCode
from app.views.bulks import bulk_url
from app.views.declaration_schemas import (
    DeclarationIn,
    DeclarationOut,
    DeclarationPlanOut,
    DeclarationQuery,
    declaration_body,
    plan_body,
    read_declaration,
)
from app.web.authentication import charge_items
from app.web.context import origin, wiring
from app.web.documented import responds_with

blueprint = APIBlueprint("declarations", __name__, url_prefix="/api/declarations", tag="Declarations")

_PLAN = DeclarationPlanOut()


@blueprint.get("")
@blueprint.output(DeclarationOut, description="The declaration; to apply it changes nothing.")
@responds_with()
def export_declaration() -> object:
    """Get what is there as a declaration: every agent that has an `externalId`."""
    return declaration_body(wiring().declarations.export())


@blueprint.post("")
@idempotent
@blueprint.input(DeclarationQuery, location="query", unknown=RAISE)
@blueprint.input(DeclarationIn)
@blueprint.output(DeclarationPlanOut, description="Nothing to do, or all done; with `dryRun`: the plan.")
@responds_with(
    ErrorCode.OPERATION_IN_PROGRESS,
    ErrorCode.DECLARATION_CONFLICT,
    bodies={202: (DeclarationPlanOut, "Rows are changed; a bulk does the rest: poll `statusUrl`.")},
    headers={202: ["Location", "Retry-After"]},
)
def apply_declaration(json_data: dict[str, Any], query_data: dict[str, Any]) -> Response:
    """Make agents and numbers what is declared, all in one transaction; with `dryRun`, only return the plan."""
    declared, prune = read_declaration(json_data["agents"]), query_data["prune"]
    if query_data["dry_run"]:
        return packed(_PLAN, plan_body(wiring().declarations.preview(declared, prune=prune), is_dry_run=True), 200, {})
    applied = wiring().declarations.apply(declared, prune=prune, origin=origin(), charge=charge_items)
    if applied.bulk is None:
        return packed(_PLAN, plan_body(applied.plan, is_dry_run=False), 200, {})
    url = bulk_url(applied.bulk.id)
    body = plan_body(applied.plan, is_dry_run=False, bulk_id=applied.bulk.id, status_url=url)
    return packed(_PLAN, body, 202, {"Location": url, "Retry-After": str(POLL_AFTER_S)})
