"""/api/operations and /api/audit."""

import uuid
from typing import Any

from apiflask import APIBlueprint
from flask import Response
from marshmallow import RAISE

from app.api.responses import audit_response, idempotent, retry_response
from app.domain.errors import ErrorCode
from app.views.agent_schemas import Accepted
from app.views.operation_schemas import AuditAccepted, AuditIn, AuditOut, OperationOut, OperationPage, OperationQuery
from app.web.context import origin, web_services, wiring
from app.web.documented import responds_with

blueprint = APIBlueprint("operations", __name__, url_prefix="/api/operations", tag="Operations")


@blueprint.get("")
@blueprint.input(OperationQuery, location="query", unknown=RAISE)
@blueprint.output(OperationPage, description="One page.")
@responds_with(ErrorCode.VALIDATION_FAILED)
def list_operations(query_data: dict[str, Any]) -> object:
    """List operations, the newest first."""
    return web_services().reader.operations(**query_data)


@blueprint.get("/<operation_id>")
@blueprint.output(OperationOut, description="The operation.")
@responds_with(ErrorCode.OPERATION_NOT_FOUND)
def get_operation(operation_id: uuid.UUID) -> object:
    """Get one operation with its steps and events."""
    return web_services().reader.operation(operation_id)


@blueprint.post("/<operation_id>/retry")
@blueprint.output(Accepted, 202, description="Queued again, or started again under a new id.")
@responds_with(
    ErrorCode.OPERATION_NOT_FOUND,
    ErrorCode.AGENT_NOT_FOUND,
    ErrorCode.OPERATION_FINISHED,
    ErrorCode.OPERATION_IN_PROGRESS,
    ErrorCode.AGENT_HAS_PHONE,
    ErrorCode.NUMBER_IN_USE,
    headers={202: ["Location", "Retry-After"]},
)
def retry_operation(operation_id: uuid.UUID) -> Response:
    """Queue an open operation again; start a failed or cancelled provisioning again."""
    operation = wiring().provisioning.retry(operation_id, origin=origin())
    return retry_response(operation)


audits_blueprint = APIBlueprint("audits", __name__, url_prefix="/api/audit", tag="Audit")


@audits_blueprint.post("")
@idempotent
@audits_blueprint.input(AuditIn)
@audits_blueprint.output(AuditAccepted, 202, description="Queued: poll `statusUrl`.")
@responds_with(
    bodies={200: (AuditOut, "With `Prefer: wait`: the report.")},
    headers={200: ["Preference-Applied"], 202: ["Location", "Retry-After", "Preference-Applied"]},
)
def start_audit(json_data: dict[str, Any]) -> Response:
    """Compare every row with both providers; with `fix`, repair what can be repaired."""
    audit_id = wiring().audits.request_audit(fix=json_data["fix"], origin=origin())
    wiring().publisher.publish_audit(audit_id)
    return audit_response(audit_id)


@audits_blueprint.get("")
@audits_blueprint.output(AuditOut, description="The newest report.")
@responds_with(ErrorCode.AUDIT_NOT_FOUND)
def latest_audit() -> object:
    """Get the newest finished audit."""
    return web_services().reader.report()


@audits_blueprint.get("/<audit_id>")
@audits_blueprint.output(AuditOut, description="The audit.")
@responds_with(ErrorCode.AUDIT_NOT_FOUND)
def get_audit(audit_id: uuid.UUID) -> object:
    """Get one audit, finished or not."""
    return web_services().reader.audit(audit_id)
