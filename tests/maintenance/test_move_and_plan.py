"""A number handed to another agent in place, a repair that is interrupted, and the plan that writes nothing."""

import json
import threading
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from app.dev.sandbox import ACCOUNT_SID
from app.domain.errors import ErrorCode, RefusedError
from app.domain.events import Origin
from app.domain.findings import FindingCode, Health
from app.domain.marks import metadata_of, tag_of
from app.domain.statuses import OperationStatus, PhoneStatus
from tests.maintenance.outsider import Outsider
from tests.support.saga import END_OF_RESTS
from tests.support.stage import FOREIGN_NUMBER, NUMBER, Stage

SPARE = "+15145550042"

_NOW = timedelta()

UPDATES = (
    "twilio.update_trunk",
    "twilio.update_origination_url",
    "livekit.update_inbound_trunk",
    "livekit.update_dispatch_rule",
)


def _second(stage: Stage) -> uuid.UUID:
    return stage.wiring.agents.create("back office", "back-office", {}).id


def test_a_moved_number_rings_the_other_agent_and_everything_carries_its_mark(stage: Stage) -> None:
    other = _second(stage)
    operation = stage.wiring.maintenance.move(stage.agent_id, other, origin=Origin())
    stage.drive()
    assert stage.rings() == "back-office"
    assert stage.wiring.provisioning.wait(operation.id, _NOW).status is OperationStatus.SUCCEEDED
    old, new = stage.agent, stage.wiring.agents.get(other)
    assert (old.phone_provisioning_status, old.twilio_phone_number, old.twilio_trunk_sid) == (
        "NOT_PROVISIONED",
        None,
        None,
    )
    assert (new.phone_provisioning_status, new.twilio_phone_number) == ("PROVISIONED", NUMBER)
    state = stage.sandbox.state()
    assert str(stage.agent_id) not in str(state)
    assert [
        str(state[kind]).count(str(other)) > 0
        for kind in ("trunks", "originationUrls", "livekitTrunks", "livekitRules")
    ]
    assert stage.audit().findings == []
    stage.wiring.provisioning.deprovision(other, origin=Origin())
    stage.drive()
    number = next(one for one in stage.sandbox.state()["numbers"] if one["phone_number"] == NUMBER)
    assert (number["trunk_sid"], number["voice_url"]) == (None, "https://example.com/voice")


@pytest.mark.parametrize("when", ["hold_before", "hold_after"])
@pytest.mark.parametrize("call", UPDATES)
def test_at_no_moment_of_a_move_does_a_caller_reach_nobody(stage: Stage, call: str, when: str) -> None:
    fault = stage.sandbox.fault(call, when)
    stage.wiring.maintenance.move(stage.agent_id, _second(stage), origin=Origin())
    worker = threading.Thread(target=stage.drive)
    worker.start()
    while not stage.sandbox.held(fault):
        assert stage.rings() in {"front-desk", "back-office"}
    assert stage.rings() in {"front-desk", "back-office"}
    stage.sandbox.release(fault)
    worker.join()
    assert stage.rings() == "back-office"


@pytest.mark.parametrize("call", UPDATES)
def test_a_move_that_is_refused_hands_the_number_back(stage: Stage, call: str) -> None:
    other = _second(stage)
    code = "invalid_argument" if call.startswith("livekit") else 20001
    stage.sandbox.fault(call, "reject", status=400, code=code, message="no")
    operation = stage.wiring.maintenance.move(stage.agent_id, other, origin=Origin())
    stage.drive()
    assert stage.wiring.provisioning.wait(operation.id, _NOW).status is OperationStatus.FAILED
    assert stage.rings() == "front-desk"
    assert stage.agent.phone_provisioning_status is PhoneStatus.PROVISIONED
    assert stage.wiring.agents.get(other).phone_provisioning_status is PhoneStatus.NOT_PROVISIONED
    assert str(other) not in str(stage.sandbox.state())
    assert stage.audit().findings == []


@pytest.mark.parametrize("kind", ["delete_trunk", "delete_url", "delete_inbound_trunk", "delete_rule"])
@pytest.mark.parametrize("is_under_way", [False, True])
def test_a_move_of_a_path_that_somebody_deleted_from_goes_back_and_is_repaired(
    stage: Stage, kind: str, *, is_under_way: bool
) -> None:
    other, outsider = _second(stage), Outsider(stage.wiring, stage.sandbox, "")
    operation = stage.wiring.maintenance.move(stage.agent_id, other, origin=Origin())
    if is_under_way:
        plan = stage.publisher.plans[0]
        for name in plan.steps[:-1]:
            stage.wiring.runner.run_step(plan.operation_id, plan.epoch, name, plan.direction)
    outsider.edit(kind, stage.agent)
    stage.drive()
    assert stage.wiring.provisioning.wait(operation.id, _NOW).status is OperationStatus.FAILED
    assert stage.wiring.agents.get(other).phone_provisioning_status is PhoneStatus.NOT_PROVISIONED
    stage.wiring.sweeper.sweep()
    stage.drive()
    assert stage.rings() == "front-desk"
    assert str(other) not in str(stage.sandbox.state())
    assert stage.audit().findings == []


@pytest.mark.parametrize("is_released", [False, True])
def test_a_move_of_a_number_that_somebody_has_taken_meanwhile_ends_and_leaves_it_theirs(
    stage: Stage, *, is_released: bool
) -> None:
    path = f"/2010-04-01/Accounts/{ACCOUNT_SID}/IncomingPhoneNumbers/{stage.agent.twilio_phone_number_sid}.json"
    operation = stage.wiring.maintenance.move(stage.agent_id, _second(stage), origin=Origin())
    if is_released:
        stage.console.twilio("DELETE", path)
    else:
        theirs = next(one["sid"] for one in stage.sandbox.state()["trunks"] if one["friendly_name"] == "theirs")
        stage.console.twilio("POST", path, TrunkSid=theirs)
    stage.drive()
    assert stage.wiring.provisioning.wait(operation.id, _NOW).status is OperationStatus.FAILED
    assert stage.agent.phone_provisioning_status is PhoneStatus.PROVISIONED
    found = {finding["code"] for finding in stage.audit().findings}
    assert found == {FindingCode.NUMBER_GONE if is_released else FindingCode.NUMBER_MOVED}
    stage.wiring.provisioning.deprovision(stage.agent_id, origin=Origin())
    stage.drive()
    assert str(stage.agent_id) not in str(stage.sandbox.state())


def test_an_agent_that_waits_for_a_number_takes_no_other(stage: Stage) -> None:
    other = _second(stage)
    stage.wiring.maintenance.move(stage.agent_id, other, origin=Origin())
    for refused in (
        lambda: stage.wiring.provisioning.provision(other, FOREIGN_NUMBER, takeover=True, origin=Origin()),
        lambda: stage.wiring.provisioning.deprovision(stage.agent_id, origin=Origin()),
        lambda: stage.wiring.maintenance.move(stage.agent_id, other, origin=Origin()),
        lambda: stage.wiring.agents.delete(other),
    ):
        with pytest.raises(RefusedError) as error:
            refused()
        assert error.value.code is ErrorCode.OPERATION_IN_PROGRESS


def test_a_repair_that_fails_leaves_the_rest_of_the_path_alone(stage: Stage) -> None:
    before = stage.agent.livekit_inbound_trunk_id
    stage.wiring.carrier.delete_origination_url(
        str(stage.agent.twilio_trunk_sid), str(stage.agent.twilio_origination_url_sid)
    )
    stage.sandbox.fault("twilio.create_origination_url", "reject", status=400, code=20001, message="no")
    operation = stage.wiring.maintenance.repair(stage.agent_id, takeover=False, origin=Origin())
    assert operation is not None
    stage.drive()
    assert stage.wiring.provisioning.wait(operation.id, _NOW).status is OperationStatus.FAILED
    assert stage.agent.phone_provisioning_status is PhoneStatus.PROVISIONED
    assert stage.agent.livekit_inbound_trunk_id == before
    assert stage.audit(fix=True).findings != []
    assert stage.rings() == "front-desk"


@pytest.mark.parametrize("when", ["hold_before", "hold_after"])
def test_deprovisioning_during_a_repair_leaves_nothing(stage: Stage, when: str) -> None:
    stage.wiring.platform.delete_dispatch_rule(str(stage.agent.livekit_dispatch_rule_id))
    stage.wiring.maintenance.repair(stage.agent_id, takeover=False, origin=Origin())
    fault = stage.sandbox.fault("livekit.create_dispatch_rule", when)
    worker = threading.Thread(target=stage.drive)
    worker.start()
    while not stage.sandbox.held(fault):
        pass
    operation = stage.wiring.provisioning.deprovision(stage.agent_id, origin=Origin())
    assert operation is not None
    stage.sandbox.release(fault)
    worker.join()
    with stage.wiring.sessions.begin() as session:
        session.execute(text(END_OF_RESTS))
    stage.wiring.provisioning.republish(operation.id)
    stage.drive()
    assert stage.agent.phone_provisioning_status is PhoneStatus.NOT_PROVISIONED
    assert str(stage.agent_id) not in str(stage.sandbox.state())


def test_an_attachment_that_landed_late_does_not_keep_the_trunk(stage: Stage) -> None:
    agent = stage.agent
    stage.wiring.provisioning.deprovision(stage.agent_id, origin=Origin())
    plan = stage.publisher.plans[0]
    stage.wiring.runner.run_step(plan.operation_id, plan.epoch, plan.steps[0], plan.direction)
    stage.wiring.carrier.attach_number(str(agent.twilio_trunk_sid), str(agent.twilio_phone_number_sid))  # landed_late
    stage.drive()
    assert stage.agent.phone_provisioning_status is PhoneStatus.NOT_PROVISIONED
    number = next(one for one in stage.sandbox.state()["numbers"] if one["phone_number"] == NUMBER)
    assert (number["trunk_sid"], number["voice_url"]) == (None, "https://example.com/voice")


def _lose_the_answer_of_a_repair(stage: Stage, call: str, deed: str) -> None:
    """Delete something of ours, and lose the answer to the call that makes it anew."""
    agent = stage.agent
    if deed == "trunk":
        stage.wiring.carrier.delete_trunk(str(agent.twilio_trunk_sid))
    else:
        stage.wiring.platform.delete_trunk(str(agent.livekit_inbound_trunk_id))
    stage.sandbox.fault(call, "apply_then_drop")
    stage.wiring.maintenance.repair(stage.agent_id, takeover=False, origin=Origin())
    stage.drive()


def _end_rests(stage: Stage) -> None:
    with stage.wiring.sessions.begin() as session:
        session.execute(text(END_OF_RESTS))
        session.execute(text("UPDATE operations SET wake_at = now() - interval '1 s' WHERE wake_at IS NOT NULL"))
    stage.wiring.sweeper.sweep()
    stage.drive()


LOST = pytest.mark.parametrize(
    ("call", "deed"), [("twilio.create_trunk", "trunk"), ("livekit.create_inbound_trunk", "inbound trunk")]
)


@LOST
@pytest.mark.parametrize("is_refused", [False, True])
def test_what_a_repair_may_have_made_is_looked_for_when_the_path_is_taken_down(
    stage: Stage, call: str, deed: str, *, is_refused: bool
) -> None:
    _lose_the_answer_of_a_repair(stage, call, deed)
    assert str(stage.agent_id) in str(stage.sandbox.state())
    if is_refused:
        # The next try cannot look: the repair ends without knowing what it has made.
        fault = stage.sandbox.fault("*.list_*trunks", "reject", status=400, times=None)
        _end_rests(stage)
        stage.sandbox.clear_faults()
        assert fault
    stage.wiring.provisioning.deprovision(stage.agent_id, origin=Origin())
    stage.drive()
    _end_rests(stage)
    assert stage.agent.phone_provisioning_status is PhoneStatus.NOT_PROVISIONED
    assert str(stage.agent_id) not in str(stage.sandbox.state())


def test_after_a_repair_that_knew_what_it_did_nothing_is_looked_for(stage: Stage) -> None:
    stage.wiring.carrier.delete_trunk(str(stage.agent.twilio_trunk_sid))
    stage.wiring.maintenance.repair(stage.agent_id, takeover=False, origin=Origin())
    stage.drive()
    seen = stage.sandbox.requests()[-1]["seq"]
    stage.wiring.provisioning.deprovision(stage.agent_id, origin=Origin())
    stage.drive()
    assert stage.agent.phone_provisioning_status is PhoneStatus.NOT_PROVISIONED
    assert not [one for one in stage.sandbox.requests(seen) if one["operation"] == "twilio.list_trunks"]


def test_a_plan_names_the_calls_that_are_then_made_and_writes_nothing(stage: Stage) -> None:
    stage.wiring.provisioning.deprovision(stage.agent_id, origin=Origin())
    stage.drive()
    before, rows = stage.sandbox.state(), _rows(stage)
    plan = stage.wiring.planning.preview(stage.agent_id, NUMBER, takeover=False)
    assert (stage.sandbox.state(), _rows(stage)) == (before, rows)
    assert (plan.would_succeed, plan.obstacles, plan.trunks_used) == (True, [], 1)
    seen = stage.sandbox.requests()[-1]["seq"]
    stage.provision()
    agent = stage.agent
    ids = {"twilio_trunk": agent.twilio_trunk_sid, "livekit_inbound_trunk": agent.livekit_inbound_trunk_id}
    made = [(one["provider"], one["method"], one["path"].partition("?")[0]) for one in stage.sandbox.requests(seen)]
    planned = [(call.provider, call.method, call.path.format(account=ACCOUNT_SID, **ids)) for call in plan.calls]
    # Verification's reads go out side by side: in any order.
    reads = sum(call.step == "verification" for call in plan.calls)
    assert planned[:-reads] == made[:-reads]
    assert sorted(planned[-reads:]) == sorted(made[-reads:])


def test_a_plan_names_what_is_in_the_way(stage: Stage) -> None:
    kind = {"dispatch_rule_individual": {"room_prefix": "all"}}
    stage.console.livekit("CreateSIPDispatchRule", dispatch_rule={"name": "all", "rule": kind})
    plan = stage.wiring.planning.preview(_second(stage), FOREIGN_NUMBER, takeover=False)
    found = {obstacle.code: obstacle.blocks for obstacle in plan.obstacles}
    assert found == {
        ErrorCode.NUMBER_ALREADY_ROUTED: True,
        ErrorCode.LIVEKIT_NUMBER_CONFLICT: True,
        ErrorCode.LIVEKIT_RULE_CONFLICT: False,
    }
    assert not plan.would_succeed
    missing = stage.wiring.planning.preview(_second(stage), "+15145550000", takeover=True)
    assert ErrorCode.NUMBER_NOT_IN_ACCOUNT in {obstacle.code for obstacle in missing.obstacles}
    busy = stage.wiring.planning.preview(stage.agent_id, NUMBER, takeover=False)
    assert ErrorCode.AGENT_HAS_PHONE in {obstacle.code for obstacle in busy.obstacles}


def test_a_plan_says_how_many_trunks_there_is_room_for_and_when_there_is_none(stage: Stage) -> None:
    other = _second(stage)
    stage.sandbox.number(SPARE)
    before = stage.wiring.planning.preview(other, SPARE, takeover=False)
    assert (before.would_succeed, before.trunks_used, before.trunks_limit) == (True, 2, 100)
    for _ in range(98):
        stage.console.twilio("POST", "/v1/Trunks", FriendlyName="theirs")
    full = stage.wiring.planning.preview(other, SPARE, takeover=False)
    assert [(one.code, one.blocks) for one in full.obstacles] == [(ErrorCode.TWILIO_TRUNK_LIMIT, True)]
    assert (full.would_succeed, full.trunks_used) == (False, 100)


def test_what_a_plan_lets_pass_is_provisioned(stage: Stage) -> None:
    """A trunk that this very agent left behind is no obstacle, another agent's is one."""
    other, third = _second(stage), _second(stage)
    stage.sandbox.number(SPARE)
    mark = json.dumps({"managedBy": "trunkline", "instance": "stage", "agentId": str(other)})
    stage.console.livekit("CreateSIPInboundTrunk", trunk={"name": "late", "numbers": [SPARE], "metadata": mark})
    blocked = stage.wiring.planning.preview(third, SPARE, takeover=False)
    assert [one.code for one in blocked.obstacles] == [ErrorCode.LIVEKIT_NUMBER_CONFLICT]
    assert stage.wiring.planning.preview(other, SPARE, takeover=False).would_succeed
    stage.wiring.provisioning.provision(other, SPARE, takeover=False, origin=Origin())
    stage.drive()
    assert stage.sandbox.call(SPARE)["agentName"] == "back-office"


def _rule(stage: Stage) -> dict[str, Any]:
    (rule,) = (one for one in stage.sandbox.state()["livekitRules"] if one["name"] != "theirs")
    return rule


def _as_made_before(stage: Stage, **changes: object) -> str:
    """Make the agent's rule one of an earlier release, with our mark in its metadata; return that mark."""
    mark = metadata_of("stage", stage.agent_id, uuid.uuid4(), datetime.now(UTC))
    whole = {
        "name": tag_of("stage", stage.agent_id),
        "metadata": mark,
        "trunk_ids": [stage.agent.livekit_inbound_trunk_id],
        "room_config": {"agents": [{"agent_name": "front-desk"}]},
    }
    stage.console.rule(str(stage.agent.livekit_dispatch_rule_id), **{**whole, **changes})
    return mark


def test_nobody_in_the_room_reads_our_ids(stage: Stage) -> None:
    """LiveKit copies a rule's metadata to the caller, and its attributes."""
    rule = _rule(stage)
    assert rule["name"] == tag_of("stage", stage.agent_id)
    assert (rule.get("metadata", ""), rule.get("attributes", {})) == ("", {})
    assert str(stage.agent_id) not in json.dumps(rule | {"name": ""})


def test_a_rule_of_an_earlier_release_is_in_sync_and_loses_its_mark_when_it_is_next_written(stage: Stage) -> None:
    mark = _as_made_before(stage)
    assert stage.audit(fix=True).findings == []
    assert stage.agent.health_state is Health.IN_SYNC
    assert _rule(stage)["metadata"] == mark
    stage.wiring.maintenance.move(stage.agent_id, _second(stage), origin=Origin())
    stage.drive()
    assert stage.rings() == "back-office"
    assert _rule(stage)["metadata"] == ""


@pytest.mark.parametrize("theirs", ["hello", '{"tier": "gold"}', "[" * 2000])
def test_the_metadata_that_a_user_gave_a_rule_outlives_a_repair_and_a_move(theirs: str, stage: Stage) -> None:
    _as_made_before(stage, metadata=theirs, inbound_numbers=["+15005550001"])
    assert {one["code"] for one in stage.audit(fix=True).findings} == {FindingCode.RULE_FILTERED}
    assert (stage.rings(), _rule(stage)["metadata"]) == ("front-desk", theirs)
    stage.wiring.maintenance.move(stage.agent_id, _second(stage), origin=Origin())
    stage.drive()
    assert (stage.rings(), _rule(stage)["metadata"]) == ("back-office", theirs)


def test_a_rule_of_an_earlier_release_goes_with_its_number(stage: Stage) -> None:
    _as_made_before(stage, name="renamed")
    stage.wiring.provisioning.deprovision(stage.agent_id, origin=Origin())
    stage.drive()
    assert [one["name"] for one in stage.sandbox.state()["livekitRules"]] == ["theirs"]
    assert stage.audit(fix=True).findings == []


def _rows(stage: Stage) -> list[object]:
    tables = ("agents", "operations", "operation_steps", "resources", "events", "audits")
    with stage.wiring.sessions.begin() as session:
        return [session.execute(text(f"SELECT count(*), max(xmin::text::bigint) FROM {one}")).all() for one in tables]  # noqa: S608
