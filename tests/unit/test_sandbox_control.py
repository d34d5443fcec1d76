"""Latency, limits, the request log and the manners of the control API."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from livekit import api
from test_sandbox_faults import NUMBER, create_inbound, create_trunk, trunk_count
from test_sandbox_process import Stage, emptied_stage


@pytest.fixture
def stage() -> Stage:
    return emptied_stage()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def test_latency_takes_its_time_without_standing_in_the_way_of_others(stage: Stage, pool: ThreadPoolExecutor) -> None:
    stage.control("PUT", "latency", {"twilioMs": 300})
    started = time.monotonic()
    answers = [pool.submit(create_trunk, stage) for _ in range(8)]
    assert {answer.result(10).status_code for answer in answers} == {201}
    took_s = time.monotonic() - started
    assert 0.3 <= took_s < 8 * 0.3
    assert stage.control("PUT", "latency", {"livekitMs": 5})["twilioMs"] == 300


@pytest.mark.parametrize("wrong", [{"twilioMs": -1}, {"twilioMs": "1"}, {"jitter": 2}, {"nonsense": 1}])
def test_a_latency_that_makes_no_sense_is_refused(stage: Stage, wrong: dict[str, Any]) -> None:
    assert "error" in stage.control("PUT", "latency", wrong, status=400)


@pytest.mark.parametrize(
    "wrong",
    [{"attachConflict": "x"}, {"livekitServer": "1.13.7"}, {"livekitRedis": 1}, {"trunkLimit": None}, {"nonsense": 1}],
)
def test_a_switch_that_makes_no_sense_is_refused(stage: Stage, wrong: dict[str, Any]) -> None:
    assert "error" in stage.control("PUT", "switches", wrong, status=400)


def test_a_rate_limit_answers_429_beyond_it(stage: Stage) -> None:
    stage.control("PUT", "switches", {"twilioRequestsPerS": 3})
    statuses = [create_trunk(stage).status_code for _ in range(6)]
    assert statuses[:3] == [201, 201, 201]
    assert statuses[-1] == 429
    create_inbound(stage)
    assert stage.control("PUT", "switches", {"twilioRequestsPerS": None})["twilioRequestsPerS"] is None
    assert create_trunk(stage).status_code == 201


def test_a_limit_of_requests_under_way_answers_429_beyond_it(stage: Stage, pool: ThreadPoolExecutor) -> None:
    stage.control("PUT", "switches", {"twilioConcurrency": 2})
    stage.control("PUT", "latency", {"twilioMs": 500})
    answers = [pool.submit(create_trunk, stage) for _ in range(5)]
    assert sorted(answer.result(10).status_code for answer in answers) == [201, 201, 429, 429, 429]
    assert create_trunk(stage).status_code == 201


def test_the_log_tells_what_was_asked_and_how_it_ended(stage: Stage) -> None:
    stage.fault("livekit.*", "500", times=1)
    with pytest.raises(api.ServerError):
        create_inbound(stage)
    create_trunk(stage, "ours")
    log = stage.control("GET", "requests")
    first, second = log["requests"]
    assert (first["provider"], first["operation"]) == ("livekit", "livekit.create_inbound_trunk")
    assert (first["status"], first["fault"], first["body"]["trunk"]["numbers"]) == (500, "500", [NUMBER])
    assert (second["operation"], second["method"], second["path"]) == ("twilio.create_trunk", "POST", "/v1/Trunks")
    assert (second["status"], second["fault"], second["body"]) == (201, None, {"FriendlyName": "ours"})
    assert second["seq"] == log["next"] == first["seq"] + 1
    assert stage.control("GET", f"requests?since={first['seq']}")["requests"] == [second]
    assert stage.control("GET", f"requests?since={log['next']}")["requests"] == []
    stage.control("DELETE", "requests")
    assert stage.control("GET", "requests")["requests"] == []


def test_connections_are_counted_once_however_often_they_are_used(stage: Stage) -> None:
    with requests.Session() as session:
        session.trust_env = False
        for _ in range(3):
            session.get(f"{stage.url}/v1/Trunks", timeout=10)
        create_inbound(stage)
        log = stage.control("GET", "requests")
        assert log["connectionsOpened"] == {"twilio": 1, "livekit": 1}
        assert len({entry["connection"] for entry in log["requests"]}) == 2


def test_two_creates_of_one_number_at_once_are_told_apart(stage: Stage, pool: ThreadPoolExecutor) -> None:
    answers = [pool.submit(create_inbound, stage) for _ in range(8)]
    failures = [answer.exception(10) for answer in answers]
    assert sum(failure is None for failure in failures) == 1
    assert trunk_count(stage) == 1


def test_the_control_api_says_what_it_does_not_know(stage: Stage) -> None:
    assert "error" in stage.control("GET", "nonsense", status=404)
    assert "error" in stage.control("PUT", "health", {}, status=405)
    assert "error" in stage.control("DELETE", "faults/none", status=404)
    assert "error" in stage.control("POST", "numbers", {}, status=400)
    assert "error" in stage.control("POST", "numbers", {"phoneNumber": NUMBER, "voiceURL": ""}, status=400)
    assert "error" in stage.control("POST", "faults", [], status=400)
