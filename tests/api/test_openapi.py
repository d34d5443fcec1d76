"""The reference: equal to the committed file, valid, complete, and shown without reaching anything outside.

After a change that is meant: `UPDATE_OPENAPI=1 python -m pytest tests/api/test_openapi.py`, and read the diff.
"""

import json
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator, oas31_format_checker
from openapi_spec_validator import OpenAPIV31SpecValidator

from app.domain.errors import ErrorCode
from app.web.problems import KINDS
from tests.support.api import Api

COMMITTED = Path(__file__).with_name("openapi.json")
NEEDS_NO_KEY = {"/healthz", "/readyz"}


@pytest.fixture
def document(api: Api) -> dict[str, Any]:
    answer = api.client.get("/openapi.json")
    assert answer.content_type == "application/json"
    return answer.json


def _operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, verb, each) for path, verbs in document["paths"].items() for verb, each in verbs.items()]


def _resolved(document: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in found:
        return found
    _, _, kind, name = found["$ref"].split("/")
    return document["components"][kind][name]


def _bodies(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield call, media type and content of every request and response body, those of webhooks too."""
    for path, calls in (document["paths"] | document["webhooks"]).items():
        for verb, operation in calls.items():
            for where, body in {"request": operation.get("requestBody", {}), **operation["responses"]}.items():
                for mime_type, content in body.get("content", {}).items():
                    yield f"{verb} {path} {where}", mime_type, content


def test_the_document_is_the_committed_one(document: dict[str, Any]) -> None:
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    if os.environ.get("UPDATE_OPENAPI"):
        COMMITTED.write_text(text, encoding="utf-8")

    assert text == COMMITTED.read_text(encoding="utf-8")


def test_the_document_is_valid_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1.")
    OpenAPIV31SpecValidator(document).validate()


def test_the_version_is_the_project_s(document: dict[str, Any]) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert document["info"]["version"] == project["version"]


def test_every_route_is_documented_but_the_reference_itself_and_the_console(api: Api, document: dict[str, Any]) -> None:
    rules = [rule for rule in api.app.url_map.iter_rules() if not rule.endpoint.startswith("console.")]
    routes = {re.sub(r"<([^>]+)>", r"{\1}", rule.rule) for rule in rules}

    assert {route for route in routes if not route.startswith(("/docs", "/openapi"))} == set(document["paths"])


def test_every_call_but_those_of_health_needs_the_key_and_says_what_else_may_happen(document: dict[str, Any]) -> None:
    for path, verb, operation in _operations(document):
        if path in NEEDS_NO_KEY:
            assert {} in operation["security"] or not operation["security"], path
        else:
            assert operation["security"] == [{"apiKey": []}], (path, verb)
            assert {"401", "403", "500", "503"} <= set(operation["responses"]), (path, verb)
        if verb == "post" and "requestBody" in operation:
            assert {"400", "413", "415", "422"} <= set(operation["responses"]), (path, verb)
        assert operation["summary"]
        assert operation["operationId"]
        assert not [name for name in operation if name.startswith("x-")]


def test_every_call_and_webhook_says_where_it_is_and_whether_it_needs_a_key(document: dict[str, Any]) -> None:
    assert [server["url"] for server in document["servers"]] == ["/"]
    for calls in (document["paths"], document["webhooks"]):
        assert [verb for verbs in calls.values() for verb, each in verbs.items() if "security" not in each] == []


def test_every_problem_has_an_example_that_is_a_problem(document: dict[str, Any]) -> None:
    seen = set()
    for path, _, operation in _operations(document):
        for status, response in operation["responses"].items():
            if int(status) >= 400 and path not in NEEDS_NO_KEY:
                for name, reference in response["content"]["application/problem+json"]["examples"].items():
                    seen.add(name)
                    problem = _resolved(document, reference)["value"]
                    assert (problem["code"], str(problem["status"])) == (name, status)
                    assert KINDS[ErrorCode(name)].status == int(status)
    not_of_one_call = {ErrorCode.NOT_FOUND, ErrorCode.METHOD_NOT_ALLOWED}
    assert seen == {code.value for code in ErrorCode} - not_of_one_call


def _unfit(document: dict[str, Any], schema: dict[str, Any], value: Any) -> list[str]:
    """Return what a schema of the document finds wrong with a value."""
    validator = OAS31Validator({"components": document["components"], **schema}, format_checker=oas31_format_checker)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


def test_every_body_has_an_example_that_fits_its_schema(document: dict[str, Any]) -> None:
    for where, mime_type, content in _bodies(document):
        examples = content.get("examples") or {mime_type: {"value": content["example"]}}
        for name, reference in examples.items():
            value = _resolved(document, reference)["value"]
            assert _unfit(document, content["schema"], value) == [], (where, name)


def test_an_example_that_does_not_fit_would_be_found(document: dict[str, Any]) -> None:
    schema = {"$ref": "#/components/schemas/ProvisionIn"}

    assert _unfit(document, schema, {"phoneNumber": "+15145551234"}) == []
    assert len(_unfit(document, schema, {"phoneNumber": "5551234", "takeOver": True})) == 2


def test_no_field_of_a_request_has_a_default_that_generators_take_for_a_promise(document: dict[str, Any]) -> None:
    requests = {name: each for name, each in document["components"]["schemas"].items() if name.endswith("In")}

    assert [
        (n, f) for n, each in requests.items() for f, shape in each["properties"].items() if "default" in shape
    ] == []
    assert requests["ProvisionIn"]["required"] == ["phoneNumber"]
    assert "Default: `false`." in requests["ProvisionIn"]["properties"]["takeover"]["description"]


def test_request_and_response_never_share_a_schema(document: dict[str, Any]) -> None:
    used: dict[bool, set[str]] = {True: set(), False: set()}
    for where, _, content in _bodies(document):
        used[where.endswith(" request")] |= set(re.findall(r'schemas/(\w+)"', json.dumps(content["schema"])))

    assert not used[True] & used[False]
    assert {name for name in used[True] if not name.endswith("In")} == set()


def test_every_operation_has_an_id_that_is_a_name_in_code(document: dict[str, Any]) -> None:
    calls = [*document["paths"].values(), *document["webhooks"].values()]
    ids = [operation["operationId"] for verbs in calls for operation in verbs.values()]

    assert len(set(ids)) == len(ids)
    assert [each for each in ids if not re.fullmatch(r"[a-z]+([A-Z][a-z]+)*", each)] == []


def test_every_call_may_be_refused(document: dict[str, Any]) -> None:
    calls = {f"{verb} {path}": operation["responses"] for path, verb, operation in _operations(document)}

    assert [call for call, responses in calls.items() if not any(status.startswith("4") for status in responses)] == []


def test_every_component_is_used(document: dict[str, Any]) -> None:
    used = set(re.findall(r'"#/components/([^"]+)"', json.dumps(document)))
    kinds = {kind: named for kind, named in document["components"].items() if kind != "securitySchemes"}

    assert {f"{kind}/{name}" for kind, named in kinds.items() for name in named} == used


def test_every_tag_is_described_and_used(document: dict[str, Any]) -> None:
    used = {tag for _, _, operation in _operations(document) for tag in operation["tags"]}

    assert {tag["name"] for tag in document["tags"]} == used
    assert all(tag["description"].endswith(".") for tag in document["tags"])


def test_every_call_says_what_its_key_must_have(document: dict[str, Any]) -> None:
    for path, verb, operation in _operations(document):
        expected = "Needs no key." if path in NEEDS_NO_KEY else "Needs the scope `"
        assert operation["description"].startswith(expected), (path, verb)


def test_every_parameter_has_a_type(document: dict[str, Any]) -> None:
    found = [parameter for _, _, operation in _operations(document) for parameter in operation["parameters"]]

    for parameter in [*(each for each in found if "$ref" not in each), *document["components"]["parameters"].values()]:
        assert parameter["schema"].keys() & {"type", "enum"}, parameter["name"]


def test_every_body_and_field_is_described_or_shown(document: dict[str, Any]) -> None:
    for name, schema in document["components"]["schemas"].items():
        for field, shape in schema["properties"].items():
            assert shape.keys() & {"description", "example", "$ref", "anyOf", "items", "enum", "const"} or (
                shape.get("type") == "boolean"
            ), f"{name}.{field}"


def test_the_docs_page_reaches_nothing_outside(api: Api) -> None:
    page = api.client.get("/docs")

    assert page.content_type == "text/html; charset=utf-8"
    linked = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(linked) == 5
    for url in linked:
        assert url.startswith("/")
        with api.client.get(url) as answer:
            assert answer.status_code == 200
            assert len(answer.data) > 50
    assert "'unsafe-inline'" not in page.headers["Content-Security-Policy"].split("script-src")[1].split(";")[0]
    assert not re.search(r"<script>|onload=", page.text)


@pytest.mark.parametrize("name", ["../flask_swagger_ui.py", "..%2f__init__.py", "swagger-ui.js", "%00"])
def test_only_the_files_of_the_page_are_served(api: Api, name: str) -> None:
    assert api.client.get(f"/docs/assets/{name}").status_code == 404
