"""What an agent's options say of its path: made by a provisioning, met by calls, put back by repairs, left by a move.

The whole application against the sandbox; what a call meets is the sandbox's own opinion.
"""

from collections.abc import Callable
from typing import Any

import pytest
from livekit.protocol import sip

from app.dev.sandbox.call import trace_call
from app.domain.events import Origin
from app.domain.findings import FindingCode, Severity
from app.domain.operations import DISPATCH_RULE, INBOUND_TRUNK, TRUNK, PhoneStatus
from app.domain.options import (
    NO_OPTIONS,
    OPTIONS,
    AgentOptions,
    DispatchKind,
    HeaderSet,
    RuleAgent,
    TransferMode,
)
from app.wiring import Wiring
from tests.support.changed_path import AGENT, CALLER, OTHER_CALLER, PRESET, ChangedPath, OwnSandbox, new_agent

EVERYTHING = AgentOptions(
    dispatch_kind=DispatchKind.CALLEE,
    room_prefix="line",
    randomize=True,
    pin="4711",
    agents=(RuleAgent("recorder", '{"bucket": "b"}'),),
    empty_timeout_s=90,
    departure_timeout_s=9,
    max_participants=3,
    room_preset=PRESET,
    participant_metadata='{"team": "a"}',
    participant_attributes=(("queue", "sales"),),
    hide_phone_number=True,
    ringing_s=45,
    max_duration_s=1800,
    krisp=True,
    allowed_callers=(CALLER,),
    headers_to_attributes=(("X-Team", "team"),),
    include_headers=HeaderSet.X,
    transfer=TransferMode.SIP_ONLY,
)
"""Every option that stands at a provider, but for the room name of a kind that leaves no choice of others."""


def provisioned(changing: tuple[OwnSandbox, Wiring], options: AgentOptions) -> ChangedPath:
    path = new_agent(*changing)
    path.agent_id = path.wiring.agents.create("front desk", AGENT, {"tone": "kind"}, options=options).id
    path.wiring.provisioning.provision(path.agent_id, path.number, takeover=False, origin=Origin())
    path.drive()
    assert path.agent.phone_provisioning_status is PhoneStatus.PROVISIONED
    return path


@pytest.fixture
def path(changing: tuple[OwnSandbox, Wiring]) -> ChangedPath:
    return provisioned(changing, EVERYTHING)


def call(path: ChangedPath, caller: str = CALLER, pin: str | None = "4711") -> dict[str, Any]:
    inside = path.sandbox.inside
    with inside.store.lock:
        return trace_call(inside, path.number, caller, pin=pin)


def transfer_mode(path: ChangedPath) -> str:
    return str(path.sandbox.inside.store.trunks.rows[path.ours(TRUNK)]["transfer_mode"])


def ours(path: ChangedPath) -> tuple[bytes, bytes, str]:
    return path.inbound().SerializeToString(), path.rule().SerializeToString(), transfer_mode(path)


def test_a_call_meets_everything_that_the_options_say(path: ChangedPath) -> None:
    assert {one.field for one in OPTIONS if getattr(EVERYTHING, one.field) is None} == {
        "room_name",
        "monitor_every_minutes",
    }
    met = call(path)
    assert met["reaches"], met
    room = met["call"].pop("room")
    assert room.startswith(f"line_{path.number}_")
    assert met["call"] == {
        "jobs": [
            {"agent": AGENT, "metadata": '{"tone": "kind"}'},
            {"agent": "recorder", "metadata": '{"bucket": "b"}'},
        ],
        "preset": PRESET,
        "emptyTimeoutS": 90,
        "departureTimeoutS": 9,
        "maxParticipants": 3,
        "participantMetadata": '{"team": "a"}',
        "participantAttributes": {"queue": "sales"},
        "hidesPhoneNumber": True,
        "krisp": True,
        "ringsS": None,
        "lastsS": 1800,
        "headersToAttributes": {"X-Team": "team"},
        "includeHeaders": sip.SIP_X_HEADERS,
    }
    assert transfer_mode(path) == "sip-only"
    assert path.findings() == []


def test_who_is_left_out_and_who_dials_another_pin_gets_nowhere_and_that_is_no_finding(path: ChangedPath) -> None:
    assert not call(path, OTHER_CALLER)["reaches"]
    assert not call(path, pin=None)["reaches"]
    assert not call(path, pin="4712")["reaches"]
    assert path.findings() == []
    assert path.audit().findings == []


def test_all_callers_share_the_one_room_of_kind_direct(changing: tuple[OwnSandbox, Wiring]) -> None:
    options = AgentOptions(dispatch_kind=DispatchKind.DIRECT, room_name="lobby", ringing_s=20)
    path = provisioned(changing, options)
    assert {call(path, caller, None)["call"]["room"] for caller in (CALLER, OTHER_CALLER)} == {"lobby"}
    assert call(path, pin=None)["call"]["ringsS"] == 20
    assert path.findings() == []


def _kind(rule: sip.SIPDispatchRuleInfo) -> None:
    rule.rule.dispatch_rule_individual.room_prefix = "line"
    rule.rule.dispatch_rule_individual.pin = "4711"


def _agents(rule: sip.SIPDispatchRuleInfo) -> None:
    del rule.room_config.agents[1:]


def _attributes(rule: sip.SIPDispatchRuleInfo) -> None:
    rule.attributes["queue"] = "support"


def _headers(trunk: sip.SIPInboundTrunkInfo) -> None:
    trunk.headers_to_attributes.clear()


Change = tuple[str, Callable[[Any], object], bool]
CHANGES: dict[str, Change] = {
    "dispatch.kind": (DISPATCH_RULE, _kind, False),
    "dispatch.roomPrefix": (
        DISPATCH_RULE,
        lambda rule: setattr(rule.rule.dispatch_rule_callee, "room_prefix", ""),
        False,
    ),
    "dispatch.randomize": (
        DISPATCH_RULE,
        lambda rule: setattr(rule.rule.dispatch_rule_callee, "randomize", False),
        False,
    ),
    "dispatch.pin": (DISPATCH_RULE, lambda rule: setattr(rule.rule.dispatch_rule_callee, "pin", ""), False),
    "dispatch.pin, another": (DISPATCH_RULE, lambda rule: setattr(rule.rule.dispatch_rule_callee, "pin", "1"), True),
    "agents": (DISPATCH_RULE, _agents, False),
    "room.emptyTimeoutS": (DISPATCH_RULE, lambda rule: setattr(rule.room_config, "empty_timeout", 0), False),
    "room.departureTimeoutS": (DISPATCH_RULE, lambda rule: setattr(rule.room_config, "departure_timeout", 60), False),
    "room.maxParticipants": (DISPATCH_RULE, lambda rule: setattr(rule.room_config, "max_participants", 1), False),
    "room.preset": (DISPATCH_RULE, lambda rule: setattr(rule, "room_preset", ""), False),
    "participant.metadata": (DISPATCH_RULE, lambda rule: setattr(rule, "metadata", ""), False),
    "participant.attributes": (DISPATCH_RULE, _attributes, False),
    "participant.hidePhoneNumber": (DISPATCH_RULE, lambda rule: setattr(rule, "hide_phone_number", False), False),
    "call.ringingS": (INBOUND_TRUNK, lambda trunk: setattr(trunk.ringing_timeout, "seconds", 9), False),
    "call.maxDurationS": (INBOUND_TRUNK, lambda trunk: setattr(trunk.max_call_duration, "seconds", 60), False),
    "call.maxDurationS, too short": (
        INBOUND_TRUNK,
        lambda trunk: setattr(trunk.max_call_duration, "seconds", 3),
        True,
    ),
    "call.krisp": (INBOUND_TRUNK, lambda trunk: setattr(trunk, "krisp_enabled", False), False),
    "call.allowedCallers": (INBOUND_TRUNK, lambda trunk: trunk.allowed_numbers.append(OTHER_CALLER), False),
    "call.allowedCallers, another": (
        INBOUND_TRUNK,
        lambda trunk: trunk.allowed_numbers.__setitem__(0, OTHER_CALLER),
        True,
    ),
    "call.headersToAttributes": (INBOUND_TRUNK, _headers, False),
    "call.includeHeaders": (INBOUND_TRUNK, lambda trunk: setattr(trunk, "include_headers", sip.SIP_NO_HEADERS), False),
}
"""An option, what somebody does to it by hand, and whether calls fail then."""


def test_every_option_at_livekit_is_changed_here() -> None:
    changed = {name.partition(",")[0] for name in CHANGES}
    assert changed == {".".join(one.path) for one in OPTIONS if one.step in {INBOUND_TRUNK, DISPATCH_RULE}} - {
        "dispatch.roomName"
    }


@pytest.mark.sweep
@pytest.mark.parametrize("name", CHANGES)
def test_an_option_that_somebody_changes_is_said_and_put_back_by_a_repair(path: ChangedPath, name: str) -> None:
    step, change, is_broken = CHANGES[name]
    before = ours(path)
    (path.change_inbound if step == INBOUND_TRUNK else path.change_rule)(change)
    assert ours(path) != before
    findings = path.findings()
    assert findings
    assert {finding.severity for finding in findings} <= {Severity.WARNING, Severity.CRITICAL}
    assert any(finding.severity is Severity.CRITICAL for finding in findings) is is_broken
    assert call(path)["reaches"] is not is_broken
    if not is_broken:
        assert [f"Option {name}" in finding.detail for finding in findings] == [True]
    assert all("4711" not in finding.detail for finding in findings)
    assert path.wiring.maintenance.repair(path.agent_id, takeover=False, origin=Origin()).operation
    path.drive()
    assert ours(path) == before
    assert path.findings() == []


def test_an_audit_with_repairs_puts_all_of_it_back(path: ChangedPath) -> None:
    before = ours(path)
    for name, (step, change, _) in CHANGES.items():
        if name != "dispatch.kind":
            (path.change_inbound if step == INBOUND_TRUNK else path.change_rule)(change)
    path.change_trunk(TransferMode="enable-all")
    found = {finding["code"] for finding in path.audit(fix=True).findings}
    assert found >= {FindingCode.TRUNK_CHANGED, FindingCode.RULE_PIN}
    path.drive()
    assert ours(path) == before
    assert path.audit().findings == []


def test_what_is_gone_is_made_again_with_its_options(path: ChangedPath) -> None:
    before = call(path)["call"]
    path.console.livekit("DeleteSIPDispatchRule", sip_dispatch_rule_id=path.ours(DISPATCH_RULE))
    path.console.livekit("DeleteSIPTrunk", sip_trunk_id=path.ours(INBOUND_TRUNK))
    assert path.wiring.maintenance.repair(path.agent_id, takeover=False, origin=Origin()).operation
    path.drive()
    assert path.findings() == []
    after = call(path)["call"]
    assert {**after, "room": ""} == {**before, "room": ""}


@pytest.mark.parametrize("options", [NO_OPTIONS, AgentOptions(ringing_s=60, transfer=TransferMode.ENABLED)])
def test_a_move_leaves_the_options_of_the_former_agent_behind(path: ChangedPath, options: AgentOptions) -> None:
    path.change_inbound(lambda trunk: trunk.headers.__setitem__("X-Kept", "yes"))
    other = path.wiring.agents.create("night desk", AGENT, {"tone": "kind"}, options=options).id
    path.wiring.maintenance.move(path.agent_id, other, origin=Origin())
    path.drive()
    path.agent_id = other
    assert path.agent.phone_provisioning_status is PhoneStatus.PROVISIONED
    met = call(path, OTHER_CALLER, None)
    assert met["reaches"], met
    assert met["call"]["room"].startswith(f"call_{OTHER_CALLER}_")
    assert {name: value for name, value in met["call"].items() if name != "room"} == {
        "jobs": [{"agent": AGENT, "metadata": '{"tone": "kind"}'}],
        "preset": "",
        "emptyTimeoutS": 0,
        "departureTimeoutS": 0,
        "maxParticipants": 0,
        "participantMetadata": "",
        "participantAttributes": {},
        "hidesPhoneNumber": False,
        "krisp": False,
        "ringsS": options.ringing_s or 30,
        "lastsS": 24 * 3600,
        "headersToAttributes": {},
        "includeHeaders": sip.SIP_NO_HEADERS,
    }
    assert transfer_mode(path) == (options.transfer or TransferMode.DISABLED).value
    assert dict(path.inbound().headers) == {"X-Kept": "yes"}
    assert path.findings() == []
