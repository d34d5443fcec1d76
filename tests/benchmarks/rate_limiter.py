"""What the rate limiter costs and gains: overhead per call, and a bulk job against a sandbox that answers 429.

`python -m tests.benchmarks.rate_limiter` prints the figures as JSON. The job is in `rate_limiter_job`.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from redis import Redis

from app.providers.rate_limiter import RateLimiter, make_rate_limiter
from tests.benchmarks.rate_limiter_job import TIMEOUT_S, Job, single_waits
from tests.support.sandbox import Sandbox, running_sandbox
from tests.support.servers import running_valkey

ROOT = Path(__file__).resolve().parents[2]
WARM_UP_S = 5.0
"""Seconds left out at the start of the steady figures: the sandbox's first second has room for two."""

OVERHEAD_CALLS = 2000


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
    command = [sys.executable, "-m", "tests.benchmarks.rate_limiter_job"]
    running = [
        subprocess.Popen([*command, json.dumps(asdict(job))], cwd=ROOT, stdout=subprocess.PIPE, text=True)  # noqa: S603
        for job in jobs
    ]
    waits = single_waits(replace(jobs[0], priority="single"), running)
    took = [each for each in waits if each is not None]
    done = [json.loads(process.communicate()[0].splitlines()[-1]) for process in running]
    requests = sandbox.requests()
    return {
        "mode": mode,
        "numbers": sum(each["numbers"] for each in done),
        "held_back": sum(each["held_back"] for each in done),
        "twilio": _figures(requests, "twilio", limit),
        "livekit": _figures(requests, "livekit", limit),
        "single_ms": {"p50": round(median(took)), "max": round(max(took))},
        "singles": {"calls": len(waits), "failed": len(waits) - len(took)},
    }


def overhead_us(redis_url: str) -> dict[str, dict[str, float]]:
    """Return what one call pays when nothing holds it up, in microseconds, beside a bare PING of the same Redis."""
    cases: dict[str, Callable[[], None]] = {}
    for name, per_s, in_flight in (("auto", None, None), ("rate", 1e6, None), ("rate and in flight", 1e6, 1000)):
        rate_limiter = make_rate_limiter(
            redis_url, "bench", name, per_s=per_s, in_flight=in_flight, timeout_s=TIMEOUT_S
        )
        cases[name] = partial(_pass, rate_limiter)
    client = Redis.from_url(redis_url)
    cases["ping"] = lambda: bool(client.ping()) and None
    return {name: _timed(call) for name, call in cases.items()}


def _pass(rate_limiter: RateLimiter) -> None:
    with rate_limiter.limited_call():
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
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=float, default=20)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--modes", nargs="*", default=())
    sys.stdout.write(json.dumps(run(**vars(parser.parse_args())), indent=2) + "\n")


if __name__ == "__main__":
    main()
