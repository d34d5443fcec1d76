"""Request and response bodies of agents, provisioning and health, and what all schemas share."""

import re
import uuid
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from marshmallow import ValidationError, fields, validate

from app.db.queries import Position
from app.domain.errors import ErrorCode
from app.domain.operations import PhoneStatus, TrunkMode
from app.domain.texts import EXTERNAL_ID_PATTERN, MAX_NAME
from app.domain.workspaces import ENVIRONMENT_ACCOUNT, ENVIRONMENT_PROJECT
from app.views.fields import (
    E164_PATTERN,
    VISIBLE_LINE,
    ExternalId,
    Id,
    Metadata,
    Name,
    Parameters,
    PhoneNumberField,
    Schema,
    Strict,
    StrictBoolean,
    WholeNumber,
    choice,
    repeated_parameters,
)
from app.views.option_schemas import OptionsIn, OptionsOut, OptionsPatchIn
from app.views.reader import CURSOR_PATTERN, DEFAULT_LIMIT, MAX_LIMIT, CursorField, encode_cursor

AGENT_ID = "7c1f5a52-3c0e-4c42-9a53-0f3a1d0b6c11"
OPERATION_ID = "b2d2c8a8-8c2e-4a5c-9f0e-6f2a5d1f7e42"
EXTERNAL_ID = "front-desk"
NUMBER = "+15145551234"
TRUNK_SID = "TK0123456789abcdef0123456789abcdef"
INBOUND_TRUNK_ID = "ST_4Zp8oTqKcJ2m"
DISPATCH_RULE_ID = "SDR_9hXb3LwNfR7d"
STATUS_URL = f"/api/agents/{AGENT_ID}/phone-status"

CURSOR = encode_cursor(Position(datetime(2026, 11, 23, 9, 15, 4, tzinfo=UTC), uuid.UUID(AGENT_ID)))


def text(description: str, example: object = None, **more: object) -> fields.String:
    """Return a described string field."""
    return fields.String(metadata={"description": description, **({"example": example} if example else {})}, **more)  # type: ignore[arg-type]  # passed on


def moment(description: str, **more: object) -> fields.AwareDateTime:
    """Return a field for a time in UTC, as ISO 8601 with its offset."""
    metadata = {"description": description, "example": "2026-11-23T09:15:04.120000+00:00"}
    return fields.AwareDateTime(format="iso", metadata=metadata, **more)  # type: ignore[arg-type]  # passed on


class Query(Strict):
    """Query parameters; the defaults of a request without any, as most are, are computed once."""

    @cached_property
    def _defaults(self) -> dict[str, Any]:
        return dict(super().load({}))

    def load(self, data: Any, **options: Any) -> Any:
        """Return the parameters, defaults included; refuse one that is given twice."""
        if isinstance(data, Parameters) and (repeated := repeated_parameters(data, data)):
            raise ValidationError(dict(repeated))
        return super().load(data, **options) if data else dict(self._defaults)


MERGE_PATCH = "application/merge-patch+json"
"""The media type of a JSON merge patch (RFC 7396)."""


def name_field(description: str = "What people call the agent.", **more: Any) -> Name:
    """Return the field for the name of an agent."""
    return Name(
        validate=validate.Length(1, MAX_NAME),
        metadata={"description": description, "example": "Front desk", "pattern": VISIBLE_LINE},
        **more,
    )


def _livekit_agent_name(description: str) -> Name:
    return Name(
        data_key="livekitAgentName",
        validate=validate.Length(1, MAX_NAME),
        metadata={"description": description, "example": "front-desk", "pattern": VISIBLE_LINE},
    )


def _metadata(description: str, **more: Any) -> Metadata:
    limit = (
        "at most 16 KiB as JSON with every number and escape written out. A number that would be rounded is refused."
    )
    return Metadata(
        data_key="metadata", metadata={"description": f"{description}; {limit}", "example": {"lang": "fr"}}, **more
    )


def _trunk_mode(description: str) -> fields.Enum[Any]:
    return choice(TrunkMode, description, data_key="trunkMode")


def external_id_field(description: str, **more: Any) -> ExternalId:
    """Return the field for the id that a client knows an agent by."""
    metadata = {"description": description, "example": EXTERNAL_ID, "pattern": EXTERNAL_ID_PATTERN}
    return ExternalId(data_key="externalId", metadata=metadata, **more)


def _account(data_key: str, description: str, example: uuid.UUID) -> Id:
    return Id(data_key=data_key, metadata={"description": description, "example": str(example)})


class NewAgentFields(Strict):
    """Fields of an agent to create that an item of a bulk may also have beside its number."""

    external_id = external_id_field("The id that you know it by: one agent of a workspace has it.")
    livekit_agent_name = _livekit_agent_name("The agent name that LiveKit dispatches calls to; defaults to its name.")
    trunk_mode = _trunk_mode(
        "`shared`, which is the default: its number goes on a Twilio trunk with others. `dedicated`: it gets one of "
        "its own, and the account may have only so many.",
    )
    carrier_account_id = _account(
        "carrierAccountId",
        "The carrier account of its number; defaults to its workspace's. Never changed.",
        ENVIRONMENT_ACCOUNT,
    )
    voice_project_id = _account(
        "voiceProjectId",
        "The voice project that it runs in; defaults to its workspace's. Never changed.",
        ENVIRONMENT_PROJECT,
    )


class AgentIn(NewAgentFields):
    """An agent to create."""

    name = name_field(required=True)
    agent_metadata = _metadata("Passed to the agent with every call")
    options = fields.Nested(OptionsIn, metadata={"description": "How its calls are dispatched, and its line."})


class AgentPatchIn(Strict):
    """A change of an agent, as a JSON merge patch (RFC 7396): what it does not name stays, null removes."""

    mime_types = (MERGE_PATCH, "application/json")
    """What it may be sent as."""

    external_id = external_id_field("The id that you know it by; null removes it.", allow_none=True)
    name = name_field()
    livekit_agent_name = _livekit_agent_name("The agent name that LiveKit dispatches calls to.")
    agent_metadata = _metadata(
        "Merged into what is there, at every depth: a key with null is removed. What comes of it", allow_none=True
    )
    options = fields.Nested(
        OptionsPatchIn, allow_none=True, metadata={"description": "Merged into what is set; null: back to the default."}
    )
    trunk_mode = _trunk_mode("On what kind of Twilio trunk its number is put; only while it has none.")
    carrier_account_id = _account(
        "carrierAccountId", "Its carrier account, which no change moves it from.", ENVIRONMENT_ACCOUNT
    )
    voice_project_id = _account(
        "voiceProjectId", "Its voice project, which no change moves it from.", ENVIRONMENT_PROJECT
    )


class AgentOut(Schema):
    """An agent."""

    id = fields.UUID(metadata={"example": AGENT_ID})
    external_id = text(
        "The id that its client knows it by, if any.", EXTERNAL_ID, data_key="externalId", allow_none=True
    )
    name = text("What people call the agent.", "Front desk")
    livekit_agent_name = text("The agent name that LiveKit dispatches to.", "front-desk", data_key="livekitAgentName")
    agent_metadata = fields.Dict(data_key="metadata", metadata={"example": {"lang": "fr"}})
    options = fields.Nested(OptionsOut, metadata={"description": "What is set of its options."})
    version = fields.Integer(
        metadata={"description": "Counts what PATCH has changed; the `ETag`, for `If-Match`.", "example": 3}
    )
    phone_provisioning_status = choice(PhoneStatus, "The status of its number.", data_key="phoneProvisioningStatus")
    twilio_phone_number = text("Its number, if any.", NUMBER, data_key="phoneNumber", allow_none=True)
    trunk_mode = choice(
        TrunkMode, "On what kind of Twilio trunk its number is put when it is connected.", data_key="trunkMode"
    )
    carrier_account_id = fields.UUID(
        data_key="carrierAccountId",
        metadata={"description": "The carrier account of its number.", "example": str(ENVIRONMENT_ACCOUNT)},
    )
    voice_project_id = fields.UUID(
        data_key="voiceProjectId",
        metadata={"description": "The voice project that it runs in.", "example": str(ENVIRONMENT_PROJECT)},
    )
    created_at = moment("When it was created.", data_key="createdAt")
    updated_at = moment("When it last changed.", data_key="updatedAt")


def page_limit() -> WholeNumber:
    """Return the field for the size of a page."""
    return WholeNumber(
        load_default=DEFAULT_LIMIT,
        validate=validate.Range(1, MAX_LIMIT),
        metadata={"description": "Rows of one page."},
    )


def next_page() -> fields.String:
    """Return the field for the cursor of the next page."""
    description = "Send it as `cursor` for the next page; null on the last."
    return text(description, data_key="nextCursor", allow_none=True)


def takeover_flag(**more: object) -> StrictBoolean:
    """Return the field that allows taking a number from where it is routed now."""
    description = "Take the number even when it is routed elsewhere; deprovisioning restores that routing."
    return StrictBoolean(metadata={"description": description}, **more)  # type: ignore[arg-type]  # passed on


class PageQuery(Query):
    """How to page through a list."""

    limit = page_limit()
    cursor = CursorField(
        metadata={
            "type": "string",
            "description": "`nextCursor` of the page before.",
            "pattern": CURSOR_PATTERN,
            "example": CURSOR,
        }
    )


ID_PREFIX_PATTERN = "^[0-9a-f]{8,32}$"
"""The beginning of an id; at least 8 digits, so that a match is rarely ambiguous."""


class IdPrefixField(fields.Field[tuple[uuid.UUID, uuid.UUID]]):
    """Reads the beginning of an id as the range of the ids that begin so."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> tuple[uuid.UUID, uuid.UUID]:
        if not re.fullmatch(ID_PREFIX_PATTERN, str(value)) or str(value).endswith("\n"):
            raise ValidationError("must be the first 8 digits of an id, or more, in lower case and without dashes")
        return uuid.UUID(str(value).ljust(32, "0")), uuid.UUID(str(value).ljust(32, "f"))


def id_prefix_field(description: str) -> IdPrefixField:
    """Return the field for the beginning of an id."""
    metadata = {"type": "string", "description": description, "pattern": ID_PREFIX_PATTERN, "example": AGENT_ID[:8]}
    return IdPrefixField(data_key="idPrefix", metadata=metadata)


class AgentQuery(PageQuery):
    """Which agents to list."""

    status = choice(PhoneStatus, "Only agents with this status.")
    external_id = external_id_field("Only the agent with this id of yours: one, or none.")
    name = Name(
        validate=validate.Length(1, MAX_NAME),
        metadata={"description": "Only agents with exactly this name.", "pattern": VISIBLE_LINE, "example": "desk"},
    )
    number = fields.String(
        data_key="phoneNumber",
        validate=validate.Regexp(E164_PATTERN.replace("$", r"\Z")),
        metadata={"description": "Only the agent that has this number.", "pattern": E164_PATTERN, "example": NUMBER},
    )
    ids = id_prefix_field("Only agents whose ids begin with these digits, without dashes.")
    search = Name(
        data_key="q",
        validate=validate.Length(1, MAX_NAME),
        metadata={
            "description": "Only agents whose name, external id or number contains each of these words or these "
            "digits, whatever their case, accents and punctuation, a failed agent's number included; or with this id "
            "at Twilio or LiveKit; or whose id, or an operation's of theirs, begins with these 8 digits or more.",
            "example": "front desk",
            "pattern": VISIBLE_LINE,
        },
    )


class AgentPage(Schema):
    """One page of agents, the newest first."""

    items = fields.List(fields.Nested(AgentOut))
    next_cursor = next_page()


def phone_number_field() -> PhoneNumberField:
    """Return the field for a number of the account."""
    return PhoneNumberField(
        data_key="phoneNumber",
        required=True,
        metadata={
            "description": "A number of the Twilio account, in E.164: `+`, country code and subscriber digits.",
            "example": NUMBER,
            "pattern": E164_PATTERN,
        },
    )


class ProvisionIn(Strict):
    """A number to connect to the agent."""

    phone_number = phone_number_field()
    takeover = takeover_flag(load_default=False)


class WarningOut(Schema):
    """Something to know that stopped nothing."""

    code = text("What, from the closed list of problems.", ErrorCode.NUMBER_ALREADY_ROUTED.value)
    detail = text(
        "One sentence for a person.", "Callers reached flows.example.com before: deprovisioning restores that."
    )


def warnings_field() -> fields.List[list[Any]]:
    """Return the field for what was found on the way and stopped nothing."""
    description = "What the number was used for before, where nobody had to agree to its being taken: a voice URL."
    return fields.List(fields.Nested(WarningOut), metadata={"description": description})


class Accepted(Schema):
    """The work is queued; poll `statusUrl`."""

    success = fields.Boolean(metadata={"example": True})
    status = choice(PhoneStatus, "The current status of the agent's number.")
    phone_number = text("The number.", NUMBER, data_key="phoneNumber")
    operation_id = fields.UUID(data_key="operationId", metadata={"example": OPERATION_ID})
    status_url = text("Where to poll.", STATUS_URL, data_key="statusUrl")


class Provisioned(Schema):
    """The number rings the agent."""

    success = fields.Boolean(metadata={"example": True})
    phone_number = text("The number.", NUMBER, data_key="phoneNumber")
    twilio_trunk_sid = text("The Twilio trunk.", TRUNK_SID, data_key="twilioTrunkSid", allow_none=True)
    livekit_inbound_trunk_id = text(
        "The LiveKit trunk.", INBOUND_TRUNK_ID, data_key="livekitInboundTrunkId", allow_none=True
    )
    livekit_dispatch_rule_id = text(
        "The LiveKit rule.", DISPATCH_RULE_ID, data_key="livekitDispatchRuleId", allow_none=True
    )
    warnings = warnings_field()


class Done(Schema):
    """Nothing of the path is left."""

    success = fields.Boolean(metadata={"example": True})
    message = text("What happened.", "The number was disconnected from the agent.")


class Check(Schema):
    """One check of readiness."""

    name = text("What was checked.", "database")
    ok = fields.Boolean()
    detail = text("Why it failed; null if it did not.", allow_none=True)
    took_ms = fields.Float(data_key="tookMs", metadata={"description": "Duration in milliseconds."})


class ReadyQuery(Schema):
    """Which checks count; unknown parameters are ignored, since load balancers may add some."""

    deep = fields.Boolean(
        load_default=False,
        truthy={"1", "true"},
        falsy={"0", "false"},
        metadata={"description": "Whether broker and providers count, too; otherwise only the database does."},
    )


class Ready(Schema):
    """The checks of everything that this installation needs."""

    ok = fields.Boolean(metadata={"description": "Whether every check that counts has succeeded."})
    checks = fields.List(fields.Nested(Check))


class Live(Schema):
    """The process responds."""

    ok = fields.Boolean(metadata={"example": True})
