"""Every route of the console and of the API with input that nobody means: refused or taken, and never a defect."""

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any, TypeVar
from urllib.parse import urlencode

import pytest
from werkzeug.routing import Rule

from app.access import KeyService, Scope
from app.domain.workspaces import ENVIRONMENT_ACCOUNT, ENVIRONMENT_PROJECT
from tests.support.api import NOBODY, Api
from tests.support.console import BrowserClient, signed_in
from tests.support.toolboxes import tools_of
from tests.support.trunks import add_shared_trunk

PARAMETERS = ("q", "status", "tab", "health", "cursor", "limit", "next", "agentId", "dryRun", "mode", "state")
PARAMETERS += ("use", "search", "fresh", "since", "carrierAccountId")
FORM_FIELDS = ("name", "livekitAgentName", "typed", "chosen", "takeover", "to", "url", "events", "description")
FORM_FIELDS += ("key", "next", "fix", "q", "use", "since")

BAD_TEXTS = (
    "a%00b",
    "%ff%fe%ed%a0%80",
    "%E2%80%AE%F3%A0%81%81",
    "%EF%BC%91%EF%BC%90",
    "9" * 5000,
    "https://%5B::1",
    "sip:%1bc@evil",
    "%25%27%22%3Cscript%3E",
    "WyIwMDAxLTAxLTAxVDAwOjAwOjAwKzIzOjU5IiwgIjAwMDAwMDAwLTAwMDAtNDAwMC04MDAwLTAwMDAwMDAwMDAwMCJd",
)
"""Percent-encoded, as in a URL or a form: NUL, no UTF-8, bidi and a tag, digits of another script, more of them than
an integer has. The last is a cursor of the year 1."""

BAD_IDS = ("%00%ff", "x" * 2000, "{7c1f5a52-3c0e-4c42-9a53-0f3a1d0b6c11}")

BAD_JSON = (
    "null",
    "-0",
    "NaN",
    "-Infinity",
    "1e999",
    "1e-999999999",
    "1" * 5000,
    '"\\u0000"',
    '"\\ud800"',
    '{"\\ud800": "\\u0000"}',
    '{"a": 1, "a": 2}',
    "[" * 10_000,
    '"' + "x" * 5000 + '"',
    '[{"agent": {"name": "\\udfff", "metadata": {"\\u0000": 1e999}}}, "\\ud800", null, 7, []]',
    '["\\u0000"]',
)
HEADERS = ("Idempotency-Key", "X-Request-ID", "If-None-Match", "Prefer", "Accept", "traceparent", "Content-Encoding")
BAD_HEADERS = ("", "\x00", "\xff\xfe", "\x1b[31m", "x" * 5000, '"', 'W/"', "wait=" + " " * 5000 + 'x"x')

QUERIES = tuple(f"{name}={bad}" for name, bad in zip(PARAMETERS, itertools.cycle(BAD_TEXTS), strict=False)) + tuple(
    "&".join(f"{name}={bad}" for name in PARAMETERS) for bad in BAD_TEXTS[::4]
)
"""Each parameter by itself, and some texts in all of them."""

SHARES = 3
"""Shares of the cases: the whole suite sends each route one of them, the next route the next."""

in_shares = pytest.mark.parametrize("share", range(SHARES))

T = TypeVar("T")

numbers = itertools.count()


@pytest.fixture
def browser(api: Api) -> BrowserClient:
    return signed_in(api, Scope.ADMIN)


def routes(api: Api, method: str, *, console: bool) -> list[Rule]:
    """Return every route with this method, but for files and the one that signs out; what deletes comes last."""
    found = [rule for rule in api.app.url_map.iter_rules() if method in (rule.methods or ())]
    wanted = [rule for rule in found if rule.endpoint.startswith("console.") == console]
    left_out = {"console.static", "console.sign_out", "documentation.asset"}
    found = [rule for rule in wanted if rule.endpoint not in left_out]
    return sorted(found, key=lambda rule: "delete" in rule.endpoint)


def rows(api: Api) -> dict[str, str]:
    """Return an id that exists for each id in a path."""
    agent_id = api.agent("with a failure")
    operation_id = api.provision(agent_id).json["operationId"]
    api.fail(operation_id, "number_not_voice", "No voice.")
    webhook = api.wiring.webhooks.create("https://93.184.215.14/hook", None, None).endpoint
    bulk = api.post("/api/provisionings", {"items": [7]}).json["bulkId"]
    delivery_id = str(api.wiring.webhooks.test(webhook.id).id)
    found = {"agent_id": agent_id, "operation_id": operation_id, "bulk_id": bulk, "webhook_id": str(webhook.id)}
    trunk_id = str(add_shared_trunk(api.wiring.sessions, tools_of(api.wiring.maintenance).profile))
    key, _ = KeyService(api.wiring.sessions).create("another", [Scope.READ])
    team = {"workspace_id": str(api.wiring.workspaces.create("acme", "Acme").id), "key_id": str(key.id)}
    accounts = {"account_id": str(ENVIRONMENT_ACCOUNT), "project_id": str(ENVIRONMENT_PROJECT)}
    nobodys = {"audit_id": NOBODY, "call_id": NOBODY}
    return found | team | accounts | nobodys | {"delivery_id": delivery_id, "trunk_id": trunk_id}


def path_of(rule: Rule, ids: dict[str, str]) -> str:
    path = rule.rule
    for name in rule.arguments:
        path = path.replace(f"<{name}>", ids[name])
    return path


def shared(cases: Sequence[T], share: int) -> Sequence[T]:
    """Return a third of the cases: the same one with this number and with three more."""
    return cases[share % SHARES :: SHARES]


def bad_bodies(document: dict[str, Any], shown: dict[str, Any], share: int) -> Iterator[str]:
    """Yield bodies in which one field is bad and the others are as the document shows them."""
    name = shown.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {}).get("$ref", "")
    properties = document["components"]["schemas"][name.rpartition("/")[2]]["properties"] if name else {}
    good = {field: json.dumps(shape["example"]) for field, shape in properties.items() if "example" in shape}
    for place, bad in enumerate(BAD_JSON if properties else BAD_JSON[::5]):
        # A third of the fields with each text, and each field with a third of the texts.
        for field in shared(["", *properties], place + share):
            whole = ", ".join(f'"{each}": {value}' for each, value in (good | {field: bad}).items())
            yield "{" + whole + "}" if field else bad


def defects(responses: Iterator[tuple[str, Any]]) -> list[str]:
    """Return which requests met a defect of ours."""
    return [f"{response.status_code} {what[:200]}" for what, response in responses if response.status_code >= 500]


@pytest.mark.sweep
@in_shares
def test_no_form_of_the_console_meets_a_defect(api: Api, browser: BrowserClient, share: int) -> None:
    token, known = browser.token("/audit"), rows(api)
    nobody = dict.fromkeys(known, NOBODY)

    def responses() -> Iterator[tuple[str, Any]]:
        cases = [*((text, known) for text in ("", *BAD_TEXTS[::2])), ("", nobody), (BAD_TEXTS[0], nobody)]
        for place, rule in enumerate(routes(api, "POST", console=True), share):
            for text, ids in shared(cases, place):
                given = "".join(f"&{name}={text}" for name in FORM_FIELDS) if text else ""
                path, data = path_of(rule, ids), urlencode({"csrf_token": token}) + given
                kind = "application/x-www-form-urlencoded"
                response = browser.client.post(path, data=data, content_type=kind, headers={"Accept": "text/html"})
                yield f"POST {path} {text}", response
                assert response.status_code != 400, "the token of the form did not count"
                if rule.arguments and ids is nobody:
                    assert response.status_code in {404, 422}, (path, response.status_code)
                assert response.status_code == 303 or response.content_type.startswith("text/html"), path

    assert defects(responses()) == []


@pytest.mark.sweep
@in_shares
def test_no_page_of_the_console_meets_a_defect(api: Api, browser: BrowserClient, share: int) -> None:
    known = rows(api)

    def responses() -> Iterator[tuple[str, Any]]:
        for place, rule in enumerate(routes(api, "GET", console=True), share):
            for query in shared(QUERIES, place):
                path = f"{path_of(rule, known)}?{query}"
                yield f"GET {path}", browser.get(path)
            for bad in shared(BAD_IDS, place) if rule.arguments else ():
                path = path_of(rule, dict.fromkeys(known, bad))
                response = browser.get(path)
                yield f"GET {path}", response
                assert response.status_code == 404, path

    assert defects(responses()) == []


@pytest.mark.parametrize("name", ["a.json", "a.csv", "\u202ea\x1b.json"])
def test_no_upload_meets_a_defect(api: Api, browser: BrowserClient, name: str) -> None:
    token = browser.token("/audit")

    def responses() -> Iterator[tuple[str, Any]]:
        for text in (
            *BAD_JSON,
            "phoneNumber\n\0\n",
            "phoneNumber,agent\r\r\n\x1b,\u202e\n",
            '"',
            "phoneNumber\n" + "x" * 200_000,
        ):
            data = {"csrf_token": token, "file": (BytesIO(text.encode()), name)}
            response = browser.client.post("/bulks", data=data, headers={"Accept": "text/html"})
            response.request.environ["wsgi.input"].close()
            yield text, response

    assert defects(responses()) == []


@pytest.mark.sweep
@in_shares
def test_no_field_of_the_api_meets_a_defect(api: Api, share: int) -> None:
    admin = {"Authorization": f"Bearer {api.new_key(Scope.ADMIN)}"}
    known, document = rows(api), api.client.get("/openapi.json").json

    def responses() -> Iterator[tuple[str, Any]]:
        for method in ("POST", "PATCH", "DELETE"):
            for place, rule in enumerate(routes(api, method, console=False), share):
                shown = document["paths"][re.sub(r"<(\w+)>", r"{\1}", rule.rule)][method.lower()]
                for body in bad_bodies(document, shown, place):
                    headers = admin | {"Idempotency-Key": str(next(numbers))}
                    path = path_of(rule, known)
                    response = api.client.open(
                        path, method=method, data=body, headers=headers, content_type="application/json"
                    )
                    yield f"{method} {path} {body[:80]}", response

    assert defects(responses()) == []


@pytest.mark.sweep
@in_shares
def test_no_query_or_header_of_the_api_meets_a_defect(api: Api, share: int) -> None:
    admin = {"Authorization": f"Bearer {api.new_key(Scope.ADMIN)}"}
    known = rows(api)

    def responses() -> Iterator[tuple[str, Any]]:
        for place, rule in enumerate(routes(api, "GET", console=False), share):
            for query in shared(QUERIES, place):
                path = f"{path_of(rule, known)}?{query}"
                yield f"GET {path}", api.client.get(path, headers=admin)
            for bad in shared(BAD_IDS, place) if rule.arguments else ():
                path = path_of(rule, dict.fromkeys(known, bad))
                yield f"GET {path}", api.client.get(path, headers=admin)
            for value in shared(BAD_HEADERS, place):
                headers = dict.fromkeys(HEADERS, value) | admin
                yield f"GET {rule.rule} {value[:20]!r}", api.client.get(path_of(rule, known), headers=headers)
        for value in shared(BAD_HEADERS, share):
            headers = dict.fromkeys(HEADERS, value) | admin
            yield f"DELETE {value[:20]!r}", api.deprovision(known["agent_id"], headers=headers)

    assert defects(responses()) == []
