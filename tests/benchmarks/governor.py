"""What the governor costs and gains: overhead per call, and a bulk job against a sandbox that answers 429.

`python -m tests.benchmarks.governor` prints the figures as JSON. The job runs the calls of the steps through the real
adapters in processes and threads of its own, and rests after an error as the runner does; the sandbox counts.
"""

import argparse
import itertools
import json
import queue
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from redis import Redis

from app.domain.errors import ErrorCode
from app.providers.base import Label
from app.providers.errors import ProviderError
from app.providers.governor import Governor, make_governor
from app.providers.lanes import Caller, Lane, calling
from app.providers.livekit import LiveKitPlatform
from app.providers.twilio import TwilioCarrier
from app.sandbox import ACCOUNT_SID, AUTH_TOKEN, LIVEKIT_API_KEY, LIVEKIT_API_SECRET, SIP_HOST
from tests.support.sandbox import Sandbox, running_sandbox
from tests.support.servers import running_valkey

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 10.0
SIP_URI = f"sip:{SIP_HOST};transport=tcp"
WARM_UP_S = 5.0
"""Seconds left out at the start of the steady figures: the sandbox's first second has room for two."""

OVERHEAD_CALLS = 2000

_dice = random.Random()  # noqa: S311 - not a secret
_order = itertools.count()
"""First come, first served among steps that are ready at the same moment."""


@dataclass(frozen=True)
class Job:
    """One process's share of a bulk job."""

    redis_url: str
    sandbox_url: str
    mode: str
    """`none`, `auto`, or the requests per second that are set."""
    seconds: float
    threads: int
    share: int
    """Which process this is; its numbers are its own."""
    lane: str = "bulk"


def _governor(job: Job, provider: str) -> Governor | None:
    if job.mode == "none":
        return None
    per_s = None if job.mode == "auto" else float(job.mode)
    account = f"{provider} {job.sandbox_url}"
    return make_governor(job.redis_url, provider, account, per_s=per_s, in_flight=None, timeout_s=TIMEOUT_S)


def _adapters(job: Job) -> tuple[TwilioCarrier, LiveKitPlatform]:
    carrier = TwilioCarrier(
        ACCOUNT_SID,
        ACCOUNT_SID,
        AUTH_TOKEN,
        timeout_s=TIMEOUT_S,
        base_url=job.sandbox_url,
        governor=_governor(job, "twilio"),
    )
    platform = LiveKitPlatform(
        job.sandbox_url,
        LIVEKIT_API_KEY,
        LIVEKIT_API_SECRET,
        timeout_s=TIMEOUT_S,
        governor=_governor(job, "livekit"),
    )
    return carrier, platform


def _steps(carrier: TwilioCarrier, platform: LiveKitPlatform, number: str) -> Iterator[Callable[[], Any]]:
    """Yield the steps of one number, each as the calls that it makes."""
    label = Label(f"trunkline/bench/{number}", "{}")
    made: dict[str, str] = {}

    def attach() -> None:
        carrier.attach_number(made["trunk"], made["number"])
        carrier.get_number(made["number"])

    def verify() -> None:
        carrier.get_number(made["number"])
        carrier.list_origination_urls(made["trunk"])
        platform.list_inbound_trunks(number)
        platform.list_dispatch_rules(made["inbound"])

    yield lambda: made.update(number=carrier.find_number(number).sid)
    yield lambda: made.update(trunk=carrier.create_trunk(label).sid)
    yield lambda: carrier.create_origination_url(made["trunk"], SIP_URI, label)
    yield lambda: made.update(inbound=platform.create_inbound_trunk(number, label).id)
    yield lambda: platform.create_dispatch_rule(made["inbound"], "agent", "{}", label)
    yield attach
    yield verify


@dataclass(order=True)
class _Waiting:
    ready_at: float
    order: int
    steps: Any
    step: Any
    attempt: int = 1
    held_back: int = 0


def _rested(item: _Waiting, error: ProviderError) -> _Waiting:
    """Rest as the runner does: full jitter after a failure, as long as the governor says where that held it back."""
    if error.code is ErrorCode.PROVIDER_BUSY:
        rest_s = _dice.uniform(1, 2) * (error.retry_after_s or 1)
        return replace(item, ready_at=time.monotonic() + rest_s, held_back=item.held_back + 1)
    ceiling = min(60.0, 0.5 * 2 ** min(item.attempt - 1, 16))
    rest_s = max(_dice.uniform(0, ceiling), error.retry_after_s or 0)
    return replace(item, ready_at=time.monotonic() + rest_s, attempt=item.attempt + 1)


class _Share:
    """The numbers that one process has under way: as many as it has threads, each in some step of its own."""

    def __init__(self, job: Job) -> None:
        self.numbers = self.held_back = 0
        self._job = job
        self._adapters = _adapters(job)
        self._names = iter(f"+1514{200 + job.share}{n:04}" for n in range(10_000))
        self._lock = threading.Lock()
        self._waiting: queue.PriorityQueue[_Waiting] = queue.PriorityQueue()

    def begin(self) -> None:
        with self._lock:
            steps = _steps(*self._adapters, next(self._names))
        self._waiting.put(_Waiting(time.monotonic(), next(_order), steps, next(steps)))

    def loop(self, ends_at: float) -> None:
        while time.monotonic() < ends_at:
            item = self._waiting.get()
            if item.ready_at > time.monotonic():
                self._waiting.put(item)
                time.sleep(0.01)
            else:
                self._run(item)

    def _run(self, item: _Waiting) -> None:
        try:
            with calling(Caller(Lane(self._job.lane), until=time.monotonic() + 2 * TIMEOUT_S)):
                item.step()
        except ProviderError as error:
            self._waiting.put(_rested(item, error))
            return
        step = next(item.steps, None)
        with self._lock:
            self.held_back += item.held_back
            self.numbers += step is None
        if step is None:
            self.begin()
        else:
            self._waiting.put(_Waiting(time.monotonic(), next(_order), item.steps, step))


def work(job: Job) -> dict[str, float]:
    """Run one process's share until its time is up; return the numbers done."""
    share, ends_at = _Share(job), time.monotonic() + job.seconds
    threads = [threading.Thread(target=share.loop, args=(ends_at,)) for _ in range(job.threads)]
    for thread in threads:
        share.begin()
        thread.start()
    for thread in threads:
        thread.join()
    return {"numbers": share.numbers, "held_back": share.held_back}


def single_waits(job: Job, running: "list[subprocess.Popen[str]]", every_s: float = 0.5) -> list[float]:
    """Make one single call now and then while the job runs; return how long each took, in milliseconds."""
    carrier, _ = _adapters(job)
    took: list[float] = []
    while all(process.poll() is None for process in running):
        started = time.monotonic()
        try:
            carrier.get_trunk("TK" + "0" * 32)
            took.append((time.monotonic() - started) * 1000)
        except ProviderError:
            took.append(float("inf"))
        time.sleep(every_s)
    return took


def _is_single(request: dict[str, Any]) -> bool:
    return bool(request["operation"] == "twilio.fetch_trunk")


def _figures(requests: list[dict[str, Any]], provider: str, limit: float) -> dict[str, float]:
    ours = [each for each in requests if each["provider"] == provider]
    at = [datetime.fromisoformat(each["at"]).timestamp() for each in ours]
    # The processes start later than we do; each runs its job's time from its own start.
    begun, ended = min(at[n] for n, each in enumerate(ours) if not _is_single(each)), max(at) - 1
    begun += WARM_UP_S
    steady = [each for each, when in zip(ours, at, strict=True) if begun <= when <= ended]
    served = [each for each in steady if each["status"] != 429]
    return {
        "requests": len(ours),
        "share_429": round(sum(each["status"] == 429 for each in ours) / len(ours), 4),
        "share_429_steady": round(sum(each["status"] == 429 for each in steady) / max(len(steady), 1), 4),
        "of_limit": round(len(served) / (ended - begun) / limit, 3),
    }


def bulk(
    sandbox: Sandbox, redis_url: str, mode: str, *, limit: float, seconds: float, processes: int, threads: int
) -> dict[str, Any]:
    """Run a bulk job in several processes against a limit of both providers; return what the sandbox saw."""
    sandbox.reset()
    sandbox.numbers([f"+1514{200 + share}{n:04}" for share in range(processes) for n in range(2000)])
    sandbox.latency(twilio_ms=150, livekit_ms=50)
    sandbox.switch(twilioRequestsPerS=limit, livekitRequestsPerS=limit, trunkLimit=100_000)
    jobs = [Job(redis_url, sandbox.base_url, mode, seconds, threads, share) for share in range(processes)]
    command = [sys.executable, "-m", "tests.benchmarks.governor", "--work"]
    running = [
        subprocess.Popen([*command, json.dumps(asdict(job))], cwd=ROOT, stdout=subprocess.PIPE, text=True)  # noqa: S603
        for job in jobs
    ]
    waits = single_waits(replace(jobs[0], lane="single"), running)
    done = [json.loads(process.communicate()[0].splitlines()[-1]) for process in running]
    requests = sandbox.requests()
    return {
        "mode": mode,
        "numbers": sum(each["numbers"] for each in done),
        "held_back": sum(each["held_back"] for each in done),
        "twilio": _figures(requests, "twilio", limit),
        "livekit": _figures(requests, "livekit", limit),
        "single_ms": {"p50": round(median(waits)), "max": round(max(waits), 0), "calls": len(waits)},
    }


def overhead_us(redis_url: str) -> dict[str, dict[str, float]]:
    """Return what one call pays when nothing holds it up, in microseconds, beside a bare PING of the same Redis."""
    cases: dict[str, Callable[[], None]] = {}
    for name, per_s, in_flight in (("auto", None, None), ("rate", 1e6, None), ("rate and in flight", 1e6, 1000)):
        governor = make_governor(redis_url, "bench", name, per_s=per_s, in_flight=in_flight, timeout_s=TIMEOUT_S)
        cases[name] = partial(_pass, governor)
    client = Redis.from_url(redis_url)
    cases["ping"] = lambda: bool(client.ping()) and None
    return {name: _timed(call) for name, call in cases.items()}


def _pass(governor: Governor) -> None:
    with governor.place():
        pass


def _timed(call: Callable[[], None]) -> dict[str, float]:
    took, cpu = [], time.process_time()
    for _ in range(OVERHEAD_CALLS):
        started = time.perf_counter()
        call()
        took.append((time.perf_counter() - started) * 1e6)
    cpu_us = (time.process_time() - cpu) / OVERHEAD_CALLS * 1e6
    return {"median": round(median(took), 1), "mean": round(sum(took) / len(took), 1), "cpu": round(cpu_us, 1)}


def run(
    *, limit: float = 20, seconds: float = 60, processes: int = 2, threads: int = 16, modes: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return every figure; about a minute for each mode."""
    with running_valkey() as valkey, running_sandbox() as server:
        found: dict[str, Any] = {"overhead_us": overhead_us(valkey.url), "bulk": []}
        for mode in modes or ("none", "auto", f"{limit:g}"):
            options = {"limit": limit, "seconds": seconds, "processes": processes, "threads": threads}
            found["bulk"].append(bulk(server.control, valkey.url, mode, **options))
    return found


def main() -> None:
    """Run a share of a job, or everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=float, default=20)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--modes", nargs="*", default=())
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = vars(parser.parse_args())
    order = options.pop("work")
    found = work(Job(**json.loads(order))) if order else run(**options)
    sys.stdout.write(json.dumps(found, indent=None if order else 2) + "\n")


if __name__ == "__main__":
    main()
