"""A bulk job as the workers would run it: the calls of the steps, in threads, with the rests of the runner.

`python -m tests.benchmarks.rate_limiter_job JOB` (JSON) is one process's share of it.
"""

import itertools
import json
import queue
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from app.dev.sandbox import ACCOUNT_SID, AUTH_TOKEN, LIVEKIT_API_KEY, LIVEKIT_API_SECRET, SIP_HOST
from app.domain.errors import ErrorCode
from app.domain.sip_uris import parse_sip_uri
from app.path.observed import NumberRouting
from app.path.spec import DispatchRuleSpec, InboundTrunkSpec, Label, OriginationUrlSpec, TrunkSpec
from app.providers.callers import Caller, CallPriority, calling
from app.providers.errors import ProviderError
from app.providers.livekit import LiveKitPlatform
from app.providers.rate_limiter import RateLimiter, make_rate_limiter
from app.providers.twilio import TwilioCarrier

TIMEOUT_S = 10.0
SIP_URI = f"sip:{SIP_HOST};transport=tcp"

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
    priority: str = "bulk"


def _rate_limiter(job: Job, provider: str) -> RateLimiter | None:
    if job.mode == "none":
        return None
    per_s = None if job.mode == "auto" else float(job.mode)
    account = f"{provider} {job.sandbox_url}"
    return make_rate_limiter(job.redis_url, provider, account, per_s=per_s, in_flight=None, timeout_s=TIMEOUT_S)


def _adapters(job: Job) -> tuple[TwilioCarrier, LiveKitPlatform]:
    carrier = TwilioCarrier(
        ACCOUNT_SID,
        ACCOUNT_SID,
        AUTH_TOKEN,
        timeout_s=TIMEOUT_S,
        base_url=job.sandbox_url,
        rate_limiter=_rate_limiter(job, "twilio"),
    )
    platform = LiveKitPlatform(
        job.sandbox_url,
        LIVEKIT_API_KEY,
        LIVEKIT_API_SECRET,
        timeout_s=TIMEOUT_S,
        rate_limiter=_rate_limiter(job, "livekit"),
    )
    return carrier, platform


def _steps(carrier: TwilioCarrier, platform: LiveKitPlatform, number: str) -> Iterator[Callable[[], Any]]:
    """Yield the steps of one number, each as the calls that it makes."""
    label = Label(f"trunkline/bench/{number}", "{}")
    made: dict[str, str] = {}

    def attach() -> None:
        carrier.attach_number(made["trunk"], made["number"], NumberRouting(None, None, None))
        carrier.get_number(made["number"])

    def verify() -> None:
        carrier.get_number(made["number"])
        carrier.list_origination_urls(made["trunk"])
        platform.list_inbound_trunks(number)
        platform.list_dispatch_rules(made["inbound"])

    yield lambda: made.update(number=carrier.find_number(number).sid)
    yield lambda: made.update(trunk=carrier.create_trunk(TrunkSpec(label.tag)).sid)
    yield lambda: carrier.create_origination_url(made["trunk"], OriginationUrlSpec(label.tag, parse_sip_uri(SIP_URI)))
    yield lambda: made.update(inbound=platform.create_inbound_trunk(InboundTrunkSpec(label, number)).id)
    yield lambda: platform.create_dispatch_rule(DispatchRuleSpec(label.tag, made["inbound"], "agent"))
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
    """Rest as the runner does: full jitter after a failure, or as long as the rate limiter says."""
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
            with calling(Caller(CallPriority(self._job.priority), last_start_at=time.monotonic() + 2 * TIMEOUT_S)):
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


def single_waits(job: Job, running: "list[subprocess.Popen[str]]", every_s: float = 0.5) -> list[float | None]:
    """Make one single call now and then while the job runs; return how long each took, in ms, or None: it failed."""
    carrier, _ = _adapters(job)
    took: list[float | None] = []
    while all(process.poll() is None for process in running):
        started = time.monotonic()
        try:
            carrier.get_trunk("TK" + "0" * 32)
            took.append((time.monotonic() - started) * 1000)
        except ProviderError:
            took.append(None)
        time.sleep(every_s)
    return took


if __name__ == "__main__":
    sys.stdout.write(json.dumps(work(Job(**json.loads(sys.argv[1])))) + "\n")
