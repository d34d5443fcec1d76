"""Both adapters in processes that fork or end without closing them: no call lost, not a word on stderr."""

import subprocess
import sys

import pytest

from app.dev.sandbox import ACCOUNT_SID, AUTH_TOKEN, LIVEKIT_API_KEY, LIVEKIT_API_SECRET
from tests.support.sandbox import Sandbox

OPEN = f"""
import logging, os, sys
from concurrent.futures import ThreadPoolExecutor
from app.path.spec import TrunkSpec
from app.providers.livekit import LiveKitPlatform
from app.providers.twilio import TwilioCarrier

logging.getLogger("asyncio").setLevel(logging.ERROR)  # not that a callback took long on a busy machine
url = sys.argv[1]
carrier = TwilioCarrier({ACCOUNT_SID!r}, {ACCOUNT_SID!r}, {AUTH_TOKEN!r}, timeout_s=5, base_url=url)
platform = LiveKitPlatform(url, {LIVEKIT_API_KEY!r}, {LIVEKIT_API_SECRET!r}, timeout_s=5)

def use(tag):
    carrier.create_trunk(TrunkSpec(tag))
    platform.list_inbound_trunks()

def close():
    carrier.close()
    platform.close()
"""

FORK = """
use("parent")
children = []
for index in range(3):
    child = os.fork()
    if not child:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(use, [f"child {index}.{thread}" for thread in range(4)]))
        close()
        os._exit(0)
    children.append(child)
with ThreadPoolExecutor(4) as pool:
    list(pool.map(use, [f"parent {thread}" for thread in range(4)]))
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
use("parent again")
close()
"""

LEAVE_OPEN = """
use("one")
"""

LEAVE_UNDER_WAY = """
import threading, time
threading.Thread(target=use, args=("late",), daemon=True).start()
platform.ping()
"""


def run(sandbox: Sandbox, script: str) -> subprocess.CompletedProcess[str]:
    # default and not error: the SDKs' own import-time warnings are none of this test's business.
    command = [sys.executable, "-X", "dev", "-W", "default::ResourceWarning", "-c", OPEN + script, sandbox.base_url]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603


def test_a_forked_child_opens_connections_of_its_own(sandbox: Sandbox) -> None:
    done = run(sandbox, FORK)
    assert (done.returncode, done.stderr) == (0, "")
    tags = [trunk["friendly_name"] for trunk in sandbox.state()["trunks"]]
    assert len(tags) == len(set(tags)) == 1 + 3 * 4 + 4 + 1


@pytest.mark.parametrize("script", [LEAVE_OPEN, LEAVE_OPEN + "close()", LEAVE_UNDER_WAY])
def test_a_process_ends_quietly(script: str, sandbox: Sandbox) -> None:
    done = run(sandbox, script)
    assert (done.returncode, done.stderr) == (0, "")
