"""The API reference: the OpenAPI document, completed, and /docs with Swagger UI from a package, not from a CDN."""

import json
import re
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from apiflask import APIBlueprint, APIFlask
from flask import Response, current_app, send_from_directory

from app.api.examples import add_examples
from app.api.webhook_reference import webhook_reference
from app.bulk.files import COLUMNS
from app.domain.errors import ErrorCode
from app.domain.operations import COLUMNS as ID_COLUMNS
from app.domain.workspaces import DEFAULT_SLUG, SLUG, WORKSPACE_HEADER
from app.path.adoption import LinkProblem
from app.views.agent_schemas import AGENT_ID, MERGE_PATCH, NUMBER, STATUS_URL
from app.web.authentication import is_operated, needed_scope
from app.web.documented import HEADERS, IDEMPOTENT, PROBLEMS
from app.web.problems import KINDS, MIME_TYPE

_C = ErrorCode

DESCRIPTION = """\
Connects Twilio phone numbers to LiveKit voice agents, and keeps them connected.

Work is asynchronous: a call that starts an operation responds with 202 and a `statusUrl` to poll. With
`Prefer: wait=N` it waits up to 60 seconds for the result. Every error is `application/problem+json` with a `code` from
a closed list. Every response has an `X-Request-ID`, the client's own if it sent one.
"""

TAGS: Mapping[str, str] = {
    "Agents": "A voice agent by the name that LiveKit dispatches calls to; it has one number at most.",
    "Phone numbers": "Connecting a number to an agent, and disconnecting it.",
    "Numbers": "The numbers that the Twilio account owns, and what each is used for.",
    "Bulk": "Many numbers in one request, as JSON or CSV.",
    "Declarations": "The agents and numbers of a workspace as one document: its plan, and making it so.",
    "Care": "Checking, repairing and moving the path of a number that is connected.",
    "Test calls": "Calls that Trunkline places itself, to hear whether a number's agent answers.",
    "Trunks": "The Twilio trunks of the installation, and how many more numbers fit.",
    "Operations": "The background jobs: their steps, their trail of events, their errors.",
    "Audit": "Comparing everything that is stored with what both providers have.",
    "Webhooks": "Endpoints of yours that are told of events, and what was delivered to them.",
    "Workspaces": "Teams that share the installation and see nothing of each other.",
    "Keys": "API keys.",
    "Sign-in links": "Links that sign a browser in to the console, once.",
    "Activity": "Who has changed what.",
    "Carrier accounts": "Twilio accounts of a workspace's own.",
    "Voice projects": "LiveKit projects of a workspace's own.",
    "Overview": "The whole installation, or a workspace, at a glance.",
    "Health": "For supervisors, load balancers and Prometheus.",
}
"""Tag -> what its calls are about."""

ANY_CALL = (_C.REQUEST_TOO_LARGE,)
"""A body is refused before anybody asks whether the call takes one."""

KEYED_CALL = (
    _C.UNAUTHENTICATED,
    _C.FORBIDDEN,
    _C.WORKSPACE_NOT_FOUND,
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

TOO_MANY_REQUESTS = str(KINDS[_C.RATE_LIMITED].status)

NEEDS_NO_KEY = {"/healthz", "/readyz"}
"""The paths that need no key."""

_OPERATED = "For operators of the installation: a workspace's key gets 403."

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
    "RateLimit-Policy": {
        "description": "How many writing calls (`q`) the key may make in how many seconds (`w`). Absent with "
        "`RATE_LIMIT=off`.",
        "schema": {"type": "string", "examples": ['"writes";q=6000;w=60']},
    },
    "RateLimit": {
        "description": "How many more it may make now (`r`), and in how many seconds it may make more than that (`t`).",
        "schema": {"type": "string", "examples": ['"writes";r=5990;t=1']},
    },
}

RATE_HEADERS = ("RateLimit-Policy", "RateLimit")
"""Of every response to a call that counts against the rate of its key."""

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
    schemas = dict(sorted({**components.get("schemas", {}), "Problem": PROBLEM}.items()))
    components |= {"schemas": schemas, "parameters": dict(PARAMETERS), "headers": dict(RESPONSE_HEADERS)}
    for name, schema in schemas.items():
        _complete_schema(name, schema)
    names = _function_names()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            _complete_operation(path, method, operation, schemas)
            operation["operationId"] = _in_camel_case(names[path, method])
    document["tags"] = [{"name": tag["name"], "description": TAGS.get(tag["name"], "")} for tag in document["tags"]]
    document["servers"] = [{"url": "/", "description": "Where this document comes from."}]
    document["webhooks"] = webhook_reference()
    components["examples"] = add_examples(document)
    return document


def _function_names() -> dict[tuple[str, str], str]:
    """Return path and method -> the name of the view."""
    rules = current_app.url_map.iter_rules()
    return {
        (re.sub(r"<([^>]+)>", r"{\1}", rule.rule), method.lower()): rule.endpoint.rpartition(".")[2]
        for rule in rules
        for method in rule.methods or ()
    }


def _in_camel_case(name: str) -> str:
    """Turn provision_phone into provisionPhone: generated clients name their methods so."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


LEFT_OUT = frozenset(
    {
        ("Provisioned", "warnings"),
        ("DeclaredAgentOut", "carrierAccountId"),
        ("DeclaredAgentOut", "voiceProjectId"),
    }
)
"""Fields that a response leaves out where there is nothing to say: an older version, or a file, has none of them."""

_OF_WHAT_IS_SET = re.compile(r"([A-Z][a-z]+)?OptionsOut")
"""The schemas of options in a response: only what is set is there."""


def _complete_schema(name: str, schema: dict[str, Any]) -> None:
    """Mark every field of a response as always present, but for options and `LEFT_OUT`; later versions may add some.

    The default of a field in a request is told in words: generators take a `default` for a promise that it is there,
    and would have clients send it (openapi-typescript, as of version 7).
    """
    if name.endswith("In"):
        for field in schema["properties"].values():
            default = field.pop("default", None)
            if default is not None:
                field["description"] = f"{field['description']} Default: `{_as_text(default)}`."
    elif name != "Problem":
        if not _OF_WHAT_IS_SET.fullmatch(name):
            schema["required"] = [each for each in schema["properties"] if (name, each) not in LEFT_OUT]
        schema.pop("additionalProperties", None)


def _as_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _complete_operation(path: str, method: str, operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    codes = list(operation.pop(PROBLEMS, ()))
    operation["security"] = [] if path in NEEDS_NO_KEY else [{"apiKey": []}]
    codes += ANY_CALL
    if operation["security"]:
        codes += KEYED_CALL + (() if method == "get" else WRITING_CALL)
    operation["description"] = _who_may(path, method)
    if "requestBody" in operation:
        operation["requestBody"]["required"] = _has_required_fields(operation["requestBody"], schemas)
        if example := CSV_BODIES.get((path, method)):
            operation["requestBody"]["content"]["text/csv"] = {"schema": {"type": "string"}, "example": example}
        if (path, method) in MERGE_PATCHES:
            content = operation["requestBody"]["content"]
            content[MERGE_PATCH] = dict(content["application/json"])
        codes += WITH_BODY
    operation["parameters"] += [
        {"$ref": f"#/components/parameters/{name}"} for name in _header_parameters(path, method, operation)
    ]
    if operation.pop(IDEMPOTENT, False):
        codes += WITH_KEY
    for parameter in operation["parameters"]:
        if parameter.get("in") == "path":
            parameter["schema"] = _ID
    responses = operation["responses"] | _problem_responses(codes)
    operation["responses"] = {status: responses[status] for status in sorted(responses)}
    _complete_headers(operation, is_counted=method != "get" and bool(operation["security"]))


def _complete_headers(operation: dict[str, Any], *, is_counted: bool) -> None:
    """Name the headers of every response: what its view notes, and what is left of the rate where it is counted."""
    noted = operation.pop(HEADERS, {})
    for status, response in operation["responses"].items():
        names = [*response.pop(HEADERS, ()), *noted.get(status, ())]
        if is_counted and (status.startswith("2") or status == TOO_MANY_REQUESTS):
            names += RATE_HEADERS
        if names:
            response["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _who_may(path: str, method: str) -> str:
    """Say what a call needs of its key, as the check of the key has it."""
    if path in NEEDS_NO_KEY:
        return "Needs no key."
    needs = f"Needs the scope `{needed_scope(method.upper(), path).value}`."
    return f"{needs} {_OPERATED}" if is_operated(method.upper(), path) else needs


def _header_parameters(path: str, method: str, operation: Mapping[str, Any]) -> list[str]:
    of_its_own = [
        name
        for (ending, verb), names in _HEADER_PARAMETERS.items()
        for name in names
        if path.endswith(ending) and verb == method
    ]
    every = {"IdempotencyKey": operation.get(IDEMPOTENT, False), "Workspace": bool(operation["security"])}
    return [*of_its_own, *(name for name, is_taken in every.items() if is_taken)]


def _has_required_fields(body: dict[str, Any], schemas: dict[str, Any]) -> bool:
    name = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
    return bool(schemas[name].get("required"))


def _problem_responses(codes: Iterable[ErrorCode]) -> dict[str, Any]:
    by_status: dict[int, list[ErrorCode]] = defaultdict(list)
    for code in dict.fromkeys(codes):
        by_status[KINDS[code].status].append(code)
    return {str(status): _problem_response(by_status[status]) for status in sorted(by_status)}


def _problem_response(codes: list[ErrorCode]) -> dict[str, Any]:
    names = {"Retry-After": any(KINDS[code].retry_after_s is not None for code in codes)}
    names["WWW-Authenticate"] = ErrorCode.UNAUTHENTICATED in codes
    return {
        "description": "; ".join(f"`{code.value}`" for code in codes),
        "content": {
            MIME_TYPE: {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "examples": {code.value: {"$ref": f"#/components/examples/{code.value}"} for code in codes},
            }
        },
        HEADERS: [name for name, is_sent in names.items() if is_sent],
    }


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
