"""The id that a client knows an agent by."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from tests.support.api import Api


def test_an_agent_is_found_by_the_id_that_its_client_gave_it(api: Api) -> None:
    api.agent("Sales")
    made = api.post("/api/agents", {"name": "Desk", "externalId": "crm:17/desk"}).json

    assert made["externalId"] == "crm:17/desk"
    assert api.get(f"/api/agents/{made['id']}").json["externalId"] == "crm:17/desk"
    assert [one["id"] for one in api.get("/api/agents?externalId=crm:17/desk").json["items"]] == [made["id"]]
    assert api.get("/api/agents?externalId=crm:18").json["items"] == []


def test_a_second_agent_with_the_id_is_refused_and_named_the_first(api: Api) -> None:
    first = api.agent("Desk", externalId="desk")

    refused = api.post("/api/agents", {"name": "Other", "externalId": "desk"})

    assert (refused.status_code, refused.json["code"]) == (409, "external_id_in_use")
    assert refused.json["agentId"] == first
    assert first in refused.json["detail"]
    assert len(api.get("/api/agents").json["items"]) == 1


def test_a_patch_gives_changes_and_removes_it(api: Api) -> None:
    first, second = api.agent("Desk", externalId="desk"), api.agent("Sales")

    given = api.call("PATCH", f"/api/agents/{second}", {"externalId": "sales"})
    assert (given.json["externalId"], given.json["version"]) == ("sales", 2)
    refused = api.call("PATCH", f"/api/agents/{second}", {"externalId": "desk", "name": "Thieves"})
    assert (refused.status_code, refused.json["code"], refused.json["agentId"]) == (409, "external_id_in_use", first)
    assert api.get(f"/api/agents/{second}").json["name"] == "Sales"
    assert api.call("PATCH", f"/api/agents/{first}", {"externalId": None}).json["externalId"] is None
    assert api.call("PATCH", f"/api/agents/{second}", {"externalId": "desk"}).json["externalId"] == "desk"


def test_what_changes_the_path_too_has_its_id_at_once(api: Api) -> None:
    agent_id = api.agent("Desk")
    api.succeed(api.provision(agent_id).json["operationId"])

    changed = api.call("PATCH", f"/api/agents/{agent_id}", {"externalId": "desk", "livekitAgentName": "front"})

    assert changed.status_code == 202
    now = api.get(f"/api/agents/{agent_id}").json
    assert (now["externalId"], now["livekitAgentName"], now["version"]) == ("desk", "Desk", 2)


def test_a_deleted_agent_gives_it_back(api: Api) -> None:
    api.delete(f"/api/agents/{api.agent('Desk', externalId='desk')}")

    assert api.post("/api/agents", {"name": "Desk", "externalId": "desk"}).status_code == 201


@pytest.mark.parametrize("given", ["", "a b", "é", "x" * 201, "a\n", 7, None, ["a"], "\x7f"])
def test_anything_else_than_printable_ascii_is_refused(api: Api, given: object) -> None:
    refused = api.post("/api/agents", {"name": "Desk", "externalId": given})

    assert (refused.status_code, list(refused.json["errors"])) == (422, ["externalId"])


def test_an_item_of_a_bulk_brings_one_and_fails_alone_where_it_is_taken(api: Api) -> None:
    first = api.agent("Desk", externalId="desk")
    items = [
        {"phoneNumber": "+15145551234", "agent": {"name": "A", "externalId": "a"}},
        {"phoneNumber": "+15145551235", "agent": {"name": "B", "externalId": "desk"}},
        {"phoneNumber": "+15145551236", "agent": {"name": "C", "externalId": "a"}},
        {"phoneNumber": "+15145551237", "agent": {"name": "D", "externalId": "no blanks"}},
    ]

    bulk = api.post("/api/provisionings", {"items": items}).json
    shown = api.get(f"{bulk['statusUrl']}/items").json["items"]

    assert [one["error"] and one["error"]["code"] for one in shown] == [
        None,
        "external_id_in_use",
        "validation_failed",
        "validation_failed",
    ]
    assert first in shown[1]["error"]["detail"]
    assert shown[0]["agentId"] == api.get("/api/agents?externalId=a").json["items"][0]["id"]


def test_of_ten_at_once_one_has_it(api: Api) -> None:
    barrier = Barrier(10)

    def create(_: int) -> int:
        barrier.wait()
        return api.post("/api/agents", {"name": "Desk", "externalId": "desk"}).status_code

    with ThreadPoolExecutor(10) as threads:
        assert Counter(threads.map(create, range(10))) == {201: 1, 409: 9}


def test_another_workspace_has_the_same_id_unseen(api: Api) -> None:
    api.agent("Desk", externalId="desk")
    team = api.in_workspace("sales")

    made = team.post("/api/agents", {"name": "Desk", "externalId": "desk"})

    assert made.status_code == 201
    assert [one["id"] for one in team.get("/api/agents?externalId=desk").json["items"]] == [made.json["id"]]
    assert team.post("/api/agents", {"name": "Desk", "externalId": "desk"}).json["agentId"] == made.json["id"]
