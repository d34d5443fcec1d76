"""What goes wrong during a soak: faults at both providers, servers and processes killed; then the healing."""

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import psycopg

from tests.soak.stack import PROVIDER_TIMEOUT_S, SoakStack

FAULTS = (
    # Together a fifth of all calls: each draws in turn, the first that strikes wins.
    {"operation": "*.create_*", "kind": "reject", "probability": 0.02},
    {"operation": "*.delete_*", "kind": "reject", "probability": 0.01},
    {"operation": "*", "kind": "hang", "seconds": 4 * PROVIDER_TIMEOUT_S, "probability": 0.015},
    # Lands after the client has given up, and after the quiet period as well.
    {"operation": "*", "kind": "slow", "seconds": 2.5 * PROVIDER_TIMEOUT_S, "probability": 0.01},
    {"operation": "*", "kind": "slow", "seconds": 0.5 * PROVIDER_TIMEOUT_S, "probability": 0.03},
    {"operation": "*", "kind": "429", "retryAfterS": 1, "probability": 0.015},
    # Lands (or answers) whenever `strike` lets go: long after its client, its lease or its whole operation is gone.
    {"operation": "*", "kind": "hold_before", "probability": 0.01},
    {"operation": "*", "kind": "hold_after", "probability": 0.01},
    {
        "operation": "*",
        "kind": "random",
        "kinds": ["429", "500", "503_html", "drop_before", "apply_then_drop", "malformed"],
        "probability": 0.11,
    },
)

LATENCY = {"twilioMs": 60, "livekitMs": 30, "jitter": 1.0}
"""What the providers think about an answer, milliseconds."""

CALM = {"twilioMs": 0, "livekitMs": 0, "jitter": 0.0}

PAUSE_S = (0.8, 3.0)
"""Seconds between two blows."""

OUTAGE_S = (0.1, 2.5)
"""Seconds until what was killed is started again."""

STANDS = (0.6, 1.5, 3.0, 5.0)
"""How long a provider stands still, in calls: within one, past it, past its quiet period, and past two of them."""

KILLED_MEANWHILE = 0.5
"""How often a worker dies while a provider stands still."""

FREEZE_S = (1.0, 4.0)
"""Seconds that a stopped broker stays silent: its clients give up after two."""


@dataclass
class Chaos:
    """Draws blows by the seed and counts them; call it from the main thread, which the processes die with."""

    stack: SoakStack
    seed: int
    kills: Counter[str] = field(default_factory=Counter)
    _holds: list[str] = field(default_factory=list)
    """The faults whose requests wait to be let go."""

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed + 1)  # noqa: S311 - repeatable on purpose
        self._blows: dict[str, tuple[int, Callable[[], None]]] = {
            "worker SIGKILL": (30, self._kill_worker),
            "sweeper SIGKILL": (10, lambda: self._kill(self._dice.choice(["sweeper-1", "sweeper-2"]))),
            "web SIGKILL": (8, lambda: self._kill("web")),
            "broker SIGKILL": (12, self._kill_broker),
            "broker SIGSTOP": (8, self._freeze_broker),
            "broker FLUSHALL": (14, self.stack.flush_broker),
            "PostgreSQL SIGKILL": (9, self._kill_postgres),
            "PostgreSQL restart": (9, self._restart_postgres),
            "provider stands still": (12, self._pause_provider),
        }

    def begin(self) -> None:
        """Put latency and faults in force."""
        self.stack.order("PUT", "/sandbox/latency", LATENCY)
        for number, fault in enumerate(FAULTS):
            seed = self.seed * 100 + number
            order = self.stack.order("POST", "/sandbox/faults", {**fault, "times": None, "seed": seed})
            if str(fault["kind"]).startswith("hold"):
                self._holds.append(order["id"])

    def strike(self) -> str:
        """Wait a moment, let held requests go, deal one blow, undo it a moment later; return its name."""
        time.sleep(self._dice.uniform(*PAUSE_S))
        self.stack.order("POST", f"/sandbox/faults/{self._dice.choice(self._holds)}/release")
        names = list(self._blows)
        (name,) = self._dice.choices(names, [self._blows[each][0] for each in names])
        self._blows[name][1]()
        self.kills[name] += 1
        return name

    def heal(self) -> None:
        """Withdraw every fault and see that everything runs."""
        self.stack.order("DELETE", "/sandbox/faults")
        self.stack.order("PUT", "/sandbox/latency", CALM)
        for name, process in self.stack.processes.items():
            if not process.is_alive:
                self.stack.launch(name)
        self.stack.await_web()

    def _rest(self) -> None:
        time.sleep(self._dice.uniform(*OUTAGE_S))

    def _kill(self, name: str) -> None:
        self.stack.processes[name].kill()
        self._rest()
        self.stack.launch(name)

    def _pause_provider(self) -> None:
        """Hold everything at one provider, shorter or longer than a call and its quiet period; then all of it lands."""
        order = {
            "operation": f"{self._dice.choice(['twilio', 'livekit'])}.*",
            "kind": "pause",
            "times": None,
            "seconds": self._dice.choice(STANDS) * PROVIDER_TIMEOUT_S,
            "landing": self._dice.choice(["arrival", "reversed", "shuffled"]),
            "seed": self._dice.randrange(1000),
        }
        self.stack.order("POST", "/sandbox/faults", order)
        if self._dice.random() < KILLED_MEANWHILE:
            self._rest()
            self._kill_worker()

    def _kill_worker(self) -> None:
        self._kill(self._dice.choice(["worker-1", "worker-2", "cleanup"]))

    def _kill_broker(self) -> None:
        self.stack.valkey.kill()
        self._rest()
        self.stack.valkey.start()

    def _freeze_broker(self) -> None:
        self.stack.valkey.pause()
        time.sleep(self._dice.uniform(*FREEZE_S))
        self.stack.valkey.resume()

    def _kill_postgres(self) -> None:
        self.stack.postgres.kill()
        self._rest()
        self.stack.postgres.start()

    def _restart_postgres(self) -> None:
        self.stack.postgres.stop()
        self._rest()
        self.stack.postgres.start()


def served(stack: SoakStack) -> Counter[str]:
    """Count the faults that the providers have served, by kind, and all requests under "requests"."""
    requests = stack.order("GET", "/sandbox/requests?since=0")["requests"]
    counts = Counter(str(each["fault"]) for each in requests if each["fault"])
    counts["requests"] = len(requests)
    return counts


def open_operations(stack: SoakStack) -> int | None:
    """Count the operations that are not final; None while the database does not answer."""
    query = "SELECT count(*) FROM operations WHERE finished_at IS NULL"
    try:
        with psycopg.connect(stack.postgres.dsn("soak"), connect_timeout=2) as connection:
            found = connection.execute(query).fetchone()
    except psycopg.Error:
        return None
    return int(found[0]) if found else None
