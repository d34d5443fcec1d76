"""Which Twilio trunks there are, what an agent asks for, and how many more numbers fit."""

import uuid
from typing import Any

import pytest
from sqlalchemy import update

from app.access import Scope
from app.db.models import Agent, Trunk
from app.domain.errors import ErrorCode
from app.domain.findings import Finding, FindingCode, Health, finding_json
from app.domain.operations import PhoneStatus, TrunkMode, TrunkState
from app.path.marks import pool_tag, tag_of
from app.providers.errors import TransientError
from app.wiring import profile_of
from tests.support.api import NOBODY, Api
from tests.support.console import signed_in
from tests.support.trunks import add_member, add_shared_trunk


def shared(api: Api, members: int = 0, **values: Any) -> uuid.UUID:
    return add_shared_trunk(api.wiring.sessions, profile_of(api.wiring.settings), members, **values)


def listed(api: Api, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.get(f"/api/trunks{query}").json["items"]
    return found


@pytest.mark.parametrize(
    ("given", "mode"), [({}, "shared"), ({"trunkMode": "shared"}, "shared"), ({"trunkMode": "dedicated"}, "dedicated")]
)
def test_an_agent_says_what_trunk_its_number_gets(api: Api, given: dict[str, str], mode: str) -> None:
    made = api.post("/api/agents", {"name": "desk", **given}).json

    assert made["trunkMode"] == mode
    assert api.get(f"/api/agents/{made['id']}").json["trunkMode"] == mode


@pytest.mark.parametrize("given", ["SHARED", "", None, 1, [], {}])
def test_another_trunk_mode_is_refused(api: Api, given: object) -> None:
    response = api.post("/api/agents", {"name": "desk", "trunkMode": given})

    assert (response.status_code, set(response.json["errors"])) == (422, {"trunkMode"})
    assert api.count("agents") == 0


def test_a_bulk_creates_agents_with_the_trunk_mode_that_they_ask_for(api: Api) -> None:
    items = [
        {"phoneNumber": "+15145550001", "agent": {"name": "one", "trunkMode": "dedicated"}},
        {"phoneNumber": "+15145550002", "agent": {"name": "two"}},
        {"phoneNumber": "+15145550003", "agent": {"name": "three", "trunkMode": "own"}},
        {"phoneNumber": "+15145550004", "agent": {"name": "four", "trunkMode": ["shared"]}},
    ]
    bulk = api.post("/api/provisionings", {"items": items}).json
    csv = "phoneNumber,agent,trunkMode\n+15145550005,five,dedicated\n+15145550006,six,\n"
    api.call("POST", "/api/provisionings", data=csv, content_type="text/csv")

    failed = api.get(f"{bulk['statusUrl']}/items?status=failed").json["items"]
    assert [(one["position"], one["error"]["detail"]) for one in failed] == [
        (3, "agent.trunkMode: must be shared or dedicated."),
        (4, "agent.trunkMode: must be shared or dedicated."),
    ]
    with api.wiring.sessions() as session:
        modes = dict(session.query(Agent.name, Agent.trunk_mode).all())
    assert {name for name, mode in modes.items() if mode is TrunkMode.DEDICATED} == {"one", "five"}
    assert set(modes) == {"one", "two", "five", "six"}


def test_phone_status_tells_of_the_trunk_and_its_tag_changes_with_those_who_share_it(api: Api) -> None:
    trunk_id = shared(api, 2)
    sid = f"TK{trunk_id.hex}"
    agent_id = add_member(api.wiring.sessions, trunk_id, "desk", sid)
    before = api.status(str(agent_id))
    unchanged = api.status(str(agent_id), headers={"If-None-Match": before.headers["ETag"]})
    other = add_member(api.wiring.sessions, trunk_id, "other", sid)
    after = api.status(str(agent_id), headers={"If-None-Match": before.headers["ETag"]})
    with api.wiring.sessions.begin() as session:
        session.execute(update(Agent).where(Agent.id == other).values(trunk_id=None, twilio_trunk_sid=None))
    again = api.status(str(agent_id), headers={"If-None-Match": before.headers["ETag"]})

    assert before.json["trunk"] == {"mode": "shared", "members": 3, "capacity": 500}
    assert unchanged.status_code == 304
    assert (after.status_code, after.json["trunk"]["members"]) == (200, 4)
    assert again.status_code == 304
    assert after.headers["ETag"] != before.headers["ETag"]


def test_a_trunk_of_its_own_has_room_for_one(api: Api) -> None:
    agent_id = add_member(api.wiring.sessions, None, "desk", "TK" + "7" * 32)

    assert api.status(str(agent_id)).json["trunk"] == {"mode": "dedicated", "members": 1, "capacity": 1}


def test_a_place_on_a_trunk_that_is_not_made_yet_is_no_trunk(api: Api) -> None:
    trunk_id = shared(api, state=TrunkState.CREATING, twilio_trunk_sid=None, twilio_origination_url_sid=None)
    agent_id = add_member(api.wiring.sessions, trunk_id, "desk", None)

    assert api.status(str(agent_id)).json["trunk"] is None


def test_the_list_has_shared_trunks_and_those_of_single_agents(own_api: Api) -> None:
    own_api.carrier.trunks = 2
    trunk_id = shared(own_api, 3)
    agent_id = add_member(own_api.wiring.sessions, None, "own", "TK" + "7" * 32)
    instance = own_api.wiring.settings.instance_name
    answer = own_api.get("/api/trunks").json
    own, pooled = answer["items"]

    profile = {
        "sipUris": [{"uri": "sip:abc.sip.livekit.cloud;transport=udp", "priority": 10, "weight": 10}],
        "secure": False,
        "transferMode": None,
    }
    health = {"state": "UNKNOWN", "checkedAt": None, "findings": []}
    times = {"createdAt": pooled["createdAt"], "emptiedAt": None}
    assert pooled == times | {
        "id": str(trunk_id),
        "mode": "shared",
        "state": "ACTIVE",
        "twilioTrunkSid": f"TK{trunk_id.hex}",
        "tag": pool_tag(instance, trunk_id),
        "profile": {**profile, "sipUris": pooled["profile"]["sipUris"]},
        "shard": 1,
        "members": 3,
        "capacity": 500,
        "agentId": None,
        "health": health,
    }
    assert pooled["profile"]["sipUris"][0]["uri"].startswith("sip:abc.sip.livekit.cloud")
    assert (own["id"], own["mode"], own["state"], own["agentId"]) == (None, "dedicated", "ACTIVE", str(agent_id))
    assert (own["members"], own["capacity"], own["shard"], own["tag"]) == (1, 1, None, tag_of(instance, agent_id))
    assert own["profile"] == pooled["profile"]
    assert answer["headroom"] == {
        "trunkLimit": 100,
        "trunksInUse": 3,
        "trunksPromised": 0,
        "placesFree": 497,
        "trunkMaxNumbers": 500,
        "numbersFit": 497 + 97 * 500,
        "summary": "48,997 more numbers fit: 497 places are free on shared trunks, which take 500 each, and of the 100 "
        "trunks that the Twilio account may have 3 are in use.",
    }


def test_a_trunk_that_is_gone_is_shown_only_to_those_who_ask(api: Api) -> None:
    standing = str(shared(api))
    gone = str(shared(api, shard=2, state=TrunkState.GONE))
    add_member(api.wiring.sessions, None, "own", "TK" + "7" * 32)

    assert [one["id"] for one in listed(api)] == [None, standing]
    assert [one["id"] for one in listed(api, "?state=GONE")] == [gone]
    assert [one["id"] for one in listed(api, "?mode=shared")] == [standing]
    assert [one["mode"] for one in listed(api, "?mode=dedicated&state=ACTIVE")] == ["dedicated"]
    assert listed(api, "?mode=dedicated&state=RETIRING") == []
    for wrong in ("?mode=own", "?state=active", "?limit=0", "?other=1"):
        assert api.get(f"/api/trunks{wrong}").status_code == 422


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (PhoneStatus.PENDING, "CREATING"),
        (PhoneStatus.PROVISIONING, "CREATING"),
        (PhoneStatus.ROLLING_BACK, "RETIRING"),
        (PhoneStatus.DEPROVISIONING, "RETIRING"),
    ],
)
def test_an_agents_own_trunk_is_in_the_state_of_its_number(api: Api, status: PhoneStatus, state: str) -> None:
    agent_id = add_member(api.wiring.sessions, None, "own", "TK" + "7" * 32)
    with api.wiring.sessions.begin() as session:
        session.execute(update(Agent).where(Agent.id == agent_id).values(phone_provisioning_status=status))

    assert [one["state"] for one in listed(api)] == [state]


def test_the_list_comes_in_pages(api: Api) -> None:
    made = [str(shared(api, shard=shard)) for shard in range(1, 4)]
    own = add_member(api.wiring.sessions, None, "own", "TK" + "7" * 32)
    seen, query = [], "?limit=1"
    while query:
        answer = api.get(f"/api/trunks{query}").json
        seen += [one["id"] or one["agentId"] for one in answer["items"]]
        query = f"?limit=1&cursor={answer['nextCursor']}" if answer["nextCursor"] else ""

    assert seen == [str(own), *reversed(made)]


def test_without_an_answer_from_twilio_the_list_is_there_and_the_room_is_unknown(own_api: Api) -> None:
    own_api.carrier.error = TransientError(ErrorCode.PROVIDER_UNAVAILABLE, "Twilio is down.")
    shared(own_api)
    answer = own_api.get("/api/trunks")

    assert (answer.status_code, len(answer.json["items"]), answer.json["headroom"]) == (200, 1, None)


def test_the_console_shows_trunks_with_their_room_and_who_is_on_them(own_api: Api) -> None:
    browser = signed_in(own_api, Scope.READ)
    assert "No trunks yet" in browser.get("/trunks").text
    trunk_id = shared(own_api, 3)
    agent_id = add_member(own_api.wiring.sessions, trunk_id, "night desk", f"TK{trunk_id.hex}")
    add_member(own_api.wiring.sessions, None, "own desk", "TK" + "7" * 32)

    page = browser.get("/trunks").text
    assert "4 of 500" in page
    assert f'href="/trunks/{trunk_id}"' in page
    assert "own desk" in page
    assert "49,996 more numbers fit" in page
    one = browser.get(f"/trunks/{trunk_id}").text
    assert "4 of 500 numbers" in one
    assert "night desk" in one
    assert "sip:abc.sip.livekit.cloud" in one
    assert f'href="/trunks/{trunk_id}">shared with 3 other numbers' in browser.get(f"/agents/{agent_id}").text
    assert "No such trunks" in browser.get("/trunks?state=RETIRING").text
    assert browser.get("/trunks?state=other").status_code == 422
    for wrong in (NOBODY, "nonsense"):
        assert browser.get(f"/trunks/{wrong}").status_code == 404


def test_the_page_of_a_trunk_says_what_was_found_there(api: Api) -> None:
    trunk_id = shared(api)
    code = next(code for code in FindingCode if code is not FindingCode.UNREADABLE)
    found = {"health_state": Health.DRIFTED, "health_findings": [finding_json(Finding(code))]}
    with api.wiring.sessions.begin() as session:
        session.execute(update(Trunk).where(Trunk.id == trunk_id).values(**found))

    assert Finding(code).kind.sentence in signed_in(api, Scope.READ).get(f"/trunks/{trunk_id}").text
    assert [one["code"] for one in listed(api)[0]["health"]["findings"]] == [code.value]
