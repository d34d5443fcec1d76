"""Moves of a number to another agent, interrupted repairs, and the dry run."""

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
from app.domain.operations import OperationStatus, PhoneStatus, TrunkMode
from app.path.marks import metadata_of, tag_of
from app.path.observed import NumberRouting
from tests.maintenance.console_edits import ConsoleEditor
from tests.support.saga import EXPIRE_LEASES
from tests.support.sandbox_app import FOREIGN_NUMBER, NUMBER, SandboxApp

SPARE = "+15145550042"

_NOW = timedelta()

UPDATES = (
    "twilio.update_trunk",
    "twilio.update_origination_url",
    "livekit.update_inbound_trunk",
    "livekit.update_dispatch_rule",
)

SHARED_KINDS = {"trunks", "originationUrls"}
MARKED = (*sorted(SHARED_KINDS), "livekitTrunks", "livekitRules")

ALL_UPDATES = [
    *((TrunkMode.DEDICATED, call) for call in UPDATES),
    # What numbers share carries no agent's mark.
    *((TrunkMode.SHARED, call) for call in UPDATES if call.startswith("livekit")),
]
"""What a move writes, by the trunk mode of the agent that gives its number away."""


ATTACHED_BY_A_SECOND_TRY = (
    "UPDATE operation_steps SET unsettled_until = now() - interval '1 s' WHERE name = 'twilio_number_attachment'"
)
"""As after a first attach request without an answer: only then is a shared trunk read at the end."""


def _second(live: SandboxApp) -> uuid.UUID:
    return live.wiring.agents.create("back office", "back-office", {}).id


@pytest.mark.parametrize("live", TrunkMode, indirect=True)
def test_a_moved_number_rings_the_other_agent_and_everything_carries_its_mark(live: SandboxApp) -> None:
    other = _second(live)
    operation = live.wiring.maintenance.move(live.agent_id, other, origin=Origin())
    live.drive()
    assert live.rings() == "back-office"
    assert live.wiring.provisioning.wait(operation.id, _NOW).status is OperationStatus.SUCCEEDED
    old, new = live.agent, live.wiring.agents.get(other)
    assert (old.phone_provisioning_status, old.twilio_phone_number, old.twilio_trunk_sid) == (
        "NOT_PROVISIONED",
        None,
        None,
    )
    assert (new.phone_provisioning_status, new.twilio_phone_number) == ("PROVISIONED", NUMBER)
    state = live.sandbox.state()
    assert str(live.agent_id) not in str(state)
    marked = {kind for kind in MARKED if str(other) in str(state[kind])}
    assert marked == set(MARKED) - (SHARED_KINDS if new.trunk_id else set())
    assert live.audit().findings == []
    live.wiring.provisioning.deprovision(other, origin=Origin())
    live.drive()
    number = next(one for one in live.sandbox.state()["numbers"] if one["phone_number"] == NUMBER)
    assert (number["trunk_sid"], number["voice_url"]) == (None, "https://example.com/voice")


@pytest.mark.sweep
@pytest.mark.parametrize("when", ["hold_before", "hold_after"])
@pytest.mark.parametrize(("live", "call"), ALL_UPDATES, indirect=["live"])
def test_calls_are_answered_at_every_moment_of_a_move(live: SandboxApp, call: str, when: str) -> None:
    fault = live.sandbox.fault(call, when)
    live.wiring.maintenance.move(live.agent_id, _second(live), origin=Origin())
    worker = threading.Thread(target=live.drive)
    worker.start()
    while not live.sandbox.held(fault):
        assert live.rings() in {"front-desk", "back-office"}
    assert live.rings() in {"front-desk", "back-office"}
    live.sandbox.release(fault)
    worker.join()
    assert live.rings() == "back-office"


@pytest.mark.sweep
@pytest.mark.parametrize(("live", "call"), ALL_UPDATES, indirect=["live"])
def test_a_move_that_a_provider_refuses_is_undone(live: SandboxApp, call: str) -> None:
    other = _second(live)
    code = "invalid_argument" if call.startswith("livekit") else 20001
    live.sandbox.fault(call, "reject", status=400, code=code, message="no")
    operation = live.wiring.maintenance.move(live.agent_id, other, origin=Origin())
    live.drive()
    assert live.wiring.provisioning.wait(operation.id, _NOW).status is OperationStatus.FAILED
    assert live.rings() == "front-desk"
    assert live.agent.phone_provisioning_status is PhoneStatus.PROVISIONED
    assert live.wiring.agents.get(other).phone_provisioning_status is PhoneStatus.NOT_PROVISIONED
    assert str(other) not in str(live.sandbox.state())
    assert live.audit().findings == []


@pytest.mark.sweep
@pytest.mark.parametrize("kind", ["delete_trunk", "delete_url", "delete_inbound_trunk", "delete_rule"])
@pytest.mark.parametrize("is_under_way", [False, True])
def test_a_move_of_a_path_that_somebody_deleted_from_goes_back_and_is_repaired(
    live: SandboxApp, kind: str, *, is_under_way: bool
) -> None:
    other, console_editor = _second(live), ConsoleEditor(live.wiring, live.sandbox, "")
    operation = live.wiring.maintenance.move(live.agent_id, other, origin=Origin())
    if is_under_way:
        plan = live.publisher.plans[0]
        for name in plan.steps[:-1]:
            live.wiring.runner.run_step(plan.operation_id, plan.epoch, name, plan.direction)
    console_editor.edit(kind, live.agent)
    live.drive()
    assert live.wiring.provisioning.wait(operation.id, _NOW).status is OperationStatus.FAILED
    assert live.wiring.agents.get(other).phone_provisioning_status is PhoneStatus.NOT_PROVISIONED
    live.wiring.sweeper.sweep()
    live.drive()
    assert live.rings() == "front-desk"
    assert str(other) not in str(live.sandbox.state())
    assert live.audit().findings == []


@pytest.mark.parametrize("is_released", [False, True])
def test_a_move_of_a_number_that_somebody_has_taken_meanwhile_ends_and_leaves_it_theirs(
    live: SandboxApp, *, is_released: bool
) -> None:
    path = f"/2010-04-01/Accounts/{ACCOUNT_SID}/IncomingPhoneNumbers/{live.agent.twilio_phone_number_sid}.json"
    operation = live.wiring.maintenance.move(live.agent_id, _second(live), origin=Origin())
    if is_released:
        live.console.twilio("DELETE", path)
    else:
        theirs = next(one["sid"] for one in live.sandbox.state()["trunks"] if one["friendly_name"] == "theirs")
        live.console.twilio("POST", path, TrunkSid=theirs)
    live.drive()
    assert live.wiring.provisioning.wait(operation.id, _NOW).status is OperationStatus.FAILED
    assert live.agent.phone_provisioning_status is PhoneStatus.PROVISIONED
    found = {finding["code"] for finding in live.audit().findings}
    assert found == {FindingCode.NUMBER_GONE if is_released else FindingCode.NUMBER_MOVED}
    live.wiring.provisioning.deprovision(live.agent_id, origin=Origin())
    live.drive()
    assert str(live.agent_id) not in str(live.sandbox.state())


def test_an_agent_that_waits_for_a_number_takes_no_other(live: SandboxApp) -> None:
    other = _second(live)
    live.wiring.maintenance.move(live.agent_id, other, origin=Origin())
    for refused in (
        lambda: live.wiring.provisioning.provision(other, FOREIGN_NUMBER, takeover=True, origin=Origin()),
        lambda: live.wiring.provisioning.deprovision(live.agent_id, origin=Origin()),
        lambda: live.wiring.maintenance.move(live.agent_id, other, origin=Origin()),
        lambda: live.wiring.agents.delete(other),
    ):
        with pytest.raises(RefusedError) as error:
            refused()
        assert error.value.code is ErrorCode.OPERATION_IN_PROGRESS


def test_a_repair_that_fails_leaves_the_rest_of_the_path_alone(live: SandboxApp) -> None:
    before = live.agent.livekit_inbound_trunk_id
    live.wiring.carrier.delete_origination_url(
        str(live.agent.twilio_trunk_sid), str(live.agent.twilio_origination_url_sid)
    )
    live.sandbox.fault("twilio.create_origination_url", "reject", status=400, code=20001, message="no")
    operation = live.wiring.maintenance.repair(live.agent_id, takeover=False, origin=Origin()).operation
    assert operation is not None
    live.drive()
    assert live.wiring.provisioning.wait(operation.id, _NOW).status is OperationStatus.FAILED
    assert live.agent.phone_provisioning_status is PhoneStatus.PROVISIONED
    assert live.agent.livekit_inbound_trunk_id == before
    assert live.audit(fix=True).findings != []
    assert live.rings() == "front-desk"


@pytest.mark.parametrize("when", ["hold_before", "hold_after"])
def test_deprovisioning_during_a_repair_leaves_nothing(live: SandboxApp, when: str) -> None:
    live.wiring.platform.delete_dispatch_rule(str(live.agent.livekit_dispatch_rule_id))
    live.wiring.maintenance.repair(live.agent_id, takeover=False, origin=Origin())
    fault = live.sandbox.fault("livekit.create_dispatch_rule", when)
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
    assert str(live.agent_id) not in str(live.sandbox.state())


@pytest.mark.parametrize("live", TrunkMode, indirect=True)
def test_an_attachment_that_landed_late_does_not_keep_the_trunk(live: SandboxApp) -> None:
    agent = live.agent
    with live.wiring.sessions.begin() as session:
        session.execute(text(ATTACHED_BY_A_SECOND_TRY))
    live.wiring.provisioning.deprovision(live.agent_id, origin=Origin())
    plan = live.publisher.plans[0]
    live.wiring.runner.run_step(plan.operation_id, plan.epoch, plan.steps[0], plan.direction)
    routing = NumberRouting(None, None, None)
    live.wiring.carrier.attach_number(str(agent.twilio_trunk_sid), str(agent.twilio_phone_number_sid), routing)
    live.drive()
    assert live.agent.phone_provisioning_status is PhoneStatus.NOT_PROVISIONED
    number = next(one for one in live.sandbox.state()["numbers"] if one["phone_number"] == NUMBER)
    assert (number["trunk_sid"], number["voice_url"]) == (None, "https://example.com/voice")


def _lose_the_answer_of_a_repair(live: SandboxApp, call: str, deed: str) -> None:
    """Delete a resource of ours, and lose the response to the call that creates it again."""
    agent = live.agent
    if deed == "trunk":
        live.wiring.carrier.delete_trunk(str(agent.twilio_trunk_sid))
    else:
        live.wiring.platform.delete_trunk(str(agent.livekit_inbound_trunk_id))
    live.sandbox.fault(call, "apply_then_drop")
    live.wiring.maintenance.repair(live.agent_id, takeover=False, origin=Origin())
    live.drive()


def _expire_leases(live: SandboxApp) -> None:
    with live.wiring.sessions.begin() as session:
        session.execute(text(EXPIRE_LEASES))
        session.execute(text("UPDATE operations SET wake_at = now() - interval '1 s' WHERE wake_at IS NOT NULL"))
    live.wiring.sweeper.sweep()
    live.drive()


LOST = pytest.mark.parametrize(
    ("call", "deed"), [("twilio.create_trunk", "trunk"), ("livekit.create_inbound_trunk", "inbound trunk")]
)


@LOST
@pytest.mark.parametrize("is_refused", [False, True])
def test_deprovisioning_searches_for_what_a_repair_may_have_created(
    live: SandboxApp, call: str, deed: str, *, is_refused: bool
) -> None:
    _lose_the_answer_of_a_repair(live, call, deed)
    assert str(live.agent_id) in str(live.sandbox.state())
    if is_refused:
        # The next try cannot search: the repair ends without knowing what it created.
        fault = live.sandbox.fault("*.list_*trunks", "reject", status=400, times=None)
        _expire_leases(live)
        live.sandbox.clear_faults()
        assert fault
    live.wiring.provisioning.deprovision(live.agent_id, origin=Origin())
    live.drive()
    _expire_leases(live)
    assert live.agent.phone_provisioning_status is PhoneStatus.NOT_PROVISIONED
    assert str(live.agent_id) not in str(live.sandbox.state())


def test_deprovisioning_searches_for_nothing_after_a_repair_with_known_outcomes(live: SandboxApp) -> None:
    live.wiring.carrier.delete_trunk(str(live.agent.twilio_trunk_sid))
    live.wiring.maintenance.repair(live.agent_id, takeover=False, origin=Origin())
    live.drive()
    seen = live.sandbox.requests()[-1]["seq"]
    live.wiring.provisioning.deprovision(live.agent_id, origin=Origin())
    live.drive()
    assert live.agent.phone_provisioning_status is PhoneStatus.NOT_PROVISIONED
    assert not [one for one in live.sandbox.requests(seen) if one["operation"] == "twilio.list_trunks"]


@pytest.mark.parametrize(("live", "used"), [(TrunkMode.DEDICATED, 1), (TrunkMode.SHARED, 2)], indirect=["live"])
def test_a_plan_names_the_calls_that_are_then_made_and_writes_nothing(live: SandboxApp, used: int) -> None:
    live.wiring.provisioning.deprovision(live.agent_id, origin=Origin())
    live.drive()
    before, rows = live.sandbox.state(), _rows(live)
    plan = live.wiring.planning.preview(live.agent_id, NUMBER, takeover=False)
    assert (live.sandbox.state(), _rows(live)) == (before, rows)
    assert (plan.would_succeed, [one.blocks for one in plan.obstacles], plan.trunks_used) == (True, [False], used)
    seen = live.sandbox.requests()[-1]["seq"]
    live.provision()
    agent = live.agent
    ids = {"twilio_trunk": agent.twilio_trunk_sid, "livekit_inbound_trunk": agent.livekit_inbound_trunk_id}
    made = [(one["provider"], one["method"], one["path"].partition("?")[0]) for one in live.sandbox.requests(seen)]
    planned = [(call.provider, call.method, call.path.format(account=ACCOUNT_SID, **ids)) for call in plan.calls]
    # Verification's reads go out side by side: in any order.
    reads = sum(call.step == "verification" for call in plan.calls)
    assert planned[:-reads] == made[:-reads]
    assert sorted(planned[-reads:]) == sorted(made[-reads:])


def test_a_plan_names_the_obstacles(live: SandboxApp) -> None:
    kind = {"dispatch_rule_individual": {"room_prefix": "all"}}
    live.console.livekit("CreateSIPDispatchRule", dispatch_rule={"name": "all", "rule": kind})
    plan = live.wiring.planning.preview(_second(live), FOREIGN_NUMBER, takeover=False)
    found = {obstacle.code: obstacle.blocks for obstacle in plan.obstacles}
    assert found == {
        ErrorCode.NUMBER_ALREADY_ROUTED: True,
        ErrorCode.LIVEKIT_NUMBER_CONFLICT: True,
        ErrorCode.LIVEKIT_RULE_CONFLICT: False,
    }
    assert not plan.would_succeed
    missing = live.wiring.planning.preview(_second(live), "+15145550000", takeover=True)
    assert ErrorCode.NUMBER_NOT_IN_ACCOUNT in {obstacle.code for obstacle in missing.obstacles}
    busy = live.wiring.planning.preview(live.agent_id, NUMBER, takeover=False)
    assert ErrorCode.AGENT_HAS_PHONE in {obstacle.code for obstacle in busy.obstacles}


def test_a_plan_says_how_many_trunks_there_is_room_for_and_when_there_is_none(live: SandboxApp) -> None:
    other = live.wiring.agents.create("own desk", "own-desk", {}, trunk_mode=TrunkMode.DEDICATED).id
    live.sandbox.number(SPARE)
    before = live.wiring.planning.preview(other, SPARE, takeover=False)
    assert (before.would_succeed, before.trunks_used, before.trunks_limit) == (True, 2, 100)
    for _ in range(98):
        live.console.twilio("POST", "/v1/Trunks", FriendlyName="theirs")
    full = live.wiring.planning.preview(other, SPARE, takeover=False)
    assert [(one.code, one.blocks) for one in full.obstacles] == [(ErrorCode.TWILIO_TRUNK_LIMIT, True)]
    assert (full.would_succeed, full.trunks_used) == (False, 100)
    shared = live.wiring.planning.preview(_second(live), SPARE, takeover=False)
    assert (shared.would_succeed, shared.trunks_used, shared.trunk.members) == (True, 100, 1)


def test_what_a_plan_allows_is_provisioned(live: SandboxApp) -> None:
    """A trunk left behind by the same agent is no obstacle, another agent's is."""
    other, third = _second(live), _second(live)
    live.sandbox.number(SPARE)
    mark = json.dumps({"managedBy": "trunkline", "instance": "stage", "agentId": str(other)})
    live.console.livekit("CreateSIPInboundTrunk", trunk={"name": "late", "numbers": [SPARE], "metadata": mark})
    blocked = live.wiring.planning.preview(third, SPARE, takeover=False)
    assert [one.code for one in blocked.obstacles] == [ErrorCode.LIVEKIT_NUMBER_CONFLICT]
    assert live.wiring.planning.preview(other, SPARE, takeover=False).would_succeed
    live.wiring.provisioning.provision(other, SPARE, takeover=False, origin=Origin())
    live.drive()
    assert live.sandbox.call(SPARE)["agentName"] == "back-office"


def _rule(live: SandboxApp) -> dict[str, Any]:
    (rule,) = (one for one in live.sandbox.state()["livekitRules"] if one["name"] != "theirs")
    return rule


def _as_of_earlier_release(live: SandboxApp, **changes: object) -> str:
    """Give the agent's rule the metadata of an earlier release, with our mark; return that mark."""
    mark = metadata_of("stage", live.agent_id, uuid.uuid4(), datetime.now(UTC))
    whole = {
        "name": tag_of("stage", live.agent_id),
        "metadata": mark,
        "trunk_ids": [live.agent.livekit_inbound_trunk_id],
        "room_config": {"agents": [{"agent_name": "front-desk", "metadata": json.dumps(live.agent.agent_metadata)}]},
    }
    live.console.rule(str(live.agent.livekit_dispatch_rule_id), **{**whole, **changes})
    return mark


def test_no_participant_of_the_room_sees_our_ids(live: SandboxApp) -> None:
    """LiveKit copies a rule's metadata to the caller, and its attributes."""
    rule = _rule(live)
    assert rule["name"] == tag_of("stage", live.agent_id)
    assert (rule.get("metadata", ""), rule.get("attributes", {})) == ("", {})
    assert str(live.agent_id) not in json.dumps(rule | {"name": ""})


def test_a_rule_of_an_earlier_release_is_in_sync_and_loses_its_mark_when_it_is_next_written(
    live: SandboxApp,
) -> None:
    mark = _as_of_earlier_release(live)
    assert live.audit(fix=True).findings == []
    assert live.agent.health_state is Health.IN_SYNC
    assert _rule(live)["metadata"] == mark
    live.wiring.maintenance.move(live.agent_id, _second(live), origin=Origin())
    live.drive()
    assert live.rings() == "back-office"
    assert _rule(live)["metadata"] == ""


@pytest.mark.parametrize("theirs", ["hello", '{"tier": "gold"}', "[" * 2000])
def test_the_metadata_that_a_user_gave_a_rule_outlives_a_repair_and_a_move(theirs: str, live: SandboxApp) -> None:
    _as_of_earlier_release(live, metadata=theirs, inbound_numbers=["+15005550001"])
    assert {one["code"] for one in live.audit(fix=True).findings} == {FindingCode.RULE_FILTERED}
    assert (live.rings(), _rule(live)["metadata"]) == ("front-desk", theirs)
    live.wiring.maintenance.move(live.agent_id, _second(live), origin=Origin())
    live.drive()
    assert (live.rings(), _rule(live)["metadata"]) == ("back-office", theirs)


def test_a_rule_of_an_earlier_release_goes_with_its_number(live: SandboxApp) -> None:
    _as_of_earlier_release(live, name="renamed")
    live.wiring.provisioning.deprovision(live.agent_id, origin=Origin())
    live.drive()
    assert [one["name"] for one in live.sandbox.state()["livekitRules"]] == ["theirs"]
    assert live.audit(fix=True).findings == []


def _rows(live: SandboxApp) -> list[object]:
    tables = ("agents", "operations", "operation_steps", "resources", "events", "audits")
    with live.wiring.sessions.begin() as session:
        return [session.execute(text(f"SELECT count(*), max(xmin::text::bigint) FROM {one}")).all() for one in tables]  # noqa: S608
