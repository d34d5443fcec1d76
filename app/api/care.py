"""/api/agents/{id}/…: verify a path that stands, repair it, move its number."""

import uuid
from typing import Any

from apiflask import APIBlueprint
from flask import Response

from app.api.care_answers import move_answer, repair_answer, verification_answer
from app.api.care_schemas import MovedOut, MoveIn, RepairedOut, RepairIn, VerifiedOut
from app.api.context import origin, wiring
from app.api.documented import WAITED, answers_with
from app.api.idempotency import idempotent
from app.api.schemas import Accepted
from app.domain.errors import ErrorCode

blueprint = APIBlueprint("care", __name__, url_prefix="/api/agents/<agent_id>", tag="Care")

HEADERS = {200: ["Preference-Applied"], 202: ["Location", "Retry-After", "Preference-Applied"]}


@blueprint.post("/verify")
@blueprint.output(VerifiedOut, description="What was found.")
@answers_with(ErrorCode.AGENT_NOT_FOUND, ErrorCode.AGENT_HAS_NO_PHONE, *WAITED)
def verify_phone(agent_id: uuid.UUID) -> Response:
    """Compare the agent's path with both providers now."""
    return verification_answer(wiring().care.verify(agent_id))


@blueprint.post("/repair")
@idempotent
@blueprint.input(RepairIn)
@blueprint.output(Accepted, 202, description="Queued: poll `statusUrl`.")
@answers_with(
    ErrorCode.AGENT_NOT_FOUND,
    ErrorCode.AGENT_HAS_NO_PHONE,
    ErrorCode.OPERATION_IN_PROGRESS,
    *WAITED,
    bodies={200: (RepairedOut, "All is well: nothing was to do, or `Prefer: wait` was long enough.")},
    headers=HEADERS,
)
def repair_phone(agent_id: uuid.UUID, json_data: dict[str, Any]) -> Response:
    """Rebuild what is missing or changed on the agent's path."""
    return repair_answer(wiring().care.repair(agent_id, takeover=json_data["takeover"], origin=origin()))


@blueprint.post("/move-phone")
@idempotent
@blueprint.input(MoveIn)
@blueprint.output(Accepted, 202, description="Queued: poll `statusUrl`.")
@answers_with(
    ErrorCode.AGENT_NOT_FOUND,
    ErrorCode.AGENT_HAS_NO_PHONE,
    ErrorCode.AGENT_HAS_PHONE,
    ErrorCode.OPERATION_IN_PROGRESS,
    *WAITED,
    bodies={200: (MovedOut, "With `Prefer: wait`: the number rings the other agent.")},
    headers=HEADERS,
)
def move_phone(agent_id: uuid.UUID, json_data: dict[str, Any]) -> Response:
    """Hand the agent's number to another agent, with no moment at which a caller reaches nobody."""
    return move_answer(wiring().care.move(agent_id, json_data["to_agent_id"], origin=origin()))
