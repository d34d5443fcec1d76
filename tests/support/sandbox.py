"""The sandbox for tests: one process per xdist worker, emptied for each test, with its control API as methods."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from app.dev.localstack.host import StackError
from app.dev.localstack.processes import JsonClient
from app.dev.localstack.servers import SandboxServer, running_server, sandbox_settings
from tests.support.servers import server_folder

CONTROL_S = 120.0
"""Seconds that a control call may take: listing the 200,000 requests of a long run is the slowest."""

NUMBERS_PER_CALL = 2_000
"""Numbers added by one control call: well under its limit for a body."""


class Sandbox:
    """The control API of a running sandbox; every method raises StackError on an unexpected status."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self._client = JsonClient(base_url, timeout_s=CONTROL_S)

    def settings(self) -> dict[str, str]:
        """The environment variables that lead an application to this sandbox; nobody can dial its SIP URI."""
        return sandbox_settings(self.base_url)

    def settings_with_sip(self) -> dict[str, str]:
        """The same with a SIP URI that test calls go through: the sandbox's own."""
        return sandbox_settings(self.base_url, str(self.sip()["uri"]))

    def sip(self, **settings: Any) -> dict[str, Any]:
        """Set how SIP is answered (docs/sandbox.md); return it, with `address`, `uri` and `calls`."""
        if settings:
            self._call("PUT", "/sandbox/sip", settings)
        return self._call("GET", "/sandbox/sip")

    def reset(self) -> None:
        """Empty it: objects, faults (held requests are released), switches, latency, request log."""
        self._call("DELETE", "/sandbox/faults")
        self._call("POST", "/sandbox/reset", {})

    def number(self, phone_number: str, **fields: Any) -> dict[str, Any]:
        """Have the account own a number; return its record. `fields` as in the control API: voice=False, trunkSid."""
        return self._call("POST", "/sandbox/numbers", {"phoneNumber": phone_number, **fields})

    def numbers(self, phone_numbers: Sequence[str]) -> None:
        """Have the account own many numbers."""
        for start in range(0, len(phone_numbers), NUMBERS_PER_CALL):
            self.seed([{"phoneNumber": each} for each in phone_numbers[start : start + NUMBERS_PER_CALL]])

    def seed(self, numbers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Have the account own numbers with the fields of the control API; return their records."""
        return list(self._call("POST", "/sandbox/numbers", {"numbers": list(numbers)})["numbers"])

    def account(self, **fields: Any) -> dict[str, Any]:
        """Make a Twilio account, with `ownerAccountSid` a subaccount; return it with its credentials."""
        return self._call("POST", "/sandbox/accounts", fields)

    def change_account(self, sid: str, **fields: Any) -> None:
        """Change a Twilio account: authTokens, apiKeys, status ("suspended" refuses every credential), requestsPerS."""
        self._call("PATCH", f"/sandbox/accounts/{sid}", fields)

    def project(self, name: str, **fields: Any) -> dict[str, Any]:
        """Make a LiveKit project; return it with its keys. It is reached at `project_url`."""
        return self._call("POST", "/sandbox/projects", {"name": name, **fields})

    def change_project(self, name: str, **fields: Any) -> None:
        """Change a LiveKit project: keys (none: every one is refused), requestsPerS."""
        self._call("PATCH", f"/sandbox/projects/{name}", fields)

    def project_url(self, name: str) -> str:
        """Return what LIVEKIT_URL would be for a project other than the first."""
        return f"{self.base_url}/projects/{name}"

    def state(self, **of: str) -> dict[str, list[dict[str, Any]]]:
        """Return every object at both providers: numbers, trunks, originationUrls, livekitTrunks, livekitRules, ...

        `account` and `project` narrow it to one of them on its side.
        """
        return self._call("GET", f"/sandbox/state?{urlencode(of)}")

    def fault(self, operation: str, kind: str, *, times: int | None = 1, **fields: Any) -> str:
        """Make the next `times` (None: all) calls of `operation` (a name or a glob) fail so; return the fault's id."""
        body = {"operation": operation, "kind": kind, "times": times, **fields}
        return str(self._call("POST", "/sandbox/faults", body)["id"])

    def pause(self, operation: str, *, seconds: float | None = None, landing: str = "arrival", **fields: Any) -> str:
        """Hold the calls of `operation`, a glob, for `seconds` or until released; apply them in the order `landing`."""
        return self.fault(operation, "pause", times=None, seconds=seconds, landing=landing, **fields)

    def faults(self) -> list[dict[str, Any]]:
        """Return the faults with their `hits` and how many requests are `held`."""
        answer = self._call("GET", "/sandbox/faults")
        return answer["faults"] if isinstance(answer, dict) else answer

    def held(self, fault_id: str) -> int:
        """Return how many requests this fault holds now."""
        return next((int(each.get("held", 0)) for each in self.faults() if str(each["id"]) == fault_id), 0)

    def release(self, fault_id: str) -> None:
        """Release the requests that this fault holds."""
        self._call("POST", f"/sandbox/faults/{fault_id}/release", {})

    def delete_fault(self, fault_id: str) -> None:
        """Remove one fault and release the requests that it holds."""
        self._call("DELETE", f"/sandbox/faults/{fault_id}")

    def clear_faults(self, number: str | None = None) -> None:
        """Remove every fault, or those of one phone number, and release every request that they hold."""
        self._call("DELETE", f"/sandbox/faults?{urlencode({'number': number})}" if number else "/sandbox/faults")

    def latency(self, twilio_ms: float = 0, livekit_ms: float = 0, *, jitter: float = 0) -> None:
        """Set how long the providers take for a response, milliseconds."""
        self._call("PUT", "/sandbox/latency", {"twilioMs": twilio_ms, "livekitMs": livekit_ms, "jitter": jitter})

    def switch(self, **switches: Any) -> None:
        """Set some of the switches, as attachConflict="reject409"."""
        self._call("PUT", "/sandbox/switches", switches)

    def requests(self, since: int = 0, *, operation: str | None = None) -> list[dict[str, Any]]:
        """Return the calls that the providers have seen, oldest first."""
        seen = self._call("GET", f"/sandbox/requests?since={since}")["requests"]
        return [each for each in seen if operation in (None, each["operation"])]

    def request_counts(self) -> dict[str, int]:
        """Return how many calls of each operation the providers have seen since `forget_requests`."""
        return dict(self._call("GET", "/sandbox/requests/counts"))

    def forget_requests(self) -> None:
        """Empty the request log and start the count of connections afresh."""
        self._call("DELETE", "/sandbox/requests")

    def connections_opened(self) -> dict[str, int]:
        """Return how many connections each provider has seen since `forget_requests`."""
        return self._call("GET", "/sandbox/requests?since=0")["connectionsOpened"]

    def call(self, phone_number: str, **parameters: str) -> dict[str, Any]:
        """Call the number: `reaches`, `agentName`, `agents`, `status`, `reason`, `callEndedBy`, `path`.

        Parameters: `caller`, `source`, `roll` (docs/sandbox.md).
        """
        return self._call("GET", f"/sandbox/call?{urlencode({'to': phone_number, **parameters})}")

    def _call(self, method: str, path: str, body: object = None) -> Any:
        status, answer = self._client.call(method, path, body)
        if status >= HTTPStatus.MULTIPLE_CHOICES:
            raise StackError(f"{method} {path}: {status} {answer}")
        return answer


class ControlledSandbox(SandboxServer):
    """The sandbox's process, with its control API; `kill` takes both providers down until `start`."""

    def __init__(self, folder: Path, *, journal: bool = False, options: Sequence[str] = ()) -> None:
        super().__init__(folder, journal=journal, options=options)
        self.control = Sandbox(self.url)


@contextmanager
def running_sandbox(*, journal: bool = False, options: Sequence[str] = ()) -> Iterator[ControlledSandbox]:
    """Yield a new sandbox process; `options` are more of its command line."""
    with (
        server_folder() as folder,
        running_server(ControlledSandbox(folder, journal=journal, options=options)) as server,
    ):
        yield server


@pytest.fixture(scope="session")
def sandbox_server() -> Iterator[ControlledSandbox]:
    """The sandbox that the tests of one xdist worker share; do not stop it."""
    with running_sandbox() as server:
        yield server


@pytest.fixture
def sandbox(sandbox_server: ControlledSandbox) -> Iterator[Sandbox]:
    """An empty sandbox without faults; faults are removed afterwards, so that no request hangs in the next test."""
    sandbox_server.control.reset()
    yield sandbox_server.control
    sandbox_server.control.clear_faults()


@pytest.fixture(scope="session")
def shared_with_others() -> Iterator[Sandbox]:
    """A sandbox that is never emptied, as a provider is that others use too; one per xdist worker."""
    with running_sandbox() as server:
        yield server.control


@pytest.fixture
def own_sandbox() -> Iterator[ControlledSandbox]:
    """A sandbox of this test's own, to be killed and restarted; it keeps its state."""
    with running_sandbox(journal=True) as server:
        yield server
