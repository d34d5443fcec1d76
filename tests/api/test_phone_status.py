from typing import Any

from sqlalchemy import update

from app.db.models import Agent, Event, Operation, OperationStep, Resource
from app.domain.operations import OperationStatus, PhoneStatus, StepState
from tests.support.api import IDS, NUMBER, Api

CLEAN = {
    "hasPhone": False,
    "phoneProvisioningStatus": "NOT_PROVISIONED",
    "phoneNumber": None,
    "twilioPhoneNumberSid": None,
    "twilioTrunkSid": None,
    "twilioOriginationUrlSid": None,
    "trunk": None,
    "livekitInboundTrunkId": None,
    "livekitDispatchRuleId": None,
    "operation": None,
    "options": {},
    "health": {"state": "UNKNOWN", "checkedAt": None, "findings": []},
    "warnings": [],
    "adopted": None,
}


def test_a_clean_agent_has_no_phone(api: Api) -> None:
    response = api.status(api.agent())

    assert response.json == CLEAN
    assert response.headers["Cache-Control"] == "no-cache"


def test_a_provisioned_agent_shows_every_id(api: Api) -> None:
    agent_id = api.agent()
    api.succeed(api.provision(agent_id).json["operationId"])

    shown = api.status(agent_id).json

    assert (shown["hasPhone"], shown["phoneProvisioningStatus"], shown["phoneNumber"]) == (True, "PROVISIONED", NUMBER)
    names = ("twilioPhoneNumberSid", "twilioTrunkSid", "twilioOriginationUrlSid")
    assert [shown[name] for name in names] == list(IDS.values())[:3]
    assert [shown["livekitInboundTrunkId"], shown["livekitDispatchRuleId"]] == list(IDS.values())[3:]
    assert (shown["operation"]["status"], shown["operation"]["currentStep"]) == ("succeeded", None)


def test_a_running_operation_shows_its_steps_and_timeline(api: Api) -> None:
    agent_id = api.agent()
    operation_id = api.provision(agent_id).json["operationId"]

    shown = api.status(agent_id).json["operation"]

    assert (shown["id"], shown["kind"], shown["status"]) == (operation_id, "provision", "queued")
    assert shown["currentStep"] == shown["steps"][0]["name"] == "twilio_number"
    assert {step["state"] for step in shown["steps"]} == {"PENDING"}
    assert set(shown["steps"][0]) == {
        "name",
        "state",
        "attempts",
        "resourceId",
        "startedAt",
        "finishedAt",
        "nextAttemptAt",
        "error",
    }
    assert [event["event"] for event in shown["timeline"]] == ["operation_queued"]
    assert (shown["error"], shown["leftovers"]) == (None, [])


def test_an_undo_that_cannot_finish_shows_what_is_left(api: Api) -> None:
    agent_id = api.agent()
    api.get_stuck(api.provision(agent_id).json["operationId"])

    shown = api.status(agent_id).json

    assert (shown["phoneProvisioningStatus"], shown["operation"]["status"]) == ("ROLLING_BACK", "needs_attention")
    assert shown["operation"]["error"]["code"] == "twilio_rejected"
    assert shown["operation"]["currentStep"] == "twilio_trunk"
    assert shown["operation"]["leftovers"] == [
        {"provider": "twilio", "kind": "twilio_trunk", "id": IDS["twilio_trunk_sid"]}
    ]


def test_a_poll_that_finds_no_change_is_304(api: Api) -> None:
    agent_id = api.agent()
    api.provision(agent_id)
    etag = api.status(agent_id).headers["ETag"]

    for header in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        response = api.status(agent_id, headers={"If-None-Match": header})
        assert (response.status_code, response.data, response.headers["ETag"]) == (304, b"", etag)
    for header in ('"other"', "nonsense", ""):
        assert api.status(agent_id, headers={"If-None-Match": header}).status_code == 200


def test_two_agents_in_the_same_state_have_different_tags(api: Api) -> None:
    first, second = (api.status(api.agent(name)).headers["ETag"] for name in ("first", "second"))

    assert first != second


def test_the_tag_changes_with_every_row_that_the_body_shows(api: Api) -> None:
    agent_id = api.agent()
    tags = [api.status(agent_id).headers["ETag"]]
    operation_id = api.provision(agent_id).json["operationId"]

    def change(*statements: Any) -> None:
        tags.append(api.status(agent_id).headers["ETag"])
        with api.wiring.sessions.begin() as session:
            for statement in statements:
                session.execute(statement)
        tags.append(api.status(agent_id).headers["ETag"])
        assert tags[-1] != tags[-2], statements

    of_step = (OperationStep.operation_id == operation_id, OperationStep.name == "twilio_trunk")
    change(update(OperationStep).where(*of_step).values(state=StepState.RUNNING))
    change(update(OperationStep).where(*of_step).values(attempts=OperationStep.attempts + 1))
    change(update(Operation).where(Operation.id == operation_id).values(status=OperationStatus.RUNNING))
    change(update(Agent).where(Agent.id == agent_id).values(phone_provisioning_status=PhoneStatus.PROVISIONING))
    with api.wiring.sessions.begin() as session:
        session.add(Event(operation_id=operation_id, event="step_started", step="twilio_trunk", detail={}))
    tags.append(api.status(agent_id).headers["ETag"])
    with api.wiring.sessions.begin() as session:
        ids = {"provider": "twilio", "kind": "twilio_trunk", "external_id": "TK1"}
        session.add(Resource(**ids, agent_id=agent_id, operation_id=operation_id))
    tags.append(api.status(agent_id).headers["ETag"])
    assert len(set(tags)) == 8
    assert api.status(agent_id).headers["ETag"] == tags[-1]


def test_the_timeline_of_a_long_operation_shows_its_end(api: Api) -> None:
    agent_id = api.agent()
    operation_id = api.provision(agent_id).json["operationId"]
    with api.wiring.sessions.begin() as session:
        session.add_all(Event(operation_id=operation_id, event="step_rests", detail={"n": n}) for n in range(300))

    timeline = api.status(agent_id).json["operation"]["timeline"]

    assert [event["detail"]["n"] for event in timeline] == list(range(100, 300))
