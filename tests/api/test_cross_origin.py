"""Pages of other origins: those that the setting names may call the API, with a key and without cookies."""

from copy import copy
from dataclasses import replace

import pytest
from werkzeug.test import TestResponse

from app import create_app
from tests.support.api import Api

PAGE, OTHER = "https://app.example.com", "http://localhost:3000"

ASKED = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,idempotency-key"}
"""What a browser asks before a page's call, beside the origin."""


@pytest.fixture
def open_api(api: Api) -> Api:
    """An application that is open to two origins, on the rows of the shared one."""
    settings = api.wiring.settings.model_copy(update={"cors_origins": f"{PAGE},{OTHER}"})
    wiring = copy(api.wiring)
    wiring.settings = settings
    return replace(api, app=create_app(wiring), wiring=wiring)


def told(response: TestResponse) -> dict[str, str]:
    """Return the headers about other origins."""
    return {name: value for name, value in response.headers if name.startswith("Access-Control-")}


@pytest.mark.parametrize("origin", [PAGE, OTHER])
@pytest.mark.parametrize("path", ["/api/agents", "/api/agents/", "/api/nowhere", "/openapi.json"])
def test_a_page_that_is_named_may_ask_without_a_key(open_api: Api, origin: str, path: str) -> None:
    response = open_api.client.options(path, headers={"Origin": origin, **ASKED})

    assert (response.status_code, response.text) == (204, "")
    found = told(response)
    assert found["Access-Control-Allow-Origin"] == origin
    assert "POST" in found["Access-Control-Allow-Methods"].split(", ")
    sent = {name.lower() for name in found["Access-Control-Allow-Headers"].split(", ")}
    assert {"authorization", "content-type", "idempotency-key", "if-match", "prefer", "trunkline-workspace"} <= sent
    assert found["Access-Control-Max-Age"] == "600"
    assert "Access-Control-Allow-Credentials" not in found
    assert "Origin" in response.vary


def test_a_page_that_is_named_may_call_and_read_our_headers(open_api: Api) -> None:
    made = open_api.post("/api/agents", {"name": "desk"}, headers={"Origin": PAGE})
    refused = open_api.client.get("/api/agents", headers={"Origin": PAGE})

    assert (made.status_code, refused.status_code) == (201, 401)
    for response in (made, refused):
        found = told(response)
        assert set(found) == {"Access-Control-Allow-Origin", "Access-Control-Expose-Headers"}
        assert found["Access-Control-Allow-Origin"] == PAGE
    exposed = set(told(made)["Access-Control-Expose-Headers"].split(", "))
    assert {"ETag", "Location", "RateLimit", "RateLimit-Policy", "Retry-After", "X-Request-ID"} <= exposed


@pytest.mark.parametrize(
    "origin",
    ["https://evil.example", "null", f"{PAGE}.evil.example", f"{PAGE}:8443", "http://app.example.com", f"{PAGE}/", "*"],
)
def test_any_other_page_is_told_nothing_and_asks_in_vain(open_api: Api, origin: str) -> None:
    asked = open_api.client.options("/api/agents", headers={"Origin": origin, **ASKED})
    called = open_api.get("/api/agents", headers={"Origin": origin})

    assert (asked.status_code, told(asked)) == (401, {})
    assert (called.status_code, told(called)) == (200, {})
    assert "Origin" in called.vary


@pytest.mark.parametrize("path", ["/agents", "/sign-in", "/metrics", "/healthz", "/docs", "/apis"])
def test_nothing_but_the_api_is_open(open_api: Api, path: str) -> None:
    called = open_api.client.get(path, headers={"Origin": PAGE})
    asked = open_api.client.options(path, headers={"Origin": PAGE, **ASKED})

    assert told(called) == told(asked) == {}


def test_other_calls_with_options_are_as_before(open_api: Api) -> None:
    assert open_api.client.options("/api/agents", headers={"Origin": PAGE}).status_code == 401
    assert open_api.call("OPTIONS", "/api/agents").headers["Allow"]


def test_without_the_setting_no_page_may_call(api: Api) -> None:
    asked = api.client.options("/api/agents", headers={"Origin": PAGE, **ASKED})
    called = api.get("/api/agents", headers={"Origin": PAGE})

    assert (asked.status_code, told(asked), told(called)) == (401, {}, {})
    assert "Origin" not in called.vary
