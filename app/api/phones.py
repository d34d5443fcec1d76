"""/api/agents/{id}/…phone: connect a number, poll, disconnect."""

import uuid
from typing import Any

from apiflask import APIBlueprint
from flask import Response, current_app, request
from marshmallow import RAISE

from app.api.answers import deprovisioning_answer, provisioning_answer
from app.api.care_answers import plan_answer
from app.api.care_schemas import PlanOut, ProvisionQuery
from app.api.context import door, origin, wiring
from app.api.documented import WAITED, answers_with
from app.api.idempotency import idempotent
from app.api.operation_schemas import PhoneOut
from app.api.schemas import Accepted, Done, Provisioned, ProvisionIn
from app.domain.errors import ErrorCode

blueprint = APIBlueprint("phones", __name__, url_prefix="/api/agents/<agent_id>", tag="Phone numbers")

_PHONE = PhoneOut()


@blueprint.post("/provision-phone")
@idempotent
@blueprint.input(ProvisionQuery, location="query", unknown=RAISE)
@blueprint.input(ProvisionIn)
@blueprint.output(Accepted, 202, description="Queued: poll `statusUrl`.")
@answers_with(
    ErrorCode.AGENT_NOT_FOUND,
    ErrorCode.AGENT_HAS_PHONE,
    ErrorCode.NUMBER_IN_USE,
    ErrorCode.OPERATION_IN_PROGRESS,
    *WAITED,
    bodies={200: ((Provisioned, PlanOut), "With `Prefer: wait`: the number rings the agent. With `dryRun`: the plan.")},
    headers={200: ["Preference-Applied"], 202: ["Location", "Retry-After", "Preference-Applied"]},
)
def provision_phone(agent_id: uuid.UUID, json_data: dict[str, Any], query_data: dict[str, Any]) -> Response:
    """Connect a number to the agent, or say with `dryRun` what that would do."""
    number, takeover = json_data["phone_number"], json_data["takeover"]
    if query_data["dry_run"]:
        return plan_answer(wiring().planning.preview(agent_id, number, takeover=takeover))
    operation = wiring().provisioning.provision(agent_id, number, takeover=takeover, origin=origin())
    return provisioning_answer(operation)


@blueprint.get("/phone-status")
@blueprint.output(PhoneOut, description="Where the agent's number stands.")
@answers_with(
    ErrorCode.AGENT_NOT_FOUND,
    bodies={304: (None, "Nothing has changed since the answer whose `ETag` was sent in `If-None-Match`.")},
    headers={200: ["ETag"], 304: ["ETag"]},
)
def phone_status(agent_id: uuid.UUID) -> Response:
    """Get the state of the agent's number."""
    etag = door().reader.phone_etag(agent_id)
    unchanged = request.if_none_match.contains_weak(etag)
    body = "" if unchanged else current_app.json.dumps(_PHONE.dump(door().reader.phone(agent_id)))
    response = Response(body, 304 if unchanged else 200, mimetype="application/json")
    response.set_etag(etag)
    response.headers["Cache-Control"] = "no-cache"
    return response


@blueprint.delete("/deprovision-phone")
@idempotent
@blueprint.output(Accepted, 202, description="Queued: poll `statusUrl`.")
@answers_with(
    ErrorCode.AGENT_NOT_FOUND,
    ErrorCode.OPERATION_IN_PROGRESS,
    bodies={200: (Done, "The agent has no number: it had none, or `Prefer: wait` was long enough.")},
    headers={200: ["Preference-Applied"], 202: ["Location", "Retry-After", "Preference-Applied"]},
)
def deprovision_phone(agent_id: uuid.UUID) -> Response:
    """Disconnect the agent's number; while it is being connected, cancel that."""
    operation = wiring().provisioning.deprovision(agent_id, origin=origin())
    return deprovisioning_answer(operation)
