import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from app.api.responses import MAX_WAITERS
from app.domain.errors import ErrorCode
from app.domain.operations import OperationKind
from tests.support.api import IDS, NUMBER, OTHER_NUMBER, Api

WAIT = {"Prefer": "wait=5"}


def test_a_provisioning_is_accepted_and_published(api: Api) -> None:
    agent_id = api.agent()

    answer = api.provision(agent_id)

    url = f"/api/agents/{agent_id}/phone-status"
    assert answer.status_code == 202
    assert answer.json == {
        "success": True,
        "status": "PENDING",
        "phoneNumber": NUMBER,
        "operationId": str(api.publisher.plans[0].operation_id),
        "statusUrl": url,
    }
    assert (answer.headers["Location"], answer.headers["Retry-After"]) == (url, "1")
    assert "Preference-Applied" not in answer.headers
    operation = api.get(f"/api/operations/{answer.json['operationId']}").json
    assert (operation["requestedBy"], operation["requestId"]) == ("tests", answer.headers["X-Request-ID"])


def test_one_agent_takes_one_number(api: Api) -> None:
    agent_id = api.agent()
    operation_id = api.provision(agent_id).json["operationId"]

    for number in (NUMBER, OTHER_NUMBER):
        assert api.provision(agent_id, number).json["code"] == "operation_in_progress"
    api.succeed(operation_id)
    for number in (NUMBER, OTHER_NUMBER):
        answer = api.provision(agent_id, number)
        assert (answer.status_code, answer.json["code"]) == (409, "agent_has_phone")


def test_one_number_goes_to_one_agent(api: Api) -> None:
    first, second = api.agent("first"), api.agent("second")
    operation_id = api.provision(first).json["operationId"]

    answer = api.provision(second)
    assert (answer.status_code, answer.json["code"]) == (409, "number_in_use")
    api.fail(operation_id, "number_not_voice", "No voice.")
    assert api.provision(second).status_code == 202


@pytest.mark.parametrize("same_agent", [True, False])
def test_of_many_posts_at_once_one_wins(api: Api, same_agent: bool) -> None:
    agents = [api.agent()] * 8 if same_agent else [api.agent(str(number)) for number in range(8)]
    start = Barrier(len(agents))

    def post(agent_id: str) -> int:
        start.wait()
        return api.provision(agent_id).status_code

    with ThreadPoolExecutor(len(agents)) as threads:
        assert sorted(threads.map(post, agents)) == [202] + [409] * (len(agents) - 1)
    assert api.count("operations") == 1


def test_a_client_that_waits_gets_the_ids_and_nothing_else(api: Api) -> None:
    api.publisher.on_publish = lambda plan: api.succeed(str(plan.operation_id))

    answer = api.provision(api.agent(), headers=WAIT)

    assert answer.status_code == 200
    assert answer.json == {
        "success": True,
        "phoneNumber": NUMBER,
        "twilioTrunkSid": IDS["twilio_trunk_sid"],
        "livekitInboundTrunkId": IDS["livekit_inbound_trunk_id"],
        "livekitDispatchRuleId": IDS["livekit_dispatch_rule_id"],
    }
    assert answer.headers["Preference-Applied"] == "wait=5"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (ErrorCode.NUMBER_NOT_IN_ACCOUNT, 422),
        (ErrorCode.NUMBER_ALREADY_ROUTED, 409),
        (ErrorCode.LIVEKIT_NUMBER_CONFLICT, 409),
        (ErrorCode.TWILIO_BAD_CREDENTIALS, 502),
        (ErrorCode.PROVIDER_UNAVAILABLE, 503),
    ],
)
def test_a_client_that_waits_gets_the_problem_that_ended_it(api: Api, code: ErrorCode, status: int) -> None:
    api.publisher.on_publish = lambda plan: api.fail(str(plan.operation_id), code, "Because.")

    answer = api.provision(api.agent(), headers=WAIT)

    hint = " Send `takeover: true` to have it moved." if code is ErrorCode.NUMBER_ALREADY_ROUTED else ""
    assert (answer.status_code, answer.json["code"], answer.json["detail"]) == (status, code, f"Because.{hint}")
    assert answer.content_type == "application/problem+json"


def test_a_wait_that_runs_out_is_202(api: Api) -> None:
    started = time.monotonic()

    answer = api.provision(api.agent(), headers={"Prefer": "respond-async, wait=1"})

    assert (answer.status_code, answer.json["status"]) == (202, "PENDING")
    assert answer.headers["Preference-Applied"] == "wait=1"
    assert 0.9 < time.monotonic() - started < 5


def test_waiting_does_not_use_up_the_right_to_wait(api: Api) -> None:
    api.publisher.on_publish = lambda plan: api.fail(str(plan.operation_id), "number_not_voice", "No voice.")
    agent_id = api.agent()

    for _ in range(MAX_WAITERS + 1):
        assert api.provision(agent_id, headers=WAIT).status_code == 422


def test_only_so_many_wait_at_once_and_the_others_are_told_to_poll(api: Api) -> None:
    agents = [api.agent(str(number)) for number in range(MAX_WAITERS + 1)]
    numbers = [f"+1514555{number:04d}" for number in range(MAX_WAITERS + 1)]
    answers: list[bool] = []

    def post(agent_id: str, number: str) -> None:
        answers.append("Preference-Applied" in api.provision(agent_id, number, headers={"Prefer": "wait=2"}).headers)

    with ThreadPoolExecutor(len(agents)) as threads:
        list(threads.map(post, agents, numbers))
    assert answers == [False] + [True] * MAX_WAITERS


def test_a_failed_agent_can_be_provisioned_again(api: Api) -> None:
    agent_id = api.agent()
    api.fail(api.provision(agent_id).json["operationId"], "number_not_in_account", "No such number.")

    status = api.status(agent_id).json
    assert (status["phoneProvisioningStatus"], status["hasPhone"]) == ("FAILED", False)
    assert status["operation"]["error"] == {"code": "number_not_in_account", "detail": "No such number."}
    assert api.provision(agent_id, OTHER_NUMBER).status_code == 202


def test_an_agent_without_a_number_is_deprovisioned_already(api: Api) -> None:
    agent_id = api.agent()

    answer = api.deprovision(agent_id)

    assert (answer.status_code, answer.json) == (200, {"success": True, "message": "The agent has no number."})
    assert api.publisher.plans == []


def test_deprovisioning_clears_a_failed_agent(api: Api) -> None:
    agent_id = api.agent()
    api.fail(api.provision(agent_id).json["operationId"], "number_not_voice", "No voice.")

    assert api.deprovision(agent_id).status_code == 200
    assert api.status(agent_id).json["phoneProvisioningStatus"] == "NOT_PROVISIONED"


def test_deprovisioning_is_accepted_and_joined_by_a_second_call(api: Api) -> None:
    agent_id = api.agent()
    api.succeed(api.provision(agent_id).json["operationId"])

    first, second = api.deprovision(agent_id), api.deprovision(agent_id)

    assert (first.status_code, first.json["status"]) == (202, "DEPROVISIONING")
    assert second.json == first.json
    assert [plan.kind for plan in api.publisher.plans] == [OperationKind.PROVISION, OperationKind.DEPROVISION]
    status = api.status(agent_id).json
    assert (status["hasPhone"], status["phoneProvisioningStatus"]) == (False, "DEPROVISIONING")


def test_deprovisioning_that_is_waited_for_says_so(api: Api) -> None:
    agent_id = api.agent()
    api.succeed(api.provision(agent_id).json["operationId"])
    api.publisher.on_publish = lambda plan: api.succeed(str(plan.operation_id))

    answer = api.deprovision(agent_id, headers=WAIT)

    assert (answer.status_code, list(answer.json)) == (200, ["success", "message"])


def test_a_provisioning_that_has_not_begun_is_cancelled_at_once(api: Api) -> None:
    agent_id = api.agent()
    operation_id = api.provision(agent_id).json["operationId"]

    answer = api.deprovision(agent_id)

    assert answer.status_code in {200, 202}
    if answer.status_code == 202:
        assert (answer.json["status"], answer.json["operationId"]) == ("ROLLING_BACK", operation_id)


def test_with_the_broker_down_the_post_is_accepted_all_the_same(api: Api) -> None:
    api.publisher.on_publish = lambda _plan: False

    assert api.provision(api.agent()).status_code == 202
