"""Options of agents at the sandbox: set at creation, changed while the path stands, kept by all that touches it."""

import threading
import uuid
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from app.domain.errors import ErrorCode
from app.domain.events import Origin
from app.domain.findings import Health
from app.domain.operations import OperationStatus, PhoneStatus, TrunkMode
from app.domain.options import OPTIONS, options_of
from app.numbers.changing import Changed, patched_by
from app.views.agent_schemas import AgentPatchIn
from app.views.option_schemas import read_options
from tests.support.saga import EXPIRE_LEASES
from tests.support.sandbox_app import NUMBER, SandboxApp

SECOND = "+15145550042"
CALLER = "+15145550100"

Objects = dict[str, Any]
"""Our LiveKit rule and trunk and our Twilio trunk, in one: their fields do not meet but for krisp_enabled, metadata."""


def _kind(there: Objects) -> str:
    return next(iter(there["rule"]["rule"])).removeprefix("dispatch_rule_")


def _rule(name: str) -> Callable[[Objects], Any]:
    return lambda there: there["rule"][name]


def _of_kind(name: str) -> Callable[[Objects], Any]:
    return lambda there: next(iter(there["rule"]["rule"].values())).get(name)


def _room(name: str) -> Callable[[Objects], Any]:
    return lambda there: there["rule"]["room_config"][name]


def _trunk(name: str) -> Callable[[Objects], Any]:
    return lambda there: there["trunk"].get(name)


def _krisp(there: Objects) -> bool:
    return bool(there["trunk"]["krisp_enabled"] or there["rule"]["krisp_enabled"])


def _others(there: Objects) -> list[tuple[str, str]]:
    agents = there["rule"]["room_config"]["agents"]
    return [(one["agent_name"], one["metadata"]) for one in agents if one["agent_name"] != "front-desk"]


CASES: Mapping[str, tuple[Callable[[Objects], Any], tuple[Any, Any], tuple[Any, Any, Any]]] = {
    "dispatch.kind": (_kind, ("callee", "individual"), ("callee", "individual", "individual")),
    "dispatch.roomPrefix": (_of_kind("room_prefix"), ("day", "night"), ("day", "night", "call")),
    "dispatch.roomName": (_of_kind("room_name"), ("day", "night"), ("day", "night", None)),
    "dispatch.randomize": (_of_kind("no_randomness"), (False, True), (True, False, False)),
    "dispatch.pin": (_of_kind("pin"), ("1", "22"), ("1", "22", "")),
    "agents": (
        _others,
        ([{"name": "recorder", "metadata": {"a": 1}}], [{"name": "coach"}]),
        ([("recorder", '{"a": 1}')], [("coach", "{}")], []),
    ),
    "room.emptyTimeoutS": (_room("empty_timeout"), (60, 90), (60, 90, 0)),
    "room.departureTimeoutS": (_room("departure_timeout"), (60, 90), (60, 90, 0)),
    "room.maxParticipants": (_room("max_participants"), (3, 4), (3, 4, 0)),
    "room.preset": (_rule("room_preset"), ("day", "night"), ("day", "night", "")),
    "participant.metadata": (_rule("metadata"), ("day", "night"), ("day", "night", "")),
    "participant.attributes": (_rule("attributes"), ({"a": "1"}, {"b": "2"}), ({"a": "1"}, {"a": "1", "b": "2"}, {})),
    "participant.hidePhoneNumber": (_rule("hide_phone_number"), (True, False), (True, False, False)),
    "call.ringingS": (_trunk("ringing_timeout"), (20, 40), ("20s", "40s", "30s")),
    "call.maxDurationS": (_trunk("max_call_duration"), (600, 900), ("600s", "900s", None)),
    "call.krisp": (_krisp, (True, False), (True, False, False)),
    "call.allowedCallers": (_trunk("allowed_numbers"), ([CALLER], [CALLER, NUMBER]), ([CALLER], [CALLER, NUMBER], [])),
    "call.headersToAttributes": (
        _trunk("headers_to_attributes"),
        ({"X-A": "a"}, {"X-A": None, "X-B": "b"}),
        ({"X-A": "a"}, {"X-B": "b"}, {}),
    ),
    "call.includeHeaders": (
        _trunk("include_headers"),
        ("x", "all"),
        ("SIP_X_HEADERS", "SIP_ALL_HEADERS", "SIP_NO_HEADERS"),
    ),
    "transfer": (
        lambda there: there["carrier"]["transfer_mode"],
        ("sip-only", "enable-all"),
        ("sip-only", "enable-all", "disable-all"),
    ),
}
"""Option -> how it is seen at the provider; its value at creation and in the change; what is seen then, and without it.
"""

NEEDS = {"dispatch.roomName": {"kind": "direct"}}


def test_every_option_that_stands_at_a_provider_has_a_case() -> None:
    assert list(CASES) == [".".join(option.path) for option in OPTIONS if option.step]


def given(path: str, value: Any) -> dict[str, Any]:
    group, _, name = path.partition(".")
    needed = dict.fromkeys(NEEDS[path]) if value is None and path in NEEDS else NEEDS.get(path, {})
    return {group: {name: value, **needed} if name else value}


def objects(live: SandboxApp, agent_id: uuid.UUID) -> Objects:
    agent, state = live.wiring.agents.get(agent_id), live.sandbox.state()
    ids = {
        "rule": ("livekitRules", "sip_dispatch_rule_id", agent.livekit_dispatch_rule_id),
        "trunk": ("livekitTrunks", "sip_trunk_id", agent.livekit_inbound_trunk_id),
        "carrier": ("trunks", "sid", agent.twilio_trunk_sid),
    }
    return {name: next(one for one in state[kind] if one[key] == found) for name, (kind, key, found) in ids.items()}


def change(live: SandboxApp, agent_id: uuid.UUID, patch: dict[str, Any]) -> Changed:
    return live.wiring.changes.change(agent_id, patched_by(AgentPatchIn().load(patch)), origin=Origin())


def update(live: SandboxApp, agent_id: uuid.UUID, patch: dict[str, Any]) -> OperationStatus:
    """Change the agent, and run the operation to its end."""
    operation = change(live, agent_id, patch).operation
    assert operation is not None
    live.drive()
    return live.wiring.provisioning.wait(operation.id, timedelta()).status


def new_agent(live: SandboxApp, options: dict[str, Any]) -> uuid.UUID:
    return live.wiring.agents.create("back office", "front-desk", {}, options=read_options(options)).id


@pytest.mark.sweep
@pytest.mark.parametrize("path", CASES)
def test_an_option_is_set_changed_kept_and_taken_back(live: SandboxApp, path: str) -> None:
    seen, (first, second), (at_first, then, without) = CASES[path]
    agent_id = new_agent(live, given(path, first))
    live.sandbox.number(SECOND)
    live.wiring.provisioning.provision(agent_id, SECOND, takeover=False, origin=Origin())
    live.drive()
    assert seen(objects(live, agent_id)) == at_first

    assert update(live, agent_id, {"options": given(path, second)}) is OperationStatus.SUCCEEDED
    assert seen(objects(live, agent_id)) == then

    # An audit finds nothing, a repair has nothing to do, and a change of something else leaves it alone.
    assert live.audit(fix=True).findings == []
    assert live.wiring.maintenance.repair(agent_id, takeover=False, origin=Origin()).operation is None
    assert update(live, agent_id, {"metadata": {"other": 1}}) is OperationStatus.SUCCEEDED
    assert seen(objects(live, agent_id)) == then
    # A move brings the number to what the other agent has, which is the same.
    options = live.wiring.agents.get(agent_id).options
    other = new_agent(live, options)
    live.wiring.maintenance.move(agent_id, other, origin=Origin())
    live.drive()
    assert live.wiring.agents.get(other).phone_provisioning_status is PhoneStatus.PROVISIONED
    assert seen(objects(live, other)) == then

    assert update(live, other, {"options": given(path, None)}) is OperationStatus.SUCCEEDED
    assert seen(objects(live, other)) == without
    assert options_of(live.wiring.agents.get(other).options) == options_of({})
    assert live.wiring.maintenance.verify(other).health is Health.IN_SYNC
    assert live.sandbox.call(SECOND, caller=CALLER)["reaches"]


EVERYTHING = {
    "livekitAgentName": "night",
    "metadata": {"tone": None, "shift": "night"},
    "options": {"dispatch": {"kind": "callee"}, "call": {"ringingS": 20}, "transfer": "sip-only"},
}

UPDATES = [
    (TrunkMode.SHARED, "livekit.update_inbound_trunk"),
    (TrunkMode.SHARED, "livekit.update_dispatch_rule"),
    (TrunkMode.SHARED, "twilio.create_trunk"),
    (TrunkMode.SHARED, "twilio.update_number"),
    (TrunkMode.SHARED, "livekit.list_dispatch_rules"),
    (TrunkMode.DEDICATED, "twilio.update_trunk"),
    (TrunkMode.DEDICATED, "livekit.update_dispatch_rule"),
    (TrunkMode.DEDICATED, "livekit.list_dispatch_rules"),
]
"""What an update of all of this calls, the last look among them."""


@pytest.mark.sweep
@pytest.mark.parametrize(("live", "call"), UPDATES, indirect=["live"])
def test_an_update_that_a_provider_refuses_leaves_all_as_it_was(live: SandboxApp, call: str) -> None:
    # By hand, where no option says it: it comes back too.
    rule_id = live.agent.livekit_dispatch_rule_id or ""
    live.console.livekit("UpdateSIPDispatchRule", sip_dispatch_rule_id=rule_id, update={"attributes": {"theirs": "1"}})
    trunk_id = live.agent.livekit_inbound_trunk_id
    live.console.livekit("UpdateSIPInboundTrunk", sip_trunk_id=trunk_id, update={"ringing_timeout": "77s"})
    before, row = objects(live, live.agent_id), live.agent
    operation = change(live, live.agent_id, EVERYTHING).operation
    assert operation is not None
    code = "invalid_argument" if call.startswith("livekit") else 20001
    live.sandbox.fault(call, "reject", status=400, code=code, message="no")

    live.drive()

    ended = live.wiring.provisioning.wait(operation.id, timedelta())
    assert (ended.status, ended.error_code) == (OperationStatus.FAILED, f"{call.partition('.')[0]}_rejected")
    now = live.agent
    for name in ("livekit_agent_name", "agent_metadata", "options", "version", "trunk_id", "phone_provisioning_status"):
        assert getattr(now, name) == getattr(row, name), name
    after = objects(live, live.agent_id)
    for there in (before, after):
        there["carrier"].pop("date_updated")
    assert after == before
    assert live.rings() == "front-desk"
    assert live.audit().findings == []
    live.sandbox.clear_faults()
    assert update(live, live.agent_id, EVERYTHING) is OperationStatus.SUCCEEDED
    assert live.rings() == "night"


@pytest.mark.sweep
@pytest.mark.parametrize("when", ["hold_before", "hold_after"])
@pytest.mark.parametrize(("live", "call"), [one for one in UPDATES if "list" not in one[1]], indirect=["live"])
def test_calls_are_answered_at_every_moment_of_an_update(live: SandboxApp, call: str, when: str) -> None:
    fault = live.sandbox.fault(call, when)
    change(live, live.agent_id, EVERYTHING)
    worker = threading.Thread(target=live.drive)
    worker.start()
    while not live.sandbox.held(fault):
        assert live.rings() in {"front-desk", "night"}
    assert live.rings() in {"front-desk", "night"}
    live.sandbox.release(fault)
    worker.join()
    assert live.rings() == "night"


@pytest.mark.parametrize("gone", ["DeleteSIPDispatchRule", "DeleteSIPTrunk"])
def test_an_update_of_what_somebody_deleted_fails_and_the_path_is_repaired(live: SandboxApp, gone: str) -> None:
    operation = change(live, live.agent_id, EVERYTHING).operation
    assert operation is not None
    if gone == "DeleteSIPDispatchRule":
        live.console.livekit(gone, sip_dispatch_rule_id=live.agent.livekit_dispatch_rule_id)
    else:
        live.console.livekit(gone, sip_trunk_id=live.agent.livekit_inbound_trunk_id)

    live.drive()
    live.wiring.sweeper.sweep()
    live.drive()

    ended = live.wiring.provisioning.wait(operation.id, timedelta())
    assert (ended.status, ended.error_code) == (OperationStatus.FAILED, ErrorCode.PATH_NOT_VERIFIED)
    assert (live.rings(), live.agent.version, live.agent.livekit_agent_name) == ("front-desk", 1, "front-desk")
    assert live.audit().findings == []


@pytest.mark.parametrize("live", TrunkMode, indirect=True)
@pytest.mark.parametrize("call", ["livekit.update_inbound_trunk", "livekit.update_dispatch_rule"])
def test_a_deprovisioning_during_an_update_leaves_nothing(live: SandboxApp, call: str) -> None:
    fault = live.sandbox.fault(call, "hold_before")
    change(live, live.agent_id, EVERYTHING)
    worker = threading.Thread(target=live.drive)
    worker.start()
    while not live.sandbox.held(fault):
        pass
    operation = live.wiring.provisioning.deprovision(live.agent_id, origin=Origin())
    assert operation is not None
    live.sandbox.release(fault)
    worker.join()
    with live.wiring.sessions.begin() as session:
        session.execute(text(EXPIRE_LEASES))
    live.wiring.provisioning.republish(operation.id)
    live.drive()

    assert live.agent.phone_provisioning_status is PhoneStatus.NOT_PROVISIONED
    state = live.sandbox.state()
    assert str(live.agent_id) not in str(state)
    number = next(one for one in state["numbers"] if one["phone_number"] == NUMBER)
    assert (number["trunk_sid"], number["voice_url"]) == (None, "https://example.com/voice")
    assert (live.agent.options, live.agent.version) == ({}, 1)


def test_a_wrong_livekit_agent_name_is_put_right_in_one_change(live: SandboxApp) -> None:
    live.sandbox.number(SECOND)
    agent_id = live.wiring.agents.create("night line", "nigth-line", {}).id
    live.wiring.provisioning.provision(agent_id, SECOND, takeover=False, origin=Origin())
    live.drive()
    assert live.sandbox.call(SECOND)["agentName"] == "nigth-line"

    live.sandbox.forget_requests()
    assert update(live, agent_id, {"livekitAgentName": "night-line"}) is OperationStatus.SUCCEEDED

    assert live.sandbox.call(SECOND)["agentName"] == "night-line"
    # A read and a write of the rule, and the last look at the whole path.
    calls = [one["operation"] for one in live.sandbox.requests()]
    assert [one for one in calls if "update" in one or "create" in one] == ["livekit.update_dispatch_rule"]
