"""What goes wrong during a soak: faults at both providers, servers and processes killed; then the recovery."""

import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPException
from typing import Any

import psycopg

from app.dev.localstack.processes import JsonClient
from tests.soak.load import CALL_S
from tests.soak.stack import PROVIDER_TIMEOUT_S, SoakStack
from tests.support.sandbox import Sandbox

FAULTS: tuple[dict[str, Any], ...] = (
    # Together a fifth of all calls: each draws in turn, and the first that matches wins.
    {"operation": "*.create_*", "kind": "reject", "probability": 0.02},
    {"operation": "*.delete_*", "kind": "reject", "probability": 0.01},
    {"operation": "*", "kind": "hang", "seconds": 4 * PROVIDER_TIMEOUT_S, "probability": 0.015},
    # Applied after the client has given up, and after the quiet period as well.
    {"operation": "*", "kind": "slow", "seconds": 2.5 * PROVIDER_TIMEOUT_S, "probability": 0.01},
    {"operation": "*", "kind": "slow", "seconds": 0.5 * PROVIDER_TIMEOUT_S, "probability": 0.03},
    {"operation": "*", "kind": "429", "retryAfterS": 1, "probability": 0.015},
    # Applied (or answered) when `disrupt` releases it: long after its client, its lease or its operation is gone.
    {"operation": "*", "kind": "hold_before", "probability": 0.01},
    {"operation": "*", "kind": "hold_after", "probability": 0.01},
    {
        "operation": "*",
        "kind": "random",
        "kinds": ["429", "500", "503_html", "drop_before", "apply_then_drop", "malformed"],
        "probability": 0.11,
    },
)

LATENCY: dict[str, float] = {"twilio_ms": 60, "livekit_ms": 30, "jitter": 1.0}
"""How long the providers take for a response, milliseconds, and by what share that varies."""

PAUSE_S = (0.8, 3.0)
"""Seconds between two disruptions."""

OUTAGE_S = (0.1, 2.5)
"""Seconds until what was killed is started again."""

PROVIDER_PAUSES = (0.6, 1.5, 3.0, 5.0)
"""How long a provider hangs, in call timeouts: within one, past it, past its quiet period, and past two of them."""

KILLED_MEANWHILE = 0.5
"""How often a worker is killed while a provider hangs."""

FREEZE_S = (1.0, 4.0)
"""Seconds that a frozen broker stays silent: its clients give up after two."""


EMPTY_FOR_DAYS = """
    UPDATE trunks SET emptied_at = clock_timestamp() - interval '2 days'
     WHERE state <> 'GONE' AND NOT EXISTS (SELECT FROM agents WHERE agents.trunk_id = trunks.id)
"""
"""Lets days pass for the shared trunks that nobody uses: they retire when a sweeper next looks."""

LIKE_BEFORE = "UPDATE agents SET trunk_mode = 'shared' WHERE trunk_mode = 'dedicated' AND random() < 0.5"
"""Makes agents like those of an earlier release, whose trunks are theirs without their asking for it."""

OPEN = """
    SELECT (SELECT count(*) FROM operations WHERE finished_at IS NULL)
           + (SELECT count(*) FROM trunks
               WHERE state = 'RETIRING'
                  OR (state <> 'GONE' AND emptied_at < now() - interval '1 day'
                      AND NOT EXISTS (SELECT FROM agents WHERE agents.trunk_id = trunks.id)))
"""
"""Operations that are not final, and shared trunks that are to go."""


@dataclass
class Chaos:
    """Draws disruptions by the seed and counts them; call it from the main thread, with which the processes end."""

    stack: SoakStack
    seed: int
    counts: Counter[str] = field(default_factory=Counter)
    """Disruptions by name."""
    unexpected: Counter[str] = field(default_factory=Counter)
    """Responses that no consolidation expects."""
    _hold_faults: list[str] = field(default_factory=list)
    """The faults whose requests wait to be released."""

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed + 1)  # noqa: S311 - repeatable on purpose
        self._disruptions: dict[str, tuple[int, Callable[[], None]]] = {
            "worker SIGKILL": (30, self._kill_worker),
            "sweeper SIGKILL": (10, lambda: self._kill(self._random.choice(["sweeper-1", "sweeper-2"]))),
            "web SIGKILL": (8, lambda: self._kill("web")),
            "broker SIGKILL": (12, self._kill_broker),
            "broker SIGSTOP": (8, self._freeze_broker),
            "broker FLUSHALL": (14, self.stack.flush_broker),
            "PostgreSQL SIGKILL": (9, self._kill_postgres),
            "PostgreSQL restart": (9, self._restart_postgres),
            "provider hangs": (12, self._pause_provider),
            "days pass": (16, self.pass_days),
            "consolidation": (12, self._consolidate),
        }
        """Name -> weight and function."""

    def begin(self) -> None:
        """Put latency and faults in force."""
        self.stack.sandbox.latency(**LATENCY)
        for number, fault in enumerate(FAULTS):
            fault_id = self.stack.sandbox.fault(**fault, times=None, seed=self.seed * 100 + number)
            if str(fault["kind"]).startswith("hold"):
                self._hold_faults.append(fault_id)

    def disrupt(self) -> str:
        """Wait a moment, release held requests, cause one disruption, undo it a moment later; return its name."""
        time.sleep(self._random.uniform(*PAUSE_S))
        self.stack.sandbox.release(self._random.choice(self._hold_faults))
        names = list(self._disruptions)
        (name,) = self._random.choices(names, [self._disruptions[each][0] for each in names])
        self._disruptions[name][1]()
        self.counts[name] += 1
        return name

    def end(self) -> None:
        """Remove every fault and see that everything runs."""
        self.stack.sandbox.clear_faults()
        self.stack.sandbox.latency()
        for name, process in self.stack.processes.items():
            if not process.is_alive:
                self.stack.launch(name)
        self.stack.await_web()

    def _wait_for_outage(self) -> None:
        time.sleep(self._random.uniform(*OUTAGE_S))

    def _kill(self, name: str) -> None:
        self.stack.processes[name].kill()
        self._wait_for_outage()
        self.stack.launch(name)

    def _pause_provider(self) -> None:
        """Hold everything at one provider, for less or more than a call and its quiet period; then apply all of it."""
        self.stack.sandbox.pause(
            f"{self._random.choice(['twilio', 'livekit'])}.*",
            seconds=self._random.choice(PROVIDER_PAUSES) * PROVIDER_TIMEOUT_S,
            landing=self._random.choice(["arrival", "reversed", "shuffled"]),
            seed=self._random.randrange(1000),
        )
        if self._random.random() < KILLED_MEANWHILE:
            self._wait_for_outage()
            self._kill_worker()

    def _kill_worker(self) -> None:
        self._kill(self._random.choice(["worker-1", "worker-2", "cleanup"]))

    def _kill_broker(self) -> None:
        self.stack.valkey.kill()
        self._wait_for_outage()
        self.stack.valkey.start()

    def _freeze_broker(self) -> None:
        self.stack.valkey.pause()
        time.sleep(self._random.uniform(*FREEZE_S))
        self.stack.valkey.resume()

    def pass_days(self) -> None:
        """Have trunks without numbers retire: a sweeper looks for them when it starts."""
        self._change_rows(EMPTY_FOR_DAYS)
        self._kill("sweeper-1")

    def _consolidate(self) -> None:
        """Have half of the agents with a trunk of their own move, as an installation of before would."""
        self._change_rows(LIKE_BEFORE)
        client = JsonClient(self.stack.api_url, {"Authorization": f"Bearer {self.stack.key}"}, timeout_s=CALL_S)
        with suppress(OSError, HTTPException, ValueError):
            status, answer = client.call("POST", "/api/trunks/consolidate", {})
            if status not in {200, 202, 429} and status < HTTPStatus.INTERNAL_SERVER_ERROR:
                self.unexpected[f"POST consolidate: {status} {answer.get('code')}"] += 1

    def _change_rows(self, statement: str) -> None:
        with suppress(psycopg.Error), psycopg.connect(self.stack.dsn, connect_timeout=2) as connection:
            connection.execute(statement)

    def _kill_postgres(self) -> None:
        self.stack.postgres.kill()
        self._wait_for_outage()
        self.stack.postgres.start()

    def _restart_postgres(self) -> None:
        self.stack.postgres.stop()
        self._wait_for_outage()
        self.stack.postgres.start()


def count_faults(sandbox: Sandbox) -> Counter[str]:
    """Count the faults that the providers have served, by kind, and all requests under "requests"."""
    requests = sandbox.requests()
    counts = Counter(str(each["fault"]) for each in requests if each["fault"])
    counts["requests"] = len(requests)
    return counts


def count_open_operations(dsn: str) -> int | None:
    """Count the operations that are not final, and trunks that retire; None while the database does not answer."""
    try:
        with psycopg.connect(dsn, connect_timeout=2) as connection:
            found = connection.execute(OPEN).fetchone()
    except psycopg.Error:
        return None
    return int(found[0]) if found else None
