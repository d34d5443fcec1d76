"""Operations and phone status as they go out; docs/operations.md and docs/errors.md tell what each code means."""

from apiflask import Schema
from marshmallow import fields

from app.api.care_schemas import HealthOut
from app.api.documented import WAITED
from app.api.fields import Id, choice
from app.api.schemas import (
    AGENT_ID,
    DISPATCH_RULE_ID,
    INBOUND_TRUNK_ID,
    NUMBER,
    OPERATION_ID,
    TRUNK_SID,
    PageQuery,
    moment,
    text,
)
from app.domain.statuses import OperationKind, OperationStatus, PhoneStatus, StepState


class FailureOut(Schema):
    """Why something failed."""

    code = fields.String(metadata={"enum": [code.value for code in WAITED], "example": "number_not_in_account"})
    detail = text("One sentence for a person.", "The Twilio account has no such number.")


class StepOut(Schema):
    """One step: one resource, looked for, made, or taken away."""

    name = text("Its name in the step table.", "twilio_trunk")
    state = choice(StepState, "Where it stands.")
    attempts = fields.Integer(metadata={"description": "Tries in the present direction.", "example": 1})
    resource_id = text("What it made or found.", TRUNK_SID, data_key="resourceId", allow_none=True)
    started_at = moment("When it was first tried.", data_key="startedAt", allow_none=True)
    finished_at = moment("When it was done or undone.", data_key="finishedAt", allow_none=True)
    next_attempt_at = moment("When a resting step may be tried again.", data_key="nextAttemptAt", allow_none=True)
    error = fields.Nested(FailureOut, allow_none=True)


class EventOut(Schema):
    """One thing that happened."""

    at = moment("When.")
    event = text("What, from a closed list.", "step_done")
    step = text("Which step, if one.", "twilio_trunk", allow_none=True)
    detail = fields.Dict(metadata={"description": "More about it.", "example": {"attempt": 1}})


class LeftoverOut(Schema):
    """A resource of ours that is still at a provider while the path is being taken down."""

    provider = text("`twilio` or `livekit`.", "twilio")
    kind = text("The step that made it.", "twilio_trunk")
    external_id = text("Its id at the provider.", TRUNK_SID, data_key="id")


class OperationSummary(Schema):
    """One run of provisioning, deprovisioning, repair or move."""

    id = fields.UUID(metadata={"example": OPERATION_ID})
    agent_id = fields.UUID(data_key="agentId", metadata={"example": AGENT_ID})
    target_agent_id = fields.UUID(
        data_key="targetAgentId",
        allow_none=True,
        metadata={"description": "The agent that a move hands the number to.", "example": AGENT_ID},
    )
    kind = choice(OperationKind, "What it is for.")
    status = choice(OperationStatus, "Where it stands.")
    phone_number = text("The number.", NUMBER, data_key="phoneNumber")
    current_step = text(
        "The step at work or next to go; null once final.", "twilio_trunk", data_key="currentStep", allow_none=True
    )
    attempts = fields.Integer(metadata={"description": "Tries in the present direction, all steps.", "example": 3})
    error = fields.Nested(FailureOut, allow_none=True, metadata={"description": "Why it failed or is stuck."})
    requested_by = text("Name of the API key.", "ops", data_key="requestedBy", allow_none=True)
    request_id = text("`X-Request-ID` of the request.", data_key="requestId", allow_none=True)
    created_at = moment("When it was asked for.", data_key="createdAt")
    started_at = moment("When its first step started.", data_key="startedAt", allow_none=True)
    finished_at = moment("When it became final.", data_key="finishedAt", allow_none=True)


class OperationOut(OperationSummary):
    """One operation with its steps and its trail."""

    steps = fields.List(fields.Nested(StepOut))
    timeline = fields.List(
        fields.Nested(EventOut), metadata={"description": "What happened, oldest first; at most the last 200."}
    )
    leftovers = fields.List(fields.Nested(LeftoverOut))


class OperationQuery(PageQuery):
    """Which operations to list."""

    status = choice(OperationStatus, "Only operations in this status.")
    agent_id = Id(data_key="agentId", metadata={"description": "Only operations of this agent."})


class OperationPage(Schema):
    """One page of operations, the newest first."""

    items = fields.List(fields.Nested(OperationSummary))
    next_cursor = text(
        "Send it as `cursor` for the next page; null on the last.", data_key="nextCursor", allow_none=True
    )


class PhoneOut(Schema):
    """An agent's number, every id on its path, and the latest operation."""

    has_phone = fields.Boolean(data_key="hasPhone", metadata={"description": "Whether a caller reaches the agent."})
    phone_provisioning_status = choice(
        PhoneStatus,
        "FAILED: it failed, and nothing of ours is left at either provider.",
        data_key="phoneProvisioningStatus",
    )
    twilio_phone_number = text("The number.", NUMBER, data_key="phoneNumber", allow_none=True)
    twilio_phone_number_sid = text(
        "The number at Twilio.", "PN0123456789abcdef0123456789abcdef", data_key="twilioPhoneNumberSid", allow_none=True
    )
    twilio_trunk_sid = text("The Twilio trunk.", TRUNK_SID, data_key="twilioTrunkSid", allow_none=True)
    twilio_origination_url_sid = text(
        "The trunk's origination URL.",
        "OU0123456789abcdef0123456789abcdef",
        data_key="twilioOriginationUrlSid",
        allow_none=True,
    )
    livekit_inbound_trunk_id = text(
        "The LiveKit trunk.", INBOUND_TRUNK_ID, data_key="livekitInboundTrunkId", allow_none=True
    )
    livekit_dispatch_rule_id = text(
        "The LiveKit rule.", DISPATCH_RULE_ID, data_key="livekitDispatchRuleId", allow_none=True
    )
    health = fields.Nested(HealthOut)
    operation = fields.Nested(OperationOut, allow_none=True, metadata={"description": "Null if there never was one."})
