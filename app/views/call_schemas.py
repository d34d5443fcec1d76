"""Request and response bodies of test calls."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from marshmallow import fields

from app.db.models import TestCall
from app.db.queries import Position
from app.domain.calls import CallStatus, CallVerdict
from app.views.agent_schemas import (
    AGENT_ID,
    DISPATCH_RULE_ID,
    INBOUND_TRUNK_ID,
    NUMBER,
    PageQuery,
    moment,
    next_page,
    text,
)
from app.views.fields import Schema, choice
from app.views.reader import encode_cursor

if TYPE_CHECKING:
    from app.numbers.test_calls import CallService

CALL_ID = "3f0d6c1e-52a7-4f0b-9a5e-6c5b6e0c7a11"


class TestCallRoomOut(Schema):
    """The room that the call came into, as LiveKit's API showed it."""

    name = text("The room.", "call_+12025550100_6dfa")
    identity = text("The caller's participant in it.", "sip_+12025550100")
    trunk_id = text("The LiveKit trunk that took the call; empty: none.", INBOUND_TRUNK_ID, data_key="trunkId")
    rule_id = text("The dispatch rule that took it.", DISPATCH_RULE_ID, data_key="ruleId")
    agents = fields.List(
        fields.String(), metadata={"description": "The agents that were dispatched.", "example": ["front-desk"]}
    )
    joined = fields.List(
        fields.String(), metadata={"description": "The agents' participants in the room.", "example": ["agent-AJ_8Qz"]}
    )


class TestCallOut(Schema):
    """A test call."""

    id = fields.UUID(metadata={"example": CALL_ID})
    agent_id = fields.UUID(data_key="agentId", metadata={"example": AGENT_ID})
    phone_number = text("The number that was called.", NUMBER, data_key="phoneNumber")
    caller = text("The number that it was called from.", "+12025550100")
    is_monitor = fields.Boolean(
        data_key="isMonitor", metadata={"description": "Whether the agent's monitor placed it.", "example": False}
    )
    status = choice(CallStatus, "Whether it is over.")
    verdict = choice(
        CallVerdict,
        "What became of it: `ANSWERED` by an agent; `NO_AGENT`: it rang in the room, and nobody answered; `NO_ROUTE`: "
        "LiveKit has no trunk or rule for it; `BLOCKED`: refused for who called or from where, so that others may get "
        "through; `FAILED` otherwise. Null until it is over.",
        allow_none=True,
    )
    hop = text("Where it ended: a step of the path, or `agent`; null where it was answered.", "agent", allow_none=True)
    sip_status = fields.Integer(
        data_key="sipStatus",
        allow_none=True,
        metadata={"description": "The last SIP status; null where nothing answered.", "example": 486},
    )
    detail = text(
        "What happened, and what to do.",
        "No agent called front-desk answered within 30 s: check that its worker is running.",
        allow_none=True,
    )
    ring_s = fields.Float(
        data_key="ringS", allow_none=True, metadata={"description": "Seconds until it rang.", "example": 0.21}
    )
    answer_s = fields.Float(
        data_key="answerS",
        allow_none=True,
        metadata={"description": "Seconds until it was answered; null where it was not.", "example": 1.4},
    )
    room = fields.Nested(TestCallRoomOut, allow_none=True)
    created_at = moment("When it was asked for.", data_key="createdAt")
    started_at = moment("When it was placed.", data_key="startedAt", allow_none=True)
    finished_at = moment("When it was over.", data_key="finishedAt", allow_none=True)


class TestCallEnded(TestCallOut):
    """A test call that is over."""


class TestCallListed(TestCallOut):
    """A test call in a list."""


class TestCallPageOut(Schema):
    """One page of test calls, the newest first."""

    items = fields.List(fields.Nested(TestCallListed))
    next_cursor = next_page()


class TestCallAccepted(Schema):
    """The call is queued; poll `statusUrl`."""

    success = fields.Boolean(metadata={"example": True})
    test_call_id = fields.UUID(data_key="testCallId", metadata={"example": CALL_ID})
    status_url = text("Where to poll.", f"/api/agents/{AGENT_ID}/test-calls/{CALL_ID}", data_key="statusUrl")


class TestCallQuery(PageQuery):
    """How to page through test calls."""


@dataclass(frozen=True, slots=True)
class CallPage:
    """One page of calls; `next_cursor` is None on the last."""

    items: Sequence[TestCall]
    next_cursor: str | None


def page_of_calls(calls: "CallService", agent_id: Any, *, limit: int, cursor: Position | None = None) -> CallPage:
    """Read one page of an agent's calls."""
    rows = calls.list_calls(agent_id, limit=limit + 1, cursor=cursor)
    items = rows[:limit]
    more = len(rows) > limit
    return CallPage(items, encode_cursor(Position(items[-1].created_at, items[-1].id)) if more else None)
