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
from test_sandbox_process import RunningSandbox, emptied_sandbox, eventually
from twilio.base.exceptions import TwilioRestException

from app.dev import sandbox as defaults

NUMBER = "+15145551234"
BASIC = "Basic " + base64.b64encode(f"{defaults.ACCOUNT_SID}:{defaults.AUTH_TOKEN}".encode()).decode()


@pytest.fixture
def sandbox() -> RunningSandbox:
    return emptied_sandbox()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def create_trunk(sandbox: RunningSandbox, name: str = "t") -> requests.Response:
    return sandbox.raw_twilio("POST", "/v1/Trunks", "trunking.twilio.com", data={"FriendlyName": name})


def create_inbound(sandbox: RunningSandbox, number: str = NUMBER, timeout: float = 10) -> api.SIPInboundTrunkInfo:
    request = api.CreateSIPInboundTrunkRequest(trunk=api.SIPInboundTrunkInfo(numbers=[number]))
    return sandbox.livekit(lambda sip: asyncio.wait_for(sip.create_inbound_trunk(request), timeout))


def trunk_count(sandbox: RunningSandbox) -> int:
    state = sandbox.control("GET", "state")
    return len(state["trunks"]) + len(state["livekitTrunks"])


@pytest.mark.parametrize(("kind", "status", "code"), [("429", 429, 20429), ("500", 500, 20500)])
def test_a_failing_twilio_applies_nothing(sandbox: RunningSandbox, kind: str, status: int, code: int | str) -> None:
    sandbox.fault("twilio.create_trunk", kind, times=1)
    with pytest.raises(TwilioRestException, check=lambda error: (error.status, error.code) == (status, code)):
        sandbox.twilio().trunking.v1.trunks.create()
    assert trunk_count(sandbox) == 0
    assert create_trunk(sandbox).status_code == 201


@pytest.mark.parametrize(
    ("kind", "code"), [("429", "resource_exhausted"), ("500", "internal"), ("503_html", "unknown")]
)
def test_a_failing_livekit_applies_nothing(sandbox: RunningSandbox, kind: str, code: int | str) -> None:
    sandbox.fault("livekit.create_inbound_trunk", kind, times=1)
    with pytest.raises(api.ServerError, check=lambda error: (error.status, error.code) == (int(kind[:3]), code)):
        create_inbound(sandbox)
    assert trunk_count(sandbox) == 0


def test_a_429_may_have_a_retry_after(sandbox: RunningSandbox) -> None:
    sandbox.fault("*", "429", retryAfterS=7)
    assert create_trunk(sandbox).headers["Retry-After"] == "7"


def test_a_gateway_answers_in_html(sandbox: RunningSandbox) -> None:
    sandbox.fault("twilio.*", "503_html")
    answer = create_trunk(sandbox)
    assert (answer.status_code, answer.headers["Content-Type"]) == (503, "text/html; charset=utf-8")


def test_a_rejection_has_the_code_of_the_fault(sandbox: RunningSandbox) -> None:
    sandbox.fault("twilio.create_trunk", "reject", status=403, code=20403, message="no trunks for you")
    answer = create_trunk(sandbox)
    assert (answer.status_code, answer.json()["code"], answer.json()["message"]) == (403, 20403, "no trunks for you")
    sandbox.fault("livekit.*", "reject", status=412, code="failed_precondition", message="not today")
    refusal = ("failed_precondition", "not today", 412)
    with pytest.raises(api.ServerError, check=lambda error: (error.code, error.message, error.status) == refusal):
        create_inbound(sandbox)


@pytest.mark.parametrize(("kind", "applied"), [("drop_before", 0), ("apply_then_drop", 1)])
def test_a_dropped_response_hides_whether_the_write_happened(sandbox: RunningSandbox, kind: str, applied: int) -> None:
    sandbox.fault("*", kind)
    with pytest.raises(requests.ConnectionError):
        create_trunk(sandbox)
    assert trunk_count(sandbox) == applied
    sandbox.control("DELETE", "faults")
    sandbox.fault("*", kind)
    with pytest.raises(aiohttp.ServerDisconnectedError):
        create_inbound(sandbox)
    assert trunk_count(sandbox) == 2 * applied


def test_a_malformed_response_hides_a_write_that_happened(sandbox: RunningSandbox) -> None:
    sandbox.fault("*", "malformed")
    answer = create_trunk(sandbox)
    assert answer.status_code == 201
    with pytest.raises(requests.JSONDecodeError):
        answer.json()
    with pytest.raises(DecodeError):
        create_inbound(sandbox)
    assert trunk_count(sandbox) == 2


def test_a_refusal_stays_readable_under_a_malformed_fault(sandbox: RunningSandbox) -> None:
    sandbox.fault("*", "malformed")
    assert sandbox.raw_twilio("GET", "/v1/Trunks/TK", "trunking.twilio.com").json()["code"] == 20404


def test_a_hung_request_ends_when_its_client_disconnects_and_applies_nothing(sandbox: RunningSandbox) -> None:
    sandbox.fault("livekit.create_inbound_trunk", "hang")
    with pytest.raises(TimeoutError):
        create_inbound(sandbox, timeout=0.3)
    eventually(lambda: sandbox.held() == 0)
    assert trunk_count(sandbox) == 0


def test_a_hung_request_is_dropped_after_its_seconds(sandbox: RunningSandbox) -> None:
    sandbox.fault("twilio.create_trunk", "hang", seconds=0.2)
    with pytest.raises(requests.ConnectionError):
        create_trunk(sandbox)
    assert trunk_count(sandbox) == 0


def test_a_slow_request_is_applied_even_when_its_client_has_disconnected(sandbox: RunningSandbox) -> None:
    sandbox.fault("livekit.create_inbound_trunk", "slow", seconds=0.6)
    with pytest.raises(TimeoutError):
        create_inbound(sandbox, timeout=0.2)
    assert trunk_count(sandbox) == 0
    eventually(lambda: trunk_count(sandbox) == 1)


@pytest.mark.parametrize(("kind", "applied"), [("hold_before", 0), ("hold_after", 1)])
def test_a_held_request_waits_for_its_release(
    sandbox: RunningSandbox, pool: ThreadPoolExecutor, kind: str, applied: int
) -> None:
    fault_id = sandbox.fault("twilio.create_trunk", kind, times=1)
    answer = pool.submit(create_trunk, sandbox)
    eventually(lambda: sandbox.held() == 1)
    assert trunk_count(sandbox) == applied
    assert not answer.done()
    [shown] = sandbox.control("GET", "faults")["faults"]
    assert (shown["id"], shown["held"], shown["hits"], shown["remaining"]) == (fault_id, 1, 1, 0)
    sandbox.control("POST", f"faults/{fault_id}/release", {})
    assert answer.result(10).status_code == 201
    assert trunk_count(sandbox) == 1


def test_deleting_faults_releases_what_they_hold(sandbox: RunningSandbox, pool: ThreadPoolExecutor) -> None:
    fault_id = sandbox.fault("twilio.create_trunk", "hold_before")
    first = pool.submit(create_trunk, sandbox)
    eventually(lambda: sandbox.held() == 1)
    sandbox.control("DELETE", f"faults/{fault_id}")
    assert first.result(10).status_code == 201
    sandbox.fault("twilio.create_trunk", "hold_after")
    second = pool.submit(create_trunk, sandbox)
    eventually(lambda: sandbox.held() == 1)
    sandbox.control("DELETE", "faults")
    assert second.result(10).status_code == 201


def test_a_reset_drops_held_writes(sandbox: RunningSandbox, pool: ThreadPoolExecutor) -> None:
    sandbox.fault("twilio.create_trunk", "hold_before")
    held = pool.submit(create_trunk, sandbox)
    eventually(lambda: sandbox.held() == 1)
    sandbox.control("POST", "reset", {})
    with pytest.raises(requests.ConnectionError):
        held.result(10)
    assert trunk_count(sandbox) == 0


def test_a_fault_hits_only_what_it_names(sandbox: RunningSandbox) -> None:
    sandbox.fault("twilio.create_*", "500", contains="agent-7")
    assert create_trunk(sandbox, "agent-6").status_code == 201
    assert create_trunk(sandbox, "agent-7").status_code == 500
    sandbox.fault("livekit.*", "500", contains="+14165550187")
    create_inbound(sandbox)
    with pytest.raises(api.ServerError):
        create_inbound(sandbox, "+14165550187")
    sandbox.fault("twilio.list_numbers", "500", contains=NUMBER)
    client = sandbox.twilio()
    assert client.incoming_phone_numbers.list(phone_number="+1999") == []
    with pytest.raises(Exception, match="Unable to fetch page"):
        client.incoming_phone_numbers.list(phone_number=NUMBER)


def test_a_fault_hits_as_often_as_it_says(sandbox: RunningSandbox) -> None:
    sandbox.fault("twilio.create_trunk", "500", times=2)
    assert [create_trunk(sandbox).status_code for _ in range(3)] == [500, 500, 201]


def test_a_seed_makes_random_faults_repeatable(sandbox: RunningSandbox) -> None:
    outcomes = []
    for _ in range(2):
        sandbox.control("POST", "reset", {})
        sandbox.fault("twilio.*", "random", kinds=["500", "429"], probability=0.5, seed=7)
        outcomes.append([create_trunk(sandbox).status_code for _ in range(30)])
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
def test_an_invalid_fault_is_refused(sandbox: RunningSandbox, order: dict[str, Any]) -> None:
    assert "error" in sandbox.control("POST", "faults", {"operation": "*", **order}, status=400)


def test_held_requests_leave_room_for_others(sandbox: RunningSandbox) -> None:
    sandbox.fault("twilio.create_trunk", "hold_before")
    threads = [threading.Thread(target=create_trunk, args=(sandbox,)) for _ in range(64)]
    for thread in threads:
        thread.start()
    eventually(lambda: sandbox.held() == 64)
    create_inbound(sandbox)
    sandbox.control("DELETE", "faults")
    for thread in threads:
        thread.join(10)
    assert trunk_count(sandbox) == 65


def trunk_names(sandbox: RunningSandbox) -> list[str]:
    return [trunk["friendly_name"] for trunk in sandbox.control("GET", "state")["trunks"]]


def queue_trunks(sandbox: RunningSandbox, pool: ThreadPoolExecutor, names: str) -> list[Future[requests.Response]]:
    """Send creates that a paused provider has in its sockets one after another, in this order."""
    before, sent = sandbox.held(), []
    for place, name in enumerate(names, 1):
        sent.append(pool.submit(create_trunk, sandbox, name))
        eventually(lambda place=place: sandbox.held() == before + place)
    return sent


@pytest.mark.parametrize(
    ("landing", "order"),
    [({}, "abcdef"), ({"landing": "reversed"}, "fedcba"), ({"landing": "shuffled", "seed": 7}, "feadbc")],
)
def test_what_waited_for_a_paused_provider_is_applied_at_once_in_the_set_order(
    sandbox: RunningSandbox, pool: ThreadPoolExecutor, landing: dict[str, Any], order: str
) -> None:
    fault_id = sandbox.fault("twilio.*", "pause", **landing)
    sent = queue_trunks(sandbox, pool, "abcdef")
    read = pool.submit(sandbox.raw_twilio, "GET", "/v1/Trunks", "trunking.twilio.com")
    eventually(lambda: sandbox.held() == 7)
    create_inbound(sandbox)
    assert trunk_names(sandbox) == []
    shown = sandbox.control("POST", f"faults/{fault_id}/release", {})
    assert (shown["held"], shown["hits"], shown["remaining"]) == (0, 7, 0)
    assert {answer.result(10).status_code for answer in sent} == {201}
    assert trunk_names(sandbox) == list(order)
    assert read.result(10).status_code == 200
    assert create_trunk(sandbox).status_code == 201
    entries = sandbox.control("GET", "requests")["requests"]
    assert [entry["fault"] for entry in entries if entry["provider"] == "twilio"] == ["pause"] * 7 + [None]


def test_a_request_whose_client_timed_out_or_died_is_applied_when_the_pause_ends(
    sandbox: RunningSandbox,
) -> None:
    fault_id = sandbox.fault("*", "pause")
    with pytest.raises(TimeoutError):
        create_inbound(sandbox, timeout=0.1)
    with pytest.raises(requests.ReadTimeout):
        sandbox.raw_twilio("POST", "/v1/Trunks", "trunking.twilio.com", timeout=0.1)
    eventually(lambda: sandbox.held() == 2)
    assert trunk_count(sandbox) == 0
    sandbox.control("POST", f"faults/{fault_id}/release", {})
    eventually(lambda: trunk_count(sandbox) == 2)


def test_a_pause_ends_by_itself_after_its_seconds(sandbox: RunningSandbox, pool: ThreadPoolExecutor) -> None:
    sandbox.fault("*", "pause", seconds=0.2)
    sent = [pool.submit(create_trunk, sandbox) for _ in range(4)]
    assert {answer.result(10).status_code for answer in sent} == {201}
    [shown] = sandbox.control("GET", "faults")["faults"]
    assert (shown["held"], shown["remaining"]) == (0, 0)


def test_other_faults_hit_a_request_when_it_is_applied_and_delay_no_other(
    sandbox: RunningSandbox, pool: ThreadPoolExecutor
) -> None:
    lost = sandbox.fault("twilio.create_trunk", "hold_before", contains="b")
    sandbox.fault("twilio.create_trunk", "apply_then_drop", contains="c")
    pause = sandbox.fault("twilio.*", "pause")
    sent = queue_trunks(sandbox, pool, "abcd")
    assert sandbox.control("GET", "faults")["faults"][0]["hits"] == 0
    sandbox.control("DELETE", f"faults/{pause}")
    eventually(lambda: trunk_names(sandbox) == ["a", "c", "d"])
    sandbox.control("DELETE", f"faults/{lost}")
    assert [type(answer.exception(10)) for answer in sent] == [type(None)] * 2 + [requests.ConnectionError, type(None)]
    assert trunk_names(sandbox) == ["a", "c", "d", "b"]


def test_a_pause_within_a_pause_holds_what_the_first_releases(
    sandbox: RunningSandbox, pool: ThreadPoolExecutor
) -> None:
    first = sandbox.fault("twilio.*", "pause")
    sent = queue_trunks(sandbox, pool, "ab")
    second = sandbox.fault("*", "pause")
    sandbox.control("DELETE", f"faults/{first}")
    eventually(lambda: sandbox.held() == 2)
    assert trunk_names(sandbox) == []
    sandbox.control("DELETE", f"faults/{second}")
    assert {answer.result(10).status_code for answer in sent} == {201}
    assert trunk_names(sandbox) == ["a", "b"]


def test_a_reset_drops_what_a_pause_holds(sandbox: RunningSandbox, pool: ThreadPoolExecutor) -> None:
    sandbox.fault("twilio.*", "pause")
    [sent] = queue_trunks(sandbox, pool, "a")
    sandbox.control("POST", "reset", {})
    assert isinstance(sent.exception(10), requests.ConnectionError)
    assert trunk_names(sandbox) == []


def test_hundreds_of_requests_wait_for_a_paused_provider_and_the_control_api_answers(
    sandbox: RunningSandbox,
) -> None:
    sandbox.control("PUT", "switches", {"trunkLimit": 400})
    sandbox.fault("twilio.*", "pause")
    head = (
        f"POST /v1/Trunks HTTP/1.1\r\nHost: trunking.twilio.com\r\nAuthorization: {BASIC}\r\nContent-Length: 0\r\n\r\n"
    )
    address = urlsplit(sandbox.url)
    for _ in range(400):
        with socket.create_connection((address.hostname, address.port), 10) as client:
            client.sendall(head.encode())
    eventually(lambda: sandbox.held() == 400)
    sandbox.control("DELETE", "faults")
    eventually(lambda: trunk_count(sandbox) == 400)
