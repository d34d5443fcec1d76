"""/api/audit: ask for a comparison of every row with both providers, and read its report."""

import uuid
from typing import Any

from apiflask import APIBlueprint
from flask import Response

from app.api.care_answers import audit_answer
from app.api.care_schemas import AuditAccepted, AuditIn, AuditOut
from app.api.context import door, origin, wiring
from app.api.documented import answers_with
from app.api.idempotency import idempotent
from app.domain.errors import ErrorCode

blueprint = APIBlueprint("audits", __name__, url_prefix="/api/audit", tag="Audit")


@blueprint.post("")
@idempotent
@blueprint.input(AuditIn)
@blueprint.output(AuditAccepted, 202, description="Queued: poll `statusUrl`.")
@answers_with(
    bodies={200: (AuditOut, "With `Prefer: wait`: the report.")},
    headers={200: ["Preference-Applied"], 202: ["Location", "Retry-After", "Preference-Applied"]},
)
def start_audit(json_data: dict[str, Any]) -> Response:
    """Compare every row with both providers; with `fix`, mend what can be mended."""
    audit_id = wiring().audits.ask(fix=json_data["fix"], origin=origin())
    wiring().publisher.publish_audit(audit_id)
    return audit_answer(audit_id)


@blueprint.get("")
@blueprint.output(AuditOut, description="The newest report.")
@answers_with(ErrorCode.AUDIT_NOT_FOUND)
def latest_audit() -> object:
    """Get the newest audit that is over."""
    return door().reader.report()


@blueprint.get("/<audit_id>")
@blueprint.output(AuditOut, description="The audit.")
@answers_with(ErrorCode.AUDIT_NOT_FOUND)
def get_audit(audit_id: uuid.UUID) -> object:
    """Get one audit, over or not."""
    return door().reader.audit(audit_id)
