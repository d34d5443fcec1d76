"""The client of the command line: what each of its two transports brings back."""

import click
import pytest

from app.access import Scope
from app.cli.client import Client, ProblemError
from app.cli.local import Local
from app.cli.profiles import Target
from app.cli.remote import Remote
from app.domain.events import Channel
from app.domain.workspaces import WORKSPACE_HEADER
from tests.support.api import Api
from tests.support.served_app import served


@pytest.fixture(params=["local", "remote"])
def client(request: pytest.FixtureRequest, api: Api) -> object:
    """A client of the application: in this process, and at an address."""
    if request.param == "local":
        yield Client(Local(api.app, "trunkline test"), {})
        return
    with served(api.app) as url:
        yield Client(Remote(Target(url, api.key, "KEY")), {})


def test_an_answer_is_its_status_its_json_and_its_headers(client: Client) -> None:
    made = client.request("POST", "/api/agents", body={"name": "desk"})

    assert (made.status, made.body["name"], made.headers["location"]) == (201, "desk", f"/api/agents/{made.body['id']}")
    assert client.get(f"/api/agents/{made.body['id']}")["name"] == "desk"
    assert client.request("DELETE", f"/api/agents/{made.body['id']}").body is None


def test_lists_are_read_page_by_page_up_to_the_limit(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.cli.client.MAX_PAGE", 2)
    for number in range(5):
        client.post("/api/agents", {"name": f"desk {number}"})

    every, last = client.pages("/api/agents", None)
    three, more = client.pages("/api/agents", 3, status="NOT_PROVISIONED")

    assert [one["name"] for one in every] == [f"desk {number}" for number in (4, 3, 2, 1, 0)]
    assert last["nextCursor"] is None
    assert [one["name"] for one in three] == ["desk 4", "desk 3", "desk 2"]
    assert more["nextCursor"]


def test_a_problem_is_an_error_with_its_code_detail_and_fields(client: Client) -> None:
    with pytest.raises(ProblemError) as raised:
        client.post("/api/agents", {"name": ""})

    assert (raised.value.code, raised.value.status, list(raised.value.errors)) == ("validation_failed", 422, ["name"])
    assert raised.value.as_problem()["type"] == "urn:trunkline:problem:validation_failed"
    assert isinstance(raised.value, click.ClickException)


def test_an_answer_that_was_expected_is_none(client: Client) -> None:
    missing = client.request("GET", "/api/audit", accepted=(404,))

    assert (missing.status, missing.body["code"]) == (404, "audit_not_found")


def test_the_trail_says_of_this_process_which_command_it_was(api: Api) -> None:
    Client(Local(api.app, "trunkline agents create"), {}).post("/api/agents", {"name": "desk"})

    with_admin = {"Authorization": f"Bearer {api.new_key(Scope.ADMIN)}"}
    rows = api.get("/api/activity", headers=with_admin).json["items"]
    (one,) = [row for row in rows if row["action"] == "agent.create"]
    assert (one["actor"], one["channel"], one["address"]) == ("trunkline agents create", Channel.COMMAND_LINE, None)


def test_in_this_process_a_workspace_can_be_named(api: Api) -> None:
    api.in_workspace("acme")
    acme = Client(Local(api.app, "trunkline test"), {WORKSPACE_HEADER: "acme"})
    acme.post("/api/agents", {"name": "theirs"})

    everybody, nobody = Client(Local(api.app, "x"), {}), Client(Local(api.app, "x"), {WORKSPACE_HEADER: "none"})
    assert [one["name"] for one in acme.get("/api/agents")["items"]] == ["theirs"]
    assert [one["name"] for one in everybody.get("/api/agents")["items"]] == ["theirs"]
    with pytest.raises(ProblemError, match="workspace_not_found"):
        nobody.get("/api/agents")


@pytest.mark.parametrize("name", ["trunkline.local_operator", "Trunkline.Local-Operator", "trunkline-local-operator"])
def test_no_header_makes_an_operator(api: Api, name: str) -> None:
    assert api.client.get("/api/agents", headers={name: "trunkline test"}).status_code == 401
    assert api.client.get("/api/agents", environ_overrides={name: "trunkline test"}).status_code == 401
