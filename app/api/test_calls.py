"""/api/agents/{id}/test-calls: calls of ours to an agent's number, and what became of them."""

import uuid
from typing import Any

from apiflask import APIBlueprint
from flask import Response
from marshmallow import RAISE

from app.api.responses import POLL_AFTER_S, call_with_wait, idempotent, packed
from app.domain.errors import ErrorCode
from app.views.call_schemas import (
    TestCallAccepted,
    TestCallEnded,
    TestCallOut,
    TestCallPageOut,
    TestCallQuery,
    page_of_calls,
)
from app.web.context import origin, wiring
from app.web.documented import responds_with

blueprint = APIBlueprint("test_calls", __name__, url_prefix="/api/agents/<agent_id>/test-calls", tag="Test calls")

_ACCEPTED, _ENDED = TestCallAccepted(), TestCallEnded()


@blueprint.post("")
@idempotent
@blueprint.output(TestCallAccepted, 202, description="Queued: poll `statusUrl`.")
@responds_with(
    ErrorCode.AGENT_NOT_FOUND,
    ErrorCode.AGENT_HAS_NO_PHONE,
    ErrorCode.TEST_CALL_LIMIT,
    bodies={200: (TestCallEnded, "With `Prefer: wait`: the call and its verdict.")},
    headers={200: ["Preference-Applied"], 202: ["Location", "Retry-After", "Preference-Applied"]},
)
def place_test_call(agent_id: uuid.UUID) -> Response:
    """Call the agent's number as Twilio would, and say what becomes of the call; at most 10 in 15 minutes."""
    call = wiring().calls.request(agent_id, origin=origin())
    ended, headers = call_with_wait(lambda timeout: wiring().calls.wait(agent_id, call.id, timeout))
    if ended is not None and ended.finished_at is not None:
        return packed(_ENDED, ended, 200, headers)
    url = f"/api/agents/{agent_id}/test-calls/{call.id}"
    headers |= {"Location": url, "Retry-After": str(POLL_AFTER_S)}
    return packed(_ACCEPTED, {"success": True, "test_call_id": call.id, "status_url": url}, 202, headers)


@blueprint.get("/<call_id>")
@blueprint.output(TestCallOut, description="The call.")
@responds_with(ErrorCode.AGENT_NOT_FOUND, ErrorCode.TEST_CALL_NOT_FOUND)
def get_test_call(agent_id: uuid.UUID, call_id: uuid.UUID) -> object:
    """Get one test call."""
    return wiring().calls.get(agent_id, call_id)


@blueprint.get("")
@blueprint.input(TestCallQuery, location="query", unknown=RAISE)
@blueprint.output(TestCallPageOut, description="One page.")
@responds_with(ErrorCode.AGENT_NOT_FOUND, ErrorCode.VALIDATION_FAILED)
def list_test_calls(agent_id: uuid.UUID, query_data: dict[str, Any]) -> object:
    """List the agent's test calls of the last 30 days, the newest first."""
    return page_of_calls(wiring().calls, agent_id, **query_data)
