"""The audit of many agents: counted requests, printed with seconds and peak memory.

AUDIT_AGENTS=5000 runs it at full size; the usual run is smaller, since the seeding takes most of the time.
"""

import math
import os
import resource
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import insert

from app.db.models import Agent
from app.domain.operations import PhoneStatus
from app.path.marks import tag_of
from app.path.spec import DispatchRuleSpec, InboundTrunkSpec, Label, OriginationUrlSpec, TrunkSpec
from tests.support.sandbox_app import SandboxApp

AGENTS = int(os.environ.get("AUDIT_AGENTS", "300"))
PAGE_SIZE = 1000
LIVEKIT_LISTS = 2
BESIDE = 2
"""The agent of `SandboxApp`, and the foreign trunk and number."""


def test_an_audit_takes_a_page_of_requests_for_a_thousand_agents_and_one_for_each_trunk(
    live: SandboxApp, capsys: pytest.CaptureFixture[str]
) -> None:
    live.sandbox.switch(trunkLimit=AGENTS + 10)
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda index: _path(live, index), range(AGENTS)))
    numbers = [{"phoneNumber": row["twilio_phone_number"], "trunkSid": row["twilio_trunk_sid"]} for row in rows]
    live.sandbox.seed(numbers)
    sids = {each["phone_number"]: each["sid"] for each in live.sandbox.state()["numbers"]}
    with live.wiring.sessions.begin() as session:
        session.execute(
            insert(Agent), [row | {"twilio_phone_number_sid": sids[row["twilio_phone_number"]]} for row in rows]
        )
    seen = max(each["seq"] for each in live.sandbox.requests())
    started = time.monotonic()
    audit = live.audit()
    took_s = time.monotonic() - started
    asked = len(live.sandbox.requests(seen))
    bound = 2 * math.ceil((AGENTS + BESIDE) / PAGE_SIZE) + (AGENTS + 1) + LIVEKIT_LISTS
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = f"audit of {AGENTS + 1} agents: {asked} requests (at most {bound}), {took_s:.1f} s, peak {peak_mib:.0f} MiB"
    with capsys.disabled():
        sys.stdout.write(f"\n{line}\n")
    assert (audit.findings, audit.agents_checked) == ([], AGENTS + 1)
    assert asked <= bound


def _path(live: SandboxApp, index: int) -> dict[str, Any]:
    agent_id, number = uuid.uuid4(), f"+1514600{index:04d}"
    label = Label(
        tag_of("stage", agent_id), f'{{"managedBy": "trunkline", "instance": "stage", "agentId": "{agent_id}"}}'
    )
    carrier, platform = live.wiring.carrier, live.wiring.platform
    trunk = carrier.create_trunk(TrunkSpec(label.tag)).sid
    url = carrier.create_origination_url(trunk, OriginationUrlSpec(label.tag, live.wiring.settings.livekit_sip_uri)).sid
    inbound = platform.create_inbound_trunk(InboundTrunkSpec(label, number, live.wiring.settings.allowed_addresses)).id
    return {
        "id": agent_id,
        "name": number,
        "livekit_agent_name": "many",
        "agent_metadata": {},
        "phone_provisioning_status": PhoneStatus.PROVISIONED,
        "twilio_phone_number": number,
        "twilio_trunk_sid": trunk,
        "twilio_origination_url_sid": url,
        "livekit_inbound_trunk_id": inbound,
        "livekit_dispatch_rule_id": platform.create_dispatch_rule(
            DispatchRuleSpec(label.tag, inbound, "many", "{}")
        ).id,
    }
