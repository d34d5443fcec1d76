"""Request and response bodies of Twilio trunks."""

from marshmallow import fields

from app.domain.operations import TrunkMode, TrunkState
from app.views.agent_schemas import AGENT_ID, TRUNK_SID, PageQuery, moment, next_page, text
from app.views.bulk_schemas import RoomOut
from app.views.fields import Schema, choice
from app.views.operation_schemas import HealthOut, ProvisionQuery

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


class ConsolidateQuery(ProvisionQuery):
    """Whether to move the numbers, or only to say what would be done."""


class LeftOutOut(Schema):
    """Agents with a trunk of their own that are not moved."""

    reason = fields.String(
        metadata={
            "description": "Why, from a closed list.",
            "enum": ["dedicated", "adopted", "busy", "waiting", "beyond_limit"],
            "example": "dedicated",
        }
    )
    count = fields.Integer(metadata={"description": "How many agents.", "example": 3})
    detail = text("One sentence for a person.", "Their trunkMode is dedicated: they keep a trunk of their own.")


class ConsolidationOut(Schema):
    """What a consolidation would do now, by our rows: no provider is called."""

    success = fields.Boolean(metadata={"example": True}, dump_default=True)
    agents = fields.Integer(metadata={"description": "Agents whose number would move.", "example": 97})
    pool_trunks = fields.Integer(
        data_key="poolTrunks", metadata={"description": "Shared trunks that exist.", "example": 1}
    )
    free_places = fields.Integer(
        data_key="freePlaces", metadata={"description": "Numbers that these have room for.", "example": 412}
    )
    trunks_needed = fields.Integer(
        data_key="trunksNeeded",
        metadata={
            "description": "Shared trunks to add; at the account's limit one of the agents' own becomes one.",
            "example": 0,
        },
    )
    trunks_freed = fields.Integer(
        data_key="trunksFreed",
        metadata={"description": "Trunks that the account has fewer once all have moved.", "example": 97},
    )
    trunk_limit = fields.Integer(
        data_key="trunkLimit", metadata={"description": "Trunks that the account may have.", "example": 100}
    )
    left_out = fields.List(
        fields.Nested(LeftOutOut),
        data_key="leftOut",
        metadata={"description": "Who has a trunk of its own and is not moved."},
    )
    message = text(
        "One sentence for a person.",
        "97 numbers move to shared trunks: 0 more of those are needed, and the account has 97 trunks fewer in the end.",
    )
