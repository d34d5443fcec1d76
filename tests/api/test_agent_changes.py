"""`PATCH /api/agents/{id}`: what it takes, refuses and answers; the path itself is tested in `tests/maintenance`."""

import json
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import select
from werkzeug.test import TestResponse

from app.access import Scope
from app.db.access import Activity
from app.db.models import Agent, Operation
from app.domain.events import Action
from app.domain.operations import OperationKind, OperationStatus
from app.domain.workspaces import ENVIRONMENT_ACCOUNT, ENVIRONMENT_PROJECT
from app.numbers.changing import merged
from app.views.option_schemas import WORDS
from tests.support.api import NOBODY, NUMBER, OTHER_NUMBER, Api

MERGE_PATCH = "application/merge-patch+json"

APPENDIX_A: list[tuple[Any, Any, Any]] = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]
"""The examples of RFC 7396: original, patch, result."""


@pytest.mark.parametrize(("now", "patch", "result"), APPENDIX_A)
def test_a_merge_is_that_of_the_rfc(now: Any, patch: Any, result: Any) -> None:
    before = json.dumps(now)

    assert merged(now, patch) == result
    assert json.dumps(now) == before


def patch(api: Api, agent_id: str, body: Mapping[str, Any], match: str | None = None, **headers: str) -> TestResponse:
    if match is not None:
        headers["If-Match"] = match
    return api.call("PATCH", f"/api/agents/{agent_id}", body, headers=headers)


def connected(api: Api, number: str = NUMBER, **more: Any) -> str:
    """Return an agent whose number rings, as the rows say."""
    agent_id = api.agent(**more)
    api.succeed(api.provision(agent_id, number).json["operationId"])
    return agent_id


def end(api: Api, operation_id: str, status: OperationStatus = OperationStatus.SUCCEEDED) -> None:
    """Write what a worker writes when an update has ended."""
    with api.wiring.sessions.begin() as session:
        operation = session.get_one(Operation, uuid.UUID(operation_id))
        operation.status, operation.finished_at = status, operation.created_at
        agent = session.get_one(Agent, operation.agent_id)
        if status is OperationStatus.SUCCEEDED:
            for name, value in (operation.wanted or {}).items():
                setattr(agent, "agent_metadata" if name == "metadata" else name, value)
            agent.version += 1
        else:
            operation.error_code, operation.error_detail = "livekit_rejected", "LiveKit refused update_dispatch_rule."


def test_a_change_merges_into_what_stands_and_counts(api: Api) -> None:
    agent_id = api.agent(
        "Front desk", metadata={"lang": "fr", "team": {"a": 1, "b": [1, 2]}}, options={"room": {"preset": "x"}}
    )

    response = patch(
        api,
        agent_id,
        {
            "name": "  Night desk ",
            "metadata": {"lang": None, "team": {"b": [3]}, "new": {"x": None, "y": 1}},
            "options": {"room": {"preset": None, "maxParticipants": 4}, "call": {"headersToAttributes": {"X-A": "a"}}},
        },
    )

    assert (response.status_code, response.headers["ETag"]) == (200, '"2"')
    changed = {name: response.json[name] for name in ("name", "livekitAgentName", "metadata", "options", "version")}
    assert changed == {
        "name": "Night desk",
        "livekitAgentName": "Front desk",
        "metadata": {"team": {"a": 1, "b": [3]}, "new": {"y": 1}},
        "options": {"room": {"maxParticipants": 4}, "call": {"headersToAttributes": {"X-A": "a"}}},
        "version": 2,
    }
    shown = api.get(f"/api/agents/{agent_id}")
    assert (shown.json, shown.headers["ETag"]) == (response.json, '"2"')
    assert api.get("/api/agents").json["items"] == [response.json]


def test_null_takes_options_and_metadata_back(api: Api) -> None:
    options = {"dispatch": {"kind": "direct", "roomName": "lobby"}, "transfer": "sip-only"}
    agent_id = api.agent(metadata={"a": 1}, options={**options, "room": {"maxParticipants": 3}})

    first = patch(api, agent_id, {"options": {"dispatch": None, "transfer": None}}).json
    second = patch(api, agent_id, {"options": None, "metadata": None}).json

    assert first["options"] == {"room": {"maxParticipants": 3}}
    assert (second["options"], second["metadata"], second["version"]) == ({}, {}, 3)


def test_an_agent_is_created_with_options_and_shows_them(api: Api) -> None:
    options = {
        path.partition(".")[0]: words.example if "." not in path else {path.partition(".")[2]: words.example}
        for path, words in WORDS.items()
        if path
        in {"dispatch.pin", "agents", "room.maxParticipants", "call.ringingS", "transfer", "monitor.everyMinutes"}
    }

    response = api.post("/api/agents", {"name": "desk", "options": options})

    assert (response.status_code, response.headers["ETag"], response.json["version"]) == (201, '"1"', 1)
    assert response.json["options"] == options
    agent_id = response.json["id"]
    assert api.status(agent_id).json["options"] == {}
    before = api.status(agent_id).headers["ETag"]
    api.succeed(api.provision(agent_id).json["operationId"])
    assert api.status(agent_id).json["options"] == options
    assert api.status(agent_id).headers["ETag"] != before


@pytest.mark.parametrize("path", WORDS)
def test_every_option_is_taken_at_creation_and_by_a_change_and_taken_back(api: Api, path: str) -> None:
    group, _, name = path.partition(".")
    value = WORDS[path].example
    needed = {"roomName": {"kind": "direct"}}.get(name, {})
    given: dict[str, Any] = {group: {name: value, **needed} if name else value}
    created, changed = api.agent(options=given), api.agent()

    response = patch(api, changed, {"options": given})

    assert response.json["options"] == given
    assert api.get(f"/api/agents/{created}").json["options"] == given
    none: dict[str, Any] = {group: dict.fromkeys((name, *needed)) if name else None}
    assert patch(api, changed, {"options": none}).json["options"] == {}


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"name": None}, "name"),
    ({"name": " "}, "name"),
    ({"name": 1}, "name"),
    ({"livekitAgentName": None}, "livekitAgentName"),
    ({"livekitAgentName": "a\nb"}, "livekitAgentName"),
    ({"trunkMode": None}, "trunkMode"),
    ({"trunkMode": "both"}, "trunkMode"),
    ({"carrierAccountId": None}, "carrierAccountId"),
    ({"voiceProjectId": "nonsense"}, "voiceProjectId"),
    ({"metadata": []}, "metadata"),
    ({"metadata": {"a": 1e308}}, "metadata"),
    ({"nonsense": 1}, "nonsense"),
    ({"phoneNumber": None}, "phoneNumber"),
    ({"version": 1}, "version"),
    ({"options": []}, "options"),
    ({"options": {"nonsense": None}}, "options.nonsense"),
    ({"options": {"dispatch": 1}}, "options.dispatch"),
    ({"options": {"dispatch": {"nonsense": 1}}}, "options.dispatch.nonsense"),
    ({"options": {"dispatch": {"pin": 4711}}}, "options.dispatch.pin"),
    ({"options": {"dispatch": {"pin": "12a"}}}, "options.dispatch.pin"),
    ({"options": {"dispatch": {"kind": "direct"}}}, "options.dispatch.roomName"),
    ({"options": {"room": {"maxParticipants": "4"}}}, "options.room.maxParticipants"),
    ({"options": {"room": {"maxParticipants": 0}}}, "options.room.maxParticipants"),
    ({"options": {"room": {"preset": "\0"}}}, "options.room.preset"),
    ({"options": {"agents": [{"metadata": {}}]}}, "options.agents.0.name"),
    ({"options": {"agents": [{"name": "a", "metadata": 1}]}}, "options.agents.0.metadata"),
    ({"options": {"call": {"krisp": "true"}}}, "options.call.krisp"),
    ({"options": {"call": {"allowedCallers": []}}}, "options.call.allowedCallers"),
    ({"options": {"call": {"allowedCallers": ["+1", 7]}}}, "options.call.allowedCallers.1"),
    ({"options": {"participant": {"attributes": {"a": 1}}}}, "options.participant.attributes.a"),
    ({"options": {"participant": {"attributes": {"sip.callID": "a"}}}}, "options.participant.attributes"),
    ({"options": {"transfer": "anywhere"}}, "options.transfer"),
    ({"options": {"monitor": {"everyMinutes": 1}}}, "options.monitor.everyMinutes"),
]


@pytest.mark.parametrize(("body", "field"), WRONG)
def test_what_cannot_be_is_422_and_names_the_field(api: Api, body: dict[str, Any], field: str) -> None:
    agent_id = api.agent()
    before = api.get(f"/api/agents/{agent_id}").json

    response = patch(api, agent_id, body)

    assert (response.status_code, response.json["code"]) == (422, "validation_failed"), response.text
    assert list(response.json["errors"]) == [field]
    assert api.get(f"/api/agents/{agent_id}").json == before


def test_the_limits_hold_for_what_a_change_comes_to(api: Api) -> None:
    agent_id = api.agent(metadata={"a": "x" * 9_000}, options={"participant": {"attributes": {"a": "x" * 20_000}}})

    metadata = patch(api, agent_id, {"metadata": {"b": "x" * 9_000}})
    options = patch(api, agent_id, {"options": {"participant": {"attributes": {"b": "x" * 20_000}}}})

    assert [list(one.json["errors"]) for one in (metadata, options)] == [
        ["metadata"],
        ["options.participant.attributes"],
    ]
    assert patch(api, agent_id, {"metadata": {"a": None, "b": "x" * 9_000}}).status_code == 200


@pytest.mark.parametrize("mime_type", [MERGE_PATCH, "application/json", "Application/Merge-Patch+JSON; charset=UTF-8"])
def test_a_change_is_a_merge_patch_or_json(api: Api, mime_type: str) -> None:
    response = api.call("PATCH", f"/api/agents/{api.agent()}", data=b'{"name": "B"}', content_type=mime_type)

    assert (response.status_code, response.json["name"]) == (200, "B")


@pytest.mark.parametrize(
    "mime_type", ["application/json-patch+json", "text/plain", "application/merge-patch+json; charset=latin-1"]
)
def test_another_type_of_body_is_415(api: Api, mime_type: str) -> None:
    response = api.call("PATCH", f"/api/agents/{api.agent()}", data=b'{"name": "B"}', content_type=mime_type)

    assert (response.status_code, response.json["code"]) == (415, "unsupported_media_type")
    assert MERGE_PATCH in response.json["errors"]["Content-Type"][0]


def test_other_calls_take_no_merge_patch(api: Api) -> None:
    response = api.call("POST", "/api/agents", data=b'{"name": "B"}', content_type=MERGE_PATCH)

    assert response.status_code == 415


@pytest.mark.parametrize("agent_id", [NOBODY, "nonsense"])
def test_an_agent_that_there_is_not_is_404(api: Api, agent_id: str) -> None:
    assert patch(api, agent_id, {"name": "B"}).json["code"] == "agent_not_found"


def test_an_agent_stays_in_its_accounts(api: Api) -> None:
    agent_id = api.agent()
    same = {"carrierAccountId": str(ENVIRONMENT_ACCOUNT), "voiceProjectId": str(ENVIRONMENT_PROJECT)}

    assert patch(api, agent_id, same).json["version"] == 1
    for name in same:
        response = patch(api, agent_id, {**same, name: NOBODY})
        assert (response.status_code, response.json["code"]) == (409, "accounts_differ")


MATCHES = [
    ('"2"', 200),
    ("*", 200),
    ('"1", "2"', 200),
    ('W/"1" , "2"', 200),
    ('"1"', 412),
    ('"1", "3"', 412),
    ('W/"2"', 412),
    ("", 412),
    ('"22"', 412),
]


@pytest.mark.parametrize(("match", "status"), MATCHES)
def test_a_change_is_made_for_the_version_that_if_match_names(api: Api, match: str, status: int) -> None:
    agent_id = api.agent()
    patch(api, agent_id, {"name": "first"}, '"1"')

    response = patch(api, agent_id, {"name": "second"}, match)

    assert response.status_code == status
    if status == 412:
        assert (response.json["code"], response.json["detail"]) == ("version_mismatch", "The agent is at version 2.")
        assert api.get(f"/api/agents/{agent_id}").json["name"] == "first"


def test_without_if_match_the_last_change_wins(api: Api) -> None:
    agent_id = api.agent()

    assert [patch(api, agent_id, {"name": name}).json["version"] for name in ("a", "b")] == [2, 3]


def test_what_changes_nothing_is_no_version_and_nobody_s_doing(api: Api) -> None:
    agent_id = connected(api, metadata={"a": 1}, options={"dispatch": {"pin": "1"}})
    before = api.count("activity")
    same = {"name": "desk", "metadata": {"a": 1, "b": None}, "options": {"dispatch": {"pin": "1", "kind": None}}}

    for body in (same, {}, {"options": {}}, {"trunkMode": "shared"}):
        response = patch(api, agent_id, body, '"1"')
        assert (response.status_code, response.json["version"], response.headers["ETag"]) == (200, 1, '"1"')

    assert (api.count("activity"), api.count("operations")) == (before, 1)


def test_the_path_of_an_agent_is_changed_by_an_operation(api: Api) -> None:
    agent_id = connected(api)
    before = api.get(f"/api/agents/{agent_id}").json

    response = patch(api, agent_id, {"livekitAgentName": "night"})

    assert (response.status_code, "ETag" in response.headers) == (202, False)
    operation_id = response.json["operationId"]
    assert response.json == {
        "success": True,
        "status": "PROVISIONED",
        "phoneNumber": NUMBER,
        "operationId": operation_id,
        "statusUrl": f"/api/agents/{agent_id}/phone-status",
    }
    assert (response.headers["Location"], response.headers["Retry-After"]) == (response.json["statusUrl"], "1")
    assert api.get(f"/api/agents/{agent_id}").json["livekitAgentName"] == before["livekitAgentName"]
    operation = api.status(agent_id).json["operation"]
    assert (operation["id"], operation["kind"], operation["status"]) == (operation_id, "update", "queued")
    assert api.publisher.plans[-1].steps == ("livekit_dispatch_rule", "verification")
    end(api, operation_id)
    shown = api.get(f"/api/agents/{agent_id}")
    assert (shown.json["livekitAgentName"], shown.headers["ETag"]) == ("night", '"2"')


def test_a_client_that_waits_gets_the_agent(api: Api) -> None:
    agent_id = connected(api)
    api.publisher.on_publish = lambda plan: end(api, str(plan.operation_id))

    response = patch(api, agent_id, {"livekitAgentName": "night"}, Prefer="wait=5")

    assert (response.status_code, response.headers["Preference-Applied"]) == (200, "wait=5")
    assert (response.json["livekitAgentName"], response.headers["ETag"]) == ("night", '"2"')


def test_a_client_that_waits_gets_the_failure(api: Api) -> None:
    agent_id = connected(api)
    api.publisher.on_publish = lambda plan: end(api, str(plan.operation_id), OperationStatus.FAILED)

    response = patch(api, agent_id, {"livekitAgentName": "night"}, Prefer="wait=5")

    assert (response.status_code, response.json["code"]) == (502, "livekit_rejected")
    assert api.get(f"/api/agents/{agent_id}").json["version"] == 1


@pytest.mark.parametrize(
    "body", [{"name": "B"}, {"livekitAgentName": "b"}, {"options": {"monitor": {"everyMinutes": 5}}}]
)
def test_while_an_operation_is_open_nothing_else_changes(api: Api, body: dict[str, Any]) -> None:
    agent_id = connected(api)
    operation_id = patch(api, agent_id, {"livekitAgentName": "night"}).json["operationId"]

    response = patch(api, agent_id, body)

    assert (response.status_code, response.json["code"]) == (409, "operation_in_progress")
    assert operation_id in response.json["detail"]
    assert patch(api, agent_id, {"name": "desk"}).status_code == 200
    assert patch(api, agent_id, body, '"2"').json["code"] == "version_mismatch"
    end(api, operation_id)
    assert patch(api, agent_id, {"name": "B"}).json["version"] == 3


def test_an_agent_that_waits_for_a_moved_number_is_busy_too(api: Api) -> None:
    agent_id, target = connected(api), api.agent("target")
    assert api.post(f"/api/agents/{agent_id}/move-phone", {"toAgentId": target}).status_code == 202

    assert patch(api, target, {"name": "B"}).json["code"] == "operation_in_progress"


def test_the_trunk_mode_changes_without_a_number_only(api: Api) -> None:
    agent_id = api.agent()
    assert patch(api, agent_id, {"trunkMode": "dedicated"}).json["trunkMode"] == "dedicated"
    api.succeed(api.provision(agent_id).json["operationId"])

    response = patch(api, agent_id, {"trunkMode": "shared"})

    assert (response.status_code, response.json["code"]) == (409, "agent_has_phone")
    assert patch(api, agent_id, {"trunkMode": "dedicated", "name": "B"}).status_code == 200


def at_once(*changes: Any) -> list[TestResponse]:
    barrier = Barrier(len(changes))

    def run(change: Any) -> TestResponse:
        barrier.wait()
        return change()  # type: ignore[no-any-return]  # of the caller's

    with ThreadPoolExecutor(len(changes)) as threads:
        return list(threads.map(run, changes))


@pytest.mark.parametrize("match", ['"1"', None])
@pytest.mark.parametrize("tries", range(3))
def test_of_two_changes_of_a_path_at_once_exactly_one_wins(api: Api, match: str | None, tries: int) -> None:
    agent_id = connected(api)

    found = at_once(
        lambda: patch(api, agent_id, {"livekitAgentName": "a"}, match),
        lambda: patch(api, agent_id, {"metadata": {"b": 1}}, match),
    )

    assert sorted(one.status_code for one in found) == [202, 409]
    assert next(one.json["code"] for one in found if one.status_code == 409) == "operation_in_progress"
    with api.wiring.sessions() as session:
        assert len(session.scalars(select(Operation).where(Operation.kind == OperationKind.UPDATE)).all()) == 1


@pytest.mark.parametrize("tries", range(3))
def test_of_two_changes_for_one_version_exactly_one_wins(api: Api, tries: int) -> None:
    agent_id = api.agent()

    found = at_once(
        lambda: patch(api, agent_id, {"name": "a"}, '"1"'), lambda: patch(api, agent_id, {"metadata": {"b": 1}}, '"1"')
    )

    assert sorted(one.status_code for one in found) == [200, 412]


def test_changes_at_once_without_a_version_are_both_made(api: Api) -> None:
    agent_id = api.agent()

    found = at_once(
        *(lambda name=name: patch(api, agent_id, {"metadata": {name: 1}}) for name in "abcdef"),
    )

    assert sorted(one.json["version"] for one in found) == [2, 3, 4, 5, 6, 7]
    assert api.get(f"/api/agents/{agent_id}").json["metadata"] == dict.fromkeys("abcdef", 1)


def test_the_same_change_with_a_key_is_made_once_and_answered_twice(api: Api) -> None:
    agent_id = api.agent()
    key = {"Idempotency-Key": "k"}

    first, again = (patch(api, agent_id, {"name": "B"}, '"1"', **key) for _ in range(2))
    other = patch(api, agent_id, {"name": "B"}, '"2"', **key)

    assert (first.json, first.headers["ETag"]) == (again.json, again.headers["ETag"])
    assert again.headers["Idempotency-Replayed"] == "true"
    assert (other.status_code, other.json["code"]) == (422, "idempotency_key_reused")


def test_a_change_of_the_row_says_in_the_trail_what_was_changed(api: Api) -> None:
    agent_id = api.agent()

    patch(api, agent_id, {"name": "B", "metadata": {"secret": "x"}, "options": {"dispatch": {"pin": "0815"}}})

    with api.wiring.sessions() as session:
        row = session.scalars(select(Activity).order_by(Activity.id.desc()).limit(1)).one()
    assert (row.action, row.detail) == (Action.AGENT_CHANGE, {"fields": ["metadata", "name", "pin"]})


def test_a_key_that_only_reads_changes_nothing(api: Api) -> None:
    agent_id = api.agent()
    api.key = api.new_key(Scope.READ)

    assert patch(api, agent_id, {"name": "B"}).status_code == 403


def test_of_a_deleted_agent_no_options_are_kept(api: Api) -> None:
    agent_id = connected(api, options={"participant": {"metadata": "Ada"}})
    operation_id = patch(api, agent_id, {"metadata": {"home": "here"}}).json["operationId"]
    end(api, operation_id)
    api.fail(api.deprovision(agent_id).json["operationId"], "livekit_rejected", "No.")

    assert api.delete(f"/api/agents/{agent_id}").status_code == 204

    with api.wiring.sessions() as session:
        assert session.get_one(Agent, uuid.UUID(agent_id)).options == {}
        operation = session.get_one(Operation, uuid.UUID(operation_id))
        assert (operation.wanted, operation.former_options) == (None, None)


def test_agents_of_a_bulk_take_options_and_a_wrong_one_fails_its_item(api: Api) -> None:
    pin = {"dispatch": {"pin": "4711"}}
    items = [
        {"phoneNumber": NUMBER, "agent": {"name": "good", "options": pin}},
        {"phoneNumber": OTHER_NUMBER, "agent": {"name": "bad", "options": {"dispatch": {"pin": "x"}}}},
        {"phoneNumber": "+15145551236", "agent": {"name": "bad", "options": {"\0": 1}}},
        {"phoneNumber": "+15145551237", "agent": {"name": "bad", "options": []}},
    ]

    bulk = api.post("/api/provisionings", {"items": items}).json

    assert (bulk["counts"]["pending"], bulk["counts"]["failed"]) == (1, 3)
    rows = api.get(f"{bulk['statusUrl']}/items").json["items"]
    assert [one["error"] and one["error"]["detail"] for one in rows] == [
        None,
        "agent.options.dispatch.pin: must be 1 to 16 digits.",
        "agent.options.?: Unknown field.",
        "agent.options: must be an object.",
    ]
    assert [one["options"] for one in api.get("/api/agents").json["items"]] == [pin]
