"""POST /api/trunks/consolidate and `trunkline trunks consolidate`: who moves, who stays and why, and the bulk."""

import uuid

import pytest
from click.testing import Result
from sqlalchemy import update

from app.access import Scope
from app.db.models import Agent, Operation
from app.domain.operations import BulkKind, OperationKind, PhoneStatus, TrunkMode
from tests.support.api import Api
from tests.support.console import signed_in

URL = "/api/trunks/consolidate"


def on_own_trunk(api: Api, n: int, mode: TrunkMode = TrunkMode.SHARED) -> str:
    """An agent as the first edition left it."""
    agent_id = api.agent(f"desk {n}")
    with api.wiring.sessions.begin() as session:
        session.execute(
            update(Agent)
            .where(Agent.id == uuid.UUID(agent_id))
            .values(
                phone_provisioning_status=PhoneStatus.PROVISIONED,
                twilio_phone_number=f"+1514555{n:04}",
                twilio_phone_number_sid=f"PN{n:032}",
                twilio_trunk_sid=f"TK{n:032}",
                twilio_origination_url_sid=f"OU{n:032}",
                trunk_mode=mode,
            )
        )
    return agent_id


def test_a_dry_run_says_who_moves_and_writes_nothing(api: Api) -> None:
    for n in range(3):
        on_own_trunk(api, n)
    on_own_trunk(api, 3, TrunkMode.DEDICATED)
    api.agent("without a number")
    response = api.post(f"{URL}?dryRun=true")
    assert (response.status_code, api.count("bulks")) == (200, 0)
    assert response.json == {
        "success": True,
        "agents": 3,
        "poolTrunks": 0,
        "freePlaces": 0,
        "trunksNeeded": 1,
        "trunksFreed": 2,
        "trunkLimit": 100,
        "leftOut": [
            {
                "reason": "dedicated",
                "count": 1,
                "detail": "Their trunkMode is dedicated: they keep a trunk of their own.",
            }
        ],
        "message": "3 numbers move to shared trunks: 1 more of those are needed, and the account has 2 trunks fewer in "
        "the end.",
    }


def test_a_consolidation_is_a_bulk_of_rehomes(api: Api) -> None:
    agents = [on_own_trunk(api, n) for n in range(3)]
    on_own_trunk(api, 3, TrunkMode.DEDICATED)
    response = api.post(URL)
    assert response.status_code == 202, response.text
    url = f"/api/provisionings/{response.json['bulkId']}"
    assert (response.json["statusUrl"], response.headers["Location"], response.json["total"]) == (url, url, 3)
    assert api.get(url).json["kind"] == BulkKind.REHOME
    assert [item["agentId"] for item in api.get(f"{url}/items").json["items"]] == agents
    assert api.wiring.sweeper.dispatcher.advance() == 3
    with api.wiring.sessions() as session:
        kinds = [one.kind for one in session.query(Operation)]
    assert kinds == [OperationKind.REHOME] * 3
    assert [api.status(agent).json["phoneProvisioningStatus"] for agent in agents] == ["PROVISIONED"] * 3


def test_who_waits_in_a_consolidation_is_in_no_other(api: Api) -> None:
    on_own_trunk(api, 1)
    busy = on_own_trunk(api, 2)
    assert api.deprovision(busy).status_code == 202
    on_own_trunk(api, 3)
    with api.wiring.sessions.begin() as session:
        session.execute(update(Agent).values(phone_provisioning_status=PhoneStatus.PROVISIONED))
    assert api.post(URL).json["total"] == 2
    response = api.post(URL)
    assert (response.status_code, response.json["agents"]) == (200, 0)
    assert {one["reason"]: one["count"] for one in response.json["leftOut"]} == {"busy": 1, "waiting": 2}
    assert response.json["message"] == "Nothing to do: no agent that can move now has a trunk of its own."
    assert api.count("bulks") == 1


def test_nothing_to_do_opens_nothing(api: Api) -> None:
    response = api.post(URL)
    assert (response.status_code, response.json["agents"], response.json["leftOut"]) == (200, 0, [])
    assert api.count("bulks") == 0


def test_a_key_that_reads_only_may_not_consolidate(api: Api) -> None:
    key = api.new_key(Scope.READ)
    assert api.post(URL, headers={"Authorization": f"Bearer {key}"}).status_code == 403


def test_the_same_key_consolidates_once(api: Api) -> None:
    on_own_trunk(api, 1)
    first, second = (api.post(URL, headers={"Idempotency-Key": "once"}) for _ in range(2))
    assert first.json == second.json
    assert api.count("bulks") == 1


def run(api: Api, *arguments: str) -> Result:
    return api.app.test_cli_runner().invoke(args=["trunks", "consolidate", *arguments])


@pytest.mark.parametrize("is_json", [True, False])
def test_the_command_says_what_it_would_do(api: Api, is_json: bool) -> None:
    on_own_trunk(api, 1)
    result = run(api, "--dry-run", *(["--json"] if is_json else []))
    assert result.exit_code == 0, result.output
    assert ('"agents": 1' if is_json else "1 numbers move to shared trunks") in result.output
    assert api.count("bulks") == 0


def test_the_command_opens_the_bulk(api: Api) -> None:
    on_own_trunk(api, 1)
    result = run(api, "--no-wait")
    assert result.exit_code == 0, result.output
    assert "Bulk of rehomes" in result.output
    assert api.count("bulks") == 1
    assert "Nothing to do" in run(api).output


def test_the_console_says_what_would_move_and_opens_the_bulk_once_confirmed(api: Api) -> None:
    browser = signed_in(api, Scope.WRITE)
    assert "Move to shared trunks" not in browser.get("/trunks").text
    for n in range(2):
        on_own_trunk(api, n)
    on_own_trunk(api, 2, TrunkMode.DEDICATED)
    assert "2 numbers have trunks of their own" in browser.get("/trunks").text

    asked = browser.get("/trunks/consolidate")
    assert "Move 2 numbers to shared trunks?" in asked.text
    assert "1 stay. Their trunkMode is dedicated" in asked.text
    assert api.count("bulks") == 0

    moved = browser.post("/trunks/consolidate")
    assert (moved.status_code, api.count("bulks")) == (303, 1)
    assert "/bulks/" in moved.headers["Location"]
    again = browser.post("/trunks/consolidate")
    assert (again.headers["Location"].endswith("/trunks"), api.count("bulks")) == (True, 1)
