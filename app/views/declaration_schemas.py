"""Declarations: as they are sent and exported, and the plan of one."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from marshmallow import ValidationError, fields

from app.declared.planner import FIELDS, Change, ChangeKind, Declared, Plan, pointer_to
from app.domain.errors import ErrorCode, validation_failed
from app.domain.operations import MAX_ITEMS
from app.domain.options import options_json, options_of
from app.domain.workspaces import ENVIRONMENT_ACCOUNT, ENVIRONMENT_PROJECT
from app.views.agent_schemas import (
    AGENT_ID,
    EXTERNAL_ID,
    NUMBER,
    AgentIn,
    Query,
    external_id_field,
    name_field,
    takeover_flag,
    text,
)
from app.views.bulk_schemas import BULK_ID, BULK_URL
from app.views.fields import E164_PATTERN, PhoneNumberField, Schema, Strict, choice, flat_errors
from app.views.operation_schemas import dry_run_flag, query_flag

LOST_PLUS = "must be text: as a number it has lost its plus sign. Write it in quotes."
UNQUOTED = "must be text: write it in quotes."

CONFLICTS = (
    ErrorCode.OPERATION_IN_PROGRESS,
    ErrorCode.NUMBER_IN_USE,
    ErrorCode.AGENT_HAS_PHONE,
    ErrorCode.ACCOUNTS_DIFFER,
    ErrorCode.KEEP_OR_REMOVE,
    ErrorCode.VALIDATION_FAILED,
)
"""What may stand in the way of a plan."""


class _DeclaredNumber(PhoneNumberField):
    """A number, or null; says what became of one that YAML has read as a number."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **more: Any) -> str:
        if isinstance(value, int | float) and not isinstance(value, bool):
            raise ValidationError(LOST_PLUS)
        return super()._deserialize(value, attr, data, **more)


class DeclaredAgentIn(AgentIn):
    """What is declared of one agent. A field that is not named stays as it is; of a new agent, it is the default.

    A field that is named is that as a whole: `options` and `metadata` are not merged into what is there.
    """

    external_id = external_id_field("Which agent it is; one that does not exist is created.", required=True)
    name = name_field("Its name; that of a new one is its `externalId`, if it is not named.")
    phone_number = _DeclaredNumber(
        data_key="phoneNumber",
        allow_none=True,
        metadata={
            "description": "Its number, in E.164; null: none, which takes from it the one that it has.",
            "example": NUMBER,
            "pattern": E164_PATTERN,
        },
    )
    takeover = takeover_flag()


class _Agents(fields.List):  # type: ignore[type-arg]  # marshmallow types it by its items, which stay unread
    """Agents, not validated here: each error is told with its place."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> list[Any]:
        if not isinstance(value, list) or len(value) > MAX_ITEMS:
            raise ValidationError(f"must be a list of at most {MAX_ITEMS} agents")
        return value


class DeclarationIn(Strict):
    """Agents of the workspace, and their numbers."""

    agents = _Agents(
        fields.Nested(DeclaredAgentIn),
        required=True,
        metadata={"description": "In any order; each `externalId` and each number once.", "maxItems": MAX_ITEMS},
    )


class DeclarationQuery(Query):
    """What to do with a declaration."""

    dry_run = dry_run_flag("Return the plan and change nothing.")
    prune = query_flag(
        "prune", "Delete the agents of the workspace that have an `externalId` and are not declared, and their numbers."
    )


class DeclaredAgentOut(Schema):
    """One agent, as `POST /api/declarations` takes it."""

    external_id = text("Which agent it is.", EXTERNAL_ID, data_key="externalId")
    name = text("What people call it.", "Front desk")
    livekit_agent_name = text("The agent name that LiveKit dispatches to.", "front-desk", data_key="livekitAgentName")
    metadata = fields.Dict(metadata={"description": "Passed to it with every call.", "example": {"lang": "fr"}})
    options = fields.Dict(metadata={"description": "What is set of its options.", "example": {"transfer": "sip-only"}})
    trunk_mode = text("On what kind of Twilio trunk its number is put.", "shared", data_key="trunkMode")
    phone_number = text("Its number, if any.", NUMBER, data_key="phoneNumber", allow_none=True)
    carrier_account_id = fields.UUID(
        data_key="carrierAccountId",
        metadata={"description": "Where it is not the workspace's default.", "example": str(ENVIRONMENT_ACCOUNT)},
    )
    voice_project_id = fields.UUID(
        data_key="voiceProjectId",
        metadata={"description": "Where it is not the workspace's default.", "example": str(ENVIRONMENT_PROJECT)},
    )


class DeclarationOut(Schema):
    """The agents of the workspace that have an `externalId`, by that: with what is under way already."""

    agents = fields.List(fields.Nested(DeclaredAgentOut))


class FieldChangeOut(Schema):
    """One field of an agent that changes."""

    field = text("Its name.", "options")
    before = fields.Raw(allow_none=True, metadata={"description": "As it is; null in a creation."})
    after = fields.Raw(allow_none=True, metadata={"description": "As it is to be."})


class ChangeOut(Schema):
    """One change of a plan."""

    kind = choice(ChangeKind, "What is done.")
    external_id = text("The agent; of a move, the one that gets the number.", EXTERNAL_ID, data_key="externalId")
    agent_id = fields.UUID(
        data_key="agentId",
        allow_none=True,
        metadata={"description": "Its id; null where a dry run would create it.", "example": AGENT_ID},
    )
    pointer = text(
        "Where it is declared (JSON pointer); null: it is not, so that it goes.", "/agents/3", allow_none=True
    )
    phone_number = text("The number that it is about.", NUMBER, data_key="phoneNumber", allow_none=True)
    from_external_id = text(
        "Of a move: the agent that has the number.", "night-desk", data_key="fromExternalId", allow_none=True
    )
    fields_ = fields.List(fields.Nested(FieldChangeOut), data_key="fields", metadata={"description": "Of its row."})
    position = fields.Integer(
        allow_none=True,
        metadata={
            "description": "The position of its item in the bulk; null: made at once, in the transaction.",
            "example": 1,
        },
    )
    waits_for = fields.List(
        fields.Integer(),
        data_key="waitsFor",
        metadata={"description": "Positions of the items that have to succeed before.", "example": [1]},
    )


class ConflictOut(Schema):
    """What stands in the way of a plan."""

    pointer = text("Where it is declared (JSON pointer).", "/agents/3/phoneNumber")
    external_id = text("The agent.", EXTERNAL_ID, data_key="externalId")
    code = fields.String(
        metadata={"enum": [code.value for code in CONFLICTS], "example": ErrorCode.NUMBER_IN_USE.value}
    )
    detail = text("One sentence for a person.", f"An agent of another workspace has {NUMBER}.")


class DeclarationPlanOut(Schema):
    """What a declaration changes, or has changed."""

    success = fields.Boolean(metadata={"example": True})
    is_dry_run = fields.Boolean(data_key="dryRun", metadata={"example": False})
    changes = fields.List(
        fields.Nested(ChangeOut), metadata={"description": "In an order in which they can be made; none: all is so."}
    )
    counts = fields.Dict(
        fields.String(),
        fields.Integer(),
        metadata={"description": "Kind of change -> how many.", "example": {"create": 2, "provision": 2}},
    )
    conflicts = fields.List(
        fields.Nested(ConflictOut),
        metadata={"description": "Of a dry run: why it could not be applied now. With one, nothing is applied."},
    )
    bulk_id = fields.UUID(
        data_key="bulkId",
        allow_none=True,
        metadata={"description": "The bulk that does what needs the providers, if anything does.", "example": BULK_ID},
    )
    status_url = text("Where to poll it.", BULK_URL, data_key="statusUrl", allow_none=True)


_ONE = DeclaredAgentIn()


def read_declaration(agents: Sequence[object]) -> list[Declared]:
    """Read the agents of a declaration; 422 with a JSON pointer for each error."""
    errors: dict[str, list[str]] = {}
    external_ids: dict[str, int] = {}
    numbers: dict[str, int] = {}
    found = []
    for place, given in enumerate(agents):
        try:
            one = _declared(place, given)
        except ValidationError as error:
            errors |= _pointers(place, given, error)
            continue
        found.append(one)
        first = external_ids.setdefault(one.external_id, place)
        if first != place:
            errors[pointer_to(place, "externalId")] = [f"is that of {pointer_to(first)} already."]
        first = numbers.setdefault(one.number, place) if one.number else place
        if first != place:
            errors[pointer_to(place, "phoneNumber")] = [f"is that of {pointer_to(first)} already."]
    if errors:
        raise validation_failed(errors)
    return found


def _declared(place: int, given: object) -> Declared:
    if not isinstance(given, dict):
        raise ValidationError("must be an object.")
    loaded = _ONE.load(given)
    values = {name: loaded[name] for name in ("name", "livekit_agent_name") if name in loaded}
    if "agent_metadata" in loaded:
        values["metadata"] = loaded["agent_metadata"]
    if "options" in loaded:
        values["options"] = options_json(options_of(loaded["options"]))
    if "trunk_mode" in loaded:
        values["trunk_mode"] = loaded["trunk_mode"].value
    return Declared(
        place,
        loaded["external_id"],
        values,
        loaded.get("phone_number"),
        says_number="phone_number" in loaded,
        takeover=loaded.get("takeover", False),
        carrier_account_id=loaded.get("carrier_account_id"),
        voice_project_id=loaded.get("voice_project_id"),
    )


def _pointers(place: int, given: object, error: ValidationError) -> dict[str, list[str]]:
    """Return what is wrong with one agent, by JSON pointer."""
    if not isinstance(error.messages, dict):
        return {pointer_to(place): list(error.messages)}
    found: dict[str, list[str]] = {}
    for names, messages in _flat(error.messages):
        is_number = isinstance(_at(given, names), int | float) and not isinstance(_at(given, names), bool)
        is_text = is_number and messages == ["Not a valid string."]
        found[pointer_to(place, *names)] = [UNQUOTED] if is_text else messages
    return found


def _flat(messages: Mapping[Any, Any], names: tuple[str, ...] = ()) -> Iterable[tuple[tuple[str, ...], list[str]]]:
    for name, inner in messages.items():
        path = names if name == "_schema" else (*names, str(name))
        if isinstance(inner, dict):
            yield from _flat(inner, path)
        else:
            yield path, next(iter(flat_errors(inner).values()))


def _at(given: Any, names: Iterable[str]) -> object:
    for name in names:
        if isinstance(given, list) and name.isdecimal():
            given = given[int(name)]
        else:
            given = given.get(name) if isinstance(given, dict) else None
    return given


def declaration_body(declared: Sequence[Declared]) -> dict[str, Any]:
    """Return a declaration as it is exported."""
    return {"agents": [_exported(one) for one in declared]}


def _exported(one: Declared) -> dict[str, Any]:
    ids = {"carrier_account_id": one.carrier_account_id, "voice_project_id": one.voice_project_id}
    named = {name: value for name, value in ids.items() if value is not None}
    return {"external_id": one.external_id, **one.given, "phone_number": one.number, **named}


def plan_body(plan: Plan, **more: object) -> dict[str, Any]:
    """Return a plan as it is shown."""
    positions = plan.queued
    counts = {kind.value: sum(1 for one in plan.changes if one.kind is kind) for kind in ChangeKind}
    return {
        "success": True,
        "changes": [_change(one, positions.get(index), positions) for index, one in enumerate(plan.changes)],
        "counts": {kind: count for kind, count in counts.items() if count},
        "conflicts": plan.conflicts,
        "bulk_id": None,
        "status_url": None,
        **more,
    }


def _change(change: Change, position: int | None, positions: Mapping[int, int]) -> dict[str, Any]:
    return {
        "kind": change.kind,
        "external_id": change.external_id,
        "agent_id": change.agent_id,
        "pointer": None if change.place is None else pointer_to(change.place),
        "phone_number": change.number,
        "from_external_id": change.from_external_id,
        "fields_": [
            {"field": shown, "before": change.before.get(name), "after": change.after[name]}
            for name, shown in FIELDS.items()
            if name in change.after
        ],
        "position": position,
        "waits_for": [positions[one] for one in change.waits_for],
    }
