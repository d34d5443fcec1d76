"""Latency, limits, the request log and the errors of the control API."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from livekit import api
from test_sandbox_faults import NUMBER, create_inbound, create_trunk, trunk_count
from test_sandbox_process import RunningSandbox, emptied_sandbox


@pytest.fixture
def sandbox() -> RunningSandbox:
    return emptied_sandbox()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def test_latency_does_not_delay_other_requests(sandbox: RunningSandbox, pool: ThreadPoolExecutor) -> None:
    sandbox.control("PUT", "latency", {"twilioMs": 300})
    started = time.monotonic()
    answers = [pool.submit(create_trunk, sandbox) for _ in range(8)]
    assert {answer.result(10).status_code for answer in answers} == {201}
    took_s = time.monotonic() - started
    assert 0.3 <= took_s < 8 * 0.3
    assert sandbox.control("PUT", "latency", {"livekitMs": 5})["twilioMs"] == 300


@pytest.mark.parametrize("wrong", [{"twilioMs": -1}, {"twilioMs": "1"}, {"jitter": 2}, {"nonsense": 1}])
def test_an_invalid_latency_is_refused(sandbox: RunningSandbox, wrong: dict[str, Any]) -> None:
    assert "error" in sandbox.control("PUT", "latency", wrong, status=400)


@pytest.mark.parametrize(
    "wrong",
    [{"attachConflict": "x"}, {"livekitServer": "1.13.7"}, {"livekitRedis": 1}, {"trunkLimit": None}, {"nonsense": 1}],
)
def test_an_invalid_switch_is_refused(sandbox: RunningSandbox, wrong: dict[str, Any]) -> None:
    assert "error" in sandbox.control("PUT", "switches", wrong, status=400)


def test_a_rate_limit_answers_429_beyond_it(sandbox: RunningSandbox) -> None:
    sandbox.control("PUT", "switches", {"twilioRequestsPerS": 3})
    statuses = [create_trunk(sandbox).status_code for _ in range(6)]
    assert statuses[:3] == [201, 201, 201]
    assert statuses[-1] == 429
    create_inbound(sandbox)
    assert sandbox.control("PUT", "switches", {"twilioRequestsPerS": None})["twilioRequestsPerS"] is None
    assert create_trunk(sandbox).status_code == 201


def test_a_concurrency_limit_answers_429_beyond_it(sandbox: RunningSandbox, pool: ThreadPoolExecutor) -> None:
    sandbox.control("PUT", "switches", {"twilioConcurrency": 2})
    sandbox.control("PUT", "latency", {"twilioMs": 500})
    answers = [pool.submit(create_trunk, sandbox) for _ in range(5)]
    assert sorted(answer.result(10).status_code for answer in answers) == [201, 201, 429, 429, 429]
    assert create_trunk(sandbox).status_code == 201


def test_the_log_has_each_request_and_its_status(sandbox: RunningSandbox) -> None:
    sandbox.fault("livekit.*", "500", times=1)
    with pytest.raises(api.ServerError):
        create_inbound(sandbox)
    create_trunk(sandbox, "ours")
    log = sandbox.control("GET", "requests")
    first, second = log["requests"]
    assert (first["provider"], first["operation"]) == ("livekit", "livekit.create_inbound_trunk")
    assert (first["status"], first["fault"], first["body"]["trunk"]["numbers"]) == (500, "500", [NUMBER])
    assert (second["operation"], second["method"], second["path"]) == ("twilio.create_trunk", "POST", "/v1/Trunks")
    assert (second["status"], second["fault"], second["body"]) == (201, None, {"FriendlyName": "ours"})
    assert second["seq"] == log["next"] == first["seq"] + 1
    assert sandbox.control("GET", f"requests?since={first['seq']}")["requests"] == [second]
    assert sandbox.control("GET", f"requests?since={log['next']}")["requests"] == []
    assert sandbox.control("GET", "requests/counts") == dict.fromkeys((first["operation"], second["operation"]), 1)
    sandbox.control("DELETE", "requests")
    assert sandbox.control("GET", "requests")["requests"] == []
    assert sandbox.control("GET", "requests/counts") == {}


def test_connections_are_counted_once_however_often_they_are_used(sandbox: RunningSandbox) -> None:
    with requests.Session() as session:
        session.trust_env = False
        for _ in range(3):
            session.get(f"{sandbox.url}/v1/Trunks", timeout=10)
        create_inbound(sandbox)
        log = sandbox.control("GET", "requests")
        assert log["connectionsOpened"] == {"twilio": 1, "livekit": 1}
        assert len({entry["connection"] for entry in log["requests"]}) == 2


def test_of_two_creates_of_one_number_at_once_one_succeeds(sandbox: RunningSandbox, pool: ThreadPoolExecutor) -> None:
    answers = [pool.submit(create_inbound, sandbox) for _ in range(8)]
    failures = [answer.exception(10) for answer in answers]
    assert sum(failure is None for failure in failures) == 1
    assert trunk_count(sandbox) == 1


def test_the_control_api_names_what_is_unknown(sandbox: RunningSandbox) -> None:
    assert "error" in sandbox.control("GET", "nonsense", status=404)
    assert "error" in sandbox.control("PUT", "health", {}, status=405)
    assert "error" in sandbox.control("DELETE", "faults/none", status=404)
    assert "error" in sandbox.control("POST", "numbers", {}, status=400)
    assert "error" in sandbox.control("POST", "numbers", {"phoneNumber": NUMBER, "voiceURL": ""}, status=400)
    assert "error" in sandbox.control("POST", "faults", [], status=400)
