"""The sandbox as a process, and the fixture with which the other sandbox tests drive it with the real SDKs."""

import asyncio
import atexit
import base64
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from livekit import api
from twilio.rest import Client

from app.dev import sandbox as defaults
from app.dev.sandbox.application import create_sandbox
from app.dev.sandbox.control import seed_demo, seed_number
from app.dev.sandbox.state import Sandbox
from tests.support.twilio_server import RedirectedHttpClient

ROOT = Path(__file__).parents[2]
WAIT_S = 10


class RunningSandbox:
    """A running sandbox, with clients of both SDKs and of HTTP."""

    def __init__(self, *options: str) -> None:
        command = [sys.executable, "-m", "app.dev.sandbox", "--port", "0", *options]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own code
        line = self.process.stdout.readline()
        assert line.startswith("sandbox ready on http://127.0.0.1:"), line
        self.url = line.split()[-1]
        self.http = requests.Session()
        self.http.trust_env = False
        self.twilio_http = RedirectedHttpClient(self.url)

    def stop(self, how: int = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        code = self.process.wait(WAIT_S)
        self.process.stdout.close()
        self.http.close()
        self.twilio_http.session.close()
        return code

    def control(self, method: str, path: str, content: Any = None, status: int | None = None) -> Any:
        answer = self.http.request(method, f"{self.url}/sandbox/{path}", json=content, timeout=WAIT_S)
        assert answer.status_code == status if status else answer.ok, answer.text
        return answer.json()

    def add_number(self, number: str, **fields: Any) -> dict[str, Any]:
        return self.control("POST", "numbers", {"phoneNumber": number, **fields})

    def fault(self, operation: str, kind: str, **fields: Any) -> str:
        return self.control("POST", "faults", {"operation": operation, "kind": kind, **fields})["id"]

    def held(self) -> int:
        return sum(fault["held"] for fault in self.control("GET", "faults")["faults"])

    def twilio(
        self, username: str = defaults.ACCOUNT_SID, password: str = defaults.AUTH_TOKEN, account_sid: str | None = None
    ) -> Client:
        return Client(username, password, account_sid, http_client=self.twilio_http, environment={"_": ""})

    def raw_twilio(self, method: str, path: str, host: str = "api.twilio.com", **kwargs: Any) -> requests.Response:
        kwargs = {"auth": (defaults.ACCOUNT_SID, defaults.AUTH_TOKEN), "timeout": WAIT_S, **kwargs}
        return self.http.request(method, self.url + path, headers={"Host": host}, **kwargs)

    def livekit(self, call: Callable[[Any], Any], url: str = "", **credentials: Any) -> Any:
        async def work() -> Any:
            secrets = {"api_key": defaults.LIVEKIT_API_KEY, "api_secret": defaults.LIVEKIT_API_SECRET, **credentials}
            async with api.LiveKitAPI(url or self.url, **secrets, failover=False) as client:
                return await asyncio.wait_for(call(client.sip), WAIT_S)

        with ThreadPoolExecutor(1) as pool:  # a browser's test that ran before leaves its loop in this thread
            return pool.submit(lambda: asyncio.run(work())).result()

    def twirp(self, method: str, body: Any, **headers: str) -> requests.Response:
        token = api.AccessToken(defaults.LIVEKIT_API_KEY, defaults.LIVEKIT_API_SECRET)
        jwt = token.with_sip_grants(api.SIPGrants(admin=True)).to_jwt()
        headers = {"Authorization": f"Bearer {jwt}", "Content-Type": "application/json", **headers}
        path = method if method.startswith("/") else f"/twirp/livekit.SIP/{method}"
        data = body if isinstance(body, bytes | str) else json.dumps(body)
        return self.http.post(self.url + path, data=data, headers=headers, timeout=WAIT_S)


def eventually(claim: Callable[[], bool]) -> None:
    """Wait until a condition of another process holds."""
    ends_at = time.monotonic() + WAIT_S
    while not claim():
        assert time.monotonic() < ends_at, "it never came true"
        threading.Event().wait(0.01)


@functools.cache
def shared_sandbox() -> RunningSandbox:
    sandbox = RunningSandbox()
    atexit.register(sandbox.stop)
    return sandbox


def emptied_sandbox() -> RunningSandbox:
    """Return the one sandbox of this test session, emptied."""
    shared = shared_sandbox()
    shared.control("POST", "reset", {})
    return shared


@pytest.fixture
def sandbox() -> RunningSandbox:
    return emptied_sandbox()


@contextmanager
def running(*options: str) -> Iterator[RunningSandbox]:
    own = RunningSandbox(*options)
    try:
        yield own
    finally:
        if own.process.poll() is None:
            own.stop()


def test_it_says_when_it_is_ready_and_healthy(sandbox: RunningSandbox) -> None:
    assert sandbox.control("GET", "health") == {"status": "ok"}


def test_half_a_request_of_a_client_that_died_is_not_applied(sandbox: RunningSandbox) -> None:
    address = urlsplit(sandbox.url)
    credentials = base64.b64encode(f"{defaults.ACCOUNT_SID}:{defaults.AUTH_TOKEN}".encode()).decode()
    head = f"POST /v1/Trunks HTTP/1.1\r\nHost: trunking.twilio.com\r\nAuthorization: Basic {credentials}\r\n"
    head += "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 18\r\n\r\n"
    for body, made in ((b"", 0), (b"FriendlyN", 0), (b"FriendlyName=whole", 1)):
        with socket.create_connection((address.hostname, address.port), WAIT_S) as client:
            client.sendall(head.encode() + body)
            client.shutdown(socket.SHUT_WR)
            while client.recv(4096):
                pass
        assert len(sandbox.http.get(f"{sandbox.url}/sandbox/state").json()["trunks"]) == made


def test_objects_survive_a_kill_and_are_the_same_afterwards_on_the_same_ports(tmp_path: Path) -> None:
    state = str(tmp_path / "sandbox.jsonl")
    with running("--state", state) as first:
        number = first.add_number("+15145551234")
        trunk = first.twilio().trunking.v1.trunks.create(friendly_name="ours")
        first.twilio().trunking.v1.trunks(trunk.sid).phone_numbers.create(number["sid"])
        doomed = first.twilio().trunking.v1.trunks.create(friendly_name="doomed")
        first.twilio().trunking.v1.trunks(doomed.sid).delete()
        info = api.SIPInboundTrunkInfo(numbers=["+15145551234"], metadata='{"a": 1}')
        first.livekit(lambda sip: sip.create_inbound_trunk(api.CreateSIPInboundTrunkRequest(trunk=info)))
        before = first.control("GET", "state")
        port = first.url.rsplit(":", 1)[1]
        address = first.control("GET", "sip")["address"]
        first.stop(signal.SIGKILL)
    with running("--state", state, "--port", port, "--sip-port", address.rpartition(":")[2]) as second:
        assert second.control("GET", "state") == before
        assert second.url.endswith(port)
        assert second.control("GET", "sip")["address"] == address
        assert second.control("GET", "health") == {"status": "ok"}
    assert before["numbers"][0]["trunk_sid"] == trunk.sid
    assert [row["sid"] for row in before["trunks"]] == [trunk.sid]


@contextmanager
def opened(state: Path) -> Iterator[Sandbox]:
    """Yield what a process would have with this journal, within a transaction."""
    application = create_sandbox(state=state)
    try:
        with application.sandbox.store.transaction():
            yield application.sandbox
    finally:
        application.close()


def test_an_incomplete_line_at_the_end_of_the_journal_is_ignored(tmp_path: Path) -> None:
    state = tmp_path / "sandbox.jsonl"
    with opened(state) as first:
        seed_number(first, {"phoneNumber": "+15145551234"})
    with state.open("a") as journal:
        journal.write('[["put","numbers","PN')
    with opened(state) as second:
        seed_number(second, {"phoneNumber": "+15145551235"})
    with opened(state) as third:
        numbers = [row["phone_number"] for row in third.store.numbers.rows.values()]
    assert numbers == ["+15145551234", "+15145551235"]


def test_the_journal_is_compacted_at_the_start(tmp_path: Path) -> None:
    state = tmp_path / "sandbox.jsonl"
    with opened(state) as first:
        number, _ = seed_number(first, {"phoneNumber": "+15145551234"})
    with state.open("a") as journal:
        for turn in range(20):
            journal.write(json.dumps([["put", "numbers", number["sid"], {**number, "friendly_name": f"turn {turn}"}]]))
            journal.write("\n")
    assert len(state.read_text().splitlines()) == 21
    with opened(state) as second:
        assert [row["friendly_name"] for row in second.store.numbers.rows.values()] == ["turn 19"]
        assert len(state.read_text().splitlines()) == 1


def test_the_demo_account_keeps_its_ids_across_restarts(tmp_path: Path) -> None:
    seen = []
    for _ in range(2):
        application = create_sandbox(state=tmp_path / "sandbox.jsonl")
        seed_demo(application.sandbox)
        seen.append({row["phone_number"]: row["sid"] for row in application.sandbox.store.numbers.rows.values()})
        application.close()
    assert seen[0] == seen[1]
    assert "+15145551234" in seen[0]
    assert len(seen[0]) >= 5


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_even_while_a_request_is_held(how: int) -> None:
    own = RunningSandbox()
    own.fault("twilio.list_trunks", "hold_before")

    def ask() -> None:
        with suppress(requests.ConnectionError):
            own.raw_twilio("GET", "/v1/Trunks", "trunking.twilio.com")

    asking = threading.Thread(target=ask)
    asking.start()
    eventually(lambda: own.held() == 1)
    started = time.monotonic()
    assert own.stop(how) == 0
    assert time.monotonic() - started < 6
    asking.join(WAIT_S)


def test_credentials_and_sip_host_can_be_chosen() -> None:
    sid = "AC" + "f" * 32
    with running("--account-sid", sid, "--auth-token", "other") as own:
        assert own.twilio(sid, "other").incoming_phone_numbers.list() == []
        assert own.raw_twilio("GET", "/v1/Trunks").status_code == 401


def test_the_constants_are_importable_without_large_libraries() -> None:
    code = "import sys, app.dev.sandbox; print({'flask', 'livekit', 'gunicorn', 'werkzeug'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    answer = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)  # noqa: S603 - our own
    assert answer.stdout.strip() == b"set()"
