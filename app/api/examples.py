"""An example for every body of the OpenAPI document, put together from the examples of its fields.

A body whose fields do not go together as they stand has its example in `WHOLE`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from app.bulk.files import REPORT_COLUMNS
from app.domain.errors import ErrorCode
from app.domain.operations import PhoneStatus, StepState
from app.views.agent_schemas import AGENT_ID, NUMBER, OPERATION_ID
from app.web.problems import KINDS, MIME_TYPE, problem_body

Shape = Mapping[str, Any]

OTHER_AGENT_ID = "0d9c1b7e-58a4-4f0e-9a0a-2f6d3c9e1b22"

SECRET = "the-key-s-secret"  # noqa: S105  # an example
"""In place of a provider's secret."""

_OPTIONS = {
    "room": {"emptyTimeoutS": 60, "maxParticipants": 4},
    "participant": {"attributes": {"line": "front desk"}},
    "call": {"ringingS": 20, "krisp": True},
}

WHOLE: Mapping[str, object] = {
    "AgentIn": {"name": "Front desk", "livekitAgentName": "front-desk", "metadata": {"lang": "fr"}},
    "AgentPatchIn": {"metadata": {"lang": "en"}, "options": {"call": {"ringingS": 20}}},
    "AuditIn": {"fix": False},
    "BulkIn": {
        "items": [
            {"phoneNumber": NUMBER, "agentId": AGENT_ID},
            {"phoneNumber": "+15145551235", "agent": {"name": "Night desk"}, "takeover": True},
        ]
    },
    "CarrierAccountChangeIn": {"name": "Acme", "trunkLimit": 100},
    "CarrierAccountIn": {
        "name": "Acme",
        "accountSid": "AC0123456789abcdef0123456789abcdef",
        "username": "SK0123456789abcdef0123456789abcdef",
        "secret": SECRET,
    },
    "KeyIn": {"name": "ci", "scopes": ["read", "write"]},
    "MoveIn": {"toAgentId": OTHER_AGENT_ID},
    "OptionsOut": _OPTIONS,
    "ProvisionIn": {"phoneNumber": NUMBER},
    "RepairIn": {"takeover": False},
    "RotateIn": {"secret": SECRET, "oldValidForS": 86400},
    "VoiceProjectChangeIn": {"name": "Acme", "roomPresets": ["support"]},
    "VoiceProjectIn": {
        "name": "Acme",
        "url": "wss://acme-1a2b3c.livekit.cloud",
        "username": "APIxxxxxxxxxxxx",
        "secret": SECRET,
        "sipUri": "sip:4nd0vfrjcr1.sip.livekit.cloud",
    },
    "WebhookChangeIn": {"events": ["phone.failed"], "enabled": True},
    "WebhookIn": {"url": "https://example.com/hooks/trunkline", "events": ["phone.failed"], "description": "Pager"},
    "WorkspaceChangeIn": {"name": "Acme"},
    "WorkspaceIn": {"slug": "acme", "name": "Acme"},
}
"""Schema -> its example as a whole."""

FIELDS: Mapping[tuple[str, str], object] = {
    ("Accepted", "status"): PhoneStatus.PENDING.value,
    ("AgentOut", "phoneProvisioningStatus"): PhoneStatus.PROVISIONED.value,
    ("AuditOut", "status"): "done",
    ("BulkItemOut", "status"): "failed",
    ("BulkOut", "cancelledAt"): None,
    ("BulkOut", "finishedAt"): None,
    ("BulkOut", "status"): "running",
    ("BulkSummary", "cancelledAt"): None,
    ("BulkSummary", "finishedAt"): None,
    ("BulkSummary", "status"): "running",
    ("BulkCancelled", "finishedAt"): None,
    ("BulkCancelled", "status"): "cancelling",
    ("CarrierAccountOut", "error"): None,
    ("CarrierAccountOut", "oldValidUntil"): None,
    ("CarrierAccountOut", "status"): "verified",
    ("FindingOut", "detail"): "The number is not in the account any more.",
    ("HealthOut", "findings"): [],
    ("KeyOut", "revokedAt"): None,
    ("KeySecretOut", "revokedAt"): None,
    ("MovedOut", "toAgentId"): OTHER_AGENT_ID,
    ("OperationOut", "currentStep"): None,
    ("OperationOut", "error"): None,
    ("OperationOut", "leftovers"): [],
    ("OperationOut", "status"): "succeeded",
    ("OperationOut", "targetAgentId"): None,
    ("OperationOut", "warnings"): [],
    ("OperationSummary", "currentStep"): None,
    ("OperationSummary", "error"): None,
    ("OperationSummary", "status"): "succeeded",
    ("OperationSummary", "targetAgentId"): None,
    ("PhoneOut", "phoneProvisioningStatus"): PhoneStatus.PROVISIONED.value,
    ("PhoneOut", "warnings"): [],
    ("PlanOut", "obstacles"): [],
    ("StepOut", "error"): None,
    ("StepOut", "nextAttemptAt"): None,
    ("StepOut", "state"): StepState.DONE.value,
    ("TestCallEnded", "status"): "finished",
    ("TestCallEnded", "verdict"): "NO_AGENT",
    ("TestCallListed", "status"): "finished",
    ("TestCallListed", "verdict"): "NO_AGENT",
    ("TestCallOut", "status"): "finished",
    ("TestCallOut", "verdict"): "NO_AGENT",
    ("TrunkOut", "agentId"): None,
    ("TrunkOut", "emptiedAt"): None,
    ("TrunkOut", "state"): "ACTIVE",
    ("VoiceProjectOut", "error"): None,
    ("VoiceProjectOut", "oldValidUntil"): None,
    ("VoiceProjectOut", "status"): "verified",
    ("WebhookDeliveryOut", "error"): None,
    ("WebhookDeliveryOut", "nextAttemptAt"): None,
    ("WebhookDeliveryOut", "status"): "delivered",
    ("WebhookOut", "disabledReason"): None,
    ("WebhookOut", "events"): ["phone.failed"],
    ("WebhookOut", "failingSince"): None,
    ("WebhookOut", "previousSecretUntil"): None,
    ("WebhookSecretOut", "disabledReason"): None,
    ("WebhookSecretOut", "events"): ["phone.failed"],
    ("WebhookSecretOut", "failingSince"): None,
    ("WebhookSecretOut", "previousSecretUntil"): None,
    ("WebhookSummary", "disabledReason"): None,
    ("WebhookSummary", "events"): ["phone.failed"],
    ("WebhookSummary", "failingSince"): None,
}
"""(Schema, field) -> what an example has there, where the field itself has none or another one fits better."""

TEXTS: Mapping[str, str] = {
    "text/csv": f"{','.join(REPORT_COLUMNS)}\n1,{NUMBER},{AGENT_ID},succeeded,{OPERATION_ID},,\n",
    "text/plain": "# TYPE trunkline_broker_up gauge\ntrunkline_broker_up 1.0\n",
}
"""Media type -> the example of a response that is text."""


def add_examples(document: dict[str, Any]) -> dict[str, Any]:
    """Give every body in the document its examples; return them, by name, for its components."""
    schemas, used = document["components"]["schemas"], dict[str, object]()
    for body in _bodies(document):
        for mime_type, content in body.get("content", {}).items():
            shape = content["schema"]
            found = [each["$ref"].rpartition("/")[2] for each in shape.get("oneOf", [shape]) if "$ref" in each]
            if found and "examples" not in content:
                used |= {name: {"value": example_of_schema(name, schemas)} for name in found}
                content["examples"] = {name: {"$ref": f"#/components/examples/{name}"} for name in found}
            elif not found and "example" not in content:
                content["example"] = TEXTS.get(mime_type) or example_of(shape, schemas)
            if mime_type == MIME_TYPE:
                used |= {name: {"value": problem_example(ErrorCode(name))} for name in content["examples"]}
    return dict(sorted(used.items()))


def _bodies(document: Shape) -> Iterator[dict[str, Any]]:
    for calls in (*document["paths"].values(), *document["webhooks"].values()):
        for operation in calls.values():
            yield from [operation["requestBody"]] if "requestBody" in operation else []
            yield from operation["responses"].values()


def problem_example(code: ErrorCode) -> dict[str, object]:
    """Return a problem of this code."""
    errors = {"phoneNumber": ["Missing data for required field."]} if code is ErrorCode.VALIDATION_FAILED else None
    return problem_body(code, f"{KINDS[code].title}.", errors=errors)


def example_of(shape: Shape, schemas: Mapping[str, Shape], owner: tuple[str, str] | None = None) -> Any:
    """Return an example of a schema; `owner` names the schema and field that it stands in."""
    if owner is not None and owner in FIELDS:
        return FIELDS[owner]
    if "$ref" in shape:
        return example_of_schema(shape["$ref"].rpartition("/")[2], schemas)
    for key in ("example", "const"):
        if key in shape:
            return shape[key]
    first = next((shape[key][0] for key in ("examples", "enum") if key in shape), None)
    if first is not None:
        return first
    alternatives = next((shape[key] for key in ("oneOf", "anyOf", "allOf") if key in shape), None)
    return example_of(alternatives[0], schemas) if alternatives else _of_type(shape, schemas)


def example_of_schema(name: str, schemas: Mapping[str, Shape]) -> Any:
    """Return the example of a schema by its name."""
    if name in WHOLE:
        return WHOLE[name]
    fields = schemas[name]["properties"].items()
    return {field: example_of(shape, schemas, (name, field)) for field, shape in fields}


def _of_type(shape: Shape, schemas: Mapping[str, Shape]) -> Any:
    types = shape.get("type", "object")
    if "null" in types and types != "null":
        return [] if "array" in types else None
    if types == "array":
        return [example_of(shape["items"], schemas)]
    if types == "object":
        return {field: example_of(inner, schemas) for field, inner in shape.get("properties", {}).items()}
    return {"boolean": True, "integer": 1, "number": 1.5, "null": None}.get(types, "text")
