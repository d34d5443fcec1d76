"""The clients of a soak: each plan is one agent with one number, from the first POST to the last DELETE."""

import random
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from http.client import HTTPException
from typing import Any

from app.dev.localstack.processes import JsonClient
from app.domain.errors import ErrorCode
from app.domain.operations import PhoneStatus, TrunkMode

CLIENTS = 32
"""Clients at once: as many operations are in flight, twice what the workers' threads carry."""

WAIT_S = 12.0
"""Seconds that a client polls its operation before it goes on to the next plan: some are then still in flight."""

LONG_WAIT_S = 120.0
"""Seconds that a client waits for a number that it is going to remove: more than the budget of a provisioning."""

POSTS = 4
"""Times that such a client asks for its number: a fault may have failed it, and there must be one to remove."""

POLL_S = 0.7
"""Seconds between two reads of phone-status."""

RETRY_S = 0.4
"""Seconds before a request is sent again that found no server, or one without a database."""

CALL_S = 15.0
"""Seconds that a client waits for one response."""

FINAL_STATUSES = {PhoneStatus.PROVISIONED, PhoneStatus.FAILED, PhoneStatus.NOT_PROVISIONED}

RETRIED_CODES = {ErrorCode.IDEMPOTENCY_KEY_IN_PROGRESS, ErrorCode.OPERATION_IN_PROGRESS}
"""409s after which a client sends the request again."""

ACCEPTED_BEFORE = {ErrorCode.OPERATION_IN_PROGRESS, ErrorCode.AGENT_HAS_PHONE}
"""409s of a repeated POST whose first response was lost: it had been accepted."""


class Scenario(StrEnum):
    """What happens to an agent's number."""

    KEPT = "kept"
    REMOVED = "removed"
    CANCELLED = "cancelled"
    UNKNOWN_NUMBER = "number not in the account"
    NOT_VOICE = "number without voice"
    FOREIGN_TRUNK = "number on somebody else's trunk"
    FOREIGN_INBOUND = "number on somebody else's LiveKit trunk"


WEIGHTS = {
    Scenario.KEPT: 42,
    Scenario.REMOVED: 28,
    Scenario.CANCELLED: 14,
    Scenario.UNKNOWN_NUMBER: 3,
    Scenario.NOT_VOICE: 3,
    Scenario.FOREIGN_TRUNK: 5,
    Scenario.FOREIGN_INBOUND: 5,
}
"""How many of 100 agents have each scenario."""


DEDICATED = 0.25
"""Share of the agents that have a trunk of their own; the others share."""


@dataclass
class Plan:
    """One agent, its number, and what is to happen."""

    scenario: Scenario
    number: str
    delay_s: float
    """Seconds until a cancellation."""
    trunk_mode: TrunkMode
    agent_id: str = ""


def draw_plans(operations: int, seed: int) -> list[Plan]:
    """Draw plans that together make `operations` operations: one to provision, and one more to remove."""
    generator = random.Random(seed)  # noqa: S311 - repeatable on purpose
    drawn: list[Plan] = []
    count = 0
    while count < operations:
        (scenario,) = generator.choices(list(WEIGHTS), list(WEIGHTS.values()))
        if scenario is Scenario.REMOVED and count + 2 > operations:
            scenario = Scenario.KEPT
        mode = TrunkMode.DEDICATED if generator.random() < DEDICATED else TrunkMode.SHARED
        drawn.append(Plan(scenario, f"+1514{2_000_000 + len(drawn)}", generator.uniform(0, 3), mode))
        count += 2 if scenario is Scenario.REMOVED else 1
    return drawn


@dataclass
class Load:
    """The clients and what they have done."""

    api_url: str
    key: str
    waiting: list[Plan]
    unexpected: Counter[str] = field(default_factory=Counter)
    """Responses that no plan expects, by request, status and code."""
    finished: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    agents: int = 0
    """Plans at the start."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        """Start every client."""
        self.agents = len(self.waiting)
        self.waiting.reverse()
        self._threads = [threading.Thread(target=self._run_client, daemon=True) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    @property
    def is_running(self) -> bool:
        """Whether any client still has something to do."""
        return any(thread.is_alive() for thread in self._threads)

    def _run_client(self) -> None:
        client = JsonClient(self.api_url, {"Authorization": f"Bearer {self.key}"}, timeout_s=CALL_S)
        while not self.stop.is_set():
            with self._lock:
                if not self.waiting:
                    return
                plan = self.waiting.pop()
            self._run_plan(client, plan)
            with self._lock:
                self.finished += 1

    def _run_plan(self, client: JsonClient, plan: Plan) -> None:
        agent = {"name": f"soak {plan.number}", "trunkMode": plan.trunk_mode}
        made = self._send_until_answered(client, "POST", "/api/agents", agent, {201})
        if made is None:
            return
        plan.agent_id = str(made["id"])
        path = f"/api/agents/{plan.agent_id}"
        key = {"Idempotency-Key": str(uuid.uuid4())}
        poster = JsonClient(self.api_url, {"Authorization": f"Bearer {self.key}", **key}, timeout_s=CALL_S)
        self._send_until_answered(poster, "POST", f"{path}/provision-phone", {"phoneNumber": plan.number}, {202})
        if plan.scenario is Scenario.CANCELLED:
            self.stop.wait(plan.delay_s)
        elif plan.scenario is Scenario.REMOVED:
            self._provision_repeatedly(client, path, plan)
        else:
            self._await_final_status(client, path, WAIT_S)
        if plan.scenario in {Scenario.CANCELLED, Scenario.REMOVED}:
            self._send_until_answered(client, "DELETE", f"{path}/deprovision-phone", None, {200, 202})
            self._await_final_status(client, path, WAIT_S)

    def _provision_repeatedly(self, client: JsonClient, path: str, plan: Plan) -> None:
        for _ in range(POSTS - 1):
            if self._await_final_status(client, path, LONG_WAIT_S) != PhoneStatus.FAILED:
                return
            self._send_until_answered(client, "POST", f"{path}/provision-phone", {"phoneNumber": plan.number}, {202})
        self._await_final_status(client, path, LONG_WAIT_S)

    def _send_until_answered(self, client: JsonClient, method: str, path: str, body: object, wanted: set[int]) -> Any:
        """Send until the response is not that of an outage; return its body, None when it is unexpected."""
        is_repeated = False
        while not self.stop.is_set():
            try:
                status, response = client.call(method, path, body)
            except (OSError, HTTPException, ValueError):
                status, response = 0, None
            if status in wanted:
                return response
            code = response.get("code") if isinstance(response, dict) else None
            if method == "POST" and is_repeated and code in ACCEPTED_BEFORE:
                return response
            is_repeated = True
            is_outage = status in {0, 429} or status >= 500 or code in RETRIED_CODES
            if not is_outage:
                name = path.rpartition("/")[2] if path.count("/") > 2 else "agents"
                with self._lock:
                    self.unexpected[f"{method} {name}: {status} {code}"] += 1
                return None
            self.stop.wait(RETRY_S)
        return None

    def _await_final_status(self, client: JsonClient, path: str, wait_s: float) -> str | None:
        """Return the final status, None when there is none after `wait_s`."""
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline and not self.stop.wait(POLL_S):
            try:
                status, response = client.call("GET", f"{path}/phone-status")
            except (OSError, HTTPException, ValueError):
                continue
            if status == 200 and response["phoneProvisioningStatus"] in FINAL_STATUSES:
                return str(response["phoneProvisioningStatus"])
        return None
