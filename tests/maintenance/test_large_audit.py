"""The audit of many agents: counted requests, printed with seconds and peak memory.

AUDIT_AGENTS=5000 runs it at full size; the usual run is smaller, since the seeding takes most of the time.
"""

import math
import os
import resource
import sys
import time

import pytest

from tests.support.many_paths import add_paths
from tests.support.sandbox_app import SandboxApp

AGENTS = int(os.environ.get("AUDIT_AGENTS", "300"))
PER_TRUNK = AGENTS // 10
PAGE_SIZE = 1000
LIVEKIT_LISTS = 2
BESIDE = 2
"""The agent of `SandboxApp` on a trunk of the pool, and the foreign trunk and number."""


@pytest.mark.parametrize("per_trunk", [0, PER_TRUNK], ids=["a trunk for each", "shared trunks"])
def test_an_audit_takes_a_page_of_requests_for_a_thousand_agents_and_one_for_each_trunk(
    live: SandboxApp, capsys: pytest.CaptureFixture[str], per_trunk: int
) -> None:
    live.sandbox.switch(trunkLimit=AGENTS + 10)
    numbers = [f"+1514600{index:04d}" for index in range(AGENTS)]
    add_paths(live.wiring, live.sandbox, numbers, per_trunk=per_trunk)
    trunks = (math.ceil(AGENTS / per_trunk) if per_trunk else AGENTS) + 1
    seen = max(each["seq"] for each in live.sandbox.requests())
    started = time.monotonic()
    audit = live.audit()
    took_s = time.monotonic() - started
    asked = len(live.sandbox.requests(seen))
    pages = math.ceil((AGENTS + BESIDE) / PAGE_SIZE) + math.ceil((trunks + 1) / PAGE_SIZE)
    bound = pages + trunks + LIVEKIT_LISTS
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = f"audit of {AGENTS + 1} agents: {asked} requests (at most {bound}), {took_s:.1f} s, peak {peak_mib:.0f} MiB"
    with capsys.disabled():
        sys.stdout.write(f"\n{line}\n")
    assert (audit.findings, audit.agents_checked) == ([], AGENTS + 1)
    assert asked <= bound
