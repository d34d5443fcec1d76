"""The API reference: the OpenAPI document, completed, and /docs with Swagger UI from a package, not from a CDN."""

import re
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from apiflask import APIBlueprint, APIFlask
from flask import Response, current_app, send_from_directory

from app.bulk.files import COLUMNS
from app.domain.errors import ErrorCode
from app.domain.events import PHONE_EVENTS, WebhookEvent
from app.domain.findings import Callers, FindingCode, Severity
from app.domain.operations import COLUMNS as ID_COLUMNS
from app.domain.operations import OperationKind, PhoneStatus
from app.domain.workspaces import DEFAULT_SLUG, SLUG, WORKSPACE_HEADER
from app.path.adoption import LinkProblem
from app.views.agent_schemas import AGENT_ID, MERGE_PATCH, NUMBER, OPERATION_ID, STATUS_URL
from app.views.webhook_schemas import MESSAGE_ID, SUMMARIES
from app.web.documented import HEADERS, IDEMPOTENT, PROBLEMS
from app.web.problems import KINDS, MIME_TYPE, problem_body

DELIVERY_HEADERS = {
    "webhook-id": {"description": "The same on every attempt: use it to recognise repetitions.", "example": MESSAGE_ID},
    "webhook-timestamp": {"description": "When this attempt was signed, in Unix seconds.", "example": "1674087231"},
    "webhook-signature": {
        "description": "One or more, separated by blanks: `v1,` and the base64 HMAC-SHA256 of "
        "`{webhook-id}.{webhook-timestamp}.{body}` under the secret.",
        "example": "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=",
    },
}

_ABOUT_AGENT = {
    "agentId": {"type": "string", "format": "uuid", "example": AGENT_ID},
    "agentName": {"type": "string", "example": "Front desk"},
    "phoneNumber": {"type": "string", "example": NUMBER},
    "phoneProvisioningStatus": {"enum": [status.value for status in PhoneStatus]},
}
_ABOUT_OPERATION = {
    "operationId": {"type": "string", "format": "uuid", "example": OPERATION_ID},
    "operationKind": {"enum": [kind.value for kind in OperationKind]},
    "error": {
        "type": "object",
        "description": "Why it failed, if it did.",
        "properties": {"code": {"type": "string"}, "detail": {"type": "string"}},
    },
}
_ABOUT_DRIFT = {
    "operationId": {"type": "null"},
    "findings": {
        "type": "array",
        "items": {
            "type": "object",
            "properties": {
                "code": {"enum": [code.value for code in FindingCode]},
                "severity": {"enum": [severity.value for severity in Severity]},
                "callers": {"enum": [*(callers.value for callers in Callers), None]},
                "sentence": {"type": "string"},
                "detail": {"type": "string"},
                "resource": {
                    "type": ["object", "null"],
                    "properties": {"kind": {"type": "string"}, "id": {"type": "string"}},
                },
            },
        },
    },
}


def webhook_reference() -> dict[str, Any]:
    """Return the section: one entry for each event that an endpoint may subscribe to."""
    return {event.value: {"post": _post(event)} for event in PHONE_EVENTS}


def _post(event: WebhookEvent) -> dict[str, Any]:
    headers = [
        {"in": "header", "name": name, "required": True, "schema": {"type": "string"}, **about}
        for name, about in DELIVERY_HEADERS.items()
    ]
    return {
        "summary": SUMMARIES[event],
        "tags": ["Webhooks"],
        # A receiver authenticates us by the signature in the headers, which no OpenAPI security scheme describes.
        "security": [],
        "parameters": headers,
        "requestBody": {"required": True, "content": {"application/json": {"schema": _body(event)}}},
        "responses": {"2XX": {"description": "Received. Any other status is retried; 410 disables the endpoint."}},
    }


def _body(event: WebhookEvent) -> dict[str, Any]:
    more = _ABOUT_DRIFT if event is WebhookEvent.DRIFTED else _ABOUT_OPERATION
    return {
        "type": "object",
        "required": ["type", "timestamp", "data"],
        "properties": {
            "type": {"const": event.value},
            "timestamp": {"type": "string", "format": "date-time", "description": "When it happened."},
            "data": {
                "type": "object",
                "required": [*_ABOUT_AGENT, "operationId"],
                "properties": {**_ABOUT_AGENT, **more},
            },
        },
    }


_C = ErrorCode

DESCRIPTION = """\
Connects Twilio phone numbers to LiveKit voice agents, and keeps them connected.

Work is asynchronous: a call that starts an operation responds with 202 and a `statusUrl` to poll. With
`Prefer: wait=N` it waits up to 60 seconds for the result. Every error is `application/problem+json` with a `code` from
a closed list. Every response has an `X-Request-ID`, the client's own if it sent one.
"""

EVERY_CALL = (
    _C.UNAUTHENTICATED,
    _C.FORBIDDEN,
    _C.WORKSPACE_NOT_FOUND,
    _C.REQUEST_TOO_LARGE,
    _C.INTERNAL_ERROR,
    _C.SERVICE_UNAVAILABLE,
)
WRITING_CALL = (_C.RATE_LIMITED, _C.VALIDATION_FAILED)
"""The second for an unknown query parameter."""

WITH_BODY = (_C.MALFORMED_REQUEST, _C.UNSUPPORTED_MEDIA_TYPE, _C.VALIDATION_FAILED)
WITH_KEY = (_C.IDEMPOTENCY_KEY_REUSED, _C.IDEMPOTENCY_KEY_IN_PROGRESS, _C.VALIDATION_FAILED)

_CSV_ROW = {"phoneNumber": NUMBER, "agentId": AGENT_ID, "takeover": "false"}

CSV_BODIES = {
    ("/api/provisionings", "post"): "".join(
        f"{','.join(cells)}\n" for cells in (COLUMNS, [_CSV_ROW.get(column, "") for column in COLUMNS])
    )
}
"""The calls that also take CSV -> an example."""

MERGE_PATCHES = {("/api/agents/{agent_id}", "patch")}
"""The calls that take a JSON merge patch (RFC 7396) by that name too."""

NEEDS_NO_KEY = {"/healthz", "/readyz"}
"""The paths that need no key."""

_ID = {"type": "string", "format": "uuid", "example": AGENT_ID}

PARAMETERS: Mapping[str, dict[str, Any]] = {
    "Workspace": {
        "in": "header",
        "name": WORKSPACE_HEADER,
        "description": "The workspace that an operator's key works in, as if it were a key of it. Without it such a "
        f"key sees all workspaces, and what it creates is in `{DEFAULT_SLUG}`. A workspace's own key needs no header.",
        "schema": {"type": "string", "pattern": f"^{SLUG.pattern}$", "examples": [DEFAULT_SLUG]},
    },
    "IdempotencyKey": {
        "in": "header",
        "name": "Idempotency-Key",
        "description": "1 to 255 visible ASCII characters. For 24 hours the same request with the same key gets the "
        "first response again, marked `Idempotency-Replayed: true`; responses of 500 and above are not stored.",
        "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
    },
    "Prefer": {
        "in": "header",
        "name": "Prefer",
        "description": "`wait=N`: respond when the operation has ended, or after N seconds, at most 60 (RFC 7240).",
        "schema": {"type": "string", "examples": ["wait=30"]},
    },
    "IfNoneMatch": {
        "in": "header",
        "name": "If-None-Match",
        "description": "The `ETag` of the last response: 304 without a body if nothing has changed.",
        "schema": {"type": "string"},
    },
    "IfMatch": {
        "in": "header",
        "name": "If-Match",
        "description": 'The `ETag` of the agent that the change was made for, as `"3"`: 412 `version_mismatch` if '
        "somebody has changed it since. A list of tags and `*` are understood; a weak tag matches nothing. Without it "
        "the last change wins.",
        "schema": {"type": "string"},
    },
}

PROBLEM = {
    "type": "object",
    "description": "Why a request was refused or failed (RFC 9457).",
    "required": ["success", "type", "title", "status", "detail", "code"],
    "properties": {
        "success": {"const": False},
        "type": {"type": "string", "description": "`urn:trunkline:problem:` and the code."},
        "title": {"type": "string", "description": "What every problem of this code has in common."},
        "status": {"type": "integer", "description": "The HTTP status."},
        "detail": {"type": "string", "description": "What went wrong this time."},
        "code": {"enum": [code.value for code in ErrorCode]},
        "errors": {
            "type": "object",
            "description": "Field -> what is wrong with it.",
            "additionalProperties": {"type": "array", "items": {"type": "string"}},
        },
        "agentId": {
            "type": "string",
            "format": "uuid",
            "description": f"Of `{ErrorCode.EXTERNAL_ID_IN_USE.value}`: the agent that has the id.",
        },
        "link": {
            "type": "object",
            "description": f"Of `{ErrorCode.NOT_ADOPTABLE.value}`: where the number's path is not one chain.",
            "required": ["step", "problem", "ids"],
            "properties": {
                "step": {"enum": list(ID_COLUMNS), "description": "The object, by the step that would make it."},
                "problem": {"enum": [one.value for one in LinkProblem]},
                "ids": {"type": "array", "items": {"type": "string"}, "description": "The objects in question."},
            },
        },
    },
}

RESPONSE_HEADERS: Mapping[str, dict[str, Any]] = {
    "Location": {"description": "The URL of the result.", "schema": {"type": "string", "examples": [STATUS_URL]}},
    "Retry-After": {"description": "Seconds until the next attempt is useful.", "schema": {"type": "integer"}},
    "ETag": {
        "description": "Changes whenever the body does; an agent's is its `version`, for `If-Match`.",
        "schema": {"type": "string"},
    },
    "Preference-Applied": {"description": "`wait=N` when the wait took place.", "schema": {"type": "string"}},
    "WWW-Authenticate": {"description": "`Bearer`.", "schema": {"type": "string"}},
}

_HEADER_PARAMETERS = {
    ("/provision-phone", "post"): ("Prefer",),
    ("/adopt-phone", "post"): ("Prefer",),
    ("/deprovision-phone", "delete"): ("Prefer",),
    ("/repair", "post"): ("Prefer",),
    ("/move-phone", "post"): ("Prefer",),
    ("/audit", "post"): ("Prefer",),
    ("/phone-status", "get"): ("IfNoneMatch",),
    ("/agents/{agent_id}", "patch"): ("Prefer", "IfMatch"),
}


def configure_openapi(app: APIFlask) -> None:
    """Configure what APIFlask generates, and complete it."""
    app.config.update(
        OPENAPI_VERSION="3.1.0",
        DESCRIPTION=DESCRIPTION,
        AUTO_SERVERS=False,
        AUTO_404_RESPONSE=False,
        AUTO_VALIDATION_ERROR_RESPONSE=False,
        AUTO_OPERATION_ID=True,
        LICENSE={"name": "MIT", "identifier": "MIT"},
        SECURITY_SCHEMES={
            "apiKey": {"type": "http", "scheme": "bearer", "description": "`flask keys create` makes one."}
        },
    )
    app.spec_processor(_complete)  # type: ignore[arg-type]  # SPEC_FORMAT is json: always a dict


def _complete(document: dict[str, Any]) -> dict[str, Any]:
    components = document.setdefault("components", {})
    components["schemas"] = dict(sorted({**components.get("schemas", {}), "Problem": PROBLEM}.items()))
    components["parameters"] = dict(PARAMETERS)
    for name, schema in components["schemas"].items():
        _complete_schema(name, schema)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete_operation(path, method, operation, components["schemas"])
    document["servers"] = [{"url": "/"}]
    document["webhooks"] = webhook_reference()
    return document


LEFT_OUT = frozenset({("Provisioned", "warnings")})
"""Fields that a response leaves out where there is nothing to say, since it had none of them at first."""

_OF_WHAT_IS_SET = re.compile(r"([A-Z][a-z]+)?OptionsOut")
"""The schemas of options in a response: only what is set is there."""


def _complete_schema(name: str, schema: dict[str, Any]) -> None:
    """Mark every field of a response as always present, but for options and `LEFT_OUT`; later versions may add some."""
    if name != "Problem" and not name.endswith("In"):
        if not _OF_WHAT_IS_SET.fullmatch(name):
            schema["required"] = [each for each in schema["properties"] if (name, each) not in LEFT_OUT]
        schema.pop("additionalProperties", None)


def _complete_operation(path: str, method: str, operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    codes = list(operation.pop(PROBLEMS, ()))
    operation["security"] = [] if path in NEEDS_NO_KEY else [{"apiKey": []}]
    if operation["security"]:
        codes += EVERY_CALL + (() if method == "get" else WRITING_CALL)
    if "requestBody" in operation:
        operation["requestBody"]["required"] = _has_required_fields(operation["requestBody"], schemas)
        if example := CSV_BODIES.get((path, method)):
            operation["requestBody"]["content"]["text/csv"] = {"schema": {"type": "string"}, "example": example}
        if (path, method) in MERGE_PATCHES:
            content = operation["requestBody"]["content"]
            content[MERGE_PATCH] = content["application/json"]
        codes += WITH_BODY
    wanted = [
        name
        for (ending, verb), names in _HEADER_PARAMETERS.items()
        for name in names
        if path.endswith(ending) and verb == method
    ]
    if operation.pop(IDEMPOTENT, False):
        codes += WITH_KEY
        wanted.append("IdempotencyKey")
    if operation["security"]:
        wanted.append("Workspace")
    for parameter in operation["parameters"]:
        if parameter.get("in") == "path":
            parameter["schema"] = _ID
    operation["parameters"] += [{"$ref": f"#/components/parameters/{name}"} for name in wanted]
    for status, names in operation.pop(HEADERS, {}).items():
        operation["responses"][status]["headers"] = {name: RESPONSE_HEADERS[name] for name in names}
    responses = operation["responses"] | _problem_responses(codes)
    operation["responses"] = {status: responses[status] for status in sorted(responses)}
    # post_phones_provision_phone -> provisionPhone: generated clients name their methods so.
    first, *rest = operation["operationId"].split("_")[2:]
    operation["operationId"] = first + "".join(word.capitalize() for word in rest)


def _has_required_fields(body: dict[str, Any], schemas: dict[str, Any]) -> bool:
    name = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    return bool(schemas[name].get("required"))


def _problem_responses(codes: Iterable[ErrorCode]) -> dict[str, Any]:
    by_status: dict[int, list[ErrorCode]] = defaultdict(list)
    for code in dict.fromkeys(codes):
        by_status[KINDS[code].status].append(code)
    return {str(status): _problem_response(by_status[status]) for status in sorted(by_status)}


def _problem_response(codes: list[ErrorCode]) -> dict[str, Any]:
    headers = {"Retry-After"} if any(KINDS[code].retry_after_s is not None for code in codes) else set()
    headers |= {"WWW-Authenticate"} if ErrorCode.UNAUTHENTICATED in codes else set()
    examples = {
        code.value: {"value": problem_body(code, f"{KINDS[code].title}.", errors=_errors(code))} for code in codes
    }
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        "description": "; ".join(f"`{code.value}`" for code in codes),
        "content": {MIME_TYPE: {"schema": schema, "examples": examples}},
        **({"headers": {name: RESPONSE_HEADERS[name] for name in sorted(headers)}} if headers else {}),
    }


def _errors(code: ErrorCode) -> dict[str, list[str]] | None:
    return {"phoneNumber": ["Missing data for required field."]} if code is ErrorCode.VALIDATION_FAILED else None


blueprint = APIBlueprint("documentation", __name__, enable_openapi=False)

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
"""Swagger UI writes style attributes; scripts come only from our own files."""

ASSETS = frozenset({"swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png"})
ASSET_AGE_S = 3600
"""Seconds a browser keeps Swagger UI's files; they change only with a release."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Trunkline API</title>
<link rel="stylesheet" href="/docs/assets/swagger-ui.css">
<link rel="icon" href="/docs/assets/favicon-32x32.png">
</head>
<body>
<div id="reference"></div>
<noscript>This page needs JavaScript; the same reference as data: <a href="/openapi.json">/openapi.json</a>.</noscript>
<script src="/docs/assets/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""

START = """SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#reference",
  deepLinking: true,
  persistAuthorization: false,
  tryItOutEnabled: true,
  validatorUrl: null,
});
"""

_building = threading.Lock()


@blueprint.get("/openapi.json")
def openapi() -> Response:
    """Send the OpenAPI 3.1 document, built at the first request."""
    # apispec keeps state while it builds: two threads at the same time would mix their documents.
    with _building:
        document = current_app.json.dumps(current_app._get_spec("json"))  # type: ignore[attr-defined]  # noqa: SLF001 - the public `spec` builds anew each time
    return Response(document, mimetype="application/json")


@blueprint.get("/docs")
def page() -> Response:
    """Send the page."""
    return Response(PAGE, mimetype="text/html", headers={"Content-Security-Policy": PAGE_POLICY})


@blueprint.get("/docs/start.js")
def start() -> Response:
    """Send the script that starts Swagger UI: inline it would need a wider policy."""
    return Response(START, mimetype="text/javascript")


@blueprint.get("/docs/assets/<name>")
def asset(name: str) -> Response:
    """Send one of Swagger UI's own files."""
    response = send_from_directory(_assets(), name if name in ASSETS else "\0", max_age=ASSET_AGE_S)
    response.headers["Cache-Control"] = f"public, max-age={ASSET_AGE_S}"
    return response


def _assets() -> Path:
    """Find the files without importing the package, an untyped Flask extension that we do not use."""
    found = find_spec("flask_swagger_ui")
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError("flask_swagger_ui")
    return Path(found.submodule_search_locations[0]) / "dist"
