"""The reference: equal to the committed file, valid, complete, and shown without reaching anything outside.

After a change that is meant: `UPDATE_OPENAPI=1 python -m pytest tests/api/test_openapi.py`, and read the diff.
"""

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from app.domain.errors import ErrorCode
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
    assert document["servers"] == [{"url": "/"}]
    for calls in (document["paths"], document["webhooks"]):
        assert [verb for verbs in calls.values() for verb, each in verbs.items() if "security" not in each] == []


def test_every_problem_has_an_example_that_is_a_problem(document: dict[str, Any]) -> None:
    seen = set()
    for path, _, operation in _operations(document):
        for status, response in operation["responses"].items():
            if int(status) >= 400 and path not in NEEDS_NO_KEY:
                for name, example in response["content"]["application/problem+json"]["examples"].items():
                    seen.add(name)
                    assert (example["value"]["code"], str(example["value"]["status"])) == (name, status)
    not_of_one_call = {ErrorCode.NOT_FOUND, ErrorCode.METHOD_NOT_ALLOWED}
    assert seen == {code.value for code in ErrorCode} - not_of_one_call


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
