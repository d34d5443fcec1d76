"""The calls of a dry run are those that the sandbox then receives: method, path and parameters."""

import json
import uuid
from collections.abc import Collection
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict
from livekit.protocol import sip

from app.dev.sandbox import ACCOUNT_SID
from app.domain.operations import (
    DISPATCH_RULE,
    INBOUND_TRUNK,
    NUMBER,
    NUMBER_ATTACHMENT,
    STEPS,
    VERIFICATION,
    TrunkMode,
)
from app.domain.options import AgentOptions, DispatchKind, HeaderSet, RuleAgent, TransferMode
from app.numbers.dry_run import NO_OPERATION, Call, planned_calls
from app.path.marks import pool_tag
from app.path.observed import NumberRouting, Observed
from app.path.spec import as_built
from app.providers.livekit import LiveKitPlatform
from app.providers.twilio import TwilioCarrier
from app.saga.context import StepContext, Toolbox
from app.saga.observing import read_path
from app.saga.steps import ACTIONS
from tests.support.adapters import E164, PROFILE, recording_adapters
from tests.support.pool import TRUNK_ID, MemoryPool
from tests.support.saga import TIMING
from tests.support.sandbox import Sandbox

OTHER = "+15145551235"
"""A number that is on the trunk already."""

Shown = tuple[str, str, str, dict[str, Any]]


@pytest.fixture
def context(carrier: TwilioCarrier, platform: LiveKitPlatform) -> StepContext:
    tools = Toolbox(carrier, platform, "contract", PROFILE, TIMING, MemoryPool(), clock=lambda: 0.0)
    return StepContext(
        tools=tools,
        agent_id=uuid.uuid4(),
        operation_id=NO_OPERATION,
        phone_number=E164,
        takeover=False,
        agent_name="front-desk",
        job_metadata='{"team": "support"}',
        ids={},
        parents={},
        ledger={},
        previous_routing=None,
        is_uncertain=False,
    )


def planned(context: StepContext, number_sid: str | None) -> list[Call]:
    place = context.tools.pool.next_place() if context.is_pooled else None
    return planned_calls(context, place, number_sid, ACCOUNT_SID, recording_adapters)


def provision(context: StepContext) -> dict[str, str]:
    """Run the steps as a chain does; return the ids that they have made."""
    ids: dict[str, str] = {}
    for step in STEPS:
        if step.name in ids:
            continue
        result = ACTIONS[step.name].do(replace(context, step=step.name, ids=dict(ids)))
        ids |= {step.name: result.resource_id} if result.resource_id else {}
        ids |= result.finished
        context = replace(context, trunk_id=result.trunk_id or context.trunk_id)
        if result.previous_routing is not None:
            context = replace(context, previous_routing=NumberRouting(**result.previous_routing), is_number_fresh=True)
    return ids


def without_time(body: dict[str, Any]) -> dict[str, Any]:
    """Take the moment out of a LiveKit trunk's mark: the plan was made a little earlier."""
    if "trunk" in body and "metadata" in body["trunk"]:
        mark = json.loads(body["trunk"]["metadata"])
        del mark["createdAt"]
        return {"trunk": body["trunk"] | {"metadata": mark}}
    return body


def received(sandbox: Sandbox, ids: dict[str, str]) -> list[Shown]:
    """Return the sandbox's requests with the ids replaced as a plan shows them."""
    text = json.dumps(sandbox.requests())
    for step, resource_id in ids.items():
        text = text.replace(resource_id, f"{{{step}}}")
    text = text.replace(ACCOUNT_SID, "{account}").replace(str(NO_OPERATION), "{operation}")
    text = text.replace(pool_tag("contract", TRUNK_ID), "trunkline-pool/contract/{pool}")
    return [_shown(one) for one in json.loads(text)]


def _shown(request: dict[str, Any]) -> Shown:
    path, _, query = request["path"].partition("?")
    body = request["body"] or {}
    if request["provider"] == "livekit":
        # The sandbox shows a message with all of its fields; a plan shows those that are set.
        message = getattr(sip, f"{path.rpartition('/')[2]}Request")()
        body = MessageToDict(ParseDict(body, message), preserving_proto_field_name=True)
    return request["provider"], request["method"], path, without_time(dict(parse_qsl(query)) | body)


def check(context: StepContext, sandbox: Sandbox, *, standing: Collection[str] = ()) -> list[Call]:
    """Plan, provision, and compare; return the plan. `standing` are ids that were there before."""
    sandbox.number(E164)
    before = len(sandbox.requests())
    calls = planned(context, None)
    made = {step: one for step, one in provision(context).items() if one not in standing}

    seen = received(sandbox, made)[before:]
    expected = [(one.provider, one.method, one.path, without_time(one.body)) for one in calls]
    # Verification's reads go out side by side, in any order.
    reads = sum(one.step == VERIFICATION for one in calls)
    assert seen[:-reads] == expected[:-reads]
    assert sorted(seen[-reads:], key=str) == sorted(expected[-reads:], key=str)
    return calls


@pytest.mark.parametrize(("mode", "reads"), [(TrunkMode.DEDICATED, 4), (TrunkMode.SHARED, 3)])
def test_what_is_planned_is_what_the_providers_receive(
    context: StepContext, sandbox: Sandbox, mode: TrunkMode, reads: int
) -> None:
    calls = check(replace(context, trunk_mode=mode), sandbox)

    assert len(calls) == 6 + reads


OPTIONS = AgentOptions(
    dispatch_kind=DispatchKind.DIRECT,
    room_name="lobby",
    pin="4711",
    agents=(RuleAgent("recorder", '{"bucket": "b"}'),),
    empty_timeout_s=90,
    departure_timeout_s=9,
    max_participants=3,
    room_preset="studio",
    participant_metadata='{"team": "a"}',
    participant_attributes=(("queue", "sales"),),
    hide_phone_number=True,
    ringing_s=45,
    max_duration_s=1800,
    krisp=True,
    allowed_callers=("+13105550100",),
    headers_to_attributes=(("X-Team", "team"),),
    include_headers=HeaderSet.X,
    transfer=TransferMode.SIP_ONLY,
)


@pytest.mark.parametrize("mode", TrunkMode)
def test_a_plan_shows_the_options_as_the_providers_receive_them(
    context: StepContext, sandbox: Sandbox, mode: TrunkMode
) -> None:
    calls = check(replace(context, options=OPTIONS, trunk_mode=mode), sandbox)

    made = {one.path.rpartition("/")[2]: one.body for one in calls if one.method == "POST"}
    assert made["Trunks"]["TransferMode"] == "sip-only"
    trunk = made["CreateSIPInboundTrunk"]["trunk"]
    assert {name: trunk[name] for name in trunk.keys() - {"name", "metadata", "numbers", "allowed_addresses"}} == {
        "allowed_numbers": ["+13105550100"],
        "headers_to_attributes": {"X-Team": "team"},
        "include_headers": "SIP_X_HEADERS",
        "krisp_enabled": True,
        "max_call_duration": "1800s",
        "ringing_timeout": "45s",
    }
    rule = made["CreateSIPDispatchRule"]["dispatch_rule"]
    assert {name: rule[name] for name in rule.keys() - {"name", "trunk_ids"}} == {
        "rule": {"dispatch_rule_direct": {"room_name": "lobby", "pin": "4711"}},
        "attributes": {"queue": "sales"},
        "hide_phone_number": True,
        "metadata": '{"team": "a"}',
        "room_preset": "studio",
        "room_config": {
            "empty_timeout": 90,
            "departure_timeout": 9,
            "max_participants": 3,
            "agents": [
                {"agent_name": "front-desk", "metadata": '{"team": "support"}'},
                {"agent_name": "recorder", "metadata": '{"bucket": "b"}'},
            ],
        },
    }


@pytest.mark.parametrize(("is_checked", "reads"), [(True, 3), (False, 5)])
def test_on_a_standing_trunk_nothing_is_made_at_twilio(
    context: StepContext, sandbox: Sandbox, is_checked: bool, reads: int
) -> None:
    pool = MemoryPool()
    context = replace(context, tools=replace(context.tools, pool=pool))
    sandbox.number(OTHER)
    provision(replace(context, agent_id=uuid.uuid4(), phone_number=OTHER))
    pool.checked = is_checked

    calls = check(context, sandbox, standing=pool.place.ids.values())

    assert [(one.step, one.method) for one in calls[:-reads]] == [
        (NUMBER, "GET"),
        (INBOUND_TRUNK, "POST"),
        (DISPATCH_RULE, "POST"),
        (NUMBER_ATTACHMENT, "POST"),
    ]
    assert len(calls) == 4 + reads


def test_a_plan_sends_nothing_and_names_a_known_number_by_its_sid(context: StepContext, sandbox: Sandbox) -> None:
    number_sid = sandbox.number(E164)["sid"]
    calls = planned(context, number_sid)
    assert sandbox.requests() == []
    assert {"PhoneNumberSid": number_sid} in [one.body for one in calls]


def test_what_the_dry_run_holds_for_built_is_what_the_providers_then_have(
    context: StepContext, sandbox: Sandbox
) -> None:
    sandbox.number(E164, voiceUrl="https://flows.example.com/v1")
    before = context.tools.carrier.find_number(E164)
    ids = provision(context)
    spec = replace(context, ids=ids, trunk_id=TRUNK_ID).spec

    expected = as_built(spec, Observed(numbers={before.sid: before}))

    built = read_path(context.tools.carrier, context.tools.platform, spec)
    assert (built.numbers, built.rules) == (expected.numbers, expected.rules)
    # The time in the trunk's mark, those of Twilio's creation, and Twilio's own transfer mode are not for us to say.
    (made,) = built.inbound_trunks.values()
    (trunk,) = built.trunks.values()
    (url,) = built.urls[trunk.sid]
    mark = expected.inbound_trunks[made.id].metadata
    assert {made.id: replace(made, metadata=mark)} == expected.inbound_trunks
    assert {trunk.sid: replace(trunk, created_at=None, transfer_mode="")} == expected.trunks
    assert [replace(url, created_at=None)] == expected.urls[trunk.sid]
