import json
import logging

import pytest
from flask import Response
from sqlalchemy.exc import OperationalError
from werkzeug.exceptions import default_exceptions

from app.domain.errors import ErrorCode, RefusedError
from app.providers.errors import RejectedError, TransientError
from app.web.problems import KINDS
from app.web.requests import DATA_POLICY, HEADERS
from tests.api.test_openapi import COMMITTED
from tests.support.api import NUMBER, Api


@pytest.mark.parametrize("path", ["/api/agents", "/healthz", "/nowhere", "/docs"])
def test_every_answer_has_careful_headers(api: Api, path: str) -> None:
    headers = api.get(path).headers

    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Cross-Origin-Resource-Policy"] == headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert "Strict-Transport-Security" not in headers


def test_refusals_and_empty_answers_have_them_too(api: Api) -> None:
    answers = [api.client.get("/api/agents"), api.call("PUT", "/api/agents"), api.delete(f"/api/agents/{api.agent()}")]

    assert [answer.status_code for answer in answers] == [401, 405, 204]
    for answer in answers:
        assert HEADERS.items() <= dict(answer.headers).items()
        assert answer.headers["Cache-Control"] == "no-store"


def test_data_may_load_nothing_and_a_page_its_own_files(api: Api) -> None:
    assert api.get("/api/agents").headers["Content-Security-Policy"] == DATA_POLICY
    policy = api.get("/sign-in").headers["Content-Security-Policy"]
    assert "script-src 'self';" in policy
    assert "style-src 'self';" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


@pytest.mark.parametrize(("scheme", "told"), [("https", "max-age=31536000"), ("http", None)])
def test_a_browser_that_came_over_tls_keeps_to_it(api: Api, scheme: str, told: str | None) -> None:
    answer = api.get("/healthz", base_url=f"{scheme}://localhost")

    assert answer.headers.get("Strict-Transport-Security") == told


def test_an_answer_with_a_secret_is_never_kept(api: Api) -> None:
    agent_id = api.agent()
    api.provision(agent_id)

    assert "no-cache" in api.status(agent_id).headers["Cache-Control"]
    for path in (f"/api/agents/{agent_id}", "/api/operations", "/metrics", "/openapi.json"):
        assert api.get(path).headers["Cache-Control"] == "no-store"


def test_a_request_id_comes_back(api: Api) -> None:
    assert api.get("/healthz", headers={"X-Request-ID": "abc-123"}).headers["X-Request-ID"] == "abc-123"


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "é"], ids=repr)
def test_a_request_id_that_would_not_do_is_replaced(api: Api, given: str) -> None:
    answer = api.get("/healthz", headers={"X-Request-ID": given})

    assert answer.headers["X-Request-ID"] != given
    assert len(answer.headers["X-Request-ID"]) == 32


def test_one_line_is_logged_for_each_request(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        api.get("/api/agents?limit=1", headers={"X-Request-ID": "abc-123"})

    lines = [record.msg for record in caplog.records if record.name == "app.web.requests"]
    assert [(line["event"], line["route"], line["status"], line["caller"]) for line in lines] == [
        ("request", "/api/agents", 200, "tests")
    ]
    assert (lines[0]["request_id"], lines[0]["address"]) == ("abc-123", "127.0.0.1")


@pytest.mark.parametrize("path", ["/api/agents", "/healthz", "/", "/nowhere"])
def test_the_line_of_a_request_says_where_it_came_from(api: Api, path: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        api.client.get(path, environ_base={"REMOTE_ADDR": "2001:db8::7"})

    assert [record.msg["address"] for record in caplog.records if record.name == "app.web.requests"] == ["2001:db8::7"]


def test_the_lines_of_a_request_carry_its_id_and_no_number(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    agent_id = api.agent()
    caplog.clear()
    with caplog.at_level(logging.INFO):
        api.provision(agent_id, headers={"X-Request-ID": "abc-123"})

    assert len(caplog.records) >= 2
    assert {record.msg["request_id"] for record in caplog.records} == {"abc-123"}
    assert NUMBER not in caplog.text
    assert api.key not in caplog.text


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/api/nowhere", 404, "not_found"),
        ("GET", "/api/agents//", 404, "not_found"),
        ("GET", "/nowhere/", 404, "not_found"),
        ("GET", "//api/agents", 404, "not_found"),
        ("GET", "/api//agents", 404, "not_found"),
        ("PUT", "/api/agents", 405, "method_not_allowed"),
        ("PUT", "/api/agents?limit=5", 405, "method_not_allowed"),
        ("TRACE", "/api/agents", 405, "method_not_allowed"),
        ("POST", "/healthz", 405, "method_not_allowed"),
    ],
)
def test_a_wrong_address_is_a_problem_too(api: Api, method: str, path: str, status: int, code: str) -> None:
    answer = api.call(method, path)

    assert (answer.status_code, answer.json["code"], answer.json["success"]) == (status, code, False)
    assert answer.content_type == "application/problem+json"
    assert answer.json["type"] == f"urn:trunkline:problem:{code}"
    assert ("Allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize("path", ["/api/agents", "/healthz", "/openapi.json", "/sign-in", "/docs"])
def test_a_slash_at_the_end_is_the_same_path(api: Api, path: str) -> None:
    given, with_slash = api.get(path), api.get(f"{path}/")

    assert with_slash.status_code == given.status_code == 200
    assert with_slash.get_data() == given.get_data() or path == "/sign-in"
    assert api.client.get("/api/agents/").status_code == 401


def test_a_slash_at_the_end_loses_nothing_that_was_sent(api: Api) -> None:
    headers = {"Idempotency-Key": "k"}

    answer = api.post("/api/agents/", {"name": "desk"}, headers=headers)
    again = api.post("/api/agents", {"name": "desk"}, headers=headers)

    assert (answer.status_code, answer.json["name"]) == (201, "desk")
    assert again.json == answer.json
    agent_id = answer.json["id"]
    assert api.post(f"/api/agents/{agent_id}/provision-phone/", {"phoneNumber": NUMBER}).status_code == 202
    assert api.get(f"/api/agents/{agent_id}/phone-status/").json["hasPhone"] is False
    other = api.agent()
    assert api.call("PATCH", f"/api/agents/{other}/", {"name": "front"}).json["name"] == "front"
    assert api.delete(f"/api/agents/{other}/").status_code == 204
    assert api.delete(f"/api/agents/{agent_id}/deprovision-phone/").status_code in {200, 202}


@pytest.mark.parametrize("path", ["//evil.example", "//evil.example/", "///evil.example/%2e%2e", "/\\evil.example/"])
@pytest.mark.parametrize("host", ["localhost", "evil.example", "a b", "[::1", "/evil.example", "x@evil.example", ""])
def test_no_redirect_leads_to_another_host(api: Api, path: str, host: str) -> None:
    for method in ("GET", "POST"):
        answer = api.client.open(path, method=method, headers={"Host": host, "X-Forwarded-Prefix": "//evil.example"})

        assert answer.status_code < 500
        assert not answer.headers.get("Location", "/").startswith(("//", "http", "/\\"))


def test_a_defect_is_logged_and_not_shown(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_plan: object) -> None:
        raise RuntimeError("secret detail")

    api.publisher.on_publish = fail
    answer = api.provision(api.agent())

    assert (answer.status_code, answer.json["code"]) == (500, "internal_error")
    assert "secret" not in answer.text
    assert any(
        record.msg.get("event") == "request_failed" and record.levelno == logging.ERROR for record in caplog.records
    )


def test_a_database_that_is_away_is_503(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_plan: object) -> None:
        raise OperationalError("SELECT secret", {}, Exception("host db.internal"))

    api.publisher.on_publish = fail
    answer = api.provision(api.agent())

    assert (answer.status_code, answer.json["code"]) == (503, "service_unavailable")
    assert answer.headers["Retry-After"] == "5"
    assert "secret" not in answer.text + caplog.text


def test_every_code_has_a_kind() -> None:
    assert set(KINDS) == set(ErrorCode)


def answer_to(api: Api, path: str, error: Exception) -> Response:
    """Return the answer to a request whose view raises this."""
    with api.app.test_request_context(path, headers={"Authorization": f"Bearer {api.key}"}):
        api.app.preprocess_request()
        return api.app.make_response(api.app.handle_user_exception(error))


@pytest.mark.parametrize("path", ["/api/agents", "/audit"])
def test_a_code_has_the_same_status_wherever_it_is_met(api: Api, path: str) -> None:
    documented = json.loads(COMMITTED.read_text(encoding="utf-8"))
    shown = {
        (name, int(status))
        for verbs in documented["paths"].values()
        for operation in verbs.values()
        for status, response in operation["responses"].items()
        for name in response.get("content", {}).get("application/problem+json", {}).get("examples", ())
    }
    for code in ErrorCode:
        for error in (RefusedError(code, "No."), TransientError(code, "No."), RejectedError(code, "No.")):
            answer = answer_to(api, path, error)
            assert answer.status_code == KINDS[code].status, (code, type(error))
        assert {status for name, status in shown if name == code} <= {KINDS[code].status}, code


@pytest.mark.parametrize(
    ("status", "code"), [(406, "malformed_request"), (416, "malformed_request"), (501, "internal_error")]
)
@pytest.mark.parametrize("path", ["/api/agents", "/audit"])
def test_an_error_of_the_framework_has_the_status_of_its_code(api: Api, path: str, status: int, code: str) -> None:
    answer = answer_to(api, path, default_exceptions[status]())

    assert answer.status_code == KINDS[ErrorCode(code)].status
