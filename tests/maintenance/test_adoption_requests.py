"""Adoptions by the API and the console, one and many, over paths that stand at the sandbox."""

from dataclasses import dataclass, replace
from typing import Any

import pytest

from app import create_app
from app.access import KeyService, Scope
from app.db.access import ApiKey, ConsoleSession, IdempotencyKey
from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK, ORIGINATION_URL, TRUNK, PathChoice
from app.saga.chain_plan import Plan
from app.wiring import Wiring
from tests.support.api import Api
from tests.support.changed_path import OwnSandbox, new_agent
from tests.support.console import BrowserClient, signed_in
from tests.support.handmade import OTHER_NUMBER, HandMade, changes, plain
from tests.support.saga import FINISHED
from tests.support.toolboxes import with_parts

THIRD_NUMBER = "+15145550003"


@dataclass
class QuickWorker:
    """Publishes to a worker that runs the chain at once."""

    wiring: Wiring

    def publish(self, plan: Plan) -> bool:
        """Run the chain."""
        for name in plan.steps:
            found = self.wiring.runner.run_step(plan.operation_id, plan.epoch, name, plan.direction)
            if found.verdict not in FINISHED:
                break
        return True


@pytest.fixture
def made(changing: tuple[OwnSandbox, Wiring]) -> HandMade:
    path = new_agent(*changing)
    path.sandbox.number(OTHER_NUMBER)
    return HandMade(path)


@pytest.fixture
def api(made: HandMade) -> Api:
    wiring = made.path.wiring
    worker = QuickWorker(wiring)
    parts = {name: replace(getattr(wiring, name), publisher=worker) for name in ("adoption", "provisioning")}
    wiring = with_parts(wiring, **parts)
    with wiring.sessions.begin() as session:
        for table in (IdempotencyKey, ConsoleSession, ApiKey):
            session.query(table).delete()
    key = KeyService(wiring.sessions).create("tests", [Scope.READ, Scope.WRITE])[1]
    return Api(create_app(wiring), wiring, worker, wiring.carrier, wiring.platform, key)  # type: ignore[arg-type]


@pytest.fixture
def browser(api: Api) -> BrowserClient:
    return signed_in(api, Scope.WRITE)


def url_of(made: HandMade) -> str:
    return f"/api/agents/{made.path.agent_id}/adopt-phone"


def body_of(made: HandMade) -> dict[str, str]:
    return {"phoneNumber": made.number}


# By the API.


def test_a_dry_run_shows_the_chain_and_the_agent_as_it_would_be_and_writes_nothing(made: HandMade, api: Api) -> None:
    made.trunk()
    made.put(OTHER_NUMBER)
    made.url()
    made.inbound()
    made.rule(("night", '{"tone": "strict"}'))
    before = made.objects()
    response = api.post(f"{url_of(made)}?dryRun=true", body_of(made))
    assert response.status_code == 200, response.json
    plan = response.json
    assert (plan["success"], plan["dryRun"], plan["phoneNumber"]) == (True, True, made.number)
    path = {one["step"]: one for one in plan["path"]}
    assert list(path) == ["twilio_number", TRUNK, ORIGINATION_URL, INBOUND_TRUNK, DISPATCH_RULE]
    assert {step: path[step]["id"] for step in made.ids} == made.ids
    assert {step: one["marked"] for step, one in path.items() if step != "twilio_number"} == {
        TRUNK: False,
        ORIGINATION_URL: False,
        INBOUND_TRUNK: True,
        DISPATCH_RULE: True,
    }
    assert path[TRUNK]["sharedWith"] == f"1 other number on Twilio trunk {made.ids[TRUNK]}"
    assert (path[TRUNK]["name"], path[DISPATCH_RULE]["sharedWith"]) == ("Front desk line", None)
    assert plan["agent"] == {
        "name": "front desk",
        "livekitAgentName": "night",
        "metadata": {"tone": "strict"},
        "options": {"dispatch": {"roomPrefix": "desk"}},
        "changes": ["livekitAgentName", "metadata", "options"],
    }
    assert (made.objects(), api.count("operations")) == (before, 0)


def test_what_is_not_one_chain_is_a_problem_that_names_the_link(made: HandMade, api: Api) -> None:
    made.trunk()
    made.url()
    made.inbound()
    for query in ("?dryRun=true", ""):
        response = api.post(url_of(made) + query, body_of(made))
        assert (response.status_code, response.json["code"]) == (409, "not_adoptable")
        assert response.json["link"] == {"step": DISPATCH_RULE, "problem": "missing", "ids": []}
        assert made.ids[INBOUND_TRUNK] in response.json["detail"]


def test_a_client_that_waits_gets_the_adopted_path_and_phone_status_says_what_is_shared(
    made: HandMade, api: Api
) -> None:
    plain(made)
    made.put(OTHER_NUMBER)
    calls = made.calls()
    headers = {"Prefer": "wait=20", "Idempotency-Key": "one"}
    response = api.post(url_of(made), body_of(made), headers=headers)
    assert (response.status_code, response.headers["Preference-Applied"]) == (200, "wait=20"), response.json
    assert response.json["twilioTrunkSid"] == made.ids[TRUNK]
    assert api.post(url_of(made), body_of(made), headers=headers).json == response.json
    status = api.status(str(made.path.agent_id)).json
    assert {one["step"]: (one["formerName"], one["shared"]) for one in status["adopted"]} == {
        TRUNK: ("Front desk line", True),
        ORIGINATION_URL: ("to LiveKit", True),
        INBOUND_TRUNK: ("Front desk", False),
        DISPATCH_RULE: ("Callers", False),
    }
    assert (status["operation"]["kind"], status["health"]["state"], status["warnings"]) == ("adopt", "IN_SYNC", [])
    assert made.calls() == calls


def test_a_path_of_ours_says_that_it_was_not_adopted(made: HandMade, api: Api) -> None:
    assert api.provision(str(made.path.agent_id), made.number, headers={"Prefer": "wait=20"}).status_code == 200
    assert api.status(str(made.path.agent_id)).json["adopted"] is None
    kept = api.delete(f"/api/agents/{made.path.agent_id}/deprovision-phone?path=keep")
    assert (kept.status_code, kept.json["code"]) == (422, "validation_failed")
    removed = api.delete(f"/api/agents/{made.path.agent_id}/deprovision-phone?path=remove")
    assert removed.status_code == 200


@pytest.mark.parametrize("query", ["?path=leave", "?path=", "?paht=keep", "?path=keep&path=remove"])
def test_what_becomes_of_a_path_is_said_in_known_words(made: HandMade, api: Api, query: str) -> None:
    plain(made)
    api.post(url_of(made), body_of(made))
    response = api.delete(f"/api/agents/{made.path.agent_id}/deprovision-phone{query}")
    assert (response.status_code, made.path.agent.twilio_phone_number) == (422, made.number)


@pytest.mark.parametrize("choice", PathChoice)
def test_an_adopted_path_is_kept_or_removed_as_it_is_asked(made: HandMade, api: Api, choice: PathChoice) -> None:
    plain(made)
    before, calls = made.objects(), made.calls()
    api.post(url_of(made), body_of(made))
    url = f"/api/agents/{made.path.agent_id}/deprovision-phone"
    refused = api.delete(url, headers={"Idempotency-Key": "two"})
    assert (refused.status_code, refused.json["code"]) == (409, "keep_or_remove")
    # Another question: the key belongs to the one without an answer.
    again = api.delete(f"{url}?path={choice}", headers={"Idempotency-Key": "two", "Prefer": "wait=20"})
    assert (again.status_code, again.json["code"]) == (422, "idempotency_key_reused")
    done = api.delete(f"{url}?path={choice}", headers={"Idempotency-Key": "three", "Prefer": "wait=20"})
    assert done.status_code == 200, done.json
    assert (changes(before, made.objects()) == {}) is (choice is PathChoice.KEEP)
    assert (made.calls() == calls) is (choice is PathChoice.KEEP)


# Many.


def start(api: Api, made: HandMade, *items: dict[str, Any]) -> list[dict[str, Any]]:
    """Request a bulk of adoptions, run it as sweeper and worker do, and return its items."""
    accepted = api.post("/api/provisionings?kind=adopt", {"items": list(items)})
    assert accepted.status_code == 202, accepted.json
    api.wiring.dispatcher.advance()
    publisher = made.path.publisher
    assert [str(one) for one in publisher.adoptions[-1:]] == [accepted.json["bulkId"]]
    dispatcher = replace(api.wiring.dispatcher, adoption=api.wiring.adoption)
    assert dispatcher.start_adoptions(publisher.adoptions[-1]) == len(items)
    api.wiring.dispatcher.advance()
    assert api.get(f"/api/provisionings/{accepted.json['bulkId']}").json["kind"] == "adopt"
    found: list[dict[str, Any]] = api.get(f"/api/provisionings/{accepted.json['bulkId']}/items").json["items"]
    return found


def test_a_bulk_adopts_what_can_be_and_names_the_agents_after_the_rules(made: HandMade, api: Api) -> None:
    plain(made)
    calls = made.calls()
    made.path.sandbox.number(THIRD_NUMBER)
    first, second, third = start(
        api,
        made,
        {"phoneNumber": made.number},
        {"phoneNumber": OTHER_NUMBER, "agent": {"name": "second"}},
        {"phoneNumber": THIRD_NUMBER, "agentId": str(made.path.agent_id)},
    )
    assert (first["status"], second["status"], third["status"]) == ("succeeded", "failed", "failed")
    assert {one["error"]["code"] for one in (second, third)} == {"not_adoptable"}
    agent = api.get(f"/api/agents/{first['agentId']}").json
    assert (agent["name"], agent["livekitAgentName"], agent["metadata"]) == ("Callers", "front-desk", {"tone": "kind"})
    assert (api.status(first["agentId"]).json["phoneNumber"], made.calls()) == (made.number, calls)


def test_an_adoption_in_bulk_takes_nothing_over_and_a_kind_is_known(made: HandMade, api: Api) -> None:
    item = {"phoneNumber": made.number, "takeover": True, "agent": {"name": "x"}}
    for query, code in (("?kind=adopt", 202), ("?kind=move", 422), ("?knid=adopt", 422)):
        response = api.post(f"/api/provisionings{query}", {"items": [item]})
        assert response.status_code == code, response.json
        if code == 202:
            assert response.json["counts"]["failed"] == 1


def test_items_in_csv_are_adopted_too(made: HandMade, api: Api) -> None:
    text = f"phoneNumber\n{made.number}\n"
    response = api.post("/api/provisionings?kind=adopt", data=text, headers={"Content-Type": "text/csv"})
    assert (response.status_code, response.json["counts"]["pending"]) == (202, 1), response.json


# In the console.


def test_the_page_draws_the_chain_and_one_press_adopts_it(made: HandMade, api: Api, browser: BrowserClient) -> None:
    plain(made)
    made.put(OTHER_NUMBER)
    before, page = made.objects(), f"/agents/{made.path.agent_id}/provision"
    assert "Adopt its path" in browser.get(page).text
    shown = browser.post(f"/agents/{made.path.agent_id}/adopt-plan", page, typed=made.number)
    assert shown.status_code == 200, shown.text
    for word in (*made.ids.values(), "Front desk line", "1 other number on Twilio trunk", "Room prefix", "desk"):
        assert word in shown.text, word
    assert made.objects() == before
    done = browser.post(f"/agents/{made.path.agent_id}/adopt", page, typed=made.number)
    assert done.headers["Location"] == f"/agents/{made.path.agent_id}"
    text = browser.get(done.headers["Location"]).text
    assert "adopted; other numbers use it too" in text


def test_the_page_says_why_a_path_cannot_be_adopted(made: HandMade, api: Api, browser: BrowserClient) -> None:
    page = f"/agents/{made.path.agent_id}/provision"
    shown = browser.post(f"/agents/{made.path.agent_id}/adopt-plan", page, typed=made.number)
    assert shown.status_code == 409
    assert "The number is on no trunk" in shown.text
    assert f'value="{made.number}"' in shown.text


@pytest.mark.parametrize("choice", PathChoice)
def test_the_console_asks_what_becomes_of_an_adopted_path(
    made: HandMade, api: Api, browser: BrowserClient, choice: PathChoice
) -> None:
    plain(made)
    made.put(OTHER_NUMBER)
    calls, page = made.calls(), f"/agents/{made.path.agent_id}/deprovision"
    api.post(url_of(made), body_of(made))
    shown = browser.get(page).text
    assert ("Keep the path" in shown, "Remove the path" in shown, "Disconnect the number" in shown) == (
        True,
        True,
        False,
    )
    assert "Twilio trunk, Origination URL stay, since other numbers use them too" in shown
    unanswered = browser.post(page, page)
    assert unanswered.status_code == 409
    assert "keep_or_remove" in unanswered.text
    assert browser.post(page, page, path=str(choice)).status_code == 303
    assert (made.path.agent.twilio_phone_number, made.path.agent.adopted) == (None, None)
    assert (made.calls() == calls) is (choice is PathChoice.KEEP)
