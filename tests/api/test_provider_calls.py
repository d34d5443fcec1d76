"""Requests that ask a provider: how many at once, for how long, and who is served meanwhile."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import pytest

from app.access import Scope
from app.dev.localstack.processes import poll_until
from app.domain.errors import ErrorCode
from app.providers.callers import calling
from app.providers.errors import TransientError
from app.providers.livekit import LiveKitPlatform
from app.providers.twilio import TwilioCarrier
from app.web.limits import MAX_CALLING_REQUESTS, RequestCaller
from tests.support.api import NUMBER, OTHER_NUMBER, Api
from tests.support.console import signed_in
from tests.support.scripted_server import Answer, Hang, ScriptedServer

TIMEOUT_S = 10.0
"""Seconds for one call to a provider: more than any test here takes."""

Provider = TwilioCarrier | LiveKitPlatform


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """A provider that takes every request and answers none."""
    server = ScriptedServer()
    server.default = Hang()
    yield server
    server.close()


@pytest.fixture
def carrier(server: ScriptedServer) -> Iterator[TwilioCarrier]:
    sid = "AC" + "0" * 32
    carrier = TwilioCarrier(sid, sid, "token", timeout_s=TIMEOUT_S, base_url=server.url)
    yield carrier
    carrier.close()


@pytest.fixture
def platform(server: ScriptedServer) -> Iterator[LiveKitPlatform]:
    platform = LiveKitPlatform(server.url, "key", "secret" * 6, timeout_s=TIMEOUT_S)
    yield platform
    platform.close()


@contextmanager
def _all_slots_taken(api: Api, server: ScriptedServer, path: str) -> Iterator[None]:
    with ThreadPoolExecutor(MAX_CALLING_REQUESTS) as threads:
        asked = [threads.submit(api.post, path) for _ in range(MAX_CALLING_REQUESTS)]
        assert poll_until(lambda: len(server.seen) == MAX_CALLING_REQUESTS, TIMEOUT_S)
        try:
            yield
        finally:
            server.over.set()
        assert {one.result().json["code"] for one in asked} == {"provider_unavailable"}


def test_a_provider_that_hangs_takes_a_part_of_the_threads_only(
    own_api: Api, server: ScriptedServer, carrier: TwilioCarrier
) -> None:
    api, agent_id = own_api, own_api.agent()
    api.succeed(api.provision(agent_id, NUMBER).json["operationId"])
    other = api.agent("other")
    for name in ("get_number", "find_number", "list_numbers"):
        setattr(api.carrier, name, getattr(carrier, name))
    visitor = signed_in(api, Scope.WRITE)
    token, agent = visitor.token(f"/agents/{agent_id}"), f"/api/agents/{agent_id}"
    form = {"csrf_token": token, "typed": OTHER_NUMBER}

    with _all_slots_taken(api, server, f"{agent}/verify"):
        began = time.monotonic()
        beyond = [
            api.post(f"{agent}/verify"),
            api.post(f"{agent}/repair", headers={"Prefer": "wait=60"}),
            api.post(f"/api/agents/{other}/provision-phone?dryRun=true", {"phoneNumber": OTHER_NUMBER}),
            api.get("/api/numbers"),
        ]
        pages = [
            visitor.client.post(f"/agents/{agent_id}/verify", data=form),
            visitor.client.post(f"/agents/{agent_id}/repair", data=form),
            visitor.client.post(f"/agents/{other}/plan", data=form),
        ]
        chosen = visitor.get(f"/agents/{other}/provision")
        assert [api.get(path).status_code for path in ("/healthz", f"{agent}/phone-status")] == [200, 200]
        assert time.monotonic() - began < TIMEOUT_S / 2

    assert [(one.status_code, one.json["code"]) for one in beyond] == [(503, "provider_busy")] * 4
    assert [one.status_code for one in pages] == [503] * 3
    assert {one.headers["Retry-After"] for one in (*beyond, *pages)} == {"5"}
    # The form is of use without the list: a number can be typed.
    assert (chosen.status_code, "provider_busy" in chosen.text) == (200, True)
    assert len(server.seen) == MAX_CALLING_REQUESTS
    # Every slot is released.
    server.default = Answer(500)
    codes = [api.post(f"{agent}/verify").json["code"] for _ in range(MAX_CALLING_REQUESTS + 1)]
    assert set(codes) == {"provider_unavailable"}


@pytest.mark.parametrize("provider", ["carrier", "platform"])
def test_a_request_s_calls_end_at_its_deadline(
    request: pytest.FixtureRequest, server: ScriptedServer, provider: str
) -> None:
    asked: Provider = request.getfixturevalue(provider)
    caller = RequestCaller()
    with closing(caller), calling(caller):
        assert caller.may_call()
        caller.ends_at = began = time.monotonic()
        caller.ends_at += 0.5
        for calls in (1, 1):
            with pytest.raises(TransientError) as failed:
                asked.ping()

            # The first was cut short, the second not sent at all.
            assert failed.value.code is ErrorCode.PROVIDER_UNAVAILABLE
            assert len(server.seen) == calls
    assert 0.45 < time.monotonic() - began < TIMEOUT_S / 2


def test_a_request_keeps_its_place_until_it_ends_and_gives_it_back_once() -> None:
    callers = [RequestCaller() for _ in range(MAX_CALLING_REQUESTS + 1)]

    assert [caller.may_call() for caller in callers * 2] == ([True] * MAX_CALLING_REQUESTS + [False]) * 2
    callers[0].close()
    callers[0].close()
    assert callers[-1].may_call()
    assert not RequestCaller().may_call()
    for caller in callers:
        caller.close()
