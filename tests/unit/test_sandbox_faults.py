"""Faults of the sandbox, seen through the real SDKs and raw HTTP."""

import asyncio
import base64
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import requests
from google.protobuf.message import DecodeError
from livekit import api
from test_sandbox_process import Stage, emptied_stage, eventually
from twilio.base.exceptions import TwilioRestException

from app.dev import sandbox

NUMBER = "+15145551234"
BASIC = "Basic " + base64.b64encode(f"{sandbox.ACCOUNT_SID}:{sandbox.AUTH_TOKEN}".encode()).decode()


@pytest.fixture
def stage() -> Stage:
    return emptied_stage()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def create_trunk(stage: Stage, name: str = "t") -> requests.Response:
    return stage.raw_twilio("POST", "/v1/Trunks", "trunking.twilio.com", data={"FriendlyName": name})


def create_inbound(stage: Stage, number: str = NUMBER, timeout: float = 10) -> api.SIPInboundTrunkInfo:
    request = api.CreateSIPInboundTrunkRequest(trunk=api.SIPInboundTrunkInfo(numbers=[number]))
    return stage.livekit(lambda sip: asyncio.wait_for(sip.create_inbound_trunk(request), timeout))


def trunk_count(stage: Stage) -> int:
    state = stage.control("GET", "state")
    return len(state["trunks"]) + len(state["livekitTrunks"])


@pytest.mark.parametrize(("kind", "status", "code"), [("429", 429, 20429), ("500", 500, 20500)])
def test_a_failing_twilio_applies_nothing(stage: Stage, kind: str, status: int, code: int | str) -> None:
    stage.fault("twilio.create_trunk", kind, times=1)
    with pytest.raises(TwilioRestException, check=lambda error: (error.status, error.code) == (status, code)):
        stage.twilio().trunking.v1.trunks.create()
    assert trunk_count(stage) == 0
    assert create_trunk(stage).status_code == 201


@pytest.mark.parametrize(
    ("kind", "code"), [("429", "resource_exhausted"), ("500", "internal"), ("503_html", "unknown")]
)
def test_a_failing_livekit_applies_nothing(stage: Stage, kind: str, code: int | str) -> None:
    stage.fault("livekit.create_inbound_trunk", kind, times=1)
    with pytest.raises(api.ServerError, check=lambda error: (error.status, error.code) == (int(kind[:3]), code)):
        create_inbound(stage)
    assert trunk_count(stage) == 0


def test_a_429_may_say_when_to_come_back(stage: Stage) -> None:
    stage.fault("*", "429", retryAfterS=7)
    assert create_trunk(stage).headers["Retry-After"] == "7"


def test_a_gateway_answers_in_html(stage: Stage) -> None:
    stage.fault("twilio.*", "503_html")
    answer = create_trunk(stage)
    assert (answer.status_code, answer.headers["Content-Type"]) == (503, "text/html; charset=utf-8")


def test_a_rejection_carries_the_code_it_was_given(stage: Stage) -> None:
    stage.fault("twilio.create_trunk", "reject", status=403, code=20403, message="no trunks for you")
    answer = create_trunk(stage)
    assert (answer.status_code, answer.json()["code"], answer.json()["message"]) == (403, 20403, "no trunks for you")
    stage.fault("livekit.*", "reject", status=412, code="failed_precondition", message="not today")
    refusal = ("failed_precondition", "not today", 412)
    with pytest.raises(api.ServerError, check=lambda error: (error.code, error.message, error.status) == refusal):
        create_inbound(stage)


@pytest.mark.parametrize(("kind", "applied"), [("drop_before", 0), ("apply_then_drop", 1)])
def test_a_dropped_answer_hides_whether_the_write_happened(stage: Stage, kind: str, applied: int) -> None:
    stage.fault("*", kind)
    with pytest.raises(requests.ConnectionError):
        create_trunk(stage)
    assert trunk_count(stage) == applied
    stage.control("DELETE", "faults")
    stage.fault("*", kind)
    with pytest.raises(aiohttp.ServerDisconnectedError):
        create_inbound(stage)
    assert trunk_count(stage) == 2 * applied


def test_a_malformed_answer_hides_a_write_that_happened(stage: Stage) -> None:
    stage.fault("*", "malformed")
    answer = create_trunk(stage)
    assert answer.status_code == 201
    with pytest.raises(requests.JSONDecodeError):
        answer.json()
    with pytest.raises(DecodeError):
        create_inbound(stage)
    assert trunk_count(stage) == 2


def test_a_refusal_stays_readable_under_a_malformed_fault(stage: Stage) -> None:
    stage.fault("*", "malformed")
    assert stage.raw_twilio("GET", "/v1/Trunks/TK", "trunking.twilio.com").json()["code"] == 20404


def test_a_hung_request_ends_when_its_client_goes_and_applies_nothing(stage: Stage) -> None:
    stage.fault("livekit.create_inbound_trunk", "hang")
    with pytest.raises(TimeoutError):
        create_inbound(stage, timeout=0.3)
    eventually(lambda: stage.held() == 0)
    assert trunk_count(stage) == 0


def test_a_hung_request_is_dropped_after_its_seconds(stage: Stage) -> None:
    stage.fault("twilio.create_trunk", "hang", seconds=0.2)
    with pytest.raises(requests.ConnectionError):
        create_trunk(stage)
    assert trunk_count(stage) == 0


def test_a_slow_request_is_applied_even_when_its_client_is_gone(stage: Stage) -> None:
    stage.fault("livekit.create_inbound_trunk", "slow", seconds=0.6)
    with pytest.raises(TimeoutError):
        create_inbound(stage, timeout=0.2)
    assert trunk_count(stage) == 0
    eventually(lambda: trunk_count(stage) == 1)


@pytest.mark.parametrize(("kind", "applied"), [("hold_before", 0), ("hold_after", 1)])
def test_a_held_request_waits_for_its_release(stage: Stage, pool: ThreadPoolExecutor, kind: str, applied: int) -> None:
    fault_id = stage.fault("twilio.create_trunk", kind, times=1)
    answer = pool.submit(create_trunk, stage)
    eventually(lambda: stage.held() == 1)
    assert trunk_count(stage) == applied
    assert not answer.done()
    [shown] = stage.control("GET", "faults")["faults"]
    assert (shown["id"], shown["held"], shown["hits"], shown["remaining"]) == (fault_id, 1, 1, 0)
    stage.control("POST", f"faults/{fault_id}/release", {})
    assert answer.result(10).status_code == 201
    assert trunk_count(stage) == 1


def test_withdrawing_faults_releases_what_they_hold(stage: Stage, pool: ThreadPoolExecutor) -> None:
    fault_id = stage.fault("twilio.create_trunk", "hold_before")
    first = pool.submit(create_trunk, stage)
    eventually(lambda: stage.held() == 1)
    stage.control("DELETE", f"faults/{fault_id}")
    assert first.result(10).status_code == 201
    stage.fault("twilio.create_trunk", "hold_after")
    second = pool.submit(create_trunk, stage)
    eventually(lambda: stage.held() == 1)
    stage.control("DELETE", "faults")
    assert second.result(10).status_code == 201


def test_a_reset_lets_no_held_write_through(stage: Stage, pool: ThreadPoolExecutor) -> None:
    stage.fault("twilio.create_trunk", "hold_before")
    held = pool.submit(create_trunk, stage)
    eventually(lambda: stage.held() == 1)
    stage.control("POST", "reset", {})
    with pytest.raises(requests.ConnectionError):
        held.result(10)
    assert trunk_count(stage) == 0


def test_a_fault_strikes_only_what_it_names(stage: Stage) -> None:
    stage.fault("twilio.create_*", "500", contains="agent-7")
    assert create_trunk(stage, "agent-6").status_code == 201
    assert create_trunk(stage, "agent-7").status_code == 500
    stage.fault("livekit.*", "500", contains="+14165550187")
    create_inbound(stage)
    with pytest.raises(api.ServerError):
        create_inbound(stage, "+14165550187")
    stage.fault("twilio.list_numbers", "500", contains=NUMBER)
    client = stage.twilio()
    assert client.incoming_phone_numbers.list(phone_number="+1999") == []
    with pytest.raises(Exception, match="Unable to fetch page"):
        client.incoming_phone_numbers.list(phone_number=NUMBER)


def test_a_fault_strikes_as_often_as_it_says(stage: Stage) -> None:
    stage.fault("twilio.create_trunk", "500", times=2)
    assert [create_trunk(stage).status_code for _ in range(3)] == [500, 500, 201]


def test_a_seed_makes_chance_repeatable(stage: Stage) -> None:
    outcomes = []
    for _ in range(2):
        stage.control("POST", "reset", {})
        stage.fault("twilio.*", "random", kinds=["500", "429"], probability=0.5, seed=7)
        outcomes.append([create_trunk(stage).status_code for _ in range(30)])
    assert outcomes[0] == outcomes[1]
    assert set(outcomes[0]) == {201, 429, 500}


@pytest.mark.parametrize(
    "order",
    [
        {"kind": "nonsense"},
        {"kind": "random"},
        {"kind": "429", "times": -1},
        {"kind": "429", "probability": 2},
        {"kind": "slow", "seconds": "1"},
        {"kind": "429", "time": 1},
        {"kind": "429", "contains": 7},
        {"kind": "random", "kinds": ["pause"]},
        {"kind": "pause", "landing": "sideways"},
        {"kind": "pause", "times": 1},
        {"kind": "429", "landing": "reversed"},
        {"kind": "empty_list", "reads": True},
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(stage: Stage, order: dict[str, Any]) -> None:
    assert "error" in stage.control("POST", "faults", {"operation": "*", **order}, status=400)


def test_held_requests_leave_room_for_others(stage: Stage) -> None:
    stage.fault("twilio.create_trunk", "hold_before")
    threads = [threading.Thread(target=create_trunk, args=(stage,)) for _ in range(64)]
    for thread in threads:
        thread.start()
    eventually(lambda: stage.held() == 64)
    create_inbound(stage)
    stage.control("DELETE", "faults")
    for thread in threads:
        thread.join(10)
    assert trunk_count(stage) == 65


def trunk_names(stage: Stage) -> list[str]:
    return [trunk["friendly_name"] for trunk in stage.control("GET", "state")["trunks"]]


def queue_trunks(stage: Stage, pool: ThreadPoolExecutor, names: str) -> list[Future[requests.Response]]:
    """Send creates that a paused provider has in its sockets one after another, in this order."""
    before, sent = stage.held(), []
    for place, name in enumerate(names, 1):
        sent.append(pool.submit(create_trunk, stage, name))
        eventually(lambda place=place: stage.held() == before + place)
    return sent


@pytest.mark.parametrize(
    ("landing", "order"),
    [({}, "abcdef"), ({"landing": "reversed"}, "fedcba"), ({"landing": "shuffled", "seed": 7}, "feadbc")],
)
def test_what_waited_for_a_paused_provider_lands_at_once_in_the_order_asked_for(
    stage: Stage, pool: ThreadPoolExecutor, landing: dict[str, Any], order: str
) -> None:
    fault_id = stage.fault("twilio.*", "pause", **landing)
    sent = queue_trunks(stage, pool, "abcdef")
    read = pool.submit(stage.raw_twilio, "GET", "/v1/Trunks", "trunking.twilio.com")
    eventually(lambda: stage.held() == 7)
    create_inbound(stage)
    assert trunk_names(stage) == []
    shown = stage.control("POST", f"faults/{fault_id}/release", {})
    assert (shown["held"], shown["hits"], shown["remaining"]) == (0, 7, 0)
    assert {answer.result(10).status_code for answer in sent} == {201}
    assert trunk_names(stage) == list(order)
    assert read.result(10).status_code == 200
    assert create_trunk(stage).status_code == 201
    entries = stage.control("GET", "requests")["requests"]
    assert [entry["fault"] for entry in entries if entry["provider"] == "twilio"] == ["pause"] * 7 + [None]


def test_a_request_of_a_client_that_gave_up_or_died_lands_when_the_pause_ends(stage: Stage) -> None:
    fault_id = stage.fault("*", "pause")
    with pytest.raises(TimeoutError):
        create_inbound(stage, timeout=0.1)
    with pytest.raises(requests.ReadTimeout):
        stage.raw_twilio("POST", "/v1/Trunks", "trunking.twilio.com", timeout=0.1)
    eventually(lambda: stage.held() == 2)
    assert trunk_count(stage) == 0
    stage.control("POST", f"faults/{fault_id}/release", {})
    eventually(lambda: trunk_count(stage) == 2)


def test_a_pause_ends_by_itself_after_its_seconds(stage: Stage, pool: ThreadPoolExecutor) -> None:
    stage.fault("*", "pause", seconds=0.2)
    sent = [pool.submit(create_trunk, stage) for _ in range(4)]
    assert {answer.result(10).status_code for answer in sent} == {201}
    [shown] = stage.control("GET", "faults")["faults"]
    assert (shown["held"], shown["remaining"]) == (0, 0)


def test_other_faults_meet_a_request_when_it_lands_and_keep_no_other_from_landing(
    stage: Stage, pool: ThreadPoolExecutor
) -> None:
    lost = stage.fault("twilio.create_trunk", "hold_before", contains="b")
    stage.fault("twilio.create_trunk", "apply_then_drop", contains="c")
    pause = stage.fault("twilio.*", "pause")
    sent = queue_trunks(stage, pool, "abcd")
    assert stage.control("GET", "faults")["faults"][0]["hits"] == 0
    stage.control("DELETE", f"faults/{pause}")
    eventually(lambda: trunk_names(stage) == ["a", "c", "d"])
    stage.control("DELETE", f"faults/{lost}")
    assert [type(answer.exception(10)) for answer in sent] == [type(None)] * 2 + [requests.ConnectionError, type(None)]
    assert trunk_names(stage) == ["a", "c", "d", "b"]


def test_a_pause_begun_within_a_pause_holds_what_lands(stage: Stage, pool: ThreadPoolExecutor) -> None:
    first = stage.fault("twilio.*", "pause")
    sent = queue_trunks(stage, pool, "ab")
    second = stage.fault("*", "pause")
    stage.control("DELETE", f"faults/{first}")
    eventually(lambda: stage.held() == 2)
    assert trunk_names(stage) == []
    stage.control("DELETE", f"faults/{second}")
    assert {answer.result(10).status_code for answer in sent} == {201}
    assert trunk_names(stage) == ["a", "b"]


def test_a_reset_lets_nothing_land(stage: Stage, pool: ThreadPoolExecutor) -> None:
    stage.fault("twilio.*", "pause")
    [sent] = queue_trunks(stage, pool, "a")
    stage.control("POST", "reset", {})
    assert isinstance(sent.exception(10), requests.ConnectionError)
    assert trunk_names(stage) == []


def test_hundreds_of_requests_wait_for_a_paused_provider_and_the_control_api_answers(stage: Stage) -> None:
    stage.control("PUT", "switches", {"trunkLimit": 400})
    stage.fault("twilio.*", "pause")
    head = (
        f"POST /v1/Trunks HTTP/1.1\r\nHost: trunking.twilio.com\r\nAuthorization: {BASIC}\r\nContent-Length: 0\r\n\r\n"
    )
    address = urlsplit(stage.url)
    for _ in range(400):
        with socket.create_connection((address.hostname, address.port), 10) as client:
            client.sendall(head.encode())
    eventually(lambda: stage.held() == 400)
    stage.control("DELETE", "faults")
    eventually(lambda: trunk_count(stage) == 400)
