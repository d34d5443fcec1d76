"""Request and response bodies of operations, phone status, health, verification and audits."""

from collections.abc import Mapping

from marshmallow import fields

from app.domain.errors import OPERATION_ERROR_CODES, ErrorCode
from app.domain.findings import CHECKS, AuditStatus, Callers, FindingCode, Fix, Health, Severity
from app.domain.operations import OperationKind, OperationStatus, PhoneStatus, StepState, TrunkMode
from app.views.agent_schemas import (
    AGENT_ID,
    DISPATCH_RULE_ID,
    INBOUND_TRUNK_ID,
    NUMBER,
    OPERATION_ID,
    TRUNK_SID,
    PageQuery,
    Query,
    id_prefix_field,
    moment,
    next_page,
    text,
    warnings_field,
)
from app.views.fields import Id, Schema, Strict, StrictBoolean, choice
from app.views.option_schemas import OptionsOut


def closed(values: list[str], description: str) -> fields.String:
    """Return a field for text that is stored as one of a closed list."""
    return fields.String(metadata={"description": description, "enum": values, "example": values[0]})


class FoundResource(Schema):
    """A resource at a provider."""

    kind = text("The step that creates it.", "twilio_trunk")
    id = text("Its id at the provider.", TRUNK_SID)


class FindingOut(Schema):
    """One reason why calls fail, or one difference from what was built; docs/operations.md has every code."""

    code = closed(list(FindingCode), "What, from a closed list.")
    severity = closed(
        list(Severity),
        "critical: calls fail. warning: something is not as we made it, and stops no call. foreign: somebody else's, "
        "and no call of ours fails because of it now.",
    )
    callers = fields.String(
        allow_none=True,
        dump_default=None,  # a finding that an earlier release stored
        metadata={
            "description": "Whose calls fail, if severity is critical: all callers', or some; `detail` says which.",
            "enum": [*Callers, None],
            "example": Callers.ALL,
        },
    )
    sentence = text("The code in words.", "The number is on no trunk.")
    detail = text("What was found, if the sentence does not say it.", "")
    fix = closed(list(Fix), "What an audit with `fix` does about it.")
    fixed = text("What was done about it; empty for nothing.", f"repair {OPERATION_ID}")
    agent_id = text("The agent concerned.", AGENT_ID, data_key="agentId", attribute="agentId", allow_none=True)
    agent_ids = fields.List(
        fields.String(),
        data_key="agentIds",
        attribute="agentIds",
        metadata={
            "description": "All agents concerned: many where they share the trunk that it is about, and `agentId` is "
            "the first of them.",
            "example": [AGENT_ID],
        },
    )
    resource = fields.Nested(FoundResource, allow_none=True)


class HealthOut(Schema):
    """Whether the path is as it was built, as of the last check."""

    state = choice(Health, "UNKNOWN until the first check.")
    checked_at = moment("When that was.", data_key="checkedAt", allow_none=True)
    findings = fields.List(fields.Nested(FindingOut))


class PathCheck(Schema):
    """One part of the path."""

    name = closed(list(CHECKS), "Which part.")
    ok = fields.Boolean(
        metadata={
            "description": "False where calls fail, and where something is not as we made it. What is somebody else's "
            "fails no check.",
            "example": True,
        }
    )
    detail = text("Why not; null if it is ok.", allow_none=True)


class VerifiedOut(Schema):
    """The result of a verification; `success` is true only if every check is ok."""

    success = fields.Boolean(metadata={"example": True})
    checks = fields.List(fields.Nested(PathCheck))
    health = fields.Nested(HealthOut)


class RepairIn(Strict):
    """How far a repair may go."""

    takeover = StrictBoolean(
        load_default=False, metadata={"description": "Take the number back even from somebody else's trunk."}
    )


class RepairedOut(Schema):
    """Calls get through, or nothing is known that stops them; the message names what no repair can change."""

    success = fields.Boolean(metadata={"example": True})
    message = text("What happened.", "The path was repaired.")


class MoveIn(Strict):
    """The agent that gets the number."""

    to_agent_id = Id(
        data_key="toAgentId",
        required=True,
        metadata={"description": "An agent that has no number.", "example": AGENT_ID},
    )


class MovedOut(Schema):
    """The number rings the other agent."""

    success = fields.Boolean(metadata={"example": True})
    phone_number = text("The number.", NUMBER, data_key="phoneNumber")
    agent_id = fields.UUID(data_key="fromAgentId", metadata={"example": AGENT_ID})
    target_agent_id = fields.UUID(data_key="toAgentId", metadata={"example": AGENT_ID})


DRY_RUN = "dryRun"
"""The query parameter that asks for a plan instead of a provisioning."""

_TRUE = "true"


def is_dry_run(query: Mapping[str, str]) -> bool:
    """Say whether a query asks for a plan, before it is validated."""
    return query.get(DRY_RUN) == _TRUE


def dry_run_flag(description: str) -> fields.Boolean:
    """Return the parameter that asks for a plan."""
    return query_flag(DRY_RUN, description)


def query_flag(data_key: str, description: str) -> fields.Boolean:
    """Return a parameter that is `true` or `false`, the default."""
    return fields.Boolean(
        data_key=data_key, load_default=False, truthy={_TRUE}, falsy={"false"}, metadata={"description": description}
    )


class ProvisionQuery(Query):
    """Whether to provision, or only to return the plan."""

    dry_run = dry_run_flag("Return the plan and write nothing anywhere.")


class CallOut(Schema):
    """One request that provisioning would make.

    `{step}` stands for the id that this step will have made, `{account}` for the Twilio account and `{operation}` for
    the operation.
    """

    step = text("The step that sends it.", "twilio_trunk")
    provider = text("`twilio` or `livekit`.", "twilio")
    method = text("The HTTP method.", "POST")
    path = text("The path.", "/v1/Trunks")
    body = fields.Dict(metadata={"description": "Query or form fields, or JSON.", "example": {}})


class ObstacleOut(Schema):
    """A reason why provisioning would fail, or something to know before."""

    code = fields.String(
        metadata={
            "enum": [
                ErrorCode.AGENT_HAS_PHONE.value,
                ErrorCode.OPERATION_IN_PROGRESS.value,
                ErrorCode.NUMBER_IN_USE.value,
                *(code.value for code in OPERATION_ERROR_CODES),
            ],
            "example": "number_already_routed",
        }
    )
    detail = text("One sentence for a person.", "The number is on a trunk already.")
    blocks = fields.Boolean(metadata={"description": "Whether provisioning would fail because of it."})


class TrunkRoom(Schema):
    """How many trunks the Twilio account still has room for."""

    used = fields.Integer(metadata={"example": 3})
    limit = fields.Integer(metadata={"example": 100})
    free = fields.Integer(metadata={"example": 97})


class PlannedTrunkOut(Schema):
    """The Twilio trunk that the number would be put on."""

    mode = choice(TrunkMode, "Whether other numbers share it.")
    sid = text("Its id; null if it would be made.", TRUNK_SID, data_key="twilioTrunkSid", allow_none=True)
    members = fields.Integer(metadata={"description": "Numbers that are on it before.", "example": 214})
    capacity = fields.Integer(metadata={"description": "Numbers that it takes at most.", "example": 500})


class PlanOut(Schema):
    """What provisioning would do now."""

    success = fields.Boolean(metadata={"example": True})
    is_dry_run = fields.Boolean(data_key="dryRun", metadata={"example": True})
    would_succeed = fields.Boolean(
        data_key="wouldSucceed", metadata={"description": "Whether nothing known now prevents it."}
    )
    calls = fields.List(fields.Nested(CallOut))
    obstacles = fields.List(fields.Nested(ObstacleOut))
    trunks = fields.Nested(TrunkRoom)
    trunk = fields.Nested(PlannedTrunkOut)


class AuditIn(Strict):
    """Options of an audit."""

    fix = StrictBoolean(
        load_default=False, metadata={"description": "Queue repairs, and delete resources of ours that no row knows."}
    )


class AuditAccepted(Schema):
    """The audit is queued; poll `statusUrl`."""

    success = fields.Boolean(metadata={"example": True})
    audit_id = fields.UUID(data_key="auditId", metadata={"example": OPERATION_ID})
    status_url = text("Where to poll.", f"/api/audit/{OPERATION_ID}", data_key="statusUrl")


class AuditOut(Schema):
    """One comparison of every row with both providers."""

    id = fields.UUID(metadata={"example": OPERATION_ID})
    status = choice(AuditStatus, "failed: a provider could not be read; `error` says why.")
    fix = fields.Boolean(metadata={"description": "Whether it also fixed what it could."})
    created_at = moment("When it was requested.", data_key="createdAt")
    started_at = moment("When it started.", data_key="startedAt", allow_none=True)
    finished_at = moment("When it finished.", data_key="finishedAt", allow_none=True)
    agents_checked = fields.Integer(data_key="agentsChecked", metadata={"example": 12})
    findings = fields.List(fields.Nested(FindingOut))
    requested_by = text("Name of the API key, or `sweeper`.", "ops", data_key="requestedBy", allow_none=True)
    error_detail = text("Why it failed.", data_key="error", allow_none=True)


class FailureOut(Schema):
    """Why something failed."""

    code = fields.String(
        metadata={"enum": [code.value for code in OPERATION_ERROR_CODES], "example": "number_not_in_account"}
    )
    detail = text("One sentence for a person.", "The Twilio account has no such number.")


class StepOut(Schema):
    """One step: one resource that is found, created, or deleted."""

    name = text("Its name in the step table.", "twilio_trunk")
    state = choice(StepState, "Its status.")
    attempts = fields.Integer(metadata={"description": "Attempts in the current direction.", "example": 1})
    resource_id = text("The id that it created or found.", TRUNK_SID, data_key="resourceId", allow_none=True)
    started_at = moment("When it was first attempted.", data_key="startedAt", allow_none=True)
    finished_at = moment("When it was done or undone.", data_key="finishedAt", allow_none=True)
    next_attempt_at = moment("When a waiting step may be retried.", data_key="nextAttemptAt", allow_none=True)
    error = fields.Nested(FailureOut, allow_none=True)


class EventOut(Schema):
    """One event."""

    at = moment("When.")
    event = text("What, from a closed list.", "step_done")
    step = text("Which step, if one.", "twilio_trunk", allow_none=True)
    detail = fields.Dict(metadata={"description": "More about it.", "example": {"attempt": 1}})


class LeftoverOut(Schema):
    """A resource of ours that is still at a provider while the path is being taken down."""

    provider = text("`twilio` or `livekit`.", "twilio")
    kind = text("The step that created it.", "twilio_trunk")
    external_id = text("Its id at the provider.", TRUNK_SID, data_key="id")


class OperationSummary(Schema):
    """One run of provisioning, deprovisioning, repair, move, update or adoption."""

    id = fields.UUID(metadata={"example": OPERATION_ID})
    agent_id = fields.UUID(data_key="agentId", metadata={"example": AGENT_ID})
    target_agent_id = fields.UUID(
        data_key="targetAgentId",
        allow_none=True,
        metadata={"description": "The agent that a move hands the number to.", "example": AGENT_ID},
    )
    kind = choice(OperationKind, "What it is for.")
    status = choice(OperationStatus, "Its status.")
    phone_number = text("The number.", NUMBER, data_key="phoneNumber")
    current_step = text(
        "The step in progress or the next one; null once final.",
        "twilio_trunk",
        data_key="currentStep",
        allow_none=True,
    )
    attempts = fields.Integer(metadata={"description": "Attempts in the current direction, all steps.", "example": 3})
    error = fields.Nested(FailureOut, allow_none=True, metadata={"description": "Why it failed or is stuck."})
    requested_by = text("Name of the API key.", "ops", data_key="requestedBy", allow_none=True)
    request_id = text("`X-Request-ID` of the request.", data_key="requestId", allow_none=True)
    created_at = moment("When it was requested.", data_key="createdAt")
    started_at = moment("When its first step started.", data_key="startedAt", allow_none=True)
    finished_at = moment("When it became final.", data_key="finishedAt", allow_none=True)


class OperationOut(OperationSummary):
    """One operation with its steps and events."""

    steps = fields.List(fields.Nested(StepOut))
    timeline = fields.List(
        fields.Nested(EventOut), metadata={"description": "Its events, the oldest first; at most the last 200."}
    )
    leftovers = fields.List(fields.Nested(LeftoverOut))
    warnings = warnings_field()


class OperationQuery(PageQuery):
    """Which operations to list."""

    status = choice(OperationStatus, "Only operations in this status.")
    agent_id = Id(data_key="agentId", metadata={"description": "Only operations of this agent."})
    ids = id_prefix_field("Only operations whose ids begin with these digits, without dashes.")


class OperationPage(Schema):
    """One page of operations, the newest first."""

    items = fields.List(fields.Nested(OperationSummary))
    next_cursor = next_page()


class PhoneTrunkOut(Schema):
    """The Twilio trunk that the number is on."""

    mode = choice(TrunkMode, "Whether other numbers share it.")
    members = fields.Integer(
        metadata={"description": "Numbers that are on it or on their way to it, this one included.", "example": 214}
    )
    capacity = fields.Integer(metadata={"description": "Numbers that it takes at most.", "example": 500})


class AdoptedOut(Schema):
    """An object of the path that somebody else made before the path was adopted."""

    step = text("Which one, by the step that would make it.", "twilio_trunk")
    id = text("Its id at the provider.", TRUNK_SID)
    former_name = text("Its name before: it goes back there.", "Front desk line", data_key="formerName")
    is_shared = fields.Boolean(
        data_key="shared",
        metadata={
            "description": "Whether other numbers use it too: then Trunkline neither changes nor deletes it.",
            "example": False,
        },
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
    trunk = fields.Nested(
        PhoneTrunkOut,
        allow_none=True,
        metadata={"description": "Null without a trunk, and on one of somebody else's that other numbers share."},
    )
    adopted = fields.List(
        fields.Nested(AdoptedOut),
        allow_none=True,
        metadata={"description": "What was there before the path was adopted; null for a path of Trunkline's making."},
    )
    livekit_inbound_trunk_id = text(
        "The LiveKit trunk.", INBOUND_TRUNK_ID, data_key="livekitInboundTrunkId", allow_none=True
    )
    livekit_dispatch_rule_id = text(
        "The LiveKit rule.", DISPATCH_RULE_ID, data_key="livekitDispatchRuleId", allow_none=True
    )
    options = fields.Nested(
        OptionsOut, metadata={"description": "The agent's options that its path is built with; empty without a number."}
    )
    health = fields.Nested(HealthOut)
    warnings = warnings_field()
    operation = fields.Nested(OperationOut, allow_none=True, metadata={"description": "Null if there never was one."})
