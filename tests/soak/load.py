"""What the clients of a soak do: each plan is one agent with one number, from the first post to the last delete."""

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
from app.domain.statuses import PhoneStatus

CLIENTS = 32
"""Clients at once: as many operations are in flight, twice what the workers' threads carry."""

PATIENCE_S = 12.0
"""Seconds that a client watches its operation before it goes on to the next: some are then still in flight."""

LONG_PATIENCE_S = 120.0
"""Seconds that a client waits for a number that it means to take down: more than the budget of a provisioning."""

POSTS = 4
"""Times that such a client asks for its number: a fault may have failed it, and a deprovisioning needs a path."""

POLL_S = 0.7
"""Seconds between two looks at phone-status."""

RETRY_S = 0.4
"""Seconds before a request is sent again that met no server, or one without a database."""

CALL_S = 15.0
"""Seconds that a client waits for one answer."""

ENDED = {PhoneStatus.PROVISIONED, PhoneStatus.FAILED, PhoneStatus.NOT_PROVISIONED}

RETRIED = {ErrorCode.IDEMPOTENCY_KEY_IN_PROGRESS, ErrorCode.OPERATION_IN_PROGRESS}
"""409s that a client answers by asking again."""

TAKEN_BEFORE = {ErrorCode.OPERATION_IN_PROGRESS, ErrorCode.AGENT_HAS_PHONE}
"""What a post meets whose first answer was lost: it was taken."""


class Play(StrEnum):
    """What happens to an agent."""

    KEPT = "kept"
    TAKEN_DOWN = "taken down"
    CANCELLED = "cancelled"
    UNKNOWN_NUMBER = "number not in the account"
    NOT_VOICE = "number without voice"
    FOREIGN_TRUNK = "number on somebody else's trunk"
    FOREIGN_INBOUND = "number on somebody else's LiveKit trunk"


WEIGHTS = {
    Play.KEPT: 42,
    Play.TAKEN_DOWN: 28,
    Play.CANCELLED: 14,
    Play.UNKNOWN_NUMBER: 3,
    Play.NOT_VOICE: 3,
    Play.FOREIGN_TRUNK: 5,
    Play.FOREIGN_INBOUND: 5,
}
"""Of 100 agents, how many do what."""


@dataclass
class Plan:
    """One agent, its number, and what is to happen."""

    play: Play
    number: str
    delay_s: float
    """Seconds until a cancellation."""
    agent_id: str = ""


def plans(operations: int, seed: int) -> list[Plan]:
    """Draw plans that make `operations` operations together: one to provision, one more to take down."""
    dice = random.Random(seed)  # noqa: S311 - repeatable on purpose
    drawn: list[Plan] = []
    count = 0
    while count < operations:
        (play,) = dice.choices(list(WEIGHTS), list(WEIGHTS.values()))
        if play is Play.TAKEN_DOWN and count + 2 > operations:
            play = Play.KEPT
        drawn.append(Plan(play, f"+1514{2_000_000 + len(drawn)}", dice.uniform(0, 3)))
        count += 2 if play is Play.TAKEN_DOWN else 1
    return drawn


@dataclass
class Load:
    """The clients and what they have seen."""

    api_url: str
    key: str
    waiting: list[Plan]
    surprises: Counter[str] = field(default_factory=Counter)
    """Answers that no plan foresees, by what they were."""
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
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    @property
    def is_running(self) -> bool:
        """Whether any client still has something to do."""
        return any(thread.is_alive() for thread in self._threads)

    def _run(self) -> None:
        client = JsonClient(self.api_url, {"Authorization": f"Bearer {self.key}"}, timeout_s=CALL_S)
        while not self.stop.is_set():
            with self._lock:
                if not self.waiting:
                    return
                plan = self.waiting.pop()
            self._play(client, plan)
            with self._lock:
                self.finished += 1

    def _play(self, client: JsonClient, plan: Plan) -> None:
        made = self._insist(client, "POST", "/api/agents", {"name": f"soak {plan.number}"}, {201})
        if made is None:
            return
        plan.agent_id = str(made["id"])
        path = f"/api/agents/{plan.agent_id}"
        key = {"Idempotency-Key": str(uuid.uuid4())}
        poster = JsonClient(self.api_url, {"Authorization": f"Bearer {self.key}", **key}, timeout_s=CALL_S)
        self._insist(poster, "POST", f"{path}/provision-phone", {"phoneNumber": plan.number}, {202})
        if plan.play is Play.CANCELLED:
            self.stop.wait(plan.delay_s)
        elif plan.play is Play.TAKEN_DOWN:
            self._post_until_it_rings(client, path, plan)
        else:
            self._watch(client, path, PATIENCE_S)
        if plan.play in {Play.CANCELLED, Play.TAKEN_DOWN}:
            self._insist(client, "DELETE", f"{path}/deprovision-phone", None, {200, 202})
            self._watch(client, path, PATIENCE_S)

    def _post_until_it_rings(self, client: JsonClient, path: str, plan: Plan) -> None:
        for _ in range(POSTS - 1):
            if self._watch(client, path, LONG_PATIENCE_S) != PhoneStatus.FAILED:
                return
            self._insist(client, "POST", f"{path}/provision-phone", {"phoneNumber": plan.number}, {202})
        self._watch(client, path, LONG_PATIENCE_S)

    def _insist(self, client: JsonClient, method: str, path: str, body: object, wanted: set[int]) -> Any:
        """Send until there is an answer that is not of an outage; None where it is not a wanted one."""
        is_repeated = False
        while not self.stop.is_set():
            try:
                status, answer = client.call(method, path, body)
            except (OSError, HTTPException, ValueError):
                status, answer = 0, None
            if status in wanted:
                return answer
            code = answer.get("code") if isinstance(answer, dict) else None
            if method == "POST" and is_repeated and code in TAKEN_BEFORE:
                return answer
            is_repeated = True
            is_outage = status in {0, 429} or status >= 500 or code in RETRIED
            if not is_outage:
                name = path.rpartition("/")[2] if path.count("/") > 2 else "agents"
                with self._lock:
                    self.surprises[f"{method} {name}: {status} {code}"] += 1
                return None
            self.stop.wait(RETRY_S)
        return None

    def _watch(self, client: JsonClient, path: str, patience_s: float) -> str | None:
        """Return the status in which the operation ended, None when patience did first."""
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and not self.stop.wait(POLL_S):
            try:
                status, answer = client.call("GET", f"{path}/phone-status")
            except (OSError, HTTPException, ValueError):
                continue
            if status == 200 and answer["phoneProvisioningStatus"] in ENDED:
                return str(answer["phoneProvisioningStatus"])
        return None
