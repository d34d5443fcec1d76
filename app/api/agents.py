"""/api/agents and /api/agents/{id}/...: agents, their numbers, and the path between them."""

import uuid
from typing import Any

from apiflask import APIBlueprint
from flask import Response, current_app, request
from flask.typing import ResponseReturnValue
from marshmallow import RAISE

from app.api.responses import (
    adoption_response,
    agent_response,
    agent_url,
    change_response,
    deprovisioning_response,
    idempotent,
    move_response,
    plan_response,
    provisioning_response,
    repair_response,
    verification_response,
    version_matcher,
)
from app.domain.errors import OPERATION_ERROR_CODES, ErrorCode
from app.domain.operations import TrunkMode
from app.domain.options import options_of
from app.numbers.changing import patched_by
from app.views.adoptions import AdoptIn, AdoptionPlanOut, DeprovisionQuery
from app.views.agent_schemas import (
    Accepted,
    AgentIn,
    AgentOut,
    AgentPage,
    AgentPatchIn,
    AgentQuery,
    Done,
    Provisioned,
    ProvisionIn,
)
from app.views.operation_schemas import (
    MovedOut,
    MoveIn,
    PhoneOut,
    PlanOut,
    ProvisionQuery,
    RepairedOut,
    RepairIn,
    VerifiedOut,
)
from app.web.context import origin, web_services, wiring
from app.web.documented import responds_with

blueprint = APIBlueprint("agents", __name__, url_prefix="/api/agents", tag="Agents")


@blueprint.post("")
@idempotent
@blueprint.input(AgentIn)
@blueprint.output(AgentOut, 201, description="The agent.")
@responds_with(ErrorCode.EXTERNAL_ID_IN_USE, headers={201: ["Location", "ETag"]})
def create_agent(json_data: dict[str, Any]) -> Response:
    """Create an agent."""
    agent = wiring().agents.create(
        json_data["name"],
        json_data.get("livekit_agent_name"),
        json_data.get("agent_metadata", {}),
        external_id=json_data.get("external_id"),
        options=options_of(json_data.get("options", {})),
        trunk_mode=json_data.get("trunk_mode", TrunkMode.SHARED),
        carrier_account_id=json_data.get("carrier_account_id"),
        voice_project_id=json_data.get("voice_project_id"),
        origin=origin(),
    )
    return agent_response(agent, 201, {"Location": agent_url(agent.id)})


@blueprint.get("")
@blueprint.input(AgentQuery, location="query", unknown=RAISE)
@blueprint.output(AgentPage, description="One page.")
@responds_with(ErrorCode.VALIDATION_FAILED)
def list_agents(query_data: dict[str, Any]) -> object:
    """List agents, the newest first."""
    return web_services().reader.agents(**query_data)


@blueprint.get("/<agent_id>")
@blueprint.output(AgentOut, description="The agent.")
@responds_with(ErrorCode.AGENT_NOT_FOUND, headers={200: ["ETag"]})
def get_agent(agent_id: uuid.UUID) -> Response:
    """Get one agent."""
    return agent_response(wiring().agents.get(agent_id))


@blueprint.patch("/<agent_id>")
@idempotent
@blueprint.input(AgentPatchIn)
@blueprint.output(AgentOut, description="The agent: changed, or as it was where nothing differs.")
@responds_with(
    ErrorCode.AGENT_NOT_FOUND,
    ErrorCode.VERSION_MISMATCH,
    ErrorCode.OPERATION_IN_PROGRESS,
    ErrorCode.EXTERNAL_ID_IN_USE,
    ErrorCode.AGENT_HAS_PHONE,
    ErrorCode.ACCOUNTS_DIFFER,
    ErrorCode.SHARED_WITH_OTHERS,
    *OPERATION_ERROR_CODES,
    bodies={202: (Accepted, "Its path is being changed, and the agent with it once that is done: poll `statusUrl`.")},
    headers={
        200: ["ETag", "Preference-Applied"],
        202: ["Location", "Retry-After", "Preference-Applied"],
    },
)
def change_agent(agent_id: uuid.UUID, json_data: dict[str, Any]) -> Response:
    """Change an agent's names, metadata and options, by a merge patch; undone as a whole if it fails."""
    is_current = version_matcher(request)
    return change_response(
        wiring().changes.change(agent_id, patched_by(json_data), is_current=is_current, origin=origin())
    )


@blueprint.delete("/<agent_id>")
@blueprint.output({}, 204, description="Deleted.")
@responds_with(ErrorCode.AGENT_NOT_FOUND, ErrorCode.AGENT_HAS_PHONE, ErrorCode.OPERATION_IN_PROGRESS)
def delete_agent(agent_id: uuid.UUID) -> ResponseReturnValue:
    """Delete an agent that has no number."""
    wiring().agents.delete(agent_id, origin=origin())
    return "", 204


phones_blueprint = APIBlueprint("phones", __name__, url_prefix="/api/agents/<agent_id>", tag="Phone numbers")

_PHONE = PhoneOut()


@phones_blueprint.post("/provision-phone")
@idempotent
@phones_blueprint.input(ProvisionQuery, location="query", unknown=RAISE)
@phones_blueprint.input(ProvisionIn)
@phones_blueprint.output(Accepted, 202, description="Queued: poll `statusUrl`.")
@responds_with(
    ErrorCode.AGENT_NOT_FOUND,
    ErrorCode.AGENT_HAS_PHONE,
    ErrorCode.NUMBER_IN_USE,
    ErrorCode.OPERATION_IN_PROGRESS,
    *OPERATION_ERROR_CODES,
    bodies={200: ((Provisioned, PlanOut), "With `Prefer: wait`: the number rings the agent. With `dryRun`: the plan.")},
    headers={200: ["Preference-Applied"], 202: ["Location", "Retry-After", "Preference-Applied"]},
)
def provision_phone(agent_id: uuid.UUID, json_data: dict[str, Any], query_data: dict[str, Any]) -> Response:
    """Connect a number to the agent; with `dryRun`, only return the plan."""
    number, takeover = json_data["phone_number"], json_data["takeover"]
    if query_data["dry_run"]:
        return plan_response(wiring().planning.preview(agent_id, number, takeover=takeover))
    operation = wiring().provisioning.provision(agent_id, number, takeover=takeover, origin=origin())
    return provisioning_response(operation)


@phones_blueprint.post("/adopt-phone")
@idempotent
@phones_blueprint.input(ProvisionQuery, location="query", unknown=RAISE)
@phones_blueprint.input(AdoptIn)
@phones_blueprint.output(Accepted, 202, description="Queued: poll `statusUrl`.")
@responds_with(
    ErrorCode.AGENT_NOT_FOUND,
    ErrorCode.AGENT_HAS_PHONE,
    ErrorCode.NUMBER_IN_USE,
    ErrorCode.OPERATION_IN_PROGRESS,
    ErrorCode.NOT_ADOPTABLE,
    *OPERATION_ERROR_CODES,
    bodies={
        200: (
            (Provisioned, AdoptionPlanOut),
            "With `Prefer: wait`: the path is the agent's. With `dryRun`: what would be.",
        )
    },
    headers={200: ["Preference-Applied"], 202: ["Location", "Retry-After", "Preference-Applied"]},
)
def adopt_phone(agent_id: uuid.UUID, json_data: dict[str, Any], query_data: dict[str, Any]) -> Response:
    """Make the path that a number rings by already the agent's; with `dryRun`, only return what would be done."""
    number = json_data["phone_number"]
    if query_data["dry_run"]:
        return adoption_response(wiring().adoption.preview(agent_id, number))
    return provisioning_response(wiring().adoption.adopt(agent_id, number, origin=origin()))


@phones_blueprint.get("/phone-status")
@phones_blueprint.output(PhoneOut, description="The status of the agent's number.")
@responds_with(
    ErrorCode.AGENT_NOT_FOUND,
    bodies={304: (None, "Nothing has changed since the response whose `ETag` was sent in `If-None-Match`.")},
    headers={200: ["ETag"], 304: ["ETag"]},
)
def phone_status(agent_id: uuid.UUID) -> Response:
    """Get the state of the agent's number."""
    etag = web_services().reader.phone_etag(agent_id)
    unchanged = request.if_none_match.contains_weak(etag)
    body = "" if unchanged else current_app.json.dumps(_PHONE.dump(web_services().reader.phone(agent_id)))
    response = Response(body, 304 if unchanged else 200, mimetype="application/json")
    response.set_etag(etag)
    response.headers["Cache-Control"] = "no-cache"
    return response


@phones_blueprint.delete("/deprovision-phone")
@idempotent
@phones_blueprint.input(DeprovisionQuery, location="query", unknown=RAISE)
@phones_blueprint.output(Accepted, 202, description="Queued: poll `statusUrl`.")
@responds_with(
    ErrorCode.AGENT_NOT_FOUND,
    ErrorCode.KEEP_OR_REMOVE,
    ErrorCode.OPERATION_IN_PROGRESS,
    bodies={200: (Done, "The agent has no number: it had none, or `Prefer: wait` was long enough.")},
    headers={200: ["Preference-Applied"], 202: ["Location", "Retry-After", "Preference-Applied"]},
)
def deprovision_phone(agent_id: uuid.UUID, query_data: dict[str, Any]) -> Response:
    """Disconnect the agent's number; cancel the operation if it is being connected."""
    operation = wiring().provisioning.deprovision(agent_id, origin=origin(), path=query_data.get("path"))
    return deprovisioning_response(operation)


maintenance_blueprint = APIBlueprint("care", __name__, url_prefix="/api/agents/<agent_id>", tag="Care")

HEADERS = {200: ["Preference-Applied"], 202: ["Location", "Retry-After", "Preference-Applied"]}


@maintenance_blueprint.post("/verify")
@maintenance_blueprint.output(VerifiedOut, description="What was found.")
@responds_with(ErrorCode.AGENT_NOT_FOUND, ErrorCode.AGENT_HAS_NO_PHONE, *OPERATION_ERROR_CODES)
def verify_phone(agent_id: uuid.UUID) -> Response:
    """Compare the agent's path with both providers now."""
    return verification_response(wiring().maintenance.verify(agent_id))


@maintenance_blueprint.post("/repair")
@idempotent
@maintenance_blueprint.input(RepairIn)
@maintenance_blueprint.output(Accepted, 202, description="Queued: poll `statusUrl`.")
@responds_with(
    ErrorCode.AGENT_NOT_FOUND,
    ErrorCode.AGENT_HAS_NO_PHONE,
    ErrorCode.OPERATION_IN_PROGRESS,
    ErrorCode.NOT_OURS_TO_REPAIR,
    *OPERATION_ERROR_CODES,
    bodies={200: (RepairedOut, "Nothing needed repair, or `Prefer: wait` was long enough.")},
    headers=HEADERS,
)
def repair_phone(agent_id: uuid.UUID, json_data: dict[str, Any]) -> Response:
    """Rebuild what is missing or changed on the agent's path."""
    return repair_response(wiring().maintenance.repair(agent_id, takeover=json_data["takeover"], origin=origin()))


@maintenance_blueprint.post("/move-phone")
@idempotent
@maintenance_blueprint.input(MoveIn)
@maintenance_blueprint.output(Accepted, 202, description="Queued: poll `statusUrl`.")
@responds_with(
    ErrorCode.AGENT_NOT_FOUND,
    ErrorCode.AGENT_HAS_NO_PHONE,
    ErrorCode.ACCOUNTS_DIFFER,
    ErrorCode.AGENT_HAS_PHONE,
    ErrorCode.OPERATION_IN_PROGRESS,
    *OPERATION_ERROR_CODES,
    bodies={200: (MovedOut, "With `Prefer: wait`: the number rings the other agent.")},
    headers=HEADERS,
)
def move_phone(agent_id: uuid.UUID, json_data: dict[str, Any]) -> Response:
    """Move the agent's number to another agent; callers reach one of them at every moment."""
    return move_response(wiring().maintenance.move(agent_id, json_data["to_agent_id"], origin=origin()))
