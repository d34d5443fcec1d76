"""What may not come in: every row changes nothing and names what is wrong."""

import json
from codecs import BOM_UTF8
from decimal import Decimal
from io import BytesIO
from typing import Any

import pytest
from gunicorn.http.errors import (
    ChunkMissingTerminator,
    InvalidChunkExtension,
    InvalidChunkSize,
    InvalidHeader,
    LimitRequestHeaders,
    NoMoreData,
)

from app.access import Scope
from app.domain.errors import RefusedError
from app.views.bulk_schemas import item_cursor
from tests.support.api import NOBODY, NUMBER, Api
from tests.support.console import signed_in

JSON = "application/json"

BAD_NUMBERS = [
    "",
    " ",
    "+",
    "15145551234",
    "+1 514 555 1234",
    "+1-514-555-1234",
    " +15145551234",
    "+15145551234\n",
    "+1514555123",
    "+151455512345",
    "+05145551234",
    "+4",
    "+4420",
    "+9991234567890",
    "+1234567890123456",
    "tel:+15145551234",
    "+\uff11\uff15\uff11\uff14\uff15\uff15\uff15\uff11\uff12\uff13\uff14",
    "+1514555123\u0664",
    "+15145551234\0",
    "+1514555CALL",
    "00441632960961",
]
NOT_TEXT: list[Any] = [None, 15145551234, 1.5, True, [], {}, [NUMBER]]


def _refused(response: Any, status: int, code: str, *fields: str) -> None:
    assert (response.status_code, response.json["code"]) == (status, code), response.text
    assert response.content_type == "application/problem+json"
    assert response.json["success"] is False
    assert set(response.json["errors"]) == set(fields)


@pytest.mark.parametrize("number", [*BAD_NUMBERS, *NOT_TEXT], ids=repr)
def test_a_number_that_is_not_e164_is_422(api: Api, number: Any) -> None:
    agent_id = api.agent()

    response = api.post(f"/api/agents/{agent_id}/provision-phone", {"phoneNumber": number})

    _refused(response, 422, "validation_failed", "phoneNumber")
    assert api.count("operations") == 0
    assert api.publisher.plans == []


@pytest.mark.parametrize("number", [NUMBER, "+442079460958", "+33142685300", "+4930901820", "+390669812345"])
def test_a_number_in_e164_is_taken(api: Api, number: str) -> None:
    assert api.provision(api.agent(), number).status_code == 202


@pytest.mark.parametrize("takeover", [1, 0, "true", "yes", None, [], {}], ids=repr)
def test_takeover_is_true_or_false_and_nothing_else(api: Api, takeover: Any) -> None:
    body = {"phoneNumber": NUMBER, "takeover": takeover}

    response = api.post(f"/api/agents/{api.agent()}/provision-phone", body)

    _refused(response, 422, "validation_failed", "takeover")


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, ["phoneNumber"]),
        ({"phoneNumber": NUMBER, "dryRun": True}, ["dryRun"]),
        ({"phone_number": NUMBER}, ["phone_number", "phoneNumber"]),
        ({"phoneNumber": NUMBER, "\0": 1}, ["\0"]),
        ({"phoneNumber": "x", "takeover": 1, "a": 1}, ["phoneNumber", "takeover", "a"]),
    ],
)
def test_every_field_at_fault_is_named(api: Api, body: dict[str, Any], fields: list[str]) -> None:
    _refused(api.post(f"/api/agents/{api.agent()}/provision-phone", body), 422, "validation_failed", *fields)


@pytest.mark.parametrize("body", ["[]", "null", "1", '"text"', "true", f'[{{"phoneNumber": "{NUMBER}"}}]'])
def test_a_body_that_is_no_object_is_422(api: Api, body: str) -> None:
    response = api.post(f"/api/agents/{api.agent()}/provision-phone", data=body, content_type=JSON)

    _refused(response, 422, "validation_failed", "body")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"{",
        b"{'phoneNumber': 1}",
        b'{"phoneNumber": "+15145551234"',
        b'{"phoneNumber": "+15145551234"} x',
        b'{"phoneNumber": NaN}',
        b'{"phoneNumber": Infinity}',
        b'{"phoneNumber": 1e999}',
        b'{"phoneNumber": "+15145551234", "phoneNumber": "+15145551235"}',
        b'{"phoneNumber": "\xff"}',
        b'{"phoneNumber": "a\0b"}',
        b'{"phoneNumber": ' + b"9" * 5000 + b"}",
        b"[" * 30_000,
        b'{"a":' * 10_000,
        b"[" * 40 + b"]" * 40,
        '{"phoneNumber": "+15145551234"}'.encode("utf-16"),
    ],
    ids=lambda body: repr(body[:40]),
)
def test_a_body_that_is_not_strict_json_is_400(api: Api, body: bytes) -> None:
    response = api.post(f"/api/agents/{api.agent()}/provision-phone", data=body, content_type=JSON)

    _refused(response, 400, "malformed_request", "body")
    assert api.count("operations") == 0


def test_a_byte_order_mark_before_the_body_is_left_out(api: Api) -> None:
    body = BOM_UTF8 + json.dumps({"phoneNumber": NUMBER}).encode()

    response = api.post(f"/api/agents/{api.agent()}/provision-phone", data=body, content_type=JSON)
    rows = BOM_UTF8 + f"phoneNumber,agent\n{NUMBER},desk\n".encode()
    bulk = api.post("/api/provisionings", data=rows, content_type="text/csv")

    assert (response.status_code, response.json["phoneNumber"]) == (202, NUMBER)
    assert (bulk.status_code, bulk.json["total"]) == (202, 1)


BROKEN = [
    InvalidChunkSize(b"zz"),
    InvalidChunkExtension("bare CR not allowed"),
    ChunkMissingTerminator(b"ab"),
    InvalidHeader("no trailer"),
    LimitRequestHeaders("limit request trailer section size"),
    NoMoreData(),
    ConnectionResetError(),
    TimeoutError(),
]
"""What gunicorn and the kernel raise where a body is read."""

EVERYWHERE = [
    ("POST", "/api/agents"),
    ("GET", "/api/agents"),
    ("DELETE", f"/api/agents/{NOBODY}"),
    ("PATCH", f"/api/agents/{NOBODY}"),
    ("POST", f"/api/agents/{NOBODY}/verify"),
    ("POST", "/api/provisionings"),
    ("PUT", "/nowhere"),
    ("GET", "/healthz"),
]


class _Breaking(BytesIO):
    def __init__(self, error: Exception | None) -> None:
        super().__init__(b'{"na')
        self.error = error

    def read(self, size: int | None = -1) -> bytes:
        if self.error:
            raise self.error
        return super().read(size)


def _broken(error: Exception | None) -> dict[str, Any]:
    chunked = {"wsgi.input_terminated": True, "CONTENT_LENGTH": "", "HTTP_TRANSFER_ENCODING": "chunked"}
    # Without an error it is one that ends before its length.
    overrides = chunked if error else {"CONTENT_LENGTH": "50"}
    return {"input_stream": _Breaking(error), "environ_overrides": overrides}


@pytest.mark.parametrize("error", [None, *BROKEN], ids=repr)
def test_a_broken_body_is_400_on_every_call(api: Api, error: Exception | None) -> None:
    for method, path in EVERYWHERE:
        response = api.call(method, path, content_type=JSON, **_broken(error))

        _refused(response, 400, "malformed_request", "body")
    assert api.client.post("/api/agents", **_broken(error)).status_code == 401


@pytest.mark.parametrize("error", [None, BROKEN[0]], ids=repr)
def test_a_broken_form_is_a_page(api: Api, error: Exception | None) -> None:
    visitor = signed_in(api, Scope.WRITE)
    for browser in (visitor.client, api.client):
        for path in ("/sign-in", "/sign-out", "/", "/bulks", "/audit", f"/agents/{NOBODY}/provision"):
            response = browser.post(path, content_type="application/x-www-form-urlencoded", **_broken(error))

            assert (response.status_code, response.mimetype) == (400, "text/html"), path
    assert visitor.get("/").status_code == 200


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/x-www-form-urlencoded", b"key=" + b"a" * 100_000),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="k"\r\n\r\na\r\n' * 1500),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="k"\r\n\r\na'),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disp\0osition\r\n\r\na\r\n--x--\r\n"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="\xff"\r\n\r\na\r\n--x--\r\n',
        ),
        ("multipart/form-data", b"--x"),
        ('multipart/form-data; boundary="\xff"', b"--x"),
        ("application/x-www-form-urlencoded", b"\xff\0=%ff&=&%zz" + b"&" * 5000),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_a_form_that_cannot_be_read_is_the_sender_s_mistake(api: Api, content_type: str, body: bytes) -> None:
    visitor = signed_in(api, Scope.WRITE)
    for browser in (visitor.client, api.client):
        for path in ("/sign-in", "/", "/bulks", f"/agents/{NOBODY}/provision"):
            response = browser.post(path, data=body, environ_overrides={"CONTENT_TYPE": content_type})

            assert response.status_code in {400, 413}, path
            assert response.mimetype == "text/html"


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json, application/json",
        "application/json; charset=utf-16",
        "application/xml",
        "json",
    ],
)
def test_another_content_type_is_415(api: Api, content_type: str) -> None:
    body = json.dumps({"phoneNumber": NUMBER})

    response = api.post(f"/api/agents/{api.agent()}/provision-phone", data=body, content_type=content_type)

    _refused(response, 415, "unsupported_media_type", "Content-Type")


def test_a_compressed_body_is_415(api: Api) -> None:
    body, headers = json.dumps({"phoneNumber": NUMBER}), {"Content-Encoding": "gzip"}

    response = api.post(f"/api/agents/{api.agent()}/provision-phone", data=body, content_type=JSON, headers=headers)

    _refused(response, 415, "unsupported_media_type", "Content-Type")


def test_a_charset_that_is_utf8_by_another_name_is_taken(api: Api) -> None:
    body = json.dumps({"phoneNumber": NUMBER})

    response = api.post(
        f"/api/agents/{api.agent()}/provision-phone", data=body, content_type='Application/JSON; charset="UTF-8"'
    )

    assert response.status_code == 202


@pytest.mark.parametrize("path", ["provision-phone", "deprovision-phone"])
def test_a_body_over_64_kib_is_413(api: Api, path: str) -> None:
    body = json.dumps({"phoneNumber": NUMBER, "padding": "x" * 64 * 1024})
    method = "POST" if path == "provision-phone" else "DELETE"

    response = api.call(method, f"/api/agents/{api.agent()}/{path}", data=body, content_type=JSON)

    assert (response.status_code, response.json["code"]) == (413, "request_too_large")


def test_a_body_that_does_not_say_how_long_it_is_is_measured(api: Api) -> None:
    agent_id = api.agent()
    exact = json.dumps({"phoneNumber": NUMBER}).ljust(64 * 1024).encode()

    def post(body: bytes) -> int:
        chunked = {"wsgi.input_terminated": True, "CONTENT_LENGTH": "", "HTTP_TRANSFER_ENCODING": "chunked"}
        path = f"/api/agents/{agent_id}/provision-phone"
        return api.post(path, input_stream=BytesIO(body), content_type=JSON, environ_overrides=chunked).status_code

    assert post(exact + b" ") == 413
    assert post(exact) == 202


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": None}, "name"),
        ({"name": 7}, "name"),
        ({"name": ""}, "name"),
        ({"name": "   "}, "name"),
        ({"name": "a\0b"}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "\ud800"}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"name": "a", "livekitAgentName": ""}, "livekitAgentName"),
        ({"name": "a", "livekitAgentName": None}, "livekitAgentName"),
        ({"name": "a", "livekitAgentName": "a\0"}, "livekitAgentName"),
        ({"name": "a", "metadata": None}, "metadata"),
        ({"name": "a", "metadata": []}, "metadata"),
        ({"name": "a", "metadata": "text"}, "metadata"),
        ({"name": "a", "metadata": {"deep": [{"x": "a\0b"}]}}, "metadata"),
        ({"name": "a", "metadata": {"a\0": 1}}, "metadata"),
        ({"name": "a", "metadata": {"a": "\udfff"}}, "metadata"),
        ({"name": "a", "metadata": {"a": "x" * 16 * 1024}}, "metadata"),
        ({"name": "a", "id": "7"}, "id"),
    ],
    ids=repr,
)
def test_an_agent_that_cannot_be_kept_is_422(api: Api, body: dict[str, Any], field: str) -> None:
    _refused(api.post("/api/agents", body), 422, "validation_failed", field)
    assert api.count("agents") == 0


def test_metadata_that_is_nested_too_deeply_is_400(api: Api) -> None:
    metadata: dict[str, Any] = {}
    for _ in range(100):
        metadata = {"a": metadata}

    _refused(api.post("/api/agents", {"name": "a", "metadata": metadata}), 400, "malformed_request", "body")


def test_metadata_comes_back_as_it_was_sent(api: Api) -> None:
    metadata = {"é": ["\u2028", 1.5e10, 12345678901234567890, -0.5, None, True, "🙂\n\t\\u0000"]}

    agent_id = api.agent(metadata=metadata)

    assert api.get(f"/api/agents/{agent_id}").json["metadata"] == metadata


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "provision-phone"), ("DELETE", "deprovision-phone"), ("DELETE", "")]
)
def test_a_parameter_that_a_writing_call_does_not_know_is_422(api: Api, method: str, path: str) -> None:
    agent_id = api.agent()

    response = api.call(method, f"/api/agents/{agent_id}/{path}".rstrip("/") + "?dry=true", {"phoneNumber": NUMBER})

    _refused(response, 422, "validation_failed", "dry")
    assert api.get(f"/api/agents/{agent_id}").json["phoneProvisioningStatus"] == "NOT_PROVISIONED"


PAGED = ["/api/agents", "/api/operations", "/api/provisionings", f"/api/provisionings/{NOBODY}/items"]


@pytest.mark.parametrize("path", PAGED)
@pytest.mark.parametrize(
    "limit",
    ["\uff11\uff10", "\u0663", "1_0", "%2B5", "%205%20", "5%0A", "1e1", "5.0", "0x5", "-1", "0", "9" * 5000, ""],
)
def test_a_limit_that_is_no_plain_integer_is_422(api: Api, path: str, limit: str) -> None:
    _refused(api.get(f"{path}?limit={limit}"), 422, "validation_failed", "limit")


def test_a_plain_integer_is_taken(api: Api) -> None:
    assert [api.get(f"/api/agents?limit={limit}").status_code for limit in ("1", "200", "010")] == [200, 200, 200]


@pytest.mark.parametrize("path", ["/api/agents?limit=5&limit=6", "/api/operations?limit=5&limit=5"])
def test_a_parameter_that_comes_twice_is_422(api: Api, path: str) -> None:
    _refused(api.get(path), 422, "validation_failed", "limit")


@pytest.mark.parametrize(
    "spelt",
    [
        "{7c1f5a52-3c0e-4c42-9a53-0f3a1d0b6c11}",
        "7c1f5a523c0e4c429a530f3a1d0b6c11",
        "urn:uuid:7c1f5a52-3c0e-4c42-9a53-0f3a1d0b6c11",
        "\uff17c1f5a52-3c0e-4c42-9a53-0f3a1d0b6c11",
    ],
)
def test_an_id_has_one_spelling(api: Api, spelt: str) -> None:
    _refused(api.get("/api/operations", query_string={"agentId": spelt}), 422, "validation_failed", "agentId")
    moved = api.post(f"/api/agents/{api.agent()}/move-phone", {"toAgentId": spelt})
    _refused(moved, 422, "validation_failed", "toAgentId")


@pytest.mark.parametrize("cursor", [item_cursor(5) + "=", "aXRlbTogNQ==", "NQ==", "aXRlbTrZow=="])
def test_a_cursor_of_items_has_one_spelling(api: Api, cursor: str) -> None:
    path = f"/api/provisionings/{NOBODY}/items"

    _refused(api.get(path, query_string={"cursor": cursor}), 422, "validation_failed", "cursor")
    assert api.get(path, query_string={"cursor": item_cursor(5)}).status_code == 404


@pytest.mark.parametrize(
    "name", ["\u200b", "\u3164", "\u2800", "\u00ad", "\U000e0041", "\u202e", "a\u202eb", "a\U000e0041", "a\u200e"]
)
def test_a_name_of_nothing_is_422_at_every_door(api: Api, name: str) -> None:
    _refused(api.post("/api/agents", {"name": name}), 422, "validation_failed", "name")
    wrong = api.post("/api/agents", {"name": "a", "livekitAgentName": name})
    _refused(wrong, 422, "validation_failed", "livekitAgentName")
    items = [
        {"phoneNumber": NUMBER, "agent": name},
        {"phoneNumber": NUMBER, "agent": {"name": "a", "livekitAgentName": name}},
    ]
    assert api.post("/api/provisionings", {"items": items}).json["counts"]["failed"] == 2
    csv = f"phoneNumber,agent,livekitAgentName\n{NUMBER},{name},\n{NUMBER},a,{name}\n".encode()
    assert api.post("/api/provisionings", data=csv, content_type="text/csv").json["counts"]["failed"] == 2
    with pytest.raises(RefusedError):
        api.new_key(Scope.READ, name=name)
    hook = {"url": "https://93.184.215.14/hook", "description": name}
    wrong = api.post("/api/webhooks", hook, headers={"Authorization": f"Bearer {api.new_key(Scope.ADMIN)}"})
    _refused(wrong, 422, "validation_failed", "description")
    assert (api.count("agents"), api.count("webhook_endpoints")) == (0, 0)


@pytest.mark.parametrize("digits", ["1e308", "1e-400", "123456789012345678901234567890.5"])
def test_a_number_that_would_be_rounded_is_422_at_every_door(api: Api, digits: str) -> None:
    agent = f'{{"name": "a", "metadata": {{"rate": {digits}}}}}'

    _refused(api.post("/api/agents", data=agent, content_type=JSON), 422, "validation_failed", "metadata")
    items = f'{{"items": [{{"phoneNumber": "{NUMBER}", "agent": {agent}}}]}}'
    bulk = api.post("/api/provisionings", data=items, content_type=JSON).json["bulkId"]
    failed = api.get(f"/api/provisionings/{bulk}/items").json["items"][0]
    assert failed["error"]["detail"].startswith("agent.metadata: has a number that would be rounded (rate)")
    assert api.count("agents") == 0


@pytest.mark.parametrize("literal", ["12345678901234567890123", "0.1", "1e22", "5e-324", "1.5e10", "-0"])
def test_a_number_that_is_stored_comes_back(api: Api, literal: str) -> None:
    made = api.post("/api/agents", data=f'{{"name": "a", "metadata": {{"n": {literal}}}}}', content_type=JSON)

    shown = api.get(f"/api/agents/{made.json['id']}").text
    assert json.loads(shown)["metadata"] == {"n": json.loads(literal)}
    assert Decimal(json.loads(shown, parse_float=str, parse_int=str)["metadata"]["n"]) == Decimal(literal)
