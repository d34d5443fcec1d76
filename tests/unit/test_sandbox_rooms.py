"""What the sandbox's RoomService and AgentDispatchService show of a call, read with LiveKit's own client."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import jwt
import pytest
from livekit import api
from test_sandbox_call import N, Path
from test_sandbox_process import RunningSandbox, emptied_sandbox

from app.dev import sandbox as defaults
from tests.support.sip_phone import Phone, Reply

CALLER = "+15005550006"
ROOM = "support"

NewPhone = Callable[..., Phone]


@pytest.fixture
def sandbox() -> RunningSandbox:
    return emptied_sandbox()


@pytest.fixture
def path(sandbox: RunningSandbox) -> Path:
    return Path(sandbox)


@pytest.fixture
def new_phone(sandbox: RunningSandbox) -> Iterator[NewPhone]:
    address = sandbox.control("GET", "sip")["address"]
    with ExitStack() as made:
        yield lambda caller=CALLER: made.enter_context(Phone("tcp", address, caller))


def ask(sandbox: RunningSandbox, call: Callable[[Any], Any]) -> Any:
    """Ask LiveKit's API something with a client of its own."""

    async def work() -> Any:
        secrets = {"api_key": defaults.LIVEKIT_API_KEY, "api_secret": defaults.LIVEKIT_API_SECRET}
        async with api.LiveKitAPI(sandbox.url, **secrets, failover=False) as client:
            return await asyncio.wait_for(call(client), 10)

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(work())).result()


def rooms(sandbox: RunningSandbox, *names: str) -> list[api.Room]:
    return list(ask(sandbox, lambda client: client.room.list_rooms(api.ListRoomsRequest(names=names))).rooms)


def people(sandbox: RunningSandbox, room: str) -> list[api.ParticipantInfo]:
    request = api.ListParticipantsRequest(room=room)
    return list(ask(sandbox, lambda client: client.room.list_participants(request)).participants)


def ringing(phone: Phone, called: str = N) -> None:
    """Call a number until it rings."""
    phone.invite(called)
    while phone.reply().status != 180:
        pass


def answered(phone: Phone) -> Reply:
    """Call the number until it is answered."""
    phone.invite(N)
    answer = phone.final()
    assert answer.status == 200, answer.start
    phone.ack(answer)
    return answer


def in_one_room(path: Path, **fields: Any) -> None:
    """Have every caller come into one room."""
    info = path.info([path.inbound], **fields)
    info.rule.CopyFrom(api.SIPDispatchRule(dispatch_rule_direct=api.SIPDispatchRuleDirect(room_name=ROOM)))
    path.sandbox.livekit(lambda sip: sip.update_dispatch_rule(path.rule, info))


def test_a_caller_is_in_the_room_while_it_rings(path: Path, new_phone: NewPhone) -> None:
    path.sandbox.control("PUT", "sip", {"answerS": 30})
    path.replace_rule(metadata="m", attributes={"tier": "gold"})
    phone = new_phone()
    ringing(phone)
    (room,) = rooms(path.sandbox)
    assert room.name.startswith(f"{CALLER}_")
    assert room.num_participants == 1
    (caller,) = people(path.sandbox, room.name)
    assert (caller.identity, caller.name, caller.metadata) == (f"sip_{CALLER}", f"Phone {CALLER}", "m")
    assert caller.kind == api.ParticipantInfo.Kind.SIP
    call_id = path.sandbox.control("GET", "sip")["calls"][0]["id"]
    assert dict(caller.attributes) == {
        "tier": "gold",
        "sip.callID": call_id,
        "sip.callIDFull": phone.call_id,
        "sip.callTag": phone.from_tag,
        "sip.callStatus": "ringing",
        "sip.trunkID": path.inbound,
        "sip.ruleID": path.rule,
        "sip.phoneNumber": CALLER,
        "sip.trunkPhoneNumber": N,
        "sip.hostname": "example.pstn.twilio.com",
    }


def test_an_agent_is_in_the_room_once_it_has_answered(path: Path, new_phone: NewPhone) -> None:
    phone = new_phone()
    answer = answered(phone)
    (room,) = rooms(path.sandbox)
    caller, agent = people(path.sandbox, room.name)
    assert caller.attributes["sip.callStatus"] == "active"
    assert (agent.name, agent.kind) == ("inbound-agent", api.ParticipantInfo.Kind.AGENT)
    assert phone.bye(answer).status == 200
    assert rooms(path.sandbox) == []
    assert people(path.sandbox, room.name) == []


def test_a_hidden_number_is_nowhere(path: Path, new_phone: NewPhone) -> None:
    path.replace_rule(hide_phone_number=True)
    answered(new_phone())
    (room,) = rooms(path.sandbox)
    caller, _ = people(path.sandbox, room.name)
    assert CALLER not in str(caller) + room.name
    assert caller.name == "Phone 0006"
    assert not {"sip.phoneNumber", "sip.trunkPhoneNumber", "sip.hostname"} & caller.attributes.keys()


def test_a_call_that_is_refused_leaves_no_room(path: Path, new_phone: NewPhone) -> None:
    phone = new_phone()
    phone.invite("+15145559999")
    assert phone.final().status == 404
    path.replace_rule(room_preset="none")
    phone = new_phone()
    phone.invite(N)
    assert phone.final().status == 486
    assert rooms(path.sandbox) == []


def test_callers_of_one_room_share_it_and_its_agent(path: Path, new_phone: NewPhone) -> None:
    in_one_room(path)
    first, second = new_phone(), new_phone("+15005550007")
    answers = [answered(first), answered(second)]
    assert [each.name for each in rooms(path.sandbox)] == [ROOM]
    kinds = [api.ParticipantInfo.Kind.Name(each.kind) for each in people(path.sandbox, ROOM)]
    assert sorted(kinds) == ["AGENT", "SIP", "SIP"]
    first.bye(answers[0])
    assert [each.identity for each in people(path.sandbox, ROOM) if each.kind == 3] == ["sip_+15005550007"]
    second.bye(answers[1])
    assert rooms(path.sandbox) == []


def test_a_second_call_of_one_caller_ends_the_first_in_one_room(path: Path, new_phone: NewPhone) -> None:
    in_one_room(path)
    first, second = new_phone(), new_phone()
    answered(first)
    answered(second)
    assert first.reply().start.startswith("BYE ")
    assert len(people(path.sandbox, ROOM)) == 2


def test_a_full_room_takes_no_further_caller(path: Path, new_phone: NewPhone) -> None:
    config = api.RoomConfiguration(agents=[api.RoomAgentDispatch(agent_name="inbound-agent")], max_participants=1)
    info = api.SIPDispatchRuleInfo(trunk_ids=[path.inbound], room_config=config)
    info.rule.dispatch_rule_direct.room_name = ROOM
    path.sandbox.livekit(lambda sip: sip.update_dispatch_rule(path.rule, info))
    first = new_phone()
    answer = answered(first)
    second = new_phone("+15005550007")
    second.invite(N)
    assert second.final().status == 486
    assert not path.call(**{"from": "+15005550007"})["reaches"]
    again = new_phone()
    answered(again)
    assert first.reply().start.startswith("BYE ")
    assert first.bye(answer).status == 481


HEADERS = {"X_Team": "sales", "X_Twilio_CallSid": "CA1", "User_Agent": "test"}

SHOWN: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "none": ({}, {}),
    "some": (
        {"headers_to_attributes": {"x-TEAM": "team", "User-Agent": "agent", "X-None": "none"}},
        {"team": "sales", "agent": "test"},
    ),
    "X": ({"include_headers": 1}, {"sip.h.x-team": "sales", "sip.h.x-twilio-callsid": "CA1"}),
    "X and some": (
        {"include_headers": 1, "headers_to_attributes": {"X-Team": "team"}},
        {"team": "sales", "sip.h.x-team": "sales", "sip.h.x-twilio-callsid": "CA1"},
    ),
}


@pytest.mark.parametrize("name", SHOWN)
def test_headers_become_attributes_as_the_trunk_says(path: Path, new_phone: NewPhone, name: str) -> None:
    fields, expected = SHOWN[name]
    path.replace_inbound(**fields)
    phone = new_phone()
    phone.invite(N, **HEADERS)
    assert phone.final().status == 200
    (room,) = rooms(path.sandbox)
    attributes = dict(people(path.sandbox, room.name)[0].attributes)
    assert attributes.pop("sip.twilio.callSid") == "CA1"
    own = {"sip.callID", "sip.callIDFull", "sip.callTag", "sip.callStatus", "sip.trunkID", "sip.ruleID"}
    own |= {"sip.phoneNumber", "sip.trunkPhoneNumber", "sip.hostname"}
    assert {key: value for key, value in attributes.items() if key not in own} == expected


def test_all_headers_become_attributes_where_the_trunk_says_so(path: Path, new_phone: NewPhone) -> None:
    path.replace_inbound(include_headers=2)
    phone = new_phone()
    phone.invite(N, **HEADERS)
    assert phone.final().status == 200
    (room,) = rooms(path.sandbox)
    attributes = people(path.sandbox, room.name)[0].attributes
    assert attributes["sip.h.user-agent"] == "test"
    assert CALLER in attributes["sip.h.from"]


def test_rooms_are_listed_by_name(path: Path, new_phone: NewPhone) -> None:
    in_one_room(path)
    answered(new_phone())
    assert [each.name for each in rooms(path.sandbox, ROOM, "other")] == [ROOM]
    assert rooms(path.sandbox, "other") == []


def test_a_room_says_what_its_rule_says(path: Path, new_phone: NewPhone) -> None:
    agents = [api.RoomAgentDispatch(agent_name="inbound-agent", metadata="job")]
    config = api.RoomConfiguration(agents=agents, max_participants=7, empty_timeout=11, metadata="room")
    in_one_room(path)
    info = path.info([path.inbound])
    info.rule.CopyFrom(api.SIPDispatchRule(dispatch_rule_direct=api.SIPDispatchRuleDirect(room_name=ROOM)))
    info.room_config.CopyFrom(config)
    path.sandbox.livekit(lambda sip: sip.update_dispatch_rule(path.rule, info))
    answered(new_phone())
    (room,) = rooms(path.sandbox)
    assert (room.max_participants, room.empty_timeout, room.departure_timeout, room.metadata) == (7, 11, 20, "room")
    (dispatch,) = ask(path.sandbox, lambda client: client.agent_dispatch.list_dispatch(ROOM))
    assert (dispatch.agent_name, dispatch.metadata, dispatch.room) == ("inbound-agent", "job", ROOM)


def test_what_was_dispatched_to_a_room_of_nobody_is_unknown(sandbox: RunningSandbox) -> None:
    with pytest.raises(api.ServerError) as refusal:
        ask(sandbox, lambda client: client.agent_dispatch.list_dispatch(ROOM))
    assert (refusal.value.code, refusal.value.status) == ("unavailable", 503)


def test_a_project_sees_its_own_rooms_only(path: Path, new_phone: NewPhone) -> None:
    ((key, secret),) = path.sandbox.control("POST", "projects", {"name": "other"})["keys"].items()
    answered(new_phone())

    async def listed() -> Any:
        url = f"{path.sandbox.url}/projects/other"
        async with api.LiveKitAPI(url, api_key=key, api_secret=secret, failover=False) as client:
            return await client.room.list_rooms(api.ListRoomsRequest())

    with ThreadPoolExecutor(1) as pool:
        assert list(pool.submit(lambda: asyncio.run(listed())).result().rooms) == []
    assert len(rooms(path.sandbox)) == 1


GRANTS = {
    "no grant": (None, 401, 401),
    "sip admin": ({"sip": {"admin": True}}, 401, 401),
    "list": ({"video": {"roomList": True}}, 200, 401),
    "admin of this room": ({"video": {"roomAdmin": True, "room": ROOM}}, 401, 200),
    "admin of another room": ({"video": {"roomAdmin": True, "room": "other"}}, 401, 401),
    "admin of no room": ({"video": {"roomAdmin": True}}, 401, 401),
    "both": ({"video": {"roomAdmin": True, "roomList": True, "room": ROOM}}, 200, 200),
    "grants that cannot be read": ({"video": {"roomAdmin": "yes", "roomList": 1}}, 401, 401),
}


@pytest.mark.parametrize("case", GRANTS)
def test_rooms_are_shown_to_whom_the_token_allows_it(sandbox: RunningSandbox, case: str) -> None:
    claims, may_list, may_look = GRANTS[case]
    token = signed(claims or {})
    for method, body, status in (("ListRooms", {}, may_list), ("ListParticipants", {"room": ROOM}, may_look)):
        answer = sandbox.twirp(f"/twirp/livekit.RoomService/{method}", body, Authorization=f"Bearer {token}")
        assert answer.status_code == status, answer.text
        if status == 200:
            assert answer.json() == ({"rooms": []} if method == "ListRooms" else {"participants": []})


def signed(claims: dict[str, Any]) -> str:
    """Return a token of the sandbox's project with these claims."""
    return jwt.encode({"iss": defaults.LIVEKIT_API_KEY, **claims}, defaults.LIVEKIT_API_SECRET)


def test_rooms_come_as_json_too(path: Path, new_phone: NewPhone) -> None:
    in_one_room(path)
    answered(new_phone())
    token = signed({"video": {"roomAdmin": True, "room": ROOM}})
    answer = path.sandbox.twirp(
        "/twirp/livekit.RoomService/ListParticipants", {"room": ROOM}, Authorization=f"Bearer {token}"
    )
    caller, agent = answer.json()["participants"]
    assert (caller["kind"], caller["state"], agent["kind"]) == ("SIP", "ACTIVE", "AGENT")


def test_another_method_of_the_service_is_no_route(sandbox: RunningSandbox) -> None:
    answer = sandbox.twirp("/twirp/livekit.RoomService/DeleteRoom", {"room": ROOM})
    assert (answer.status_code, answer.json()["code"]) == (404, "bad_route")


def test_rooms_are_there_without_redis_too(sandbox: RunningSandbox) -> None:
    sandbox.control("PUT", "switches", {"livekitRedis": False})
    assert rooms(sandbox) == []


def test_a_list_of_rooms_can_be_empty_though_there_are_some(path: Path, new_phone: NewPhone) -> None:
    answered(new_phone())
    path.sandbox.fault("livekit.list_*", "empty_list", times=1)
    assert rooms(path.sandbox) == []
    assert len(rooms(path.sandbox)) == 1
