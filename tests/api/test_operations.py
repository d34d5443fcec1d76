import pytest

from tests.support.api import NOBODY, NUMBER, OTHER_NUMBER, Api


def test_operations_are_listed_newest_first_by_status_and_agent(api: Api) -> None:
    first, second = api.agent("first"), api.agent("second")
    failed = api.provision(first).json["operationId"]
    api.fail(failed, "number_not_voice", "No voice.")
    queued = api.provision(first).json["operationId"]
    other = api.provision(second, OTHER_NUMBER).json["operationId"]

    def listed(query: str) -> list[str]:
        return [item["id"] for item in api.get(f"/api/operations?{query}").json["items"]]

    assert listed("") == [other, queued, failed]
    assert listed("status=failed") == [failed]
    assert listed(f"agentId={first}") == [queued, failed]
    assert listed(f"agentId={first}&status=queued") == [queued]
    assert listed(f"agentId={NOBODY}") == []


def test_pages_of_operations_follow_one_another(api: Api) -> None:
    agent_id = api.agent()
    made = []
    for _ in range(5):
        made.append(api.provision(agent_id).json["operationId"])
        api.fail(made[-1], "number_not_voice", "No voice.")

    page = api.get("/api/operations?limit=2").json
    rest = api.get(f"/api/operations?limit=200&cursor={page['nextCursor']}").json

    assert [item["id"] for item in page["items"] + rest["items"]] == made[::-1]
    assert rest["nextCursor"] is None


@pytest.mark.parametrize("query", ["status=BROKEN", "agentId=7", "agentId=%00", "agentId="])
def test_a_filter_that_makes_no_sense_is_422(api: Api, query: str) -> None:
    assert api.get(f"/api/operations?{query}").status_code == 422


@pytest.mark.parametrize("operation_id", [NOBODY, "nonsense", "%00"])
@pytest.mark.parametrize(("method", "suffix"), [("GET", ""), ("POST", "/retry")])
def test_an_operation_that_no_row_has_is_404(api: Api, method: str, suffix: str, operation_id: str) -> None:
    response = api.call(method, f"/api/operations/{operation_id}{suffix}")

    assert (response.status_code, response.json["code"]) == (404, "operation_not_found")


def test_retry_publishes_an_open_operation_again(api: Api) -> None:
    agent_id = api.agent()
    accepted = api.provision(agent_id)

    response = api.post(f"/api/operations/{accepted.json['operationId']}/retry")

    assert (response.status_code, response.json) == (202, accepted.json)
    assert response.headers["Location"] == accepted.headers["Location"]
    assert len(api.publisher.plans) == 2


def test_retry_starts_a_failed_provisioning_afresh(api: Api) -> None:
    agent_id = api.agent()
    failed = api.provision(agent_id).json["operationId"]
    api.fail(failed, "number_not_voice", "No voice.")

    response = api.post(f"/api/operations/{failed}/retry")

    assert (response.status_code, response.json["phoneNumber"], response.json["status"]) == (202, NUMBER, "PENDING")
    assert response.json["operationId"] != failed


def test_retry_of_what_succeeded_is_409(api: Api) -> None:
    done = api.provision(api.agent()).json["operationId"]
    api.succeed(done)

    response = api.post(f"/api/operations/{done}/retry")

    assert (response.status_code, response.json["code"]) == (409, "operation_finished")


def test_retry_of_what_is_stuck_says_where_it_stands(api: Api) -> None:
    stuck = api.provision(api.agent()).json["operationId"]
    api.get_stuck(stuck)

    response = api.post(f"/api/operations/{stuck}/retry")

    assert (response.status_code, response.json["status"], response.json["operationId"]) == (202, "ROLLING_BACK", stuck)
