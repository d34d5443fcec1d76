"""What the dry run says is what a provisioning then meets: each cause once, with the objects that are in the way."""

import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from app.domain.errors import ErrorCode
from app.domain.events import EventName, Origin
from app.domain.operations import NUMBER as NUMBER_STEP
from app.domain.operations import OperationStatus
from app.numbers.dry_run import Obstacle, Preview
from app.path.marks import tag_of
from app.views.reader import Reader
from tests.support.providers import FakePlatform, World
from tests.support.sandbox_app import FOREIGN_NUMBER, NUMBER, SandboxApp
from tests.support.toolboxes import tools_of, with_parts, with_tools

SPARE = "+15145550042"
FLOW = "https://flows.example.com/v1/Accounts/AC1/Flows/FW1?token=hidden"
INDIVIDUAL = {"dispatch_rule_individual": {"room_prefix": "theirs"}}


def _agent(live: SandboxApp, name: str = "back office") -> uuid.UUID:
    return live.wiring.agents.create(name, "back-office", {}).id


def _preview(live: SandboxApp, agent_id: uuid.UUID, number: str = SPARE, *, takeover: bool = False) -> Preview:
    before = len(live.sandbox.requests())
    preview = live.wiring.planning.preview(agent_id, number, takeover=takeover)
    assert len(live.sandbox.requests()) - before <= 4
    return preview


def _blocking(preview: Preview) -> list[ErrorCode]:
    assert preview.would_succeed is not any(one.blocks for one in preview.obstacles)
    return [one.code for one in preview.obstacles if one.blocks]


def _provision(live: SandboxApp, agent_id: uuid.UUID, number: str = SPARE, *, takeover: bool = False) -> str:
    """Provision for real; return the error code, or ""."""
    operation = live.wiring.provisioning.provision(agent_id, number, takeover=takeover, origin=Origin())
    live.drive()
    ended = live.wiring.provisioning.wait(operation.id, timedelta())
    assert ended.status in {OperationStatus.SUCCEEDED, OperationStatus.FAILED}
    return ended.error_code or ""


def _with_platform(live: SandboxApp) -> FakePlatform:
    """Put a LiveKit project of a test's own in the place of the sandbox's, which lets nobody make a contradiction."""
    platform = World.new().platform
    tools = replace(tools_of(live.wiring.runner), platform=platform)
    runner, planning = with_tools(live.wiring.runner, tools), with_tools(live.wiring.planning, tools)
    live.wiring = with_parts(live.wiring, runner=runner, planning=planning)
    return platform


def _trunk(live: SandboxApp, **fields: object) -> str:
    return str(live.console.livekit("CreateSIPInboundTrunk", trunk={"name": "theirs", **fields})["sip_trunk_id"])


def _rule(live: SandboxApp, **fields: object) -> str:
    rule = {"name": "theirs", "rule": INDIVIDUAL, **fields}
    return str(live.console.livekit("CreateSIPDispatchRule", dispatch_rule=rule)["sip_dispatch_rule_id"])


def test_a_voice_url_in_use_is_told_before_and_after_and_comes_back(live: SandboxApp) -> None:
    """Case P1: the callers of a Studio flow are diverted, which nothing refuses and everybody is told."""
    agent_id, reader = _agent(live), Reader(live.wiring.sessions, 500)
    live.sandbox.number(SPARE, voiceUrl=FLOW)
    detail = "Callers reach flows.example.com now: they would reach the agent instead (restored by deprovisioning)."
    preview = _preview(live, agent_id)
    assert preview.obstacles == [Obstacle(ErrorCode.NUMBER_ALREADY_ROUTED, detail, blocks=False)]
    assert preview.would_succeed

    assert _provision(live, agent_id) == ""

    phone = reader.phone(agent_id)
    assert phone.operation is not None
    said = ["Callers reached flows.example.com before: deprovisioning restores that."]
    assert [one.detail for one in phone.warnings] == [one.detail for one in phone.operation.warnings] == said
    (found,) = [
        event.detail
        for event in phone.operation.timeline
        if (event.event, event.step) == (EventName.STEP_DONE, NUMBER_STEP)
    ]
    assert found["voice_host"] == "flows.example.com"
    assert "hidden" not in str([event.detail for event in phone.operation.timeline])

    live.wiring.provisioning.deprovision(agent_id, origin=Origin())
    live.drive()
    assert reader.phone(agent_id).warnings == []
    (number,) = [one for one in live.sandbox.state()["numbers"] if one["phone_number"] == SPARE]
    assert (number["trunk_sid"], number["voice_url"]) == (None, FLOW)


@pytest.mark.parametrize("url", ["", "https://demo.twilio.com/welcome/voice/", "http://demo.twilio.com/docs/voice.xml"])
def test_nothing_is_told_of_a_number_that_is_free(live: SandboxApp, url: str) -> None:
    live.sandbox.number(SPARE, voiceUrl=url)
    agent_id = _agent(live)
    assert _preview(live, agent_id).obstacles == []
    assert _provision(live, agent_id) == ""
    assert Reader(live.wiring.sessions, 500).phone(agent_id).warnings == []


def test_a_url_that_a_trunk_hides_takes_no_calls(live: SandboxApp) -> None:
    theirs = next(one["sid"] for one in live.sandbox.state()["trunks"] if one["friendly_name"] == "theirs")
    live.sandbox.number(SPARE, voiceUrl=FLOW, trunkSid=theirs)
    (obstacle,) = _preview(live, _agent(live)).obstacles
    assert (obstacle.code, obstacle.blocks, theirs in obstacle.detail) == (ErrorCode.NUMBER_ALREADY_ROUTED, True, True)


def test_two_foreign_trunks_that_take_any_number_are_named_before_and_after(live: SandboxApp) -> None:
    """Case P2: nobody can be connected, although no trunk has the number."""
    platform, agent_id = _with_platform(live), _agent(live)
    live.sandbox.number(SPARE)
    one, other = platform.own_trunk(""), platform.own_trunk("")

    (obstacle,) = _preview(live, agent_id).obstacles

    assert (obstacle.code, obstacle.blocks) == (ErrorCode.LIVEKIT_NUMBER_CONFLICT, True)
    assert one in obstacle.detail
    assert other in obstacle.detail
    assert _provision(live, agent_id) == ErrorCode.LIVEKIT_NUMBER_CONFLICT
    error = Reader(live.wiring.sessions, 500).phone(agent_id).operation.error  # type: ignore[union-attr]
    assert error.detail.startswith(obstacle.detail)  # type: ignore[union-attr]


def test_one_foreign_trunk_that_takes_any_number_is_no_obstacle(live: SandboxApp) -> None:
    live.sandbox.number(SPARE)
    _trunk(live, allowed_addresses=["192.0.2.0/24"])
    agent_id = _agent(live)
    assert _preview(live, agent_id).obstacles == []
    assert _provision(live, agent_id) == ""


def test_a_foreign_trunk_with_the_number_is_one_obstacle(live: SandboxApp) -> None:
    """A foreign trunk with the number: LiveKit refuses ours, and would refuse every call besides."""
    live.sandbox.number(SPARE)
    trunk = _trunk(live, numbers=["1 (514) 555-0042"])
    _rule(live, trunk_ids=[trunk])
    agent_id = _agent(live)
    (obstacle,) = _preview(live, agent_id).obstacles
    assert (obstacle.code, trunk in obstacle.detail) == (ErrorCode.LIVEKIT_NUMBER_CONFLICT, True)
    assert _provision(live, agent_id) == ErrorCode.LIVEKIT_NUMBER_CONFLICT


def test_a_foreign_trunk_that_takes_some_callers_of_the_number_is_found_by_the_path(live: SandboxApp) -> None:
    """LiveKit takes ours beside it, and then refuses the calls that both match."""
    live.sandbox.number(SPARE)
    trunk = _trunk(live, numbers=[SPARE], allowed_numbers=["+15145550077"])
    agent_id = _agent(live)
    (obstacle,) = _preview(live, agent_id).obstacles
    assert (obstacle.code, obstacle.blocks) == (ErrorCode.PATH_NOT_VERIFIED, True)
    assert trunk in obstacle.detail
    assert _provision(live, agent_id) == ErrorCode.PATH_NOT_VERIFIED


def test_rules_that_contradict_each_other_anywhere_in_the_project_are_named(live: SandboxApp) -> None:
    live.sandbox.number(SPARE)
    one, other = _rule(live, trunk_ids=["ST_aaaaaaaaaaaa"]), _rule(live, trunk_ids=["ST_bbbbbbbbbbbb"])
    live.console.rule(other, trunk_ids=["ST_aaaaaaaaaaaa"])  # LiveKit compares a new list with what was there before
    agent_id = _agent(live)
    (obstacle,) = _preview(live, agent_id).obstacles
    assert (obstacle.code, obstacle.blocks) == (ErrorCode.LIVEKIT_RULE_CONFLICT, True)
    assert one in obstacle.detail
    assert other in obstacle.detail
    assert _provision(live, agent_id) == ErrorCode.LIVEKIT_RULE_CONFLICT


def test_a_rule_that_takes_what_no_other_takes_is_only_told(live: SandboxApp) -> None:
    live.sandbox.number(SPARE)
    rule = _rule(live)
    agent_id = _agent(live)
    (obstacle,) = _preview(live, agent_id).obstacles
    assert (obstacle.code, obstacle.blocks, rule in obstacle.detail) == (ErrorCode.LIVEKIT_RULE_CONFLICT, False, True)
    assert _provision(live, agent_id) == ""


@pytest.mark.parametrize("number", [{"voice": False}, {"voiceReceiveMode": "fax"}])
def test_a_number_that_takes_no_calls_is_one_obstacle(live: SandboxApp, number: dict[str, object]) -> None:
    live.sandbox.number(SPARE, **number)
    agent_id = _agent(live)
    assert [one.code for one in _preview(live, agent_id).obstacles] == [ErrorCode.NUMBER_NOT_VOICE]
    assert _provision(live, agent_id) == ErrorCode.NUMBER_NOT_VOICE


def test_two_causes_are_two_obstacles(live: SandboxApp) -> None:
    """A takeover moves the number from their trunk, and their LiveKit trunk is in the way all the same."""
    agent_id, trunk = _agent(live), live.foreign_trunk()
    without = _preview(live, agent_id, FOREIGN_NUMBER)
    assert _blocking(without) == [ErrorCode.NUMBER_ALREADY_ROUTED, ErrorCode.LIVEKIT_NUMBER_CONFLICT]
    taken = _preview(live, agent_id, FOREIGN_NUMBER, takeover=True)
    assert _blocking(taken) == [ErrorCode.LIVEKIT_NUMBER_CONFLICT]
    assert [trunk in one.detail for one in taken.obstacles] == [False, True]
    assert "it would be moved" in taken.obstacles[0].detail


def _as_it_is(_live: SandboxApp) -> None:
    pass


def _without_marks(live: SandboxApp) -> None:
    agent = live.agent
    live.console.twilio("POST", f"/v1/Trunks/{agent.twilio_trunk_sid}", FriendlyName="renamed")
    trunk_id = agent.livekit_inbound_trunk_id
    replaced = {"name": "renamed", "numbers": [NUMBER]}
    live.console.livekit("UpdateSIPInboundTrunk", sip_trunk_id=trunk_id, replace=replaced)
    live.console.rule(str(agent.livekit_dispatch_rule_id), name="renamed", trunk_ids=[trunk_id])


@pytest.mark.parametrize("takeover", [False, True])
@pytest.mark.parametrize("change", [_as_it_is, _without_marks])
def test_a_number_of_another_agent_is_one_obstacle(
    live: SandboxApp, change: Callable[[SandboxApp], None], *, takeover: bool
) -> None:
    """Case P9: trunk, LiveKit trunk and rule of the other agent are consequences, and takeover helps against none."""
    change(live)
    (obstacle,) = _preview(live, _agent(live), NUMBER, takeover=takeover).obstacles
    assert (obstacle.code, obstacle.blocks) == (ErrorCode.NUMBER_IN_USE, True)
    assert str(live.agent_id) in obstacle.detail
    assert "takeover" not in obstacle.detail


def test_the_number_that_an_agent_has_already_is_one_obstacle(live: SandboxApp) -> None:
    assert [one.code for one in _preview(live, live.agent_id, NUMBER).obstacles] == [ErrorCode.AGENT_HAS_PHONE]
    assert [one.code for one in _preview(live, live.agent_id, SPARE).obstacles] == [
        ErrorCode.AGENT_HAS_PHONE,
        ErrorCode.NUMBER_NOT_IN_ACCOUNT,
    ]


def test_a_number_that_is_being_connected_is_one_obstacle(live: SandboxApp) -> None:
    live.sandbox.number(SPARE)
    agent_id = _agent(live)
    operation = live.wiring.provisioning.provision(agent_id, SPARE, takeover=False, origin=Origin())
    (obstacle,) = _preview(live, agent_id).obstacles
    assert (obstacle.code, str(operation.id) in obstacle.detail) == (ErrorCode.OPERATION_IN_PROGRESS, True)
    (obstacle,) = _preview(live, _agent(live, "third")).obstacles
    assert (obstacle.code, str(agent_id) in obstacle.detail) == (ErrorCode.NUMBER_IN_USE, True)


def test_a_number_that_is_on_its_way_to_the_agent_is_one_obstacle(live: SandboxApp) -> None:
    agent_id = _agent(live)
    live.wiring.maintenance.move(live.agent_id, agent_id, origin=Origin())
    assert [one.code for one in _preview(live, agent_id, NUMBER).obstacles] == [ErrorCode.OPERATION_IN_PROGRESS]


def test_what_another_cause_stops_besides_is_told_too(live: SandboxApp) -> None:
    """Another agent has the number, and two strangers' rules contradict each other."""
    other = _rule(live, trunk_ids=["ST_bbbbbbbbbbbb"])
    _rule(live, trunk_ids=["ST_aaaaaaaaaaaa"])
    live.console.rule(other, trunk_ids=["ST_aaaaaaaaaaaa"])
    found = _preview(live, _agent(live), NUMBER)
    assert _blocking(found) == [ErrorCode.NUMBER_IN_USE, ErrorCode.LIVEKIT_RULE_CONFLICT]


def _left_behind(live: SandboxApp, agent_id: uuid.UUID) -> str:
    """Leave a LiveKit trunk of the agent's, as a request that landed late does; return its id."""
    mark = json.dumps({"managedBy": "trunkline", "instance": "stage", "agentId": str(agent_id)})
    return _trunk(live, numbers=[SPARE], metadata=mark)


def test_a_late_trunk_and_rule_of_the_agent_itself_are_adopted(live: SandboxApp) -> None:
    live.sandbox.number(SPARE)
    agent_id = _agent(live)
    trunk = _left_behind(live, agent_id)
    agents = {"agents": [{"agent_name": "back-office", "metadata": "{}"}]}
    _rule(live, name=tag_of("stage", agent_id), trunk_ids=[trunk], room_config=agents)
    assert _preview(live, agent_id).obstacles == []
    assert _provision(live, agent_id) == ""
    assert live.sandbox.call(SPARE)["agentName"] == "back-office"


def test_a_foreign_rule_that_would_take_the_calls_before_ours_is_named(live: SandboxApp) -> None:
    """LiveKit takes both, since one asks for a PIN, and then asks every caller for it."""
    live.sandbox.number(SPARE)
    agent_id = _agent(live)
    kind = {"dispatch_rule_individual": {"room_prefix": "theirs", "pin": "1234"}}
    rule = _rule(live, rule=kind, trunk_ids=[_left_behind(live, agent_id)])
    (obstacle,) = _preview(live, agent_id).obstacles
    assert (obstacle.code, obstacle.blocks) == (ErrorCode.PATH_NOT_VERIFIED, True)
    assert rule in obstacle.detail
    assert _provision(live, agent_id) == ErrorCode.PATH_NOT_VERIFIED
