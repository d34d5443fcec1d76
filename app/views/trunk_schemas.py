"""Request and response bodies of Twilio trunks."""

from apiflask import Schema
from marshmallow import fields

from app.domain.operations import TrunkMode, TrunkState
from app.views.agent_schemas import AGENT_ID, TRUNK_SID, PageQuery, moment, next_page, text
from app.views.bulk_schemas import RoomOut
from app.views.fields import choice
from app.views.operation_schemas import HealthOut

TRUNK_ID = "0f6d1c5e-8a77-4b41-9d0c-5f1f6f0f3d52"


class SipUriOut(Schema):
    """Where Twilio sends the calls of a trunk."""

    uri = text("LiveKit's SIP URI.", "sip:abc123.sip.livekit.cloud;transport=tcp")
    priority = fields.Integer(metadata={"description": "The lowest is tried first.", "example": 10})
    weight = fields.Integer(metadata={"description": "Share of the calls at one priority.", "example": 10})


class ProfileOut(Schema):
    """The settings that the numbers of a trunk have in common."""

    sip_uris = fields.List(fields.Nested(SipUriOut), data_key="sipUris", attribute="sipUris")
    secure = fields.Boolean(metadata={"description": "Whether calls are encrypted.", "example": False})
    transfer_mode = text(
        "Whether calls may be handed on; null: as Twilio makes a trunk.",
        "sip-only",
        data_key="transferMode",
        attribute="transferMode",
        allow_none=True,
    )


class TrunkOut(Schema):
    """A Twilio trunk that numbers share, or that is one agent's own."""

    id = fields.UUID(allow_none=True, metadata={"description": "Null for an agent's own.", "example": TRUNK_ID})
    mode = choice(TrunkMode, "Whether numbers share it.")
    state = choice(TrunkState, "Where it is in its life; for an agent's own, what its number's status says.")
    twilio_trunk_sid = text(
        "Its id at Twilio; null until it is made.", TRUNK_SID, data_key="twilioTrunkSid", allow_none=True
    )
    tag = text("Its name at Twilio.", f"trunkline-pool/trunkline/{TRUNK_ID.replace('-', '')[:12]}")
    profile = fields.Nested(ProfileOut)
    shard = fields.Integer(
        allow_none=True,
        metadata={"description": "Counts the shared trunks of one profile, from 1.", "example": 1},
    )
    members = fields.Integer(metadata={"description": "Numbers that are on it or on their way to it.", "example": 214})
    capacity = fields.Integer(metadata={"description": "Numbers that it takes at most.", "example": 500})
    agent_id = fields.UUID(
        data_key="agentId",
        allow_none=True,
        metadata={"description": "Whose own it is; null for a shared one.", "example": AGENT_ID},
    )
    health = fields.Nested(HealthOut)
    created_at = moment("When it was made.", data_key="createdAt")
    emptied_at = moment("Since when it has no numbers; null while it has some.", data_key="emptiedAt", allow_none=True)


class TrunkRoomOut(RoomOut):
    """How many more numbers the Twilio account has room for."""

    numbers_fit = fields.Integer(
        data_key="numbersFit",
        metadata={"description": "Numbers that still fit if they share trunks.", "example": 31786},
    )
    summary = text(
        "One sentence for a person.",
        "31,786 more numbers fit: 286 places are free on shared trunks, which take 500 each, and of the 100 trunks "
        "that the Twilio account may have 37 are in use.",
    )


class TrunkPageOut(Schema):
    """One page of trunks, the newest first."""

    items = fields.List(fields.Nested(TrunkOut))
    next_cursor = next_page()
    headroom = fields.Nested(
        TrunkRoomOut, allow_none=True, metadata={"description": "Null if Twilio did not respond in time."}
    )


class TrunkQuery(PageQuery):
    """Which trunks to list."""

    mode = choice(TrunkMode, "Only trunks of this kind.")
    state = choice(TrunkState, "Only trunks in this state; without it, all but those that are gone.")
