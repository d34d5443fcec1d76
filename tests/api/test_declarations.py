"""Declarations over HTTP: plan, apply, export, and what is told of a declaration that is wrong or cannot be."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import select

from app.access import Scope
from app.db.access import Activity
from app.db.models import BulkItem
from app.domain.operations import MAX_ITEMS
from app.views.declaration_schemas import LOST_PLUS, UNQUOTED
from tests.support.api import NUMBER, OTHER_NUMBER, Api

URL = "/api/declarations"
DESK = {"externalId": "desk", "name": "Front desk", "livekitAgentName": "front-desk", "phoneNumber": NUMBER}
NIGHT = {"externalId": "night", "phoneNumber": OTHER_NUMBER, "options": {"call": {"ringingS": 20}}, "takeover": True}


def apply(api: Api, *agents: Any, query: str = "") -> Any:
    return api.post(URL + query, {"agents": list(agents)})


def plan(api: Api, *agents: Any, prune: bool = False) -> dict[str, Any]:
    answer = apply(api, *agents, query=f"?dryRun=true&prune={str(prune).lower()}")
    assert answer.status_code == 200, answer.json
    assert answer.json["dryRun"] is True
    found: dict[str, Any] = answer.json
    return found


def connected(api: Api, external_id: str, number: str = NUMBER, **more: Any) -> str:
    """Create an agent whose number rings; return its id."""
    agent_id = api.agent(external_id, externalId=external_id, **more)
    api.succeed(api.provision(agent_id, number).json["operationId"])
    return agent_id


def kinds(body: dict[str, Any]) -> list[tuple[str, str]]:
    return [(change["kind"], change["externalId"]) for change in body["changes"]]


def test_a_dry_run_says_all_and_changes_nothing(api: Api) -> None:
    body = plan(api, DESK, NIGHT)

    assert body["counts"] == {"create": 2, "provision": 2}
    assert body["changes"][1] == {
        "kind": "create",
        "externalId": "night",
        "agentId": None,
        "pointer": "/agents/1",
        "phoneNumber": None,
        "fromExternalId": None,
        "fields": [
            {"field": "name", "before": None, "after": "night"},
            {"field": "livekitAgentName", "before": None, "after": "night"},
            {"field": "metadata", "before": None, "after": {}},
            {"field": "options", "before": None, "after": {"call": {"ringingS": 20}}},
            {"field": "trunkMode", "before": None, "after": "shared"},
        ],
        "position": None,
        "waitsFor": [],
    }
    assert [(one["phoneNumber"], one["position"]) for one in body["changes"][2:]] == [(NUMBER, 1), (OTHER_NUMBER, 2)]
    assert (body["conflicts"], body["bulkId"], body["statusUrl"]) == ([], None, None)
    assert (api.count("agents"), api.count("bulks"), api.count("activity")) == (0, 0, 0)


def test_what_is_declared_is_made_and_a_second_time_there_is_nothing_to_do(api: Api) -> None:
    applied = apply(api, DESK, NIGHT)

    assert applied.status_code == 202
    assert applied.headers["Location"] == applied.json["statusUrl"] == f"/api/provisionings/{applied.json['bulkId']}"
    items = api.get(f"{applied.json['statusUrl']}/items").json["items"]
    assert [(one["kind"], one["phoneNumber"], one["status"]) for one in items] == [
        ("provision", NUMBER, "pending"),
        ("provision", OTHER_NUMBER, "pending"),
    ]
    assert api.get(applied.json["statusUrl"]).json["kind"] == "mixed"
    assert [one["agentId"] for one in items] == [one["agentId"] for one in applied.json["changes"][:2]]
    with api.wiring.sessions() as session:
        assert list(session.scalars(select(BulkItem.takeover).order_by(BulkItem.position))) == [False, True]

    again = apply(api, DESK, NIGHT)
    assert (again.status_code, again.json["changes"], again.json["bulkId"]) == (200, [], None)
    api.wiring.dispatcher.advance()
    assert apply(api, DESK, NIGHT).json["changes"] == []
    assert (api.count("bulks"), api.count("operations")) == (1, 2)


def test_the_export_is_what_apply_takes_and_leaves_nothing_to_do(api: Api) -> None:
    apply(api, DESK, NIGHT)
    api.agent("without an id")

    exported = api.get(URL).json

    assert exported["agents"][0] == {
        "externalId": "desk",
        "name": "Front desk",
        "livekitAgentName": "front-desk",
        "metadata": {},
        "options": {},
        "trunkMode": "shared",
        "phoneNumber": NUMBER,
    }
    assert [one["externalId"] for one in exported["agents"]] == ["desk", "night"]
    assert plan(api, *exported["agents"], prune=True)["changes"] == []


def test_what_is_not_named_stays_and_what_is_named_is_that_as_a_whole(api: Api) -> None:
    agent_id = api.agent("Desk", externalId="desk", metadata={"lang": "fr"}, options={"transfer": "sip-only"})

    applied = apply(api, {"externalId": "desk", "metadata": {"n": 1}})

    assert (applied.status_code, kinds(applied.json)) == (200, [("update", "desk")])
    (change,) = applied.json["changes"]
    assert change["fields"] == [{"field": "metadata", "before": {"lang": "fr"}, "after": {"n": 1}}]
    now = api.get(f"/api/agents/{agent_id}").json
    assert (now["name"], now["metadata"], now["options"]) == ("Desk", {"n": 1}, {"transfer": "sip-only"})
    assert now["version"] == 2
    assert kinds(apply(api, {"externalId": "desk", "options": {}}).json) == [("update", "desk")]
    assert api.get(f"/api/agents/{agent_id}").json["options"] == {}


def test_a_connected_agent_changes_by_an_item_and_its_number_stays_if_it_is_not_named(api: Api) -> None:
    agent_id = connected(api, "desk")

    applied = apply(api, {"externalId": "desk", "name": "Night", "options": {"call": {"ringingS": 9}}})

    assert (applied.status_code, kinds(applied.json)) == (202, [("update", "desk")])
    assert api.get(f"/api/agents/{agent_id}").json["name"] == "desk"
    assert api.get(URL).json["agents"][0]["name"] == "Night"
    assert plan(api, {"externalId": "desk", "name": "Night"})["changes"] == []
    other = apply(api, {"externalId": "desk", "name": "Day"})
    assert (other.status_code, other.json["code"]) == (409, "operation_in_progress")
    assert list(other.json["errors"]) == ["/agents/0"]


def test_prune_deletes_what_is_not_declared_and_nothing_that_has_no_external_id(api: Api) -> None:
    connected(api, "old")
    api.agent("bare", externalId="bare")
    kept = api.agent("no external id")

    assert plan(api)["changes"] == []
    applied = apply(api, query="?prune=true")

    assert (applied.status_code, kinds(applied.json)) == (
        202,
        [("deprovision", "old"), ("delete", "bare"), ("delete", "old")],
    )
    assert [one["pointer"] for one in applied.json["changes"]] == [None] * 3
    assert applied.json["changes"][2]["waitsFor"] == [1]
    assert {one["id"] for one in api.get("/api/agents").json["items"]} > {kept}
    assert api.get("/api/agents?externalId=bare").json["items"] == []
    assert apply(api, query="?prune=true").json["changes"] == []
    with api.wiring.sessions() as session:
        done = list(session.scalars(select(Activity.action).order_by(Activity.id)))
    assert Counter(done)["agent.delete"] == 2
    assert done[-1] == "declaration.apply"


def test_a_number_is_moved_between_two_agents_of_the_file(api: Api) -> None:
    first = connected(api, "desk")
    second = api.agent("Night", externalId="night")

    applied = apply(api, {"externalId": "desk", "phoneNumber": None}, {"externalId": "night", "phoneNumber": NUMBER})

    (change,) = applied.json["changes"]
    assert (change["kind"], change["externalId"], change["fromExternalId"]) == ("move", "night", "desk")
    (item,) = api.get(f"{applied.json['statusUrl']}/items").json["items"]
    assert (item["agentId"], item["toAgentId"]) == (first, second)


def test_two_at_once_make_it_once(api: Api) -> None:
    agents = [{"externalId": f"a{number}", "phoneNumber": f"+1514555{number:04}"} for number in range(20)]
    barrier = Barrier(6)

    def send(_: int) -> tuple[int, int]:
        barrier.wait()
        answer = apply(api, *agents)
        return answer.status_code, len(answer.json["changes"])

    with ThreadPoolExecutor(6) as threads:
        found = Counter(threads.map(send, range(6)))

    assert found == {(202, 40): 1, (200, 0): 5}
    assert (api.count("agents"), api.count("bulks"), api.count("bulk_items")) == (20, 1, 20)


def test_beside_somebody_who_creates_the_same_agents_nothing_is_made_twice(api: Api) -> None:
    agents = [{"externalId": f"a{number}"} for number in range(10)]
    barrier = Barrier(3)

    def create(which: int) -> list[int]:
        barrier.wait()
        if which:
            return [apply(api, *agents).status_code]
        return [api.post("/api/agents", {"name": "by hand", **one}).status_code for one in agents]

    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(create, range(3)))

    assert set(found[0]) <= {201, 409}
    # Who is outrun again and again says so.
    assert all(status in {200, 409} for (status,) in found[1:])
    assert api.count("agents") == 10


WRONG: dict[str, tuple[Any, dict[str, list[str]]]] = {
    "no external id": ({"name": "x"}, {"/agents/1/externalId": ["Missing data for required field."]}),
    "an unknown field": ({"externalId": "a", "phone": NUMBER}, {"/agents/1/phone": ["Unknown field."]}),
    "a number without its plus": (
        {"externalId": "a", "phoneNumber": 15145551234},
        {"/agents/1/phoneNumber": [LOST_PLUS]},
    ),
    "an attribute that is a number": (
        {"externalId": "a", "options": {"participant": {"attributes": {"lang/x": 1}}}},
        {"/agents/1/options/participant/attributes/lang~1x": [UNQUOTED]},
    ),
    "a name that is a number": ({"externalId": "a", "name": 17}, {"/agents/1/name": [UNQUOTED]}),
    "a pin that is a number": (
        {"externalId": "a", "options": {"dispatch": {"pin": 4711}}},
        {"/agents/1/options/dispatch/pin": [UNQUOTED]},
    ),
    "options that cannot be": (
        {"externalId": "a", "options": {"dispatch": {"kind": "direct"}}},
        {"/agents/1/options/dispatch/roomName": ["is needed where dispatch.kind is direct."]},
    ),
    "no object": ("desk", {"/agents/1": ["must be an object."]}),
    "an external id twice": ({"externalId": "desk"}, {"/agents/1/externalId": ["is that of /agents/0 already."]}),
    "a number twice": (
        {"externalId": "a", "phoneNumber": NUMBER},
        {"/agents/1/phoneNumber": ["is that of /agents/0 already."]},
    ),
    "an account that there is not": (
        {"externalId": "a", "carrierAccountId": "00000000-0000-4000-8000-00000000dead"},
        {"/agents/1/carrierAccountId": ["There is no such carrier account for this workspace."]},
    ),
}


@pytest.mark.parametrize("query", ["", "?dryRun=true"])
@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_with_its_place_and_nothing_is_made(api: Api, case: str, query: str) -> None:
    given, errors = WRONG[case]

    refused = apply(api, DESK, given, query=query)

    assert (refused.status_code, refused.json["code"]) == (422, "validation_failed")
    assert refused.json["errors"] == errors
    assert api.count("agents") == 0


def test_more_agents_than_a_bulk_has_items_are_refused(api: Api) -> None:
    refused = apply(api, *[{}] * (MAX_ITEMS + 1))

    assert (refused.status_code, list(refused.json["errors"])) == (422, ["agents"])


def test_a_conflict_is_shown_by_a_dry_run_and_refuses_all_of_an_apply(api: Api) -> None:
    connected(api, "other")
    agent_id = api.agent("no external id")
    api.provision(agent_id, OTHER_NUMBER)

    body = plan(api, DESK, NIGHT)
    refused = apply(api, DESK, NIGHT)

    assert [(one["pointer"], one["externalId"], one["code"]) for one in body["conflicts"]] == [
        ("/agents/0/phoneNumber", "desk", "number_in_use"),
        ("/agents/1/phoneNumber", "night", "number_in_use"),
    ]
    assert (refused.status_code, refused.json["code"]) == (409, "declaration_conflict")
    assert list(refused.json["errors"]) == ["/agents/0/phoneNumber", "/agents/1/phoneNumber"]
    assert "2 agents stand in the way." in refused.json["detail"]
    assert "1 agent stands in the way." in apply(api, DESK).json["detail"]
    assert agent_id in refused.json["errors"]["/agents/1/phoneNumber"][0]
    assert api.count("agents") == 2


def test_a_number_of_another_workspace_is_in_use_and_its_agent_is_not_named(api: Api) -> None:
    team = api.in_workspace("sales")
    holder = connected(team, "desk")

    refused = apply(api, DESK)

    assert refused.json["errors"] == {
        "/agents/0/phoneNumber": ["desk: An agent of another workspace has ********1234."]
    }
    assert holder not in refused.text


def test_each_workspace_has_its_own_and_prunes_no_other(api: Api) -> None:
    apply(api, {"externalId": "desk"})
    team = api.in_workspace("sales", Scope.WRITE)

    assert apply(team, {"externalId": "desk"}, query="?prune=true").json["counts"] == {"create": 1}
    assert team.get(URL).json["agents"][0]["externalId"] == "desk"
    assert apply(team, query="?prune=true").json["counts"] == {"delete": 1}
    assert len(api.get(URL).json["agents"]) == 1


def test_an_idempotency_key_gives_the_first_answer_again(api: Api) -> None:
    first = api.post(URL, {"agents": [DESK]}, headers={"Idempotency-Key": "one"})
    again = api.post(URL, {"agents": [DESK]}, headers={"Idempotency-Key": "one"})

    assert (again.status_code, again.json) == (202, first.json)
    assert again.headers["Idempotency-Replayed"] == "true"


def test_a_failed_number_is_planned_again(api: Api) -> None:
    apply(api, DESK)
    api.wiring.dispatcher.advance()
    agent_id = api.get("/api/agents?externalId=desk").json["items"][0]["id"]
    api.fail(api.status(agent_id).json["operation"]["id"], "number_not_in_account", "No such number.")

    assert kinds(plan(api, DESK)) == [("provision", "desk")]


def test_what_is_being_undone_is_busy(api: Api) -> None:
    agent_id = connected(api, "desk")
    api.deprovision(agent_id)

    assert plan(api, {"externalId": "desk", "phoneNumber": None})["changes"] == []
    assert api.get(URL).json["agents"][0]["phoneNumber"] is None
    refused = apply(api, {"externalId": "night", "phoneNumber": NUMBER}, {"externalId": "desk", "phoneNumber": None})
    assert (refused.status_code, refused.json["code"]) == (409, "operation_in_progress")


def test_an_agent_whose_number_is_moving_has_none_and_the_other_has_it(api: Api) -> None:
    first, second = connected(api, "desk"), api.agent("Night", externalId="night")
    api.post(f"/api/agents/{first}/move-phone", {"toAgentId": second})

    assert [one["phoneNumber"] for one in api.get(URL).json["agents"]] == [None, NUMBER]
