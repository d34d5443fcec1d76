"""/api/agents/{id}/test-calls: asking for a call to an agent's number, and reading what became of it."""

import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from app.calls.verdicts import Outcome
from app.domain.calls import AGENT_HOP, CallRoom, CallVerdict
from app.web.context import WIRING
from tests.support.api import NUMBER, Api
from tests.support.toolboxes import with_parts

NOBODY_THERE = Outcome(
    CallVerdict.NO_AGENT,
    AGENT_HOP,
    "No agent called front-desk answered.",
    486,
    0.25,
    None,
    CallRoom("call_x", "sip_x", "ST_1", "SDR_1", ("front-desk",)),
)


@pytest.fixture
def provisioned(api: Api) -> str:
    agent = api.agent("front-desk")
    api.succeed(api.provision(agent, NUMBER).json["operationId"])
    return agent


@pytest.fixture
def quick(api: Api) -> Iterator[Api]:
    """An application whose calls are placed as soon as they are asked for."""
    wiring = api.app.extensions[WIRING]

    class Worker:
        def publish_call(self, call_id: uuid.UUID) -> bool:
            calls._finish(calls._claim(call_id)[0], NOBODY_THERE)  # type: ignore[index]  # no provider
            return True

    calls: Any = replace(wiring.calls, publisher=Worker())
    api.app.extensions[WIRING] = with_parts(wiring, calls=calls)
    yield api
    api.app.extensions[WIRING] = wiring


def test_a_call_is_queued_and_can_be_polled(api: Api, provisioned: str) -> None:
    asked = api.post(f"/api/agents/{provisioned}/test-calls")
    assert (asked.status_code, asked.json["success"]) == (202, True)
    assert asked.headers["Location"] == asked.json["statusUrl"]
    assert api.publisher.calls[-1] == uuid.UUID(asked.json["testCallId"])
    call = api.get(asked.json["statusUrl"]).json
    assert (call["status"], call["verdict"], call["finishedAt"]) == ("queued", None, None)
    assert (call["phoneNumber"], call["caller"], call["isMonitor"]) == (NUMBER, "+12025550100", False)


def test_who_waits_gets_the_verdict(quick: Api, provisioned: str) -> None:
    done = quick.call("POST", f"/api/agents/{provisioned}/test-calls", headers={"Prefer": "wait=5"})
    assert (done.status_code, done.headers["Preference-Applied"]) == (200, "wait=5")
    body = done.json
    assert (body["status"], body["verdict"], body["hop"], body["sipStatus"]) == ("finished", "NO_AGENT", "agent", 486)
    assert (body["ringS"], body["answerS"], body["detail"]) == (0.25, None, NOBODY_THERE.detail)
    assert body["room"] == {
        "name": "call_x",
        "identity": "sip_x",
        "trunkId": "ST_1",
        "ruleId": "SDR_1",
        "agents": ["front-desk"],
        "joined": [],
    }


def test_the_list_has_pages_newest_first(quick: Api, provisioned: str) -> None:
    url = f"/api/agents/{provisioned}/test-calls"
    made = [quick.post(url).json["testCallId"] for _ in range(3)]
    first = quick.get(f"{url}?limit=2").json
    rest = quick.get(f"{url}?limit=2&cursor={first['nextCursor']}").json
    assert [one["id"] for one in first["items"] + rest["items"]] == made[::-1]
    assert rest["nextCursor"] is None


def test_the_eleventh_call_is_refused(api: Api, provisioned: str) -> None:
    url = f"/api/agents/{provisioned}/test-calls"
    assert [api.post(url).status_code for _ in range(11)] == [202] * 10 + [429]
    refused = api.post(url)
    assert (refused.json["code"], int(refused.headers["Retry-After"]) > 60) == ("test_call_limit", True)


def test_an_agent_without_a_number_cannot_be_called(api: Api) -> None:
    refused = api.post(f"/api/agents/{api.agent('desk')}/test-calls")
    assert (refused.status_code, refused.json["code"]) == (409, "agent_has_no_phone")


def test_a_call_of_another_agent_is_not_found(api: Api, provisioned: str) -> None:
    asked = api.post(f"/api/agents/{provisioned}/test-calls").json["testCallId"]
    for agent in (api.agent("other"), str(uuid.uuid4())):
        missing = api.get(f"/api/agents/{agent}/test-calls/{asked}")
        assert missing.status_code == 404


def test_an_id_that_is_none_is_not_found(api: Api, provisioned: str) -> None:
    missing = api.get(f"/api/agents/{provisioned}/test-calls/nothing")
    assert (missing.status_code, missing.json["code"]) == (404, "test_call_not_found")
