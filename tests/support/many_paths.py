"""Thousands of provisioned paths, made at the providers and in the tables without an operation for each."""

import json
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sqlalchemy import func, insert, select

from app.db.models import Agent, Trunk
from app.domain.operations import PhoneStatus, TrunkMode, TrunkState
from app.path.marks import TAG_PREFIX, pool_tag, tag_of
from app.path.spec import DispatchRuleSpec, InboundTrunkSpec, Label, OriginationUrlSpec, TrunkSpec
from app.saga.context import Toolbox
from app.trunks.pool import profile_hash, profile_json
from app.wiring import Wiring
from tests.support.sandbox import Sandbox
from tests.support.toolboxes import tools_of

AT_ONCE = 2
"""Objects made at once: the sandbox makes one after the other, and a request behind many others would time out."""

AGENT_NAME = "many"


def add_paths(wiring: Wiring, sandbox: Sandbox, numbers: Sequence[str], *, per_trunk: int) -> None:
    """Have a provisioned agent for each number; `per_trunk` of them share a trunk, 0: each has its own."""
    tools = tools_of(wiring.maintenance)
    if per_trunk:
        with wiring.sessions() as session:
            last = session.scalar(select(func.max(Trunk.shard))) or 0
        shards = range(last + 1, last + 1 - (-len(numbers) // per_trunk))
        trunks = [_add_shared_trunk(wiring, tools, shard) for shard in shards]
        places = [trunks[index // per_trunk] for index in range(len(numbers))]
    else:
        places = [None] * len(numbers)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        rows = list(threads.map(lambda one: _path(tools, *one), zip(numbers, places, strict=True)))
    records = []
    for first in range(0, len(rows), 1000):
        batch = rows[first : first + 1000]
        records += sandbox.seed(
            [{"phoneNumber": row["twilio_phone_number"], "trunkSid": row["twilio_trunk_sid"]} for row in batch]
        )
    sids = {record["phone_number"]: record["sid"] for record in records}
    with wiring.sessions.begin() as session:
        session.execute(
            insert(Agent), [row | {"twilio_phone_number_sid": sids[row["twilio_phone_number"]]} for row in rows]
        )


def _add_shared_trunk(wiring: Wiring, tools: Toolbox, shard: int) -> Trunk:
    trunk_id = uuid.uuid4()
    sid, url = _twilio_trunk(tools, pool_tag(tools.instance, trunk_id))
    trunk = Trunk(
        id=trunk_id,
        profile=profile_json(tools.profile),
        profile_hash=profile_hash(tools.profile),
        shard=shard,
        state=TrunkState.ACTIVE,
        twilio_trunk_sid=sid,
        twilio_origination_url_sid=url,
    )
    with wiring.sessions.begin() as session:
        session.add(trunk)
    return trunk


def _twilio_trunk(tools: Toolbox, tag: str) -> tuple[str, str]:
    sid = tools.carrier.create_trunk(TrunkSpec(tag)).sid
    return sid, tools.carrier.create_origination_url(sid, OriginationUrlSpec(tag, tools.profile.sip_uri)).sid


def _path(tools: Toolbox, number: str, place: Trunk | None) -> dict[str, Any]:
    agent_id, instance, platform = uuid.uuid4(), tools.instance, tools.platform
    mark = {"managedBy": TAG_PREFIX, "instance": instance, "agentId": str(agent_id)}
    label = Label(tag_of(instance, agent_id), json.dumps(mark))
    if place is None:
        trunk, url = _twilio_trunk(tools, label.tag)
    else:
        trunk, url = str(place.twilio_trunk_sid), str(place.twilio_origination_url_sid)
    inbound = platform.create_inbound_trunk(InboundTrunkSpec(label, number, tools.profile.allowed_addresses)).id
    return {
        "id": agent_id,
        "name": number,
        "livekit_agent_name": AGENT_NAME,
        "agent_metadata": {},
        "phone_provisioning_status": PhoneStatus.PROVISIONED,
        "twilio_phone_number": number,
        "trunk_mode": TrunkMode.SHARED if place else TrunkMode.DEDICATED,
        "trunk_id": place.id if place else None,
        "twilio_trunk_sid": trunk,
        "twilio_origination_url_sid": url,
        "livekit_inbound_trunk_id": inbound,
        "livekit_dispatch_rule_id": platform.create_dispatch_rule(
            DispatchRuleSpec(label.tag, inbound, AGENT_NAME, "{}")
        ).id,
    }
