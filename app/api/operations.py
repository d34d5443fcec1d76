"""/api/operations: list, get, retry."""

import uuid
from typing import Any

from apiflask import APIBlueprint
from flask import Response
from marshmallow import RAISE

from app.api.answers import retry_answer
from app.api.context import door, origin, wiring
from app.api.documented import answers_with
from app.api.operation_schemas import OperationOut, OperationPage, OperationQuery
from app.api.schemas import Accepted
from app.domain.errors import ErrorCode

blueprint = APIBlueprint("operations", __name__, url_prefix="/api/operations", tag="Operations")


@blueprint.get("")
@blueprint.input(OperationQuery, location="query", unknown=RAISE)
@blueprint.output(OperationPage, description="One page.")
@answers_with(ErrorCode.VALIDATION_FAILED)
def list_operations(query_data: dict[str, Any]) -> object:
    """List operations, the newest first."""
    return door().reader.operations(**query_data)


@blueprint.get("/<operation_id>")
@blueprint.output(OperationOut, description="The operation.")
@answers_with(ErrorCode.OPERATION_NOT_FOUND)
def get_operation(operation_id: uuid.UUID) -> object:
    """Get one operation with its steps and timeline."""
    return door().reader.operation(operation_id)


@blueprint.post("/<operation_id>/retry")
@blueprint.output(Accepted, 202, description="Queued again, or afresh under a new id.")
@answers_with(
    ErrorCode.OPERATION_NOT_FOUND,
    ErrorCode.AGENT_NOT_FOUND,
    ErrorCode.OPERATION_FINISHED,
    ErrorCode.OPERATION_IN_PROGRESS,
    ErrorCode.AGENT_HAS_PHONE,
    ErrorCode.NUMBER_IN_USE,
    headers={202: ["Location", "Retry-After"]},
)
def retry_operation(operation_id: uuid.UUID) -> Response:
    """Queue an open operation again; start a failed or cancelled provisioning afresh."""
    operation = wiring().provisioning.retry(operation_id, origin=origin())
    return retry_answer(operation)
