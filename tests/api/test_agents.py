import pytest
from sqlalchemy import func, update

from app.db.models import Agent
from app.domain.operations import PhoneStatus
from app.numbers.agents import ERASED
from tests.support.api import NOBODY, NUMBER, Api


def test_an_agent_is_created_with_its_name_as_the_livekit_name(api: Api) -> None:
    response = api.post("/api/agents", {"name": "  Front desk ", "metadata": {"lang": "fr", "n": [1, None]}})

    assert response.status_code == 201
    assert response.headers["Location"] == f"/api/agents/{response.json['id']}"
    shown = {name: response.json[name] for name in ("name", "livekitAgentName", "metadata", "phoneNumber")}
    assert shown == {
        "name": "Front desk",
        "livekitAgentName": "Front desk",
        "metadata": {"lang": "fr", "n": [1, None]},
        "phoneNumber": None,
    }
    assert response.json["phoneProvisioningStatus"] == "NOT_PROVISIONED"
    assert api.get(response.headers["Location"]).json == response.json


def test_an_agent_may_have_a_livekit_name_of_its_own(api: Api) -> None:
    response = api.post("/api/agents", {"name": "Front desk", "livekitAgentName": "desk-agent"})

    assert response.json["livekitAgentName"] == "desk-agent"


@pytest.mark.parametrize("agent_id", [NOBODY, "nonsense", "%00", "x" * 500, "{}", "1"])
@pytest.mark.parametrize(
    ("method", "suffix"), [("GET", ""), ("DELETE", ""), ("GET", "/phone-status"), ("DELETE", "/deprovision-phone")]
)
def test_an_agent_that_no_row_has_is_404(api: Api, method: str, suffix: str, agent_id: str) -> None:
    response = api.call(method, f"/api/agents/{agent_id}{suffix}")

    assert (response.status_code, response.json["code"]) == (404, "agent_not_found")


def test_a_deleted_agent_is_gone_from_everywhere(api: Api) -> None:
    agent_id = api.agent()
    operation_id = api.provision(agent_id).json["operationId"]
    api.fail(operation_id, "number_not_in_account", "No such number.")

    response = api.delete(f"/api/agents/{agent_id}")

    assert (response.status_code, response.data) == (204, b"")
    assert api.get(f"/api/agents/{agent_id}").status_code == 404
    assert api.status(agent_id).status_code == 404
    assert api.provision(agent_id).status_code == 404
    assert api.get("/api/agents").json["items"] == []
    assert api.get("/api/operations").json["items"] == []
    assert api.get(f"/api/operations/{operation_id}").status_code == 404


def test_an_agent_that_holds_a_number_cannot_be_deleted(api: Api) -> None:
    agent_id = api.agent()
    operation_id = api.provision(agent_id).json["operationId"]

    assert api.delete(f"/api/agents/{agent_id}").json["code"] == "operation_in_progress"
    api.succeed(operation_id)
    response = api.delete(f"/api/agents/{agent_id}")
    assert (response.status_code, response.json["code"]) == (409, "agent_has_phone")
    assert api.get(f"/api/agents/{agent_id}").json["phoneNumber"] == NUMBER


def test_pages_show_every_agent_once_the_newest_first(api: Api) -> None:
    made = [api.agent(f"agent {number}") for number in range(7)]

    seen, cursor = [], ""
    for size in (3, 3, 1):
        page = api.get(f"/api/agents?limit=3{cursor}").json
        assert len(page["items"]) == size
        seen += [item["id"] for item in page["items"]]
        cursor = f"&cursor={page['nextCursor']}"
        api.agent("made while somebody was reading")

    assert seen == made[::-1]
    assert page["nextCursor"] is None


def test_a_page_that_is_full_and_the_last_has_no_next(api: Api) -> None:
    for name in ("a", "b", "c"):
        api.agent(name)

    assert api.get("/api/agents?limit=3").json["nextCursor"] is None
    assert api.get("/api/agents?limit=2").json["nextCursor"] is not None


def test_agents_are_listed_by_status(api: Api) -> None:
    idle, busy = api.agent("idle"), api.agent("busy")
    api.provision(busy)

    def listed(status: PhoneStatus) -> list[str]:
        return [item["id"] for item in api.get(f"/api/agents?status={status}").json["items"]]

    assert (listed(PhoneStatus.PENDING), listed(PhoneStatus.NOT_PROVISIONED)) == ([busy], [idle])
    assert listed(PhoneStatus.FAILED) == []


def stored(api: Api, agent_id: str) -> Agent:
    with api.wiring.sessions() as session:
        return session.get_one(Agent, agent_id)


def test_of_a_deleted_agent_nothing_is_kept_that_its_owner_wrote(api: Api) -> None:
    agent_id = api.agent("Ada Lovelace", livekitAgentName="ada", metadata={"home": "12 St James's Square"})
    operation = api.provision(agent_id).json["operationId"]
    api.fail(operation, "number_not_in_account", "Not ours.")

    assert api.delete(f"/api/agents/{agent_id}").status_code == 204

    row = stored(api, agent_id)
    assert (row.name, row.livekit_agent_name, row.agent_metadata) == (ERASED, ERASED, {})
    assert row.deleted_at is not None
    assert (api.count("operations"), api.count("agents")) == (1, 1)


def test_what_an_older_release_left_of_deleted_agents_is_erased(api: Api) -> None:
    living, gone = (api.agent(name, metadata={"home": "here"}) for name in ("living", "gone"))
    with api.wiring.sessions.begin() as session:
        session.execute(update(Agent).where(Agent.id == gone).values(deleted_at=func.now()))

    assert [api.wiring.agents.erase_deleted() for _ in range(2)] == [1, 0]

    assert (stored(api, gone).name, stored(api, gone).agent_metadata) == (ERASED, {})
    assert (stored(api, living).name, stored(api, living).agent_metadata) == ("living", {"home": "here"})


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("status=BROKEN", "status"),
        ("status=%00", "status"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=-1", "limit"),
        ("limit=many", "limit"),
        ("limit=1e9", "limit"),
        ("cursor=x", "cursor"),
        ("cursor=%00", "cursor"),
        ("cursor=W10", "cursor"),
        ("cursor=WyIyMDI2LTAxLTAxVDAwOjAwOjAwIiwgIjdjMWY1YTUyLTNjMGUtNGM0Mi05YTUzLTBmM2ExZDBiNmMxMSJd", "cursor"),
        ("cursor=" + "A" * 5000, "cursor"),
        ("page=2", "page"),
    ],
)
@pytest.mark.parametrize("path", ["/api/agents", "/api/operations"])
def test_a_query_that_makes_no_sense_is_422(api: Api, path: str, query: str, field: str) -> None:
    response = api.get(f"{path}?{query}")

    assert (response.status_code, response.json["code"]) == (422, "validation_failed")
    assert list(response.json["errors"]) == [field]


def test_an_agent_is_found_by_its_name_its_number_or_the_beginning_of_its_id(api: Api) -> None:
    desk, night = api.agent("desk"), api.agent("night")
    api.provision(desk)

    def found(query: str) -> list[str]:
        return [one["id"] for one in api.get(f"/api/agents?{query}").json["items"]]

    assert found("name=desk") == found("name=desk&phoneNumber=%2B15145551234") == [desk]
    assert found(f"phoneNumber=%2B{NUMBER[1:]}") == [desk]
    assert found(f"idPrefix={night[:8]}") == found(f"idPrefix={night.replace('-', '')}") == [night]
    assert found("name=des") == found("phoneNumber=%2B15145550000") == []
    (operation,) = api.get(f"/api/operations?agentId={desk}").json["items"]
    assert api.get(f"/api/operations?idPrefix={operation['id'][:8]}").json["items"] == [operation]
    assert api.get("/api/operations?idPrefix=00000000").json["items"] == []


@pytest.mark.parametrize("query", ["idPrefix=7c1f5a5", "idPrefix=7C1F5A52", "idPrefix=7c1f5a52-3", "phoneNumber=514"])
def test_the_beginning_of_an_id_is_eight_digits_and_a_number_is_e164(api: Api, query: str) -> None:
    assert api.get(f"/api/agents?{query}").json["errors"].keys() == {query.partition("=")[0]}


def test_a_search_finds_what_the_console_s_finds_and_goes_with_filters_and_pages(api: Api) -> None:
    first, second = api.agent("Accueil Montréal 1"), api.agent("Accueil Montréal 2")
    api.agent("Sales")
    api.fail(api.provision(second).json["operationId"], "number_not_in_account", "Not ours.")

    def found(query: str) -> list[str]:
        return [one["id"] for one in api.get(f"/api/agents?{query}").json["items"]]

    assert found("q=montreal") == [second, first]
    assert found("q=ntré%202") == found(f"q={NUMBER[-7:]}") == found(f"q={second[:8]}") == [second]
    assert found("q=montreal&status=NOT_PROVISIONED") == [first]
    page = api.get("/api/agents?q=montreal&limit=1").json
    assert [one["id"] for one in page["items"]] == [second]
    assert found(f"q=montreal&limit=1&cursor={page['nextCursor']}") == [first]
    assert found("q=zebra") == []
    for wrong in ("q=", "q=%00", f"q={'x' * 201}"):
        assert api.get(f"/api/agents?{wrong}").status_code == 422
